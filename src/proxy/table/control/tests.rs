//! Conversations with the calls that renew and release leases.

use std::future::{pending, ready};

use futures_lite::future::yield_now;

use super::*;
use crate::dhcp::Phase;
use crate::proxy::store::record::tests::{at, phases, record, with_mac};
use crate::proxy::table::tests::{insert, table};

/// A lease in BOUND, RENEWING, REBINDING and INIT.
fn records() -> [Record; 4] {
    let [bound, renewing, rebinding, init, _] = phases().map(record);
    [bound, renewing, rebinding, init]
}

fn lease(record: &Record) -> dhcp::Lease {
    record.lease().unwrap().clone()
}

/// The record of a lease that was renewed by `change`.
fn after(change: impl FnOnce(&mut dhcp::Lease)) -> Record {
    let mut new = lease(&records()[0]);
    new.acquired_at = at(2_000_000);
    change(&mut new);
    let (renew_at, rebind_at) = (at(3_800_000), at(5_150_000));
    record(Phase::Bound {
        lease: new,
        renew_at,
        rebind_at,
    })
}

const NOW: u64 = 2_000_000;

/// The time at which a renewal was started.
const SINCE: u64 = 1_990_000;

fn step(stage: &LeaseStage, is_started: bool) -> Step {
    let before = lease(&records()[0]);
    next_step(stage, Some(&before), is_started.then(|| at(SINCE)), at(NOW))
}

fn failed(why: &str) -> Step {
    Step::End((LeaseResult::Failed, why.to_owned()))
}

#[test]
fn a_dormant_lease_is_started_once_and_then_waited_for() {
    let [bound, renewing, rebinding, init] = records();
    for record in [&bound, &renewing, &rebinding, &init] {
        assert_eq!(
            step(&LeaseStage::Dormant(record.clone()), false),
            Step::Start
        );
        let active = LeaseStage::Active(Some(record.clone()));
        for is_started in [false, true] {
            assert_eq!(step(&active, is_started), Step::Wait);
            assert_eq!(step(&LeaseStage::Active(None), is_started), Step::Wait);
        }
    }
    for (record, why) in [
        (renewing, "its DHCP server did not answer a renewal"),
        (rebinding, "no DHCP server answered a renewal"),
        (init, "there is no lease; a DHCP server is being looked for"),
        (
            bound,
            "too many messages in the last hour; the next one is due in 800 s",
        ),
    ] {
        assert_eq!(step(&LeaseStage::Dormant(record), true), failed(why));
    }
    // In BOUND again after a REQUEST without an answer; older trouble is no reason.
    for (at, why) in [
        (at(SINCE + 1), "no answer"),
        (
            at(SINCE - 1),
            "too many messages in the last hour; the next one is due in 800 s",
        ),
    ] {
        let record = records()[0].clone().with_trouble("no answer", at);
        assert_eq!(step(&LeaseStage::Dormant(record), true), failed(why));
    }
}

#[test]
fn a_renewal_is_seen_by_its_time_wherever_the_lease_is() {
    let other = Ipv4Addr::new(10, 0, 0, 77);
    for (record, result) in [
        (after(|_| {}), LeaseResult::Renewed),
        (after(|lease| lease.routers.clear()), LeaseResult::Changed),
        (
            after(|lease| lease.address = other),
            LeaseResult::NewAddress,
        ),
    ] {
        for is_started in [false, true] {
            let end = Step::End((result, String::new()));
            assert_eq!(step(&LeaseStage::Dormant(record.clone()), is_started), end);
            assert_eq!(
                step(&LeaseStage::Active(Some(record.clone())), is_started),
                end
            );
        }
    }
    let again = LeaseStage::Dormant(records()[0].clone());
    let acquired = next_step(&again, None, Some(at(SINCE)), at(NOW));
    assert_eq!(
        acquired,
        Step::End((LeaseResult::NewAddress, String::new()))
    );
}

#[test]
fn a_lease_that_is_gone_or_in_other_hands_has_a_clear_outcome() {
    let none = Step::End((LeaseResult::NoLease, String::new()));
    assert_eq!(step(&LeaseStage::NoLease, false), none);
    assert_eq!(
        step(&LeaseStage::NoLease, true),
        failed("its container or its interface is gone")
    );
    let ending = LeaseStage::Dormant(records()[0].clone().ending());
    let teardown = "a Teardown of the container is under way; try again later";
    assert_eq!(step(&ending, false), failed(teardown));
    for (is_ending, why) in [
        (true, teardown),
        (
            false,
            "a Setup of the container is under way; try again later",
        ),
    ] {
        assert_eq!(step(&LeaseStage::Claimed { is_ending }, true), failed(why));
    }
}

/// Runs a test with a table, for some seconds at most.
fn with_table(test: impl AsyncFnOnce(&Rc<Table>) + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    rt::block_on(async move |runtime| {
        let table = table(&runtime, &path);
        let late = async {
            rt::sleep(Duration::from_secs(20)).await;
            panic!("it hangs");
        };
        or(test(&table), late).await;
        table.close_file();
    });
}

fn identity(key: &LeaseKey) -> LeaseIdentity {
    outcome(key, (None, None), (LeaseResult::Unknown, String::new()))
        .lease
        .unwrap()
}

fn all() -> LeaseSelection {
    LeaseSelection {
        all: true,
        leases: Vec::new(),
    }
}

fn results(outcomes: Result<LeaseOutcomes, Status>) -> Vec<(i32, String)> {
    let outcomes = outcomes.unwrap().leases.into_iter();
    outcomes
        .map(|outcome| (outcome.result, outcome.reason))
        .collect()
}

#[test]
fn a_selection_is_all_leases_or_a_list_and_has_each_once() {
    with_table(async |table| {
        let (one, two) = (insert(table, 1, 0), insert(table, 2, 0));
        let selected = |all, leases: &[&LeaseKey]| {
            let leases = leases.iter().copied().map(identity).collect();
            table.selected(LeaseSelection { all, leases })
        };
        assert_eq!(selected(true, &[]), Ok(vec![one.clone(), two.clone()]));
        assert_eq!(selected(false, &[]), Ok(vec![]));
        assert_eq!(
            selected(false, &[&two, &one, &two]),
            Ok(vec![two.clone(), one.clone()])
        );
        let key = insert(table, 3, 0);
        let refused = selected(true, &[&key]).unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
        let mut malformed = identity(&key);
        malformed.mac.push(':');
        let leases = vec![malformed];
        let refused = table.selected(LeaseSelection { all: false, leases });
        assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
    });
}

/// The namespace of these leases does not exist, so work on one removes it.
#[test]
fn suspects_come_after_the_others_and_alone_and_one_in_quarantine_is_left_alone() {
    with_table(async |table| {
        let quarantined = insert(table, 1, 3);
        let (suspect, bad, good) = (
            insert(table, 2, 1),
            insert(table, 3, 2),
            insert(table, 4, 0),
        );
        let mut order = Vec::new();
        let mut renewing = std::pin::pin!(table.renew_now(all(), pending()));
        let outcomes = loop {
            if let Some(outcomes) = futures_lite::future::poll_once(&mut renewing).await {
                break outcomes;
            }
            let is_active =
                |slot: &super::super::state::Slot| matches!(slot.state, SlotState::Active(_));
            let active: Vec<_> = table.with_slots(|slots| {
                let active = slots.iter().filter(|(_, slot)| is_active(slot));
                active.map(|(key, _)| key.clone()).collect()
            });
            if !active.is_empty() && order.last() != Some(&active) {
                order.push(active);
            }
            yield_now().await;
        };
        assert_eq!(order, [vec![good], vec![suspect], vec![bad]]);
        let gone = "its container or its interface is gone";
        let reasons: Vec<_> = results(outcomes).into_iter().map(|(_, why)| why).collect();
        let [last, first, then, at_last] = &*reasons else {
            panic!("{reasons:?}")
        };
        assert_eq!([last, then, at_last], [gone; 3]);
        assert!(first.contains("died several times"), "{reasons:?}");
        assert_eq!(table.keys(|_| true), [quarantined]);
    });
}

#[test]
fn a_lease_that_a_call_has_is_left_to_it() {
    with_table(async |table| {
        let key = insert(table, 1, 0);
        let (claim, _) = table.claim(&key, &Rc::default()).await;
        let busy = vec![claimed(false)];
        let result = |outcomes| {
            let results = results(outcomes).into_iter();
            let result = results.map(|(result, why)| (LeaseResult::try_from(result).unwrap(), why));
            result.collect::<Vec<_>>()
        };
        let closing = pending::<()>;
        assert_eq!(result(table.renew_now(all(), closing()).await), busy);
        assert_eq!(result(table.release_now(all(), closing()).await), busy);
        drop(claim);
        let selection = LeaseSelection {
            all: false,
            leases: vec![identity(&key)],
        };
        let none = vec![(LeaseResult::NoLease, String::new())];
        let released = table.release_now(selection.clone(), closing()).await;
        assert_eq!(result(released), none);
        assert_eq!(result(table.renew_now(selection, closing()).await), none);
    });
}

/// Takes so many turns, and returns the last one.
fn take_turns(table: &Table, count: usize) -> Instant {
    let turns = (0..count).map(|_| table.plan.borrow_mut().turn(rt::now()));
    turns.last().unwrap()
}

/// Inserts a lease whose release waits for its turn, and runs `meanwhile` before that. Returns the
/// result of the release.
async fn released_after(
    table: &Rc<Table>,
    meanwhile: impl AsyncFnOnce(&LeaseKey),
) -> ResultAndReason {
    let key = insert(table, 1, 0);
    take_turns(table, 30);
    let selection = LeaseSelection {
        all: false,
        leases: vec![identity(&key)],
    };
    let mut releasing = std::pin::pin!(table.release_now(selection, pending()));
    assert!(
        futures_lite::future::poll_once(&mut releasing)
            .await
            .is_none()
    );
    meanwhile(&key).await;
    let mut results = results(releasing.await);
    let (result, reason) = results.pop().unwrap();
    (LeaseResult::try_from(result).unwrap(), reason)
}

#[test]
fn a_release_leaves_a_lease_alone_that_a_setup_makes_before_its_turn() {
    with_table(async |table| {
        let claims = Rc::new(std::cell::RefCell::new(None));
        let cancel = Rc::<super::super::state::Cancellation>::default();
        let under_way = released_after(table, async |key| {
            let (claim, before) = table.claim(key, &cancel).await;
            drop(before);
            claims.replace(Some(claim));
        });
        assert_eq!(under_way.await, claimed(false));
        let cancelled = futures_lite::future::poll_once(cancel.cancelled()).await;
        assert!(cancelled.is_none(), "the Setup goes on");
        drop(claims.take());
    });
    with_table(async |table| {
        let made = released_after(table, async |key| {
            let record = table.record(key).unwrap();
            drop(table.claim(key, &Rc::default()).await);
            let slot = super::super::state::Slot::dormant(&record, true);
            table.update(key, |changed| *changed = Some(slot));
        });
        let (result, reason) = made.await;
        assert_eq!(result, LeaseResult::Failed);
        assert!(reason.contains("set up anew"), "{reason}");
        assert_eq!(table.len(), 1, "the new lease stays");
        // The next release is for the new lease.
        let released = results(table.release_now(all(), pending()).await);
        assert_eq!((released.len(), table.len()), (1, 0));
    });
    with_table(async |table| {
        let ended = released_after(table, async |key| {
            drop(table.claim(key, &Rc::default()).await);
        });
        assert_eq!(ended.await, (LeaseResult::NoLease, String::new()));
    });
}

/// The namespace of the lease does not exist.
#[test]
fn a_lease_whose_server_cannot_be_told_is_not_reported_as_released() {
    with_table(async |table| {
        let (now, mut lease) = (rt::now(), lease(&records()[0]));
        lease.acquired_at = now;
        let bound = record(Phase::Bound {
            renew_at: now + lease.t1,
            rebind_at: now + lease.t2,
            lease,
        });
        let bound = with_mac(bound, [2, 0, 0, 0, 0, 1]);
        let set_record = async |key: &LeaseKey| table.set_record(key, &bound);
        let (result, reason) = released_after(table, set_record).await;
        assert_eq!(result, LeaseResult::LeftToExpire);
        assert!(!reason.is_empty());
        assert_eq!(table.len(), 0);
    });
    let ended = |ending| EndedLease {
        lease: None,
        ending,
    };
    let released = released(&ended(Ok(None)));
    assert_eq!(released, (LeaseResult::Released, String::new()));
}

#[test]
fn a_lease_that_waits_for_its_turn_has_its_time_from_then_on() {
    with_table(async |table| {
        let key = insert(table, 1, 0);
        let turn = take_turns(table, 600);
        assert!(turn > rt::now() + RENEWAL_TIMEOUT);
        // Another call has woken it.
        table.wake(&key, turn, None);
        let mut renewal = table.renewal(key.clone());
        table.advance(&mut renewal);
        assert_eq!((&renewal.result, renewal.started), (&None, None));
        assert_eq!(renewal.end, turn + RENEWAL_TIMEOUT);
        let (result, reason) = table.late(&key);
        assert_eq!(result, LeaseResult::Failed);
        let why = "there is no lease; a DHCP server is being looked for; the work goes on";
        assert_eq!(reason, why);
        table.set_record(&key, &records()[0]);
        assert_eq!(
            table.late(&key).1,
            "no outcome within 15 s; the work goes on"
        );
        // A lease of this call, behind all of those.
        let other = insert(table, 2, 0);
        let mut renewal = table.renewal(other);
        table.advance(&mut renewal);
        assert!(renewal.started.is_some() && renewal.end > turn + RENEWAL_TIMEOUT);
    });
}

#[test]
fn suspects_are_renewed_as_far_as_there_is_time() {
    with_table(async |table| {
        let suspects = vec![insert(table, 1, 1), insert(table, 2, 1)];
        for (end, left, why) in [
            (rt::now() + RENEWAL_TIMEOUT / 2, 2, "call again"),
            (rt::now() + SUSPECTS_TIMEOUT, 0, "is gone"),
        ] {
            let mut leases = Vec::new();
            table
                .renew_suspects(suspects.clone(), end, &mut leases)
                .await;
            assert_eq!(leases.len(), 2);
            assert!(
                leases
                    .iter()
                    .all(|lease| lease.reason.ends_with(why)
                        && lease.result() == LeaseResult::Failed),
                "{leases:?}"
            );
            assert_eq!(table.len(), left);
        }
    });
}

#[test]
fn a_wait_ends_when_the_daemon_is_stopped() {
    with_table(async |table| {
        let key = insert(table, 1, 0);
        let renewed = table.renew_now(all(), ready(())).await;
        assert_eq!(renewed.unwrap_err().code, Code::Unavailable);
        // What was begun is in the record.
        assert!(
            table
                .record(&key)
                .is_none_or(|record| record.due() <= Some(rt::now()))
        );
    });
}

#[test]
fn root_and_the_daemons_user_have_control_and_others_have_netavarks_calls() {
    for (user, own, may) in [
        (0, 0, true),
        (0, 1000, true),
        (1000, 1000, true),
        (1000, 0, false),
        // Of another user namespace.
        (65534, 0, false),
        (1, 1000, false),
    ] {
        assert_eq!(is_permitted(user, own), may, "{user} {own}");
    }
    rt::block_on(async |_| {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Stream::try_from(ours).unwrap();
        drop(theirs);
        for call in [Call::Clean, Call::Renew(all()), Call::Release(all())] {
            assert_eq!(permit(&call, &peer), Ok(()));
        }
    });
}
