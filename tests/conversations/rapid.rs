//! Rapid commit: two messages instead of four (RFC 4039); and the offer of the requested address.

use super::double::{Says::*, *};
use dhcproto::v4::{DhcpOption, OptionCode};
use smol_dhcp_proxy::dhcp::Ignored;

fn rapid_ack() -> Answer {
    ack(IP, hours(1)).with(DhcpOption::RapidCommit)
}

/// RFC 4039 §3.1: option 80 is in the DISCOVER alone.
#[test]
fn an_ack_is_the_answer_to_a_discover() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0).sends(discover());
    assert!(c.last().opts().contains(OptionCode::RapidCommit));
    c.hears(rapid_ack())
        .says(Bound(IP))
        .sends(probe(IP))
        .sends(announcement(IP));
    c.at(2).sends(announcement(IP));
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    assert!(!c.last().opts().contains(OptionCode::RapidCommit));
}

/// RFC 4039 §3.1: a server that does not know it sends an OFFER.
#[test]
fn an_offer_in_answer_to_rapid_commit_is_accepted() {
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    assert!(!c.last().opts().contains(OptionCode::RapidCommit));
    c.ignores(
        rapid_ack().of(OTHER_IP).from(OTHER_SERVER),
        Ignored::OtherServer(OTHER_SERVER),
    );
    c.hears(ack(IP, hours(1))).says(Bound(IP));
}

/// RFC 4039 §3.1: an ACK without the option is no answer to a DISCOVER.
#[test]
fn an_ack_without_rapid_commit_is_ignored() {
    let mut c = Conversation::start();
    c.at(0).sends(discover());
    c.ignores(
        ack(IP, hours(1)),
        Ignored::Unexpected {
            message_type: 5,
            state: "SELECTING",
        },
    );
}

/// The server's clock may have started at the first DISCOVER of a round, but not in an earlier
/// round.
#[test]
fn a_lease_counts_from_the_round_of_its_ack() {
    let mut c = Conversation::start().without_fuzz().patient();
    for second in [0, 4, 12, 28, 60, 124] {
        c.at(second).sends(discover());
    }
    c.at(125).hears(rapid_ack()).says(Bound(IP));
    assert_eq!(c.lease().acquired_at, start_of_time() + seconds(124));
}

fn wanting() -> Conversation {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.requested = Some(IP));
    c.at(0).sends(discover().wanting(IP));
    c
}

/// The first offer is accepted, unless one of the requested address comes within 100 ms.
#[test]
fn an_offer_of_the_requested_address_has_100_ms() {
    let mut c = wanting();
    c.hears(offer(OTHER_IP).from(OTHER_SERVER));
    c.at(0.09)
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));

    let mut c = wanting();
    c.hears(offer(OTHER_IP));
    c.at(0.1)
        .sends(request(OTHER_IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP));
    // A lease counts from its REQUEST.
    assert_eq!(
        c.lease().acquired_at,
        start_of_time() + std::time::Duration::from_millis(100)
    );
}

#[test]
fn an_offer_of_the_requested_address_is_accepted_at_once() {
    wanting().hears(offer(IP)).sends(request(IP));
}

/// Of other addresses the first one is accepted.
#[test]
fn a_third_offer_changes_nothing() {
    let mut c = wanting();
    let third = [10, 0, 0, 7].into();
    c.hears(offer(OTHER_IP)).ignores(
        offer(third),
        Ignored::Unexpected {
            message_type: 2,
            state: "SELECTING",
        },
    );
    c.at(0.1).sends(request(OTHER_IP));
}
