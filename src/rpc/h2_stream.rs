//! Adapts a stream to h2: tokio's traits without tokio's runtime, and fair to other tasks.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::rt::{self, Stream};
use crate::time::Instant;

/// A [`Stream`] with the traits that h2 needs.
pub(super) type H2Stream = Compat<FairStream>;

/// Wraps a stream for h2.
pub(super) fn h2_stream(stream: Stream) -> H2Stream {
    FairStream {
        stream,
        unpaused: 0,
        pause: None,
        was_blocked: false,
    }
    .compat()
}

/// A stream that pauses while it has much to read, so that other tasks run.
///
/// h2 reads as long as there is data. A client that writes faster than the server parses would keep
/// the thread busy forever. A regular client sends little and waits for the answer.
pub(super) struct FairStream {
    stream: Stream,
    /// Bytes read without a pause.
    unpaused: usize,
    pause: Option<Pause>,
    /// The last write found the buffer of the socket full.
    was_blocked: bool,
}

/// A sleep. Boxed, because only a flooding client has one.
type Pause = Pin<Box<dyn Future<Output = ()>>>;

/// The most bytes per read: several calls.
const MAX_READ: usize = 2 * 1024;

/// Bytes read before a pause.
const BURST: usize = 2 * MAX_READ;

/// Bytes deducted whenever there is nothing to read.
const DEDUCTED: usize = MAX_READ;

/// The shortest pause, and the interval between the ends of pauses of all streams. It ends by the
/// reactor: a task that wakes itself would run again before other sockets are polled.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause, so that streams closed during theirs do not delay the others.
const MAX_PAUSE: Duration = Duration::from_millis(250);

thread_local! {
    /// The end of the latest pause.
    static LATEST_END: Cell<Instant> = const { Cell::new(Instant::from_boot(Duration::ZERO)) };
}

/// Starts a pause that ends after those of other streams.
fn start_pause() -> Pause {
    let now = rt::now();
    let end = (LATEST_END.get().max(now) + MIN_PAUSE).min(now + MAX_PAUSE);
    LATEST_END.set(end);
    Box::pin(rt::sleep(end - now))
}

impl AsyncRead for FairStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.unpaused >= BURST {
            // Unread data of a client that hung up do not keep the descriptor open.
            if self.pause.is_none() && rt::has_hung_up(&self.stream) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            ready!(
                self.pause
                    .get_or_insert_with(start_pause)
                    .as_mut()
                    .poll(context)
            );
            self.pause = None;
            self.unpaused -= MAX_READ;
        }
        let length = buffer.len().min(MAX_READ);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer[..length]);
        self.unpaused = match &read {
            Poll::Ready(length) => self.unpaused + length.as_ref().unwrap_or(&0),
            Poll::Pending => self.unpaused.saturating_sub(DEDUCTED),
        };
        read
    }
}

impl AsyncWrite for FairStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        // h2 retries a blocked write once before it waits, and waits even if the retry succeeds. It
        // relies on the wakeup of the first attempt, which async-net drops with the second.
        if std::mem::replace(&mut self.was_blocked, written.is_pending()) && written.is_ready() {
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

// Not on the tokio twin: tokio's streams do not write before the reactor reports them writable.
#[cfg(all(test, not(feature = "tokio-twin")))]
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
        // A hundred times, because sometimes the reactor wakes the task anyway.
        for _ in 0..100 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut stream = h2_stream(ours.try_into().unwrap()).into_inner();
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            let mut write =
                |bytes| Pin::new(&mut stream).poll_write(&mut Context::from_waker(&waker), bytes);
            while write(&[0; 4096]).is_ready() {}
            woken.0.store(false, Ordering::SeqCst);
            assert!(theirs.read(&mut vec![0; 1 << 20]).unwrap() > 4096);
            assert!(write(&[0; 4096]).is_ready());
            assert!(woken.0.load(Ordering::SeqCst));
        }
    }
}
