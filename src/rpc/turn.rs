//! One at a time, in the order of arrival: calls begin like that, for to begin one takes system calls and others wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A queue whose first has its turn.
#[derive(Debug, Default)]
pub struct Turns {
    queue: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

impl Turns {
    /// Waits for a turn, which lasts until what is returned is dropped.
    pub(super) async fn take(&self) -> Turn<'_> {
        let turn = Turn { turns: self, id: self.next.replace(self.next.get() + 1) };
        self.queue.borrow_mut().push_back((turn.id, None));
        poll_fn(|context| {
            let mut queue = self.queue.borrow_mut();
            if queue.front().is_some_and(|(first, _)| *first == turn.id) {
                return Poll::Ready(());
            }
            let mine = queue.iter_mut().find(|(id, _)| *id == turn.id);
            mine.expect("a turn is in the queue until it is dropped").1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        turn
    }

    /// Returns whether a turn is waited for.
    pub(super) fn are_awaited(&self) -> bool {
        self.queue.borrow().len() > 1
    }
}

/// A place in the queue; dropped, the next one has its turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    id: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.borrow_mut();
        queue.retain(|(id, _)| *id != self.id);
        if let Some(waker) = queue.front_mut().and_then(|(_, waker)| waker.take()) {
            drop(queue);
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::Turns;

    #[test]
    fn turns_come_in_the_order_of_arrival() {
        let turns = Turns::default();
        let (mut first, mut second, mut third) = (pin!(turns.take()), pin!(turns.take()), pin!(turns.take()));
        let mine = block_on(poll_once(first.as_mut())).unwrap();
        assert!(!turns.are_awaited());
        assert!(block_on(poll_once(second.as_mut())).is_none());
        assert!(block_on(poll_once(third.as_mut())).is_none());
        assert!(turns.are_awaited());
        drop(mine);
        assert!(block_on(poll_once(third.as_mut())).is_none(), "the second comes first");
        let mine = block_on(poll_once(second.as_mut())).unwrap();
        drop(mine);
        assert!(block_on(poll_once(third.as_mut())).is_some());
        assert!(turns.queue.borrow().is_empty());
    }

    #[test]
    fn one_that_leaves_the_queue_holds_up_none() {
        let turns = Turns::default();
        let mine = block_on(turns.take());
        let mut last = pin!(turns.take());
        {
            let mut gone = pin!(turns.take());
            assert!(block_on(poll_once(gone.as_mut())).is_none());
            assert!(block_on(poll_once(last.as_mut())).is_none());
        }
        drop(mine);
        assert!(block_on(poll_once(last)).is_some());
    }
}
