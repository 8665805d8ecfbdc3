//! The start: leases that earlier instances have left, taken over from the file first and compared
//! with their links later.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::proxy::key::LeaseKey;
use crate::proxy::store::record::Record;
use crate::proxy::store::trust::Trust;
use crate::rt;
use crate::service::Wakeup;

use super::adopt;
use super::state::{Slot, Table};

impl Table {
    /// Takes over what earlier instances have left, and sees to it that everything is done in its
    /// time from now on. No container is looked at yet.
    pub(crate) fn restore(self: &Rc<Self>) {
        let found = self.file.read();
        self.journal.open();
        for former in &found.over {
            let mut history = self.context.history.borrow_mut();
            history.remember(former.who(), former.address);
        }
        self.keep_alive.restore(&found.leases);
        self.restore_save_state(&found.leases);
        let mut looks = Vec::new();
        for (encoded, is_link_known) in found.leases {
            let record = encoded.unpack();
            let key = record.key().clone();
            if is_link_known {
                looks.push(key.clone());
            }
            self.restore_one(&key, record, is_link_known);
        }
        let namespaces = if found.foreign.is_empty() {
            Vec::new()
        } else {
            adopt::namespaces()
        };
        self.journal
            .keep(self.keys(|_| true).iter().chain(&namespaces));
        if found.is_other {
            self.save_later();
        }
        if !found.foreign.is_empty() {
            self.start_adopting(found.foreign, namespaces);
        }
        self.update_keep_alive();
        self.notify_status();
        let table = Rc::clone(self);
        let schedule = self.context.runtime.spawn(table.keep_schedule());
        schedule.detach();
        if !looks.is_empty() {
            let (table, activity) = (Rc::clone(self), self.idle.activity());
            let looks = async move {
                table.compare(looks).await;
                drop(activity);
            };
            self.context.runtime.spawn(looks).detach();
        }
    }

    fn restore_one(self: &Rc<Self>, key: &LeaseKey, record: Record, is_link_known: bool) {
        let now = rt::now();
        if let Some((server, since)) = record.server().zip(record.silence()) {
            let mut plan = self.plan.borrow_mut();
            plan.unanswered(&server, key.mac, since, now);
        }
        let (place, deaths) = (record.place(), self.journal.deaths(key));
        let put_off = self.journal.put_off(key, record.remaining(now));
        let record = match (Trust::after(deaths), put_off) {
            (Trust::Quarantined, _) => {
                log::error!(
                    "{place}: the daemon died {deaths} times at work on this lease; it is not renewed any more. \
                     Restart the container, or disconnect it from the network and connect it again, for another try"
                );
                record
            }
            (Trust::Full | Trust::Last, Some(Duration::ZERO)) => {
                log::warn!(
                    "{place}: the daemon died at work on this lease; trying again after all others"
                );
                record
            }
            (Trust::Full | Trust::Last, Some(delay)) => {
                let seconds = delay.as_secs();
                log::warn!(
                    "{place}: the daemon died {deaths} times at work on this lease; trying again in {seconds} s"
                );
                self.save_later();
                record.put_off_until(now + delay)
            }
            (Trust::Full | Trust::Last, None) => record,
        };
        let record = if is_link_known {
            record
        } else {
            record.with_look()
        };
        self.restore_slot(key, Slot::dormant(&record, is_link_known));
    }

    /// Compares leases that were left in good order with their links, one after the other with a
    /// turn for all else in between. What does not fit any more is due at once.
    async fn compare(self: &Rc<Self>, leases: Vec<LeaseKey>) {
        // A process that was woken for a few leases does not look at them all.
        let is_thorough = !Wakeup::woken_by_timer();
        for key in leases {
            yield_now().await;
            let Some(record) = self.dormant_record(&key) else {
                continue;
            };
            if self.journal.trust(&key) == Trust::Quarantined {
                // The kernel has taken the address off the link by then.
                if record
                    .remaining(rt::now())
                    .is_some_and(|rest| rest.is_zero())
                {
                    self.forget_dormant(&key, &record);
                }
                continue;
            }
            let _step = self.journal.enter(&key);
            if record.is_gone() {
                let place = record.place();
                log::info!("{place}: its network namespace is gone; its lease is left to run out");
                self.forget_dormant(&key, &record);
            } else if is_thorough && !record.still_fits() {
                let dormant = Slot::dormant(&record.with_look(), false);
                self.update(&key, |slot| *slot = Some(dormant));
            }
        }
    }

    fn forget_dormant(self: &Rc<Self>, key: &LeaseKey, record: &Record) {
        self.remember_address(record.who(), record);
        self.update(key, |slot| *slot = None);
    }
}
