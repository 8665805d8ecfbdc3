//! The runtime: one executor thread on tokio. The twin of `src/rt.rs`, item for item; `diff -y`
//! shows what differs.
//!
//! tokio keeps no thread of its own here: what is due is seen to by the thread that called
//! [`block_on`], on which all of our code runs. The README beside this file walks through the two.

use std::cell::{OnceCell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncWrite};
use rustix::io::ioctl_fionbio;
use rustix::net::SocketFlags;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::time::Instant;
use alarm::Alarm;

#[path = "../../src/rt/alarm.rs"]
mod alarm;
#[path = "../../src/rt/process.rs"]
mod process;

/// Other programs, such as systemd's.
pub use process::run;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
///
/// tokio has it the other way round: a dropped `JoinHandle` lets its task run on.
#[derive(Debug)]
#[must_use = "dropped at once, it is cancelled at once"]
pub struct Task<T>(Option<JoinHandle<T>>);

impl<T> Task<T> {
    /// Lets it run on its own.
    pub fn detach(mut self) {
        self.0 = None;
    }

    /// Ends it, and waits until it has ended; returns what it had to return, if it got that far.
    pub async fn cancel(mut self) -> Option<T> {
        let handle = self.0.take()?;
        handle.abort();
        handle.await.ok()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let handle = self
            .0
            .as_mut()
            .expect("only detach takes it, and that takes the task");
        // A task of tokio's that panics keeps it to itself until somebody asks.
        ready!(Pin::new(handle).poll(context)).map_or_else(
            |error| std::panic::resume_unwind(error.into_panic()),
            Poll::Ready,
        )
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// A connected Unix stream with the `futures-lite` read and write traits.
///
/// tokio's has tokio's traits, and no clones: its halves share it in the same way, each for one
/// direction.
#[derive(Clone, Debug)]
pub struct Stream(Rc<RefCell<tokio::net::UnixStream>>);

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        // As for the listener below: tokio takes a socket as it is.
        stream.set_nonblocking(true)?;
        Ok(Self(Rc::new(RefCell::new(
            tokio::net::UnixStream::from_std(stream)?,
        ))))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *self.0.borrow_mut()).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(context)
    }
}

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

/// Runs `main` and all that it spawns on this thread, until `main` returns; what is still running
/// then is dropped.
pub fn block_on<T: 'static>(main: impl AsyncFnOnce(Runtime) -> T + 'static) -> T {
    let executor = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default());
    let executor = executor.expect("an epoll descriptor can be had at the start");
    let inner = Rc::new(Inner {
        executor,
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
    alarm: RefCell<Option<Rc<Alarm>>>,
}

impl Runtime {
    /// Starts a task on the executor thread.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        Task(Some(self.inner().executor.spawn_local(future)))
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
    tokio::time::sleep(delay).await;
}

/// The timer of an idle wait: one timer, set anew as often as need be.
#[derive(Debug)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// A timer that never fires until it is set.
    pub fn never() -> Self {
        Self(None)
    }

    /// Fires `delay` from now, whatever it was set to before; never where `delay` is none.
    pub fn reset(&mut self, delay: Option<Duration>) {
        self.0 = delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
    }

    /// Waits until it fires.
    pub async fn fired(&mut self) {
        match &mut self.0 {
            Some(sleep) => sleep.await,
            None => pending().await,
        }
        self.0 = None;
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
    pub fn try_accept(&self) -> io::Result<Option<Stream>> {
        match rustix::net::accept_with(
            self.0.get_ref(),
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        ) {
            Ok(stream) => {
                let stream = tokio::net::UnixStream::from_std(UnixStream::from(stream))?;
                Ok(Some(Stream(Rc::new(RefCell::new(stream)))))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses all further connections; those in the backlog can still be taken. This holds for all
    /// processes that share the socket: never to be used on one that systemd holds too.
    pub fn refuse(&self) -> io::Result<()> {
        // On a listening Unix socket this makes connect(2) fail with ECONNREFUSED and leaves the
        // backlog alone.
        Ok(rustix::net::shutdown(
            self.0.get_ref(),
            rustix::net::Shutdown::Read,
        )?)
    }
}

/// SIGTERM and SIGINT, as long as this lives; after that they end the process again, as they do by
/// default.
///
/// Signals are caught before there is a runtime, and tokio watches nothing without one: what is
/// caught is watched from the first wait on. tokio's own signals need one from the start, and never
/// give a signal back.
#[derive(Debug)]
pub struct Signals {
    caught: RefCell<Option<[UnixStream; 2]>>,
    watched: OnceCell<[Watched<UnixStream>; 2]>,
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
            io::Result::Ok(reader)
        };
        let caught = RefCell::new(Some([catch(SIGTERM)?, catch(SIGINT)?]));
        Ok(Self {
            caught,
            watched: OnceCell::new(),
            over,
        })
    }

    /// Waits for the next one. Several of a kind that nobody waited for count as one.
    pub async fn next(&self) -> io::Result<Signal> {
        if let Some([terminate, interrupt]) = self.caught.borrow_mut().take() {
            let _ = self
                .watched
                .set([Watched::new(terminate)?, Watched::new(interrupt)?]);
        }
        let [terminate, interrupt] = self.watched.get().ok_or(io::ErrorKind::NotConnected)?;
        let terminate = async { drain(terminate).await.map(|()| Signal::Terminate) };
        let interrupt = async { drain(interrupt).await.map(|()| Signal::Interrupt) };
        or(terminate, interrupt).await
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Waits for at least one byte, and takes all that are there.
async fn drain(pipe: &Watched<UnixStream>) -> io::Result<()> {
    pipe.read_with(|mut pipe| pipe.read(&mut [0; 64]))
        .await
        .map(|_| ())
}

/// A descriptor of any kind, watched for readiness.
#[derive(Debug)]
pub struct Watched<T: AsFd>(AsyncFd<Raw<T>>);

impl<T: AsFd> Watched<T> {
    /// Watches `source`, which becomes non-blocking.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; what we watch owns its descriptor and keeps it"
    )]
    pub fn new(source: T) -> io::Result<Self> {
        ioctl_fionbio(&source, true)?;
        // Whoever only wants to read is not told of an error, such as that of a packet socket whose
        // link goes down.
        AsyncFd::with_interest(Raw(source), Interest::READABLE | Interest::ERROR).map(Self)
    }

    /// What is watched.
    pub fn get_ref(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until the descriptor is readable, or seems so.
    ///
    /// tokio remembers readiness, being told of it once only, until it is told that it is over.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }

    /// Runs `operation` until it does anything but block, waiting for the descriptor to become
    /// readable in between.
    pub async fn read_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.0
            .async_io(Interest::READABLE | Interest::ERROR, |source| {
                operation(&source.0)
            })
            .await
    }
}

/// [`AsyncFd`] asks for the older of the two traits.
#[derive(Debug)]
struct Raw<T>(T);

impl<T: AsFd> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(feature = "proxy")]
pub use fair::{H2Stream, h2_stream};

/// The h2 stream adapter.
#[cfg(feature = "proxy")]
mod fair {
    use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

    use super::Stream;

    /// A [`Stream`] as h2 takes it. tokio is fair by itself: a task that always finds something to
    /// read is made to wait after a while, until the others had their turn and the reactor was
    /// asked for news.
    pub type H2Stream = Compat<Stream>;

    /// Dresses a stream for h2.
    pub fn h2_stream(stream: Stream) -> H2Stream {
        stream.compat()
    }
}

#[cfg(test)]
#[path = "../../src/rt/tests.rs"]
mod tests;
