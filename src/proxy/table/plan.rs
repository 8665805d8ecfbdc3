//! What is due, what waits, and until when the process may sleep: arithmetic on instants, without a
//! clock of its own.
//!
//! The contract is that of the DHCP client: inputs come with the time, and after each of them
//! [`Plan::poll`] is called until it has no work left. [`Plan::poll_timeout`] says when to call it
//! again without an input.
//!
//! Leases are renewed together, because each of them would else start the process by itself. A
//! lease may be renewed from a tenth of T1 before its time on (RFC 2131 4.4.5 allows it), but only
//! where the process can sleep. A server that does not answer is asked by few leases. A lease of
//! which the process died is worked on last, and alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::mac::Mac;
use crate::proxy::key::{DhcpServer, LeaseKey};
use crate::proxy::store::trust::Trust;
use crate::time::Instant;

use super::renewal_rate::RenewalRate;
use super::unresponsive::UnresponsiveServers;

/// A deadline that is nearer than this is waited for: leaving takes a moment, and a timer that
/// elapses within it is lost.
pub(super) const MIN_TIMER_LEAD: Duration = Duration::from_secs(2);

/// After this long a lease under suspicion does not wait any more until nothing else is worked on.
const SUSPECT_WAIT: Duration = Duration::from_secs(60);

/// How soon a lease that was just worked on may be due again.
const MIN_DORMANCY: Duration = Duration::from_secs(1);

/// The times of a lease, as its record has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// When there is something to do; `None` for never.
    pub(super) due: Option<Instant>,
    /// From when on it may be renewed together with others.
    pub(super) may_renew_from: Option<Instant>,
    pub(super) t1: Option<Instant>,
    /// The end of the time in which it has to be done: T2 where T1 comes next, else the expiry.
    pub(super) too_late: Option<Instant>,
    /// The server that its lease is from.
    pub(super) server: Option<DhcpServer>,
    /// It is in use, and nothing is to be done for it but to renew it.
    pub(super) is_bound: bool,
    /// Its server was asked for more time, and did not answer.
    pub(super) is_unanswered: bool,
    /// Something failed, and the process need not stay for the next try.
    pub(super) is_retry: bool,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start work on a lease, at its turn.
    Wake { key: LeaseKey, turn: Instant },
    /// Write into a lease's record that its renewal is put off: its server does not answer others.
    Defer { key: LeaseKey, until: Instant },
    /// Nothing to do before `at` (`None`: for ever); the process may sleep. `fallback` is when to
    /// try once more if a process that was started at `at` came to nothing.
    SleepUntil {
        at: Option<Instant>,
        fallback: Option<Instant>,
    },
    /// Nothing to do now, and the process has to stay.
    Stay(StayReason),
}

/// Why the process has to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StayReason {
    /// A task or a call works on a lease.
    AtWork,
    /// Something is due so soon that to leave and come back costs more.
    DueSoon,
    /// Nothing would start the process again.
    SleepImpossible,
}

/// The leases of the daemon, by what has to be done for them and when.
#[derive(Debug)]
pub(super) struct Plan {
    entries: BTreeMap<LeaseKey, PlannedLease>,
    /// Leases that were due at the last look, in the order of their turns.
    queue: VecDeque<LeaseKey>,
    servers: UnresponsiveServers,
    /// One copy of each server, for a thousand leases may have the same.
    known_servers: BTreeSet<Rc<DhcpServer>>,
    rate: RenewalRate,
    /// A timer can start the process again.
    can_sleep: bool,
    /// A deadline that is nearer than this is waited for.
    stay_for: Duration,
}

/// A lease.
#[derive(Debug)]
struct PlannedLease {
    /// When it is worked on, as far as the process trusts it.
    due: Option<Instant>,
    may_renew_from: Option<Instant>,
    t1: Option<Instant>,
    too_late: Option<Instant>,
    server: Option<Rc<DhcpServer>>,
    /// How often the process died of it.
    deaths: u32,
    is_at_work: bool,
    is_suspect: bool,
    is_bound: bool,
    is_unanswered: bool,
    is_retry: bool,
}

impl Plan {
    /// A plan without leases, of a process that stays for what is due within `stay_for`.
    pub(super) fn new(stay_for: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            queue: VecDeque::new(),
            servers: UnresponsiveServers::default(),
            known_servers: BTreeSet::new(),
            rate: RenewalRate::new(),
            can_sleep: false,
            stay_for: stay_for.max(MIN_TIMER_LEAD),
        }
    }

    /// Says whether a timer can start the process again.
    pub(super) fn set_can_sleep(&mut self, can_sleep: bool) {
        self.can_sleep = can_sleep;
    }

    /// Notes that nothing is done for a lease until it is due. `deaths` is how often the process
    /// died of it.
    pub(super) fn insert(&mut self, key: &LeaseKey, times: &Times, deaths: u32, now: Instant) {
        let mut entry = self.entry(times, deaths);
        // A lease that makes no sense is not to keep the process busy for good.
        if self
            .entries
            .get(key)
            .is_some_and(|before| before.is_at_work)
        {
            entry.due = entry.due.map(|due| due.max(now + MIN_DORMANCY));
        }
        match Trust::after(deaths) {
            Trust::Full => {}
            Trust::Last => {
                entry.due = entry.due.map(|due| due.max(now));
                entry.may_renew_from = None;
                entry.is_suspect = true;
            }
            Trust::Quarantined => (entry.due, entry.may_renew_from) = (None, None),
        }
        self.entries.insert(key.clone(), entry);
    }

    /// Notes that a task or a call works on a lease, of which there may be no record yet.
    pub(super) fn start_work(&mut self, key: &LeaseKey, times: &Times) {
        let entry = self.entry(times, 0);
        let entry = PlannedLease {
            is_at_work: true,
            ..entry
        };
        self.entries.insert(key.clone(), entry);
    }

    /// Notes that a lease is worked on whose times stay as they are. Returns whether it is known.
    pub(super) fn mark_at_work(&mut self, key: &LeaseKey) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        (entry.is_at_work, entry.is_suspect, entry.deaths) = (true, false, 0);
        true
    }

    /// Notes that there is no such lease any more.
    pub(super) fn remove(&mut self, key: &LeaseKey) {
        self.entries.remove(key);
        if self.entries.is_empty() {
            self.known_servers.clear();
        }
    }

    /// Notes that a server has answered. Returns the leases whose renewal had been put off, and is
    /// due at T1 again: their records have to say so.
    pub(super) fn answered(&mut self, server: &DhcpServer, now: Instant) -> Vec<LeaseKey> {
        if !self.servers.mark_responsive(server, now) {
            return Vec::new();
        }
        let mut resumed = Vec::new();
        for (key, entry) in &mut self.entries {
            let is_deferred = entry.is_bound
                && !entry.is_at_work
                && entry.server.as_deref() == Some(server)
                && entry
                    .t1
                    .is_some_and(|t1| entry.due.is_some_and(|due| due > t1));
            if is_deferred {
                entry.due = entry.t1;
                resumed.push(key.clone());
            }
        }
        resumed
    }

    /// Notes that the lease of `witness` had no answer from a server, as was found at `since`.
    pub(super) fn unanswered(
        &mut self,
        server: &DhcpServer,
        witness: Mac,
        since: Instant,
        now: Instant,
    ) {
        self.servers.mark_unresponsive(server, witness, since, now);
    }

    /// Notes that the work on a lease has ended without learning anything of its server.
    pub(super) fn ask_ended(&mut self, server: &DhcpServer) {
        self.servers.forget_question(server);
    }

    /// Takes a turn for work that is not due by itself, such as a release of all leases.
    pub(super) fn turn(&mut self, now: Instant) -> Instant {
        self.rate.turn(now)
    }

    /// Returns what to do at `now`. [`Action::Wake`] and [`Action::Defer`] are followed by another
    /// call.
    pub(super) fn poll(&mut self, now: Instant) -> Action {
        if self.queue.is_empty() && self.poll_timeout().is_some_and(|due| due <= now) {
            self.queue = self.due(now);
        }
        while let Some(key) = self.queue.pop_front() {
            if let Some(action) = self.next_step(key, now) {
                return action;
            }
        }
        self.outlook(now)
    }

    /// Returns when [`Plan::poll`] has something to do, if no input comes before; `None` for never.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_due(|_| true)
    }

    /// Returns whether a lease is due by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// Returns when a process that is stopped has to be started again, and once more in case that
    /// fails: what is worked on now is not over then.
    pub(super) fn resume_after_stop(&self, now: Instant) -> Option<(Instant, Option<Instant>)> {
        let soon = now + MIN_TIMER_LEAD;
        let unfinished = self.is_at_work().then_some(soon);
        let at = self.poll_timeout().into_iter().chain(unfinished).min()?;
        let at = at.max(soon);
        Some((at, self.fallback(at)))
    }

    /// Returns whether a lease is being worked on.
    fn is_at_work(&self) -> bool {
        self.entries.values().any(|entry| entry.is_at_work)
    }

    fn next_due(&self, chosen: impl Fn(&PlannedLease) -> bool) -> Option<Instant> {
        let wait = if self.is_at_work() {
            SUSPECT_WAIT
        } else {
            Duration::ZERO
        };
        let resting = self
            .entries
            .values()
            .filter(|entry| !entry.is_at_work && chosen(entry));
        resting
            .filter_map(|entry| {
                let due = entry.due?;
                Some(if entry.is_suspect { due + wait } else { due })
            })
            .min()
    }

    /// Returns the leases to be worked on at `now`, those first whose T1 comes first: those that
    /// are due, and with them those that may be renewed early.
    fn due(&self, now: Instant) -> VecDeque<LeaseKey> {
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| self.is_time(entry, now))
            .collect();
        due.sort_by_key(|(key, entry)| (entry.due, entry.may_renew_from, *key));
        let (suspects, mut due): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, entry)| entry.deaths > 0);
        if due.is_empty() {
            // Alone, so that no other lease loses its work with the process; and the one of fewer
            // deaths first.
            let next = suspects
                .into_iter()
                .min_by_key(|(_, entry)| (entry.deaths, entry.due));
            due.extend(next);
        }
        due.into_iter().map(|(key, _)| key.clone()).collect()
    }

    fn is_time(&self, entry: &PlannedLease, now: Instant) -> bool {
        let early = entry.may_renew_from.filter(|_| self.can_sleep);
        let mut times = [entry.due, early].into_iter().flatten();
        !entry.is_at_work && times.any(|at| at <= now)
    }

    /// Returns the first step for a lease of the queue, if it is still due.
    fn next_step(&mut self, key: LeaseKey, now: Instant) -> Option<Action> {
        let entry = self.entries.get(&key);
        let entry = entry.filter(|entry| self.is_time(entry, now))?;
        // Another try of what has failed does not go by T1, and is not put off.
        let deferral = self.deferral(entry, now).filter(|_| !entry.is_retry);
        if let Some(until) = deferral {
            if until > now {
                let entry = self.entries.get_mut(&key)?;
                (entry.due, entry.may_renew_from) = (Some(until), Some(until));
                return Some(Action::Defer { key, until });
            }
        } else if let Some(server) = entry.server.clone()
            && self.can_sleep
            && (entry.is_bound || entry.is_unanswered)
        {
            self.servers.asked(&server, now);
        }
        let turn = self.rate.turn(now);
        self.entries.get_mut(&key)?.is_at_work = true;
        Some(Action::Wake { key, turn })
    }

    /// Returns until when a renewal has to wait because its server does not answer other leases
    /// either: half of the time from T1 to T2 is left for it.
    fn deferral(&self, entry: &PlannedLease, now: Instant) -> Option<Instant> {
        let server = entry.server.as_ref().filter(|_| self.can_sleep)?;
        let until = self.servers.until(server, now).filter(|_| entry.is_bound)?;
        let (t1, t2) = (entry.t1?, entry.too_late?);
        Some(until.max(t1).min(t1 + (t2 - t1) / 2))
    }

    /// Returns what the process may do once nothing is due: [`Action::SleepUntil`] or
    /// [`Action::Stay`].
    pub(super) fn outlook(&self, now: Instant) -> Action {
        let is_near = |due: Option<Instant>, limit| due.is_some_and(|due| due - now <= limit);
        // What has failed may fail again, so it is not worth staying for.
        let pressing = self.next_due(|entry| !entry.is_retry);
        let at = self.poll_timeout();
        if self.is_at_work() {
            Action::Stay(StayReason::AtWork)
        } else if !self.can_sleep && !self.entries.is_empty() {
            Action::Stay(StayReason::SleepImpossible)
        } else if is_near(pressing, self.stay_for) || is_near(at, MIN_TIMER_LEAD) {
            Action::Stay(StayReason::DueSoon)
        } else {
            let fallback = at.and_then(|at| self.fallback(at));
            Action::SleepUntil { at, fallback }
        }
    }

    /// Returns when a second timer has to start the process that one at `at` could not: a quarter
    /// of the way to the first moment that is too late.
    fn fallback(&self, at: Instant) -> Option<Instant> {
        let too_late = self.entries.values().filter_map(|entry| entry.too_late);
        let too_late = too_late.filter(|too_late| *too_late > at).min()?;
        Some(at + (too_late - at) / 4)
    }

    fn entry(&mut self, times: &Times, deaths: u32) -> PlannedLease {
        // A renewal that was put off is not brought forward for the sake of others.
        let is_deferred = times.is_bound && times.due > times.t1;
        PlannedLease {
            due: times.due,
            may_renew_from: if is_deferred {
                times.due
            } else {
                times.may_renew_from
            },
            t1: times.t1,
            too_late: times.too_late,
            server: times.server.as_ref().map(|server| self.intern(server)),
            deaths,
            is_at_work: false,
            is_suspect: false,
            is_bound: times.is_bound,
            is_unanswered: times.is_unanswered,
            is_retry: times.is_retry,
        }
    }

    /// Returns the one copy of a server.
    fn intern(&mut self, server: &DhcpServer) -> Rc<DhcpServer> {
        if let Some(known) = self.known_servers.get(server) {
            return Rc::clone(known);
        }
        if self.known_servers.len() >= SERVERS {
            self.known_servers
                .retain(|server| Rc::strong_count(server) > 1);
        }
        let new = Rc::new(server.clone());
        self.known_servers.insert(Rc::clone(&new));
        new
    }
}

/// Servers that are kept before those without a lease are dropped.
const SERVERS: usize = 64;

#[cfg(test)]
mod tests;
