//! Suspended clients, and the clients that are resumed from their snapshots (RFC 2131 §4.4.2,
//! §4.4.5).

use super::double::{Lost::*, Says::*, *};
use smol_dhcp_proxy::dhcp::{Ignored, Lease, Phase, Probe, Snapshot};
use smol_dhcp_proxy::time::Instant;
use std::time::Duration;

fn second(n: u64) -> Instant {
    start_of_time() + seconds(n)
}

fn patient() -> Conversation {
    Conversation::start().without_fuzz().patient()
}

/// A conversation whose carrier is lost after `beginning`.
fn without_carrier(mut c: Conversation, beginning: impl FnOnce(&mut Conversation)) -> Conversation {
    beginning(c.at(0));
    c.carrier(false);
    c
}

/// At any time the resumed client sends the messages of the suspended one.
#[test]
fn a_lease_is_kept_by_successive_clients() {
    let mut c = Conversation::bound(hours(1));
    assert!(matches!(c.at(2).suspend().phase, Phase::Bound { .. }));
    c.resumes_at(1000)
        .resumes_at(1800)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
    assert_eq!(c.suspend().due(), Some(second(3600)));
    c.resumes_at(3600).sends(renew(IP));
}

#[test]
fn successive_clients_without_an_answer_go_through_all_states() {
    let mut c = Conversation::bound(hours(1));
    for second in [1800.0, 2475.0, 2812.5, 2981.25, 3065.625, 3125.625] {
        c.resumes_at(second).sends(renew(IP));
        assert!(matches!(c.suspend().phase, Phase::Renewing { .. }));
    }
    for second in [3150.0, 3375.0, 3487.5, 3547.5] {
        c.resumes_at(second).sends(rebind(IP));
        assert!(matches!(c.suspend().phase, Phase::Rebinding { .. }));
    }
    c.resumes_at(3599)
        .at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
    for second in [
        3604, 3612, 3628, 3660, 3724, 3788, 3852, 3916, 3980, 4044, 4344, 4644,
    ] {
        assert!(matches!(c.suspend().phase, Phase::Init { .. }));
        // The address is requested twice.
        c.resumes_at(second).sends(if second == 3604 {
            discover().wanting(IP)
        } else {
            discover()
        });
        let secs = u64::from(c.last().secs());
        assert_eq!(
            secs,
            u64::try_from(second).unwrap() - 3600,
            "they count from the loss"
        );
    }
    c.hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

/// `secs` counts from T1, and the answer to the exchange of another client is ignored.
#[test]
fn a_resumed_renewal_has_another_xid() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP));
    let first = c.last().xid();
    c.resumes_at(2000)
        .ignores(ack(IP, hours(1)), Ignored::OtherExchange);
    c.at(2475).sends(renew(IP));
    assert_eq!(c.last().secs(), 675);
    assert_ne!(c.last().xid(), first);
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
    assert_eq!(
        c.lease().acquired_at,
        second(2475),
        "it counts from the question that was answered"
    );
}

/// No client ran at T1, at T2 or at the end.
#[test]
fn a_late_resume_enters_the_due_state() {
    let bound = || Conversation::bound(hours(1));
    bound().resumes_at(2000).sends(renew(IP));
    bound().resumes_at(3200).sends(rebind(IP));
    bound()
        .resumes_at(3600)
        .says(Lost(IP, Expired))
        .sends(reboot_request(IP));

    let mut c = bound();
    c.at(1800).sends(renew(IP));
    c.resumes_at(3150)
        .sends(rebind(IP))
        .resumes_at(4000)
        .says(Lost(IP, Expired))
        .sends(reboot_request(IP));
}

/// The server may have kept the address: it is requested, and then any other.
#[test]
fn an_expired_lease_is_requested_again() {
    let away = || {
        let mut c = Conversation::bound(hours(1));
        c.resumes_at(9000)
            .says(Lost(IP, Expired))
            .sends(reboot_request(IP));
        assert_eq!(c.client().suspend(), None, "an answer is under way");
        c
    };
    away()
        .hears(ack(IP, hours(1)).from(OTHER_SERVER))
        .says(Bound(IP));
    away().hears(nak()).sends(discover());
    let mut c = away();
    c.at(9002).sends(reboot_request(IP));
    c.at(9005).sends(discover().wanting(IP));
}

#[test]
fn renewing_and_rebinding_listen_for_ten_seconds() {
    let mut c = Conversation::bound(hours(1));
    for at in [1800_u32, 2475] {
        c.at(at).sends(renew(IP));
        c.at(f64::from(at) + 9.9);
        assert!(c.client().is_listening());
        assert_eq!(
            c.client().poll_timeout(),
            Some(second(at.into()) + seconds(10))
        );
        c.at(at + 10);
        assert!(!c.client().is_listening() && c.client().state() == "RENEWING");
    }
    c.wakes_at(3150).sends(rebind(IP)).at(3160);
    assert!(!c.client().is_listening() && c.client().state() == "REBINDING");
    assert_eq!(c.client().poll_timeout(), Some(second(3375)));
    // The client does not listen, but accepts an answer that arrives.
    c.at(3200).hears(ack(IP, hours(1))).says(Renewed(IP));
}

#[test]
fn without_a_caller_selecting_listens_for_ten_seconds() {
    let mut c = patient();
    c.at(0)
        .sends(discover())
        .at(4)
        .sends(discover())
        .at(12)
        .sends(discover());
    c.at(21);
    assert!(c.client().is_listening());
    c.at(22);
    assert!(!c.client().is_listening() && c.client().state() == "INIT");
    assert_eq!(c.client().poll_timeout(), Some(second(28)));
    c.at(28)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

/// An offer outlasts the ten seconds while it waits for another one.
#[test]
fn a_waiting_offer_outlasts_the_ten_seconds() {
    let mut c = patient().configured(|config| config.requested = Some(OTHER_IP));
    for at in [0, 4] {
        c.at(at).sends(discover().wanting(OTHER_IP));
    }
    c.at(11.95).hears(offer(IP));
    assert_eq!(c.client().suspend(), None);
    c.at(12.05)
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

#[test]
fn with_a_caller_selecting_always_listens() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(3600)));
    c.at(0).sends(discover());
    for at in [1, 2] {
        c.at(at).sends(discover());
    }
    assert_eq!(c.client().poll_timeout(), Some(second(3)));
    c.carrier(false).at(100);
    assert!(c.client().is_listening());
    assert_eq!(c.client().suspend(), None, "a caller waits");
    c.carrier(true).sends(discover());
}

/// A client whose next step depends on an answer has no snapshot, and neither has one after the
/// end.
#[test]
fn a_client_that_needs_an_answer_cannot_be_suspended() {
    let no_snapshot = |c: &mut Conversation, state: &str| {
        assert_eq!((c.client().state(), c.client().suspend()), (state, None))
    };
    let mut c = patient();
    no_snapshot(
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP)),
        "REQUESTING",
    );
    let mut c = patient().configured(|config| config.probe = Probe::Before(3));
    no_snapshot(
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1))),
        "PROBING",
    );
    let mut c = Conversation::reboot(IP).patient();
    no_snapshot(c.at(0).sends(reboot_request(IP)), "REBOOTING");
    let far = Lease {
        server_mac: None,
        ..Conversation::bound(hours(1)).lease().clone()
    };
    let mut c = Conversation::resume(bound_with(far));
    no_snapshot(c.at(10).releases().sends(who_has(SERVER)), "RELEASING");
    no_snapshot(c.at(10.2).says(Released), "STOPPED");
}

/// The snapshot can be stored before the outputs are applied, so that a crash loses nothing.
#[test]
fn a_snapshot_is_possible_before_the_outputs_are_polled() {
    let mut c = patient();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    let ack = c.frame(&ack(IP, hours(1)));
    assert_eq!(c.client().handle_packet(&ack, start_of_time()), Ok(()));
    let before = c.client().suspend();
    assert!(
        before
            .as_ref()
            .is_some_and(|snapshot| snapshot.lease().is_some_and(|lease| lease.address == IP)),
        "{before:?}"
    );
    assert_eq!(Some(c.at(0).says(Bound(IP)).suspend()), before);
}

/// A client that is suspended during a conflict watch notices no conflict; the next renewal probes
/// again.
#[test]
fn a_conflict_watch_ends_with_the_client() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.at(1).resumes_at(1);
    assert!(!c.client().is_listening());
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    c.resumes_at(2475).sends(renew(IP)); // The address was probed in this renewal.
}

/// RFC 2131 §4.4.5 allows it, for a process that is awake anyway. Without an answer the delays are
/// as usual.
#[test]
fn a_lease_may_be_renewed_before_t1() {
    let mut snapshot = Conversation::bound(hours(1)).at(5).suspend();
    snapshot.renew_now(second(1700));
    assert_eq!(snapshot.due(), Some(second(1700)));
    let mut c = Conversation::resume(snapshot.clone()).without_fuzz();
    c.at(1700)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP))
        .at(3500)
        .sends(renew(IP));

    let mut c = Conversation::resume(snapshot).without_fuzz();
    c.at(1700).sends(renew(IP));
    c.resumes_at(2000)
        .sends(renew(IP))
        .resumes_at(2575)
        .sends(renew(IP));
    let mut snapshot = c.suspend();
    let before = snapshot.clone();
    snapshot.renew_now(second(2600));
    assert_eq!(snapshot, before, "it is under way already");
    let mut late = Conversation::bound(hours(1)).at(5).suspend();
    late.renew_now(second(3000));
    assert_eq!(late.due(), Some(second(1800)), "T1 does not move away");
}

#[test]
fn the_getters_of_a_snapshot() {
    let snapshot = Conversation::bound(hours(1)).at(5).suspend();
    assert_eq!(
        (
            snapshot.lease().map(|lease| lease.address),
            snapshot.server()
        ),
        (Some(IP), Some(SERVER))
    );
    let snapshot = patient().at(0).sends(discover()).suspend();
    assert_eq!(
        (snapshot.lease(), snapshot.server(), snapshot.due()),
        (None, None, Some(second(4)))
    );
    let mut forever = Conversation::bound_by(ack(IP, seconds(u64::MAX)));
    let snapshot = forever.at(5).suspend();
    assert_eq!(snapshot.due(), None);
    let never = Instant::from_boot(Duration::MAX);
    assert!(
        matches!(snapshot.phase, Phase::Bound { renew_at, rebind_at, .. } if (renew_at, rebind_at) == (never, never))
    );
    forever
        .resumes_at(4_000_000_000_u32)
        .releases()
        .sends(goodbye(IP))
        .says(Released);
}

/// A server that always refuses gets messages of successive clients in ever longer intervals, too.
#[test]
fn failures_are_remembered() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .hears(nak())
        .says(Lost(IP, Refused));
    let mut at = 1800;
    for wait in [0, 2, 4, 8, 16, 32, 64, 128, 128, 128] {
        at += wait;
        if wait > 0 {
            assert_eq!(c.suspend().due(), Some(second(at)));
            c.resumes_at(at as f64);
        }
        c.sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(nak());
    }
}

/// A resumed client does not exceed the limit on messages: see `rate.rs`.
#[test]
fn the_message_rate_is_remembered() {
    let snapshot = Conversation::bound(seconds(100)).at(5).suspend();
    let snapshot = Snapshot {
        rate_full_at: second(59 * 40),
        ..snapshot
    };
    assert_eq!(
        snapshot.due(),
        Some(second(80)),
        "T1 is earlier, but two messages have to be saved up, 40 s each"
    );
    let mut c = Conversation::resume(snapshot).without_fuzz();
    c.resumes_at(70).at(80).sends(renew(IP));
}

/// T1 passed without a carrier: the client waits for it for ten seconds, and in each later process.
#[test]
fn without_a_carrier_the_ten_seconds_count_from_t1() {
    let mut c = Conversation::bound(hours(1));
    c.at(10).carrier(false).at(1800);
    assert!(c.client().is_listening());
    c.at(1810);
    assert!(!c.client().is_listening());
    assert_eq!(
        c.client().poll_timeout(),
        Some(second(3600)),
        "the end comes all the same"
    );
    assert!(
        matches!(c.client().suspend().unwrap().phase, Phase::Bound { .. }),
        "nothing was said"
    );

    let snapshot = c.client().suspend().unwrap();
    let mut c = Conversation::resume(snapshot.clone()).without_fuzz();
    c.at(0); // before T1
    c.at(1800).sends(renew(IP));

    // The next client has no carrier either: its messages are dropped, and it waits.
    let mut c = Conversation::resume(snapshot).without_fuzz();
    c.resumes_at_without_carrier(2000).at(2010);
    assert!(!c.client().is_listening());
    assert_eq!(c.client().suspend().unwrap().due(), Some(second(2575)));
    c.resumes_at(2575)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
}

/// The loss of the carrier starts the ten seconds again, but a repeated report of it does not.
#[test]
fn without_a_carrier_the_ten_seconds_count_from_its_loss() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .at(1808)
        .carrier(false)
        .at(1812)
        .carrier(false)
        .at(1817);
    assert!(c.client().is_listening());
    c.at(1818);
    assert!(!c.client().is_listening());
    c.carrier(true).sends(renew(IP)); // Its return was noticed.

    let mut c = Conversation::bound(hours(1));
    c.at(1).carrier(false); // Before the second announcement.
    assert!(c.client().is_listening());
    c.at(11);
    assert!(!c.client().is_listening());
}

type Beginning = fn() -> Conversation;

/// No caller waits, and an exchange is under way: on a network that may be another one it starts
/// again.
#[test]
fn a_loss_of_the_carrier_ends_an_exchange_without_a_caller() {
    let cases: [(Beginning, &str); 4] = [
        (
            || without_carrier(patient(), |c| _ = c.sends(discover())),
            "INIT",
        ),
        (
            || {
                without_carrier(patient(), |c| {
                    _ = c.sends(discover()).hears(offer(IP)).sends(request(IP))
                })
            },
            "INIT",
        ),
        (
            || {
                without_carrier(Conversation::reboot(IP).patient(), |c| {
                    _ = c.sends(reboot_request(IP))
                })
            },
            "INIT-REBOOT",
        ),
        (
            || {
                let c = patient().configured(|config| config.probe = Probe::Before(3));
                without_carrier(c, |c| {
                    _ = c
                        .sends(discover())
                        .hears(offer(IP))
                        .sends(request(IP))
                        .hears(ack(IP, hours(1)))
                })
            },
            "INIT-REBOOT",
        ),
    ];
    for (case, state) in cases {
        let mut c = case();
        c.at(9.9);
        assert!(c.client().is_listening(), "{}", c.client().state());
        c.at(10);
        assert_eq!(
            (c.client().is_listening(), c.client().state()),
            (false, state)
        );
        assert_eq!(
            c.client().poll_timeout(),
            None,
            "only the carrier can bring anything new"
        );
        let snapshot = c.client().suspend().unwrap();
        assert!(matches!(snapshot.phase, Phase::Init { .. }));
        let expected = if state == "INIT" {
            discover()
        } else {
            discover().wanting(IP)
        };
        c.resumes_at(20).sends(expected);

        let mut c = case();
        c.at(30).carrier(true).sends(if state == "INIT" {
            discover()
        } else {
            reboot_request(IP)
        });
    }
}

/// The content of a file is not trusted.
#[test]
fn an_invalid_snapshot_is_corrected() {
    let (never, snapshot) = (
        Instant::from_boot(Duration::MAX),
        Conversation::bound(hours(1)).at(5).suspend(),
    );
    let mute = Snapshot {
        rate_full_at: never,
        failures: u32::MAX,
        ..snapshot.clone()
    };
    assert!(mute.clone().clamped(start_of_time()).due() <= Some(second(1800)));
    Conversation::resume(mute)
        .without_fuzz()
        .at(1800)
        .sends(renew(IP));
    let late = Phase::Init {
        at: never,
        since: never,
        wanted: Some(IP),
        pace: u32::MAX,
    };
    let late = Snapshot {
        phase: late,
        ..snapshot
    };
    let mut c = Conversation::resume(late).without_fuzz();
    c.at(330).sends(discover());
    assert_eq!(
        (c.last().secs(), c.suspend().due()),
        (330, Some(second(630)))
    );

    // A T2 after the end: the lease expires at its end.
    let lease = Conversation::bound(hours(1)).lease().clone();
    let renewing = |lease: Lease| Phase::Renewing {
        lease,
        renew_at: never,
        rebind_at: never,
        next: never,
    };
    let mut c = Conversation::resume(Snapshot {
        phase: renewing(lease.clone()),
        ..bound_with(lease.clone())
    })
    .without_fuzz();
    c.wakes_at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));

    // An infinite lease in REBINDING, with a far retransmission.
    let lease = Lease {
        lease_time: None,
        acquired_at: never,
        ..lease
    };
    let phase = Phase::Rebinding {
        lease: lease.clone(),
        renew_at: never,
        rebind_at: start_of_time(),
        next: never,
    };
    let mut c = Conversation::resume(Snapshot {
        phase,
        ..bound_with(lease)
    })
    .without_fuzz();
    c.at(330)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
}

/// T1 and T2 in a file are as unordered as they like; those in use are in the order that an ACK's
/// have. A lease from an ACK is not changed.
#[test]
fn invalid_timers_of_a_snapshot_are_corrected() {
    let timers = |lease_time, [t1, t2]: [u64; 2]| {
        let lease = Lease {
            lease_time,
            t1: seconds(t1),
            t2: seconds(t2),
            ..Conversation::bound(hours(1)).lease().clone()
        };
        let corrected = bound_with(lease).clamped(start_of_time());
        let lease = corrected.lease().unwrap();
        [lease.t1, lease.t2]
    };
    let hour = Some(hours(1));
    let correct = [1800, 3150].map(seconds);
    for odd in [[0, 0], [3600, 3600], [3599, 3600], [9000, 9000]] {
        assert_eq!(timers(hour, odd), correct, "{odd:?}");
    }
    assert_eq!(timers(hour, [1800, 3150]), correct);
    assert_eq!(timers(hour, [7, 20]), [7, 20].map(seconds));
    assert_eq!(timers(None, [7, 20]), [Duration::MAX; 2]);
}
