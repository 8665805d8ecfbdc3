//! Sleepers on the boot clock: all share one timerfd, armed for the earliest of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, Waker};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{Watched, now};
use crate::time::Instant;

/// The sleepers and their timerfd.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) timer: Watched<OwnedFd>,
    pub(super) sleepers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: Cell<u64>,
    /// Why it wakes no sleeper any more.
    failure: RefCell<Option<(io::ErrorKind, String)>>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let (sleepers, next_id, failure) =
            (RefCell::default(), Cell::default(), RefCell::default());
        Ok(Self {
            timer: Watched::new(timer)?,
            sleepers,
            next_id,
            failure,
        })
    }

    /// Wakes sleepers, for as long as the timer can be watched.
    pub(super) async fn drive(&self) {
        loop {
            if let Err(error) = self.timer.readable().await {
                return self.fail(&error);
            }
            // The count of expirations is of no interest; reading it silences the descriptor.
            let _ = rustix::io::read(self.timer.get_ref(), &mut [0; 8]);
            let due = {
                let mut sleepers = self.sleepers.borrow_mut();
                let later = sleepers.split_off(&(now(), u64::MAX));
                std::mem::replace(&mut *sleepers, later)
            };
            due.into_values().for_each(Waker::wake);
            self.arm();
        }
    }

    /// Hands the error to all sleepers, who would sleep for ever.
    pub(super) fn fail(&self, error: &io::Error) {
        log::error!("the timer of the boot clock fails: {error}");
        self.failure
            .replace(Some((error.kind(), error.to_string())));
        self.sleepers.take().into_values().for_each(Waker::wake);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// A sleeper that has not asked to be woken yet.
    pub(super) fn sleeper(&self) -> Sleeper<'_> {
        Sleeper {
            alarm: self,
            key: None,
        }
    }

    fn arm(&self) {
        let earliest = self
            .sleepers
            .borrow()
            .keys()
            .next()
            .map(|&(earliest, _)| earliest.since_boot());
        let it_value = match earliest {
            // Zero disarms (timerfd_create(2)), so a nanosecond late rather than never.
            Some(at) => Timespec {
                tv_sec: at.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: i64::from(at.subsec_nanos()).max(1),
            },
            None => Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
        };
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value,
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)
            .expect("the timerfd is ours and the time is valid");
    }
}

/// A task that waits on an [`Alarm`]; dropping this leaves the queue.
pub(super) struct Sleeper<'a> {
    alarm: &'a Alarm,
    key: Option<(Instant, u64)>,
}

impl Sleeper<'_> {
    pub(super) fn poll(&mut self, deadline: Instant, waker: &Waker) -> Poll<io::Result<()>> {
        if now() >= deadline {
            return Poll::Ready(Ok(()));
        }
        if let Some((kind, why)) = &*self.alarm.failure.borrow() {
            return Poll::Ready(Err(io::Error::new(*kind, why.clone())));
        }
        let key = *self.key.get_or_insert_with(|| {
            let id = self.alarm.next_id.replace(self.alarm.next_id.get() + 1);
            (deadline, id)
        });
        let mut sleepers = self.alarm.sleepers.borrow_mut();
        let new = sleepers.insert(key, waker.clone()).is_none();
        let earliest = sleepers.keys().next() == Some(&key);
        drop(sleepers);
        if new && earliest {
            self.alarm.arm();
        }
        Poll::Pending
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut sleepers = self.alarm.sleepers.borrow_mut();
        let earliest = sleepers.keys().next() == Some(&key);
        sleepers.remove(&key);
        drop(sleepers);
        if earliest {
            // Else the timer would wake the process for nothing.
            self.alarm.arm();
        }
    }
}
