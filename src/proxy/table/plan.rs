//! The plan: which lease is due, which one waits, and until when the process may sleep. Pure: the
//! time is an argument.
//!
//! The contract is that of the DHCP client: after each input, [`Plan::poll`] is called until it
//! hands out no more work; [`Plan::poll_timeout`] says when to call it next.
//!
//! - Renewals are batched, so that a process is not started for each of them. Where the process can
//!   sleep, a lease may be renewed early, from a tenth of T1 before T1 on (RFC 2131 §4.4.5 allows
//!   it).
//! - A server that does not answer is asked for few leases only.
//! - A lease that crashed the process before is worked on last, and alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::mac::Mac;
use crate::proxy::key::{DhcpServer, LeaseKey};
use crate::proxy::store::trust::Trust;
use crate::time::Instant;

use super::renewal_rate::RenewalRate;
use super::unresponsive::UnresponsiveServers;

/// The process waits for what is due sooner: an exit takes a moment, and a timer that elapses
/// during it is lost.
pub(super) const MIN_TIMER_LEAD: Duration = Duration::from_secs(2);

/// The time after which a lease that crashed the process no longer waits for other work to end.
const SUSPECT_WAIT: Duration = Duration::from_secs(60);

/// The least time before a lease that was just worked on is due again.
const MIN_DORMANCY: Duration = Duration::from_secs(1);

/// The times of a lease, from its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// `None` for never.
    pub(super) due: Option<Instant>,
    /// The start of the time in which it may be renewed together with others.
    pub(super) may_renew_from: Option<Instant>,
    pub(super) t1: Option<Instant>,
    /// T2 if T1 comes next, otherwise the expiry.
    pub(super) deadline: Option<Instant>,
    /// The server that gave the lease.
    pub(super) server: Option<DhcpServer>,
    /// Only a renewal is to be done.
    pub(super) is_bound: bool,
    /// A renewal got no answer.
    pub(super) is_unanswered: bool,
    /// The last work on it failed. The process need not stay for the next attempt.
    pub(super) is_retry: bool,
}

/// The next step of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start work on a lease at its turn.
    Wake { key: LeaseKey, turn: Instant },
    /// Defer a renewal in the lease's record, because its server does not answer.
    Defer { key: LeaseKey, until: Instant },
    /// Nothing to do before `at`, or ever; the process may exit. `fallback` is the time of a second
    /// start in case the first one fails.
    SleepUntil {
        at: Option<Instant>,
        fallback: Option<Instant>,
    },
    /// Nothing to do now, but the process must not exit.
    Stay(StayReason),
}

/// The reason why the process must not exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StayReason {
    /// A task or a call works on a lease.
    AtWork,
    /// A lease is due soon: an exit and a start cost more than the wait.
    DueSoon,
    /// No timer can start the process again.
    SleepImpossible,
}

/// The schedule of all leases.
#[derive(Debug)]
pub(super) struct Plan {
    entries: BTreeMap<LeaseKey, PlannedLease>,
    /// Leases that were due at the last check, in the order of their turns.
    queue: VecDeque<LeaseKey>,
    servers: UnresponsiveServers,
    /// One copy of each server, which many leases share.
    server_pool: BTreeSet<Rc<DhcpServer>>,
    rate: RenewalRate,
    /// A timer can start the process again.
    can_sleep: bool,
    /// A lease that is due within this time is waited for.
    stay_for: Duration,
}

/// The schedule of one lease.
#[derive(Debug)]
struct PlannedLease {
    /// The time of the next work; `None` in quarantine.
    due: Option<Instant>,
    may_renew_from: Option<Instant>,
    t1: Option<Instant>,
    deadline: Option<Instant>,
    server: Option<Rc<DhcpServer>>,
    /// The number of times that the process died while working on it.
    deaths: u32,
    is_at_work: bool,
    is_suspect: bool,
    is_bound: bool,
    is_unanswered: bool,
    is_retry: bool,
}

impl Plan {
    /// Makes a plan without leases.
    pub(super) fn new(stay_for: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            queue: VecDeque::new(),
            servers: UnresponsiveServers::default(),
            server_pool: BTreeSet::new(),
            rate: RenewalRate::new(),
            can_sleep: false,
            stay_for: stay_for.max(MIN_TIMER_LEAD),
        }
    }

    /// Sets whether a timer can start the process again.
    pub(super) fn set_can_sleep(&mut self, can_sleep: bool) {
        self.can_sleep = can_sleep;
    }

    /// Adds or updates a dormant lease. `deaths` is the number of times that the process died while
    /// working on it.
    pub(super) fn insert(&mut self, key: &LeaseKey, times: &Times, deaths: u32, now: Instant) {
        let mut entry = self.entry(times, deaths);
        // A lease whose times make no sense must not keep the process busy.
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

    /// Adds or updates a lease that is being worked on, perhaps without a record yet.
    pub(super) fn start_work(&mut self, key: &LeaseKey, times: &Times) {
        let entry = self.entry(times, 0);
        let entry = PlannedLease {
            is_at_work: true,
            ..entry
        };
        self.entries.insert(key.clone(), entry);
    }

    /// Marks a lease with unchanged times as being worked on. Returns whether the plan has it.
    pub(super) fn mark_at_work(&mut self, key: &LeaseKey) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        (entry.is_at_work, entry.is_suspect, entry.deaths) = (true, false, 0);
        true
    }

    pub(super) fn remove(&mut self, key: &LeaseKey) {
        self.entries.remove(key);
        if self.entries.is_empty() {
            self.server_pool.clear();
        }
    }

    /// Records an answer of a server. Returns the leases whose deferred renewal is due at T1 again;
    /// their records must be updated.
    pub(super) fn mark_responsive(&mut self, server: &DhcpServer, now: Instant) -> Vec<LeaseKey> {
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

    /// Records that the lease of `witness` found at `since` that its server does not answer.
    pub(super) fn mark_unresponsive(
        &mut self,
        server: &DhcpServer,
        witness: Mac,
        since: Instant,
        now: Instant,
    ) {
        self.servers.mark_unresponsive(server, witness, since, now);
    }

    /// Records that work on a lease ended without news about its server.
    pub(super) fn clear_asked(&mut self, server: &DhcpServer) {
        self.servers.clear_asked(server);
    }

    /// Takes a turn for work that the plan does not schedule, such as a release of all leases.
    pub(super) fn turn(&mut self, now: Instant) -> Instant {
        self.rate.turn(now)
    }

    /// Returns the action at `now`. [`Action::Wake`] and [`Action::Defer`] are followed by another
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

    /// Returns when [`Plan::poll`] must be called if there is no other input; `None` for never.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_due(|_| true)
    }

    /// Returns whether a lease is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// Returns the times of the next start, and of a second one in case it fails, for a
    /// process that is being stopped and may leave work unfinished.
    pub(super) fn resume_after_stop(&self, now: Instant) -> Option<(Instant, Option<Instant>)> {
        let soon = now + MIN_TIMER_LEAD;
        let unfinished = self.is_at_work().then_some(soon);
        let at = self.poll_timeout().into_iter().chain(unfinished).min()?;
        let at = at.max(soon);
        Some((at, self.fallback(at)))
    }

    /// Returns whether any lease is being worked on.
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

    /// Returns the leases that are due or may be renewed early, in the order of their due times.
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
            // Alone, so that a crash costs no other lease its work; the lease with fewer deaths
            // first.
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

    /// Returns the action for a lease of the queue, if it is still due.
    fn next_step(&mut self, key: LeaseKey, now: Instant) -> Option<Action> {
        let entry = self.entries.get(&key);
        let entry = entry.filter(|entry| self.is_time(entry, now))?;
        // A retry is not bound to T1, so it is not deferred.
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
            self.servers.mark_asked(&server, now);
        }
        let turn = self.rate.turn(now);
        self.entries.get_mut(&key)?.is_at_work = true;
        Some(Action::Wake { key, turn })
    }

    /// Returns the time until which a renewal waits for an unresponsive server. Half of the time
    /// from T1 to T2 is left for it.
    fn deferral(&self, entry: &PlannedLease, now: Instant) -> Option<Instant> {
        let server = entry.server.as_ref().filter(|_| self.can_sleep)?;
        let until = self
            .servers
            .held_off_until(server, now)
            .filter(|_| entry.is_bound)?;
        let (t1, t2) = (entry.t1?, entry.deadline?);
        Some(until.max(t1).min(t1 + (t2 - t1) / 2))
    }

    /// Returns [`Action::SleepUntil`] or [`Action::Stay`], for a time when nothing is due.
    pub(super) fn outlook(&self, now: Instant) -> Action {
        let is_near = |due: Option<Instant>, limit| due.is_some_and(|due| due - now <= limit);
        // A retry may fail again, so it is not worth staying for.
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

    /// Returns the time of the second start: a quarter of the way from `at` to the next deadline.
    fn fallback(&self, at: Instant) -> Option<Instant> {
        let deadlines = self.entries.values().filter_map(|entry| entry.deadline);
        let deadline = deadlines.filter(|deadline| *deadline > at).min()?;
        Some(at + (deadline - at) / 4)
    }

    fn entry(&mut self, times: &Times, deaths: u32) -> PlannedLease {
        // A deferred renewal is not batched with earlier ones.
        let is_deferred = times.is_bound && times.due > times.t1;
        PlannedLease {
            due: times.due,
            may_renew_from: if is_deferred {
                times.due
            } else {
                times.may_renew_from
            },
            t1: times.t1,
            deadline: times.deadline,
            server: times.server.as_ref().map(|server| self.intern(server)),
            deaths,
            is_at_work: false,
            is_suspect: false,
            is_bound: times.is_bound,
            is_unanswered: times.is_unanswered,
            is_retry: times.is_retry,
        }
    }

    /// Returns the shared copy of a server.
    fn intern(&mut self, server: &DhcpServer) -> Rc<DhcpServer> {
        if let Some(known) = self.server_pool.get(server) {
            return Rc::clone(known);
        }
        if self.server_pool.len() >= MAX_SERVERS {
            self.server_pool
                .retain(|server| Rc::strong_count(server) > 1);
        }
        let new = Rc::new(server.clone());
        self.server_pool.insert(Rc::clone(&new));
        new
    }
}

/// The number of shared servers from which unused ones are dropped.
const MAX_SERVERS: usize = 64;

#[cfg(test)]
mod tests;
