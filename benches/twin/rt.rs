//! The runtime: one executor thread, on tokio, which no other file names.
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

use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

#[path = "adapters.rs"]
mod adapters;
#[path = "../../src/rt/alarm.rs"]
mod alarm;
#[path = "../../src/rt/clock.rs"]
mod clock;
#[path = "../../src/rt/listener.rs"]
mod listener;
#[path = "../../src/rt/process.rs"]
mod process;
#[path = "../../src/rt/signals.rs"]
mod signals;
#[path = "../../src/rt/socket.rs"]
mod socket;
#[cfg(test)]
#[path = "../../src/rt/tests.rs"]
mod tests;
#[path = "../../src/rt/timer.rs"]
mod timer;

pub use clock::{now, wall_clock};
pub use listener::Listener;
pub use process::run;
pub use signals::{Signal, Signals};
pub use timer::Timer;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use adapters::Task;

/// A connected stream socket with the `futures-lite` read and write traits.
pub use adapters::Stream;

/// Converts a non-blocking socket.
fn stream(socket: UnixStream) -> io::Result<Stream> {
    Stream::try_from(socket)
}

/// Returns whether the peer has closed `stream`, even where bytes are left to read.
pub fn has_hung_up(stream: &Stream) -> bool {
    socket::has_hung_up(&*stream.0.borrow())
}

/// Passes the descriptor of `stream` to `look`.
pub fn with_descriptor<T>(stream: &Stream, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    look(stream.0.borrow().as_fd())
}

/// Runs `main` and all tasks that it spawns on this thread until `main` returns. Tasks that still
/// run then are dropped.
///
/// # Panics
///
/// The reactor cannot be created for want of a descriptor.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let executor = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("an epoll descriptor can be had at the start");
    let alarm = RefCell::default();
    let inner = Rc::new(Inner { executor, alarm });
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

/// Sleeps on `CLOCK_MONOTONIC`, for delays that do not depend on a lease.
pub async fn sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}

/// A descriptor of any kind, watched for readiness.
#[derive(Debug)]
pub struct Watched<T: AsFd>(AsyncFd<adapters::Raw<T>>);

impl<T: AsFd> Watched<T> {
    /// Watches `source` and makes it non-blocking: `AsyncFd` leaves O_NONBLOCK as it is.
    pub fn new(source: T) -> io::Result<Self> {
        adapters::watch(source).map(Self)
    }

    /// Returns the watched descriptor.
    pub fn get_ref(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until the descriptor is readable. May return early.
    pub async fn readable(&self) -> io::Result<()> {
        // tokio reports readiness once, and remembers it until it is cleared.
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }

    /// Polls the same for one task at a time, which is woken.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = self.0.poll_read_ready(context);
        ready.map_ok(|mut ready| ready.clear_ready())
    }

    /// Runs `operation` until its result is other than `WouldBlock`, and waits in between until the
    /// descriptor is readable.
    pub async fn read_with<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        adapters::read_with(&self.0, operation).await
    }
}
