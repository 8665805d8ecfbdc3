//! Sleepers on the boot clock. All share one timerfd, armed for the earliest deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{Runtime, Watched, now};
use crate::time::Instant;

impl Runtime {
    /// Sleeps until `deadline` on `CLOCK_BOOTTIME`, which counts the time of a suspend too.
    ///
    /// # Errors
    ///
    /// The timerfd cannot be created or watched.
    pub async fn sleep_until(&self, deadline: Instant) -> io::Result<()> {
        let alarm = self.alarm()?;
        let mut sleeper = alarm.sleeper();
        poll_fn(|context| sleeper.poll(deadline, context.waker())).await
    }

    /// Returns the alarm of this runtime, created for the first sleeper and again after a failure.
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
}

/// The sleepers and their timerfd.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Watched<OwnedFd>,
    sleepers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: Cell<u64>,
    /// The error that ended [`drive`](Self::drive).
    failure: RefCell<Option<(io::ErrorKind, String)>>,
}

impl Alarm {
    fn new() -> io::Result<Self> {
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

    /// Wakes sleepers when they are due, until the timer can no longer be watched.
    async fn drive(&self) {
        loop {
            if let Err(error) = self.timer.readable().await {
                return self.fail(&error);
            }
            // Reading the count of expirations makes the descriptor unreadable again.
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

    /// Ends all sleeps with the error, because no timer would end them.
    fn fail(&self, error: &io::Error) {
        log::error!("the timer of the boot clock fails: {error}");
        self.failure
            .replace(Some((error.kind(), error.to_string())));
        self.sleepers.take().into_values().for_each(Waker::wake);
    }

    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Returns a sleeper that is not in the queue yet.
    fn sleeper(&self) -> Sleeper<'_> {
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
            // Zero would disarm the timer (timerfd_create(2)): one nanosecond late is harmless.
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

/// The entry of one task in the queue of an [`Alarm`]; dropping it leaves the queue.
struct Sleeper<'a> {
    alarm: &'a Alarm,
    key: Option<(Instant, u64)>,
}

impl Sleeper<'_> {
    fn poll(&mut self, deadline: Instant, waker: &Waker) -> Poll<io::Result<()>> {
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
            // Otherwise the timer would wake the process without need.
            self.alarm.arm();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_lite::future::{or, poll_once};

    use super::super::block_on;
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    #[test]
    fn sleepers_on_the_boot_clock_wake_in_order_and_never_early() {
        block_on(async move |runtime| {
            let start = now();
            let log = Rc::new(RefCell::new(Vec::new()));
            let sleepers: Vec<_> = [3, 1, 2, 1]
                .into_iter()
                .map(|steps| {
                    let (runtime2, log) = (runtime.clone(), Rc::clone(&log));
                    runtime.spawn(async move {
                        runtime2.sleep_until(start + STEP * steps).await.unwrap();
                        assert!(now() >= start + STEP * steps);
                        log.borrow_mut().push(steps);
                    })
                })
                .collect();
            for sleeper in sleepers {
                sleeper.await;
            }
            assert_eq!(*log.borrow(), [1, 1, 2, 3]);
        });
    }

    #[test]
    fn a_past_deadline_is_over_at_once_and_one_beyond_time_never_is() {
        block_on(async move |runtime| {
            assert!(poll_once(runtime.sleep_until(now())).await.is_some());
            let never = async {
                runtime
                    .sleep_until(Instant::from_boot(Duration::MAX))
                    .await
                    .is_ok()
            };
            let soon = async { runtime.sleep_until(now() + STEP).await.is_err() };
            assert!(!or(never, soon).await, "the sooner one must win");
        });
    }

    #[test]
    fn a_sleeper_that_is_dropped_leaves_the_timer_to_the_others() {
        block_on(async move |runtime| {
            let armed = |alarm: &Alarm| {
                rustix::time::timerfd_gettime(alarm.timer.get_ref())
                    .unwrap()
                    .it_value
            };
            let mut sleep = Box::pin(runtime.sleep_until(now() + Duration::from_secs(1000)));
            assert!(poll_once(&mut sleep).await.is_none());
            let alarm = runtime.alarm().unwrap();
            assert!(armed(&alarm).tv_sec > 900);
            drop(sleep);
            assert!(alarm.sleepers.borrow().is_empty());
            assert_eq!(
                (armed(&alarm).tv_sec, armed(&alarm).tv_nsec),
                (0, 0),
                "no sleeper is left"
            );
        });
    }

    #[test]
    fn a_failure_of_the_timer_is_every_sleepers_and_the_next_one_has_another_timer() {
        block_on(async move |runtime| {
            let mut asleep = Box::pin(runtime.sleep_until(now() + Duration::from_secs(1000)));
            let mut never = Box::pin(runtime.sleep_until(Instant::from_boot(Duration::MAX)));
            assert!(
                poll_once(&mut asleep).await.is_none() && poll_once(&mut never).await.is_none()
            );
            let alarm = runtime.alarm().unwrap();
            alarm.fail(&io::Error::new(io::ErrorKind::BrokenPipe, "a test"));
            for sleeper in [asleep, never] {
                let error = sleeper.await.unwrap_err();
                assert_eq!(
                    (error.kind(), error.to_string()),
                    (io::ErrorKind::BrokenPipe, "a test".to_owned())
                );
            }
            runtime.sleep_until(now() + STEP).await.unwrap();
            assert!(!Rc::ptr_eq(&alarm, &runtime.alarm().unwrap()));
        });
    }
}
