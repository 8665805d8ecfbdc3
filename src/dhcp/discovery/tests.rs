//! Conversations with a search, on a made-up clock.

use super::*;
use crate::dhcp::option;

use conversation::{IP, OTHER, Offered, SERVER, SERVER_MAC, Talk, US, claim, offer, other_offer};

mod confirmation;
mod conversation;
mod ignoring;

/// The ladder while no server answers, and what no DISCOVER has.
#[test]
fn without_an_answer_discovers_get_plainer_until_the_timeout() {
    let mut talk = Talk::start();
    assert_eq!(talk.discovers.len(), 1);
    assert_eq!(talk.ends(), 10_000);
    assert!((5..=7).contains(&talk.discovers.len()));
    assert_eq!(talk.discovers.len(), talk.discovery.discovers());
    let flagged: Vec<_> = (1..=5).map(|number| talk.is_flagged(number)).collect();
    assert_eq!(flagged, [false, true, false, false, false]);
    let sized: Vec<_> = (1..=5)
        .map(|number| talk.has(number, option::MAX_MESSAGE_SIZE))
        .collect();
    assert_eq!(sized, [true, true, false, false, true]);
    let named: Vec<_> = (1..=5)
        .map(|number| talk.has(number, option::CLIENT_ID))
        .collect();
    assert_eq!(named, [true, true, true, false, true]);
    let mut xids: Vec<_> = talk
        .discovers
        .iter()
        .map(|payload| &payload[4..8])
        .collect();
    xids.sort_unstable();
    xids.dedup();
    assert_eq!(xids.len(), talk.discovers.len());
    for number in 1..=talk.discovers.len() {
        // A server would commit a lease, or reserve a certain address.
        assert!(!talk.has(number, option::RAPID_COMMIT));
        assert!(!talk.has(number, option::REQUESTED_ADDRESS));
    }
    assert_eq!(talk.probed, [Ipv4Addr::UNSPECIFIED; 0]);
    assert_eq!(talk.discovery.poll_transmit(), None);
}

/// Another run has other transaction ids, and the same client identifier.
#[test]
fn the_client_identifier_is_no_containers_and_stays() {
    let talk = Talk::start();
    let id = talk
        .options_of(&talk.discovers[0])
        .bytes(option::CLIENT_ID)
        .unwrap()
        .into_owned();
    assert_eq!(id, b"\0smol-dhcp-proxy check 02:00:00:00:00:05");
    let again = Discovery::new(talk.discovery.settings.clone(), 8, talk.now);
    assert_eq!(again.config.client_id, id);
    assert_ne!(again.sent[0].xid, talk.discovery.sent[0].xid);
}

#[test]
fn one_server_is_found_in_four_seconds_with_two_discovers_and_its_address_is_probed() {
    let mut talk = Talk::start();
    talk.at(3).answers(1, &offer(IP)).unwrap();
    // At once, with one address more.
    let random = talk.discovery.random_address().unwrap();
    assert_eq!(talk.probed, [IP, random]);
    assert_eq!(random.octets()[..3], IP.octets()[..3]);
    assert!(![IP, SERVER].contains(&random));
    assert_eq!(talk.ends(), 4000);
    assert_eq!(talk.probed, [IP, random, IP, random]);
    assert_eq!(talk.discovers.len(), 2);
    assert!(talk.is_flagged(2), "a second chance for lost frames");
    let [server] = talk.discovery.servers() else {
        panic!("one server");
    };
    assert_eq!(
        (server.id, server.mac, server.source),
        (SERVER, SERVER_MAC, SERVER)
    );
    assert_eq!(server.took, Duration::from_millis(3));
    assert_eq!(talk.discovery.owner(server), None);
    assert!(!talk.discovery.is_flooded());
}

/// The time of an answer is that from the DISCOVER that it answers.
#[test]
fn an_answer_to_the_second_discover_is_timed_from_there_and_the_first_form_is_repeated() {
    let mut talk = Talk::start();
    talk.at(1100);
    assert_eq!(talk.discovers.len(), 2);
    let second = talk.discovery.sent[1].at;
    talk.at(1200).answers(2, &offer(IP)).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!(server.took, talk.now - second);
    assert!(server.has_answered(DiscoverForm::Broadcast));
    talk.at(2300);
    assert_eq!(talk.discovers.len(), 3);
    assert!(!talk.is_flagged(3) && talk.has(3, option::MAX_MESSAGE_SIZE));
    talk.answers(3, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 4000);
    assert_eq!(talk.discovers.len(), 3);
    let server = &talk.discovery.servers()[0];
    assert!(server.has_answered(DiscoverForm::Full));
    assert_eq!(server.replies, 2);
}

/// A plain answer is confirmed by two full DISCOVERs, and the ladder ends.
#[test]
fn a_server_of_plain_discovers_alone_is_known_as_such() {
    let mut talk = Talk::start();
    talk.at(3500).answers(4, &offer(IP)).unwrap();
    assert_eq!(talk.discovers.len(), 4);
    let ends = talk.ends();
    assert!((5500..=6500).contains(&ends), "{ends}");
    assert_eq!(talk.discovers.len(), 6);
    let server = &talk.discovery.servers()[0];
    let answered = DiscoverForm::ORDER.map(|form| server.has_answered(form));
    assert_eq!(answered, [false, false, false, true]);
    assert!(talk.discovery.is_full_ignored_by(server, talk.now));
}

#[test]
fn a_late_second_server_is_waited_for() {
    let mut talk = Talk::start();
    talk.at(3).answers(1, &offer(IP)).unwrap();
    // As long as a ping before the offer takes.
    talk.at(3100).answers(1, &other_offer(2)).unwrap();
    assert_eq!(talk.ends(), 5100);
    let ids: Vec<_> = talk
        .discovery
        .servers()
        .iter()
        .map(|server| server.id)
        .collect();
    assert_eq!(ids, [SERVER, Ipv4Addr::new(10, 0, 0, 2)]);
    // Each address is probed, and one random address for both.
    assert_eq!(talk.discovery.probed_addresses().count(), 3);
}

#[test]
fn the_timeout_is_the_end_whatever_was_found() {
    let mut talk = Talk::with(1, |_| ());
    talk.at(900).answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.ends(), 1000);
    assert_eq!(
        talk.answers(1, &other_offer(2)),
        Err(Ignored::OtherExchange),
        "too late"
    );
    assert_eq!(talk.discovery.servers().len(), 1);
}

/// Of one identifier two stations: one may pose as the server.
#[test]
fn a_server_is_an_identifier_and_a_station() {
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    talk.answers(
        1,
        &Offered {
            mac: OTHER,
            ..offer(IP)
        },
    )
    .unwrap();
    talk.answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.discovery.servers().len(), 2);
    assert_eq!(talk.discovery.servers()[0].replies, 2);
    assert_eq!(talk.probed.len(), 2, "the same address");
}

#[test]
fn a_station_that_claims_the_offered_address_alone_has_it() {
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    talk.hears(&claim(IP, OTHER)).unwrap();
    talk.hears(&claim(IP, OTHER)).unwrap();
    assert_eq!(
        talk.hears(&claim(Ipv4Addr::new(10, 0, 0, 254), OTHER)),
        Err(Ignored::NotDhcp),
        "an address that was not probed"
    );
    assert_eq!(
        talk.discovery.owner(&talk.discovery.servers()[0]),
        Some(OTHER)
    );
    assert_eq!(talk.discovery.proxy_arp_stations(), [Mac::UNSPECIFIED; 0]);
}

#[test]
fn a_station_that_claims_every_address_has_none() {
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    let random = talk.discovery.random_address().unwrap();
    talk.hears(&claim(random, OTHER)).unwrap();
    assert_eq!(
        talk.discovery.proxy_arp_stations(),
        [Mac::UNSPECIFIED; 0],
        "it may be its own address"
    );
    talk.hears(&claim(IP, OTHER)).unwrap();
    assert_eq!(talk.discovery.proxy_arp_stations(), [OTHER]);
    assert_eq!(talk.discovery.owner(&talk.discovery.servers()[0]), None);
    // Behind it there may be an owner.
    let owner = Mac([2, 0, 0, 0, 0, 11]);
    talk.hears(&claim(IP, owner)).unwrap();
    assert_eq!(
        talk.discovery.owner(&talk.discovery.servers()[0]),
        Some(owner)
    );
}

/// As the client decides it.
#[test]
fn the_servers_station_has_no_claim_unless_it_offers_its_own_address() {
    let mut talk = Talk::start();
    talk.answers(1, &offer(IP)).unwrap();
    talk.hears(&claim(IP, SERVER_MAC)).unwrap();
    assert_eq!(talk.discovery.owner(&talk.discovery.servers()[0]), None);

    let mut talk = Talk::start();
    talk.answers(1, &offer(SERVER)).unwrap();
    talk.hears(&claim(SERVER, SERVER_MAC)).unwrap();
    assert_eq!(
        talk.discovery.owner(&talk.discovery.servers()[0]),
        Some(SERVER_MAC)
    );
}

#[test]
fn stations_of_this_namespace_have_no_claims_and_own_addresses_are_not_probed() {
    let mut talk = Talk::with(10, |settings| settings.own_stations = vec![OTHER]);
    talk.answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.hears(&claim(IP, OTHER)), Err(Ignored::NotDhcp));
    assert_eq!(talk.hears(&claim(IP, US)), Err(Ignored::NotDhcp));
    assert_eq!(talk.discovery.owner(&talk.discovery.servers()[0]), None);

    let mut talk = Talk::with(10, |settings| settings.own_addresses = vec![IP]);
    talk.answers(1, &offer(IP)).unwrap();
    assert_eq!(talk.probed, [Ipv4Addr::UNSPECIFIED; 0]);
}

#[test]
fn oddities_of_replies_are_counted() {
    let mut talk = Talk::start();
    let unnamed = Offered {
        id: None,
        to: Mac::BROADCAST,
        ..offer(IP)
    };
    talk.answers(1, &unnamed).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!(
        (server.id, server.has_id, server.damaged),
        (SERVER, false, 0)
    );
    assert_eq!(
        (server.unflagged, server.flagged),
        (Some(Delivery::Broadcast), None)
    );

    let other = Ipv4Addr::new(10, 0, 0, 78);
    let renumbered = Offered {
        id: None,
        ..offer(other)
    };
    talk.at(1100).answers(2, &renumbered).unwrap();
    let server = &talk.discovery.servers()[0];
    assert_eq!(server.replies, 2);
    assert_eq!(
        (server.other_address, server.flagged),
        (Some(other), Some(Delivery::Unicast))
    );

    let ack = Offered {
        kind: 5,
        id: None,
        ..offer(IP)
    };
    talk.answers(1, &ack).unwrap();
    assert_eq!(talk.discovery.servers()[0].acks, 1);
    let nak = Offered {
        kind: 6,
        ..offer(IP)
    };
    assert!(matches!(
        talk.answers(1, &nak),
        Err(Ignored::Unexpected { .. })
    ));

    let mut bare = Offered {
        more: Vec::new(),
        ..other_offer(2)
    };
    talk.answers(1, &bare).unwrap();
    let offered = talk.discovery.servers()[1].offer.clone().unwrap();
    assert!(!offered.has_lease_time && !offered.has_mask);
    // Without an address there is no offer; a later one counts, and is probed.
    bare = Offered {
        address: Ipv4Addr::UNSPECIFIED,
        ..other_offer(3)
    };
    talk.answers(1, &bare).unwrap();
    assert_eq!(talk.discovery.servers()[2].offer, None);
    let probed = talk.discovery.probed_addresses().count();
    talk.answers(1, &other_offer(3)).unwrap();
    assert!(talk.discovery.servers()[2].offer.is_some());
    assert_eq!(talk.discovery.probed_addresses().count(), probed + 1);
}

#[test]
fn replies_of_other_exchanges_are_ignored() {
    let mut talk = Talk::start();
    assert_eq!(
        talk.hears(&offer(IP).frame(0x0123_4567)),
        Err(Ignored::OtherExchange)
    );
    assert_eq!(talk.discovery.servers().len(), 0);
}

/// Each forged server is a new one, and each frame is one more.
#[test]
fn a_flood_ends_the_search() {
    let mut talk = Talk::start();
    for number in 2..10 {
        talk.answers(1, &other_offer(number)).unwrap();
    }
    assert!(!talk.discovery.is_flooded());
    assert!(matches!(
        talk.answers(1, &other_offer(10)),
        Err(Ignored::OtherServer(_))
    ));
    assert!(talk.discovery.is_flooded() && talk.discovery.is_over(talk.now));
    assert_eq!(talk.discovery.servers().len(), MOST_SERVERS);

    let mut talk = Talk::start();
    let forged = offer(IP).frame(1);
    let read = (0..5000).filter(|_| talk.hears(&forged) == Err(Ignored::OtherExchange));
    assert_eq!(read.count(), 5000);
    assert_eq!(talk.discovery.frames, MOST_FRAMES);
    assert!(talk.discovery.is_over(talk.now));
}

#[test]
fn a_small_subnet_has_no_random_address() {
    let small = |prefix: u8| {
        let mask = mask_of(prefix);
        let mut talk = Talk::start();
        let reply = Offered {
            more: vec![
                (option::SUBNET_MASK, mask.octets().to_vec()),
                (option::ROUTERS, vec![10, 0, 0, 78]),
            ],
            ..offer(IP)
        };
        talk.answers(1, &reply).unwrap();
        talk.discovery.random_address()
    };
    // .76 to .79, of which .77 and .78 are hosts; all others are the subnet and its broadcast.
    assert_eq!([small(30), small(31), small(32)], [None; 3]);
    for prefix in [8, 16, 24, 29] {
        let random = small(prefix).unwrap();
        let mask = mask_of(prefix);
        assert_eq!(random & mask, IP & mask);
        assert!(![IP, Ipv4Addr::new(10, 0, 0, 78), IP & mask, IP | !mask].contains(&random));
    }
}

fn mask_of(prefix: u8) -> Ipv4Addr {
    crate::dhcp::subnet::mask(prefix)
}
