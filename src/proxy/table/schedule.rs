//! Work on leases at its time: they rest until they are due.

use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use futures_lite::future::{or, yield_now};

use crate::rt;
use crate::service::Wakeup;
use crate::time::Instant;

use crate::proxy::config::Timeout;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Outcome, Session};
use crate::proxy::store::journal::Trust;
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::proxy::table::{Active, Dormant, SOON, Slot, SlotState, Table};

/// How soon a lease that was just laid down may be due again.
const NO_SOONER: Duration = Duration::from_secs(1);

/// After this long a lease under suspicion does not wait any more until nothing else is done.
const LAST: Duration = Duration::from_secs(60);

impl Table {
    /// Does what is due, when it is due.
    pub(crate) async fn keep_schedule(self: Rc<Self>) {
        loop {
            let changed = self.changed.listen();
            let due = self.next_due();
            let now = rt::now();
            match due {
                Some(due) if due <= now => self.wake_due(now),
                Some(due) => or(changed, self.commons.sleep_until(due)).await,
                None => changed.await,
            }
        }
    }

    /// Whether this process was started for the sake of the leases, and may leave when they are
    /// served.
    pub(crate) fn is_woken(&self) -> bool {
        let is_due = || self.next_due().is_some_and(|due| due <= rt::now());
        self.sleep.is_possible() && (Wakeup::woken_by_timer() || is_due())
    }

    /// When the next lease is due that rests. One under suspicion waits while something else is
    /// done.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.next_due_of(|_| true)
    }

    pub(crate) fn next_due_of(&self, chosen: impl Fn(&Dormant) -> bool) -> Option<Instant> {
        let wait = if self.is_at_work() {
            LAST
        } else {
            Duration::ZERO
        };
        let slots = self.slots.borrow();
        let resting = slots
            .values()
            .filter_map(|slot| slot.place.resting())
            .filter(|resting| chosen(resting));
        resting
            .filter_map(|resting| {
                Some(if resting.is_suspect {
                    resting.due? + wait
                } else {
                    resting.due?
                })
            })
            .min()
    }

    /// Returns whether a lease is being worked on.
    fn is_at_work(&self) -> bool {
        self.slots
            .borrow()
            .values()
            .any(|slot| slot.place.resting().is_none())
    }

    /// Wakes all leases that are due, each in its turn, and with them those that may be renewed
    /// early: each of them would else wake the process by itself (RFC 2131 4.4.5 allows it). For
    /// the same reason nobody asks a silent server before it is time.
    fn wake_due(self: &Rc<Self>, now: Instant) {
        let together = self.sleep.is_possible();
        let is_time = |resting: &Dormant| {
            let early = resting.may_renew_from.filter(|_| together);
            [resting.due, early]
                .into_iter()
                .flatten()
                .any(|at| at <= now)
        };
        let mut due: Vec<_> = {
            let slots = self.slots.borrow();
            let resting = slots.iter().filter_map(|(key, slot)| match &slot.place {
                SlotState::Dormant(resting) if is_time(resting) => {
                    Some((resting.due, resting.may_renew_from, key.clone()))
                }
                _ => None,
            });
            resting.collect()
        };
        // Of those that are due since a crash, those first whose T1 comes first.
        due.sort();
        let (suspects, mut due): (Vec<_>, Vec<_>) = due
            .into_iter()
            .partition(|(_, _, key)| self.journal.trust(key) != Trust::Full);
        if due.is_empty() {
            // Alone, so that no other lease loses its work with the process; and the one of fewer
            // deaths first.
            due.extend(
                suspects
                    .into_iter()
                    .min_by_key(|(due, _, key)| (self.journal.deaths(key), *due)),
            );
        }
        for (_, _, key) in due {
            if together && self.hold_back(&key, now) {
                continue;
            }
            let awake = self.wake(key.clone(), self.pace.turn(now));
            if let Some(slot) = self.slots.borrow_mut().get_mut(&key) {
                slot.place = SlotState::Active(Box::new(awake));
            }
        }
        self.mind_staying();
    }

    /// Whether a renewal has to wait because its server does not answer anybody else, either.
    fn hold_back(&self, key: &LeaseKey, now: Instant) -> bool {
        let Some(record) = self.record(key) else {
            return false;
        };
        let Some(server) = record
            .server()
            .filter(|_| record.is_bound() || record.is_unanswered())
        else {
            return false;
        };
        let until = self
            .silence
            .borrow()
            .until(&server, now)
            .filter(|_| record.is_bound());
        let Some(record) = until.and_then(|until| record.put_off(until)) else {
            self.silence.borrow_mut().asked(&server, now);
            return false;
        };
        let resting = Dormant::of(&record, true).trusted(self.journal.trust(key), now);
        let is_held = resting.due > Some(now);
        if is_held {
            self.note(key, &record);
            if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
                slot.place = SlotState::Dormant(Dormant {
                    may_renew_from: resting.due,
                    ..resting
                });
            }
        }
        is_held
    }

    /// A server has answered: who waited for it to do so need not wait any longer.
    pub(crate) fn hear_from(&self, record: &Record) {
        let Some(server) = record.server() else {
            return;
        };
        if self.commons.habits.acquisition == Timeout::Auto {
            self.networks
                .borrow_mut()
                .note_answer(&server.network, rt::now());
        }
        if !self
            .silence
            .borrow_mut()
            .mark_responsive(&server, rt::now())
        {
            return;
        }
        for (key, slot) in self.slots.borrow_mut().iter_mut() {
            let (SlotState::Dormant(resting), Some(packed)) = (&mut slot.place, &mut slot.record)
            else {
                continue;
            };
            let record = packed.unpack();
            let is_put_off = record.server().as_ref() == Some(&server)
                && record.is_bound()
                && record.due() > record.t1();
            if let Some(record) = record
                .t1()
                .filter(|_| is_put_off)
                .and_then(|t1| record.put_off(t1))
            {
                *resting =
                    Dormant::of(&record, resting.known).trusted(self.journal.trust(key), rt::now());
                *packed = EncodedRecord::from(&record);
                self.unsaved.set(true);
            }
        }
        self.changed.notify(usize::MAX);
    }

    /// Starts the task that does what there is to do for a session.
    pub(crate) fn hold(self: &Rc<Self>, key: LeaseKey, mut session: Session) -> Active {
        self.start(|table, stopped| async move {
            let kept = async {
                // Setup is answered first: nobody waits for what begins here.
                yield_now().await;
                let kept =
                    session.keep(async |session, change| table.noted(&key, session, change).await);
                let kept = table.journal.watch(&key, kept).await;
                table.conclude(&key, &session, kept);
            };
            or(kept, stopped).await;
            Some(session)
        })
    }

    /// Starts the task that does what there is to do for a lease that rested, when it is its turn.
    fn wake(self: &Rc<Self>, key: LeaseKey, turn: Instant) -> Active {
        self.start(|table, stopped| async move {
            let mut session = None;
            let work = async {
                table.commons.sleep_until(turn).await;
                // After a crash all leases wait for their turn at once, and an exchange takes
                // kilobytes.
                table
                    .journal
                    .watch(&key, table.see_to(&key, &mut session))
                    .await;
            };
            or(work, stopped).await;
            session.map(|session| *session)
        })
    }

    /// Does what there is to do for a lease that rested. Its session is left to the caller, who may
    /// stop this.
    async fn see_to(self: &Rc<Self>, key: &LeaseKey, session: &mut Option<Box<Session>>) {
        let Some(record) = self.record(key) else {
            return;
        };
        let (place, ends, server) = (record.place(), record.is_ending(), record.server());
        let now = rt::now();
        let is_time = record.may_renew_from().is_some_and(|from| from <= now);
        match self.revive(record, is_time) {
            Ok(Some(revived)) if ends => {
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
                let kept = session
                    .keep(async |session, change| self.noted(key, session, change).await)
                    .await;
                self.conclude(key, session, kept);
            }
            Ok(None) => {
                log::info!("{place}: its Setup came to nothing");
                self.forget(key);
            }
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{place}: {why}; its lease is left to run out");
                if let Some(record) = self.record(key) {
                    self.remember(record.who(), &record);
                }
                self.forget(key);
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{place}: {error}");
                self.try_again_later(key);
            }
        }
        if let Some(server) = server {
            self.silence.borrow_mut().forget_question(&server);
        }
    }

    fn start<F>(
        self: &Rc<Self>,
        work: impl FnOnce(Rc<Self>, event_listener::EventListener) -> F,
    ) -> Active
    where
        F: Future<Output = Option<Session>> + 'static,
    {
        let stop = Event::new();
        let work = work(Rc::clone(self), stop.listen());
        Active {
            stop,
            task: self.commons.runtime.spawn(work),
            _activity: self.idle.activity(),
        }
    }

    /// The last act of a task: what it did is done, and its lease rests or is over.
    fn conclude(self: &Rc<Self>, key: &LeaseKey, session: &Session, kept: Outcome) {
        match kept {
            Outcome::Rests(record) => {
                let record = match record.server().filter(|_| record.is_unanswered()) {
                    Some(server) => {
                        self.silence.borrow_mut().mark_unresponsive(
                            &server,
                            key.mac,
                            rt::now(),
                            rt::now(),
                        );
                        record.with_silence(rt::now())
                    }
                    None => *record,
                };
                self.note(key, &record);
                let resting = Dormant::of(&record, true);
                // One that makes no sense is not to keep us busy for good.
                let due = resting.due.map(|due| due.max(rt::now() + NO_SOONER));
                self.lay_down(key, Dormant { due, ..resting });
            }
            Outcome::Gone => {
                if let Some(record) = self.record(key) {
                    self.remember(session.who(), &record);
                }
                self.forget(key);
            }
        }
    }

    /// Called by the task itself: what failed for want of something is tried again, ever later.
    fn try_again_later(self: &Rc<Self>, key: &LeaseKey) {
        if let Some(record) = self.record(key).map(|record| record.with_retry(rt::now())) {
            self.note(key, &record);
            self.lay_down(key, Dormant::of(&record, false));
        }
    }

    /// Called by the task itself: from now on nothing is done for the lease until it is due.
    fn lay_down(self: &Rc<Self>, key: &LeaseKey, resting: Dormant) {
        self.journal.acquit(key);
        if let Some(slot) = self.slots.borrow_mut().get_mut(key)
            // Else somebody waits for this task to end, and has the place.
            && matches!(slot.place, SlotState::Active(_))
            && let SlotState::Active(awake) = std::mem::replace(&mut slot.place, SlotState::Dormant(resting))
        {
            awake.task.detach();
        }
        self.save_within(SOON);
        self.mind_staying();
        self.changed.notify(usize::MAX);
    }

    /// Called by the task itself: the lease is over.
    fn forget(self: &Rc<Self>, key: &LeaseKey) {
        self.journal.acquit(key);
        let removed = {
            let mut slots = self.slots.borrow_mut();
            match slots.get(key) {
                Some(Slot {
                    place: SlotState::Active(_),
                    ..
                }) => slots.remove(key),
                // Somebody waits for this task to end, and has the place.
                _ => None,
            }
        };
        if let Some(Slot {
            place: SlotState::Active(awake),
            ..
        }) = removed
        {
            awake.task.detach();
            self.save_within(SOON);
            self.tell();
        }
        self.mind_staying();
        self.changed.notify(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use crate::dhcp::Phase;
    use crate::proxy::store::record::tests::{record, with_mac};
    use crate::proxy::table::tests::table;

    use super::*;

    /// Leases whose namespaces are not there, so that to work on one is to forget it.
    fn lay(table: &Table, number: u8, deaths: u32) -> LeaseKey {
        let record = record(Phase::Init {
            at: rt::now(),
            since: rt::now(),
            wanted: None,
            pace: 0,
        })
        .with_look();
        let record = with_mac(record, [2, 0, 0, 0, 0, number]);
        let key = record.key().clone();
        table.journal.count(&key, deaths);
        let resting = Dormant::of(&record, false).trusted(table.journal.trust(&key), rt::now());
        let slot = Slot {
            record: Some(EncodedRecord::from(&record)),
            place: SlotState::Dormant(resting),
        };
        table.slots.borrow_mut().insert(key.clone(), slot);
        key
    }

    #[test]
    fn leases_that_ended_the_process_come_last_and_alone_and_in_quarantine_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            let quarantined = lay(&table, 1, 3);
            let (worse, bad) = (lay(&table, 2, 2), lay(&table, 3, 1));
            let others: Vec<_> = (4..7).map(|number| lay(&table, number, 0)).collect();
            let awake = || {
                let slots = table.slots.borrow();
                let awake = slots
                    .iter()
                    .filter(|(_, slot)| matches!(slot.place, SlotState::Active(_)));
                awake.map(|(key, _)| key.clone()).collect::<Vec<_>>()
            };
            let all_rest = async || {
                while !awake().is_empty() {
                    yield_now().await;
                }
            };
            table.wake_due(rt::now());
            assert_eq!(awake(), others);
            assert!(
                table.next_due().is_some_and(|due| due > rt::now()),
                "they wait while others are at work"
            );
            all_rest().await;
            for next in [bad, worse] {
                assert!(table.next_due().is_some_and(|due| due <= rt::now()));
                table.wake_due(rt::now());
                assert_eq!(awake(), [next]);
                all_rest().await;
            }
            assert_eq!(table.next_due(), None);
            assert_eq!(
                table.slots.borrow().keys().collect::<Vec<_>>(),
                [&quarantined]
            );
            table.close_file();
        });
    }

    #[test]
    fn a_lease_that_ended_the_process_does_not_wait_for_ever_for_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            let suspect = lay(&table, 1, 1);
            let (_call, _) = table.claim(&lay(&table, 2, 0)).await;
            let now = rt::now();
            let due = table.next_due().unwrap();
            assert!(
                (LAST - Duration::from_secs(5)..=LAST).contains(&(due - now)),
                "{:?}",
                due - now
            );
            table.wake_due(due);
            assert!(matches!(
                table.slots.borrow()[&suspect].place,
                SlotState::Active(_)
            ));
            table.close_file();
        });
    }
}
