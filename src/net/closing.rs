//! A background close, for descriptors whose close(2) takes the kernel long.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The most closing threads: together they close some 150 descriptors a second. Eight threads made
/// no Setup faster, not even 300 at once, and glibc keeps 12 kB for each thread that ever ran: its
/// stack and its arena.
const MAX_THREADS: usize = 2;
/// The most descriptors that wait for a thread. A container whose interface comes and goes causes
/// sockets to be opened and closed, and a waiting descriptor counts against the process's limit.
const MAX_QUEUED: usize = 500;
/// The stack of a closing thread in bytes, enough for close(2).
const STACK: usize = 32 * 1024;

/// A descriptor that is closed soon after its drop, on a thread that ends when its work is done.
///
/// The last close of a packet socket waits until no processor can still deliver a frame to it
/// (undocumented in packet(7)). That takes ten to twenty milliseconds, in which the only executor
/// thread would be blocked.
#[derive(Debug)]
pub(super) struct DeferredClose(Option<OwnedFd>);

/// The descriptors to be closed, and the number of closing threads.
#[derive(Debug)]
struct CloseQueue {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
}

static QUEUE: Mutex<CloseQueue> = Mutex::new(CloseQueue {
    waiting: VecDeque::new(),
    threads: 0,
});
/// Notified when the last closing thread ends.
static CLOSED: Condvar = Condvar::new();

/// Waits until every dropped descriptor is closed and its number is free, at most for `bound`.
/// Returns false if none was to be closed.
pub fn wait_for_closes(bound: Duration) -> bool {
    let queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let was_busy = queue.threads > 0;
    drop(CLOSED.wait_timeout_while(queue, bound, |queue| queue.threads > 0));
    was_busy
}

impl From<OwnedFd> for DeferredClose {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }
}

impl Deref for DeferredClose {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        self.0.as_ref().expect("only the drop takes it")
    }
}

impl CloseQueue {
    /// Queues a descriptor. Returns it if the queue is full.
    fn push(&mut self, descriptor: OwnedFd) -> Option<OwnedFd> {
        if self.waiting.len() >= MAX_QUEUED {
            return Some(descriptor);
        }
        self.waiting.push_back(descriptor);
        None
    }
}

impl Drop for DeferredClose {
    fn drop(&mut self) {
        let Some(descriptor) = self.0.take() else {
            return;
        };
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let rejected = queue.push(descriptor);
        if queue.threads < MAX_THREADS {
            match thread::Builder::new().stack_size(STACK).spawn(close) {
                Ok(_) => queue.threads += 1,
                Err(_) if queue.threads > 0 => {}
                // Without a thread, this one closes them.
                Err(_) => queue.waiting.clear(),
            }
        }
        drop(queue);
        // Back-pressure: a full queue makes the owner wait for the close, and so slows down the
        // opening of further sockets.
        drop(rejected);
    }
}

/// Closes descriptors until the queue is empty.
fn close() {
    loop {
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = queue.waiting.pop_front() else {
            queue.threads -= 1;
            // Frees the memory of a long queue.
            queue.waiting = VecDeque::new();
            if queue.threads == 0 {
                CLOSED.notify_all();
            }
            return;
        };
        drop(queue);
        drop(descriptor);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, Read};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use super::{CloseQueue, DeferredClose, MAX_QUEUED, wait_for_closes};

    #[test]
    fn a_full_queue_returns_the_descriptor() {
        let (reader, _writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        let mut queue = CloseQueue {
            waiting: VecDeque::new(),
            threads: 0,
        };
        for _ in 0..MAX_QUEUED {
            assert!(queue.push(reader.try_clone().unwrap()).is_none());
        }
        assert!(queue.push(reader).is_some());
        assert_eq!(queue.waiting.len(), MAX_QUEUED);
    }

    #[test]
    fn every_descriptor_is_closed() {
        let (readers, writers): (Vec<_>, Vec<_>) = (0..200)
            .map(|_| {
                let (reader, writer) = io::pipe().unwrap();
                (reader, DeferredClose::from(OwnedFd::from(writer)))
            })
            .unzip();
        drop(writers);
        for mut reader in readers {
            // The end of the file comes with the last close.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
        // The threads have ended or are about to. Later descriptors get new ones.
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        drop(DeferredClose::from(OwnedFd::from(writer)));
        assert!(wait_for_closes(Duration::from_secs(10)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!wait_for_closes(Duration::ZERO));
    }
}
