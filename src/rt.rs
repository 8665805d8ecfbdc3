//! The runtime: one executor thread on smol and async-io, which no other file names.
//!
//! async-io keeps one helper thread, parked while nothing is due; all code of the crate runs on the
//! thread that called [`block_on`]. The files in `rt/` are built on the items of this one and would
//! run on any other runtime: `benches/twin/rt.rs` has the same items on tokio.

#![expect(
    clippy::missing_errors_doc,
    reason = "each error is one of the kernel's"
)]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::Async;
use futures_lite::future::{or, yield_now};

use crate::time::Instant;

mod alarm;
mod clock;
mod process;
mod signals;
mod socket;
#[cfg(test)]
mod tests;

pub use clock::{now, wall_clock};
pub use process::run;
pub use signals::{Signal, Signals};

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use smol::Task;

/// A connected Unix stream with the `futures-lite` read and write traits.
pub use async_net::unix::UnixStream as Stream;

/// Returns whether the peer has closed `stream`, even where bytes are left to read.
pub fn has_hung_up(stream: &Stream) -> bool {
    socket::has_hung_up(stream)
}

/// Passes the descriptor of `stream` to `look`.
pub fn with_descriptor<T>(stream: &Stream, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    look(stream.as_fd())
}

/// Turns of tasks between two looks at the sockets; each look costs five system calls.
const TURNS: usize = 16;

/// Runs `main` and all that it spawns on this thread, until `main` returns; what is still running
/// then is dropped.
///
/// # Panics
///
/// The reactor cannot be made, for want of a descriptor.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let inner = Rc::new(Inner {
        executor: smol::LocalExecutor::new(),
        alarm: RefCell::default(),
    });
    let runtime = Runtime(Rc::downgrade(&inner));
    // A task like the others: polled beside them, it could not start one without a look at the
    // sockets.
    let main = inner.executor.spawn(async move { main(runtime).await });
    // The executor's own `run` keeps a queue of 8 kB to steal from.
    let turns = async {
        loop {
            for _ in 0..TURNS {
                inner.executor.tick().await;
            }
            yield_now().await;
        }
    };
    smol::block_on(or(main, turns))
}

/// A handle on the runtime that [`block_on`] drives.
#[derive(Clone, Debug)]
pub struct Runtime(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    executor: smol::LocalExecutor<'static>,
    alarm: RefCell<Option<Rc<alarm::Alarm>>>,
}

impl Runtime {
    /// Starts a task on the executor thread.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.inner().executor.spawn(future)
    }

    fn inner(&self) -> Rc<Inner> {
        self.0
            .upgrade()
            .expect("a runtime is used only by what block_on runs")
    }
}

/// Sleeps on `CLOCK_MONOTONIC`, for delays that have nothing to do with a lease.
pub async fn sleep(delay: Duration) {
    async_io::Timer::after(delay).await;
}

/// A timer that can be set anew, as an idle wait needs it.
#[derive(Debug)]
pub struct Timer {
    due: Option<Instant>,
    /// Set to `set`, which is `due` or earlier: setting it takes six system calls, for it wakes the
    /// reactor, and a later `due` is rarely the last one.
    timer: async_io::Timer,
    set: Option<Instant>,
}

impl Timer {
    /// Returns a timer that never fires until it is set.
    pub fn never() -> Self {
        Self {
            due: None,
            timer: async_io::Timer::never(),
            set: None,
        }
    }

    /// Sets the timer to `delay` from now in place of what it was set to; `None` stops it.
    pub fn reset(&mut self, delay: Option<Duration>) {
        self.due = delay.map(|delay| now() + delay);
    }

    /// Waits until the timer fires.
    pub async fn fired(&mut self) {
        let Some(due) = self.due else {
            return pending().await;
        };
        while now() < due {
            if self.set.is_none_or(|set| set > due) {
                self.timer.set_after(due - now());
                self.set = Some(due);
            }
            (&mut self.timer).await;
            self.set = None;
        }
        self.due = None;
    }
}

/// A listening Unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: Async<UnixListener>,
    /// False from an accept that found no connection until the reactor reports the next one.
    ready: Cell<bool>,
}

impl Listener {
    /// Adopts a listening socket, blocking or not.
    ///
    /// systemd hands over blocking sockets, and `Async::new` sets O_NONBLOCK itself. A runtime that
    /// takes a socket as it is hangs in accept4(2), and none of its timers ever fires again.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        let (socket, ready) = (Async::new(listener)?, Cell::new(true));
        Ok(Self { socket, ready })
    }

    /// Takes the next connection, or wakes the task of `context` when there may be one.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            if !self.ready.get() {
                ready!(self.socket.poll_readable(context))?;
            }
            let accepted = self.try_accept().transpose();
            self.ready.set(accepted.is_some());
            if let Some(accepted) = accepted {
                return Poll::Ready(accepted);
            }
        }
    }

    /// Takes a connection that already waits, without waiting for one.
    pub fn try_accept(&self) -> io::Result<Option<Stream>> {
        socket::accept(&self.socket)?
            .map(|stream| Ok(Async::new_nonblocking(stream)?.into()))
            .transpose()
    }

    /// Refuses all further connections; those in the backlog can still be taken. This holds for all
    /// processes that share the socket: never to be used on one that systemd holds too.
    pub fn refuse(&self) -> io::Result<()> {
        socket::refuse(&self.socket)
    }
}

/// A descriptor of any kind, watched for readiness.
#[derive(Debug)]
pub struct Watched<T>(Async<T>);

impl<T: AsFd> Watched<T> {
    /// Watches `source`, which becomes non-blocking.
    pub fn new(source: T) -> io::Result<Self> {
        Async::new(source).map(Self)
    }

    /// Returns what is watched.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until the descriptor is readable, or seems so.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Runs `operation` until its result is other than `WouldBlock`, and waits in between until the
    /// descriptor is readable.
    pub async fn read_with<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.read_with(operation).await
    }
}
