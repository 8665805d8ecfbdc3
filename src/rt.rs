//! The runtime: one executor thread on smol and async-io. The only file that names either.
//!
//! async-io keeps one helper thread of its own, parked while nothing is due; all of our code runs
//! on the thread that called [`block_on`]. A second runtime is a second file beside this one.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::Async;
use futures_lite::future::{or, yield_now};
use rustix::net::SocketFlags;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::time::Instant;
use alarm::Alarm;

mod alarm;
mod process;

/// Other programs, such as systemd's.
pub use process::run;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
pub use smol::Task;

/// A connected Unix stream with the `futures-lite` read and write traits.
pub use async_net::unix::UnixStream as Stream;

/// Reads `CLOCK_BOOTTIME`.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_boot(Duration::new(
        time.tv_sec
            .try_into()
            .expect("the boot clock starts at zero"),
        time.tv_nsec
            .try_into()
            .expect("nanoseconds are below a billion"),
    ))
}

/// Reads `CLOCK_REALTIME`, as the time since 1970. It is set and it steps: only for whoever has to
/// be told a date.
pub fn wall_clock() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// Tasks that may have their turn before the sockets are looked at again, which costs five system
/// calls.
const TURNS: usize = 16;

/// Runs `main` and all that it spawns on this thread, until `main` returns; what is still running
/// then is dropped.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let inner = Rc::new(Inner {
        executor: smol::LocalExecutor::new(),
        alarm: RefCell::default(),
    });
    let runtime = Runtime(Rc::downgrade(&inner));
    // A task like the others: were it polled beside them, it could not start one without a look at
    // the sockets.
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
    alarm: RefCell<Option<Rc<Alarm>>>,
}

impl Runtime {
    /// Starts a task on the executor thread.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.inner().executor.spawn(future)
    }

    /// Sleeps until `deadline` on the boot clock, suspend included. All sleepers share one timerfd.
    pub async fn sleep_until(&self, deadline: Instant) -> io::Result<()> {
        let alarm = self.alarm()?;
        let mut sleeper = alarm.sleeper();
        poll_fn(|context| sleeper.poll(deadline, context.waker())).await
    }

    fn alarm(&self) -> io::Result<Rc<Alarm>> {
        let inner = self.inner();
        let mut alarm = inner.alarm.borrow_mut();
        if let Some(alarm) = alarm.as_ref().filter(|alarm| !alarm.has_failed()) {
            return Ok(Rc::clone(alarm));
        }
        let new = Rc::new(Alarm::new()?);
        let driver = Rc::clone(&new);
        self.spawn(async move { driver.drive().await }).detach();
        Ok(Rc::clone(alarm.insert(new)))
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

/// The timer of an idle wait: one timer, set anew as often as need be.
#[derive(Debug)]
pub struct Timer {
    due: Option<Instant>,
    /// Set to `set`, `due` or a moment before it: to set it later can wait till then, and is rarely
    /// needed by then. Each setting wakes the reactor, which takes six system calls.
    timer: async_io::Timer,
    set: Option<Instant>,
}

impl Timer {
    /// A timer that never fires until it is set.
    pub fn never() -> Self {
        Self {
            due: None,
            timer: async_io::Timer::never(),
            set: None,
        }
    }

    /// Fires `delay` from now, whatever it was set to before; never where `delay` is none.
    pub fn reset(&mut self, delay: Option<Duration>) {
        self.due = delay.map(|delay| now() + delay);
    }

    /// Waits until it fires.
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
    /// Whether somebody may be waiting. The reactor says so, and who then finds nobody unsays it.
    ready: Cell<bool>,
}

impl Listener {
    /// Adopts a listening socket, blocking or not.
    ///
    /// `Async::new` sets O_NONBLOCK itself. systemd hands over blocking sockets; a runtime that
    /// takes one as it is hangs in accept4(2), and none of its timers ever fires again.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Ok(Self {
            socket: Async::new(listener)?,
            ready: Cell::new(true),
        })
    }

    /// Takes the next connection when there is one, else wakes the task of `context` when there may
    /// be.
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
        // One call less than std's accept, and then the flag.
        match rustix::net::accept_with(
            self.socket.get_ref(),
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        ) {
            Ok(stream) => Ok(Some(
                Async::new_nonblocking(UnixStream::from(stream))?.into(),
            )),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets nobody connect any more; who already waits can still be taken. For all who share the
    /// socket: never on one that systemd holds too.
    pub fn refuse(&self) -> io::Result<()> {
        // On a listening Unix socket this makes connect(2) fail with ECONNREFUSED and leaves the
        // backlog alone.
        Ok(rustix::net::shutdown(
            self.socket.get_ref(),
            rustix::net::Shutdown::Read,
        )?)
    }
}

/// SIGTERM and SIGINT, as long as this lives; after that they end the process again, as they do by
/// default.
#[derive(Debug)]
pub struct Signals {
    terminate: Async<UnixStream>,
    interrupt: Async<UnixStream>,
    over: Arc<AtomicBool>,
}

/// A wish that the process end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, the service manager's.
    Terminate,
    /// SIGINT, that of the one at the keyboard.
    Interrupt,
}

impl Signals {
    /// Catches the signals from now on.
    pub fn new() -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let catch = |signal| {
            let (reader, writer) = UnixStream::pair()?;
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&over))?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            Async::new(reader)
        };
        Ok(Self {
            terminate: catch(SIGTERM)?,
            interrupt: catch(SIGINT)?,
            over,
        })
    }

    /// Waits for the next one. Several of a kind that nobody waited for count as one.
    pub async fn next(&self) -> io::Result<Signal> {
        let terminate = async { drain(&self.terminate).await.map(|()| Signal::Terminate) };
        let interrupt = async { drain(&self.interrupt).await.map(|()| Signal::Interrupt) };
        or(terminate, interrupt).await
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Waits for at least one byte, and takes all that are there.
async fn drain(pipe: &Async<UnixStream>) -> io::Result<()> {
    // Not by `read_with`: that looks into the pipe whenever anything wakes the task, which other
    // things do all the time.
    loop {
        pipe.readable().await?;
        match pipe.get_ref().read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| ()),
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

    /// Waits until the descriptor is readable, or seems so.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Runs `operation` until it does anything but block, waiting for the descriptor to become
    /// readable in between.
    pub async fn read_with<R>(&self, operation: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.0.read_with(operation).await
    }
}

#[cfg(feature = "proxy")]
pub use fair::{H2Stream, h2_stream};

/// The h2 stream adapter.
#[cfg(feature = "proxy")]
mod fair {
    use std::pin::Pin;
    use std::task::{Context, ready};

    use futures_lite::{AsyncRead, AsyncWrite};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

    use super::{Cell, Duration, Future, Instant, Poll, Stream, io, now};

    /// A [`Stream`] as h2 takes it: in tokio's traits, without tokio's runtime, and fair to others
    /// on this thread.
    pub type H2Stream = Compat<Fair>;

    /// Dresses a stream for h2.
    pub fn h2_stream(stream: Stream) -> H2Stream {
        Fair {
            stream,
            taken: 0,
            pause: None,
            full: false,
        }
        .compat()
    }

    /// A stream that pauses when it has much to say, to let others run.
    ///
    /// h2 reads for as long as there is something to read. A client that writes faster than we
    /// parse would hold the one thread for good, and some hundred of them most of it; an honest one
    /// says little and waits for the answer.
    #[derive(Debug)]
    pub struct Fair {
        stream: Stream,
        /// Bytes that were read lately.
        taken: usize,
        pause: Option<async_io::Timer>,
        /// The last write found the socket full.
        full: bool,
    }

    /// The most that one read takes: several calls.
    const READ: usize = 2 * 1024;

    /// Bytes that are read without a pause.
    const BURST: usize = 2 * READ;

    /// Bytes that are forgotten each time that there is nothing to read.
    const FORGOTTEN: usize = READ;

    /// The shortest pause, and the time from the end of one to that of the next, of all streams
    /// together. The reactor has to end it: a task that merely wakes itself runs again before any
    /// other socket was looked at.
    const PAUSE: Duration = Duration::from_millis(1);

    /// The longest pause: streams that end in theirs leave it to nothing.
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);

    thread_local! {
        /// When the last of all pauses ends.
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// Starts a pause behind all that others have started.
    fn start_pause() -> async_io::Timer {
        let now = now();
        let end = (LAST.get().unwrap_or(now).max(now) + PAUSE).min(now + LONGEST_PAUSE);
        LAST.set(Some(end));
        async_io::Timer::after(end - now)
    }

    /// Returns whether the client has closed its end: what it said before is no reason to keep the
    /// descriptor.
    fn has_hung_up(stream: &Stream) -> bool {
        let mut watched = [PollFd::new(stream, PollFlags::empty())];
        // An error would be that of a wrong descriptor.
        poll(&mut watched, Some(&Timespec::default())).is_ok()
            && watched[0].revents().contains(PollFlags::HUP)
    }

    impl AsyncRead for Fair {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            if self.taken >= BURST {
                if self.pause.is_none() && has_hung_up(&self.stream) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                ready!(Pin::new(self.pause.get_or_insert_with(start_pause)).poll(context));
                self.pause = None;
                self.taken -= READ;
            }
            let length = buffer.len().min(READ);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer[..length]);
            self.taken = match &read {
                Poll::Ready(length) => self.taken + length.as_ref().unwrap_or(&0),
                Poll::Pending => self.taken.saturating_sub(FORGOTTEN),
            };
            read
        }
    }

    impl AsyncWrite for Fair {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.stream).poll_write(context, bytes);
            // h2 tries a blocked write once more before it goes to sleep, and sleeps even where
            // that one succeeds. It counts on the wakeup that the first try asked for, but
            // async-net forgets that with the second.
            if std::mem::replace(&mut self.full, written.is_pending()) && written.is_ready() {
                context.waker().wake_by_ref();
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_close(context)
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::Read;
        use std::os::unix::net::UnixStream;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::task::{Wake, Waker};

        use super::*;

        #[derive(Default)]
        struct Woken(AtomicBool);

        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }

        #[test]
        fn a_write_that_was_blocked_and_then_succeeds_wakes() {
            // A hundred times, because now and then the reactor is quick enough to do the waking
            // itself.
            for _ in 0..100 {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let mut stream = h2_stream(ours.try_into().unwrap()).into_inner();
                let woken = Arc::new(Woken::default());
                let waker = Waker::from(woken.clone());
                let mut write = |bytes| {
                    Pin::new(&mut stream).poll_write(&mut Context::from_waker(&waker), bytes)
                };
                while write(&[0; 4096]).is_ready() {}
                woken.0.store(false, Ordering::SeqCst);
                assert!(theirs.read(&mut vec![0; 1 << 20]).unwrap() > 4096);
                assert!(write(&[0; 4096]).is_ready());
                assert!(woken.0.load(Ordering::SeqCst));
            }
        }
    }
}

#[cfg(test)]
mod tests;
