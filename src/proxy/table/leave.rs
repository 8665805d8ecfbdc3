//! Exit: the timer that starts the process again for its leases, and what becomes of them at a
//! stop.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use crate::proxy::config::OnStop;
use crate::rt;
use crate::service::Wakeup;
use crate::time::Instant;

use super::plan::Action;
use super::state::Table;

/// The most time that the release of all leases takes at a stop. systemd kills after 90 s.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(75);

/// The next wake-up, and a second one in case the first fails.
type WakeupTimes = (Instant, Option<Instant>);

impl Table {
    /// Returns whether the process was started for its leases, and may exit once they are served.
    pub(crate) fn is_started_for_leases(&self) -> bool {
        let is_due = || self.plan.borrow().is_due(rt::now());
        self.keep_alive.is_sleep_possible() && (Wakeup::woken_by_timer() || is_due())
    }

    /// Sets or clears the guard that keeps the process running for its leases.
    pub(super) fn update_keep_alive(&self) {
        let can_sleep = self.keep_alive.is_sleep_possible();
        self.plan.borrow_mut().set_can_sleep(can_sleep);
        let has_leases = self.len() > 0;
        if has_leases {
            self.keep_alive.log_reason();
        }
        // An outdated file must not be left behind.
        let stays = self.is_save_failing() || (has_leases && !can_sleep);
        self.keep_alive.set_guard(stays, || self.idle.activity());
    }

    /// Called when the idle timeout has expired: arms the timer for the next deadline, or keeps the
    /// process running.
    pub(crate) async fn prepare_to_leave(self: Rc<Self>) {
        while let Some(wakeup) = self.keep_alive.wakeup() {
            let Ok(times) = self.next_wakeup() else {
                return self.keep_alive.set_guard(true, || self.idle.activity());
            };
            if let Err(error) = self.set_timer(wakeup, times).await {
                return self.stay_and_retry(wakeup, &error);
            }
            self.keep_alive.record_success();
            // A deadline may have changed meanwhile.
            let next = self.plan.borrow().poll_timeout();
            if next != times.map(|(at, _)| at) && !self.idle.is_busy() {
                continue;
            }
            break;
        }
        // A start that has changed nothing writes nothing, not even that it was there.
        let is_in_file = !self.save.is_unsaved.get()
            && !self.context.counters.borrow().is_unsaved()
            && (self.save.is_final.get() || self.len() == 0)
            && self.keep_alive.is_timer_saved();
        if !self.idle.is_busy() && !is_in_file {
            // A failure sets the guard.
            self.save(true);
        }
    }

    /// Returns when the process has to be started again, if ever; an error where it has to stay.
    fn next_wakeup(&self) -> Result<Option<WakeupTimes>, ()> {
        match self.plan.borrow().outlook(rt::now()) {
            Action::SleepUntil { at, fallback } => Ok(at.map(|at| (at, fallback))),
            Action::Stay(reason) => {
                log::debug!("staying: {reason:?}");
                Err(())
            }
            Action::Wake { .. } | Action::Defer { .. } => unreachable!("no work is handed out"),
        }
    }

    /// Keeps the process running without a timer, and tries to arm it again later.
    fn stay_and_retry(self: &Rc<Self>, wakeup: &Wakeup, why: &io::Error) {
        let (pause, is_first) = self.keep_alive.pause();
        let (timer, seconds) = (wakeup.timer(), pause.as_secs());
        if is_first {
            log::warn!("cannot arm {timer}: {why}; staying, trying again in {seconds} s");
        } else {
            log::debug!("cannot arm {timer}: {why}; trying again in {seconds} s");
        }
        self.update_keep_alive();
        let table = Rc::clone(self);
        let later = async move {
            table.context.sleep_until(rt::now() + pause).await;
            table.keep_alive.end_pause();
            table.update_keep_alive();
        };
        self.context.runtime.spawn(later).detach();
    }

    /// Arms the timer for these times, or disarms it. Tries twice, for a failure may pass.
    async fn set_timer(&self, wakeup: &Wakeup, times: Option<WakeupTimes>) -> io::Result<()> {
        let set = async || match times {
            Some(times) => self.arm(wakeup, times).await,
            None => self.disarm(wakeup).await,
        };
        match set().await {
            Err(error) => {
                let timer = wakeup.timer();
                log::debug!("cannot set {timer}: {error}; trying again");
                set().await
            }
            done => done,
        }
    }

    async fn arm(&self, wakeup: &Wakeup, (at, fallback): WakeupTimes) -> io::Result<()> {
        let now = rt::now();
        // The timer before is cancelled first, and a failure leaves none that is known.
        self.keep_alive.set_armed(None);
        wakeup
            .arm(at - now, fallback.map(|fallback| fallback - now))
            .await?;
        self.keep_alive.set_armed(Some(at));
        Ok(())
    }

    async fn disarm(&self, wakeup: &Wakeup) -> io::Result<()> {
        if self.keep_alive.may_be_armed() {
            wakeup.disarm().await?;
            self.keep_alive.set_disarmed();
        }
        Ok(())
    }

    /// Disarms the timer at a stop. A failure is logged.
    async fn disarm_for_good(&self, wakeup: &Wakeup) {
        if let Err(error) = self.disarm(wakeup).await {
            log::warn!("cannot disarm {}: {error}", wakeup.timer());
        }
    }

    /// Releases or keeps the leases at SIGTERM or SIGINT, by `--on-stop`.
    pub(crate) async fn stop(self: Rc<Self>, on_stop: OnStop) {
        let wakeup = self.keep_alive.configured_wakeup();
        if on_stop == OnStop::Release {
            or(self.end_all(), rt::sleep(RELEASE_TIMEOUT)).await;
            let (left, seconds) = (self.len(), RELEASE_TIMEOUT.as_secs());
            if left > 0 {
                log::warn!("{left} leases are not released after {seconds} s; they stay");
            }
        }
        // Before the timer is armed: a timer that elapses while the process exits is lost.
        self.context.drain_events().await;
        if self.len() > 0 {
            self.keep_on_stop(wakeup).await;
        } else if let Some(wakeup) = wakeup {
            self.disarm_for_good(wakeup).await;
        }
        self.save(true);
        self.clear_journal();
    }

    /// Clears the journal of work: the process exits in good order.
    pub(crate) fn clear_journal(&self) {
        self.journal.clear();
    }

    async fn keep_on_stop(&self, wakeup: Option<&Wakeup>) {
        let count = self.len();
        let Some(wakeup) = wakeup else {
            log::info!("{count} leases stay; the next start resumes them");
            return;
        };
        if wakeup.is_being_stopped().await {
            log::info!(
                "{count} leases stay until they expire: the units that start the service are \
                 being stopped as well"
            );
            return self.disarm_for_good(wakeup).await;
        }
        let Some(times) = self.plan.borrow().resume_after_stop(rt::now()) else {
            return;
        };
        let (timer, unit) = (wakeup.timer(), wakeup.unit());
        match self.arm(wakeup, times).await {
            Ok(()) => log::info!(
                "{count} leases stay; {timer} starts {unit} again when one is due. \
                 To stop everything: systemctl stop {}",
                wakeup.units_to_stop().join(" ")
            ),
            Err(error) => log::error!(
                "cannot arm {timer}: {error}; {count} leases are not renewed until {unit} is \
                 started again"
            ),
        }
    }
}
