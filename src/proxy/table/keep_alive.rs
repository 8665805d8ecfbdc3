//! Whether the process may leave while there are leases, and what starts it again then.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::proxy::store::record::EncodedRecord;
use crate::service::{Activity, Wakeup};

/// How long a process stays whose wake-up could not be arranged: twice as long each time, up to the
/// longest.
const PAUSE: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// The wake-up by systemd, and the guard that keeps the process where there is none.
#[derive(Debug)]
pub(crate) struct LeaseKeepAlive {
    wakeup: Option<Wakeup>,
    /// Why there is none.
    why_not: Option<String>,
    /// How often in a row it could not be arranged.
    failures: Cell<u32>,
    /// It is not tried for a while.
    is_paused: Cell<bool>,
    /// How near a deadline has to be to be waited for.
    stay_for: Duration,
    /// Keeps the process for the sake of leases.
    guard: RefCell<Option<Activity>>,
    /// There may be a timer.
    pub(super) is_armed: Cell<bool>,
    is_told: Cell<bool>,
}

impl LeaseKeepAlive {
    /// Lets the process leave where `wakeup` can start it again, but not for what is due within
    /// `stay_for`.
    pub(crate) fn new(wakeup: Result<Wakeup, String>, stay_for: Duration) -> Self {
        let (wakeup, why_not) = match wakeup {
            Ok(wakeup) => (Some(wakeup), None),
            Err(why_not) => (None, Some(why_not)),
        };
        Self {
            wakeup,
            why_not,
            failures: Cell::default(),
            is_paused: Cell::default(),
            stay_for,
            guard: RefCell::default(),
            is_armed: Cell::default(),
            is_told: Cell::default(),
        }
    }

    /// Returns how near a deadline has to be to be waited for.
    pub(super) fn stay_for(&self) -> Duration {
        self.stay_for
    }

    /// Takes in the leases that the state file has: a timer may be armed for them.
    pub(super) fn restore(&self, leases: &[(EncodedRecord, bool)]) {
        self.is_armed
            .set(!leases.is_empty() || Wakeup::woken_by_timer());
    }

    /// Returns whether the process can be started again.
    pub(super) fn is_sleep_possible(&self) -> bool {
        self.wakeup().is_some()
    }

    /// Returns the wake-up, unless it is not to be tried for a while.
    pub(super) fn wakeup(&self) -> Option<&Wakeup> {
        self.wakeup.as_ref().filter(|_| !self.is_paused.get())
    }

    /// Returns the wake-up, tried or not.
    pub(super) fn any_wakeup(&self) -> Option<&Wakeup> {
        self.wakeup.as_ref()
    }

    /// Holds `guard` for as long as it is `wanted`.
    pub(super) fn hold(&self, wanted: bool, guard: impl FnOnce() -> Activity) {
        let mut held = self.guard.borrow_mut();
        if wanted {
            held.get_or_insert_with(guard);
        } else {
            held.take();
        }
    }

    /// Logs once why the process stays for its leases, if it has to.
    pub(super) fn tell_why(&self) {
        if let Some(why) = &self.why_not
            && !self.is_told.replace(true)
        {
            log::info!("staying for as long as there are leases: {why}");
        }
    }

    /// Counts a failure to arrange the wake-up. Returns how long not to try again, and whether it
    /// is the first failure.
    pub(super) fn pause(&self) -> (Duration, bool) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        self.is_paused.set(true);
        let pause = PAUSE.saturating_mul(1 << failures.min(16)).min(MAX_PAUSE);
        (pause, failures == 0)
    }

    /// Tries the wake-up again from now on.
    pub(super) fn end_pause(&self) {
        self.is_paused.set(false);
    }

    /// Notes that the wake-up was arranged.
    pub(super) fn note_success(&self) {
        self.failures.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wakeup_that_cannot_be_arranged_is_tried_again_ever_later_up_to_an_hour() {
        let keep_alive = LeaseKeepAlive::new(Err("a test".into()), Duration::ZERO);
        let pauses: Vec<_> = (0..8).map(|_| keep_alive.pause().0.as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert!(keep_alive.is_paused.get());
        keep_alive.note_success();
        assert_eq!(keep_alive.pause(), (PAUSE, true));
    }
}
