//! Counters of the daemon's work, kept in the state file: they go on after sleep, a restart and an
//! upgrade. Pure.
//!
//! They are written with the next change of a lease, and never alone while the process runs: a
//! renewal costs no further write. A process that leaves writes the file once more if anything but
//! its own start was counted since the last time. So a crash costs what was counted since the last
//! write, and a start that finds nothing to do is not counted.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::dhcp::Tally;
use crate::proxy::store::scan::{Scanner, number};
use crate::rpc::Code;

/// The largest count, and the largest processor time in microseconds: every reader of JSON has it
/// exactly.
pub(crate) const MAX_COUNT: u64 = (1 << 53) - 1;

/// A group of counters, which differ by one label.
#[derive(Debug)]
pub(crate) struct CounterFamily {
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
pub(crate) const FAMILIES: [CounterFamily; 12] = [
    single(
        "acquisitions",
        "Leases acquired, at a Setup or after a loss",
    ),
    single("renewals", "Renewals granted by the leasing server"),
    single("rebinds", "Renewals granted in REBINDING, by any server"),
    single("naks", "DHCPNAKs that ended a lease or a search"),
    single("declines", "DHCPDECLINEs sent"),
    single("probes", "ARP probes sent"),
    single(
        "conflicts",
        "Addresses declined or given up because another station has them",
    ),
    single("expiries", "Leases that ended without a renewal"),
    CounterFamily {
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
    CounterFamily {
        name: "calls",
        help: "Calls ended, by gRPC status",
        label: "status",
        values: &[
            "OK",
            "CANCELLED",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "ABORTED",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
        ],
    },
    CounterFamily {
        name: "wakes",
        help: "Starts of the daemon, by cause",
        label: "cause",
        values: &["call", "timer", "other"],
    },
    CounterFamily {
        name: "events",
        help: "Events for the program of --on-change, by outcome",
        label: "outcome",
        values: &["started", "dropped", "failed"],
    },
];

const fn single(name: &'static str, help: &'static str) -> CounterFamily {
    CounterFamily {
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
            Self::Call(code) => (9, place_of_status(code)),
            Self::Wake(cause) => (10, cause as usize),
            Self::Event(outcome) => (11, outcome as usize),
        };
        let before = FAMILIES[..family].iter().map(|family| family.values.len());
        before.sum::<usize>() + value
    }
}

/// Returns the place of a status among those that calls end with. Others do not occur.
fn place_of_status(code: Code) -> usize {
    match code {
        Code::Ok => 0,
        Code::Cancelled => 1,
        Code::InvalidArgument => 2,
        Code::DeadlineExceeded => 3,
        Code::NotFound => 4,
        Code::PermissionDenied => 5,
        Code::ResourceExhausted => 6,
        Code::Aborted => 7,
        Code::Unimplemented => 8,
        Code::Unavailable => 10,
        Code::Internal
        | Code::Unknown
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Unauthenticated => 9,
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
    pub(crate) fn families(&self) -> impl Iterator<Item = (&'static CounterFamily, &[u64])> {
        let mut rest = &self.counts[..];
        FAMILIES.iter().map(move |family| {
            let (counts, others) = rest.split_at(family.values.len());
            rest = others;
            (family, counts)
        })
    }

    /// Returns the same counts as those of this instance, which began at `since`.
    pub(crate) fn of_instance(self, instance: u64, since: Duration) -> Self {
        let Self { since, .. } = Self::new(instance, since);
        Self {
            instance,
            since,
            ..self
        }
    }

    /// Parses the object of the state file. A counter that is missing or no number is zero, and a
    /// huge one is clamped.
    pub(crate) fn parse(object: &str) -> Self {
        let mut counters = Self::new(0, Duration::ZERO);
        let count_of = |value: &str| number(value).unwrap_or(0).min(MAX_COUNT);
        // Counters before a fault count; the file as a whole is found to be damaged.
        let _ = Scanner::new(object).object(&mut |scanner, name| {
            let value = scanner.value()?;
            if name == PROCESSOR_TIME {
                counters.earlier = Duration::from_micros(count_of(value));
            }
            let mut rest = &mut counters.counts[..];
            for family in &FAMILIES {
                let (counts, others) = rest.split_at_mut(family.values.len());
                rest = others;
                if family.name != name {
                    continue;
                }
                if family.label.is_empty() {
                    counts[0] = count_of(value);
                    continue;
                }
                let _ = Scanner::new(value).object(&mut |scanner, label| {
                    let value = scanner.value()?;
                    if let Some(place) = family.values.iter().position(|known| *known == label) {
                        counts[place] = count_of(value);
                    }
                    Ok(())
                });
            }
            Ok(())
        });
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
mod tests;
