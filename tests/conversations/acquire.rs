//! From nothing to a lease, or to a reason why not (RFC 2131 §3.1, §4.4.1).

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use smol_dhcp_proxy::dhcp::{Client, Ignored, StaticRoute};

#[test]
fn the_example_of_the_design() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    c.at(1).sends(discover());
    c.at(1.5).hears(offer(IP)).sends(request(IP));
    c.at(1.5).hears(ack(IP, hours(1))).says(Bound(IP));
    c.at(1801.5).sends(renew(IP)); // T1
    c.at(1802)
        .hears(nak())
        .says(Lost(IP, Refused))
        .sends(discover());
}

/// The schedule while a caller waits, and what the caller is told at the end.
#[test]
fn ten_discovers_fit_into_45_s() {
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2, 3, 5, 9, 17, 25, 33, 41] {
        c.at(second).sends(discover());
    }
    c.at(45)
        .says(gave_up("no DHCPOFFER within 45 s (10 DISCOVERs sent)"));
    c.at(1_000_000);
}

/// A deadline can be put off, and not brought forward; one that is over stays over.
#[test]
fn a_caller_may_wait_longer_than_at_first() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(5)));
    for second in [0, 1, 2, 3] {
        c.at(second).sends(discover());
    }
    for deadline in [10, 7] {
        c.client()
            .extend_deadline(start_of_time() + seconds(deadline));
    }
    for second in [5, 9] {
        c.at(second).sends(discover());
    }
    c.at(10)
        .says(gave_up("no DHCPOFFER within 10 s (6 DISCOVERs sent)"));
    c.client().extend_deadline(start_of_time() + seconds(60));
    c.at(1_000_000);
}

/// RFC 2131 §4.1: 4, 8, 16, 32, 64 s; and some mercy on a network without a server.
#[test]
fn with_nobody_waiting_it_is_patient() {
    let mut c = Conversation::start().without_fuzz().patient();
    for second in [0, 4, 12, 28, 60, 124, 188, 252, 316, 380, 444, 744, 1044] {
        c.at(second).sends(discover());
    }
}

/// RFC 2131 §4.1: `secs` counts from the start and the REQUEST repeats that of the DISCOVER; so does
/// the xid.
#[test]
fn secs_and_xid_of_a_request_are_those_of_the_discover() {
    let mut c = Conversation::start().without_fuzz().patient();
    c.at(0).sends(discover());
    assert_eq!(c.last().secs(), 1, "never 0");
    let xid = c.last().xid();
    c.at(4).sends(discover());
    c.at(11).hears(offer(IP)).sends(request(IP));
    assert_eq!((c.last().secs(), c.last().xid()), (4, xid));
    c.at(15).sends(request(IP));
    assert_eq!((c.last().secs(), c.last().xid()), (4, xid));
}

/// RFC 2131 §4.4.1: a client may take the first offer, and then has no ear for others.
#[test]
fn the_first_offer_wins() {
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    let unexpected = Ignored::Unexpected {
        message_type: 2,
        state: "REQUESTING",
    };
    c.ignores(offer(OTHER_IP).from(OTHER_SERVER), unexpected);
    c.ignores(
        ack(OTHER_IP, hours(1)).from(OTHER_SERVER),
        Ignored::OtherServer(OTHER_SERVER),
    );
    c.ignores(nak().from(OTHER_SERVER), Ignored::OtherServer(OTHER_SERVER));
    c.hears(ack(IP, hours(1))).says(Bound(IP));
}

/// Whatever else is missing, an offer has an address that a host can have.
#[test]
fn an_offer_that_could_not_become_a_lease_is_no_offer() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        offer(IP).without(OptionCode::MessageType),
        Ignored::Incomplete("message type"),
    );
    c.ignores(offer(NOBODY), Ignored::Incomplete("address"));
    c.ignores(offer([255; 4].into()), Ignored::Incomplete("address"));
    c.ignores(offer([127, 0, 0, 1].into()), Ignored::Incomplete("address"));
    c.hears(offer(IP)).sends(request(IP));
}

/// RFC 2131 §4.4.1: a lease counts from its REQUEST.
#[test]
fn an_ack_that_comes_after_its_lease_is_over_is_no_lease() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.at(2)
        .sends(request(IP))
        .ignores(ack(IP, seconds(1)), Ignored::Incomplete("time left"));
    c.hears(ack(IP, hours(1))).says(Bound(IP));
}

/// RFC 2131 §3.1 (5): who gets no answer to the REQUEST starts over.
#[test]
fn a_request_without_answer_goes_back_to_discover() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    let first = c.last().xid();
    c.at(2).sends(request(IP));
    c.at(4).sends(request(IP));
    // netavark waits for an ACK for 8 s, all told.
    c.at(12).sends(discover());
    assert_ne!(c.last().xid(), first, "a new xid for a new exchange");
    c.ignores(ack(IP, hours(1)).late(), Ignored::OtherExchange);
    c.at(12.5).hears(offer(OTHER_IP)).sends(request(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1))).says(Bound(OTHER_IP));
}

#[test]
fn an_offer_without_ack_is_what_the_caller_is_told() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(10)));
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.at(2).sends(request(IP));
    c.at(4).sends(request(IP));
    c.at(10)
        .says(gave_up("offer of 10.0.0.5 from 10.0.0.1 but no DHCPACK"));
}

/// RFC 2131 §3.1 (5): a NAK means INIT; and a server that always refuses is asked ever more seldom.
#[test]
fn refusals_make_it_slower_and_are_what_the_caller_is_told() {
    let mut c = Conversation::start().without_fuzz();
    let nak = || nak().with(DhcpOption::Message("not\nyours".to_owned()));
    let refused_at = |c: &mut Conversation, second: u32| {
        c.at(second)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(nak());
    };
    refused_at(&mut c, 0);
    refused_at(&mut c, 0); // at once
    refused_at(&mut c, 2);
    refused_at(&mut c, 6);
    refused_at(&mut c, 14);
    refused_at(&mut c, 22);
    refused_at(&mut c, 30);
    refused_at(&mut c, 38);
    c.at(45).says(gave_up("refused by 10.0.0.1: not yours"));
}

/// A refused address is not what we want any more.
#[test]
fn a_nak_makes_it_forget_the_address_that_it_wanted() {
    let mut c = Conversation::start().configured(|config| config.requested = Some(IP));
    c.at(0)
        .sends(discover().wanting(IP))
        .hears(offer(IP))
        .sends(request(IP))
        .hears(nak())
        .sends(discover());
}

/// RFC 2131 §4.1, §4.4.1: replies are told by xid and chaddr; an echo of the client identifier
/// (RFC 6842 §3) does not count, for servers cut and change it.
#[test]
fn replies_to_others_are_ignored() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(offer(IP).late(), Ignored::OtherExchange);
    c.ignores(
        offer(IP).message(|m| _ = m.set_chaddr(&[2, 0, 0, 0, 0, 6])),
        Ignored::OtherClient,
    );
    c.hears(offer(IP).with(DhcpOption::ClientIdentifier(CLIENT_ID[..4].to_vec())))
        .sends(request(IP));
}

#[test]
fn what_is_no_dhcp_reply_is_ignored() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        offer(IP).frame(|f| f[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 6])),
        Ignored::NotForUs,
    );
    c.ignores(
        offer(IP).frame(|f| f[12..14].copy_from_slice(&[0x81, 0x00])),
        Ignored::NotDhcp,
    ); // a VLAN tag
    c.ignores(offer(IP).frame(|f| f.truncate(60)), Ignored::Malformed);
    c.ignores(offer(IP).frame(|f| f[22] ^= 1), Ignored::Checksum); // the IPv4 header
    c.ignores(offer(IP).frame(|f| fragment(f, 0x2000)), Ignored::Fragment); // the first of several
    c.ignores(offer(IP).frame(|f| fragment(f, 1)), Ignored::Fragment); // the last
    c.ignores(offer(IP).frame(|f| f[100] ^= 1), Ignored::Checksum); // the payload
    c.ignores(offer(IP).payload(|p| p[0] = 1), Ignored::Malformed); // a request
    c.ignores(offer(IP).payload(|p| p[236] = 0), Ignored::Malformed); // no magic cookie: BOOTP
    c.ignores(
        ack(IP, hours(1)),
        Ignored::Unexpected {
            message_type: 5,
            state: "SELECTING",
        },
    );
    c.ignores(
        offer(IP).with(DhcpOption::MessageType(MessageType::Inform)),
        Ignored::Unexpected {
            message_type: 8,
            state: "SELECTING",
        },
    );
    c.ignores_frame(&arp_reply(SERVER, SERVER_MAC), Ignored::NotDhcp);
    c.ignores_frame(&[], Ignored::Malformed);
}

fn fragment(frame: &mut [u8], flags_and_offset: u16) {
    frame[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
}

/// RFC 768: 0 is no checksum. Linux between interfaces of one host: the bare pseudo-header sum is
/// no damage.
#[test]
fn checksums_that_nobody_has_filled_in_are_accepted() {
    let unfilled = |frame: &mut Vec<u8>| {
        let udp_length = u32::from(u16::from_be_bytes([frame[38], frame[39]]));
        let addresses = frame[26..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = addresses.sum::<u32>() + 17 + udp_length;
        let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
        frame[40..42].copy_from_slice(&folded.to_be_bytes());
    };
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer(IP).frame(unfilled))
        .sends(request(IP));
    c.hears(ack(IP, hours(1)).frame(|frame| frame[40..42].fill(0)))
        .says(Bound(IP));
}

/// RFC 2131 §4.1: the reply may come by broadcast or to an address that is not ours yet.
#[test]
fn broadcast_replies_are_heard() {
    let mut c = Conversation::start().configured(|config| config.broadcast = true);
    c.at(0).sends(discover());
    assert!(c.last().flags().broadcast());
    c.hears(offer(IP).frame(|frame| frame[0..6].fill(0xff)))
        .sends(request(IP));
    assert!(c.last().flags().broadcast());
}

#[test]
fn what_the_configuration_asks_for_is_asked_for() {
    let mut c = Conversation::start().configured(|config| {
        config.host_name = Some("web".to_owned());
        config.requested = Some(OTHER_IP);
    });
    c.at(0).sends(discover().wanting(OTHER_IP));
    assert!(!c.last().flags().broadcast());
    let expect = |c: &Conversation| {
        let options = c.last().opts();
        assert_eq!(
            options.get(OptionCode::Hostname),
            Some(&DhcpOption::Hostname("web".to_owned()))
        );
        assert_eq!(
            options.get(OptionCode::MaxMessageSize),
            Some(&DhcpOption::MaxMessageSize(1472))
        );
        let Some(DhcpOption::ParameterRequestList(list)) =
            options.get(OptionCode::ParameterRequestList)
        else {
            panic!("no option 55")
        };
        let list: Vec<u8> = list.iter().map(|code| u8::from(*code)).collect();
        assert_eq!(
            list,
            [1, 121, 249, 33, 3, 6, 12, 15, 26, 28, 42, 58, 59, 119]
        );
    };
    expect(&c);
    c.hears(offer(OTHER_IP)).sends(request(OTHER_IP));
    expect(&c);
}

/// Everything that the lease says, once, as a plain server says it.
#[test]
fn a_plain_lease() {
    let mut c = Conversation::bound(hours(2));
    let lease = c.lease().clone();
    assert_eq!(
        (lease.address, lease.mask(), lease.prefix_len),
        (IP, [255, 255, 255, 0].into(), 24)
    );
    assert_eq!(lease.broadcast, Some([10, 0, 0, 255].into()));
    assert_eq!(
        (lease.server_id, lease.server_mac, lease.next_server),
        (SERVER, Some(SERVER_MAC), None)
    );
    assert_eq!(
        (lease.routers, lease.routes),
        (vec![SERVER], Vec::<StaticRoute>::new())
    );
    assert_eq!(lease.lease_time, Some(hours(2)));
    assert_eq!((lease.t1, lease.t2), (hours(1), seconds(6300)));
    assert_eq!(lease.acquired_at, start_of_time());
    c.at(2); // until the second announcement it listens for others who have the address
    assert!(!c.client().is_listening());
}

/// RFC 2131 §4.4.1: a lease counts from the REQUEST, and one from before a long sleep may be over
/// when its ACK comes.
#[test]
fn a_machine_that_slept_over_an_offer_looks_for_another() {
    let mut c = Conversation::start().without_fuzz().patient();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.wakes_at(9999).sends(discover());
}

/// What a client does must be the same every time: chance comes from the seed alone.
#[test]
fn the_same_seed_says_the_same() {
    let frames = |seed| {
        let mut client = Client::new(config(), seed, start_of_time());
        let mut frames = Vec::new();
        let mut out = Vec::new();
        while let Some(due) = client.poll_timeout() {
            client.handle_timeout(due);
            while client.poll_transmit(&mut out).is_some() {
                frames.push((due, out.clone()));
            }
        }
        frames
    };
    assert_eq!(frames(1), frames(1));
    assert_ne!(frames(1), frames(2));
}

/// Some servers leave `chaddr` empty.
#[test]
fn a_reply_to_no_station_in_particular_is_ours_by_its_xid() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        offer(IP).late().message(|m| _ = m.set_chaddr(&[0; 6])),
        Ignored::OtherExchange,
    );
    c.hears(offer(IP).message(|m| _ = m.set_chaddr(&[0; 6])))
        .sends(request(IP));
}

/// A card or a bridge that miscounts does so each time; chance does so once, or twice where a frame
/// comes twice.
#[test]
fn a_damaged_reply_counts_when_it_comes_again_and_again() {
    let at_the_end = |f: &mut Vec<u8>| *f.last_mut().unwrap() ^= 1;
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    c.ignores(offer(OTHER_IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(OTHER_IP).frame(at_the_end), Ignored::Checksum);
    // Some servers choose T1 anew each time.
    for t1 in [1000, 1001] {
        c.ignores(
            offer(IP).with(DhcpOption::Renewal(t1)).frame(at_the_end),
            Ignored::Checksum,
        );
    }
    c.hears(offer(IP).with(DhcpOption::Renewal(1002)).frame(at_the_end))
        .sends(request(IP));
    c.ignores(ack(IP, hours(2)).frame(at_the_end), Ignored::Checksum);
}

/// An ACK that says what such an OFFER has said is read at once.
#[test]
fn a_damaged_ack_counts_with_its_offers() {
    let at_the_end = |f: &mut Vec<u8>| *f.last_mut().unwrap() ^= 1;
    let damaged = |answer: Answer| {
        answer
            .with(DhcpOption::AddressLeaseTime(3600))
            .frame(at_the_end)
    };
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(damaged(offer(IP)), Ignored::Checksum)
        .ignores(damaged(offer(IP)), Ignored::Checksum);
    c.hears(damaged(offer(IP))).sends(request(IP));
    c.hears(damaged(ack(IP, hours(1)))).says(Bound(IP));
}
