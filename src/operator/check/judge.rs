//! Findings about an interface and the servers that it reaches: arithmetic on reports.

use std::time::Duration;

use crate::operator::diagnosis::Diagnosis;
use crate::operator::text;

use super::interface::{BusyPort, InterfaceReport};
use super::report::{
    BROADCAST, FULL, LIKE_NETAVARK, OfferReport, SearchReport, ServerReport, UNICAST,
};

/// The least MTU that is set (RFC 791 §3.1).
const MIN_MTU: u16 = 576;

/// The subjects of findings.
const INTERFACE: &str = "interface";
const NETWORK: &str = "network";
const SERVER: &str = "server";

/// Returns the findings, and whether a server offers an address without a problem.
pub(super) fn findings(
    interface: &InterfaceReport,
    search: Option<&SearchReport>,
) -> (Vec<Diagnosis>, bool) {
    let mut findings = vec![state(interface)];
    findings.extend(notes_on_interface(interface));
    let mut healthy = false;
    if let Some(search) = search {
        findings.extend(network(interface, search));
        let is_disturbed = findings.iter().any(Diagnosis::is_problem);
        for server in &search.servers {
            let of_server = judge_server(interface, search, server);
            healthy |= !is_disturbed && !of_server.iter().any(Diagnosis::is_problem);
            findings.extend(of_server);
        }
    }
    (findings, healthy)
}

fn state(interface: &InterfaceReport) -> Diagnosis {
    let name = &interface.name;
    let enter = interface
        .namespace
        .as_ref()
        .map_or_else(String::new, |path| {
            format!("nsenter --net={} ", text::printable(path))
        });
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
            format!("{enter}ip link set {name} up"),
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

fn network(interface: &InterfaceReport, search: &SearchReport) -> Vec<Diagnosis> {
    let name = &interface.name;
    let mut findings = Vec::new();
    if search.flooded {
        findings.push(Diagnosis::problem(
            NETWORK,
            format!(
                "a flood of replies: the search ended after {}, and more servers may be there",
                took(search)
            ),
            format!("find its station: tcpdump -e -i {name} port 68 or arp"),
        ));
    }
    if let Some(station) = &search.fragments_from {
        let text = format!(
            "{station} answers in fragments ({} were seen), which are not read",
            search.fragments
        );
        let advice = "fewer or shorter options on the server, or one MTU everywhere";
        findings.push(if search.servers.is_empty() {
            Diagnosis::problem(NETWORK, text, advice)
        } else {
            Diagnosis::note(NETWORK, text).with_advice(advice)
        });
    }
    if search.malformed > 0 {
        findings.push(Diagnosis::note(
            NETWORK,
            format!("{} replies are malformed", search.malformed),
        ));
    }
    if search.servers.is_empty() && interface.carrier {
        let discovers = search.discovers;
        let plural = if discovers == 1 { "" } else { "s" };
        findings.push(Diagnosis::problem(
            NETWORK,
            format!(
                "no DHCPOFFER within {} ({discovers} DISCOVER{plural} sent on {name})",
                took(search)
            ),
            format!(
                "wrong parent or VLAN, Wi-Fi, or spanning tree: tcpdump -i {name} port 67; \
                 --timeout 45"
            ),
        ));
    }
    findings.extend(several_servers(&search.servers));
    findings.extend(search.proxy_arp.iter().map(|by| proxy_arp(search, by)));
    findings
}

fn took(search: &SearchReport) -> String {
    text::short_length(Duration::from_millis(search.milliseconds))
}

fn several_servers(servers: &[ServerReport]) -> Option<Diagnosis> {
    let [first, second, ..] = servers else {
        return None;
    };
    let all: Vec<_> = servers
        .iter()
        .map(|server| format!("{} ({})", server.server, server.mac))
        .collect();
    let text = format!(
        "{} DHCP servers: {}; the daemon takes the first offer",
        servers.len(),
        all.join(", ")
    );
    let advice = if first.server == second.server {
        "one server, or one that poses as it"
    } else {
        "--server and --deny-server of the daemon choose"
    };
    Some(Diagnosis::note(NETWORK, text).with_advice(advice))
}

fn proxy_arp(search: &SearchReport, station: &str) -> Diagnosis {
    let random = search.random_address;
    let random = random.map_or_else(String::new, |address| format!(", and for {address}"));
    Diagnosis::note(
        NETWORK,
        format!(
            "{station} answers ARP for every address (proxy ARP): for what is offered{random}, \
             chosen at random"
        ),
    )
    .with_advice("the daemon finds out by itself; --arp-probe 0 never asks")
}

fn judge_server(
    interface: &InterfaceReport,
    search: &SearchReport,
    server: &ServerReport,
) -> Vec<Diagnosis> {
    let id = server.server;
    let mut findings = Vec::new();
    match (&server.offer, &server.in_use_by) {
        (None, _) => findings.push(Diagnosis::problem(
            SERVER,
            format!(
                "{} from {id} without an address that a host can have",
                if server.replies == 1 {
                    "an OFFER"
                } else {
                    "OFFERs"
                }
            ),
            "the server's log, and its pool",
        )),
        (Some(offer), Some(station)) => findings.push(Diagnosis::problem(
            SERVER,
            format!(
                "offer of {} from {id}, but {station} uses that address",
                offer.address
            ),
            "another station, or a gateway with proxy ARP: change the pool; --arp-probe 0 of the \
             daemon",
        )),
        (Some(offer), None) => findings.push(Diagnosis::good(
            SERVER,
            format!(
                "{id} offers {}/{} after {}",
                offer.address,
                offer.prefix_length,
                text::short_length(Duration::from_micros(server.microseconds))
            ),
        )),
    }
    findings.extend(judge_replies(interface, search, server));
    if let Some(offer) = &server.offer {
        findings.extend(judge_offer(interface, server, offer));
    }
    findings
}

/// Judges the way in which a server answers.
fn judge_replies(
    interface: &InterfaceReport,
    search: &SearchReport,
    server: &ServerReport,
) -> Vec<Diagnosis> {
    let id = server.server;
    let mut findings = Vec::new();
    if server.acks > 0 {
        findings.push(Diagnosis::problem(
            SERVER,
            format!("{id} has answered a DISCOVER with a DHCPACK, which nothing requested"),
            "it may take the address for leased until the end of that lease",
        ));
    }
    let has_answered_full = server.has_answered(FULL);
    if !has_answered_full && server.has_answered(BROADCAST) && search.full > 1 {
        findings.push(Diagnosis::problem(
            SERVER,
            format!("{id} answers only a DISCOVER with the broadcast flag, or its unicast is lost"),
            "--broadcast of the daemon",
        ));
    }
    if !has_answered_full && !server.has_answered(BROADCAST) && search.full > 1 {
        let left_out = if server.has_answered(LIKE_NETAVARK) {
            "options that netavark's proxy does not send"
        } else {
            "a client identifier; it identifies clients by MAC"
        };
        findings.push(Diagnosis::note(
            SERVER,
            format!("{id} answers only a DISCOVER without {left_out}; the daemon finds out"),
        ));
    }
    if server.flagged_delivery == Some(UNICAST) && interface.is_kind("ipvlan") {
        findings.push(Diagnosis::note(
            SERVER,
            format!("{id} ignores the broadcast flag, and ipvlan may not hear it"),
        ));
    }
    if server.wrong_checksums > 0 {
        findings.push(
            Diagnosis::note(
                SERVER,
                format!(
                    "{} of {} replies of {id} have a wrong UDP checksum; one that comes three \
                     times is read",
                    server.wrong_checksums, server.replies
                ),
            )
            .with_advice("a network card or a bridge miscounts: ethtool -K INTERFACE tx off"),
        );
    }
    if !server.has_identifier {
        findings.push(Diagnosis::note(
            SERVER,
            format!("{id} sends no server identifier; that is the source of its replies"),
        ));
    } else if server.source != id {
        findings.push(
            Diagnosis::note(
                SERVER,
                format!(
                    "replies of {id} come from {}: a relay, or another address of the server",
                    server.source
                ),
            )
            .with_advice(format!(
                "renewals go to {id}, which containers have to reach"
            )),
        );
    }
    findings
}

/// Judges the content of an offer.
fn judge_offer(
    interface: &InterfaceReport,
    server: &ServerReport,
    offer: &OfferReport,
) -> Vec<Diagnosis> {
    let id = server.server;
    let mut findings = Vec::new();
    if interface.addresses.contains(&offer.address) {
        let text = format!(
            "{} is this interface's own address: {id} knows clients by MAC alone",
            offer.address
        );
        findings.push(Diagnosis::note(SERVER, text).with_advice(
            "renew that lease: busybox's udhcpd ends its record of it a minute after a DISCOVER",
        ));
    }
    let mut note = |text: String| findings.push(Diagnosis::note(SERVER, text));
    if !offer.has_lease_time {
        let assumed = offer.lease_seconds.map_or_else(
            || "for ever".to_owned(),
            |seconds| text::length(Duration::from_secs(seconds)),
        );
        note(format!(
            "{id} sends no lease time; assuming {assumed}: set one on the server"
        ));
    }
    if !offer.has_mask {
        note(format!(
            "{id} sends no subnet mask; /{} is that of the address class",
            offer.prefix_length
        ));
    }
    if offer.routers.is_empty() {
        note(format!(
            "{id} offers no router: containers reach their own subnet alone"
        ));
    }
    for value in &offer.unusable {
        note(format!("{id} sends an unusable value: {value}"));
    }
    match offer.mtu {
        Some(mtu) if mtu < MIN_MTU => note(format!(
            "{id} sends MTU {mtu}, less than {MIN_MTU} bytes, which is never set"
        )),
        Some(mtu) if u32::from(mtu) > interface.mtu => note(format!(
            "{id} sends MTU {mtu}, more than the {} of {}, which stays",
            interface.mtu, interface.name
        )),
        _ => {}
    }
    findings
}

#[cfg(test)]
mod tests;
