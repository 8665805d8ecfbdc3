//! The table: a slot for each lease, and the one function that changes a slot.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use event_listener::Event;

use crate::proxy::call::client_id::ClientIdentity;
use crate::proxy::config::DhcpSettings;
use crate::proxy::key::{ContainerNames, LeaseKey};
use crate::proxy::session::{EventProgram, Session, SessionContext};
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::counters::Counters;
use crate::proxy::store::journal::Journal;
use crate::proxy::store::lease_file::{DaemonState, LeaseFile};
use crate::proxy::store::networks::Networks;
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt::{self, Runtime, Task};
use crate::service::{Activity, Idle, Notify};
use crate::time::Instant;

use super::keep_alive::LeaseKeepAlive;
use super::observed::LeaseObservers;
use super::plan::{Plan, Times};

/// All leases of the daemon.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) context: Rc<SessionContext>,
    pub(super) idle: Idle,
    pub(super) identity: ClientIdentity,
    /// Changed by [`Table::update`] only.
    slots: RefCell<BTreeMap<LeaseKey, Slot>>,
    pub(super) plan: RefCell<Plan>,
    /// Wakes the schedule.
    pub(super) plan_changed: Event,
    pub(super) keep_alive: LeaseKeepAlive,
    pub(super) file: LeaseFile,
    /// The daemon, as the state file has it.
    pub(super) daemon: DaemonState,
    pub(super) save: SaveState,
    /// The lease that is being worked on, and those that crashed the process.
    pub(super) journal: Rc<Journal>,
    pub(super) networks: RefCell<Networks>,
    pub(super) adoption: Adoption,
    /// The operator's calls that wait for changes.
    pub(super) observers: LeaseObservers,
    /// Leases that the operator releases, before their turn. A call that claims one takes it out.
    pub(super) releases: RefCell<BTreeSet<LeaseKey>>,
    notify: Notify,
    /// The number of leases in the last status for the service manager.
    notified_count: Cell<Option<usize>>,
}

/// The arguments of [`Table::new`].
pub(crate) struct Parts {
    pub(crate) runtime: Runtime,
    pub(crate) idle: Idle,
    pub(crate) notify: Notify,
    pub(crate) file: LeaseFile,
    pub(crate) daemon: DaemonState,
    pub(crate) counters: Counters,
    pub(crate) events: Option<Rc<EventProgram>>,
    pub(crate) history: AddressHistory,
    pub(crate) networks: Networks,
    pub(crate) journal: Rc<Journal>,
    pub(crate) settings: DhcpSettings,
    pub(crate) identity: ClientIdentity,
    pub(crate) keep_alive: LeaseKeepAlive,
}

/// The entry of one key.
#[derive(Debug)]
pub(super) struct Slot {
    /// All that is needed to resume the lease; `None` before its Setup has begun.
    pub(super) record: Option<EncodedRecord>,
    pub(super) state: SlotState,
}

/// The work on a lease.
#[derive(Debug)]
pub(super) enum SlotState {
    /// A call makes or ends it. Other calls wait.
    Claimed(Rc<Claimed>),
    /// A task works on it.
    Active(Box<Active>),
    /// Nothing to do until it is due.
    Dormant {
        /// The link matches the record.
        is_link_known: bool,
    },
}

/// The claim of a call on a slot.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Cancels the call, if it is a Setup.
    pub(super) cancel: Rc<Cancellation>,
    /// Notified at the end of the claim.
    pub(super) over: Event,
    /// Cancels the last call that waits for the end, if it is a Setup.
    pub(super) waiting: RefCell<Option<Rc<Cancellation>>>,
}

/// A task that works on a lease.
#[derive(Debug)]
pub(super) struct Active {
    /// Stops the task, which then returns its session, if it has one.
    pub(super) stop: Event,
    pub(super) task: Task<Option<Session>>,
    /// The time at which it begins.
    pub(super) turn: Instant,
    pub(super) _activity: Activity,
}

/// A flag that tasks can wait for.
#[derive(Debug, Default)]
pub(super) struct Cancellation {
    is_set: Cell<bool>,
    event: Event,
}

/// The progress of the adoption of netavark's leases.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    is_under_way: Cell<bool>,
    over: Event,
}

/// The state file, compared with the table.
#[derive(Debug, Default)]
pub(super) struct SaveState {
    /// The last change is not in the file.
    pub(super) is_unsaved: Cell<bool>,
    /// A task is going to write the file.
    pub(super) is_scheduled: Cell<bool>,
    /// The file says of all leases that their links are known.
    pub(super) is_final: Cell<bool>,
    /// The failure of the last write.
    pub(super) error: RefCell<Option<String>>,
}

impl Table {
    /// Makes a table without leases.
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        let Parts {
            runtime,
            idle,
            notify,
            file,
            daemon,
            counters,
            events,
            history,
            networks,
            journal,
            settings,
            identity,
            keep_alive,
        } = parts;
        let plan = Plan::new(keep_alive.stay_for());
        let table = Self {
            context: Rc::new(SessionContext {
                runtime,
                settings,
                history: RefCell::new(history),
                counters: RefCell::new(counters),
                events,
            }),
            idle,
            identity,
            slots: RefCell::default(),
            plan: RefCell::new(plan),
            plan_changed: Event::new(),
            keep_alive,
            file,
            daemon,
            save: SaveState::default(),
            journal,
            networks: RefCell::new(networks),
            adoption: Adoption::default(),
            observers: LeaseObservers::default(),
            releases: RefCell::default(),
            notify,
            notified_count: Cell::default(),
        };
        table.update_keep_alive();
        Rc::new(table)
    }

    /// Changes, adds or removes the slot of a lease. Then updates the plan, the keep-alive guard
    /// and the service's status. The file gets the change within
    /// [`SAVE_DELAY`](super::save::SAVE_DELAY), or at the next [`Table::persist`].
    pub(super) fn update<T>(
        self: &Rc<Self>,
        key: &LeaseKey,
        change: impl FnOnce(&mut Option<Slot>) -> T,
    ) -> T {
        self.update_with(key, None, change)
    }

    /// The same, where `record` is the slot's new record, which then need not be decoded.
    pub(super) fn update_with<T>(
        self: &Rc<Self>,
        key: &LeaseKey,
        record: Option<&Record>,
        change: impl FnOnce(&mut Option<Slot>) -> T,
    ) -> T {
        let (result, is_changed, is_due_changed, is_count_changed) = {
            let mut slots = self.slots.borrow_mut();
            let mut slot = slots.remove(key);
            let before = slot.as_ref().and_then(|slot| slot.record.clone());
            let was_dormant = slot.as_ref().is_some_and(Slot::is_dormant);
            let was_counted = slot.as_ref().is_some_and(Slot::is_counted);
            let result = change(&mut slot);
            let is_changed = slot.as_ref().and_then(|slot| slot.record.as_ref()) != before.as_ref();
            let is_idle = slot.as_ref().is_none_or(Slot::is_dormant);
            let is_count_changed = was_counted != slot.as_ref().is_some_and(Slot::is_counted);
            if is_changed || is_idle || !self.plan.borrow_mut().mark_at_work(key) {
                self.update_plan(key, slot.as_ref(), record);
            }
            if let Some(slot) = slot {
                slots.insert(key.clone(), slot);
            }
            (result, is_changed, was_dormant || is_idle, is_count_changed)
        };
        if is_changed {
            self.save_later();
        }
        self.update_keep_alive();
        if is_count_changed {
            self.notify_status();
        }
        // A slot that stays in work does not change the schedule.
        if is_due_changed {
            self.plan_changed.notify(usize::MAX);
        }
        self.observers.notify(key);
        result
    }

    /// Adds a slot that is in the file already, as a part of [`Table::restore`].
    pub(super) fn restore_slot(self: &Rc<Self>, key: &LeaseKey, slot: Slot) {
        self.update_plan(key, Some(&slot), None);
        self.slots.borrow_mut().insert(key.clone(), slot);
    }

    /// Copies a slot's state into the plan.
    fn update_plan(&self, key: &LeaseKey, slot: Option<&Slot>, record: Option<&Record>) {
        let mut plan = self.plan.borrow_mut();
        let Some(slot) = slot else {
            return plan.remove(key);
        };
        let times = match (record, &slot.record) {
            (Some(record), _) => Times::from(record),
            (None, Some(record)) => Times::from(&record.decode()),
            (None, None) => Times::default(),
        };
        match slot.state {
            SlotState::Claimed(_) | SlotState::Active(_) => plan.start_work(key, &times),
            SlotState::Dormant { .. } => {
                plan.insert(key, &times, self.journal.deaths(key), rt::now());
            }
        }
    }

    /// Replaces the record of a slot, if there is one.
    pub(super) fn set_record(self: &Rc<Self>, key: &LeaseKey, record: &Record) {
        self.update_with(key, Some(record), |slot| {
            if let Some(slot) = slot {
                slot.record = Some(record.into());
            }
        });
    }

    /// Returns the record of a lease.
    pub(super) fn record(&self, key: &LeaseKey) -> Option<Record> {
        let slots = self.slots.borrow();
        slots.get(key)?.record.as_ref().map(EncodedRecord::decode)
    }

    /// Returns the record of a lease if it is dormant.
    pub(super) fn dormant_record(&self, key: &LeaseKey) -> Option<Record> {
        let slots = self.slots.borrow();
        let slot = slots.get(key)?;
        match slot.state {
            SlotState::Dormant { .. } => slot.record.as_ref().map(EncodedRecord::decode),
            SlotState::Claimed(_) | SlotState::Active(_) => None,
        }
    }

    /// Passes all slots to `look`, in the order of their keys.
    pub(super) fn with_slots<T>(&self, look: impl FnOnce(&BTreeMap<LeaseKey, Slot>) -> T) -> T {
        look(&self.slots.borrow())
    }

    /// Returns the keys that `chosen` accepts.
    pub(super) fn keys(&self, chosen: impl Fn(&LeaseKey) -> bool) -> Vec<LeaseKey> {
        let slots = self.slots.borrow();
        slots.keys().filter(|key| chosen(key)).cloned().collect()
    }

    /// Returns the number of leases, including those of a Setup in progress.
    pub(super) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Saves the address of a container that is about to lose it.
    pub(super) fn remember_address(&self, names: ContainerNames<'_>, record: &Record) {
        if let Some(address) = record.address() {
            self.context.history.borrow_mut().remember(names, address);
        }
    }

    /// Sends the number of leases to the service manager as its status.
    pub(super) fn notify_status(&self) {
        let slots = self.slots.borrow();
        let count = slots.values().filter(|slot| slot.is_counted()).count();
        if self.notified_count.replace(Some(count)) != Some(count) {
            self.notify.status(if count == 1 {
                "1 lease".to_owned()
            } else {
                format!("{count} leases")
            });
        }
    }
}

impl From<&Record> for Times {
    fn from(record: &Record) -> Self {
        Self {
            due: record.due(),
            may_renew_from: record.may_renew_from(),
            t1: record.t1(),
            deadline: record.deadline(),
            server: record.server(),
            is_bound: record.is_bound(),
            is_unanswered: record.is_unanswered(),
            is_retry: record.is_retry(),
        }
    }
}

impl Slot {
    /// Returns whether the status counts it: no call makes or ends it.
    fn is_counted(&self) -> bool {
        !matches!(self.state, SlotState::Claimed(_))
    }

    fn is_dormant(&self) -> bool {
        matches!(self.state, SlotState::Dormant { .. })
    }

    /// Makes a slot with a dormant lease.
    pub(super) fn dormant(record: &Record, is_link_known: bool) -> Self {
        Self {
            record: Some(record.into()),
            state: SlotState::Dormant { is_link_known },
        }
    }
}

impl Cancellation {
    pub(super) fn cancel(&self) {
        self.is_set.set(true);
        self.event.notify(usize::MAX);
    }

    /// Waits for the cancellation.
    pub(super) async fn cancelled(&self) {
        while !self.is_set.get() {
            let set = self.event.listen();
            if !self.is_set.get() {
                set.await;
            }
        }
    }
}

impl Adoption {
    pub(super) fn begin(&self) {
        self.is_under_way.set(true);
    }

    pub(super) fn end(&self) {
        self.is_under_way.set(false);
        self.over.notify(usize::MAX);
    }

    /// Waits until the adoption has ended.
    pub(super) async fn ended(&self) {
        while self.is_under_way.get() {
            let over = self.over.listen();
            if self.is_under_way.get() {
                over.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{or, yield_now};

    use super::*;
    use crate::proxy::table::tests::{insert, table};

    /// The namespace of these leases does not exist, so work on one removes it.
    #[test]
    fn the_schedule_looks_again_where_what_is_due_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            let schedule = runtime.spawn(Rc::clone(&table).run_schedule());
            for number in 1..4 {
                // The schedule waits for the next change.
                yield_now().await;
                let key = insert(&table, number, 0);
                let slot = Slot::dormant(&table.record(&key).unwrap(), false);
                table.update(&key, |changed| *changed = Some(slot));
                let forgotten = async {
                    while table.len() > 0 {
                        yield_now().await;
                    }
                    true
                };
                let timeout = async {
                    rt::sleep(std::time::Duration::from_secs(5)).await;
                    false
                };
                assert!(
                    or(forgotten, timeout).await,
                    "lease {number} is not worked on"
                );
            }
            drop(schedule);
            table.close_file();
        });
    }

    #[test]
    fn a_lease_in_the_way_of_one_at_work_is_seen_when_that_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            // After one death it waits while a call works on another lease.
            let suspect = insert(&table, 1, 1);
            let other = insert(&table, 2, 0);
            let (claim, _) = table.claim(&other, &Rc::default()).await;
            let schedule = runtime.spawn(Rc::clone(&table).run_schedule());
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(table.dormant_record(&suspect).is_some(), "it waits");
            drop(claim);
            let forgotten = async {
                while table.len() > 0 {
                    yield_now().await;
                }
                true
            };
            let timeout = async {
                rt::sleep(std::time::Duration::from_secs(5)).await;
                false
            };
            assert!(or(forgotten, timeout).await, "it is not worked on");
            drop(schedule);
            table.close_file();
        });
    }
}
