//! The connections of a service: the value that a handler gets, and the tasks that run handlers.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use super::hook::{BoxFuture, Hook};
use super::latch::{Latch, Shutdown};
use super::limit::{Limits, Registry, Requests};
use super::{Activity, Idle};
use crate::rt::{self, Runtime, Signal, Signals, Stream};

/// An accepted connection, with its handler's means to talk to the service.
///
/// A handler may ignore or drop any of the fields: the service runs until the handler's future is
/// done.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
///
/// use futures_lite::AsyncWriteExt;
/// use smol_dhcp_proxy::service::{Connection, Service};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// Service::on([listener])
///     .idle_timeout(Duration::ZERO)
///     .run(|Connection { mut stream, .. }| async move {
///         let _ = stream.write_all(b"hello").await;
///     })?;
/// let mut text = String::new();
/// client.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection {
    /// The connected stream socket, one type for all address families. It implements the read and
    /// write traits of `futures-lite`, and its clones share the socket. Its own methods know only
    /// Unix addresses: for the peer of a TCP connection call getpeername(2).
    pub stream: Stream,
    /// The claim that keeps the service running. Dropping it has no effect;
    /// [`KeepAlive::release`] lets the service exit before the handler is done.
    pub keep_alive: KeepAlive,
    /// The counter of requests in flight. Idle connections are closed when there are too many.
    pub requests: Requests,
    /// Resolves when a signal starts the drain: finish and hang up.
    pub shutdown: Shutdown,
    /// Resolves when the drain timeout starts: together with `shutdown`, or when the hook of
    /// [`Service::extend_drain`](super::Service::extend_drain) is done.
    pub countdown: Shutdown,
}

/// A connection's claim on its service, from accept to the end of the handler's future.
///
/// The claim belongs to the connection's task, not to this handle: a handler that ignores the handle
/// still keeps the service running.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
///
/// use smol_dhcp_proxy::service::{Connection, Reason, Service};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _watcher = TcpStream::connect(listener.local_addr()?)?;
/// let reason = Service::on([listener])
///     .idle_timeout(Duration::ZERO)
///     .run(|Connection { stream, keep_alive, .. }| async move {
///         keep_alive.release(); // a watcher does not keep the service running
///         std::future::pending::<()>().await;
///         drop(stream);
///     })?;
/// assert_eq!(reason, Reason::Idle);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KeepAlive(Rc<RefCell<Option<Activity>>>);

impl KeepAlive {
    /// Lets the service exit although the connection is open, as in the example of [`KeepAlive`].
    /// The connection ends with the service at the latest; a drain still waits for it.
    pub fn release(self) {
        self.0.take();
    }
}

/// All open connections, and the latches that end them.
pub(super) struct Connections<'a> {
    runtime: &'a Runtime,
    /// Busy while a connection has not released its claim.
    idle: &'a Idle,
    handler: &'a dyn Fn(Connection) -> BoxFuture,
    /// Busy while a connection is open.
    open: Idle,
    pub(super) registry: Rc<Registry>,
    shutdown: Rc<Latch>,
    countdown: Rc<Latch>,
    abort: Rc<Latch>,
}

impl<'a> Connections<'a> {
    pub(super) fn new(
        runtime: &'a Runtime,
        idle: &'a Idle,
        limits: Limits,
        handler: &'a dyn Fn(Connection) -> BoxFuture,
    ) -> Self {
        let (open, registry) = (Idle::new(None), Registry::new(limits));
        let (shutdown, countdown, abort) = Default::default();
        Self {
            runtime,
            idle,
            handler,
            open,
            registry,
            shutdown,
            countdown,
            abort,
        }
    }

    pub(super) fn start(&self, stream: Stream) {
        let open = self.open.activity();
        let activity = Rc::new(RefCell::new(Some(self.idle.activity())));
        let abort = Shutdown::new(&self.abort);
        let (member, requests) = self.registry.open();
        let handled = (self.handler)(Connection {
            stream,
            keep_alive: KeepAlive(Rc::clone(&activity)),
            requests,
            shutdown: Shutdown::new(&self.shutdown),
            countdown: Shutdown::new(&self.countdown),
        });
        let task = async move {
            or(handled, or(abort, member.closed())).await;
            activity.take();
            drop((open, member));
        };
        self.runtime.spawn(task).detach();
    }

    /// Waits until all connections are done. Aborts the rest after `timeout`, which starts at the
    /// end of `extension`, or at a second signal, which is returned.
    pub(super) async fn drain(
        &self,
        extension: Option<Hook>,
        timeout: Duration,
        signals: &Signals,
    ) -> Option<Signal> {
        self.shutdown.set();
        let second = async {
            match signals.next().await {
                Ok(signal) => Some(signal),
                // Without a second signal the drain goes on.
                Err(error) => {
                    log::warn!("cannot wait for a second signal: {error}");
                    pending().await
                }
            }
        };
        let orderly = async {
            let bound = async {
                if let Some(extension) = extension {
                    extension.call().await;
                }
                self.countdown.set();
                rt::sleep(timeout).await;
            };
            or(self.done(), bound).await;
            None
        };
        let second = or(orderly, second).await;
        if self.open.is_busy() {
            log::warn!("closing the connections that are still open");
            self.abort.set();
            self.done().await;
        }
        second
    }

    async fn done(&self) {
        while self.open.is_busy() {
            self.open.quiet().await;
        }
    }
}

impl Drop for Connections<'_> {
    fn drop(&mut self) {
        self.abort.set();
    }
}
