//! The idle timeout: guards keep a service running, and the timeout starts when the last one is
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

/// The idle state of a service: its guards and its timeout. Clones share one state.
///
/// It and its guards are `!Send`: they belong to the thread of the service. For work on another
/// thread, keep a guard in the task that awaits that work.
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Idle, Service, Socket};
/// use smol_dhcp_proxy::rt;
///
/// let service = Service::on(Vec::<Socket>::new()).idle_timeout(Duration::ZERO);
/// let idle: Idle = service.idle().clone();
/// rt::block_on(async move |runtime| {
///     let guard = idle.activity();
///     let job = runtime.spawn(async move {
///         rt::sleep(Duration::from_millis(20)).await;
///         drop(guard);
///     });
///     let reason = service.serve(&runtime, |_| async {}).await;
///     assert!(!idle.is_busy(), "the service waited for the job");
///     job.await;
///     reason
/// })?;
/// # Ok::<(), smol_dhcp_proxy::service::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Idle(Rc<Shared>);

/// A guard that keeps the service running until it is dropped. Each connection owns one; a job in
/// flight can own another.
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
#[must_use = "a guard that is dropped at once has no effect"]
pub struct Activity(Rc<Shared>);

/// The result of [`Idle::state`].
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::rt;
/// use smol_dhcp_proxy::service::{Idle, IdleState};
///
/// let now = rt::now();
/// let wait = match Idle::new(Some(Duration::from_secs(10))).state(now) {
///     IdleState::Busy => None,
///     IdleState::Until(end) => Some(end - now),
///     IdleState::Expired => Some(Duration::ZERO),
/// };
/// assert_eq!(wait, Some(Duration::from_secs(10)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleState {
    /// At least one [`Activity`] exists.
    Busy,
    /// No guard exists. The idle timeout ends at this instant.
    Until(Instant),
    /// No guard exists, and the idle timeout is over.
    Expired,
}

#[derive(Debug)]
struct Shared {
    timeout: Cell<Duration>,
    guards: Cell<usize>,
    /// The start of the idle timeout: the `now` of the first call of `state` after the last drop.
    since: Cell<Option<Instant>>,
    quiet: Event,
}

impl Idle {
    /// Creates a state without guards. The first timeout starts with the first call of
    /// [`state`](Self::state); `None` never expires.
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
    /// The drop of a guard does not know the time, so the timeout starts with the first call after
    /// the last drop. A loop that awaits [`quiet`](Self::quiet) and then calls this loses no time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{service::{Idle, IdleState}, time::Instant};
    /// let at = |seconds| Instant::from_boot(Duration::from_secs(seconds));
    /// let idle = Idle::new(Some(Duration::from_secs(3)));
    /// assert_eq!(idle.state(at(1)), IdleState::Until(at(4)));
    /// drop(idle.activity()); // a short job restarts the timeout
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

    /// Changes the timeout, even while it runs; `None` never expires.
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

    /// Returns whether a guard exists.
    ///
    /// ```
    /// assert!(!smol_dhcp_proxy::service::Idle::new(None).is_busy());
    /// ```
    pub fn is_busy(&self) -> bool {
        self.0.guards.get() > 0
    }

    /// Waits for the next drop of the last guard or change of the timeout. After that,
    /// [`state`](Self::state) may return another value.
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
    fn the_timeout_starts_with_the_drop_of_the_last_guard() {
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
    fn a_guard_between_two_calls_restarts_the_timeout() {
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
    fn a_changed_timeout_counts_from_the_same_start() {
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
    fn a_changed_timeout_wakes_a_wait() {
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
