//! Findings about an interface and the servers that it reaches: arithmetic on reports.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::operator::diagnosis::Diagnosis;
use crate::operator::text;

use super::interface::{InterfaceReport, MIN_MTU};
use super::report::{
    BROADCAST, FRAGMENT, FULL, IgnoredReport, Judgement, LIKE_NETAVARK, MALFORMED, NO_MESSAGE_TYPE,
    NO_SERVER, OfferReport, REFUSED, SearchReport, ServerReport, UNICAST,
};

mod on_interface;

/// The subjects of findings.
const NETWORK: &str = "network";
const SERVER: &str = "server";

/// Returns the findings and the verdict.
pub(super) fn findings(interface: &InterfaceReport, search: Option<&SearchReport>) -> Judgement {
    let mut findings = on_interface::findings(interface);
    let (mut healthy, mut is_known) = (false, true);
    if let Some(search) = search {
        is_known = !is_own_server_alone(interface, search);
        findings.extend(network(interface, search));
        let is_disturbed = findings.iter().any(Diagnosis::is_problem);
        for server in &search.servers {
            let of_server = judge_server(interface, server);
            healthy |= !is_disturbed && !of_server.iter().any(Diagnosis::is_problem);
            findings.extend(of_server);
        }
    }
    Judgement {
        findings,
        healthy,
        is_known,
    }
}

/// Returns whether the DHCP server may be one of this host on a bridge: the packet sockets of this
/// host do not reach it, and containers on the bridge do.
fn is_own_server_alone(interface: &InterfaceReport, search: &SearchReport) -> bool {
    let has_server = interface.busy_ports.iter().any(|busy| busy.port == 67);
    let is_on_bridge = interface.is_kind("bridge") || interface.port_of.is_some();
    search.servers.is_empty()
        && search.ignored.is_empty()
        && interface.is_working()
        && interface.namespace.is_none()
        && has_server
        && is_on_bridge
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
            format!(
                "find its station: tcpdump -e -i {} port 68 or arp",
                text::quoted(name)
            ),
        ));
    }
    let is_answered = !search.servers.is_empty();
    findings.extend(search.ignored.iter().map(|it| ignored(it, is_answered)));
    if !is_answered && interface.is_working() {
        let discovers = search.discovers;
        let plural = if discovers == 1 { "" } else { "s" };
        let text = format!(
            "no DHCPOFFER within {} ({discovers} DISCOVER{plural} sent on {name})",
            took(search)
        );
        findings.push(if is_own_server_alone(interface, search) {
            Diagnosis::note(
                NETWORK,
                format!("{text}: the server of this host does not hear its own host"),
            )
            .with_advice("--netns with the path of a container checks what containers reach")
        } else if search.ignored.is_empty() {
            let command = text::quoted(name);
            Diagnosis::problem(
                NETWORK,
                text,
                format!(
                    "wrong parent or VLAN, Wi-Fi, spanning tree, or a server for known clients \
                     alone: tcpdump -i {command} port 67; --timeout 45"
                ),
            )
        } else {
            Diagnosis::problem(
                NETWORK,
                text,
                "a server answers, but not as it should: above",
            )
        });
    }
    findings.extend(several_servers(&search.servers));
    findings.extend(search.proxy_arp.iter().map(|by| proxy_arp(search, by)));
    findings
}

fn took(search: &SearchReport) -> String {
    text::short_length(Duration::from_millis(search.milliseconds))
}

/// Judges replies that cannot be used.
fn ignored(replies: &IgnoredReport, is_answered: bool) -> Diagnosis {
    let IgnoredReport {
        reason,
        count,
        station,
    } = replies;
    let (text, advice) = match *reason {
        FRAGMENT => (
            format!("{station} answers in fragments ({count} were seen), which are not read"),
            "fewer or shorter options on the server, or one MTU everywhere",
        ),
        MALFORMED => (
            format!("{count} replies are malformed, the first one of {station}"),
            "that server, or a relay or a bridge on the way",
        ),
        NO_MESSAGE_TYPE => (
            format!("{station} answers without a message type ({count} replies): BOOTP, not DHCP"),
            "a server that speaks DHCP, or that one's DHCP switched on",
        ),
        NO_SERVER => (
            format!("{station} names no server in its offers ({count}), and has no address"),
            "the configuration of that server, or of a relay",
        ),
        REFUSED => (
            format!("{station} answers a DISCOVER with a DHCPNAK ({count} replies)"),
            "the server's log: it may be authoritative for another network",
        ),
        _ => (
            format!("{station} answers a DISCOVER with another message than a DHCPOFFER ({count})"),
            "the server's log",
        ),
    };
    if is_answered {
        Diagnosis::note(NETWORK, text).with_advice(advice)
    } else {
        Diagnosis::problem(NETWORK, text, advice)
    }
}

fn several_servers(servers: &[ServerReport]) -> Option<Diagnosis> {
    if servers.len() < 2 {
        return None;
    }
    let all: Vec<_> = servers
        .iter()
        .map(|server| format!("{} ({})", server.server, server.mac))
        .collect();
    let text = format!(
        "{} DHCP servers: {}; the daemon takes the first offer",
        servers.len(),
        all.join(", ")
    );
    let mut identifiers: Vec<_> = servers.iter().map(|server| server.server).collect();
    identifiers.sort();
    let advice = if identifiers.windows(2).any(|pair| pair[0] == pair[1]) {
        "one server, or one that poses as it"
    } else {
        "--server and --deny-server of the daemon choose"
    };
    Some(Diagnosis::note(NETWORK, text).with_advice(advice))
}

fn proxy_arp(search: &SearchReport, station: &str) -> Diagnosis {
    let random = search.random_address;
    let random = random.map_or_else(String::new, |address| {
        format!("{address}, chosen at random, or ")
    });
    Diagnosis::note(
        NETWORK,
        format!(
            "{station} answers ARP for every address (proxy ARP): for what is offered, and for \
             {random}its router"
        ),
    )
    .with_advice("the daemon finds out by itself; --arp-probe 0 never asks")
}

fn judge_server(interface: &InterfaceReport, server: &ServerReport) -> Vec<Diagnosis> {
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
    findings.extend(judge_replies(interface, server));
    if let Some(offer) = &server.offer {
        findings.extend(judge_offer(interface, server, offer));
    }
    findings
}

/// Judges the way in which a server answers.
fn judge_replies(interface: &InterfaceReport, server: &ServerReport) -> Vec<Diagnosis> {
    let id = server.server;
    let mut findings = Vec::new();
    if server.acks > 0 {
        findings.push(Diagnosis::problem(
            SERVER,
            format!("{id} has answered a DISCOVER with a DHCPACK, which nothing requested"),
            "it may take the address for leased until the end of that lease",
        ));
    }
    findings.extend(judge_forms(server));
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

/// Judges which DISCOVERs a server answers.
fn judge_forms(server: &ServerReport) -> Option<Diagnosis> {
    let id = server.server;
    let is_flagged_alone = server.answers == [BROADCAST];
    if server.has_answered(FULL) {
        None
    } else if !server.ignores_full {
        let text = format!("{id} has answered no full DISCOVER yet, and the time was too short");
        Some(Diagnosis::note(SERVER, text).with_advice("--timeout with a longer time"))
    } else if is_flagged_alone {
        Some(Diagnosis::problem(
            SERVER,
            format!("{id} answers only a DISCOVER with the broadcast flag, or its unicast is lost"),
            "--broadcast of the daemon",
        ))
    } else if server.has_answered(BROADCAST) {
        // It answers with and without the flag, so frames were lost.
        None
    } else {
        let left_out = if server.has_answered(LIKE_NETAVARK) {
            "options that netavark's proxy does not send"
        } else {
            "a client identifier; it identifies clients by MAC"
        };
        Some(Diagnosis::note(
            SERVER,
            format!("{id} answers only a DISCOVER without {left_out}; the daemon finds out"),
        ))
    }
}

/// Judges the content of an offer.
fn judge_offer(
    interface: &InterfaceReport,
    server: &ServerReport,
    offer: &OfferReport,
) -> Vec<Diagnosis> {
    let id = server.server;
    let mut findings = Vec::new();
    findings.extend(judge_address(interface, id, offer.address));
    if !server.probed && server.in_use_by.is_none() {
        let text = format!(
            "{} was not probed by ARP: the time was too short",
            offer.address
        );
        findings.push(Diagnosis::note(SERVER, text).with_advice("--timeout with a longer time"));
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

/// Judges an offer of an address that this machine has.
fn judge_address(
    interface: &InterfaceReport,
    id: Ipv4Addr,
    address: Ipv4Addr,
) -> Option<Diagnosis> {
    let local = interface.local_addresses.iter();
    let mut same = local.filter(|local| local.address == address);
    // The interface that shares the MAC tells more than another one.
    let local = same
        .clone()
        .find(|it| it.is_of_station)
        .or_else(|| same.next())?;
    let other = &local.interface;
    let owner = if interface.addresses.contains(&address) {
        "this interface's own address".to_owned()
    } else if local.is_of_station {
        format!("the address of {other}, which has the same MAC")
    } else {
        let text = format!("{address} is an address of {other} here, too");
        return Some(Diagnosis::note(SERVER, text).with_advice("change the pool, or that address"));
    };
    let text = format!("{address} is {owner}: {id} knows clients by MAC alone");
    Some(Diagnosis::note(SERVER, text).with_advice(
        "renew that lease: busybox's udhcpd ends its record of it a minute after a DISCOVER",
    ))
}

#[cfg(test)]
mod tests;
