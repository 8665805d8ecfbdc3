//! The release of a lease (RFC 2131 §4.4.6), in every state.

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::OptionCode;

/// The fields that dnsmasq checks: the address in ciaddr and as source, the server identifier, the
/// client identifier, and no others.
#[test]
fn the_fields_of_a_release() {
    let mut c = Conversation::bound(hours(1));
    c.at(10).releases().sends(goodbye(IP)).says(Released);
    let mut codes: Vec<u8> = c
        .last()
        .opts()
        .iter()
        .map(|(code, _)| u8::from(*code))
        .collect();
    codes.retain(|code| *code != u8::from(OptionCode::End));
    assert_eq!(codes, [53, 54, 61]);
    assert!(!c.last().flags().broadcast());
    assert_eq!(c.client().poll_timeout(), None);
}

#[test]
fn a_lease_under_renewal_is_released() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .releases()
        .sends(goodbye(IP))
        .says(Released);
    let mut c = Conversation::bound(hours(1));
    c.wakes_at(3150)
        .sends(rebind(IP))
        .releases()
        .sends(goodbye(IP))
        .says(Released);
}

#[test]
fn without_a_lease_nothing_is_sent() {
    let mut c = Conversation::start();
    c.at(0).sends(discover()).releases().says(Released);
    c.at(100);
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .releases()
        .says(Released);
    c.at(100);
}

/// An expired address is not released.
#[test]
fn an_expired_lease_is_not_released() {
    let mut c = Conversation::bound(hours(1));
    c.client().release(start_of_time() + hours(1));
    c.wakes_at(3600).says(Lost(IP, Expired)).says(Released);
}
