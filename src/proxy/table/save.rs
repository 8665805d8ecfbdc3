//! The table as the state file and the service manager are told of it.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use super::{Dormant, SOON, SlotState, Table};
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Change, Session};
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt;

/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

impl Table {
    /// What is remembered of a lease.
    pub(crate) fn record(&self, key: &LeaseKey) -> Option<Record> {
        self.slots
            .borrow()
            .get(key)?
            .record
            .as_ref()
            .map(EncodedRecord::unpack)
    }

    /// Notes how to go on with a lease; the file has it from the next write on.
    pub(crate) fn note(&self, key: &LeaseKey, record: &Record) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            slot.record = Some(EncodedRecord::from(record));
            self.unsaved.set(true);
        }
    }

    /// Puts into the file that a lease is about to be given back, if it knows of one.
    pub(crate) fn note_ending(self: &Rc<Self>, key: &LeaseKey) {
        if let Some(ending) = self
            .record(key)
            .map(Record::ending)
            .filter(Record::is_ending)
        {
            self.note(key, &ending);
            self.save(false);
        }
    }

    /// Notes what has become of a session. What changes is in the file when this returns. More time
    /// for the same lease can wait until the session rests, and is written once then: as long as it
    /// is not there, the file describes the lease as it was, and an instance that goes on from
    /// there asks for more time once more.
    pub(crate) async fn noted(self: &Rc<Self>, key: &LeaseKey, session: &Session, change: Change) {
        if let Some(record) = session.record() {
            self.note(key, &record);
            if change == Change::Settings {
                self.persist().await;
            }
            self.tell();
            if record.is_bound() {
                self.hear_from(&record);
                if self.unsaved.get() && change == Change::Settings {
                    self.save_within(SOON);
                }
            }
        }
    }

    /// Writes the file, once for all who want it written at the same time. A failure is no reason
    /// to refuse or to end a lease that works.
    pub(crate) async fn persist(self: &Rc<Self>) {
        yield_now().await;
        if self.unsaved.get() {
            self.save(false);
        }
    }

    /// Writes the file in a while, if nobody does so before.
    pub(crate) fn save_within(self: &Rc<Self>, delay: Duration) {
        self.unsaved.set(true);
        if !self.saving.replace(true) {
            let table = Rc::clone(self);
            let later = async move {
                rt::sleep(delay).await;
                table.saving.set(false);
                if table.unsaved.get() {
                    table.save(false);
                }
            };
            self.commons.runtime.spawn(later).detach();
        }
    }

    /// Nobody has the file written from now on. What is cut off with the runtime would want to, and
    /// finds none to do it.
    pub(crate) fn close_file(&self) {
        self.saving.set(true);
    }

    /// Writes the file; `leaving` says that it is the last time. Tells whether all is in it.
    pub(crate) fn save(self: &Rc<Self>, leaving: bool) -> bool {
        let written = {
            let slots = self.slots.borrow();
            let records = slots.values().filter_map(|slot| {
                let known = matches!(slot.place, SlotState::Dormant(Dormant { known: true, .. }));
                Some((slot.record.as_ref()?.stored(), leaving && known))
            });
            self.file.replace(records)
        };
        self.unsaved.set(written.is_err());
        self.journal.keep_file();
        self.sleep.is_in_file.set(leaving && written.is_ok());
        let trouble = written
            .err()
            .map(|error| format!("cannot write the state file: {error}"));
        if let Some(trouble) = &trouble {
            if self.trouble.borrow().is_none() {
                log::error!("{trouble}; it does not show the last change");
            }
            self.save_within(AGAIN);
        }
        *self.trouble.borrow_mut() = trouble;
        self.mind_staying();
        !self.unsaved.get()
    }

    /// Whether the file could not be written the last time.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.borrow().is_some()
    }

    /// Whether the file does not say all that the next instance is to know.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved.get()
    }

    /// Tells the service manager how many leases there are.
    pub(crate) fn tell(&self) {
        let count = self
            .slots
            .borrow()
            .values()
            .filter(|slot| !matches!(slot.place, SlotState::Taken(_)))
            .count();
        if self.told.replace(Some(count)) != Some(count) {
            self.notify.status(if count == 1 {
                "1 lease".to_owned()
            } else {
                format!("{count} leases")
            });
        }
    }
}
