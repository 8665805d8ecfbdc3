//! The acquisition of a lease, and its failures (RFC 2131 §3.1, §4.4.1).

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

/// The delays while a caller waits, and the error at its deadline.
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

/// A deadline can be extended and not shortened, and not after it has passed.
#[test]
fn the_deadline_can_be_extended() {
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

/// RFC 2131 §4.1: 4, 8, 16, 32 and 64 s, and five minutes in the long run.
#[test]
fn without_a_caller_the_delays_are_those_of_the_rfc() {
    let mut c = Conversation::start().without_fuzz().patient();
    for second in [0, 4, 12, 28, 60, 124, 188, 252, 316, 380, 444, 744, 1044] {
        c.at(second).sends(discover());
    }
}

/// RFC 2131 §4.1: `secs` counts from the start, and the REQUEST repeats the `secs` and the xid of
/// the DISCOVER.
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

/// RFC 2131 §4.4.1: a client may accept the first offer, and then ignores others.
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

/// An offer must have an address that a host can have.
#[test]
fn an_unusable_offer_is_ignored() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        offer(IP).without(OptionCode::MessageType),
        Ignored::Incomplete("message type"),
    );
    c.ignores(offer(UNSPECIFIED), Ignored::Incomplete("address"));
    c.ignores(offer([255; 4].into()), Ignored::Incomplete("address"));
    c.ignores(offer([127, 0, 0, 1].into()), Ignored::Incomplete("address"));
    c.hears(offer(IP)).sends(request(IP));
}

/// RFC 2131 §4.4.1: a lease counts from its REQUEST.
#[test]
fn an_ack_after_the_end_of_its_lease_is_ignored() {
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

/// RFC 2131 §3.1 (5): without an answer to the REQUEST the client starts again.
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
    // netavark waits for an ACK for 8 s in total.
    c.at(12).sends(discover());
    assert_ne!(c.last().xid(), first, "a new xid for a new exchange");
    c.ignores(ack(IP, hours(1)).late(), Ignored::OtherExchange);
    c.at(12.5).hears(offer(OTHER_IP)).sends(request(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1))).says(Bound(OTHER_IP));
}

#[test]
fn an_offer_without_ack_is_reported() {
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

/// RFC 2131 §3.1 (5): a NAK leads to INIT. The delays double for a server that always refuses.
#[test]
fn refusals_double_the_delay_and_are_reported() {
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

/// A refused address is not requested again.
#[test]
fn a_nak_ends_the_request_for_an_address() {
    let mut c = Conversation::start().configured(|config| config.requested = Some(IP));
    c.at(0)
        .sends(discover().wanting(IP))
        .hears(offer(IP))
        .sends(request(IP))
        .hears(nak())
        .sends(discover());
}

/// RFC 2131 §4.1, §4.4.1: replies are identified by xid and chaddr. The client identifier in a
/// reply (RFC 6842 §3) is not compared, because servers truncate and change it.
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
fn other_packets_are_ignored() {
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

/// RFC 768: 0 means no checksum. Between interfaces of one host Linux leaves the sum over the
/// pseudo-header, which is no damage.
#[test]
fn missing_checksums_are_accepted() {
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

/// RFC 2131 §4.1: the reply may be a broadcast, or a unicast to an address that is not in use yet.
#[test]
fn broadcast_replies_are_accepted() {
    let mut c = Conversation::start().configured(|config| config.broadcast = true);
    c.at(0).sends(discover());
    assert!(c.last().flags().broadcast());
    c.hears(offer(IP).frame(|frame| frame[0..6].fill(0xff)))
        .sends(request(IP));
    assert!(c.last().flags().broadcast());
}

#[test]
fn the_options_of_the_configuration_are_sent() {
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

/// All fields of a lease from a simple server.
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
    c.at(2); // until the second announcement it listens for an owner of the address
    assert!(!c.client().is_listening());
}

/// RFC 2131 §4.4.1: a lease counts from its REQUEST, and may expire before its ACK after a long
/// suspend.
#[test]
fn an_offer_of_before_a_suspend_is_not_requested() {
    let mut c = Conversation::start().without_fuzz().patient();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.wakes_at(9999).sends(discover());
}

/// A client is deterministic: only the seed makes random choices differ.
#[test]
fn the_same_seed_sends_the_same_messages() {
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
fn a_reply_without_chaddr_is_accepted_by_its_xid() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        offer(IP).late().message(|m| _ = m.set_chaddr(&[0; 6])),
        Ignored::OtherExchange,
    );
    c.hears(offer(IP).message(|m| _ = m.set_chaddr(&[0; 6])))
        .sends(request(IP));
}

/// A card or a bridge that miscounts does so for each frame; random damage occurs once, or twice if
/// the frame is duplicated.
#[test]
fn a_repeated_damaged_reply_is_accepted() {
    let at_the_end = |f: &mut Vec<u8>| *f.last_mut().unwrap() ^= 1;
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    c.ignores(offer(OTHER_IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(IP).frame(at_the_end), Ignored::Checksum);
    c.ignores(offer(OTHER_IP).frame(at_the_end), Ignored::Checksum);
    // Some servers randomize T1.
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

/// An ACK with the content of the damaged OFFERs is accepted at once.
#[test]
fn a_damaged_ack_counts_with_equal_offers() {
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
