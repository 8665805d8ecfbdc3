//! Limits on the connections of a service. The longest idle connection makes room for a new one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use rustix::process::{Resource, getrlimit};

use super::trim::trim;
use crate::rt;
use crate::time::Instant;

/// The limits on simultaneous connections of a service.
///
/// ```
/// use smol_dhcp_proxy::service::{Limits, Service};
///
/// let mut limits = Limits::of_process();
/// limits.connections = 100;
/// limits.idle = 20;
/// let service = Service::new("/run/echo.sock").limits(limits);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum of connections. At this number the longest idle one is closed for a new one. If
    /// none is idle, new connections wait in the backlog until one ends or becomes idle.
    pub connections: usize,
    /// The maximum of idle connections, which have no request in flight. The longest idle one is
    /// closed for another one.
    ///
    /// A new connection is idle until its first request. So a client has time for that request
    /// until this number of later clients has arrived.
    pub idle: usize,
}

impl Limits {
    /// Returns the limits for the descriptors that the process may open (`RLIMIT_NOFILE`): half of
    /// them for connections, at most 4096, so that requests have the other half; and half of the
    /// connections may be idle, at most 256.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Limits;
    /// assert!(Limits::of_process().connections <= 4096);
    /// ```
    pub fn of_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::within(usize::try_from(descriptors).unwrap_or(usize::MAX))
    }

    fn within(descriptors: usize) -> Self {
        let connections = (descriptors / 2).clamp(2, 4096);
        Self {
            connections,
            idle: (connections / 2).min(256),
        }
    }
}

/// The time that a new connection has for its first request while descriptors are short. accept(2)
/// fails for want of a descriptor even if no client waits in the backlog.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(100);

/// The peak of connections from which on memory is given back, once seven eighths have ended.
const TRIM_PEAK: usize = 32;

/// All open connections of a service.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    open: Cell<usize>,
    /// The maximum of `open` since memory was last given back.
    peak: Cell<usize>,
    /// Open connections that were closed by a limit and have not ended yet.
    closing: Cell<usize>,
    /// The idle connections, the longest idle one first.
    idle: RefCell<BTreeMap<u64, Rc<Member>>>,
    next: Cell<u64>,
    /// Notified when a connection ends or becomes idle.
    changed: Event,
}

/// One open connection.
#[derive(Debug, Default)]
struct Member {
    /// Requests in flight.
    requests: Cell<usize>,
    /// The key in [`Registry::idle`], and the time since when the connection is idle.
    place: Cell<Option<(u64, Instant)>>,
    /// The handler still has its [`Requests`].
    reports: Cell<bool>,
    closed: Cell<bool>,
    close: Event,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            limits,
            open: Cell::default(),
            peak: Cell::default(),
            closing: Cell::default(),
            idle: RefCell::default(),
            next: Cell::default(),
            changed: Event::new(),
        })
    }

    /// Waits for room for one more connection, and closes an idle one if necessary.
    pub(super) async fn wait_for_room(&self) {
        while self.is_full() {
            let changed = self.changed.listen();
            if !self.close_longest_idle() {
                changed.await;
            }
        }
    }

    fn is_full(&self) -> bool {
        // A closing connection gives up its descriptor at its task's next poll.
        self.open.get() - self.closing.get() >= self.limits.connections
    }

    /// Closes the longest idle connection, unless it is new, and waits until a connection ends or
    /// becomes idle. Each holds a descriptor and memory of the kernel, which a failed accept(2) may
    /// lack.
    pub(super) async fn wait_for_descriptor(&self) {
        let changed = self.changed.listen();
        let since = self
            .idle
            .borrow()
            .values()
            .next()
            .and_then(|member| member.place.get());
        if since.is_some_and(|(_, since)| rt::now() - since >= FIRST_REQUEST_TIMEOUT) {
            self.close_longest_idle();
        }
        changed.await;
    }

    /// Counts a new connection, which is idle.
    pub(super) fn open(self: &Rc<Self>) -> (Open, Requests) {
        let member = Rc::new(Member {
            reports: Cell::new(true),
            ..Member::default()
        });
        self.open.set(self.open.get() + 1);
        self.peak.set(self.peak.get().max(self.open.get()));
        self.enter_idle(&member);
        (
            Open {
                registry: Rc::clone(self),
                member: Rc::clone(&member),
            },
            Requests {
                registry: Rc::clone(self),
                member,
            },
        )
    }

    fn enter_idle(&self, member: &Rc<Member>) {
        let place = self.next.replace(self.next.get() + 1);
        member.place.set(Some((place, rt::now())));
        self.idle.borrow_mut().insert(place, Rc::clone(member));
        if self.idle.borrow().len() > self.limits.idle {
            self.close_longest_idle();
        }
        self.changed.notify(usize::MAX);
    }

    fn leave_idle(&self, member: &Member) {
        if let Some((place, _)) = member.place.take() {
            self.idle.borrow_mut().remove(&place);
        }
    }

    fn close_longest_idle(&self) -> bool {
        let Some((_, member)) = self.idle.borrow_mut().pop_first() else {
            return false;
        };
        log::debug!("too many connections: closing the longest idle one");
        member.place.set(None);
        member.closed.set(true);
        self.closing.set(self.closing.get() + 1);
        member.close.notify(usize::MAX);
        true
    }
}

/// A guard that counts an open connection.
#[derive(Debug)]
pub(super) struct Open {
    registry: Rc<Registry>,
    member: Rc<Member>,
}

impl Open {
    /// Resolves when the connection has to end, to make room for another one.
    pub(super) async fn closed(&self) {
        while !self.member.closed.get() {
            self.member.close.listen().await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let registry = &self.registry;
        registry.leave_idle(&self.member);
        registry.open.set(registry.open.get() - 1);
        if self.member.closed.get() {
            registry.closing.set(registry.closing.get() - 1);
        }
        registry.changed.notify(usize::MAX);
        let (open, peak) = (registry.open.get(), registry.peak.get());
        if peak >= TRIM_PEAK && open <= peak / 8 {
            registry.peak.set(open);
            trim();
        }
    }
}

/// The counter of requests in flight on a connection.
///
/// A connection without one is idle, and is closed when there are too many (see [`Limits`]). If a
/// handler drops this counter early, its connection counts as in use until it ends.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Connection, Service};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _client = TcpStream::connect(listener.local_addr()?)?;
/// Service::on([listener])
///     .idle_timeout(Duration::ZERO)
///     .run(|Connection { requests, .. }| async move {
///         // Read a request here: meanwhile the connection is idle.
///         let in_flight = requests.begin();
///         // Serve it here: meanwhile no limit closes the connection.
///         drop(in_flight);
///     })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Requests {
    registry: Rc<Registry>,
    member: Rc<Member>,
}

impl Requests {
    /// Counts a request as in flight until the returned guard is dropped, as in the example of
    /// [`Requests`].
    pub fn begin(&self) -> InFlight {
        self.member.requests.set(self.member.requests.get() + 1);
        self.registry.leave_idle(&self.member);
        InFlight {
            registry: Rc::clone(&self.registry),
            member: Rc::clone(&self.member),
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.member.reports.set(false);
        self.registry.leave_idle(&self.member);
    }
}

/// A guard for a request in flight: no limit closes its connection meanwhile.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Connection, InFlight, Requests, Service};
///
/// async fn serve(requests: &Requests) {
///     let first: InFlight = requests.begin();
///     let second = requests.begin();
///     drop(first); // the connection is still in use
///     drop(second); // the connection is idle
/// }
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _client = TcpStream::connect(listener.local_addr()?)?;
/// Service::on([listener])
///     .idle_timeout(Duration::ZERO)
///     .run(|Connection { requests, .. }| async move { serve(&requests).await })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a guard that is dropped at once ends the request"]
pub struct InFlight {
    registry: Rc<Registry>,
    member: Rc<Member>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.member.requests.get() - 1;
        self.member.requests.set(left);
        if left == 0 && self.member.reports.get() && !self.member.closed.get() {
            self.registry.enter_idle(&self.member);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn registry(connections: usize, idle: usize) -> Rc<Registry> {
        Registry::new(Limits { connections, idle })
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        block_on(poll_once(future))
    }

    fn closed(open: &Open) -> bool {
        now(open.closed()).is_some()
    }

    #[test]
    fn the_default_leaves_half_of_the_descriptors_to_requests() {
        assert_eq!(
            Limits::within(1024),
            Limits {
                connections: 512,
                idle: 256
            }
        );
        assert_eq!(
            Limits::within(20),
            Limits {
                connections: 10,
                idle: 5
            }
        );
        assert_eq!(
            Limits::within(65_536),
            Limits {
                connections: 4096,
                idle: 256
            }
        );
        assert_eq!(
            Limits::within(0),
            Limits {
                connections: 2,
                idle: 1
            }
        );
        assert!(Limits::of_process().connections >= 2);
    }

    #[test]
    fn the_longest_idle_connection_makes_room() {
        let registry = registry(10, 2);
        let (first, requests) = registry.open();
        let (second, _second) = registry.open();
        // The first was the longest idle one until it had a request.
        drop(requests.begin());
        let (third, _third) = registry.open();
        assert_eq!([&first, &second, &third].map(closed), [false, true, false]);
        let (fourth, _fourth) = registry.open();
        assert_eq!([&first, &third, &fourth].map(closed), [true, false, false]);
    }

    #[test]
    fn a_connection_in_use_is_never_closed() {
        let registry = registry(10, 1);
        let (first, requests) = registry.open();
        let (one, two) = (requests.begin(), requests.begin());
        // The handler of the second does not count its requests.
        let (second, _) = registry.open();
        let (third, _third) = registry.open();
        let (fourth, _fourth) = registry.open();
        assert_eq!(
            [&first, &second, &third, &fourth].map(closed),
            [false, false, true, false]
        );
        drop(one);
        assert!(!closed(&fourth), "one request is left");
        drop(two);
        assert!(closed(&fourth), "and now one idle connection is too many");
        assert!(!closed(&first));
    }

    #[test]
    fn a_full_service_makes_room_or_waits() {
        let registry = registry(2, 2);
        assert_eq!(now(registry.wait_for_room()), Some(()));
        let (first, requests) = registry.open();
        let (second, _) = registry.open();
        let request = requests.begin();
        let mut room = std::pin::pin!(registry.wait_for_room());
        assert_eq!(now(room.as_mut()), None, "both are in use");
        assert!(!closed(&first) && !closed(&second));
        drop(request);
        assert_eq!(now(room.as_mut()), Some(()), "the first is closing");
        assert!(closed(&first));
        let (third, _) = registry.open();
        assert_eq!(
            now(registry.wait_for_room()),
            None,
            "a closing connection makes room once"
        );
        drop(third);
        assert_eq!(now(registry.wait_for_room()), Some(()));
        drop((first, second));
        assert_eq!(
            (
                registry.open.get(),
                registry.closing.get(),
                registry.idle.borrow().len()
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn the_longest_idle_connection_gives_up_its_descriptor() {
        let registry = registry(10, 10);
        let (first, _requests) = registry.open();
        let (second, _requests) = registry.open();
        assert_eq!(now(registry.wait_for_descriptor()), None);
        assert!(!closed(&first), "it has not had the time for a request");
        for member in registry.idle.borrow().values() {
            member.place.set(
                member
                    .place
                    .get()
                    .map(|(place, _)| (place, Instant::from_boot(Duration::ZERO))),
            );
        }
        let mut descriptor = std::pin::pin!(registry.wait_for_descriptor());
        assert_eq!(now(descriptor.as_mut()), None);
        assert!(closed(&first) && !closed(&second));
        drop(first);
        assert_eq!(now(descriptor.as_mut()), Some(()));
    }
}
