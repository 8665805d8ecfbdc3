//! Each finding and its verdict.

use super::*;
use crate::mac::Mac;
use crate::operator::check::ports::BusyPort;
use crate::operator::diagnosis::Severity::{self, Good, Note, Problem};

mod verdicts;

const ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

fn interface() -> InterfaceReport {
    InterfaceReport {
        name: "eth0".to_owned(),
        namespace: Some("/run/netns/a".to_owned()),
        mtu: 1500,
        up: true,
        carrier: true,
        station: Some(Mac([2, 0, 0, 0, 0, 5])),
        ..InterfaceReport::default()
    }
}

fn server() -> ServerReport {
    ServerReport {
        server: ID,
        has_identifier: true,
        mac: "02:00:00:00:00:01".to_owned(),
        source: ID,
        microseconds: 1250,
        answers: vec![FULL, BROADCAST],
        delivery: Some(UNICAST),
        flagged_delivery: Some(BROADCAST),
        replies: 2,
        wrong_checksums: 0,
        acks: 0,
        offer: Some(offer()),
        other_address: None,
        in_use_by: None,
        probed: true,
        ignores_full: false,
    }
}

fn offer() -> OfferReport {
    OfferReport {
        address: IP,
        prefix_length: 24,
        has_mask: true,
        routers: vec![ID],
        routes: Vec::new(),
        dns_servers: Vec::new(),
        domain: None,
        search: Vec::new(),
        ntp_servers: Vec::new(),
        mtu: None,
        lease_seconds: Some(3600),
        has_lease_time: true,
        t1_seconds: Some(1800),
        t2_seconds: Some(3150),
        unusable: Vec::new(),
    }
}

fn search(servers: Vec<ServerReport>) -> SearchReport {
    SearchReport {
        milliseconds: 4000,
        discovers: 2,
        servers,
        ..SearchReport::default()
    }
}

fn ignored_reply(reason: &'static str) -> IgnoredReport {
    IgnoredReport {
        reason,
        count: 3,
        station: "02:00:00:00:00:09".to_owned(),
    }
}

/// Returns the verdicts behind that on the state of the interface, and the whole judgement, with
/// the texts.
fn judge(
    interface: &InterfaceReport,
    search: Option<&SearchReport>,
) -> (Vec<Severity>, bool, String) {
    let Judgement {
        findings, healthy, ..
    } = findings(interface, search);
    let text = |finding: &Diagnosis| {
        let advice = finding.advice.as_deref().unwrap_or_default();
        format!("{}: {} -> {advice}\n", finding.subject, finding.text)
    };
    let verdicts = findings.iter().map(|finding| finding.verdict);
    (
        verdicts.skip(1).collect(),
        healthy,
        findings.iter().map(text).collect(),
    )
}

fn judge_one(server: ServerReport) -> (Vec<Severity>, bool, String) {
    judge(&interface(), Some(&search(vec![server])))
}

#[test]
fn a_good_server_is_healthy() {
    let (verdicts, healthy, text) = judge_one(server());
    assert_eq!((verdicts, healthy), (vec![Good], true));
    assert!(
        text.contains("server: 10.0.0.1 offers 10.0.0.77/24 after 1.2 ms"),
        "{text}"
    );
}

#[test]
fn an_interface_that_cannot_send_is_a_problem() {
    let states = [
        (
            InterfaceReport {
                up: false,
                carrier: false,
                ..interface()
            },
            "eth0 is down -> nsenter --net=/run/netns/a ip link set eth0 up",
        ),
        (
            InterfaceReport {
                carrier: false,
                ..interface()
            },
            "no carrier on eth0 -> cable, or parent down: ip link",
        ),
        (
            InterfaceReport {
                station: None,
                ..interface()
            },
            "no Ethernet address",
        ),
    ];
    for (interface, words) in states {
        let (verdicts, healthy, text) = judge(&interface, None);
        assert_eq!((verdicts, healthy), (vec![], false));
        assert!(text.contains(words), "{text}");
        // Nor does an offer from before help.
        let (_, healthy, text) = judge(&interface, Some(&search(vec![server()])));
        assert!(!healthy, "{text}");
        // Without a carrier no server could answer.
        let (verdicts, ..) = judge(
            &InterfaceReport {
                carrier: false,
                ..interface
            },
            Some(&search(vec![])),
        );
        assert_eq!(verdicts, []);
    }
}

#[test]
fn no_server_is_a_problem_in_the_words_of_the_daemon() {
    let (verdicts, healthy, text) = judge(&interface(), Some(&search(vec![])));
    assert_eq!((verdicts, healthy), (vec![Problem], false));
    assert!(
        text.contains("no DHCPOFFER within 4.0 s (2 DISCOVERs sent on eth0)"),
        "{text}"
    );
}

#[test]
fn an_interface_has_its_notes() {
    let busy = |port, processes: &[&str]| BusyPort {
        port,
        processes: processes.iter().map(|name| (*name).to_owned()).collect(),
    };
    let notes = [
        (
            InterfaceReport {
                namespace: None,
                ..interface()
            },
            "of this host",
        ),
        (
            InterfaceReport {
                port_of: Some("br0".to_owned()),
                ..interface()
            },
            "a port of br0",
        ),
        (
            InterfaceReport {
                wireless: Some("wlan0".to_owned()),
                ..interface()
            },
            "wlan0 is Wi-Fi",
        ),
        (
            InterfaceReport {
                kind: Some("ipvlan".to_owned()),
                ..interface()
            },
            "--broadcast",
        ),
        (
            InterfaceReport {
                port_starting: true,
                ..interface()
            },
            "spanning tree",
        ),
        (
            InterfaceReport {
                busy_ports: vec![busy(68, &["dhclient (7)"])],
                ..interface()
            },
            "dhclient (7) has UDP port 68",
        ),
        (
            InterfaceReport {
                busy_ports: vec![busy(67, &[])],
                ..interface()
            },
            "a process that cannot be seen from here has UDP port 67",
        ),
    ];
    for (interface, words) in notes {
        let (verdicts, healthy, text) = judge(&interface, Some(&search(vec![server()])));
        assert_eq!((verdicts, healthy), (vec![Note, Good], true), "{words}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_network_has_its_oddities() {
    let one = || search(vec![server()]);
    let second = |id, mac: &str| ServerReport {
        server: id,
        source: id,
        mac: mac.to_owned(),
        ..server()
    };
    let proxy = SearchReport {
        random_address: Some(Ipv4Addr::new(10, 0, 0, 200)),
        proxy_arp: vec!["02:00:00:00:00:09".to_owned()],
        ..one()
    };
    let fragments = SearchReport {
        ignored: vec![ignored_reply(FRAGMENT)],
        ..one()
    };
    let other = Ipv4Addr::new(10, 0, 0, 2);
    let two = search(vec![server(), second(other, "02:00:00:00:00:02")]);
    let posed = search(vec![server(), second(ID, "02:00:00:00:00:02")]);
    let cases = [
        (two, vec![Note, Good, Good], true, "--deny-server"),
        (posed, vec![Note, Good, Good], true, "poses as it"),
        (
            proxy,
            vec![Note, Good],
            true,
            "for 10.0.0.200, chosen at random",
        ),
        (
            SearchReport {
                ignored: vec![ignored_reply(MALFORMED)],
                ..one()
            },
            vec![Note, Good],
            true,
            "malformed",
        ),
        (
            fragments,
            vec![Note, Good],
            true,
            "in fragments (3 were seen)",
        ),
        (
            SearchReport {
                flooded: true,
                ..one()
            },
            vec![Problem, Good],
            false,
            "a flood of replies",
        ),
    ];
    for (search, expected, is_healthy, words) in cases {
        let (verdicts, healthy, text) = judge(&interface(), Some(&search));
        assert_eq!((verdicts, healthy), (expected, is_healthy), "{words}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn one_good_server_is_enough() {
    let bad = ServerReport {
        in_use_by: Some("02:00:00:00:00:09".to_owned()),
        ..server()
    };
    let (verdicts, healthy, text) = judge(&interface(), Some(&search(vec![bad, server()])));
    assert_eq!((verdicts, healthy), (vec![Note, Problem, Good], true));
    assert!(
        text.contains("offer of 10.0.0.77 from 10.0.0.1, but 02:00:00:00:00:09 uses that address"),
        "{text}"
    );
}

#[test]
fn problems_of_the_only_server_are_the_checks() {
    for (server, verdicts_of_it, words) in [
        (
            ServerReport {
                offer: None,
                ..server()
            },
            vec![Problem],
            "without an address that a host can have",
        ),
        (
            ServerReport {
                in_use_by: Some("02:00:00:00:00:09".to_owned()),
                ..server()
            },
            vec![Problem],
            "uses that address",
        ),
        (
            ServerReport {
                acks: 1,
                ..server()
            },
            vec![Good, Problem],
            "with a DHCPACK",
        ),
        (
            ServerReport {
                answers: vec![BROADCAST],
                ignores_full: true,
                ..server()
            },
            vec![Good, Problem],
            "only a DISCOVER with the broadcast flag",
        ),
    ] {
        let (verdicts, healthy, text) = judge_one(server);
        assert_eq!((verdicts, healthy), (verdicts_of_it, false), "{words}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn oddities_of_a_server_are_notes() {
    let with = |change: fn(&mut OfferReport)| {
        let mut offer = offer();
        change(&mut offer);
        ServerReport {
            offer: Some(offer),
            ..server()
        }
    };
    let other = Ipv4Addr::new(10, 0, 0, 78);
    for (server, words) in [
        (
            ServerReport {
                answers: vec![LIKE_NETAVARK],
                ignores_full: true,
                ..server()
            },
            "netavark's proxy does not send",
        ),
        (
            ServerReport {
                answers: vec!["bare"],
                ignores_full: true,
                ..server()
            },
            "a client identifier",
        ),
        (
            ServerReport {
                wrong_checksums: 2,
                ..server()
            },
            "2 of 2 replies",
        ),
        (
            ServerReport {
                has_identifier: false,
                ..server()
            },
            "no server identifier",
        ),
        (
            ServerReport {
                source: other,
                ..server()
            },
            "come from 10.0.0.78: a relay",
        ),
        (
            with(|offer| offer.has_lease_time = false),
            "no lease time; assuming 1 h",
        ),
        (with(|offer| offer.has_mask = false), "no subnet mask; /24"),
        (with(|offer| offer.routers.clear()), "no router"),
        (
            with(|offer| offer.unusable.push("gateway 0.0.0.0".to_owned())),
            "value: gateway 0.0.0.0",
        ),
        (
            with(|offer| offer.mtu = Some(575)),
            "MTU 575, less than 576",
        ),
        (
            with(|offer| offer.mtu = Some(9000)),
            "MTU 9000, more than the 1500 of eth0",
        ),
    ] {
        let (verdicts, healthy, text) = judge_one(server);
        assert_eq!((verdicts, healthy), (vec![Good, Note], true), "{words}");
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(judge_one(with(|offer| offer.mtu = Some(1500))).0, [Good]);
    assert_eq!(judge_one(with(|offer| offer.mtu = Some(576))).0, [Good]);
}

#[test]
fn ipvlan_hears_no_unicast_where_the_flag_is_ignored() {
    let ipvlan = InterfaceReport {
        kind: Some("ipvlan".to_owned()),
        ..interface()
    };
    let ignoring = ServerReport {
        flagged_delivery: Some(UNICAST),
        ..server()
    };
    let (verdicts, _, text) = judge(&ipvlan, Some(&search(vec![ignoring])));
    assert_eq!(verdicts, [Note, Good, Note]);
    assert!(text.contains("ignores the broadcast flag"), "{text}");
}
