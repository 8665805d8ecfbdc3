//! Findings about the interface alone.

use crate::operator::diagnosis::Diagnosis;
use crate::operator::text;

use crate::operator::check::interface::{InterfaceReport, MIN_MTU};
use crate::operator::check::ports::BusyPort;

/// The subject of these findings.
const INTERFACE: &str = "interface";

/// Returns the findings about an interface, the state first.
pub(super) fn findings(interface: &InterfaceReport) -> Vec<Diagnosis> {
    let mut findings = vec![state(interface)];
    findings.extend(notes_on_interface(interface));
    findings
}

/// Judges whether DHCP messages can be sent.
fn state(interface: &InterfaceReport) -> Diagnosis {
    let name = &interface.name;
    let enter = interface
        .namespace
        .as_ref()
        .map_or_else(String::new, |path| {
            format!("nsenter --net={} ", text::quoted(path))
        });
    let command = text::quoted(name);
    if interface.station.is_none() {
        return Diagnosis::problem(
            INTERFACE,
            format!("{name} has no Ethernet address, and DHCP needs one"),
            "name the interface that leads to the network of the DHCP server",
        );
    }
    if !interface.up {
        return Diagnosis::problem(
            INTERFACE,
            format!("{name} is down"),
            format!("{enter}ip link set {command} up"),
        );
    }
    if interface.mtu < u32::from(MIN_MTU) {
        return Diagnosis::problem(
            INTERFACE,
            format!(
                "the MTU of {name} is {}, less than the {MIN_MTU} bytes that DHCP needs",
                interface.mtu
            ),
            format!("{enter}ip link set {command} mtu 1500"),
        );
    }
    if !interface.carrier {
        return Diagnosis::problem(
            INTERFACE,
            format!("no carrier on {name}"),
            "cable, or parent down: ip link",
        );
    }
    Diagnosis::good(INTERFACE, format!("{name} is up and has a carrier"))
}

fn notes_on_interface(interface: &InterfaceReport) -> Vec<Diagnosis> {
    let name = &interface.name;
    let mut findings = Vec::new();
    let mut note = |text: String, advice: &str| {
        findings.push(Diagnosis::note(INTERFACE, text).with_advice(advice));
    };
    if interface.namespace.is_none() {
        note(
            format!("{name} is of this host, whose DHCP client is not disturbed"),
            "a container has a MAC of its own; --netns checks what it reaches",
        );
    }
    if let Some(master) = &interface.port_of {
        note(
            format!("{name} is a port of {master}"),
            "containers are on that interface: check it, too",
        );
    }
    if let Some(wireless) = &interface.wireless {
        note(
            format!(
                "{wireless} is Wi-Fi: an access point drops frames of other MACs than the \
                 station's, so that macvlan gets no answer"
            ),
            "ipvlan, with --broadcast of the daemon",
        );
    }
    if interface.is_kind("ipvlan") {
        note(
            "on ipvlan all containers have one MAC, and hear no unicast before they have an address"
                .to_owned(),
            "--broadcast of the daemon, and its default --client-id",
        );
    }
    if interface.port_starting {
        note(
            "a bridge port listens and learns (spanning tree): nothing passes for up to 30 s"
                .to_owned(),
            "wait, or --timeout 45; the daemon waits, too",
        );
    }
    for unread in &interface.unread {
        note(
            format!("not read, or not to the end: {unread}"),
            "some findings may be missing",
        );
    }
    findings.extend(
        interface
            .busy_ports
            .iter()
            .map(|busy| busy_port(interface, busy)),
    );
    findings
}

fn busy_port(interface: &InterfaceReport, busy: &BusyPort) -> Diagnosis {
    let holders = if busy.processes.is_empty() {
        "a process that cannot be seen from here".to_owned()
    } else {
        busy.processes.join(", ")
    };
    let is_own = interface.namespace.is_none();
    let (role, advice) = match (busy.port, is_own) {
        (67, true) => (
            "a DHCP server of this host",
            Some("a macvlan does not reach its own host; a bridge does"),
        ),
        (67, false) => ("a DHCP server in this namespace", None),
        (_, true) => ("the DHCP client of this host", None),
        (_, false) => (
            "a DHCP client in this namespace",
            Some("one of the two is enough: stop it, or use a network without dhcp"),
        ),
    };
    let finding = Diagnosis::note(
        INTERFACE,
        format!("{holders} has UDP port {}: {role}", busy.port),
    );
    match advice {
        Some(advice) => finding.with_advice(advice),
        None => finding,
    }
}
