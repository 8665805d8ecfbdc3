//! Descriptors that take the kernel long to close, closed where nobody waits for it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads that close side by side at the most: some 150 descriptors a second. Eight made no Setup faster, also not where
/// 300 came at once, and of each one that there ever was glibc keeps 12 kB, its stack and its arena.
const THREADS: usize = 2;
/// Room for close(2) and little else, in bytes.
const STACK: usize = 32 * 1024;

/// A descriptor that is closed soon after it was dropped, on a thread that ends with its work.
///
/// The last close of a packet socket waits until no processor can be about to give it a frame (packet(7) does not say so):
/// ten to twenty milliseconds, in which one thread that does everything would do nothing.
#[derive(Debug)]
pub(super) struct ClosedAside(Option<OwnedFd>);

/// What is to be closed, and how many threads are at it.
static CLOSING: Mutex<(VecDeque<OwnedFd>, usize)> = Mutex::new((VecDeque::new(), 0));
/// Notified when the last closing thread has ended.
static CLOSED: Condvar = Condvar::new();

/// Waits until every dropped descriptor is closed and its number is free, at most for `bound`. Returns whether there was
/// anything to wait for.
pub fn wait_for_closes(bound: Duration) -> bool {
    let closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let was_busy = closing.1 > 0;
    drop(CLOSED.wait_timeout_while(closing, bound, |(_, threads)| *threads > 0));
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

impl Drop for ClosedAside {
    fn drop(&mut self) {
        let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, threads) = &mut *closing;
        waiting.extend(self.0.take());
        if *threads < THREADS {
            match thread::Builder::new().stack_size(STACK).spawn(close) {
                Ok(_) => *threads += 1,
                Err(_) if *threads > 0 => {}
                // Then it is waited for.
                Err(_) => waiting.clear(),
            }
        }
    }
}

/// Closes until there is nothing left to close.
fn close() {
    loop {
        let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, threads) = &mut *closing;
        let Some(descriptor) = waiting.pop_front() else {
            *threads -= 1;
            // Whatever was needed for many is not kept for few.
            *waiting = VecDeque::new();
            if *threads == 0 {
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
    use std::io::{self, Read};
    use std::os::fd::OwnedFd;

    use std::time::Duration;

    use super::{ClosedAside, wait_for_closes};

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
        // Those who closed them have left or are about to; there will be others for what comes later.
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        drop(ClosedAside::from(OwnedFd::from(writer)));
        assert!(wait_for_closes(Duration::from_secs(10)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!wait_for_closes(Duration::ZERO));
    }
}
