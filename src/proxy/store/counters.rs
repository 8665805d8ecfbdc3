//! Counters of the daemon's work, kept in the state file: they go on after sleep, a restart and an
//! upgrade. Pure.
//!
//! They are written with the next change of a lease, and never alone while the process runs: a
//! renewal costs no further write. A process that leaves writes the file once more if anything but
//! its own start was counted since the last time. So a crash costs what was counted since the last
//! write, and a start that finds nothing to do is not counted.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::dhcp::Tally;
use crate::rpc::Code;

/// The largest count, and the largest processor time in microseconds: every reader of JSON has it
/// exactly.
pub(crate) const MAX_COUNT: u64 = (1 << 53) - 1;

/// A group of counters, which differ by one label.
#[derive(Debug)]
pub(crate) struct Family {
    /// The name in JSON and, with a prefix and a suffix, in OpenMetrics.
    pub(crate) name: &'static str,
    /// The words of OpenMetrics.
    pub(crate) help: &'static str,
    /// The name of the label; empty for a family of one counter.
    pub(crate) label: &'static str,
    /// The values of the label.
    pub(crate) values: &'static [&'static str],
}

/// All counters. New ones may be added anywhere: the state file has them by name.
pub(crate) const FAMILIES: [Family; 12] = [
    single(
        "acquisitions",
        "Leases acquired, at a Setup or after a loss",
    ),
    single("renewals", "Renewals granted by the leasing server"),
    single("rebinds", "Renewals granted in REBINDING, by any server"),
    single("naks", "DHCPNAKs received"),
    single("declines", "DHCPDECLINEs sent"),
    single("probes", "ARP probes sent"),
    single(
        "conflicts",
        "Addresses declined or given up because another station has them",
    ),
    single("expiries", "Leases that ended without a renewal"),
    Family {
        name: "failures",
        help: "Setups without a lease, and failed system calls for a lease, by reason",
        label: "reason",
        values: &[
            "no_carrier",
            "no_offer",
            "unusable_offer",
            "no_ack",
            "refused",
            "conflict",
            "kernel",
        ],
    },
    Family {
        name: "calls",
        help: "Calls answered, by gRPC status",
        label: "status",
        values: &[
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ],
    },
    Family {
        name: "wakes",
        help: "Starts of the daemon, by cause",
        label: "cause",
        values: &["call", "timer", "other"],
    },
    Family {
        name: "events",
        help: "Events for the program of --on-change, by outcome",
        label: "outcome",
        values: &["started", "dropped", "failed"],
    },
];

const fn single(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        label: "",
        values: &[""],
    }
}

/// The number of all counters.
const COUNT: usize = {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        count += FAMILIES[family].values.len();
        family += 1;
    }
    count
};

/// One counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    Acquisition,
    Renewal,
    Rebind,
    Nak,
    Decline,
    Probe,
    Conflict,
    Expiry,
    Failure(FailureReason),
    Call(Code),
    Wake(WakeCause),
    Event(EventOutcome),
}

/// The reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureReason {
    NoCarrier,
    NoOffer,
    UnusableOffer,
    NoAck,
    Refused,
    Conflict,
    Kernel,
}

/// The cause of a start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeCause {
    Call,
    Timer,
    /// By hand, at boot, or after a crash.
    Other,
}

/// The outcome of an event for the program of `--on-change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    Started,
    Dropped,
    Failed,
}

impl Counter {
    fn place(self) -> usize {
        let (family, value) = match self {
            Self::Acquisition => (0, 0),
            Self::Renewal => (1, 0),
            Self::Rebind => (2, 0),
            Self::Nak => (3, 0),
            Self::Decline => (4, 0),
            Self::Probe => (5, 0),
            Self::Conflict => (6, 0),
            Self::Expiry => (7, 0),
            Self::Failure(reason) => (8, reason as usize),
            Self::Call(code) => (9, code as usize),
            Self::Wake(cause) => (10, cause as usize),
            Self::Event(outcome) => (11, outcome as usize),
        };
        let before = FAMILIES[..family].iter().map(|family| family.values.len());
        before.sum::<usize>() + value
    }
}

/// The counters, and the instance that has counted them: another one is a new beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) instance: u64,
    /// The date at which the instance began, as the time since 1970.
    pub(crate) since: Duration,
    counts: [u64; COUNT],
    /// The processor time of earlier processes, and of this one until the last write.
    earlier: Duration,
    own: Duration,
    /// More than a start was counted since the last write.
    is_unsaved: bool,
}

impl Counters {
    /// Returns the counters of a new instance.
    pub(crate) fn new(instance: u64, since: Duration) -> Self {
        Self {
            instance,
            since: Duration::from_secs(since.as_secs().min(MAX_COUNT)),
            counts: [0; COUNT],
            earlier: Duration::ZERO,
            own: Duration::ZERO,
            is_unsaved: false,
        }
    }

    pub(crate) fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    fn add(&mut self, counter: Counter, number: u32) {
        let count = &mut self.counts[counter.place()];
        *count = count.saturating_add(number.into()).min(MAX_COUNT);
        self.is_unsaved |= number > 0 && !matches!(counter, Counter::Wake(_));
    }

    /// Adds what a client has counted.
    pub(crate) fn add_tally(&mut self, tally: &Tally) {
        let Tally {
            renewals,
            rebinds,
            naks,
            declines,
            probes,
            conflicts,
            expiries,
        } = *tally;
        for (counter, number) in [
            (Counter::Renewal, renewals),
            (Counter::Rebind, rebinds),
            (Counter::Nak, naks),
            (Counter::Decline, declines),
            (Counter::Probe, probes),
            (Counter::Conflict, conflicts),
            (Counter::Expiry, expiries),
        ] {
            self.add(counter, number);
        }
    }

    /// Sets the processor time of this process so far.
    pub(crate) fn set_processor_time(&mut self, own: Duration) {
        self.own = own;
    }

    /// Returns whether a process that leaves has to write the file for them.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.is_unsaved
    }

    pub(crate) fn mark_saved(&mut self) {
        self.is_unsaved = false;
    }

    /// Goes on from the counters of the file, with what was counted here since.
    pub(crate) fn resume(&mut self, stored: &Self) {
        for (count, stored) in self.counts.iter_mut().zip(stored.counts) {
            *count = count.saturating_add(stored).min(MAX_COUNT);
        }
        self.earlier = stored.processor_time();
        (self.instance, self.since) = (stored.instance, stored.since);
    }

    /// Returns the processor time of all processes.
    pub(crate) fn processor_time(&self) -> Duration {
        let sum = self.earlier.saturating_add(self.own);
        sum.min(Duration::from_micros(MAX_COUNT))
    }

    /// Returns the families with their counts.
    pub(crate) fn families(&self) -> impl Iterator<Item = (&'static Family, &[u64])> {
        let mut rest = &self.counts[..];
        FAMILIES.iter().map(move |family| {
            let (counts, others) = rest.split_at(family.values.len());
            rest = others;
            (family, counts)
        })
    }

    /// Parses the object of the state file, of the instance that began at `since` (in seconds). A
    /// counter that is missing or no number is zero, and a huge one is clamped.
    pub(crate) fn parse(object: &Value, instance: u64, since: u64) -> Self {
        let mut counters = Self::new(instance, Duration::from_secs(since));
        let number = |value: &Value| value.as_u64().unwrap_or(0).min(MAX_COUNT);
        let mut counts = counters.counts.iter_mut();
        for family in &FAMILIES {
            let value = &object[family.name];
            for (name, count) in family.values.iter().zip(&mut counts) {
                *count = number(if family.label.is_empty() {
                    value
                } else {
                    &value[name]
                });
            }
        }
        counters.earlier = Duration::from_micros(number(&object[PROCESSOR_TIME]));
        counters
    }
}

const PROCESSOR_TIME: &str = "processor_microseconds";

/// The object of the state file and of `status --json`.
impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (family, counts) in self.families() {
            if family.label.is_empty() {
                object.serialize_entry(family.name, &counts[0])?;
            } else {
                object.serialize_entry(family.name, &ByLabel(family.values, counts))?;
            }
        }
        let micros = self.processor_time().as_micros();
        object.serialize_entry(PROCESSOR_TIME, &u64::try_from(micros).unwrap_or(MAX_COUNT))?;
        object.end()
    }
}

/// Counts by the values of their label.
struct ByLabel<'a>(&'static [&'static str], &'a [u64]);

impl Serialize for ByLabel<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counters() -> Counters {
        Counters::new(7, Duration::from_secs(1_780_000_000))
    }

    fn again(counters: &Counters) -> Counters {
        let object = serde_json::to_value(counters).unwrap();
        Counters::parse(&object, counters.instance, counters.since.as_secs())
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
            let name = format!("{code:?}");
            let place = FAMILIES[9].values[number as usize].replace('_', "");
            assert_eq!(place, name.to_uppercase());
            all.push(named(
                Counter::Call(code),
                &["calls", FAMILIES[9].values[number as usize]],
            ));
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
        let mut forged = Counters::parse(&object, 7, u64::MAX);
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
            assert_eq!(Counters::parse(&other, 7, 1).counts, [0; COUNT]);
        }
    }
}
