//! Leaving: what starts the process again for its leases, and what becomes of them at a stop.

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

/// How long all leases may take to be given back when the daemon is stopped, well below the 90
/// seconds that systemd waits before it kills.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(75);

/// When a wake-up is wanted, and when once more in case that fails.
type WakeupTimes = (Instant, Option<Instant>);

impl Table {
    /// Returns whether this process was started for the sake of the leases, and may leave when they
    /// are served.
    pub(crate) fn is_woken(&self) -> bool {
        let is_due = || self.plan.borrow().is_due(rt::now());
        self.keep_alive.is_sleep_possible() && (Wakeup::woken_by_timer() || is_due())
    }

    /// Holds the process for its leases, or lets it go, by what there is.
    pub(super) fn update_keep_alive(&self) {
        let can_sleep = self.keep_alive.is_sleep_possible();
        self.plan.borrow_mut().set_can_sleep(can_sleep);
        let has_leases = self.len() > 0;
        if has_leases {
            self.keep_alive.tell_why();
        }
        // A file that says what is not so any more is not to be left behind.
        let stays = self.is_in_trouble() || (has_leases && !can_sleep);
        self.keep_alive.hold(stays, || self.idle.activity());
    }

    /// Called when the idle timeout has expired: has the process started again for the next
    /// deadline, or keeps it.
    pub(crate) async fn prepare_to_leave(self: Rc<Self>) {
        while let Some(wakeup) = self.keep_alive.wakeup() {
            let Ok(times) = self.next_wakeup() else {
                return self.keep_alive.hold(true, || self.idle.activity());
            };
            if let Err(error) = self.arrange(wakeup, times).await {
                return self.pause_sleeping(&error);
            }
            self.keep_alive.note_success();
            // What has come up meanwhile counts.
            let next = self.plan.borrow().poll_timeout();
            if next != times.map(|(at, _)| at) && !self.idle.is_busy() {
                continue;
            }
            break;
        }
        let is_in_file =
            !self.save.is_unsaved.get() && (self.save.is_final.get() || self.len() == 0);
        if !self.idle.is_busy() && !is_in_file {
            // One that fails is a reason to stay.
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

    /// Stays for a while: nothing would start the process again.
    fn pause_sleeping(self: &Rc<Self>, why: &io::Error) {
        let (pause, is_first) = self.keep_alive.pause();
        let seconds = pause.as_secs();
        if is_first {
            log::warn!(
                "cannot have systemd start the service again: {why}; staying, and trying again in {seconds} s, \
                 then ever later"
            );
        } else {
            log::debug!(
                "cannot have systemd start the service again: {why}; trying again in {seconds} s"
            );
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

    /// Has the process started again at these times, or not at all. One failure may be chance.
    async fn arrange(&self, wakeup: &Wakeup, times: Option<WakeupTimes>) -> io::Result<()> {
        let arrange = async || match times {
            Some(times) => self.arm(wakeup, times).await,
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

    async fn arm(&self, wakeup: &Wakeup, (at, fallback): WakeupTimes) -> io::Result<()> {
        let now = rt::now();
        self.keep_alive.is_armed.set(true);
        wakeup
            .arm(at - now, fallback.map(|fallback| fallback - now))
            .await
    }

    async fn disarm(&self, wakeup: &Wakeup) -> io::Result<()> {
        if self.keep_alive.is_armed.get() {
            wakeup.disarm().await?;
            self.keep_alive.is_armed.set(false);
        }
        Ok(())
    }

    /// Gives the leases back or keeps them, when the process was told to stop.
    pub(crate) async fn stop(self: Rc<Self>, on_stop: OnStop) {
        let wakeup = self.keep_alive.any_wakeup();
        if on_stop == OnStop::Release {
            or(self.end_all(), rt::sleep(RELEASE_TIMEOUT)).await;
            let left = self.len();
            if left > 0 {
                log::warn!("{left} leases could not be given back in time");
            }
        }
        if self.len() > 0 {
            self.keep_on_stop(wakeup).await;
        } else if let Some(wakeup) = wakeup
            && let Err(error) = self.disarm(wakeup).await
        {
            log::warn!("{error}");
        }
        self.save(true);
        self.clear_journal();
    }

    /// Forgets which lease is worked on: the process leaves in good order.
    pub(crate) fn clear_journal(&self) {
        self.journal.clear();
    }

    async fn keep_on_stop(&self, wakeup: Option<&Wakeup>) {
        let count = self.len();
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
        let Some(times) = self.plan.borrow().resume_after_stop(rt::now()) else {
            return;
        };
        match self.arm(wakeup, times).await {
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
}
