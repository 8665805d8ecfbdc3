//! The guard that keeps the process running for its leases where no timer can start it again.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::proxy::store::record::EncodedRecord;
use crate::service::{Activity, Wakeup};
use crate::time::Instant;

/// The delay before a failed timer is armed again: doubled each time, up to the longest.
const SLEEP_RETRY: Duration = Duration::from_secs(60);
const MAX_SLEEP_RETRY: Duration = Duration::from_secs(3600);

/// The timer that starts the process again, or the guard that keeps it running.
#[derive(Debug)]
pub(crate) struct LeaseKeepAlive {
    wakeup: Option<Wakeup>,
    /// The reason why there is no timer.
    reason: Option<String>,
    /// Failures in a row.
    failures: Cell<u32>,
    /// A failed timer is not armed again yet.
    is_paused: Cell<bool>,
    /// A lease that is due within this time is waited for.
    stay_for: Duration,
    guard: RefCell<Option<Activity>>,
    /// A timer may be armed.
    is_armed: Cell<bool>,
    /// The time for which it is armed, as far as is known.
    armed_for: Cell<Option<Instant>>,
    /// The same in the state file.
    saved: Cell<Option<Instant>>,
    is_logged: Cell<bool>,
}

impl LeaseKeepAlive {
    /// Uses `wakeup` for what is due later than `stay_for`, or stays for the reason that it gives.
    pub(crate) fn new(wakeup: Result<Wakeup, String>, stay_for: Duration) -> Self {
        let (wakeup, reason) = match wakeup {
            Ok(wakeup) => (Some(wakeup), None),
            Err(reason) => (None, Some(reason)),
        };
        Self {
            wakeup,
            reason,
            failures: Cell::default(),
            is_paused: Cell::default(),
            stay_for,
            guard: RefCell::default(),
            is_armed: Cell::default(),
            armed_for: Cell::default(),
            saved: Cell::default(),
            is_logged: Cell::default(),
        }
    }

    pub(super) fn stay_for(&self) -> Duration {
        self.stay_for
    }

    /// Assumes an armed timer where the state file has leases.
    pub(super) fn restore(&self, leases: &[(EncodedRecord, bool)], timer_at: Option<Instant>) {
        self.armed_for.set(timer_at);
        self.saved.set(timer_at);
        self.is_armed
            .set(!leases.is_empty() || Wakeup::woken_by_timer());
    }

    /// Records that a timer may be armed, and for which time, if that is known.
    pub(super) fn set_armed(&self, at: Option<Instant>) {
        self.is_armed.set(true);
        self.armed_for.set(at);
    }

    /// Records that no timer is armed.
    pub(super) fn set_disarmed(&self) {
        self.is_armed.set(false);
        self.armed_for.set(None);
    }

    pub(super) fn may_be_armed(&self) -> bool {
        self.is_armed.get()
    }

    pub(super) fn armed_for(&self) -> Option<Instant> {
        self.armed_for.get()
    }

    /// Records that the state file has the timer.
    pub(super) fn mark_timer_saved(&self) {
        self.saved.set(self.armed_for.get());
    }

    /// Returns whether the state file has the timer, to the millisecond: without it, `status` takes
    /// the process for dead.
    pub(super) fn is_timer_saved(&self) -> bool {
        let millis = |at: &Cell<Option<Instant>>| at.get().map(|at| at.since_boot().as_millis());
        millis(&self.saved) == millis(&self.armed_for)
    }

    /// Returns whether a timer can start the process again.
    pub(super) fn is_sleep_possible(&self) -> bool {
        self.wakeup().is_some()
    }

    /// Returns the timer, unless a retry is pending.
    pub(super) fn wakeup(&self) -> Option<&Wakeup> {
        self.wakeup.as_ref().filter(|_| !self.is_paused.get())
    }

    /// Returns the timer, even if a retry is pending.
    pub(super) fn configured_wakeup(&self) -> Option<&Wakeup> {
        self.wakeup.as_ref()
    }

    /// Takes `guard`, or drops it where it is not `wanted`.
    pub(super) fn set_guard(&self, wanted: bool, guard: impl FnOnce() -> Activity) {
        let mut held = self.guard.borrow_mut();
        if wanted {
            held.get_or_insert_with(guard);
        } else {
            held.take();
        }
    }

    /// Logs once why the process stays, if there is no timer.
    pub(super) fn log_reason(&self) {
        if let Some(why) = &self.reason
            && !self.is_logged.replace(true)
        {
            log::info!("staying for as long as there are leases: {why}");
        }
    }

    /// Counts a failure. Returns the delay before the next attempt, and whether it is the first
    /// failure.
    pub(super) fn pause(&self) -> (Duration, bool) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        self.is_paused.set(true);
        let pause = SLEEP_RETRY
            .saturating_mul(1 << failures.min(16))
            .min(MAX_SLEEP_RETRY);
        (pause, failures == 0)
    }

    /// Allows the next attempt.
    pub(super) fn end_pause(&self) {
        self.is_paused.set(false);
    }

    /// Records that the timer is armed.
    pub(super) fn record_success(&self) {
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
        keep_alive.record_success();
        assert_eq!(keep_alive.pause(), (SLEEP_RETRY, true));
    }
    #[test]
    fn a_timer_that_the_file_does_not_have_is_told_from_one_that_it_has() {
        let keep_alive = LeaseKeepAlive::new(Err("a test".into()), Duration::ZERO);
        let at = |micros| Some(Instant::from_boot(Duration::from_micros(micros)));
        keep_alive.restore(&[], at(5_000));
        assert!(keep_alive.is_timer_saved());
        keep_alive.set_armed(None);
        assert_eq!(
            (keep_alive.may_be_armed(), keep_alive.armed_for()),
            (true, None),
            "a failed arm leaves no known timer"
        );
        assert!(!keep_alive.is_timer_saved());
        keep_alive.set_armed(at(5_999));
        assert!(keep_alive.is_timer_saved(), "the file has milliseconds");
        keep_alive.set_armed(at(6_000));
        assert!(!keep_alive.is_timer_saved());
        keep_alive.mark_timer_saved();
        assert!(keep_alive.is_timer_saved());
        keep_alive.set_disarmed();
        assert!(!keep_alive.is_timer_saved());
    }
}
