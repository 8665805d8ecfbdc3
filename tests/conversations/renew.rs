//! The renewal of a lease, and its loss (RFC 2131 §4.4.5).

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::DhcpOption;
use smol_dhcp_proxy::dhcp::{Event, Ignored};

#[test]
fn renewal_at_t1_is_a_unicast_without_server_or_requested_address() {
    let mut c = Conversation::bound(hours(1));
    let acquisition = c.last().xid();
    c.at(1800).sends(renew(IP));
    assert_ne!(c.last().xid(), acquisition, "a new xid for a new exchange");
    assert!(c.client().is_listening());
    c.at(1801).hears(ack(IP, hours(1))).says(Renewed(IP));
    c.at(1801.2); // an owner of the address would have answered the probe by now
    assert!(!c.client().is_listening());
    c.at(3600).sends(renew(IP)); // T1 of a lease that counts from its REQUEST at 1800
}

/// T1 and T2 of the server are used.
#[test]
fn t1_and_t2_of_the_server() {
    let ack = || {
        ack(IP, seconds(120))
            .with(DhcpOption::Renewal(10))
            .with(DhcpOption::Rebinding(70))
    };
    let mut c = Conversation::bound_by(ack());
    c.at(10).sends(renew(IP)).hears(ack()).says(Renewed(IP));
    c.at(20).sends(renew(IP));
    c.at(50).sends(renew(IP));
    c.at(65).sends(renew(IP));
    c.at(80).sends(rebind(IP));
    c.at(105).sends(rebind(IP));
    c.at(117.5).sends(rebind(IP));
    c.at(130)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
}

/// Half of the remaining time, and at least a minute; at T2 by broadcast from the leased address;
/// at the end INIT.
#[test]
fn without_an_answer_the_lease_expires() {
    let mut c = Conversation::bound(hours(1));
    for second in [1800.0, 2475.0, 2812.5, 2981.25, 3065.625, 3125.625] {
        c.at(second).sends(renew(IP));
    }
    c.at(3150).sends(rebind(IP)); // T2
    c.at(3375).sends(rebind(IP));
    c.at(3487.5).sends(rebind(IP));
    c.at(3547.5).sends(rebind(IP));
    c.at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
    c.at(3604).sends(discover().wanting(IP)); // no caller waits: 4, 8, 16 .. s
    c.at(3612).sends(discover()); // for any address
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP));
}

#[test]
fn any_server_may_answer_a_rebind() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP));
    c.wakes_at(3150).sends(rebind(IP));
    c.at(3151)
        .hears(ack(IP, hours(1)).from(OTHER_SERVER))
        .says(Renewed(IP));
    assert_eq!(c.lease().server_id, OTHER_SERVER);
}

#[test]
fn any_server_may_refuse_a_rebind() {
    let mut c = Conversation::bound(hours(1));
    c.wakes_at(3150)
        .sends(rebind(IP))
        .hears(nak().from(OTHER_SERVER))
        .says(Lost(IP, Refused))
        .sends(discover());
}

/// By another identifier than the address that has answered, the next unicast would not reach it.
/// The answer of a relay or of another server counts by its identifier.
#[test]
fn a_server_that_answers_its_own_renewal_keeps_its_identifier() {
    let mut c = Conversation::bound(hours(1));
    let renamed = || ack(IP, hours(1)).from(OTHER_SERVER);
    c.at(1800)
        .sends(renew(IP))
        .hears(renamed())
        .says(Renewed(IP));
    assert_eq!(c.lease().server_id, SERVER);
    c.at(3600).sends(renew(IP));
    let payload = renamed().payload_for(c.last().xid());
    c.hears_frame(&server_frame(&payload, OTHER_SERVER, IP))
        .says(Renewed(IP));
    assert_eq!(c.lease().server_id, OTHER_SERVER);
}

#[test]
fn only_our_server_may_refuse_a_renewal() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP));
    c.ignores(nak().from(OTHER_SERVER), Ignored::OtherServer(OTHER_SERVER));
    c.hears(nak()).says(Lost(IP, Refused)).sends(discover());
}

#[test]
fn late_and_repeated_replies_change_nothing() {
    let mut c = Conversation::bound(hours(1));
    c.ignores(ack(IP, hours(9)), Ignored::OtherExchange);
    c.ignores(nak(), Ignored::OtherExchange);
    c.at(1800)
        .sends(renew(IP))
        .ignores(nak().late(), Ignored::OtherExchange);
    c.hears(ack(IP, hours(1)))
        .says(Renewed(IP))
        .ignores(ack(IP, hours(1)), Ignored::OtherExchange);
}

#[test]
fn a_renewal_may_bring_another_address_or_other_settings() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Changed(IP, OTHER_IP));
    c.at(3600).sends(renew(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)).with(DhcpOption::InterfaceMtu(1400)));
    let Event::Changed { old, new } = c.event() else {
        panic!("not Changed")
    };
    assert_eq!(
        (old.mtu, new.mtu, old.address),
        (None, Some(1400), new.address)
    );
}

/// RFC 2131 §3.3: 0xffffffff is infinite.
#[test]
fn an_infinite_lease_is_never_renewed() {
    let mut c = Conversation::bound_by(ack(IP, seconds(u64::MAX)).with(DhcpOption::Renewal(10)));
    assert_eq!(
        (
            c.lease().lease_time,
            c.lease().renew_at(),
            c.lease().expires_at()
        ),
        (None, None, None)
    );
    c.at(2); // the second announcement
    assert_eq!(c.client().poll_timeout(), None);
    c.at(4_000_000_000_u32);
    c.releases().sends(goodbye(IP)).says(Released);
}

/// CLOCK_BOOTTIME counts the time in suspend: after it the client does what is due, once.
#[test]
fn after_a_suspend_missed_renewals_are_skipped() {
    let mut c = Conversation::bound(hours(1));
    c.wakes_at(3200).sends(rebind(IP));
    let mut c = Conversation::bound(hours(1));
    c.wakes_at(9999)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
}

/// An answer that was still in the queue when the lease expired is too late.
#[test]
fn timers_come_before_frames() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP));
    c.wakes_at(3150).sends(rebind(IP));
    let frame = c.frame(&ack(IP, hours(1)));
    let end = start_of_time() + hours(1);
    assert_eq!(
        c.client().handle_packet(&frame, end),
        Err(Ignored::OtherExchange)
    );
    c.wakes_at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
}

/// RFC 2131 §4.4.1: a lease counts from the first REQUEST with the xid of the ACK.
#[test]
fn a_lease_counts_from_its_request() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    c.at(0.5).hears(offer(IP)).sends(request(IP));
    c.at(2.5).sends(request(IP));
    c.at(4).hears(ack(IP, hours(1))).says(Bound(IP));
    c.at(1800.5).sends(renew(IP));
    c.at(2475.5)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
    let later = std::time::Duration::from_millis(2_475_500);
    assert_eq!(
        c.lease().acquired_at,
        start_of_time() + later,
        "a minute later it is another exchange"
    );
}

/// Hours may lie between the REQUESTs of one renewal: a server that now leases for minutes still
/// gives those.
#[test]
fn a_shorter_lease_in_a_late_renewal_is_accepted() {
    let mut c = Conversation::bound(hours(96));
    c.at(172_800).sends(renew(IP));
    c.at(237_600)
        .sends(renew(IP))
        .hears(ack(IP, seconds(600)))
        .says(Renewed(IP));
    c.at(237_900).sends(renew(IP));
}

/// Without a caller, a server that always refuses gets two messages in ever longer intervals.
#[test]
fn naks_in_a_row_double_the_delay() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .hears(nak())
        .says(Lost(IP, Refused));
    let mut at = 1800;
    for wait in [0, 2, 4, 8, 16, 32, 64, 128, 128, 128] {
        at += wait;
        c.at(at)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(nak());
    }
}

/// A client that has held a lease for long does not wait after a refusal.
#[test]
fn a_long_lease_makes_up_for_earlier_failures() {
    let mut c = Conversation::bound(hours(1));
    for n in 1..5 {
        c.at(n * 1800)
            .sends(renew(IP))
            .hears(nak())
            .says(Lost(IP, Refused))
            .sends(discover());
        c.hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)))
            .says(Bound(IP));
    }
}

/// Neither does a client with a short lease that was renewed all day.
#[test]
fn renewals_make_up_for_earlier_failures() {
    let mut c = Conversation::bound(seconds(120));
    for at in (60..=1200).step_by(60) {
        c.at(at).sends(renew(IP));
        if at % 240 == 0 {
            c.hears(nak())
                .says(Lost(IP, Refused))
                .sends(discover())
                .hears(offer(IP))
                .sends(request(IP));
            c.hears(ack(IP, seconds(120))).says(Bound(IP));
        } else {
            c.hears(ack(IP, seconds(120))).says(Renewed(IP));
        }
    }
}
