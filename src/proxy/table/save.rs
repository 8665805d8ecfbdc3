//! The state file as the table keeps it: written ahead of what it promises, and else seldom.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::proxy::config::Timeout;
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Change, Session};
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt;

use super::state::{SlotState, Table};

/// How soon a change that no caller waits for is in the file. Changes of the same time share one
/// write.
pub(super) const SAVE_DELAY: Duration = Duration::from_secs(1);
/// How soon a file that could not be written is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(10);

impl Table {
    /// Notes that a lease is about to be given back, and writes the file, if there is a lease.
    pub(super) fn write_ending(self: &Rc<Self>, key: &LeaseKey) {
        if let Some(ending) = self
            .record(key)
            .map(Record::ending)
            .filter(Record::is_ending)
        {
            self.set_record(key, &ending);
            self.save(false);
        }
    }

    /// Notes what has become of a session. A change of settings is in the file when this returns.
    /// More time for the same lease can wait: as long as it is not there, the file describes the
    /// lease as it was, and an instance that goes on from there asks for more time once more.
    pub(super) async fn record_session(
        self: &Rc<Self>,
        key: &LeaseKey,
        session: &Session,
        change: Change,
    ) {
        let Some(record) = session.record() else {
            return;
        };
        self.set_record(key, &record);
        if change == Change::Settings {
            self.persist().await;
        }
        if record.is_bound() {
            self.note_answer(&record);
        }
    }

    /// Notes that the server of a lease has answered: renewals that wait for it go on at T1.
    fn note_answer(self: &Rc<Self>, record: &Record) {
        let Some(server) = record.server() else {
            return;
        };
        let now = rt::now();
        if self.context.settings.acquisition == Timeout::Auto {
            self.networks.borrow_mut().note_answer(&server.network, now);
        }
        let resumed = self.plan.borrow_mut().answered(&server, now);
        for key in resumed {
            let record = self.dormant_record(&key);
            let at_t1 = record.and_then(|record| record.t1().and_then(|t1| record.put_off(t1)));
            if let Some(record) = at_t1 {
                self.set_record(&key, &record);
            }
        }
    }

    /// Writes the file if it has to be, once for all that want it written at the same time. A
    /// failure is no reason to refuse or to end a lease that works.
    pub(super) async fn persist(self: &Rc<Self>) {
        yield_now().await;
        if self.save.is_unsaved.get() {
            self.save(false);
        }
    }

    /// Writes the file in a while, unless it is written before.
    pub(super) fn save_later(self: &Rc<Self>) {
        self.save_within(SAVE_DELAY);
    }

    fn save_within(self: &Rc<Self>, delay: Duration) {
        self.save.is_unsaved.set(true);
        if self.save.is_scheduled.replace(true) {
            return;
        }
        let table = Rc::clone(self);
        let later = async move {
            rt::sleep(delay).await;
            table.save.is_scheduled.set(false);
            if table.save.is_unsaved.get() {
                table.save(false);
            }
        };
        self.context.runtime.spawn(later).detach();
    }

    /// Has no task write the file from now on: what is cut off with the runtime finds none to run
    /// one.
    pub(crate) fn close_file(&self) {
        self.save.is_scheduled.set(true);
    }

    /// Writes the file; `is_last` says that the process leaves. Returns whether all is in it.
    pub(crate) fn save(self: &Rc<Self>, is_last: bool) -> bool {
        let written = self.with_slots(|slots| {
            let records = slots.values().filter_map(|slot| {
                let SlotState::Dormant { is_link_known } = slot.state else {
                    return Some((slot.record.as_ref()?.stored(), false));
                };
                Some((slot.record.as_ref()?.stored(), is_last && is_link_known))
            });
            self.file.replace(records)
        });
        self.save.is_unsaved.set(written.is_err());
        self.save.is_final.set(is_last && written.is_ok());
        self.journal.keep_file();
        let trouble = written
            .err()
            .map(|error| format!("cannot write the state file: {error}"));
        if let Some(trouble) = &trouble {
            if !self.is_in_trouble() {
                log::error!("{trouble}; it does not show the last change");
            }
            self.save_within(SAVE_RETRY);
        }
        self.save.trouble.replace(trouble);
        self.update_keep_alive();
        !self.save.is_unsaved.get()
    }

    /// Returns whether the file could not be written the last time.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.save.trouble.borrow().is_some()
    }

    /// Takes in what the state file says of leases: whether it is as a process leaves it.
    pub(super) fn restore_save_state(&self, leases: &[(EncodedRecord, bool)]) {
        let is_final = leases.iter().all(|(_, is_link_known)| *is_link_known);
        self.save.is_final.set(is_final);
    }
}
