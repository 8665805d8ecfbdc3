//! Records of hostile files.

use serde_json::{Value, json};

use super::super::number::MAX_MILLIS;
use super::super::tests::{at, entry_of, phases, record};
use super::*;
use crate::dhcp::{Client, Config};
use crate::mac::Mac;

const NOW: u64 = 2_900_000;
const HOUR: u64 = 3_600_000;

/// Values that a file may have in the place of a number.
fn extremes() -> Vec<Value> {
    let numbers = [
        0,
        1,
        NOW,
        NOW + 1,
        1 << 31,
        (1 << 31) - 1,
        1 << 32,
        u32::MAX.into(),
        (1 << 32) - 2,
        MAX_MILLIS,
        MAX_MILLIS + 1,
    ];
    let large = [
        u64::MAX,
        u64::MAX - 1,
        u64::MAX / 1000,
        u64::MAX / 1000 + 1,
        i64::MAX.unsigned_abs(),
        1 << 63,
    ];
    numbers
        .into_iter()
        .chain(large)
        .map(Value::from)
        .chain([json!(-1), json!(1e300), Value::Null])
        .collect()
}

/// The fields that hold a number, always or at times.
fn numeric_fields() -> Vec<String> {
    let mut whole = serde_json::to_value(StoredRecord::default()).unwrap();
    for phase in phases() {
        let entry = entry_of(&record(phase));
        for (name, value) in entry.as_object().unwrap() {
            if !value.is_null() {
                whole[name] = value.clone();
            }
        }
    }
    let fields = whole.as_object().unwrap().iter();
    fields
        .filter(|(_, value)| value.is_number() || value.is_null())
        .map(|(name, _)| name.clone())
        .collect()
}

/// Runs a client from a record for four hours without an answer, and returns how often it is woken.
fn live(record: Record) -> usize {
    let RecordState::Held { snapshot: rest, .. } = record.state else {
        return 0;
    };
    let mut client = Client::resume(
        Config::new(Mac([2, 0, 0, 0, 0, 1]), Vec::new()),
        rest,
        1,
        at(NOW),
    );
    let (mut time, mut woken, mut out) = (at(NOW), 0, Vec::new());
    loop {
        while client.poll_transmit(&mut out).is_some() {}
        while client.poll_event().is_some() {}
        let rest = client.suspend();
        let Some(due) = client
            .poll_timeout()
            .filter(|due| *due < at(NOW + 4 * HOUR))
        else {
            return woken;
        };
        assert!(due > time, "{due:?} is not after {time:?}: {rest:?}");
        (time, woken) = (due, woken + 1);
        client.handle_timeout(time);
    }
}

/// Checks an entry as if it were read from a file.
fn check(entry: &Value) {
    let Some(record) = Record::parse(entry, at(NOW)) else {
        return;
    };
    let _ = (
        record.may_renew_from(),
        record.deadline(),
        record.unresponsive_since(),
        record.t1(),
    );
    for until in [0, NOW, MAX_MILLIS] {
        let put_off = record.clone().defer_renewal(at(until));
        assert!(
            put_off
                .is_none_or(|record| record.t2().is_none() || record.client_due() <= record.t2())
        );
    }
    let woken = live(record.clone());
    // The limit of messages, and the steps between them.
    assert!(woken < 4 * 300, "woken {woken} times in four hours");
    let due = record.due();
    match &record.state {
        RecordState::Intent | RecordState::Ending { .. } => {
            let latest = if record.is_retry() {
                at(NOW + HOUR)
            } else {
                at(0)
            };
            assert!(due.is_some_and(|due| due <= latest), "due at {due:?}");
        }
        RecordState::Held { snapshot, .. } if snapshot.lease().is_none() => {
            assert!(
                due.is_some_and(|due| due <= at(NOW + HOUR)),
                "looked for at {due:?}"
            );
        }
        RecordState::Held { snapshot, .. } => {
            let Some(end) = snapshot.lease().unwrap().expires_at() else {
                return;
            };
            let left = end - at(NOW);
            let latest = if left > Duration::from_secs(120) {
                at(NOW) + left * 9 / 10
            } else {
                end
            };
            let latest = latest.max(at(NOW + HOUR)).min(end);
            assert!(
                due.is_some_and(|due| due <= latest),
                "due at {due:?}, and the lease ends at {end:?}"
            );
        }
    }
}

#[test]
fn no_number_makes_a_panic_a_loop_or_a_lease_that_is_not_renewed() {
    let fields = numeric_fields();
    for name in [
        "t1",
        "lease_time",
        "acquired_at",
        "due_at",
        "look_at",
        "pace",
        "container_ifindex",
        "mtu",
    ] {
        assert!(
            fields.iter().any(|field| field == name),
            "{name} is not among {fields:?}"
        );
    }
    for phase in phases() {
        let entry = entry_of(&record(phase));
        for field in &fields {
            for extreme in extremes() {
                for unsaid in [false, true] {
                    let mut entry = entry.clone();
                    entry["unsaid"] = json!(unsaid);
                    entry[field] = extreme.clone();
                    let said = entry.to_string();
                    let checked = std::panic::catch_unwind(|| check(&entry));
                    assert!(checked.is_ok(), "{field} = {extreme}: {said}");
                }
            }
        }
    }
}

#[test]
fn all_numbers_at_once_are_no_worse() {
    for phase in phases() {
        for extreme in extremes() {
            let mut entry = entry_of(&record(phase.clone()));
            for field in numeric_fields() {
                entry[&field] = extreme.clone();
                check(&entry);
            }
        }
    }
}

#[test]
fn what_a_client_wrote_stays_as_it_was() {
    for phase in phases() {
        let record = record(phase);
        for written in [
            record.clone(),
            record.clone().ending(),
            record.clone().with_link_check(),
        ] {
            assert_eq!(written.clone().clamped(at(NOW)), Some(written));
        }
        // As if its server did not answer.
        if let Some(held_back) = record.defer_renewal(at(NOW + 60_000)) {
            assert_eq!(held_back.clone().clamped(at(NOW)), Some(held_back));
        }
    }
}

#[test]
fn timers_and_times_of_a_forged_lease_are_in_order() {
    let read = |changes: Value| {
        let mut entry = entry_of(&record(phases()[0].clone()));
        for (name, value) in changes.as_object().unwrap() {
            entry[name] = value.clone();
        }
        Record::parse(&entry, at(NOW))
    };
    let of = |changes: Value| read(changes).unwrap();
    // 3600 s from 1000 s on; T1 at 2800 s, T2 at 4150 s.
    assert_eq!(of(json!({"due_at": null})).due(), Some(at(2_800_000)));
    assert_eq!(
        of(json!({"due_at": u64::MAX})).due(),
        Some(at(3_475_000)),
        "as late as one that waits for its server"
    );
    assert_eq!(
        of(json!({"renew_at": null, "due_at": null})).due(),
        Some(at(2_801_000)),
        "T1 to the second"
    );
    assert_eq!(
        of(json!({"t1": 3600, "t2": 3600, "renew_at": null, "due_at": null})).due(),
        Some(at(2_801_000))
    );
    let future =
        of(json!({"acquired_at": u64::MAX, "renew_at": null, "rebind_at": null, "due_at": null}));
    assert_eq!(
        (future.lease().unwrap().acquired_at, future.due()),
        (at(NOW), Some(at(NOW + 1_801_000)))
    );
    assert_eq!(
        of(json!({"unsaid": true, "look_at": null})).due(),
        Some(at(0))
    );
    assert_eq!(
        of(json!({"silent_since": u64::MAX})).unresponsive_since(),
        Some(at(NOW))
    );
    for index in [json!(0), json!(1_u64 << 31)] {
        assert!(
            read(json!({"container_ifindex": index})).is_none(),
            "{index} is no interface"
        );
    }
}
