//! The runtime: one executor thread, on smol and async-io, which no other file names.
//!
//! All code of the crate runs on the thread that called [`block_on`]. `src/rt.rs` and
//! `benches/twin/rt.rs` have the same items in the same order, each on its own runtime. The files
//! in `src/rt/` are built on these items, and both share them. `benches/twin/README.md` explains
//! the differences.

#![expect(
    clippy::missing_errors_doc,
    reason = "each error is one of the kernel's"
)]

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Async;
use futures_lite::future::{or, yield_now};

mod alarm;
mod clock;
mod listener;
mod process;
mod signals;
mod socket;
#[cfg(test)]
mod tests;
mod timer;

pub use clock::{now, wall_clock};
pub use listener::Listener;
pub use process::run;
pub use signals::{Signal, Signals};
pub use timer::Timer;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use smol::Task;

/// A connected stream socket with the `futures-lite` read and write traits.
pub use async_net::unix::UnixStream as Stream;

/// Converts a non-blocking socket.
fn stream(socket: UnixStream) -> io::Result<Stream> {
    Async::new_nonblocking(socket).map(Stream::from)
}

/// Returns whether the peer has closed `stream`, even where bytes are left to read.
pub fn has_hung_up(stream: &Stream) -> bool {
    socket::has_hung_up(stream)
}

/// Passes the descriptor of `stream` to `look`.
pub fn with_descriptor<T>(stream: &Stream, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    look(stream.as_fd())
}

/// The number of task polls between two looks at the sockets. Each look costs five system calls.
const TURNS: usize = 16;

/// Runs `main` and all tasks that it spawns on this thread until `main` returns. Tasks that still
/// run then are dropped.
///
/// # Panics
///
/// The reactor cannot be created for want of a descriptor.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let executor = smol::LocalExecutor::new();
    let alarm = RefCell::default();
    let inner = Rc::new(Inner { executor, alarm });
    let runtime = Runtime(Rc::downgrade(&inner));
    // `main` is a task like the others: polled beside them, it could not start one without a look
    // at the sockets.
    let main = inner.executor.spawn(async move { main(runtime).await });
    // The executor's own `run` keeps a queue of 8 kB for work stealing.
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

/// Sleeps on `CLOCK_MONOTONIC`, for delays that do not depend on a lease.
pub async fn sleep(delay: Duration) {
    async_io::Timer::after(delay).await;
}

/// A descriptor of any kind, watched for readiness.
#[derive(Debug)]
pub struct Watched<T>(Async<T>);

impl<T: AsFd> Watched<T> {
    /// Watches `source` and makes it non-blocking: `Async::new` sets O_NONBLOCK itself.
    pub fn new(source: T) -> io::Result<Self> {
        Async::new(source).map(Self)
    }

    /// Returns the watched descriptor.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until the descriptor is readable. May return early.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Polls the same for one task at a time, which is woken.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_readable(context)
    }

    /// Runs `operation` until its result is other than `WouldBlock`, and waits in between until the
    /// descriptor is readable.
    pub async fn read_with<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.read_with(operation).await
    }
}
