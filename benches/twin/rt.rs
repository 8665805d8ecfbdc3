//! The runtime: one executor thread on tokio, which no other file names.
//!
//! tokio keeps no thread of its own here; all code of the crate runs on the
//! thread that called [`block_on`]. The files in `src/rt/` are built on the items of this one:
//! `src/rt.rs` has the same items on smol and async-io, and the README beside this file explains
//! the differences.

#![expect(
    clippy::missing_errors_doc,
    reason = "each error is one of the kernel's"
)]

use std::cell::RefCell;
use std::future::{Future, pending};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::ioctl_fionbio;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

#[path = "adapters.rs"]
mod adapters;
#[path = "../../src/rt/alarm.rs"]
mod alarm;
#[path = "../../src/rt/clock.rs"]
mod clock;
#[path = "../../src/rt/process.rs"]
mod process;
#[path = "../../src/rt/signals.rs"]
mod signals;
#[path = "../../src/rt/socket.rs"]
mod socket;
#[cfg(test)]
#[path = "../../src/rt/tests.rs"]
mod tests;

use adapters::Raw;
pub use clock::{now, wall_clock};
pub use process::run;
pub use signals::{Signal, Signals};

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use adapters::Task;

/// A connected Unix stream with the `futures-lite` read and write traits.
pub use adapters::Stream;

/// Returns whether the peer has closed `stream`, even where bytes are left to read.
pub fn has_hung_up(stream: &Stream) -> bool {
    socket::has_hung_up(&*stream.0.borrow())
}

/// Passes the descriptor of `stream` to `look`.
pub fn with_descriptor<T>(stream: &Stream, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    look(stream.0.borrow().as_fd())
}

/// Runs `main` and all that it spawns on this thread, until `main` returns; what is still running
/// then is dropped.
///
/// # Panics
///
/// The reactor cannot be made, for want of a descriptor.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let executor = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default());
    let inner = Rc::new(Inner {
        executor: executor.expect("an epoll descriptor can be had at the start"),
        alarm: RefCell::default(),
    });
    let runtime = Runtime(Rc::downgrade(&inner));
    inner.executor.block_on(main(runtime))
}

/// A handle on the runtime that [`block_on`] drives.
#[derive(Clone, Debug)]
pub struct Runtime(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    executor: LocalRuntime,
    alarm: RefCell<Option<Rc<alarm::Alarm>>>,
}

impl Runtime {
    /// Starts a task on the executor thread.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        Task(Some(self.inner().executor.spawn_local(future)))
    }

    fn inner(&self) -> Rc<Inner> {
        self.0
            .upgrade()
            .expect("a runtime is used only by what block_on runs")
    }
}

/// Sleeps on `CLOCK_MONOTONIC`, for delays that have nothing to do with a lease.
pub async fn sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}

/// A timer that can be set anew, as an idle wait needs it.
#[derive(Debug)]
pub struct Timer {
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Timer {
    /// Returns a timer that never fires until it is set.
    pub fn never() -> Self {
        Self { timer: None }
    }

    /// Sets the timer to `delay` from now in place of what it was set to; `None` stops it.
    pub fn reset(&mut self, delay: Option<Duration>) {
        self.timer = delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
    }

    /// Waits until the timer fires.
    pub async fn fired(&mut self) {
        let Some(timer) = &mut self.timer else {
            return pending().await;
        };
        timer.await;
        self.timer = None;
    }
}

/// A listening stream socket. tokio's own listener drops connections whose peer has no Unix address,
/// such as those of a TCP socket.
#[derive(Debug)]
pub struct Listener(Watched<UnixListener>);

impl Listener {
    /// Adopts a listening socket, blocking or not.
    ///
    /// systemd hands over blocking sockets, and `from_std` and `AsyncFd` take a socket as it is.
    /// Without O_NONBLOCK the accept4(2) after the last connection hangs, and with it the one
    /// thread: none of its timers ever fires again.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Watched::new(listener).map(Self)
    }

    /// Takes the next connection, or wakes the task of `context` when there may be one.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            let mut ready = ready!(self.0.0.poll_read_ready(context))?;
            if let Some(stream) = self.try_accept()? {
                return Poll::Ready(Ok(stream));
            }
            ready.clear_ready();
        }
    }

    /// Takes a connection that already waits, without waiting for one.
    ///
    /// The kernel knows whether one waits. tokio's listener knows what the reactor saw last, which
    /// is too long ago for a service that is about to leave.
    pub fn try_accept(&self) -> io::Result<Option<Stream>> {
        socket::accept(self.0.get_ref())?
            .map(Stream::try_from)
            .transpose()
    }

    /// Refuses all further connections; those in the backlog can still be taken. This holds for all
    /// processes that share the socket: never to be used on one that systemd holds too.
    pub fn refuse(&self) -> io::Result<()> {
        socket::refuse(self.0.get_ref())
    }
}

/// A descriptor of any kind, watched for readiness.
#[derive(Debug)]
pub struct Watched<T: AsFd>(AsyncFd<Raw<T>>);

impl<T: AsFd> Watched<T> {
    /// Watches `source`, which becomes non-blocking.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; what is watched owns its descriptor and keeps it"
    )]
    pub fn new(source: T) -> io::Result<Self> {
        ioctl_fionbio(&source, true)?;
        AsyncFd::with_interest(Raw(source), INTEREST).map(Self)
    }

    /// Returns what is watched.
    pub fn get_ref(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until the descriptor is readable, or seems so.
    pub async fn readable(&self) -> io::Result<()> {
        // tokio is told of readiness once, and remembers it until it is cleared.
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }

    /// Runs `operation` until its result is other than `WouldBlock`, and waits in between until the
    /// descriptor is readable.
    pub async fn read_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.0
            .async_io(INTEREST, |source| operation(&source.0))
            .await
    }
}

/// An interest in reading alone is not woken by an error, such as that of a packet socket whose
/// link goes down.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);
