//! Leases whose changes calls wait for.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use event_listener::{Event, EventListener};

use crate::proxy::key::LeaseKey;

/// The observers of leases: most of the time there are none.
#[derive(Debug, Default)]
pub(super) struct LeaseObservers(RefCell<Vec<Weak<LeaseObserver>>>);

impl LeaseObservers {
    /// Observes leases, which need not exist, until the observer is dropped.
    pub(super) fn observe(&self, keys: &[LeaseKey]) -> Rc<LeaseObserver> {
        let observer = Rc::new(LeaseObserver {
            keys: keys.to_vec(),
            changed: RefCell::default(),
            event: Event::new(),
        });
        let mut all = self.0.borrow_mut();
        all.retain(|other| other.strong_count() > 0);
        all.push(Rc::downgrade(&observer));
        observer
    }

    /// Tells the observers of a lease that it has changed.
    pub(super) fn notify(&self, key: &LeaseKey) {
        for observer in self.0.borrow().iter().filter_map(Weak::upgrade) {
            if let Some(index) = observer.keys.iter().position(|observed| observed == key) {
                observer.changed.borrow_mut().push(index);
                observer.event.notify(usize::MAX);
            }
        }
    }
}

/// One observer of leases.
#[derive(Debug)]
pub(super) struct LeaseObserver {
    keys: Vec<LeaseKey>,
    /// The changes that were not taken yet, as indices of `keys`.
    changed: RefCell<Vec<usize>>,
    event: Event,
}

impl LeaseObserver {
    /// Returns the indices of the leases that have changed since the last call, and a future that
    /// resolves at the next change.
    pub(super) fn changes(&self) -> (Vec<usize>, EventListener) {
        let next = self.event.listen();
        (self.changed.take(), next)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::proxy::store::record::tests::{phases, record, with_mac};

    #[test]
    fn each_observer_is_told_of_its_leases_and_none_is_left_behind() {
        let [phase, ..] = phases();
        let key = |number| {
            let record = with_mac(record(phase.clone()), [2, 0, 0, 0, 0, number]);
            record.key().clone()
        };
        let observers = LeaseObservers::default();
        let one = observers.observe(&[key(1), key(2)]);
        let two = observers.observe(&[key(2)]);
        let (changes, next) = two.changes();
        assert!(changes.is_empty());
        observers.notify(&key(1));
        observers.notify(&key(3));
        assert!(block_on(poll_once(next)).is_none());
        let (_, next) = two.changes();
        observers.notify(&key(2));
        assert!(block_on(poll_once(next)).is_some());
        assert_eq!((one.changes().0, two.changes().0), (vec![0, 1], vec![0]));
        assert_eq!((one.changes().0, two.changes().0), (vec![], vec![]));
        drop(one);
        observers.notify(&key(2));
        drop(two);
        drop(observers.observe(&[]));
        assert_eq!(observers.0.borrow().len(), 1, "the last one alone");
    }
}
