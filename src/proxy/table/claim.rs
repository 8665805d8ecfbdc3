//! Claims: one call at a time works on a slot, and other calls for the same lease wait.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use event_listener::Event;

use crate::proxy::key::LeaseKey;
use crate::proxy::store::record::Record;
use crate::rt::{self, Task};

use super::state::{Active, Cancellation, Claimed, Slot, SlotState, Table};

/// The state of a lease at the time of the claim.
pub(super) enum Previous {
    Active(Box<Active>),
    Dormant,
}

/// The exclusive right of one call to a slot. A drop empties the slot, or retries the end of its
/// lease.
#[derive(Debug)]
pub(super) struct Claim {
    table: Rc<Table>,
    pub(super) key: LeaseKey,
    claimed: Rc<Claimed>,
    /// A lease whose end failed. It is retried, unless the call leaves another lease in the slot.
    pub(super) retry: RefCell<Option<Record>>,
}

impl Table {
    /// Claims a slot for a call that `cancel` stops. Cancels a Setup that has the claim, waits for
    /// a Teardown that has it, and returns the lease that was in the slot.
    ///
    /// A Setup that waits is cancelled by the next call, and does not get a turn: with sockets and
    /// writes for each of many, the last one, and a stop of the daemon, would wait for seconds.
    pub(super) async fn claim(
        self: &Rc<Self>,
        key: &LeaseKey,
        cancel: &Rc<Cancellation>,
    ) -> (Claim, Option<Previous>) {
        loop {
            let over = match self.try_claim(key, cancel) {
                Ok(claimed) => return claimed,
                Err(other) => {
                    let over = other.over.listen();
                    other.cancel.cancel();
                    if let Some(waiting) = other.waiting.replace(Some(Rc::clone(cancel))) {
                        waiting.cancel();
                    }
                    over
                }
            };
            over.await;
        }
    }

    /// Claims a slot; the error is the claim of another call.
    fn try_claim(
        self: &Rc<Self>,
        key: &LeaseKey,
        cancel: &Rc<Cancellation>,
    ) -> Result<(Claim, Option<Previous>), Rc<Claimed>> {
        let other = self.with_slots(|slots| match &slots.get(key)?.state {
            SlotState::Claimed(other) => Some(Rc::clone(other)),
            SlotState::Active(_) | SlotState::Dormant { .. } => None,
        });
        if let Some(other) = other {
            return Err(other);
        }
        self.releases.borrow_mut().remove(key);
        let claimed = Rc::new(Claimed {
            cancel: Rc::clone(cancel),
            over: Event::new(),
            waiting: RefCell::default(),
        });
        let before = self.update(key, |slot| {
            let mine = SlotState::Claimed(Rc::clone(&claimed));
            let Some(slot) = slot else {
                *slot = Some(Slot {
                    record: None,
                    state: mine,
                });
                return None;
            };
            match std::mem::replace(&mut slot.state, mine) {
                SlotState::Active(active) => Some(Previous::Active(active)),
                SlotState::Dormant { .. } => Some(Previous::Dormant),
                SlotState::Claimed(_) => None,
            }
        });
        let claim = Claim {
            table: Rc::clone(self),
            key: key.clone(),
            claimed,
            retry: RefCell::default(),
        };
        Ok((claim, before))
    }
}

impl Claim {
    /// Ends the claim, and leaves the lease to a task.
    pub(super) fn activate(self, active: Active) {
        self.table.journal.clear_deaths(&self.key);
        self.table.update(&self.key, |slot| {
            if let Some(slot) = slot {
                slot.state = SlotState::Active(Box::new(active));
            }
        });
    }

    fn has(&self, slot: &Slot) -> bool {
        matches!(&slot.state, SlotState::Claimed(claimed) if Rc::ptr_eq(claimed, &self.claimed))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.table.journal.clear_deaths(&self.key);
        let retry = self.retry.take();
        self.table.update(&self.key, |slot| {
            if !slot.as_ref().is_some_and(|slot| self.has(slot)) {
                return;
            }
            *slot = retry.map(|record| {
                let prefix = self.key.log_prefix(None);
                log::info!("{prefix}: ending the lease again later");
                Slot::dormant(&record.with_retry(rt::now()), false)
            });
        });
        self.claimed.over.notify(usize::MAX);
    }
}

/// Waits for a task. A drop detaches the task, which goes on.
pub(super) struct DetachOnDrop<T>(pub(super) Option<Task<T>>);

impl<T> Future for DetachOnDrop<T> {
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

impl<T> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_lite::future::{poll_once, yield_now};

    use super::*;
    use crate::dhcp::Phase;
    use crate::proxy::store::record::tests::record;
    use crate::proxy::table::tests::{insert, table};

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
            let (claim, _) = table.claim(&key, &Rc::default()).await;
            table.set_record(&key, &record);
            // A Teardown that goes on without its caller, and is cut off by the exit.
            let teardown = async move {
                let _claim = claim;
                pending::<()>().await;
            };
            runtime.spawn(teardown).detach();
            yield_now().await;
            table.close_file();
        });
    }

    /// Of many Setups of one container that come while another call has its slot, the last one gets it.
    #[test]
    fn a_setup_that_waits_is_superseded_without_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        rt::block_on(async move |runtime| {
            let table = table(&runtime, &path);
            let key = insert(&table, 1, 0);
            let cancels: Vec<_> = (0..64).map(|_| Rc::<Cancellation>::default()).collect();
            let (first, _) = table.claim(&key, &Rc::default()).await;
            let mut waits: Vec<_> = cancels
                .iter()
                .map(|cancel| Box::pin(table.claim(&key, cancel)))
                .collect();
            for wait in &mut waits {
                assert!(poll_once(wait).await.is_none(), "the slot is claimed");
            }
            for (number, cancel) in cancels.iter().enumerate() {
                let is_superseded = poll_once(cancel.cancelled()).await.is_some();
                assert_eq!(is_superseded, number < 63, "{number}");
            }
            let last = waits.pop().unwrap();
            drop((waits, first));
            let (claim, _) = last.await;
            assert_eq!(claim.key, key);
            drop(claim);
            table.close_file();
        });
    }
}
