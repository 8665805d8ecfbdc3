//! When to leave: guards keep a service alive, and the idle timeout begins when the last one is
//! dropped. Pure: time is an argument.
//!
//! ```
//! use std::time::Duration;
//! use smol_dhcp_proxy::service::{Idle, IdleState};
//! use smol_dhcp_proxy::time::Instant;
//!
//! let at = |seconds| Instant::from_boot(Duration::from_secs(seconds));
//! let idle = Idle::new(Some(Duration::from_secs(10)));
//! let connection = idle.activity();
//! assert_eq!(idle.state(at(100)), IdleState::Busy);
//! drop(connection);
//! assert_eq!(idle.state(at(100)), IdleState::Until(at(110)));
//! assert_eq!(idle.state(at(110)), IdleState::Expired);
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;

use crate::time::Instant;

/// The account of what a service has left to do. Clones share one state.
///
/// It and its guards are `!Send`: they belong to the thread of the service. Work on another thread
/// keeps the service alive by a guard in the task that waits for it.
#[derive(Clone, Debug)]
pub struct Idle(Rc<Shared>);

/// Keeps the service alive until it is dropped: a connection, a call in flight, a lease owns one.
///
/// ```
/// # use smol_dhcp_proxy::service::Idle;
/// let idle = Idle::new(None);
/// let (first, second) = (idle.activity(), idle.activity());
/// drop(first);
/// assert!(idle.is_busy());
/// drop(second);
/// assert!(!idle.is_busy());
/// ```
#[derive(Debug)]
#[must_use = "dropped at once, it keeps nothing alive"]
pub struct Activity(Rc<Shared>);

/// The result of [`Idle::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleState {
    /// At least one [`Activity`] lives.
    Busy,
    /// Nothing to do; the idle timeout is over at this moment.
    Until(Instant),
    /// Nothing to do, and the idle timeout is over.
    Expired,
}

#[derive(Debug)]
struct Shared {
    timeout: Cell<Duration>,
    guards: Cell<usize>,
    /// The beginning of the idle timeout; `None` while busy, and then until the first call of
    /// `state` with its `now`.
    since: Cell<Option<Instant>>,
    quiet: Event,
}

impl Idle {
    /// Starts idle: the first timeout begins with the first [`state`](Self::state). `None` never
    /// expires.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{service::{Idle, IdleState}, time::Instant};
    /// let boot = Instant::from_boot(Duration::ZERO);
    /// assert_eq!(Idle::new(Some(Duration::ZERO)).state(boot), IdleState::Expired);
    /// assert!(matches!(Idle::new(None).state(boot), IdleState::Until(_)));
    /// ```
    pub fn new(timeout: Option<Duration>) -> Self {
        Self(Rc::new(Shared {
            timeout: Cell::new(timeout.unwrap_or(Duration::MAX)),
            guards: Cell::new(0),
            since: Cell::new(None),
            quiet: Event::new(),
        }))
    }

    /// Creates a guard.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Idle;
    /// let idle = Idle::new(None);
    /// let _job = idle.activity();
    /// assert!(idle.is_busy());
    /// ```
    pub fn activity(&self) -> Activity {
        self.0.guards.set(self.0.guards.get() + 1);
        self.0.since.set(None);
        Activity(Rc::clone(&self.0))
    }

    /// Returns the state at `now`.
    ///
    /// Dropping a guard cannot tell the time, so the timeout begins with the first call after the
    /// last drop. A loop that waits for [`quiet`](Self::quiet) and then calls this loses nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{service::{Idle, IdleState}, time::Instant};
    /// let at = |seconds| Instant::from_boot(Duration::from_secs(seconds));
    /// let idle = Idle::new(Some(Duration::from_secs(3)));
    /// assert_eq!(idle.state(at(1)), IdleState::Until(at(4)));
    /// drop(idle.activity()); // work that came and went begins the timeout anew
    /// assert_eq!(idle.state(at(2)), IdleState::Until(at(5)));
    /// ```
    pub fn state(&self, now: Instant) -> IdleState {
        if self.is_busy() {
            return IdleState::Busy;
        }
        let since = self.0.since.get().unwrap_or(now);
        self.0.since.set(Some(since));
        let until = since + self.0.timeout.get();
        if now < until {
            IdleState::Until(until)
        } else {
            IdleState::Expired
        }
    }

    /// Changes the timeout, also one that has begun; `None` never expires.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{service::{Idle, IdleState}, time::Instant};
    /// let boot = Instant::from_boot(Duration::ZERO);
    /// let idle = Idle::new(None);
    /// assert!(matches!(idle.state(boot), IdleState::Until(_)));
    /// idle.set_timeout(Some(Duration::ZERO));
    /// assert_eq!(idle.state(boot), IdleState::Expired);
    /// ```
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.0.timeout.set(timeout.unwrap_or(Duration::MAX));
        self.0.quiet.notify(usize::MAX);
    }

    /// Returns whether a guard lives.
    ///
    /// ```
    /// assert!(!smol_dhcp_proxy::service::Idle::new(None).is_busy());
    /// ```
    pub fn is_busy(&self) -> bool {
        self.0.guards.get() > 0
    }

    /// Waits for the next drop of a last guard, or for another timeout: [`state`](Self::state) may
    /// have changed.
    ///
    /// ```
    /// # use futures_lite::future::{block_on, zip};
    /// # use smol_dhcp_proxy::service::Idle;
    /// let idle = Idle::new(None);
    /// let job = idle.activity();
    /// block_on(zip(idle.quiet(), async { drop(job) }));
    /// ```
    pub async fn quiet(&self) {
        self.0.quiet.listen().await;
    }
}

impl Clone for Activity {
    fn clone(&self) -> Self {
        Idle(Rc::clone(&self.0)).activity()
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        let left = self.0.guards.get() - 1;
        self.0.guards.set(left);
        if left == 0 {
            self.0.quiet.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    fn ten_seconds() -> Idle {
        Idle::new(Some(Duration::from_secs(10)))
    }

    #[test]
    fn a_start_without_any_guard_expires_too() {
        let idle = ten_seconds();
        assert_eq!(idle.state(at(5)), IdleState::Until(at(15)));
        assert_eq!(idle.state(at(14)), IdleState::Until(at(15)));
        assert_eq!(idle.state(at(15)), IdleState::Expired);
    }

    #[test]
    fn the_wait_starts_with_the_drop_of_the_last_guard() {
        let idle = ten_seconds();
        let first = idle.activity();
        let second = first.clone();
        assert_eq!(idle.state(at(100)), IdleState::Busy);
        drop(first);
        assert_eq!(idle.state(at(200)), IdleState::Busy);
        drop(second);
        assert_eq!(idle.state(at(300)), IdleState::Until(at(310)));
    }

    #[test]
    fn a_guard_that_came_and_went_unseen_restarts_the_wait() {
        let idle = ten_seconds();
        assert_eq!(idle.state(at(0)), IdleState::Until(at(10)));
        drop(idle.activity());
        assert_eq!(idle.state(at(9)), IdleState::Until(at(19)));
    }

    #[test]
    fn without_a_timeout_it_never_expires() {
        let idle = Idle::new(None);
        assert_eq!(
            idle.state(at(1)),
            IdleState::Until(Instant::from_boot(Duration::MAX))
        );
        assert!(matches!(idle.state(at(u64::MAX / 2)), IdleState::Until(_)));
    }

    #[test]
    fn a_timeout_of_zero_expires_at_once() {
        assert_eq!(
            Idle::new(Some(Duration::ZERO)).state(at(1)),
            IdleState::Expired
        );
    }

    #[test]
    fn another_timeout_counts_from_where_the_wait_began() {
        let idle = ten_seconds();
        assert_eq!(idle.state(at(100)), IdleState::Until(at(110)));
        idle.set_timeout(Some(Duration::from_secs(3)));
        assert_eq!(idle.state(at(102)), IdleState::Until(at(103)));
        assert_eq!(idle.state(at(103)), IdleState::Expired);
        idle.set_timeout(None);
        assert!(matches!(idle.state(at(1000)), IdleState::Until(_)));
        idle.set_timeout(Some(Duration::ZERO));
        assert_eq!(idle.state(at(1000)), IdleState::Expired);
        let _guard = idle.activity();
        assert_eq!(idle.state(at(1000)), IdleState::Busy);
    }

    #[test]
    fn another_timeout_wakes_a_wait() {
        let idle = ten_seconds();
        let mut quiet = std::pin::pin!(idle.quiet());
        let mut poll =
            || futures_lite::future::block_on(futures_lite::future::poll_once(quiet.as_mut()));
        assert_eq!(poll(), None);
        idle.set_timeout(None);
        assert_eq!(poll(), Some(()));
    }

    #[test]
    fn the_last_drop_wakes_a_wait_and_others_do_not() {
        let idle = ten_seconds();
        let (first, second) = (idle.activity(), idle.activity());
        let mut quiet = std::pin::pin!(idle.quiet());
        let mut poll =
            || futures_lite::future::block_on(futures_lite::future::poll_once(quiet.as_mut()));
        assert_eq!(poll(), None);
        drop(first);
        assert_eq!(poll(), None);
        drop(second);
        assert_eq!(poll(), Some(()));
    }
}
