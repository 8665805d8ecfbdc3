//! One call at a time for each key: who has a place, and how long others wait for it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use event_listener::EventListener;

use super::{Awake, Before, Place, Resting, SOON, Slot, Table, Taken};
use crate::proxy::record::{Packed, Record};
use crate::proxy::request::Key;
use crate::rt::Task;

impl Table {
    /// Takes a place, cancelling whoever makes a lease there and waiting for whoever ends one; tells what it held.
    pub(super) async fn claim(self: &Rc<Self>, key: &Key) -> (Claim, Option<Before>) {
        loop {
            let over = {
                let mut slots = self.slots.borrow_mut();
                if let Some(Slot { place: Place::Taken(taken), .. }) = slots.get(key) {
                    let over = taken.over.listen();
                    taken.cancel.notify(usize::MAX);
                    over
                } else {
                    let taken = Rc::<Taken>::default();
                    let cancelled = RefCell::new(taken.cancel.listen());
                    let mine = Place::Taken(Rc::clone(&taken));
                    let before = match slots.get_mut(key) {
                        Some(slot) => match std::mem::replace(&mut slot.place, mine) {
                            Place::Awake(awake) => Some(Before::Awake(awake)),
                            Place::Resting(_) => Some(Before::Resting),
                            Place::Taken(_) => None,
                        },
                        None => {
                            slots.insert(key.clone(), Slot { record: None, place: mine });
                            None
                        }
                    };
                    let (table, key, unfinished) = (Rc::clone(self), key.clone(), RefCell::default());
                    return (Claim { table, key, taken, cancelled, unfinished }, before);
                }
            };
            over.await;
        }
    }
}

/// A place that one call has to itself. Dropped, the place is empty.
#[derive(Debug)]
pub(super) struct Claim {
    table: Rc<Table>,
    pub(super) key: Key,
    taken: Rc<Taken>,
    cancelled: RefCell<EventListener>,
    /// What was to be ended and has not come to its end. Unless there is a new lease in its place, that is tried again.
    pub(super) unfinished: RefCell<Option<Record>>,
}

impl Claim {
    /// Waits until somebody else wants the place.
    pub(super) async fn cancelled(&self) {
        std::future::poll_fn(|context| Pin::new(&mut *self.cancelled.borrow_mut()).poll(context)).await;
    }

    /// Leaves a lease in the place.
    pub(super) fn settle(self, awake: Awake) {
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(&self.key) {
            slot.place = Place::Awake(Box::new(awake));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let is_mine = |slot: &Slot| matches!(&slot.place, Place::Taken(taken) if Rc::ptr_eq(taken, &self.taken));
        let is_in_file = {
            let mut slots = self.table.slots.borrow_mut();
            match (slots.get_mut(&self.key), self.unfinished.take()) {
                (Some(slot), Some(record)) if is_mine(slot) => {
                    log::info!("{}: trying again in a while", record.place());
                    // By now it may be that of a Setup which failed.
                    slot.record = Some(Packed::from(&record));
                    slot.place = Place::Resting(Resting::again());
                    self.table.changed.notify(usize::MAX);
                    true
                }
                (Some(slot), _) if is_mine(slot) => slots.remove(&self.key).is_some_and(|slot| slot.record.is_some()),
                _ => false,
            }
        };
        if is_in_file {
            // Calls that come to an end see to it before.
            self.table.save_within(SOON);
        }
        self.table.mind_staying();
        self.table.tell();
        self.taken.over.notify(usize::MAX);
    }
}

/// Waits for a task, and lets it go on alone when nobody waits any more.
pub(super) struct Finish<T>(pub(super) Option<Task<T>>);

impl<T> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let task = self.0.as_mut().expect("polled only until it is ready");
        let done = Pin::new(task).poll(context);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use futures_lite::future::yield_now;

    use super::Table;
    use crate::dhcp::{Phase, Probe};
    use crate::proxy::config::{ClientId, Habits, MtuRule};
    use crate::proxy::identity::Identity;
    use crate::proxy::leases::LeaseFile;
    use crate::proxy::record::tests::record;
    use crate::proxy::schedule::Sleep;
    use crate::rt;
    use crate::service::{Idle, Notify};

    #[test]
    fn one_that_is_cut_off_with_the_runtime_wants_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("leases");
        rt::block_on(async move |runtime| {
            let habits = Habits {
                acquisition: None,
                probe: Probe::Off,
                broadcast: false,
                client_id: ClientId::Container,
                fqdn: false,
                mtu: MtuRule::Lower,
            };
            let file = (LeaseFile::new(&file), file.with_extension("known"));
            let sleep = Sleep::new(Err("a test".into()), Duration::ZERO);
            let identity = (habits, Identity::Container);
            let table = Table::new(runtime.clone(), Idle::new(None), Notify::none(), file, identity, sleep);
            let record = record(Phase::Init { at: rt::now(), since: rt::now(), wanted: None, pace: 0 });
            let key = record.key().unwrap();
            let (claim, _) = table.claim(&key).await;
            table.note(&key, &record);
            // A Teardown whose caller has gone, and which is not over when the daemon leaves.
            let teardown = async move {
                let _claim = claim;
                pending::<()>().await;
            };
            runtime.spawn(teardown).detach();
            yield_now().await;
            table.close_file();
        });
    }
}
