//! An interface without a carrier: nothing is sent, and all is sent again at its return
//! (RFC 2131 §3.7).

use super::double::{Lost::*, Says::*, *};

/// A client without a carrier from the start.
fn without_carrier(config: impl FnOnce(&mut smol_dhcp_proxy::dhcp::Config)) -> Conversation {
    let mut c = Conversation::start().without_fuzz().configured(config);
    c.at(0).sends(discover()).carrier(false);
    c
}

#[test]
fn the_search_starts_when_the_carrier_comes() {
    let mut c = without_carrier(|_| ());
    assert!(c.client().is_listening());
    c.at(20).carrier(true).sends(discover());
    c.at(21).sends(discover()); // with the delays of a new search
    c.at(22)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

#[test]
fn a_missing_carrier_is_reported() {
    let mut c = without_carrier(|config| config.deadline = Some(seconds(3)));
    c.at(3).says(gave_up("no carrier"));
    c.carrier(true).at(100);
    let why = smol_dhcp_proxy::dhcp::AcquireError::NoCarrier;
    assert_eq!(why.on("eth0"), "no carrier on eth0");
}

/// The carrier may be of another network, so a search starts again.
#[test]
fn a_search_starts_again() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .carrier(false);
    c.at(5).carrier(true).sends(discover());

    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0).sends(reboot_request(IP)).carrier(false);
    c.at(10).carrier(true).sends(reboot_request(IP));
    c.at(12).sends(reboot_request(IP));
}

/// An offer that was still in the queue is accepted; but no REQUEST is sent.
#[test]
fn nothing_is_sent_without_a_carrier() {
    let mut c = without_carrier(|_| ());
    c.hears(offer(IP));
    c.at(10).carrier(true).sends(discover());
}

/// A renewal is retransmitted, and a lease expires without a carrier as with one.
#[test]
fn a_renewal_waits_for_the_carrier() {
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

/// T1 comes without a carrier, too: from then on the client waits for its return.
#[test]
fn a_bound_client_ignores_the_loss_until_t1() {
    let mut c = Conversation::bound(hours(1));
    c.at(10).carrier(false);
    assert!(!c.client().is_listening());
    c.at(1800);
    assert!(c.client().is_listening());
    c.at(1900).carrier(true).sends(renew(IP));
}

/// RFC 2131 §3.7: after a loss of the carrier the lease is verified.
#[test]
fn a_bound_client_renews_at_the_return_of_the_carrier() {
    let mut c = Conversation::bound(hours(1));
    c.at(1).carrier(false);
    c.at(10)
        .carrier(true)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
}

/// A port that has just come up may drop frames for a while, and the network may be another one:
/// half of the time until T2 would be long then and, for an infinite lease, endless.
#[test]
fn an_unanswered_renewal_before_t1_is_retransmitted() {
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

/// A message that was queued before the loss and not sent is not counted.
#[test]
fn a_message_that_was_not_sent_is_not_counted() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(2)));
    let now = start_of_time();
    c.client().handle_carrier(false, now);
    c.at(1.5).carrier(true).sends(discover());
    c.at(2)
        .says(gave_up("no DHCPOFFER within 2 s (1 DISCOVER sent)"));
}

/// Probes without a carrier prove nothing.
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

/// A flapping link does not cause a flood: see `rate.rs` for the limit.
#[test]
fn a_repeated_carrier_state_changes_nothing() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover()).carrier(true).carrier(true);
    c.at(1).sends(discover());
}
