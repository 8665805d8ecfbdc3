//! The start: restores leases from the state file first, and checks their links afterwards.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::proxy::key::LeaseKey;
use crate::proxy::store::counters::Counter;
use crate::proxy::store::record::Record;
use crate::proxy::store::trust::Trust;
use crate::rt;
use crate::service::Wakeup;

use super::adopt;
use super::state::{Slot, Table};

impl Table {
    /// Restores all leases from the files and starts the schedule. Does not enter any namespace
    /// yet.
    pub(crate) fn restore(self: &Rc<Self>) {
        let found = self.with_head(|head| self.file.read(head));
        if let Some(counters) = &found.counters {
            self.context.counters.borrow_mut().resume(counters);
        }
        self.journal.open();
        for former in &found.ended {
            let mut history = self.context.history.borrow_mut();
            history.remember(former.names(), former.address);
        }
        self.keep_alive.restore(&found.leases, found.timer_at);
        self.restore_save_state(&found.leases);
        let mut links = Vec::new();
        for (encoded, is_link_known) in found.leases {
            let record = encoded.decode();
            let key = record.key().clone();
            if is_link_known {
                links.push(key.clone());
            }
            self.restore_one(&key, record, is_link_known);
        }
        let namespaces = if found.foreign.is_empty() {
            Vec::new()
        } else {
            adopt::namespaces()
        };
        self.journal
            .retain(self.keys(|_| true).iter().chain(&namespaces));
        if found.is_outdated {
            self.save_later();
        }
        if !found.foreign.is_empty() {
            self.start_adopting(found.foreign, namespaces);
        }
        self.update_keep_alive();
        self.notify_status();
        let table = Rc::clone(self);
        let schedule = self.context.runtime.spawn(table.run_schedule());
        schedule.detach();
        if !links.is_empty() {
            let (table, activity) = (Rc::clone(self), self.idle.activity());
            let links = async move {
                table.check_links(links).await;
                drop(activity);
            };
            self.context.runtime.spawn(links).detach();
        }
    }

    fn restore_one(self: &Rc<Self>, key: &LeaseKey, record: Record, is_link_known: bool) {
        let now = rt::now();
        if let Some((server, since)) = record.server().zip(record.unresponsive_since()) {
            let mut plan = self.plan.borrow_mut();
            plan.mark_unresponsive(&server, key.mac, since, now);
        }
        let (prefix, deaths) = (record.log_prefix().to_string(), self.journal.deaths(key));
        let put_off = self.journal.retry_delay(key, record.remaining(now));
        let record = match (Trust::after(deaths), put_off) {
            (Trust::Quarantined, _) => {
                log::error!(
                    "{prefix}: the daemon died {deaths} times while working on this lease; it is no \
                     longer renewed. Restart the container, or disconnect it from the network and \
                     connect it again"
                );
                record
            }
            (Trust::Full | Trust::Last, Some(Duration::ZERO)) => {
                log::warn!(
                    "{prefix}: the daemon died while working on this lease; trying again after all \
                     others"
                );
                record
            }
            (Trust::Full | Trust::Last, Some(delay)) => {
                let seconds = delay.as_secs();
                log::warn!(
                    "{prefix}: the daemon died {deaths} times while working on this lease; trying \
                     again in {seconds} s"
                );
                self.save_later();
                let why = format!("the daemon died {deaths} times while working on this lease");
                record.with_trouble(&why, now).with_retry_at(now + delay)
            }
            (Trust::Full | Trust::Last, None) => record,
        };
        let record = if is_link_known {
            record
        } else {
            record.with_link_check()
        };
        self.restore_slot(key, Slot::dormant(&record, is_link_known));
    }

    /// Checks the links of leases that an orderly exit left; other tasks run in between. A lease
    /// that does not match its link is due at once.
    pub(super) async fn check_links(self: &Rc<Self>, leases: Vec<LeaseKey>) {
        // A process that was started for a few leases does not check all.
        let is_thorough = !Wakeup::woken_by_timer();
        for key in leases {
            yield_now().await;
            let Some(record) = self.dormant_record(&key) else {
                continue;
            };
            if self.journal.trust(&key) == Trust::Quarantined {
                // The kernel has removed the address by then.
                if record
                    .remaining(rt::now())
                    .is_some_and(|rest| rest.is_zero())
                {
                    self.context.count(Counter::Expiry);
                    self.forget_dormant(&key, &record);
                }
                continue;
            }
            let _step = self.journal.begin_step(&key);
            if record.is_gone() {
                let prefix = record.log_prefix();
                log::info!("{prefix}: the network namespace is gone; the lease is left to expire");
                self.forget_dormant(&key, &record);
            } else if is_thorough && !record.matches_link() {
                let dormant = Slot::dormant(&record.with_link_check(), false);
                self.update(&key, |slot| *slot = Some(dormant));
            }
        }
    }

    fn forget_dormant(self: &Rc<Self>, key: &LeaseKey, record: &Record) {
        self.remember_address(record.names(), record);
        self.context.emit_gone(record);
        self.update(key, |slot| *slot = None);
    }
}
