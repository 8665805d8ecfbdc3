//! Whether the process may leave while there are leases, and how it is started again for them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use crate::rt;
use crate::service::{Activity, Wakeup};
use crate::time::Instant;

use super::config::OnStop;
use super::record::Packed;
use super::table::{Place, Slot, Table};

/// A deadline that is nearer than this is waited for, whatever the patience: to leave takes a
/// moment, and a timer that elapses within it is lost.
const NEAR: Duration = Duration::from_secs(2);

/// For how long a process stays that could not have its wakeup arranged: twice as long each time,
/// up to the longest.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long all leases may take to be given back when the daemon is stopped, well below the 90
/// seconds that systemd waits before it kills.
const RELEASE: Duration = Duration::from_secs(75);

/// Whether the process may leave while there are leases, and who wakes it then.
#[derive(Debug)]
pub(super) struct Sleep {
    wakeup: Option<Wakeup>,
    /// Why there is none.
    why_not: Option<String>,
    /// How often in a row the wakeup could not be arranged.
    failures: Cell<u32>,
    /// It is not tried for a while.
    paused: Cell<bool>,
    /// How near a deadline has to be to be waited for.
    patience: Duration,
    /// Keeps the process for the sake of leases.
    staying: RefCell<Option<Activity>>,
    /// There may be a timer.
    armed: Cell<bool>,
    /// The file says of all leases that they are asleep.
    pub(super) is_in_file: Cell<bool>,
    told: Cell<bool>,
}

impl Sleep {
    /// Sleeps where there is somebody to wake it, but stays for what is due within `patience`.
    pub(super) fn new(wakeup: Result<Wakeup, String>, patience: Duration) -> Self {
        let (wakeup, why_not) = match wakeup {
            Ok(wakeup) => (Some(wakeup), None),
            Err(why_not) => (None, Some(why_not)),
        };
        Self {
            wakeup,
            why_not,
            failures: Cell::default(),
            paused: Cell::default(),
            patience: patience.max(NEAR),
            staying: RefCell::default(),
            armed: Cell::default(),
            is_in_file: Cell::default(),
            told: Cell::default(),
        }
    }

    /// Takes in what the file says of leases, and whether they were left in good order.
    pub(super) fn take_in(&self, leases: &[(Packed, bool)]) {
        self.armed
            .set(!leases.is_empty() || Wakeup::woken_by_timer());
        self.is_in_file
            .set(leases.iter().all(|(_, asleep)| *asleep));
    }

    /// Whether there is somebody to wake the process.
    pub(super) fn is_possible(&self) -> bool {
        self.wakeup().is_some()
    }

    fn wakeup(&self) -> Option<&Wakeup> {
        self.wakeup.as_ref().filter(|_| !self.paused.get())
    }

    /// Counts a failure to arrange the wakeup, and returns how long not to try again.
    fn pause(&self) -> Duration {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        self.paused.set(true);
        PAUSE
            .saturating_mul(1 << failures.min(16))
            .min(LONGEST_PAUSE)
    }
}

impl Table {
    /// Stays or need not stay for the sake of the leases that there are.
    pub(super) fn mind_staying(&self) {
        let has_leases = !self.slots.borrow().is_empty();
        if has_leases
            && let Some(why) = &self.sleep.why_not
            && !self.sleep.told.replace(true)
        {
            log::info!("staying for as long as there are leases: {why}");
        }
        // A file that says what is not so any more is not to be left behind.
        if self.is_in_trouble() || (has_leases && !self.sleep.is_possible()) {
            self.stay();
        } else {
            self.sleep.staying.take();
        }
    }

    fn stay(&self) {
        self.sleep
            .staying
            .borrow_mut()
            .get_or_insert_with(|| self.idle.activity());
    }

    /// Leases are a reason to stay for a while: nothing would start the process again.
    fn pause_sleeping(self: &Rc<Self>, why: &io::Error) {
        let is_first = self.sleep.failures.get() == 0;
        let pause = self.sleep.pause();
        if is_first {
            log::warn!(
                "cannot have systemd start the service again: {why}; staying, and trying again in {} s, then ever later",
                pause.as_secs()
            );
        } else {
            log::debug!(
                "cannot have systemd start the service again: {why}; trying again in {} s",
                pause.as_secs()
            );
        }
        self.mind_staying();
        let table = Rc::clone(self);
        let later = async move {
            table.commons.sleep_until(rt::now() + pause).await;
            table.sleep.paused.set(false);
            table.mind_staying();
        };
        self.commons.runtime.spawn(later).detach();
    }

    /// Has the process woken at `due`, or not at all. One failure may be chance.
    async fn arrange(&self, wakeup: &Wakeup, due: Option<Instant>) -> io::Result<()> {
        let arrange = async || match due {
            Some(due) => self.arm(wakeup, due).await,
            None => self.disarm(wakeup).await,
        };
        match arrange().await {
            Err(error) => {
                log::debug!("once more: {error}");
                arrange().await
            }
            done => done,
        }
    }

    /// Called when idleness says that it is time to leave: has the process woken for the next
    /// deadline, or keeps it.
    pub(super) async fn prepare_to_leave(self: Rc<Self>) {
        while let Some(wakeup) = self.sleep.wakeup() {
            let (due, now) = (self.next_due(), rt::now());
            // What failed may fail again, so it is not worth staying for.
            let pressing = self.next_due_of(|resting| !resting.is_retry);
            if pressing.is_some_and(|due| due - now <= self.sleep.patience)
                || due.is_some_and(|due| due - now <= NEAR)
            {
                return self.stay();
            }
            if let Err(error) = self.arrange(wakeup, due).await {
                return self.pause_sleeping(&error);
            }
            self.sleep.failures.set(0);
            // What has come up meanwhile counts.
            if self.next_due() != due && !self.idle.is_busy() {
                continue;
            }
            break;
        }
        let is_in_file =
            !self.is_unsaved() && (self.sleep.is_in_file.get() || self.slots.borrow().is_empty());
        if !self.idle.is_busy() && !is_in_file {
            // One that fails is a reason to stay.
            self.save(true);
        }
    }

    /// What becomes of the leases when the process is asked to leave.
    pub(super) async fn stop(self: Rc<Self>, on_stop: OnStop) {
        let wakeup = self.sleep.wakeup.as_ref();
        if on_stop == OnStop::Release {
            or(self.end_all(), rt::sleep(RELEASE)).await;
            let left = self.slots.borrow().len();
            if left > 0 {
                log::warn!("{left} leases could not be given back in time");
            }
        }
        if !self.slots.borrow().is_empty() {
            self.keep_on_stop(wakeup).await;
        } else if let Some(wakeup) = wakeup
            && let Err(error) = self.disarm(wakeup).await
        {
            log::warn!("{error}");
        }
        self.save(true);
        self.journal.clear();
    }

    async fn keep_on_stop(&self, wakeup: Option<&Wakeup>) {
        let count = self.slots.borrow().len();
        let Some(wakeup) = wakeup else {
            log::info!("{count} leases stay, and the next start goes on with them");
            return;
        };
        if wakeup.is_being_stopped().await {
            log::info!(
                "{count} leases stay until they run out: all that could wake us is being stopped, too"
            );
            if let Err(error) = self.disarm(wakeup).await {
                log::warn!("{error}");
            }
            return;
        }
        let is_awake = |slot: &Slot| matches!(slot.place, Place::Awake(_) | Place::Taken(_));
        let soon = self
            .slots
            .borrow()
            .values()
            .any(is_awake)
            .then(|| rt::now() + NEAR);
        let Some(due) = self.next_due().into_iter().chain(soon).min() else {
            return;
        };
        match self.arm(wakeup, due.max(rt::now() + NEAR)).await {
            Ok(()) => log::info!(
                "{count} leases stay, and {} starts {} again when the next one is due; to stop everything: systemctl stop {}",
                wakeup.timer(),
                wakeup.unit(),
                wakeup.units_to_stop().join(" ")
            ),
            Err(error) => {
                log::warn!("{count} leases stay, and nobody is there to renew them: {error}")
            }
        }
    }

    /// Has the process woken at `due` and, in case that fails, once more before it is too late.
    async fn arm(&self, wakeup: &Wakeup, due: Instant) -> io::Result<()> {
        let too_late = {
            let slots = self.slots.borrow();
            let too_late = slots
                .values()
                .filter_map(|slot| slot.record.as_ref()?.unpack().too_late());
            too_late.filter(|too_late| *too_late > due).min()
        };
        let now = rt::now();
        let fallback = too_late.map(|too_late| due - now + (too_late - due) / 4);
        self.sleep.armed.set(true);
        wakeup.arm(due - now, fallback).await
    }

    async fn disarm(&self, wakeup: &Wakeup) -> io::Result<()> {
        if self.sleep.armed.get() {
            wakeup.disarm().await?;
            self.sleep.armed.set(false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wakeup_that_cannot_be_arranged_is_tried_again_ever_later_up_to_an_hour() {
        let sleep = Sleep::new(Err("a test".into()), Duration::ZERO);
        let pauses: Vec<_> = (0..8).map(|_| sleep.pause().as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert!(sleep.paused.get());
        sleep.failures.set(0);
        assert_eq!(sleep.pause(), PAUSE);
    }
}
