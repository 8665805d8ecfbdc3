//! One call at a time for each key: who has a place, and how long others wait for it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use event_listener::EventListener;

use super::{Active, Before, Dormant, SOON, Slot, SlotState, Table, Taken};
use crate::proxy::key::LeaseKey;
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::rt::{self, Task};

impl Table {
    /// Takes a place, cancelling whoever makes a lease there and waiting for whoever ends one;
    /// tells what it held.
    pub(crate) async fn claim(self: &Rc<Self>, key: &LeaseKey) -> (Claim, Option<Before>) {
        loop {
            let over = {
                let mut slots = self.slots.borrow_mut();
                if let Some(Slot {
                    place: SlotState::Taken(taken),
                    ..
                }) = slots.get(key)
                {
                    let over = taken.over.listen();
                    taken.cancel.notify(usize::MAX);
                    over
                } else {
                    let taken = Rc::<Taken>::default();
                    let cancelled = RefCell::new(taken.cancel.listen());
                    let mine = SlotState::Taken(Rc::clone(&taken));
                    let before = match slots.get_mut(key) {
                        Some(slot) => match std::mem::replace(&mut slot.place, mine) {
                            SlotState::Active(awake) => Some(Before::Active(awake)),
                            SlotState::Dormant(_) => Some(Before::Dormant),
                            SlotState::Taken(_) => None,
                        },
                        None => {
                            slots.insert(
                                key.clone(),
                                Slot {
                                    record: None,
                                    place: mine,
                                },
                            );
                            None
                        }
                    };
                    let (table, key, unfinished) =
                        (Rc::clone(self), key.clone(), RefCell::default());
                    return (
                        Claim {
                            table,
                            key,
                            taken,
                            cancelled,
                            unfinished,
                        },
                        before,
                    );
                }
            };
            over.await;
        }
    }
}

/// A place that one call has to itself. Dropped, the place is empty.
#[derive(Debug)]
pub(crate) struct Claim {
    table: Rc<Table>,
    pub(super) key: LeaseKey,
    taken: Rc<Taken>,
    cancelled: RefCell<EventListener>,
    /// What was to be ended and has not come to its end. Unless there is a new lease in its place,
    /// that is tried again.
    pub(super) unfinished: RefCell<Option<Record>>,
}

impl Claim {
    /// Waits until somebody else wants the place.
    pub(super) async fn cancelled(&self) {
        std::future::poll_fn(|context| Pin::new(&mut *self.cancelled.borrow_mut()).poll(context))
            .await;
    }

    /// Leaves a lease in the place.
    pub(super) fn settle(self, awake: Active) {
        self.table.journal.acquit(&self.key);
        if let Some(slot) = self.table.slots.borrow_mut().get_mut(&self.key) {
            slot.place = SlotState::Active(Box::new(awake));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let is_mine = |slot: &Slot| matches!(&slot.place, SlotState::Taken(taken) if Rc::ptr_eq(taken, &self.taken));
        self.table.journal.acquit(&self.key);
        let is_in_file = {
            let mut slots = self.table.slots.borrow_mut();
            match (slots.get_mut(&self.key), self.unfinished.take()) {
                (Some(slot), Some(record)) if is_mine(slot) => {
                    log::info!("{}: trying again in a while", record.place());
                    let record = record.with_retry(rt::now());
                    // By now it may be that of a Setup which failed.
                    slot.record = Some(EncodedRecord::from(&record));
                    slot.place = SlotState::Dormant(Dormant::of(&record, false));
                    true
                }
                (Some(slot), _) if is_mine(slot) => slots
                    .remove(&self.key)
                    .is_some_and(|slot| slot.record.is_some()),
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
        self.table.changed.notify(usize::MAX);
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

    use futures_lite::future::yield_now;

    use crate::dhcp::Phase;
    use crate::proxy::store::record::tests::record;
    use crate::proxy::table::tests::table;
    use crate::rt;

    #[test]
    fn one_that_is_cut_off_with_the_runtime_wants_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            let record = record(Phase::Init {
                at: rt::now(),
                since: rt::now(),
                wanted: None,
                pace: 0,
            });
            let key = record.key().clone();
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
