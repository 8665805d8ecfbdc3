//! A fair limit on concurrency, first come, first served: for busy connections, and for calls that
//! begin, because all work shares one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A queue in which a limited number have their turn.
#[derive(Debug)]
pub(super) struct Turns {
    limit: usize,
    queue: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

impl Turns {
    /// Returns a queue in which the first `limit` have their turn.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            queue: RefCell::default(),
            next: Cell::default(),
        }
    }

    /// Returns this thread's queue of calls: to begin one takes system calls, which delay all
    /// others.
    ///
    /// With hundreds of calls waiting to begin, fewer at once take more rounds of the executor, and
    /// more at once make each round longer, also for calls that have begun.
    pub(super) fn of_calls() -> Rc<Self> {
        thread_local! {
            static TURNS: Rc<Turns> = Rc::new(Turns::new(16));
        }
        TURNS.with(Rc::clone)
    }

    /// Returns this thread's queue of connections that have made several requests.
    ///
    /// A caller with a single request, as netavark's client, does not queue: in each round of the
    /// executor it waits for a few busy connections, not for all of them.
    pub(super) fn of_connections() -> Rc<Self> {
        thread_local! {
            static TURNS: Rc<Turns> = Rc::new(Turns::new(8));
        }
        TURNS.with(Rc::clone)
    }

    /// Joins the end of the queue until the turn is dropped.
    pub(super) fn join(&self) -> Turn<'_> {
        let turn = Turn {
            turns: self,
            id: self.next.replace(self.next.get() + 1),
        };
        self.queue.borrow_mut().push_back((turn.id, None));
        turn
    }

    /// Waits for a turn, which lasts until it is dropped.
    pub(super) async fn take(&self) -> Turn<'_> {
        let turn = self.join();
        poll_fn(|context| turn.poll(context)).await;
        turn
    }

    /// Returns whether there are waiters.
    pub(super) fn has_waiters(&self) -> bool {
        self.queue.borrow().len() > self.limit
    }
}

/// A place in the queue; dropping it advances the queue.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    id: u64,
}

impl Turn<'_> {
    /// Resolves when the turn has come.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut queue = self.turns.queue.borrow_mut();
        let place = queue.iter().position(|(id, _)| *id == self.id);
        let place = place.expect("a turn is in the queue until it is dropped");
        if place < self.turns.limit {
            return Poll::Ready(());
        }
        queue[place].1 = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.borrow_mut();
        queue.retain(|(id, _)| *id != self.id);
        if let Some(waker) = queue
            .get_mut(self.turns.limit - 1)
            .and_then(|(_, waker)| waker.take())
        {
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
        let turns = Turns::new(1);
        let (mut first, mut second, mut third) =
            (pin!(turns.take()), pin!(turns.take()), pin!(turns.take()));
        let mine = block_on(poll_once(first.as_mut())).unwrap();
        assert!(!turns.has_waiters());
        assert!(block_on(poll_once(second.as_mut())).is_none());
        assert!(block_on(poll_once(third.as_mut())).is_none());
        assert!(turns.has_waiters());
        drop(mine);
        assert!(
            block_on(poll_once(third.as_mut())).is_none(),
            "the second comes first"
        );
        let mine = block_on(poll_once(second.as_mut())).unwrap();
        drop(mine);
        assert!(block_on(poll_once(third.as_mut())).is_some());
        assert!(turns.queue.borrow().is_empty());
    }

    #[test]
    fn one_that_leaves_the_queue_holds_up_none() {
        let turns = Turns::new(1);
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

    #[test]
    fn as_many_have_their_turn_as_may() {
        let turns = Turns::new(2);
        let _first = block_on(turns.take());
        let second = block_on(turns.take());
        let mut third = pin!(turns.take());
        assert!(block_on(poll_once(third.as_mut())).is_none());
        drop(second);
        assert!(block_on(poll_once(third.as_mut())).is_some());
    }
}
