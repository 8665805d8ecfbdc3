//! The connections of a service: what a handler gets, and the tasks that run the handlers.

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

/// An accepted connection, and what its handler may tell and ask the service.
///
/// Take the fields that are of use and leave the rest: the service stays until the handler's future
/// is done, whatever becomes of them.
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
    /// The connected socket: a stream socket of any family under one type. It reads and writes by
    /// the traits of `futures-lite`, and its clones share it. For a TCP connection ask
    /// getpeername(2) for the address of the peer, as the type's own methods know Unix sockets
    /// only.
    pub stream: Stream,
    /// The hold that the connection has on the service. Dropping it changes nothing;
    /// [`KeepAlive::release`] lets the service leave before the handler is done.
    pub keep_alive: KeepAlive,
    /// Counts the requests in flight, which decides which connection is closed when there are too
    /// many.
    pub requests: Requests,
    /// Resolves when a signal begins the drain: the time to finish and hang up.
    pub shutdown: Shutdown,
    /// Resolves when the drain timeout begins to count: together with `shutdown`, or when
    /// [`Service::extend_drain`](super::Service::extend_drain) is done.
    pub countdown: Shutdown,
}

/// The hold that a connection has on its service, from accept to the end of the handler's future.
///
/// It belongs to the connection's task, not to this handle: a handler that ignores the handle keeps
/// the service alive all the same.
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
///         keep_alive.release(); // a watcher is no reason to stay
///         std::future::pending::<()>().await;
///         drop(stream);
///     })?;
/// assert_eq!(reason, Reason::Idle);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KeepAlive(Rc<RefCell<Option<Activity>>>);

impl KeepAlive {
    /// Lets the service leave although the connection is open. The connection then ends with the
    /// service at the latest; a drain still waits for it.
    pub fn release(self) {
        self.0.take();
    }
}

/// All connections that are being served, and the means to end them.
pub(super) struct Connections<'a> {
    runtime: &'a Runtime,
    /// Kept busy by each connection that has not released its hold.
    idle: &'a Idle,
    handler: &'a dyn Fn(Connection) -> BoxFuture,
    /// Kept busy by every connection.
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

    /// Waits until all connections are done. Those that are not are ended when `timeout` is over,
    /// which counts from the end of `extension`, or at a second signal, which is returned.
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
                // No reason to end what is under way.
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
