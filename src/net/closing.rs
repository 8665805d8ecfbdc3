//! Descriptors that take the kernel long to close, closed on a thread that no call waits for.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads that close side by side at the most: some 150 descriptors a second. Eight made no Setup
/// faster, also not where 300 came at once, and of each one that there ever was glibc keeps 12 kB,
/// its stack and its arena.
const THREADS: usize = 2;
/// Descriptors that wait for a thread at the most. A container whose interface comes and goes has
/// sockets opened and closed, and what waits here is missing where a caller needs it.
const MOST_WAITING: usize = 500;
/// Room for close(2) and little else, in bytes.
const STACK: usize = 32 * 1024;

/// A descriptor that is closed soon after it was dropped, on a thread that ends with its work.
///
/// The last close of a packet socket waits until no processor can be about to give it a frame
/// (packet(7) does not say so): ten to twenty milliseconds, in which one thread that does
/// everything would do nothing.
#[derive(Debug)]
pub(super) struct ClosedAside(Option<OwnedFd>);

/// Descriptors to be closed, and the number of threads that do so.
#[derive(Debug)]
struct Closing {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
}

static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    waiting: VecDeque::new(),
    threads: 0,
});
/// Notified when the last closing thread has ended.
static CLOSED: Condvar = Condvar::new();

/// Waits until every dropped descriptor is closed and its number is free, at most for `bound`.
/// Returns whether there was anything to wait for.
pub fn wait_for_closes(bound: Duration) -> bool {
    let closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let was_busy = closing.threads > 0;
    drop(CLOSED.wait_timeout_while(closing, bound, |closing| closing.threads > 0));
    was_busy
}

impl From<OwnedFd> for ClosedAside {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }
}

impl Deref for ClosedAside {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Closing {
    /// Lines a descriptor up. Gives it back where the line is too long.
    fn push(&mut self, descriptor: OwnedFd) -> Option<OwnedFd> {
        if self.waiting.len() >= MOST_WAITING {
            return Some(descriptor);
        }
        self.waiting.push_back(descriptor);
        None
    }
}

impl Drop for ClosedAside {
    fn drop(&mut self) {
        let Some(descriptor) = self.0.take() else {
            return;
        };
        let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let left = closing.push(descriptor);
        if closing.threads < THREADS {
            match thread::Builder::new().stack_size(STACK).spawn(close) {
                Ok(_) => closing.threads += 1,
                Err(_) if closing.threads > 0 => {}
                // Then it is waited for.
                Err(_) => closing.waiting.clear(),
            }
        }
        drop(closing);
        // Sockets that are closed faster than the threads can are closed here: that holds up their
        // owner, and with it the opening of more, for a grace period each.
        drop(left);
    }
}

/// Closes until there is nothing left to close.
fn close() {
    loop {
        let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = closing.waiting.pop_front() else {
            closing.threads -= 1;
            // Whatever was needed for many is not kept for few.
            closing.waiting = VecDeque::new();
            if closing.threads == 0 {
                CLOSED.notify_all();
            }
            return;
        };
        drop(closing);
        drop(descriptor);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{self, Read};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use super::{ClosedAside, Closing, MOST_WAITING, wait_for_closes};

    #[test]
    fn a_line_that_is_too_long_takes_no_more() {
        let (reader, _writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        let mut closing = Closing {
            waiting: VecDeque::new(),
            threads: 0,
        };
        for _ in 0..MOST_WAITING {
            assert!(closing.push(reader.try_clone().unwrap()).is_none());
        }
        assert!(closing.push(reader).is_some());
        assert_eq!(closing.waiting.len(), MOST_WAITING);
    }

    #[test]
    fn each_is_closed_however_many_there_are() {
        let (readers, closing): (Vec<_>, Vec<_>) = (0..200)
            .map(|_| {
                let (reader, writer) = io::pipe().unwrap();
                (reader, ClosedAside::from(OwnedFd::from(writer)))
            })
            .unzip();
        drop(closing);
        for mut reader in readers {
            // The end of the file comes with the last close.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
        // Those who closed them have left or are about to; there will be others for what comes
        // later.
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        drop(ClosedAside::from(OwnedFd::from(writer)));
        assert!(wait_for_closes(Duration::from_secs(10)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!wait_for_closes(Duration::ZERO));
    }
}
