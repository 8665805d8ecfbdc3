//! The runtime: one executor thread on smol and async-io. The only file that names either.
//!
//! async-io keeps one helper thread of its own, parked while nothing is due; all of our code runs
//! on the thread that called [`block_on`]. A second runtime is a second file beside this one.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_io::Async;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::time::Instant;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use smol::Task;

/// A connected Unix stream with the `futures-lite` read and write traits.
pub use async_net::unix::UnixStream as Stream;

/// Reads `CLOCK_BOOTTIME`.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_boot(Duration::new(
        time.tv_sec.try_into().expect("the boot clock starts at zero"),
        time.tv_nsec.try_into().expect("nanoseconds are below a billion"),
    ))
}

/// Runs `main` and all that it spawns on this thread, until `main` returns; what is still running then is dropped.
pub fn block_on<T>(main: impl AsyncFnOnce(Runtime) -> T) -> T {
    let inner = Rc::new(Inner { executor: smol::LocalExecutor::new(), alarm: OnceCell::new() });
    let runtime = Runtime(Rc::downgrade(&inner));
    smol::block_on(inner.executor.run(main(runtime)))
}

/// A handle on the runtime that [`block_on`] drives.
#[derive(Clone, Debug)]
pub struct Runtime(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    executor: smol::LocalExecutor<'static>,
    alarm: OnceCell<Rc<Alarm>>,
}

impl Runtime {
    /// Starts a task on the executor thread.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.inner().executor.spawn(future)
    }

    /// Sleeps until `deadline` on the boot clock, suspend included. All sleepers share one timerfd.
    pub async fn sleep_until(&self, deadline: Instant) -> io::Result<()> {
        let alarm = self.alarm()?;
        let mut sleeper = Sleeper { alarm: &alarm, key: None };
        poll_fn(|context| sleeper.poll(deadline, context.waker())).await
    }

    fn alarm(&self) -> io::Result<Rc<Alarm>> {
        let inner = self.inner();
        if let Some(alarm) = inner.alarm.get() {
            return Ok(Rc::clone(alarm));
        }
        let alarm = Rc::new(Alarm::new()?);
        let driver = Rc::clone(&alarm);
        self.spawn(async move { driver.drive().await }).detach();
        Ok(Rc::clone(inner.alarm.get_or_init(|| alarm)))
    }

    fn inner(&self) -> Rc<Inner> {
        self.0.upgrade().expect("a runtime is used only by what block_on runs")
    }
}

/// Everybody who sleeps on the boot clock, and the timerfd armed for the earliest of them.
#[derive(Debug)]
struct Alarm {
    timer: Async<OwnedFd>,
    sleepers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: std::cell::Cell<u64>,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: Async::new(timer)?, sleepers: RefCell::default(), next_id: Default::default() })
    }

    async fn drive(&self) {
        loop {
            // An error here is the reactor's end, and with it everybody's.
            if self.timer.readable().await.is_err() {
                return;
            }
            // The count of expirations is of no interest; reading it silences the descriptor.
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
            let due = {
                let mut sleepers = self.sleepers.borrow_mut();
                let later = sleepers.split_off(&(now(), u64::MAX));
                std::mem::replace(&mut *sleepers, later)
            };
            due.into_values().for_each(Waker::wake);
            self.arm();
        }
    }

    fn arm(&self) {
        let Some(&(earliest, _)) = self.sleepers.borrow().keys().next() else { return };
        let at = earliest.since_boot();
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            // An it_value of zero would disarm (timerfd_create(2)).
            it_value: Timespec {
                tv_sec: at.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: i64::from(at.subsec_nanos()).max(1),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)
            .expect("the timerfd is ours and the time is valid");
    }
}

/// One who waits on an [`Alarm`]; dropping it leaves the queue.
struct Sleeper<'a> {
    alarm: &'a Alarm,
    key: Option<(Instant, u64)>,
}

impl Sleeper<'_> {
    fn poll(&mut self, deadline: Instant, waker: &Waker) -> Poll<io::Result<()>> {
        if now() >= deadline {
            return Poll::Ready(Ok(()));
        }
        let key = *self.key.get_or_insert_with(|| {
            let id = self.alarm.next_id.replace(self.alarm.next_id.get() + 1);
            (deadline, id)
        });
        let mut sleepers = self.alarm.sleepers.borrow_mut();
        sleepers.insert(key, waker.clone());
        let earliest = sleepers.keys().next() == Some(&key);
        drop(sleepers);
        if earliest {
            self.alarm.arm();
        }
        Poll::Pending
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.alarm.sleepers.borrow_mut().remove(&key);
        }
    }
}

/// Sleeps on `CLOCK_MONOTONIC`, for delays that have nothing to do with a lease.
pub async fn sleep(delay: Duration) {
    async_io::Timer::after(delay).await;
}

/// The timer of an idle wait: one timer, set anew as often as need be.
#[derive(Debug)]
pub struct Timer(async_io::Timer);

impl Timer {
    /// A timer that never fires until it is set.
    pub fn never() -> Self {
        Self(async_io::Timer::never())
    }

    /// Fires `delay` from now, whatever it was set to before; never where `delay` is none.
    pub fn reset(&mut self, delay: Option<Duration>) {
        match delay {
            Some(delay) => self.0.set_after(delay),
            None => self.0 = async_io::Timer::never(),
        }
    }

    /// Waits until it fires.
    pub async fn fired(&mut self) {
        (&mut self.0).await;
    }
}

/// A listening Unix socket.
#[derive(Debug)]
pub struct Listener(Async<UnixListener>);

impl Listener {
    /// Adopts a listening socket, blocking or not.
    ///
    /// `Async::new` sets O_NONBLOCK itself. systemd hands over blocking sockets; a runtime that takes one
    /// as it is hangs in accept4(2), and none of its timers ever fires again.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Async::new(listener).map(Self)
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = self.0.accept().await?;
        Ok(stream.into())
    }

    /// Takes a connection that already waits, without waiting for one.
    pub fn try_accept(&self) -> io::Result<Option<Stream>> {
        match self.0.get_ref().accept() {
            Ok((stream, _)) => Ok(Some(Async::<UnixStream>::new(stream)?.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
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

    /// What is watched.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    /// Runs `operation` until it does anything but block, waiting for the descriptor to become readable in between.
    pub async fn read_with<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.read_with(operation).await
    }
}

/// A [`Stream`] as h2 takes it.
#[cfg(feature = "proxy")]
pub type H2Stream = tokio_util::compat::Compat<Fair>;

/// Dresses a stream in the traits that h2 asks for; they are tokio's, but no part of its runtime comes with them.
#[cfg(feature = "proxy")]
pub fn h2_stream(stream: Stream) -> H2Stream {
    tokio_util::compat::FuturesAsyncReadCompatExt::compat(Fair { stream, reads: 0, pause: None })
}

/// A stream that pauses now and then to let others run.
///
/// h2 reads for as long as there is something to read. A client that writes faster than we parse would hold the one
/// thread for good; an honest one says what it has to say in a read or two.
#[cfg(feature = "proxy")]
#[derive(Debug)]
pub struct Fair {
    stream: Stream,
    /// Successful reads in a row.
    reads: u8,
    pause: Option<async_io::Timer>,
}

#[cfg(feature = "proxy")]
mod fair {
    use std::pin::Pin;
    use std::task::{Context, ready};

    use futures_lite::{AsyncRead, AsyncWrite};

    use super::{Duration, Fair, Future, Poll, io};

    /// Reads in a row before a pause; each takes 8 KB or so.
    const READS: u8 = 4;

    /// It has to be one that the reactor ends: who merely wakes itself runs again before any other socket was looked at.
    const PAUSE: Duration = Duration::from_millis(1);

    impl AsyncRead for Fair {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            if self.reads == READS {
                let pause = self.pause.get_or_insert_with(|| async_io::Timer::after(PAUSE));
                ready!(Pin::new(pause).poll(context));
                self.pause = None;
                self.reads = 0;
            }
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.reads = if read.is_ready() { self.reads + 1 } else { 0 };
            read
        }
    }

    impl AsyncWrite for Fair {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_close(context)
        }
    }
}
