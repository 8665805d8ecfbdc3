//! tokio's task, stream and descriptor with the behaviour that `rt.rs` documents.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use rustix::io::ioctl_fionbio;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::task::JoinHandle;

/// A spawned future: dropped, it is cancelled; `detach` lets it run on its own.
///
/// tokio's own is the other way round: a dropped `JoinHandle` lets its task run on.
#[derive(Debug)]
#[must_use = "dropped at once, it is cancelled at once"]
pub struct Task<T>(pub(super) Option<JoinHandle<T>>);

impl<T> Task<T> {
    /// Lets the task run on its own.
    pub fn detach(mut self) {
        self.0 = None;
    }

    /// Cancels the task and waits for its end; returns its output if it ended before that.
    pub async fn cancel(mut self) -> Option<T> {
        let handle = self.0.take()?;
        handle.abort();
        handle.await.ok()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let handle = self.0.as_mut().expect("only detach and cancel take it");
        // A panic of the task stays in its handle until that is awaited.
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

/// A connected stream socket with the `futures-lite` read and write traits.
///
/// tokio's own has tokio's traits and cannot be cloned.
#[derive(Clone, Debug)]
pub struct Stream(pub(super) Rc<RefCell<tokio::net::UnixStream>>);

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        // tokio takes a socket as it is.
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        Ok(Self(Rc::new(RefCell::new(stream))))
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

/// The events that a descriptor is watched for. With an interest in reading alone, an error wakes
/// no task, such as that of a packet socket whose link goes down.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Watches `source` after setting O_NONBLOCK, which tokio leaves to its caller.
#[expect(
    deprecated,
    reason = "its successor is unsafe; `source` owns its descriptor and keeps it"
)]
pub(super) fn watch<T: AsFd>(source: T) -> io::Result<AsyncFd<Raw<T>>> {
    ioctl_fionbio(&source, true)?;
    AsyncFd::with_interest(Raw(source), INTEREST)
}

/// Runs `operation` until its result is other than `WouldBlock`.
pub(super) async fn read_with<T: AsFd, R>(
    watched: &AsyncFd<Raw<T>>,
    mut operation: impl FnMut(&T) -> io::Result<R>,
) -> io::Result<R> {
    watched
        .async_io(INTEREST, |source| operation(&source.0))
        .await
}

/// A descriptor with the older of the two traits, which [`AsyncFd`] requires.
#[derive(Debug)]
pub(super) struct Raw<T>(pub(super) T);

impl<T: AsFd> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
