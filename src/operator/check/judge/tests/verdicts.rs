//! Verdicts that must not be given too early, and those that need a look beyond the interface.

use super::*;
use crate::operator::check::interface::LocalAddress;

/// One DISCOVER may be lost, and a switch port may have been deaf.
#[test]
fn an_answer_to_another_discover_alone_is_no_oddity_yet() {
    for form in [BROADCAST, LIKE_NETAVARK, "bare"] {
        let late = ServerReport {
            answers: vec![form],
            ..server()
        };
        let (verdicts, healthy, text) = judge_one(late);
        assert_eq!((verdicts, healthy), (vec![Good, Note], true));
        assert!(text.contains("has answered no full DISCOVER yet"), "{text}");
    }
}

/// The flag is no condition where an answer came without it.
#[test]
fn a_server_that_answers_without_the_flag_does_not_need_it() {
    for plain in [LIKE_NETAVARK, "bare"] {
        let lossy = ServerReport {
            answers: vec![BROADCAST, plain],
            ignores_full: true,
            ..server()
        };
        let (verdicts, healthy, text) = judge_one(lossy);
        assert_eq!((verdicts, healthy), (vec![Good], true), "{text}");
    }
}

#[test]
fn replies_that_cannot_be_used_are_a_problem_where_no_others_come() {
    for (reason, words) in [
        (FRAGMENT, "answers in fragments (3 were seen)"),
        (MALFORMED, "3 replies are malformed"),
        (NO_MESSAGE_TYPE, "BOOTP, not DHCP"),
        (NO_SERVER, "names no server in its offers"),
        (REFUSED, "answers a DISCOVER with a DHCPNAK"),
        ("other-type", "with another message than a DHCPOFFER"),
    ] {
        let with = |servers| SearchReport {
            ignored: vec![ignored_reply(reason)],
            ..search(servers)
        };
        let (verdicts, healthy, text) = judge(&interface(), Some(&with(vec![])));
        assert_eq!((verdicts, healthy), (vec![Problem, Problem], false));
        assert!(
            text.contains(words) && text.contains("02:00:00:00:00:09"),
            "{text}"
        );
        assert!(!text.contains("wrong parent"), "{text}");
        let (verdicts, healthy, _) = judge(&interface(), Some(&with(vec![server()])));
        assert_eq!((verdicts, healthy), (vec![Note, Good], true));
    }
}

/// The two stations of one identifier need not have answered one after the other.
#[test]
fn all_servers_are_compared() {
    let of = |last, mac: &str| ServerReport {
        server: Ipv4Addr::new(10, 0, 0, last),
        source: Ipv4Addr::new(10, 0, 0, last),
        mac: mac.to_owned(),
        ..server()
    };
    let posed = vec![of(1, "a"), of(2, "c"), of(1, "b")];
    let (_, _, text) = judge(&interface(), Some(&search(posed)));
    assert!(
        text.contains("3 DHCP servers") && text.contains("poses as it"),
        "{text}"
    );
    assert!(!text.contains("--deny-server"), "{text}");
}

/// A bridge does not carry what the host sends on it to the host's own server.
#[test]
fn the_server_of_this_host_cannot_be_judged_from_it() {
    let bridge = |port, kind: &str, port_of: Option<&str>| InterfaceReport {
        namespace: None,
        kind: Some(kind.to_owned()),
        port_of: port_of.map(str::to_owned),
        busy_ports: vec![BusyPort {
            port,
            processes: vec!["dnsmasq (7)".to_owned()],
        }],
        ..interface()
    };
    let is_known = |interface: &InterfaceReport, search: &SearchReport| {
        let judgement = findings(interface, Some(search));
        let is_problem = judgement.findings.iter().any(Diagnosis::is_problem);
        assert!(!judgement.healthy || !search.servers.is_empty());
        assert_eq!(is_problem, judgement.is_known && search.servers.is_empty());
        judgement.is_known
    };
    let (empty, found) = (search(vec![]), search(vec![server()]));
    assert!(!is_known(&bridge(67, "bridge", None), &empty));
    assert!(!is_known(&bridge(67, "veth", Some("br0")), &empty));
    // Not where the host's server has nothing to do with it.
    assert!(is_known(&bridge(67, "bridge", None), &found));
    assert!(is_known(&bridge(68, "bridge", None), &empty));
    assert!(is_known(&bridge(67, "vlan", None), &empty));
    let contained = InterfaceReport {
        namespace: Some("/run/netns/a".to_owned()),
        ..bridge(67, "bridge", None)
    };
    assert!(is_known(&contained, &empty));
    let text = judge(&bridge(67, "bridge", None), Some(&empty)).2;
    assert!(
        text.contains("does not hear its own host -> --netns"),
        "{text}"
    );
}

#[test]
fn an_mtu_below_that_of_every_host_is_a_problem() {
    let with = |mtu| InterfaceReport { mtu, ..interface() };
    let (verdicts, healthy, text) = judge(&with(575), None);
    assert_eq!((verdicts, healthy), (vec![], false));
    let words = "the MTU of eth0 is 575, less than the 576 bytes that DHCP needs -> \
                 nsenter --net=/run/netns/a ip link set eth0 mtu 1500";
    assert!(text.contains(words), "{text}");
    assert!(!with(575).can_send() && with(576).can_send());
    let (verdicts, healthy, _) = judge(&with(576), Some(&search(vec![server()])));
    assert_eq!((verdicts, healthy), (vec![Good], true));
    // An MTU that became too small is the reason why no server answers.
    let (verdicts, ..) = judge(&with(68), Some(&search(vec![])));
    assert_eq!(verdicts, []);
}

#[test]
fn commands_can_be_pasted() {
    let odd = InterfaceReport {
        name: "eth0;reboot".to_owned(),
        namespace: Some("/run/netns/my web".to_owned()),
        up: false,
        ..interface()
    };
    let text = judge(&odd, None).2;
    let words = "nsenter --net='/run/netns/my web' ip link set 'eth0;reboot' up";
    assert!(text.contains(words), "{text}");
}

#[test]
fn what_was_not_read_is_told() {
    let half = InterfaceReport {
        unread: vec!["the UDP sockets of the namespace"],
        ..interface()
    };
    let (verdicts, healthy, text) = judge(&half, Some(&search(vec![server()])));
    assert_eq!((verdicts, healthy), (vec![Note, Good], true));
    assert!(text.contains("not to the end: the UDP sockets"), "{text}");
}

#[test]
fn an_offer_without_the_time_for_a_probe_is_told() {
    let hasty = || ServerReport {
        probed: false,
        ..server()
    };
    let (verdicts, healthy, text) = judge_one(hasty());
    assert_eq!((verdicts, healthy), (vec![Good, Note], true));
    assert!(text.contains("10.0.0.77 was not probed by ARP"), "{text}");
    let claimed = ServerReport {
        in_use_by: Some("02:00:00:00:00:09".to_owned()),
        ..hasty()
    };
    assert_eq!(judge_one(claimed).0, [Problem]);
}

#[test]
fn an_offer_of_an_own_address_is_told() {
    let local = |name: &str, is_of_station| LocalAddress {
        address: IP,
        interface: name.to_owned(),
        is_of_station,
    };
    let with = |addresses: &[Ipv4Addr], local_addresses| InterfaceReport {
        addresses: addresses.to_vec(),
        local_addresses,
        ..interface()
    };
    for (interface, words) in [
        (
            with(&[IP], vec![local("eth0", true)]),
            "this interface's own address",
        ),
        (
            with(&[], vec![local("docker0", false), local("br0", true)]),
            "10.0.0.77 is the address of br0, which has the same MAC: 10.0.0.1 knows",
        ),
        (
            with(&[], vec![local("docker0", false)]),
            "10.0.0.77 is an address of docker0 here",
        ),
    ] {
        let (verdicts, healthy, text) = judge(&interface, Some(&search(vec![server()])));
        assert_eq!((verdicts, healthy), (vec![Good, Note], true));
        assert!(text.contains(words), "{text}");
    }
    let unrelated = with(
        &[ID],
        vec![LocalAddress {
            address: ID,
            ..local("eth0", true)
        }],
    );
    assert_eq!(judge(&unrelated, Some(&search(vec![server()]))).0, [Good]);
    assert_eq!(unrelated.station_addresses(), [ID]);
    assert_eq!(
        with(&[], vec![local("docker0", false)]).station_addresses(),
        [Ipv4Addr::LOCALHOST; 0]
    );
}
