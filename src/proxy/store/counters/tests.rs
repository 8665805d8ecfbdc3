//! Counters are kept by name, go on, and are clamped.

use serde_json::json;

use super::*;

fn counters() -> Counters {
    Counters::new(7, Duration::from_secs(1_780_000_000))
}

fn again(counters: &Counters) -> Counters {
    let object = serde_json::to_string(counters).unwrap();
    Counters::parse(&object).of_instance(counters.instance, counters.since)
}

#[test]
fn each_counter_has_its_own_place_and_name() {
    let named = |counter, path: &[&str]| {
        let mut counters = counters();
        counters.count(counter);
        let mut object = serde_json::to_value(&counters).unwrap();
        for name in path {
            object = object[name].clone();
        }
        assert_eq!(object, json!(1), "{path:?}");
        assert_eq!(counters.counts.iter().sum::<u64>(), 1, "{path:?}");
        again(&counters).counts
    };
    let mut all = vec![
        named(Counter::Acquisition, &["acquisitions"]),
        named(Counter::Renewal, &["renewals"]),
        named(Counter::Rebind, &["rebinds"]),
        named(Counter::Nak, &["naks"]),
        named(Counter::Decline, &["declines"]),
        named(Counter::Probe, &["probes"]),
        named(Counter::Conflict, &["conflicts"]),
        named(Counter::Expiry, &["expiries"]),
    ];
    for (reason, name) in [
        (FailureReason::NoCarrier, "no_carrier"),
        (FailureReason::NoOffer, "no_offer"),
        (FailureReason::UnusableOffer, "unusable_offer"),
        (FailureReason::NoAck, "no_ack"),
        (FailureReason::Refused, "refused"),
        (FailureReason::Conflict, "conflict"),
        (FailureReason::Kernel, "kernel"),
    ] {
        all.push(named(Counter::Failure(reason), &["failures", name]));
    }
    for (cause, name) in [
        (WakeCause::Call, "call"),
        (WakeCause::Timer, "timer"),
        (WakeCause::Other, "other"),
    ] {
        all.push(named(Counter::Wake(cause), &["wakes", name]));
    }
    for (outcome, name) in [
        (EventOutcome::Started, "started"),
        (EventOutcome::Dropped, "dropped"),
        (EventOutcome::Failed, "failed"),
    ] {
        all.push(named(Counter::Event(outcome), &["events", name]));
    }
    for number in 0..17 {
        let code = Code::from(number);
        let is_it = |name: &&&str| name.replace('_', "") == format!("{code:?}").to_uppercase();
        if let Some(name) = FAMILIES[9].values.iter().find(is_it) {
            all.push(named(Counter::Call(code), &["calls", name]));
        } else {
            named(Counter::Call(code), &["calls", "INTERNAL"]);
        }
    }
    let mut places: Vec<_> = all
        .iter()
        .map(|counts| counts.iter().position(|count| *count == 1))
        .collect();
    places.sort();
    assert_eq!(places, (0..COUNT).map(Some).collect::<Vec<_>>());
}

#[test]
fn they_go_on_where_the_file_has_them() {
    let mut before = counters();
    before.add_tally(&Tally {
        renewals: 3,
        probes: 5,
        ..Tally::default()
    });
    before.set_processor_time(Duration::from_micros(1500));
    let mut next = Counters::new(8, Duration::from_secs(1_790_000_000));
    next.count(Counter::Wake(WakeCause::Timer));
    assert!(!next.is_unsaved(), "a start alone is not written");
    next.resume(&again(&before));
    next.set_processor_time(Duration::from_micros(20));
    next.add_tally(&Tally {
        renewals: 1,
        ..Tally::default()
    });
    assert!(next.is_unsaved());
    next.mark_saved();
    next.add_tally(&Tally::default());
    assert!(!next.is_unsaved());
    let object = serde_json::to_value(&next).unwrap();
    assert_eq!(
        [
            &object["renewals"],
            &object["probes"],
            &object["wakes"]["timer"],
            &object[PROCESSOR_TIME]
        ],
        [&json!(4), &json!(5), &json!(1), &json!(1520)]
    );
    assert_eq!((next.instance, next.since), (before.instance, before.since));
}

#[test]
fn a_forged_count_is_clamped_and_never_overflows() {
    let object = json!({
        "renewals": u64::MAX, "naks": -1, "probes": "7", "declines": 1.5, "failures": [1],
        "calls": {"OK": 1e300, "ABORTED": 3, "more": 4}, PROCESSOR_TIME: u64::MAX, "unknown": {},
    });
    let mut forged = Counters::parse(&object.to_string()).of_instance(7, Duration::MAX);
    assert_eq!(forged.counts[Counter::Renewal.place()], MAX_COUNT);
    forged.count(Counter::Renewal);
    forged.resume(&forged.clone());
    forged.set_processor_time(Duration::MAX);
    assert_eq!(forged.counts[Counter::Renewal.place()], MAX_COUNT);
    assert_eq!(forged.processor_time(), Duration::from_micros(MAX_COUNT));
    assert_eq!(forged.since.as_secs(), MAX_COUNT);
    for counter in [
        Counter::Nak,
        Counter::Probe,
        Counter::Decline,
        Counter::Call(Code::Ok),
    ] {
        assert_eq!(forged.counts[counter.place()], 0, "{counter:?}");
    }
    assert_eq!(forged.counts[Counter::Call(Code::Aborted).place()], 6);
    for other in [json!(null), json!(7), json!([]), json!("x")] {
        assert_eq!(Counters::parse(&other.to_string()).counts, [0; COUNT]);
    }
}
