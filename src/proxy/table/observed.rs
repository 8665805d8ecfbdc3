//! Leases whose changes calls wait for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use event_listener::{Event, EventListener};

use crate::proxy::key::LeaseKey;

/// An event for each lease that is observed: most of the time there are none.
#[derive(Debug, Default)]
pub(super) struct ObservedLeases(RefCell<BTreeMap<LeaseKey, Rc<Event>>>);

impl ObservedLeases {
    /// Observes a lease until the observer is dropped. The lease need not exist.
    pub(super) fn observe(self: &Rc<Self>, key: &LeaseKey) -> LeaseObserver {
        let event = Rc::clone(self.0.borrow_mut().entry(key.clone()).or_default());
        LeaseObserver {
            all: Rc::clone(self),
            key: key.clone(),
            event,
        }
    }

    /// Wakes the observers of a lease that has changed.
    pub(super) fn notify(&self, key: &LeaseKey) {
        if let Some(event) = self.0.borrow().get(key) {
            event.notify(usize::MAX);
        }
    }
}

/// One observer of a lease.
#[derive(Debug)]
pub(super) struct LeaseObserver {
    all: Rc<ObservedLeases>,
    key: LeaseKey,
    event: Rc<Event>,
}

impl LeaseObserver {
    /// Returns a future that resolves at the next change of the lease from now on.
    pub(super) fn changed(&self) -> EventListener {
        self.event.listen()
    }
}

impl Drop for LeaseObserver {
    fn drop(&mut self) {
        // The last one besides the map.
        if Rc::strong_count(&self.event) == 2 {
            self.all.0.borrow_mut().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::dhcp::Phase;
    use crate::proxy::store::record::tests::{at, record};

    #[test]
    fn each_observer_of_a_lease_is_woken_and_none_is_left_behind() {
        let record = record(Phase::Init {
            at: at(0),
            since: at(0),
            wanted: None,
            pace: 0,
        });
        let (key, leases) = (record.key(), Rc::<ObservedLeases>::default());
        let (one, two) = (leases.observe(key), leases.observe(key));
        let changes = [one.changed(), two.changed()];
        leases.notify(key);
        for change in changes {
            assert!(block_on(poll_once(change)).is_some());
        }
        let change = two.changed();
        drop(one);
        assert!(block_on(poll_once(two.changed())).is_none());
        leases.notify(key);
        assert!(block_on(poll_once(change)).is_some());
        drop(two);
        assert!(leases.0.borrow().is_empty());
    }
}
