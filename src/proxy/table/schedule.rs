//! Work on leases at its time: what the [plan](super::plan) hands out is started here, and its
//! outcome goes back into the table.

use std::rc::Rc;

use event_listener::{Event, EventListener};
use futures_lite::future::{or, yield_now};

use crate::proxy::container::interface::Unreachable;
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Outcome, Session};
use crate::proxy::store::record::Record;
use crate::rt;
use crate::time::Instant;

use super::plan::Action;
use super::state::{Active, Slot, SlotState, Table};

impl Table {
    /// Does what is due, when it is due.
    pub(super) async fn keep_schedule(self: Rc<Self>) {
        loop {
            let changed = self.changed.listen();
            match self.poll_plan() {
                Action::Wake { key, turn } => self.wake(&key, turn),
                Action::Defer { key, until } => {
                    self.defer(&key, until);
                    // Whatever the record makes of it, the thread is not lost to this loop.
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

    /// Returns what the plan says now.
    pub(super) fn poll_plan(&self) -> Action {
        self.plan.borrow_mut().poll(rt::now())
    }

    /// Puts a renewal off, in its record.
    fn defer(self: &Rc<Self>, key: &LeaseKey, until: Instant) {
        let record = self.dormant_record(key);
        if let Some(record) = record.and_then(|record| record.put_off(until)) {
            self.set_record(key, &record);
        }
    }

    /// Starts the task that works on a dormant lease, when it is its turn.
    pub(super) fn wake(self: &Rc<Self>, key: &LeaseKey, turn: Instant) {
        let active = self.start(|table, stopped| {
            let key = key.clone();
            async move {
                let mut session = None;
                let work = async {
                    table.context.sleep_until(turn).await;
                    // After a crash all leases wait for their turn at once, and an exchange takes
                    // kilobytes.
                    let work = table.run_due(&key, &mut session);
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

    /// Starts the task that works on a session.
    pub(super) fn keep(self: &Rc<Self>, key: LeaseKey, mut session: Session) -> Active {
        self.start(|table, stopped| async move {
            let kept = async {
                // Setup is answered first: no caller waits for what begins here.
                yield_now().await;
                let changed = async |session: &Session, change| {
                    table.record_session(&key, session, change).await;
                };
                let outcome = table.journal.watch(&key, session.keep(changed)).await;
                table.conclude(&key, &session, outcome);
            };
            or(kept, stopped).await;
            Some(session)
        })
    }

    fn start<F>(self: &Rc<Self>, work: impl FnOnce(Rc<Self>, EventListener) -> F) -> Active
    where
        F: Future<Output = Option<Session>> + 'static,
    {
        let stop = Event::new();
        let work = work(Rc::clone(self), stop.listen());
        Active {
            stop,
            task: self.context.runtime.spawn(work),
            _activity: self.idle.activity(),
        }
    }

    /// Does what there is to do for a lease that was dormant. Its session is left to the caller,
    /// which may drop this future.
    async fn run_due(self: &Rc<Self>, key: &LeaseKey, session: &mut Option<Box<Session>>) {
        let Some(record) = self.record(key) else {
            return;
        };
        let (place, is_ending, server) = (record.place(), record.is_ending(), record.server());
        let now = rt::now();
        let is_time = record.may_renew_from().is_some_and(|from| from <= now);
        match self.revive(record, is_time) {
            Ok(Some(revived)) if is_ending => {
                log::info!("{place}: finishing its Teardown");
                match revived.end(true).await {
                    Ok(()) => self.forget(key),
                    Err(error) => {
                        log::warn!("{place}: cannot end its lease: {error}; trying again");
                        self.try_again_later(key);
                    }
                }
            }
            Ok(Some(revived)) => {
                let session = session.insert(Box::new(revived));
                let changed = async |session: &Session, change| {
                    self.record_session(key, session, change).await;
                };
                let outcome = session.keep(changed).await;
                self.conclude(key, session, outcome);
            }
            Ok(None) => {
                log::info!("{place}: its Setup came to nothing");
                self.forget(key);
            }
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{place}: {why}; its lease is left to run out");
                if let Some(record) = self.record(key) {
                    self.remember_address(record.who(), &record);
                }
                self.forget(key);
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{place}: {error}");
                self.try_again_later(key);
            }
        }
        if let Some(server) = server {
            self.plan.borrow_mut().ask_ended(&server);
        }
    }

    /// Makes a session that goes on with a record, `early` to renew it before its time. `None`
    /// where there is nothing to go on with.
    pub(super) fn revive(
        &self,
        record: Record,
        early: bool,
    ) -> Result<Option<Session>, Unreachable> {
        Session::revive(&self.context, record, early)
    }

    /// The last act of a task: what it did is done, and its lease is dormant or over.
    fn conclude(self: &Rc<Self>, key: &LeaseKey, session: &Session, outcome: Outcome) {
        match outcome {
            Outcome::Dormant(record) => {
                let now = rt::now();
                let record = match record.server().filter(|_| record.is_unanswered()) {
                    Some(server) => {
                        let mut plan = self.plan.borrow_mut();
                        plan.unanswered(&server, key.mac, now, now);
                        record.with_silence(now)
                    }
                    None => *record,
                };
                self.mark_dormant(key, &record, true);
            }
            Outcome::Gone => {
                if let Some(record) = self.record(key) {
                    self.remember_address(session.who(), &record);
                }
                self.forget(key);
            }
        }
    }

    /// Called by the task itself: what failed for want of something is tried again, ever later.
    fn try_again_later(self: &Rc<Self>, key: &LeaseKey) {
        if let Some(record) = self.record(key) {
            self.mark_dormant(key, &record.with_retry(rt::now()), false);
        }
    }

    /// Called by the task itself: from now on nothing is done for the lease until it is due.
    fn mark_dormant(self: &Rc<Self>, key: &LeaseKey, record: &Record, is_link_known: bool) {
        self.journal.acquit(key);
        let dormant = Slot::dormant(record, is_link_known);
        let before = self.update_to(key, Some(record), |slot| match slot {
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

    /// Called by the task itself: the lease is over.
    fn forget(self: &Rc<Self>, key: &LeaseKey) {
        self.journal.acquit(key);
        let before = self.update(key, |slot| {
            // Else a call waits for this task to end, and has the slot.
            let is_active = |slot: &mut Slot| matches!(slot.state, SlotState::Active(_));
            slot.take_if(is_active).map(|slot| slot.state)
        });
        detach(before);
    }
}

/// Lets a task go on that has just given up its slot.
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
