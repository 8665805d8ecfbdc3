//! Counts what happened to clients in which state.

use std::fmt::Write;

pub const STATES: [&str; 11] = [
    "INIT",
    "SELECTING",
    "REQUESTING",
    "INIT-REBOOT",
    "REBOOTING",
    "PROBING",
    "BOUND",
    "RENEWING",
    "REBINDING",
    "RELEASING",
    "STOPPED",
];

/// The message types 1 to 8 with the right xid, and what else can happen.
pub const EVENTS: [&str; 13] = [
    "DISCOVER",
    "OFFER",
    "REQUEST",
    "DECLINE",
    "ACK",
    "NAK",
    "RELEASE",
    "INFORM",
    "timeout",
    "no carrier",
    "carrier",
    "conflict",
    "rest",
];
pub const TIMEOUT: usize = 8;
pub const NO_CARRIER: usize = 9;
pub const CARRIER: usize = 10;
pub const CONFLICT: usize = 11;
pub const REST: usize = 12;

/// What cannot happen, and why.
pub const NEVER: [(&str, &str, &str); 6] = [
    ("STOPPED", "timeout", "a stopped client waits for nothing"),
    (
        "REQUESTING",
        "rest",
        "an answer decides what the next step is",
    ),
    (
        "REBOOTING",
        "rest",
        "an answer decides what the next step is",
    ),
    ("PROBING", "rest", "the address is not in use yet"),
    ("RELEASING", "rest", "it is over in a moment"),
    ("STOPPED", "rest", "there is nothing to go on with"),
];

#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: [[u64; EVENTS.len()]; STATES.len()],
    pub acquired: u64,
    pub renewed: u64,
    pub lost: u64,
    pub gave_up: u64,
    pub messages: u64,
    pub busiest: usize,
}

impl Coverage {
    pub fn count(&mut self, state: &str, event: usize) {
        let state = STATES
            .iter()
            .position(|name| *name == state)
            .expect("a known state");
        self.counts[state][event] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self
            .counts
            .iter_mut()
            .flatten()
            .zip(other.counts.iter().flatten())
        {
            *ours += theirs;
        }
        self.acquired += other.acquired;
        self.renewed += other.renewed;
        self.lost += other.lost;
        self.gave_up += other.gave_up;
        self.messages += other.messages;
        self.busiest = self.busiest.max(other.busiest);
    }

    /// The pairs that are rarer than `least`, apart from those that cannot be.
    pub fn rarer_than(&self, least: u64) -> Vec<(&'static str, &'static str, u64)> {
        let pairs = STATES.iter().enumerate().flat_map(|(s, state)| {
            EVENTS
                .iter()
                .enumerate()
                .map(move |(e, event)| (*state, *event, self.counts[s][e]))
        });
        let never = |state, event| {
            NEVER
                .iter()
                .any(|never| (never.0, never.1) == (state, event))
        };
        pairs
            .filter(|(state, event, count)| !never(state, event) && *count < least)
            .collect()
    }

    pub fn table(&self) -> String {
        let mut table = format!("{:12}", "");
        for event in EVENTS {
            write!(table, "{event:>11}").expect("a string takes all");
        }
        for (state, counts) in STATES.iter().zip(&self.counts) {
            write!(table, "\n{state:12}").expect("a string takes all");
            for count in counts {
                write!(table, "{count:11}").expect("a string takes all");
            }
        }
        for (state, event, why) in NEVER {
            write!(table, "\nnever: {event} in {state}: {why}").expect("a string takes all");
        }
        table
    }
}
