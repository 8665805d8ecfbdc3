//! Conclusions from DISCOVERs without an answer, and from probes without time.

use super::conversation::{
    IP, OTHER, Offered, SERVER, SERVER_MAC, Talk, claim, offer, other_offer,
};
use crate::dhcp::discovery::DiscoverForm;
use crate::dhcp::option;
use crate::mac::Mac;
use std::net::Ipv4Addr;
use std::time::Duration;

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

/// Returns an offer with a router and a mask of so many bits.
fn routed(prefix: u8, router: Ipv4Addr) -> Offered {
    let mask = crate::dhcp::subnet::mask(prefix);
    Offered {
        more: vec![
            (option::SUBNET_MASK, mask.octets().to_vec()),
            (option::ROUTERS, router.octets().to_vec()),
        ],
        ..offer(IP)
    }
}

/// The full DISCOVERs before a switch port opens tell nothing about the server: the first answer is
/// to the flagged one, and the full one is repeated.
#[test]
fn discovers_into_a_deaf_port_do_not_count() {
    let mut talk = Talk::with(45, |_| ());
    while talk.discovers.len() < 6 {
        let next = talk.discovery.poll_timeout().since_boot();
        talk.at(u64::try_from(next.as_millis()).unwrap() - 100_000 + 1);
    }
    assert!(talk.is_flagged(6));
    let full = |talk: &Talk| {
        let sent = talk.discovery.sent.iter();
        sent.filter(|sent| sent.form == DiscoverForm::Full).count()
    };
    assert_eq!(full(&talk), 2);
    talk.answers(6, &offer(IP)).unwrap();
    let server = &talk.discovery.servers()[0];
    assert!(!talk.discovery.is_full_ignored_by(server, talk.now));
    while talk.discovers.len() < 7 {
        let next = talk.discovery.poll_timeout().since_boot();
        talk.at(u64::try_from(next.as_millis()).unwrap() - 100_000 + 1);
    }
    assert_eq!(full(&talk), 3);
    talk.answers(7, &offer(IP)).unwrap();
    talk.ends();
    let server = &talk.discovery.servers()[0];
    assert!(server.has_answered(DiscoverForm::Full));
    assert!(!talk.discovery.is_full_ignored_by(server, talk.now));
    assert_eq!(talk.discovers.len(), 7);
}

/// A full DISCOVER is ignored once two had a second each to be answered.
#[test]
fn two_full_discovers_without_an_answer_are_ignored() {
    let mut talk = Talk::start();
    talk.at(1200).answers(2, &offer(IP)).unwrap();
    talk.at(3300);
    let ignores = |talk: &Talk| {
        let server = &talk.discovery.servers()[0];
        talk.discovery.is_full_ignored_by(server, talk.now)
    };
    assert_eq!(talk.discovers.len(), 4);
    assert!(!talk.is_flagged(3) && !talk.is_flagged(4));
    assert!(!ignores(&talk), "the last one may still be answered");
    assert!(talk.ends() >= 4000);
    assert!(ignores(&talk));
    assert_eq!(talk.discovers.len(), 4);

    // Without the time for it nothing is concluded.
    let mut talk = Talk::with(2, |_| ());
    talk.at(1200).answers(2, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 2000);
    assert!(!ignores(&talk));
}

/// The second confirmation is due when the wait for further servers is over.
#[test]
fn a_discover_that_is_due_is_not_cut_off() {
    let mut talk = Talk::start();
    while talk.discovers.len() < 4 {
        let next = talk.discovery.poll_timeout().since_boot();
        talk.at(u64::try_from(next.as_millis()).unwrap() - 100_000 + 1);
    }
    talk.answers(4, &offer(IP)).unwrap();
    talk.ends();
    assert_eq!(talk.discovers.len(), 6);
    let server = &talk.discovery.servers()[0];
    assert!(talk.discovery.is_full_ignored_by(server, talk.now));
}

/// One server answers in full, the other one only with the flag.
#[test]
fn each_server_is_judged_by_itself() {
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    talk.at(1100).answers(2, &other_offer(2)).unwrap();
    talk.ends();
    assert_eq!(talk.discovers.len(), 4);
    let ignores: Vec<_> = talk
        .discovery
        .servers()
        .iter()
        .map(|server| talk.discovery.is_full_ignored_by(server, talk.now))
        .collect();
    assert_eq!(ignores, [false, true]);
}

/// As for the client: an own address of the link is not answered for by proxy ARP, the router is.
#[test]
fn a_station_that_claims_the_router_as_well_does_proxy_arp() {
    let mut talk = Talk::start();
    talk.answers(1, &routed(24, ROUTER)).unwrap();
    let random = talk.discovery.random_address().unwrap();
    assert_eq!(talk.probed, [IP, ROUTER, random]);
    talk.hears(&claim(ROUTER, OTHER)).unwrap();
    assert_eq!(talk.discovery.proxy_arp_stations(), [Mac::UNSPECIFIED; 0]);
    talk.hears(&claim(IP, OTHER)).unwrap();
    assert_eq!(talk.discovery.proxy_arp_stations(), [OTHER]);
    assert_eq!(talk.discovery.owner(&talk.discovery.servers()[0]), None);
    let owner = Mac([2, 0, 0, 0, 0, 11]);
    talk.hears(&claim(IP, owner)).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!(talk.discovery.owner(server), Some(owner));

    // Also in a subnet without an address at random.
    let mut talk = Talk::start();
    talk.answers(1, &routed(32, ROUTER)).unwrap();
    assert_eq!(talk.discovery.random_address(), None);
    assert_eq!(talk.probed, [IP, ROUTER]);
    for address in [IP, ROUTER] {
        talk.hears(&claim(address, OTHER)).unwrap();
    }
    assert_eq!(talk.discovery.owner(&talk.discovery.servers()[0]), None);

    // The server's station is known already, and its address is not asked for.
    let mut talk = Talk::start();
    talk.answers(1, &routed(32, SERVER)).unwrap();
    assert_eq!(talk.probed, [IP]);
    // Nor does an offer of the router's own address make the router a proxy.
    let mut talk = Talk::start();
    talk.answers(1, &routed(32, IP)).unwrap();
    talk.hears(&claim(IP, OTHER)).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!(talk.discovery.owner(server), Some(OTHER));
    assert_eq!(talk.discovery.proxy_arp_stations(), [Mac::UNSPECIFIED; 0]);
}

#[test]
fn an_offer_is_probed_if_there_was_time_for_an_answer() {
    let is_probed = |talk: &Talk| {
        let server = &talk.discovery.servers()[0];
        talk.discovery.is_offer_probed(server, talk.now)
    };
    let mut talk = Talk::with(1, |_| ());
    talk.at(900).answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 1000);
    assert!(!is_probed(&talk));
    let mut talk = Talk::with(1, |_| ());
    talk.at(800).answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 1000);
    assert!(is_probed(&talk));
    let mut talk = Talk::with(1, |settings| settings.own_addresses = vec![IP]);
    talk.at(900).answers(1, &offer(IP)).unwrap();
    assert!(is_probed(&talk), "an own address needs none");

    // A first address is as new as a server, and its probes are awaited.
    let mut talk = Talk::start();
    let without = Offered {
        address: Ipv4Addr::UNSPECIFIED,
        ..offer(IP)
    };
    talk.answers(1, &without).unwrap();
    talk.at(3950).answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 5950);
    assert!(is_probed(&talk));
}

/// Damage may change the identifier: the station is known, and there is no second server.
#[test]
fn a_damaged_reply_makes_no_second_server_of_a_station() {
    let phantom = || Offered {
        mac: SERVER_MAC,
        is_intact: false,
        ..other_offer(2)
    };
    let check = |talk: &Talk| {
        let [server] = talk.discovery.servers() else {
            panic!("one server: {:?}", talk.discovery.servers());
        };
        assert_eq!((server.id, server.other_address), (SERVER, None));
        assert_eq!(server.offer.as_ref().unwrap().lease.address, IP);
    };
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    talk.answers(1, &phantom()).unwrap();
    check(&talk);
    assert_eq!(talk.discovery.servers()[0].damaged, 1);
    let mut talk = Talk::start();
    talk.answers(1, &phantom()).unwrap();
    assert_eq!(talk.discovery.servers()[0].id, Ipv4Addr::new(10, 0, 0, 2));
    talk.answers(1, &offer(IP)).unwrap();
    check(&talk);
    // The same identifier, and another address.
    let mut talk = Talk::start();
    let damaged = Offered {
        is_intact: false,
        ..offer(Ipv4Addr::new(10, 0, 0, 78))
    };
    talk.answers(1, &damaged).unwrap();
    talk.answers(1, &offer(IP)).unwrap();
    check(&talk);
    // Where all replies are damaged, a server is found nevertheless.
    let mut talk = Talk::start();
    talk.answers(1, &damaged).unwrap();
    talk.at(1500).answers(2, &damaged).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!((server.replies, server.damaged), (2, 2));
    assert_eq!(server.took, Duration::ZERO);
}
