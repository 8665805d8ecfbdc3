//! The schedule: starts the work that the [plan](super::plan) hands out, and puts its outcome into
//! the table.

use std::rc::Rc;

use event_listener::{Event, EventListener};
use futures_lite::future::{or, yield_now};

use crate::proxy::container::interface::Unreachable;
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Outcome, Session};
use crate::proxy::store::counters::{Counter, FailureReason};
use crate::proxy::store::record::Record;
use crate::rt;
use crate::time::Instant;

use super::plan::Action;
use super::state::{Active, Slot, SlotState, Table};

impl Table {
    /// Runs the plan. Never ends.
    pub(super) async fn run_schedule(self: Rc<Self>) {
        loop {
            let changed = self.plan_changed.listen();
            match self.poll_plan() {
                Action::Wake { key, turn } => self.wake(&key, turn, None),
                Action::Defer { key, until } => {
                    self.defer(&key, until);
                    // Other tasks run in between, whatever the record makes of the deferral.
                    yield_now().await;
                }
                Action::SleepUntil { .. } | Action::Stay(_) => {
                    let due = self.plan.borrow().poll_timeout();
                    match due {
                        Some(due) => or(changed, self.context.sleep_until(due)).await,
                        None => changed.await,
                    }
                }
            }
        }
    }

    pub(super) fn poll_plan(&self) -> Action {
        self.plan.borrow_mut().poll(rt::now())
    }

    /// Defers a renewal in its record.
    fn defer(self: &Rc<Self>, key: &LeaseKey, until: Instant) {
        let record = self.dormant_record(key);
        if let Some(record) = record.and_then(|record| record.defer_renewal(until)) {
            self.set_record(key, &record);
        }
    }

    /// Spawns the task that works on a dormant lease at its turn. `t1` is set for a renewal before
    /// T1, and is T1 again where that gets no answer.
    pub(super) fn wake(self: &Rc<Self>, key: &LeaseKey, turn: Instant, t1: Option<Instant>) {
        let active = self.spawn(turn, |table, stopped| {
            let key = key.clone();
            async move {
                let mut session = None;
                let work = async {
                    table.context.sleep_until(turn).await;
                    // Built after the turn has come: an exchange takes kilobytes, and after a crash
                    // all leases wait at the same time.
                    let work = table.run_due(&key, &mut session, t1);
                    table.journal.watch(&key, work).await;
                };
                or(work, stopped).await;
                session.map(|session| *session)
            }
        });
        self.update(key, |slot| {
            if let Some(slot) = slot {
                slot.state = SlotState::Active(Box::new(active));
            }
        });
    }

    /// Spawns the task that goes on with the session of a Setup.
    pub(super) fn spawn_session(self: &Rc<Self>, key: LeaseKey, mut session: Session) -> Active {
        self.spawn(rt::now(), |table, stopped| async move {
            let work = async {
                // The reply to Setup goes first.
                yield_now().await;
                let changed = async |session: &Session, change| {
                    table.record_session(&key, session, change).await;
                };
                let outcome = table.journal.watch(&key, session.run(changed)).await;
                table.conclude(&key, &session, outcome, None);
            };
            or(work, stopped).await;
            Some(session)
        })
    }

    fn spawn<F>(
        self: &Rc<Self>,
        turn: Instant,
        work: impl FnOnce(Rc<Self>, EventListener) -> F,
    ) -> Active
    where
        F: Future<Output = Option<Session>> + 'static,
    {
        let stop = Event::new();
        let work = work(Rc::clone(self), stop.listen());
        Active {
            stop,
            task: self.context.runtime.spawn(work),
            turn,
            _activity: self.idle.activity(),
        }
    }

    /// Works on a dormant lease. `session` outlives the future, which may be dropped.
    async fn run_due(
        self: &Rc<Self>,
        key: &LeaseKey,
        session: &mut Option<Box<Session>>,
        t1: Option<Instant>,
    ) {
        let Some(record) = self.record(key) else {
            return;
        };
        let (prefix, is_ending, server) = (
            record.log_prefix().to_string(),
            record.is_ending(),
            record.server(),
        );
        let now = rt::now();
        let is_time = record.may_renew_from().is_some_and(|from| from <= now);
        match Session::resume(&self.context, record, is_time) {
            Ok(Some(resumed)) if is_ending => {
                log::info!("{prefix}: finishing the interrupted Teardown");
                match resumed.end(true).await {
                    Ok(_) => self.forget(key),
                    Err(error) => {
                        log::warn!("{prefix}: cannot end the lease: {error}; trying again later");
                        self.retry_later(key, &format!("cannot end the lease: {error}"));
                    }
                }
            }
            Ok(Some(resumed)) => {
                let session = session.insert(Box::new(resumed));
                let changed = async |session: &Session, change| {
                    self.record_session(key, session, change).await;
                };
                let outcome = session.run(changed).await;
                self.conclude(key, session, outcome, t1);
            }
            Ok(None) => {
                log::info!("{prefix}: the interrupted Setup has left no lease");
                self.forget(key);
            }
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{prefix}: {why}; the lease is left to expire");
                if let Some(record) = self.record(key) {
                    self.remember_address(record.names(), &record);
                    self.context.emit_gone(&record);
                }
                self.forget(key);
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{prefix}: cannot work on the lease: {error}; trying again later");
                self.retry_later(key, &format!("cannot work on the lease: {error}"));
            }
        }
        if let Some(server) = server {
            self.plan.borrow_mut().clear_asked(&server);
        }
    }

    /// The last step of a task: makes the lease dormant, or removes it. `t1` is that of a lease which
    /// was renewed before it.
    fn conclude(
        self: &Rc<Self>,
        key: &LeaseKey,
        session: &Session,
        outcome: Outcome,
        t1: Option<Instant>,
    ) {
        match outcome {
            Outcome::Dormant(record) => {
                let now = rt::now();
                let record = match record.server().filter(|_| record.is_unanswered()) {
                    Some(server) => {
                        let mut plan = self.plan.borrow_mut();
                        plan.mark_unresponsive(&server, key.mac, now, now);
                        let trouble = record.trouble().unwrap_or_default();
                        record
                            .with_unresponsive_server(now)
                            .with_trouble(&trouble, now)
                    }
                    None => *record,
                };
                let record = match t1 {
                    Some(t1) => record.with_t1_restored(t1, now),
                    None => record,
                };
                self.mark_dormant(key, &record, true);
            }
            Outcome::Gone => {
                if let Some(record) = self.record(key) {
                    self.remember_address(session.names(), &record);
                }
                self.forget(key);
            }
        }
    }

    /// Called by the lease's task after a failure: makes it dormant until a retry, which comes later
    /// each time.
    fn retry_later(self: &Rc<Self>, key: &LeaseKey, why: &str) {
        self.context.count(Counter::Failure(FailureReason::Kernel));
        if let Some(record) = self.record(key) {
            let now = rt::now();
            self.mark_dormant(key, &record.with_trouble(why, now).with_retry(now), false);
        }
    }

    /// Called by the lease's task: makes it dormant.
    fn mark_dormant(self: &Rc<Self>, key: &LeaseKey, record: &Record, is_link_known: bool) {
        self.journal.clear_deaths(key);
        let dormant = Slot::dormant(record, is_link_known);
        let before = self.update_with(key, Some(record), |slot| match slot {
            Some(slot) if matches!(slot.state, SlotState::Active(_)) => {
                Some(std::mem::replace(slot, dormant).state)
            }
            // A call waits for this task to end, and has the slot.
            Some(slot) => {
                slot.record = dormant.record;
                None
            }
            None => None,
        });
        detach(before);
    }

    /// Called by the lease's task: removes the lease.
    fn forget(self: &Rc<Self>, key: &LeaseKey) {
        self.journal.clear_deaths(key);
        let before = self.update(key, |slot| {
            // Else a call waits for this task to end, and has the slot.
            let is_active = |slot: &mut Slot| matches!(slot.state, SlotState::Active(_));
            slot.take_if(is_active).map(|slot| slot.state)
        });
        detach(before);
    }
}

/// Detaches a task that has just given up its slot.
fn detach(before: Option<SlotState>) {
    if let Some(SlotState::Active(active)) = before {
        active.task.detach();
    }
}

impl Active {
    /// Stops the task, and takes the session from it.
    pub(super) async fn stop(self: Box<Self>) -> Option<Session> {
        self.stop.notify(usize::MAX);
        self.task.await
    }
}
