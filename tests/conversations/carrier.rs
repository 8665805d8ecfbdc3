//! A link without anybody at its other end: nothing is said into it, and all is said again when
//! there is (RFC 2131 §3.7).

use super::double::{Lost::*, Says::*, *};

/// A client that heard at once that there is no carrier.
fn without_carrier(config: impl FnOnce(&mut smol_dhcp_proxy::dhcp::Config)) -> Conversation {
    let mut c = Conversation::start().without_fuzz().configured(config);
    c.at(0).sends(discover()).carrier(false);
    c
}

#[test]
fn a_late_carrier_is_waited_for() {
    let mut c = without_carrier(|_| ());
    assert!(c.client().is_listening());
    c.at(20).carrier(true).sends(discover());
    c.at(21).sends(discover()); // as brisk as if it had just begun
    c.at(22)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

#[test]
fn without_one_that_is_the_reason() {
    let mut c = without_carrier(|config| config.deadline = Some(seconds(3)));
    c.at(3).says(gave_up("no carrier"));
    c.carrier(true).at(100);
    let why = smol_dhcp_proxy::dhcp::AcquireError::NoCarrier;
    assert_eq!(why.on("eth0"), "no carrier on eth0");
}

/// What was under way on another network, for all we know, begins anew.
#[test]
fn what_had_not_come_to_a_lease_starts_over() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .carrier(false);
    c.at(5).carrier(true).sends(discover());

    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0).sends(may_i_keep(IP)).carrier(false);
    c.at(10).carrier(true).sends(may_i_keep(IP));
    c.at(12).sends(may_i_keep(IP));
}

/// An offer that was still in the queue is as good as ever; but there is no use in answering it.
#[test]
fn nothing_is_said_into_a_dead_link() {
    let mut c = without_carrier(|_| ());
    c.hears(offer(IP));
    c.at(10).carrier(true).sends(discover());
}

/// A renewal is said again, and a lease runs out without a carrier as with one.
#[test]
fn a_renewal_waits_for_it() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP)).carrier(false);
    c.at(2000)
        .carrier(true)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));

    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP)).carrier(false);
    c.at(3200).carrier(true).sends(rebind(IP));

    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP)).carrier(false);
    c.at(3600).says(Lost(IP, Expired));
    assert!(c.client().is_listening());
    c.at(5000).carrier(true).sends(discover().wanting(IP));
}

/// T1 comes whether or not there is a carrier: from then on it listens for one.
#[test]
fn a_bound_client_does_not_care_until_t1() {
    let mut c = Conversation::bound(hours(1));
    c.at(10).carrier(false);
    assert!(!c.client().is_listening());
    c.at(1800);
    assert!(c.client().is_listening());
    c.at(1900).carrier(true).sends(renew(IP));
}

/// The link was elsewhere for a moment: RFC 2131 §3.7 wants to know whether the lease still holds.
#[test]
fn a_bound_client_that_hears_of_its_return_asks_at_once() {
    let mut c = Conversation::bound(hours(1));
    c.at(1).carrier(false);
    c.at(10)
        .carrier(true)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
}

/// A port that has just come back may be deaf for a while, and the network another one: half of the
/// time until T2 would be long then, and in a lease for ever it would never end.
#[test]
fn who_asks_before_t1_and_hears_nothing_asks_again() {
    for lease in [hours(24), seconds(u64::MAX)] {
        let mut c = Conversation::bound(lease);
        c.at(1).carrier(false);
        c.at(10).carrier(true).sends(renew(IP));
        c.at(310).sends(renew(IP));
        c.at(610)
            .sends(renew(IP))
            .hears(ack(IP, lease))
            .says(Renewed(IP));
    }
}

/// What was made ready before the news and never sent is not counted.
#[test]
fn what_was_not_sent_is_not_counted() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(2)));
    let now = start_of_time();
    c.client().handle_carrier(false, now);
    c.at(1.5).carrier(true).sends(discover());
    c.at(2)
        .says(gave_up("no DHCPOFFER within 2 s (1 DISCOVER sent)"));
}

/// Probes that nobody could answer prove nothing.
#[test]
fn probing_ends_with_the_deadline_too() {
    let mut c = Conversation::start().without_fuzz().configured(|config| {
        (config.probe, config.deadline) =
            (smol_dhcp_proxy::dhcp::Probe::Before(3), Some(seconds(4)));
    });
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .carrier(false);
    c.at(4).says(gave_up("no carrier"));
}

/// A link that flaps may not make it a chatterbox: see `pace.rs` for the limit.
#[test]
fn the_same_news_twice_is_no_news() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover()).carrier(true).carrier(true);
    c.at(1).sends(discover());
}
