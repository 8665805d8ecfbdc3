//! Replies that cannot be used.

use super::conversation::{IP, OTHER, Offered, SERVER_MAC, Talk, claim, offer};
use crate::dhcp::discovery::ReplyFault;
use crate::dhcp::ignored::Ignored;
use crate::mac::Mac;
use smoltcp::wire::Ipv4Packet;
use std::net::Ipv4Addr;

fn counted(talk: &Talk) -> Vec<(ReplyFault, u32, Mac)> {
    talk.discovery.ignored().iter().collect()
}

#[test]
fn frames_that_cannot_be_read_are_counted() {
    let mut talk = Talk::start();
    let mut fragment = offer(IP).frame(1);
    let mut ip = Ipv4Packet::new_unchecked(&mut fragment[14..]);
    ip.set_more_frags(true);
    ip.fill_checksum();
    assert_eq!(talk.hears(&fragment), Err(Ignored::Fragment));
    assert_eq!(talk.hears(&fragment), Err(Ignored::Fragment));
    assert_eq!(talk.hears(&fragment[..60]), Err(Ignored::Malformed));
    assert_eq!(
        counted(&talk),
        [
            (ReplyFault::Fragment, 2, SERVER_MAC),
            (ReplyFault::Malformed, 1, SERVER_MAC)
        ]
    );
    // Malformed ARP is no reply.
    let arp = claim(IP, OTHER);
    assert_eq!(talk.hears(&arp[..20]), Err(Ignored::Malformed));
    assert_eq!(counted(&talk)[1], (ReplyFault::Malformed, 1, SERVER_MAC));
}

/// Each of these servers would be silent otherwise, and the advice a wrong one.
#[test]
fn messages_that_cannot_be_used_are_counted_by_reason() {
    let mut talk = Talk::start();
    let nowhere = Ipv4Addr::UNSPECIFIED;
    let with = |kind, change| Offered {
        kind,
        change,
        ..offer(IP)
    };
    let unnamed = Offered {
        id: None,
        source: nowhere,
        mac: OTHER,
        ..offer(IP)
    };
    for reply in [
        with(0, |_| ()),
        with(6, |_| ()),
        with(9, |_| ()),
        unnamed,
        with(2, |payload| payload[236] ^= 1),
        with(2, |payload| payload.truncate(100)),
        with(2, |payload| payload.truncate(6)),
        with(6, |_| ()),
    ] {
        assert!(talk.answers(1, &reply).is_err());
    }
    assert_eq!(
        counted(&talk),
        [
            (ReplyFault::NoMessageType, 1, SERVER_MAC),
            (ReplyFault::OtherType(6), 2, SERVER_MAC),
            (ReplyFault::OtherType(9), 1, SERVER_MAC),
            (ReplyFault::NoServer, 1, OTHER),
            (ReplyFault::Malformed, 3, SERVER_MAC),
        ]
    );
    assert!(talk.discovery.servers().is_empty());
}

/// The host's own DHCP client has the same MAC.
#[test]
fn replies_of_other_exchanges_are_not_counted() {
    let mut talk = Talk::start();
    let with = |kind, change| Offered {
        kind,
        change,
        ..offer(IP)
    };
    for reply in [
        with(0, |_| ()),
        with(6, |_| ()),
        with(2, |payload| payload[236] ^= 1),
    ] {
        assert!(talk.hears(&reply.frame(0x0123_4567)).is_err());
    }
    assert_eq!(counted(&talk), []);
}
