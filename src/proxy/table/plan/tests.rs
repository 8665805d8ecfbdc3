//! Conversations with a plan: each line is an event at a second, or the plan's answer.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use conversation::Conversation;

use super::*;

mod conversation;
mod simulation;

const HOUR: u64 = 3600;

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(seconds))
}

fn key(number: u16) -> LeaseKey {
    let [a, b] = number.to_be_bytes();
    LeaseKey {
        mac: Mac([2, 0, 0, 0, a, b]),
        netns: Path::new("/run/netns/one").into(),
        interface: "eth0".into(),
    }
}

fn server(last: u8) -> DhcpServer {
    DhcpServer {
        network: "eth0".to_owned(),
        address: Ipv4Addr::new(192, 168, 1, last),
        station: None,
    }
}

/// A lease of `length` seconds from `acquired` on, BOUND.
fn bound(acquired: u64, length: u64) -> Times {
    let (t1, t2) = (acquired + length / 2, acquired + length / 8 * 7);
    Times {
        due: Some(at(t1)),
        may_renew_from: Some(at(t1 - length / 20)),
        t1: Some(at(t1)),
        deadline: Some(at(t2)),
        server: Some(server(1)),
        is_bound: true,
        ..Times::default()
    }
}

/// A lease of an hour from second 0 on: T1 at 1800, early from 1620, T2 at 3150.
fn hourly() -> Times {
    bound(0, HOUR)
}

/// The same after an unanswered REQUEST at `second`.
fn unanswered(second: u64) -> Times {
    Times {
        due: Some(at(second + 600)),
        may_renew_from: None,
        is_bound: false,
        is_unanswered: true,
        ..hourly()
    }
}

#[test]
fn a_lease_is_renewed_at_t1_and_the_process_sleeps_meanwhile() {
    let mut c = Conversation::start();
    c.sleeps().looks_again(None);
    // A quarter of the way from T1 to T2.
    c.at(0).has(1, &hourly()).sleeps_until(1800, 2137.5);
    c.at(1799)
        .stays(StayReason::DueSoon)
        .looks_again(Some(1800));
    c.at(1800).wakes(&[1]).stays(StayReason::AtWork);
    c.at(1801)
        .has(1, &bound(1800, HOUR))
        .sleeps_until(3600, 3937.5);
}

#[test]
fn renewals_within_a_tenth_of_t1_are_done_together_where_the_process_can_sleep() {
    let leases = [
        (1, bound(0, HOUR)),
        (2, bound(100, HOUR)),
        (3, bound(179, HOUR)),
        (4, bound(400, HOUR)),
    ];
    let mut c = Conversation::start();
    for (number, times) in &leases {
        c.has(*number, times);
    }
    // The fourth may be renewed from second 2020 on.
    c.at(1800).wakes(&[1, 2, 3]).stays(StayReason::AtWork);
    let mut c = Conversation::without_sleep();
    for (number, times) in &leases {
        c.has(*number, times);
    }
    c.at(1800).wakes(&[1]).stays(StayReason::AtWork);
    c.at(1900).wakes(&[2]);
}

#[test]
fn a_silent_server_is_asked_by_two_leases_and_by_no_third_one() {
    let mut c = Conversation::start();
    for number in [1, 2] {
        c.has(number, &hourly());
    }
    c.at(1800).wakes(&[1, 2]);
    // A third lease waits for the outcome of the two.
    c.at(1805).has(5, &hourly()).defers(5, 1811);
    c.at(1810).has_no_answer(1).has_no_answer(2);
    // Then for a minute.
    c.at(1811).defers(5, 1870).sleeps_until(1870, 2190.0);
    // Other work neither waits, nor brings the deferred renewal forward.
    let look = Times {
        due: Some(at(1840)),
        may_renew_from: None,
        is_bound: false,
        ..hourly()
    };
    c.at(1840)
        .has(6, &look)
        .wakes(&[6])
        .stays(StayReason::AtWork);
    c.has(6, &bound(1840, HOUR));
    c.at(1870).wakes(&[5]);
    // A process that stays gains nothing by waiting.
    let mut c = Conversation::without_sleep();
    c.has(1, &hourly()).has(2, &hourly());
    c.at(1800).wakes(&[1, 2]);
    c.at(1810).has_no_answer(1).has_no_answer(2);
    c.at(1811).has(3, &hourly()).wakes(&[3]);
}

#[test]
fn one_lease_without_an_answer_holds_back_no_other() {
    let mut c = Conversation::start();
    c.has(1, &hourly()).has(2, &bound(240, HOUR));
    c.at(1800).wakes(&[1]);
    c.at(1810).has_no_answer(1);
    c.at(2040).wakes(&[2]);
}

#[test]
fn another_try_of_what_has_failed_does_not_wait_for_a_silent_server() {
    let mut c = Conversation::start();
    c.has(1, &hourly()).has(2, &hourly());
    c.at(1800).wakes(&[1, 2]);
    c.at(1810).has_no_answer(1).has_no_answer(2);
    let retry = Times {
        due: Some(at(1812)),
        may_renew_from: None,
        is_retry: true,
        ..hourly()
    };
    c.has(3, &retry);
    c.at(1812).wakes(&[3]).stays(StayReason::AtWork);
}

#[test]
fn a_renewal_is_put_off_no_further_than_half_way_to_t2() {
    let mut c = Conversation::start();
    c.has(1, &bound(0, 100)).has(2, &bound(0, 100));
    c.at(50).wakes(&[1, 2]);
    c.at(60).has_no_answer(1).has_no_answer(2);
    let times = bound(10, 100);
    c.has(3, &times);
    // T1 at 60, T2 at 94 (12.5 s of the lease's 100 are 12).
    let expected = Action::Defer {
        key: key(3),
        until: at(60 + (94 - 60) / 2),
    };
    assert_eq!(c.plan.poll(c.now), expected);
    c.has(
        3,
        &Times {
            due: Some(at(77)),
            ..times
        },
    );
    c.at(77).wakes(&[3]);
}

#[test]
fn leases_that_wait_for_a_server_go_on_when_it_answers() {
    let mut c = Conversation::start();
    c.has(1, &hourly()).has(2, &hourly());
    c.at(1800).wakes(&[1, 2]);
    c.at(1810).has_no_answer(1).has_no_answer(2);
    c.at(1820).has(3, &hourly()).defers(3, 1870);
    c.has(4, &bound(1000, HOUR));
    // Not deferred, or of another server.
    let others = Times {
        server: Some(server(2)),
        due: Some(at(1870)),
        ..hourly()
    };
    c.has(5, &others);
    c.at(1830).hears(&[3]).looks_again(Some(1800)).wakes(&[3]);
    c.hears(&[]);
}

#[test]
fn after_a_crash_a_thousand_leases_have_their_turns() {
    let mut c = Conversation::start();
    let look = Times {
        due: Some(at(0)),
        may_renew_from: None,
        is_bound: false,
        ..hourly()
    };
    for number in 0..1000 {
        c.has(number, &look);
    }
    let mut turns = Vec::new();
    while let Action::Wake { turn, .. } = c.plan.poll(c.now) {
        turns.push(turn);
    }
    assert_eq!(turns.len(), 1000);
    assert!(turns.is_sorted());
    assert_eq!(turns.iter().filter(|turn| **turn == c.now).count(), 20);
    let last = *turns.last().unwrap() - c.now;
    assert!(
        (Duration::from_secs(33)..Duration::from_secs(34)).contains(&last),
        "{last:?}"
    );
}

#[test]
fn a_lease_of_which_the_process_died_is_last_and_alone() {
    let due = Times {
        due: Some(at(0)),
        may_renew_from: None,
        ..hourly()
    };
    let mut c = Conversation::start();
    c.at(10)
        .has_dead(1, &due, 2)
        .has_dead(2, &due, 1)
        .has(3, &due);
    c.wakes(&[3]).stays(StayReason::AtWork);
    // The wait has an end, in case the other work has none.
    c.looks_again(Some(70));
    c.at(20)
        .has(3, &bound(20, HOUR))
        .hears(&[])
        .wakes(&[2])
        .stays(StayReason::AtWork);
    c.at(30).has(2, &bound(30, HOUR)).hears(&[]).wakes(&[1]);
    let mut c = Conversation::start();
    c.at(10)
        .has_dead(1, &due, 1)
        .calls_for(2)
        .stays(StayReason::AtWork);
    c.at(70).wakes(&[1]);
}

#[test]
fn a_quarantined_lease_is_never_due_and_starts_no_process() {
    let mut c = Conversation::start();
    c.has_dead(1, &hourly(), 3);
    c.at(5000).sleeps().looks_again(None);
    c.has(2, &bound(5000, HOUR)).sleeps_until(6800, 7137.5);
    // An answer of its server does not make it due.
    let deferred = Times {
        due: Some(at(1900)),
        ..hourly()
    };
    c.has_dead(1, &deferred, 3);
    c.plan
        .mark_unresponsive(&server(1), key(8).mac, at(5000), at(5000));
    c.hears(&[]);
}

#[test]
fn what_is_due_soon_is_waited_for_but_not_another_try_of_what_has_failed() {
    let mut c = Conversation::start();
    c.has(1, &hourly());
    c.at(1794).sleeps_until(1800, 2137.5);
    c.at(1795).stays(StayReason::DueSoon);
    let retry = Times {
        is_retry: true,
        is_bound: false,
        may_renew_from: None,
        ..hourly()
    };
    c.has(1, &retry).sleeps_until(1800, 2137.5);
    // A timer that elapses during the exit is lost.
    c.at(1798).stays(StayReason::DueSoon);
}

#[test]
fn the_fallback_is_before_the_first_lease_that_it_would_be_too_late_for() {
    let mut c = Conversation::start();
    // Its T2 is past at the start, so it does not count.
    let over = Times {
        deadline: Some(at(1500)),
        due: None,
        may_renew_from: None,
        ..hourly()
    };
    c.has(1, &hourly()).has(2, &over).has(3, &bound(1000, 1000));
    c.sleeps_until(1500, 1593.75);
    // A lease for ever has none.
    let mut c = Conversation::start();
    c.has(
        1,
        &Times {
            deadline: None,
            ..hourly()
        },
    );
    let expected = Action::SleepUntil {
        at: Some(at(1800)),
        fallback: None,
    };
    assert_eq!(c.plan.poll(c.now), expected);
}

#[test]
fn without_a_timer_the_process_stays_for_its_leases() {
    let mut c = Conversation::without_sleep();
    c.sleeps();
    c.has(1, &hourly())
        .stays(StayReason::SleepImpossible)
        .looks_again(Some(1800));
    c.plan.set_can_sleep(true);
    c.sleeps_until(1800, 2137.5);
}

#[test]
fn a_process_that_is_stopped_comes_back_for_what_is_due_and_for_what_it_was_at() {
    let mut c = Conversation::start();
    assert_eq!(c.plan.resume_after_stop(at(0)), None);
    c.has(1, &hourly());
    assert_eq!(
        c.plan.resume_after_stop(at(0)),
        Some((at(1800), Some(at(2137) + Duration::from_millis(500))))
    );
    assert_eq!(
        c.plan.resume_after_stop(at(1799)).map(|(at, _)| at),
        Some(at(1801))
    );
    c.calls_for(2);
    assert_eq!(
        c.plan.resume_after_stop(at(0)).map(|(at, _)| at),
        Some(at(2))
    );
}

#[test]
fn a_lease_that_makes_no_sense_does_not_keep_the_process_busy() {
    let now = Times {
        due: Some(at(0)),
        may_renew_from: None,
        ..hourly()
    };
    let mut c = Conversation::start();
    c.has(1, &now).at(10).wakes(&[1]);
    c.has(1, &now)
        .looks_again(Some(11))
        .stays(StayReason::DueSoon);
}

#[test]
fn a_lease_that_is_not_due_any_more_is_passed_over() {
    let mut c = Conversation::start();
    c.has(1, &hourly()).has(2, &hourly());
    // Both are in the queue; a call renews the second before its turn.
    c.at(1800).wakes(&[1]);
    c.has(2, &bound(1800, HOUR)).stays(StayReason::AtWork);
    c.has(1, &bound(1800, HOUR)).sleeps_until(3600, 3937.5);
}

#[test]
fn a_lease_that_was_removed_or_taken_by_a_call_is_not_handed_out() {
    let mut c = Conversation::start();
    c.has(1, &hourly()).has(2, &hourly()).has(3, &hourly());
    c.at(1800).wakes(&[1]);
    c.plan.remove(&key(2));
    c.calls_for(3).stays(StayReason::AtWork);
    for number in [1, 3] {
        c.plan.remove(&key(number));
    }
    c.sleeps();
    assert!(c.plan.server_pool.is_empty());
}

/// The steps of `control.rs`: the record is due, a turn is taken, and a task has the lease.
#[test]
fn a_renewal_on_demand_has_its_turn_among_the_others_and_is_handed_out_by_nothing_else() {
    let on_demand = Times {
        due: Some(at(100)),
        may_renew_from: None,
        ..hourly()
    };
    let mut c = Conversation::start();
    c.has(1, &hourly()).sleeps_until(1800, 2137.5);
    c.at(100).has(1, &on_demand);
    for _ in 0..20 {
        assert_eq!(c.plan.turn(at(100)), at(100));
    }
    assert!(c.plan.mark_at_work(&key(1)));
    c.stays(StayReason::AtWork).looks_again(None);
    // A scheduled renewal at the same time waits for its turn behind them.
    c.has(2, &on_demand);
    let turn = at(100) + Duration::from_millis(34);
    let wakes = Action::Wake { key: key(2), turn };
    assert_eq!(c.plan.poll(c.now), wakes);
    c.at(101)
        .has(1, &bound(100, HOUR))
        .has(2, &bound(100, HOUR));
    c.sleeps_until(1900, 2237.5);
}

#[test]
fn a_renewal_on_demand_asks_a_silent_server_and_spares_it_afterwards() {
    let mut c = Conversation::start();
    c.has(1, &hourly())
        .has(2, &hourly())
        .has(3, &bound(240, HOUR));
    c.at(1800).wakes(&[1, 2]);
    c.at(1810).has_no_answer(1).has_no_answer(2);
    // The third is asked for its renewal, and is not answered either.
    assert!(c.plan.mark_at_work(&key(3)));
    c.at(1821).has_no_answer(3);
    c.at(1830).has(4, &hourly()).defers(4, 1881);
}
