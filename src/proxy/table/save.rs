//! Saving: when the state file is written.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::proxy::config::Timeout;
use crate::proxy::key::LeaseKey;
use crate::proxy::session::{Change, Session};
use crate::proxy::store::lease_file::{DaemonState, Head, processor_time};
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt;

use super::state::{SlotState, Table};

/// The delay before a change that no caller waits for is written. Changes within it share one
/// write.
pub(super) const SAVE_DELAY: Duration = Duration::from_secs(1);
/// The delay before a failed write is repeated.
const SAVE_RETRY: Duration = Duration::from_secs(10);

impl Table {
    /// Writes ahead that a lease is about to be released, if there is one.
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

    /// Records a session's progress. New settings are in the file at the return. A longer lease
    /// time is written later: until then the file has the old lease, and a process that resumes
    /// from it renews once more.
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
            self.record_answer(&record);
        }
    }

    /// Records an answer of a lease's server: renewals that were deferred for it are due at T1
    /// again.
    fn record_answer(self: &Rc<Self>, record: &Record) {
        let Some(server) = record.server() else {
            return;
        };
        let now = rt::now();
        if self.context.settings.acquisition == Timeout::Auto {
            self.networks
                .borrow_mut()
                .record_answer(&server.network, now);
        }
        let resumed = self.plan.borrow_mut().mark_responsive(&server, now);
        for key in resumed {
            let record = self.dormant_record(&key);
            let at_t1 =
                record.and_then(|record| record.t1().and_then(|t1| record.defer_renewal(t1)));
            if let Some(record) = at_t1 {
                self.set_record(&key, &record);
            }
        }
    }

    /// Writes unsaved changes, once for all that wait at the same time. A failure does not end a
    /// lease that works.
    pub(super) async fn persist(self: &Rc<Self>) {
        yield_now().await;
        if self.save.is_unsaved.get() {
            self.save(false);
        }
    }

    /// Schedules a write after [`SAVE_DELAY`].
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

    /// Prevents further scheduled writes: a drop of the remaining tasks must not spawn new ones.
    pub(crate) fn close_file(&self) {
        self.save.is_scheduled.set(true);
    }

    /// Writes the file; `is_last` marks the exit of the process. Returns whether it succeeded.
    pub(crate) fn save(self: &Rc<Self>, is_last: bool) -> bool {
        let written = self.with_head(|head| {
            self.with_slots(|slots| {
                let records = slots.values().filter_map(|slot| {
                    let SlotState::Dormant { is_link_known } = slot.state else {
                        return Some((slot.record.as_ref()?.stored(), false));
                    };
                    Some((slot.record.as_ref()?.stored(), is_last && is_link_known))
                });
                self.file.replace(head, records)
            })
        });
        if written.is_ok() {
            self.context.counters.borrow_mut().mark_saved();
            self.keep_alive.mark_timer_saved();
        }
        self.save.is_unsaved.set(written.is_err());
        self.save.is_final.set(is_last && written.is_ok());
        self.journal.recreate_file();
        let trouble = written
            .err()
            .map(|error| format!("cannot write the state file: {error}"));
        if let Some(trouble) = &trouble {
            if !self.is_save_failing() {
                log::error!(
                    "{trouble}; the last change is not in it, trying again every {} s",
                    SAVE_RETRY.as_secs()
                );
            }
            self.save_within(SAVE_RETRY);
        }
        self.save.error.replace(trouble);
        self.update_keep_alive();
        !self.save.is_unsaved.get()
    }

    /// Passes the part of the file before the leases to `write`, as of now.
    pub(super) fn with_head<T>(&self, write: impl FnOnce(&Head<'_>) -> T) -> T {
        let daemon = DaemonState {
            timer_at: self.keep_alive.armed_for(),
            ..self.daemon.clone()
        };
        let mut counters = self.context.counters.borrow_mut();
        counters.set_processor_time(processor_time());
        write(&Head {
            daemon: &daemon,
            counters: &counters,
        })
    }

    /// Returns whether the last write failed.
    pub(super) fn is_save_failing(&self) -> bool {
        self.save.error.borrow().is_some()
    }

    /// Records whether the file is as an orderly exit leaves it.
    pub(super) fn restore_save_state(&self, leases: &[(EncodedRecord, bool)]) {
        let is_final = leases.iter().all(|(_, is_link_known)| *is_link_known);
        self.save.is_final.set(is_final);
    }
}
