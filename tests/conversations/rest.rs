//! Letting a client go while nothing is in flight, and going on with another one (RFC 2131 §4.4.2,
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

/// A conversation that begins as `beginning` says, and then the carrier goes.
fn without_carrier(mut c: Conversation, beginning: impl FnOnce(&mut Conversation)) -> Conversation {
    beginning(c.at(0));
    c.carrier(false);
    c
}

/// Whatever the hour, the next client says what the last one would have said.
#[test]
fn a_lease_is_kept_by_one_client_after_the_other() {
    let mut c = Conversation::bound(hours(1));
    assert!(matches!(c.at(2).rest().phase, Phase::Bound { .. }));
    c.rests_until(1000)
        .rests_until(1800)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
    assert_eq!(c.rest().due(), Some(second(3600)));
    c.rests_until(3600).sends(renew(IP));
}

#[test]
fn silence_is_borne_by_one_client_after_the_other() {
    let mut c = Conversation::bound(hours(1));
    for second in [1800.0, 2475.0, 2812.5, 2981.25, 3065.625, 3125.625] {
        c.rests_until(second).sends(renew(IP));
        assert!(matches!(c.rest().phase, Phase::Renewing { .. }));
    }
    for second in [3150.0, 3375.0, 3487.5, 3547.5] {
        c.rests_until(second).sends(rebind(IP));
        assert!(matches!(c.rest().phase, Phase::Rebinding { .. }));
    }
    c.rests_until(3599)
        .at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
    for second in [
        3604, 3612, 3628, 3660, 3724, 3788, 3852, 3916, 3980, 4044, 4344, 4644,
    ] {
        assert!(matches!(c.rest().phase, Phase::Init { .. }));
        // The address is asked for twice.
        c.rests_until(second).sends(if second == 3604 {
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

/// Seconds count from T1, and the answer of another client's exchange is not taken for one's own.
#[test]
fn a_renewal_goes_on_with_another_xid() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP));
    let first = c.last().xid();
    c.rests_until(2000)
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

/// Nobody was there at T1, at T2, at the end.
#[test]
fn who_was_away_does_what_the_hour_demands() {
    let bound = || Conversation::bound(hours(1));
    bound().rests_until(2000).sends(renew(IP));
    bound().rests_until(3200).sends(rebind(IP));
    bound()
        .rests_until(3600)
        .says(Lost(IP, Expired))
        .sends(may_i_keep(IP));

    let mut c = bound();
    c.at(1800).sends(renew(IP));
    c.rests_until(3150)
        .sends(rebind(IP))
        .rests_until(4000)
        .says(Lost(IP, Expired))
        .sends(may_i_keep(IP));
}

/// A server may have kept the address for us: it is asked for, and any other will do when nobody
/// answers.
#[test]
fn a_lease_that_ran_out_meanwhile_is_asked_for_again() {
    let away = || {
        let mut c = Conversation::bound(hours(1));
        c.rests_until(9000)
            .says(Lost(IP, Expired))
            .sends(may_i_keep(IP));
        assert_eq!(c.client().suspend(), None, "an answer is under way");
        c
    };
    away()
        .hears(ack(IP, hours(1)).from(OTHER_SERVER))
        .says(Bound(IP));
    away().hears(nak()).sends(discover());
    let mut c = away();
    c.at(9002).sends(may_i_keep(IP));
    c.at(9005).sends(discover().wanting(IP));
}

#[test]
fn in_renewing_and_rebinding_the_answer_is_awaited_for_ten_seconds() {
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
    // Nobody listens, but who hears it all the same does not ignore it.
    c.at(3200).hears(ack(IP, hours(1))).says(Renewed(IP));
}

#[test]
fn who_is_not_waited_for_awaits_an_offer_for_ten_seconds() {
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

/// An offer in hand outlasts the ten seconds, for the moment that another one is waited for.
#[test]
fn the_second_best_is_not_forgotten() {
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
fn who_is_waited_for_listens_all_the_time() {
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
    assert_eq!(c.client().suspend(), None, "somebody waits");
    c.carrier(true).sends(discover());
}

/// Where an answer decides what the next step is, the client stays; and after the end there is
/// nothing to remember.
#[test]
fn there_is_no_rest_on_the_way() {
    let no_rest = |c: &mut Conversation, state: &str| {
        assert_eq!((c.client().state(), c.client().suspend()), (state, None))
    };
    let mut c = patient();
    no_rest(
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP)),
        "REQUESTING",
    );
    let mut c = patient().configured(|config| config.probe = Probe::Before(3));
    no_rest(
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1))),
        "PROBING",
    );
    let mut c = Conversation::reboot(IP).patient();
    no_rest(c.at(0).sends(may_i_keep(IP)), "REBOOTING");
    let far = Lease {
        server_mac: None,
        ..Conversation::bound(hours(1)).lease().clone()
    };
    let mut c = Conversation::resume(bound_with(far));
    no_rest(c.at(10).releases().sends(who_has(SERVER)), "RELEASING");
    no_rest(c.at(10.2).says(Released), "STOPPED");
}

/// It can be written down before it is acted upon, so that nothing is done that nobody would
/// remember.
#[test]
fn the_rest_is_known_before_all_has_been_handed_out() {
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
            .is_some_and(|rest| rest.lease().is_some_and(|lease| lease.address == IP)),
        "{before:?}"
    );
    assert_eq!(Some(c.at(0).says(Bound(IP)).rest()), before);
}

/// A client that is let go with its vigil hears of no conflict any more; the next renewal asks
/// again.
#[test]
fn a_vigil_ends_with_the_rest() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.at(1).rests_until(1);
    assert!(!c.client().is_listening());
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    c.rests_until(2475).sends(renew(IP)); // The address has been asked after in this renewal.
}

/// What RFC 2131 §4.4.5 allows, for one that happens to be awake. Silence costs nothing: it asks on
/// as the others do.
#[test]
fn a_lease_may_be_renewed_before_t1() {
    let mut rest = Conversation::bound(hours(1)).at(5).rest();
    rest.renew_now(second(1700));
    assert_eq!(rest.due(), Some(second(1700)));
    let mut c = Conversation::resume(rest.clone()).without_fuzz();
    c.at(1700)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP))
        .at(3500)
        .sends(renew(IP));

    let mut c = Conversation::resume(rest).without_fuzz();
    c.at(1700).sends(renew(IP));
    c.rests_until(2000)
        .sends(renew(IP))
        .rests_until(2575)
        .sends(renew(IP));
    let mut rest = c.rest();
    let before = rest.clone();
    rest.renew_now(second(2600));
    assert_eq!(rest, before, "it is under way already");
    let mut late = Conversation::bound(hours(1)).at(5).rest();
    late.renew_now(second(3000));
    assert_eq!(late.due(), Some(second(1800)), "T1 does not move away");
}

#[test]
fn what_can_be_asked_of_a_rest() {
    let rest = Conversation::bound(hours(1)).at(5).rest();
    assert_eq!(
        (rest.lease().map(|lease| lease.address), rest.server()),
        (Some(IP), Some(SERVER))
    );
    let rest = patient().at(0).sends(discover()).rest();
    assert_eq!(
        (rest.lease(), rest.server(), rest.due()),
        (None, None, Some(second(4)))
    );
    let mut forever = Conversation::bound_by(ack(IP, seconds(u64::MAX)));
    let rest = forever.at(5).rest();
    assert_eq!(rest.due(), None);
    let never = Instant::from_boot(Duration::MAX);
    assert!(
        matches!(rest.phase, Phase::Bound { renew_at, rebind_at, .. } if (renew_at, rebind_at) == (never, never))
    );
    forever
        .rests_until(4_000_000_000_u32)
        .releases()
        .sends(goodbye(IP))
        .says(Released);
}

/// A server that goes on refusing hears from one client after the other in ever longer intervals,
/// too.
#[test]
fn setbacks_are_remembered() {
    let mut c = Conversation::bound(hours(1));
    c.at(1800)
        .sends(renew(IP))
        .hears(nak())
        .says(Lost(IP, Refused));
    let mut at = 1800;
    for wait in [0, 2, 4, 8, 16, 32, 64, 128, 128, 128] {
        at += wait;
        if wait > 0 {
            assert_eq!(c.rest().due(), Some(second(at)));
            c.rests_until(at as f64);
        }
        c.sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(nak());
    }
}

/// The memory of a process is not a way around the limit of messages: see `pace.rs` for that.
#[test]
fn an_allowance_that_is_used_up_stays_so() {
    let rest = Conversation::bound(seconds(100)).at(5).rest();
    let rest = Snapshot {
        rate_full_at: second(59 * 40),
        ..rest
    };
    assert_eq!(
        rest.due(),
        Some(second(80)),
        "T1 is earlier, but two messages have to be saved up, 40 s each"
    );
    let mut c = Conversation::resume(rest).without_fuzz();
    c.rests_until(70).at(80).sends(renew(IP));
}

/// T1 came and went without a carrier: for ten seconds it is listened for, and then whenever
/// somebody looks.
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

    let rest = c.client().suspend().unwrap();
    let mut c = Conversation::resume(rest.clone()).without_fuzz();
    c.at(0); // it begins before T1
    c.at(1800).sends(renew(IP));

    // Nor is there one when the next client looks: what it had ready goes nowhere, and it takes its
    // time.
    let mut c = Conversation::resume(rest).without_fuzz();
    c.rests_until_without_carrier(2000).at(2010);
    assert!(!c.client().is_listening());
    assert_eq!(c.client().suspend().unwrap().due(), Some(second(2575)));
    c.rests_until(2575)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
}

/// The loss of it starts the ten seconds anew, but not the news that it is still away.
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
    c.carrier(true).sends(renew(IP)); // It was heard all the same.

    let mut c = Conversation::bound(hours(1));
    c.at(1).carrier(false); // Before the second announcement.
    assert!(c.client().is_listening());
    c.at(11);
    assert!(!c.client().is_listening());
}

type Beginning = fn() -> Conversation;

/// Nobody waits for it, and it has got halfway: on what may be another network it begins anew.
#[test]
fn who_loses_the_carrier_halfway_does_not_wait_for_ever() {
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
                    _ = c.sends(may_i_keep(IP))
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
        let rest = c.client().suspend().unwrap();
        assert!(matches!(rest.phase, Phase::Init { .. }));
        let expected = if state == "INIT" {
            discover()
        } else {
            discover().wanting(IP)
        };
        c.rests_until(20).sends(expected);

        let mut c = case();
        c.at(30).carrier(true).sends(if state == "INIT" {
            discover()
        } else {
            may_i_keep(IP)
        });
    }
}

/// What comes out of a file may have been written by anybody.
#[test]
fn a_rest_that_makes_no_sense_is_mended() {
    let (never, rest) = (
        Instant::from_boot(Duration::MAX),
        Conversation::bound(hours(1)).at(5).rest(),
    );
    let mute = Snapshot {
        rate_full_at: never,
        failures: u32::MAX,
        ..rest.clone()
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
        ..rest
    };
    let mut c = Conversation::resume(late).without_fuzz();
    c.at(330).sends(discover());
    assert_eq!((c.last().secs(), c.rest().due()), (330, Some(second(630))));

    // A T2 after the end: the end comes.
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

    // A lease for ever that is said to be in REBINDING, where nobody would ask again for ages.
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
