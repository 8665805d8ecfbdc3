//! The start: leases that earlier instances have left, taken over from the file first and compared
//! with their links later.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use super::{Dormant, SOON, Slot, SlotState, Table, adopt};
use crate::proxy::key::LeaseKey;
use crate::proxy::store::journal::Trust;
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt;
use crate::service::Wakeup;

impl Table {
    /// Takes over what earlier instances have left, and sees to it that everything is done in its
    /// time from now on. No container is looked at yet.
    pub(crate) fn take_over(self: &Rc<Self>) {
        let found = self.file.read();
        self.journal.open();
        for former in &found.over {
            let mut history = self.commons.memory.borrow_mut();
            history.remember(former.who(), former.address);
        }
        self.sleep.take_in(&found.leases);
        let mut resting = Vec::new();
        for (packed, asleep) in found.leases {
            let record = packed.unpack();
            let key = record.key().clone();
            self.take_over_one(key.clone(), record, asleep);
            if asleep {
                resting.push(key);
            }
        }
        let namespaces = if found.foreign.is_empty() {
            Vec::new()
        } else {
            adopt::namespaces()
        };
        self.journal
            .keep(self.slots.borrow().keys().chain(&namespaces));
        if found.is_other {
            self.save_within(SOON);
        }
        if !found.foreign.is_empty() {
            self.start_adopting(found.foreign, namespaces);
        }
        self.mind_staying();
        self.tell();
        let table = Rc::clone(self);
        self.commons
            .runtime
            .spawn(async move { table.keep_schedule().await })
            .detach();
        if !resting.is_empty() {
            let (table, activity) = (Rc::clone(self), self.idle.activity());
            let looks = async move {
                table.compare(resting).await;
                drop(activity);
            };
            self.commons.runtime.spawn(looks).detach();
        }
    }

    fn take_over_one(self: &Rc<Self>, key: LeaseKey, record: Record, asleep: bool) {
        let now = rt::now();
        if let Some((server, since)) = record.server().zip(record.silence()) {
            self.silence
                .borrow_mut()
                .mark_unresponsive(&server, key.mac, since, now);
        }
        let mut record = record;
        let trust = self.journal.trust(&key);
        let put_off = self.journal.put_off(&key, record.remaining(now));
        match (trust, put_off, self.journal.deaths(&key)) {
            (Trust::Quarantined, _, deaths) => log::error!(
                "{}: the daemon died {deaths} times at work on this lease; it is not renewed any more. Restart the \
                 container, or disconnect it from the network and connect it again, for another try",
                record.place()
            ),
            (_, Some(Duration::ZERO), _) => {
                log::warn!(
                    "{}: the daemon died at work on this lease; trying again after all others",
                    record.place()
                );
            }
            (_, Some(delay), deaths) => {
                log::warn!(
                    "{}: the daemon died {deaths} times at work on this lease; trying again in {} s",
                    record.place(),
                    delay.as_secs()
                );
                record = record.put_off_until(now + delay);
                self.save_within(SOON);
            }
            (_, None, _) => {}
        }
        let record = if asleep { record } else { record.with_look() };
        let place = SlotState::Dormant(Dormant::of(&record, asleep).trusted(trust, now));
        self.slots.borrow_mut().insert(
            key,
            Slot {
                record: Some(EncodedRecord::from(&record)),
                place,
            },
        );
    }

    /// Compares leases that were left in good order with their links, one after the other with a
    /// turn for all else in between. What does not fit any more is due at once.
    async fn compare(self: &Rc<Self>, leases: Vec<LeaseKey>) {
        // A process that was woken for a few leases does not look at them all.
        let is_thorough = !Wakeup::woken_by_timer();
        for key in leases {
            yield_now().await;
            let Some(record) = self.record_at_rest(&key) else {
                continue;
            };
            if self.journal.trust(&key) == Trust::Quarantined {
                // The kernel has taken the address off the link by then.
                if record
                    .remaining(rt::now())
                    .is_some_and(|rest| rest.is_zero())
                {
                    self.forget_at_rest(&key, &record);
                }
                continue;
            }
            let _step = self.journal.enter(&key);
            if record.is_gone() {
                log::info!(
                    "{}: its network namespace is gone; its lease is left to run out",
                    record.place()
                );
                self.forget_at_rest(&key, &record);
            } else if is_thorough && !record.still_fits() {
                let record = record.with_look();
                self.note(&key, &record);
                if let Some(slot) = self.slots.borrow_mut().get_mut(&key) {
                    let resting =
                        Dormant::of(&record, false).trusted(self.journal.trust(&key), rt::now());
                    slot.place = SlotState::Dormant(resting);
                }
                self.changed.notify(usize::MAX);
            }
        }
    }

    fn forget_at_rest(self: &Rc<Self>, key: &LeaseKey, record: &Record) {
        self.remember(record.who(), record);
        self.slots.borrow_mut().remove(key);
        self.save_within(SOON);
        self.tell();
        self.mind_staying();
    }

    /// Returns the record of a lease for which nothing is done at the moment.
    fn record_at_rest(&self, key: &LeaseKey) -> Option<Record> {
        self.slots.borrow().get(key)?.place.resting()?;
        self.record(key)
    }
}
