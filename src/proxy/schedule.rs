//! What is done when: leases rest until they are due, and while all of them rest, the process need not be there.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use futures_lite::future::{or, yield_now};

use crate::rt;
use crate::service::{Activity, Wakeup};
use crate::time::Instant;

use super::config::OnStop;
use super::record::{Packed, Record};
use super::request::Key;
use super::session::{Kept, Session};
use super::site::Unreachable;
use super::table::{Awake, Place, Resting, SOON, Slot, Table, Trust};

/// How soon a lease that was just laid down may be due again.
const NO_SOONER: Duration = Duration::from_secs(1);

/// A deadline that is nearer than this is waited for, whatever the patience: to leave takes a moment, and a timer that
/// elapses within it is lost.
const NEAR: Duration = Duration::from_secs(2);

/// For how long a process stays that could not have its wakeup arranged: twice as long each time, up to the longest.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// After this long a lease under suspicion does not wait any more until nothing else is done.
const LAST: Duration = Duration::from_secs(60);

/// How long all leases may take to be given back when the daemon is stopped, well below the 90 seconds that systemd
/// waits before it kills.
const RELEASE: Duration = Duration::from_secs(30);

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
        self.armed.set(!leases.is_empty() || Wakeup::woken_by_timer());
        self.is_in_file.set(leases.iter().all(|(_, asleep)| *asleep));
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
        PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
    }
}

impl Table {
    /// Does what is due, when it is due.
    pub(super) async fn keep_schedule(self: Rc<Self>) {
        loop {
            let changed = self.changed.listen();
            let due = self.next_due();
            let now = rt::now();
            match due {
                Some(due) if due <= now => self.wake_due(now),
                Some(due) => or(changed, self.commons.sleep_until(due)).await,
                None => changed.await,
            }
        }
    }

    /// Whether this process was started for the sake of the leases, and may leave when they are served.
    pub(super) fn is_woken(&self) -> bool {
        let is_due = || self.next_due().is_some_and(|due| due <= rt::now());
        self.sleep.is_possible() && (Wakeup::woken_by_timer() || is_due())
    }

    /// When the next lease is due that rests. One under suspicion waits while something else is done.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due_of(|_| true)
    }

    fn next_due_of(&self, chosen: impl Fn(&Resting) -> bool) -> Option<Instant> {
        let wait = if self.is_at_work() { LAST } else { Duration::ZERO };
        let slots = self.slots.borrow();
        let resting = slots.values().filter_map(|slot| slot.place.resting()).filter(|resting| chosen(resting));
        resting.filter_map(|resting| Some(if resting.is_suspect { resting.due? + wait } else { resting.due? })).min()
    }

    /// Whether something is done for a lease at the moment.
    fn is_at_work(&self) -> bool {
        self.slots.borrow().values().any(|slot| slot.place.resting().is_none())
    }

    /// Wakes all leases that are due, each in its turn, and with them those that may be renewed early: each of them would
    /// else wake the process by itself (RFC 2131 4.4.5 allows it). For the same reason nobody asks a silent server before
    /// it is time.
    fn wake_due(self: &Rc<Self>, now: Instant) {
        let together = self.sleep.is_possible();
        let is_time = |resting: &Resting| {
            let early = resting.may_renew_from.filter(|_| together);
            [resting.due, early].into_iter().flatten().any(|at| at <= now)
        };
        let mut due: Vec<_> = {
            let slots = self.slots.borrow();
            let resting = slots.iter().filter_map(|(key, slot)| match &slot.place {
                Place::Resting(resting) if is_time(resting) => Some((resting.due, resting.may_renew_from, key.clone())),
                _ => None,
            });
            resting.collect()
        };
        // Of those that are due since a crash, those first whose T1 comes first.
        due.sort();
        let (suspects, mut due): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, _, key)| self.journal.trust(key) != Trust::Full);
        if due.is_empty() {
            // Alone, so that no other lease loses its work with the process; and the one of fewer deaths first.
            due.extend(suspects.into_iter().min_by_key(|(due, _, key)| (self.journal.deaths(key), *due)));
        }
        for (_, _, key) in due {
            if together && self.hold_back(&key, now) {
                continue;
            }
            let awake = self.wake(key.clone(), self.pace.turn(now));
            if let Some(slot) = self.slots.borrow_mut().get_mut(&key) {
                slot.place = Place::Awake(Box::new(awake));
            }
        }
        self.mind_staying();
    }

    /// Whether a renewal has to wait because its server does not answer anybody else, either.
    fn hold_back(&self, key: &Key, now: Instant) -> bool {
        let Some(record) = self.record(key) else { return false };
        let Some(server) = record.server().filter(|_| record.is_bound() || record.is_unanswered()) else {
            return false;
        };
        let until = self.silence.borrow().until(&server, now).filter(|_| record.is_bound());
        let Some(record) = until.and_then(|until| record.put_off(until)) else {
            self.silence.borrow_mut().asked(&server, now);
            return false;
        };
        let resting = Resting::of(&record, true).trusted(self.journal.trust(key), now);
        let is_held = resting.due > Some(now);
        if is_held {
            self.note(key, &record);
            if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
                slot.place = Place::Resting(Resting { may_renew_from: resting.due, ..resting });
            }
        }
        is_held
    }

    /// A server has answered: who waited for it to do so need not wait any longer.
    pub(super) fn hear_from(&self, record: &Record) {
        let Some(server) = record.server() else { return };
        if !self.silence.borrow_mut().mark_responsive(&server, rt::now()) {
            return;
        }
        for (key, slot) in self.slots.borrow_mut().iter_mut() {
            let (Place::Resting(resting), Some(packed)) = (&mut slot.place, &mut slot.record) else { continue };
            let record = packed.unpack();
            let is_put_off =
                record.server().as_ref() == Some(&server) && record.is_bound() && record.due() > record.t1();
            if let Some(record) = record.t1().filter(|_| is_put_off).and_then(|t1| record.put_off(t1)) {
                *resting = Resting::of(&record, resting.known).trusted(self.journal.trust(key), rt::now());
                *packed = Packed::from(&record);
                self.unsaved.set(true);
            }
        }
        self.changed.notify(usize::MAX);
    }

    /// Starts the task that does what there is to do for a session.
    pub(super) fn hold(self: &Rc<Self>, key: Key, mut session: Session) -> Awake {
        self.start(|table, stopped| async move {
            let kept = async {
                // Setup is answered first: nobody waits for what begins here.
                yield_now().await;
                let kept = session.keep(async |session, change| table.noted(&key, session, change).await);
                let kept = table.journal.watch(&key, kept).await;
                table.conclude(&key, &session, kept);
            };
            or(kept, stopped).await;
            Some(session)
        })
    }

    /// Starts the task that does what there is to do for a lease that rested, when it is its turn.
    fn wake(self: &Rc<Self>, key: Key, turn: Instant) -> Awake {
        self.start(|table, stopped| async move {
            let mut session = None;
            let work = async {
                table.commons.sleep_until(turn).await;
                // After a crash all leases wait for their turn at once, and an exchange takes kilobytes.
                table.journal.watch(&key, table.see_to(&key, &mut session)).await;
            };
            or(work, stopped).await;
            session.map(|session| *session)
        })
    }

    /// Does what there is to do for a lease that rested. Its session is left to the caller, who may stop this.
    async fn see_to(self: &Rc<Self>, key: &Key, session: &mut Option<Box<Session>>) {
        let Some(record) = self.record(key) else { return };
        let (place, ends, server) = (record.place(), record.is_ending(), record.server());
        let now = rt::now();
        let is_time = record.may_renew_from().is_some_and(|from| from <= now);
        match self.revive(record, is_time) {
            Ok(Some(revived)) if ends => {
                log::info!("{place}: finishing its Teardown");
                match revived.end(true).await {
                    Ok(()) => self.forget(key),
                    Err(error) => {
                        log::warn!("{place}: cannot end its lease: {error}; trying again");
                        self.try_again_later(key);
                    }
                }
            }
            Ok(Some(revived)) => {
                let session = session.insert(Box::new(revived));
                let kept = session.keep(async |session, change| self.noted(key, session, change).await).await;
                self.conclude(key, session, kept);
            }
            Ok(None) => {
                log::info!("{place}: its Setup came to nothing");
                self.forget(key);
            }
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{place}: {why}; its lease is left to run out");
                if let Some(record) = self.record(key) {
                    self.remember(record.who(), &record);
                }
                self.forget(key);
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{place}: {error}");
                self.try_again_later(key);
            }
        }
        if let Some(server) = server {
            self.silence.borrow_mut().forget_question(&server);
        }
    }

    fn start<F>(self: &Rc<Self>, work: impl FnOnce(Rc<Self>, event_listener::EventListener) -> F) -> Awake
    where
        F: Future<Output = Option<Session>> + 'static,
    {
        let stop = Event::new();
        let work = work(Rc::clone(self), stop.listen());
        Awake { stop, task: self.commons.runtime.spawn(work), _activity: self.idle.activity() }
    }

    /// The last act of a task: what it did is done, and its lease rests or is over.
    fn conclude(self: &Rc<Self>, key: &Key, session: &Session, kept: Kept) {
        match kept {
            Kept::Rests(record) => {
                let record = match record.server().filter(|_| record.is_unanswered()) {
                    Some(server) => {
                        self.silence.borrow_mut().mark_unresponsive(&server, rt::now(), rt::now());
                        record.with_silence(rt::now())
                    }
                    None => *record,
                };
                self.note(key, &record);
                let resting = Resting::of(&record, true);
                // One that makes no sense is not to keep us busy for good.
                let due = resting.due.map(|due| due.max(rt::now() + NO_SOONER));
                self.lay_down(key, Resting { due, ..resting });
            }
            Kept::Gone => {
                if let Some(record) = self.record(key) {
                    self.remember(Some(session.who()), &record);
                }
                self.forget(key);
            }
        }
    }

    /// Called by the task itself: what failed for want of something is tried again, ever later.
    fn try_again_later(self: &Rc<Self>, key: &Key) {
        if let Some(record) = self.record(key).map(|record| record.with_retry(rt::now())) {
            self.note(key, &record);
            self.lay_down(key, Resting::of(&record, false));
        }
    }

    /// Called by the task itself: from now on nothing is done for the lease until it is due.
    fn lay_down(self: &Rc<Self>, key: &Key, resting: Resting) {
        self.journal.acquit(key);
        if let Some(slot) = self.slots.borrow_mut().get_mut(key)
            // Else somebody waits for this task to end, and has the place.
            && matches!(slot.place, Place::Awake(_))
            && let Place::Awake(awake) = std::mem::replace(&mut slot.place, Place::Resting(resting))
        {
            awake.task.detach();
        }
        self.save_within(SOON);
        self.mind_staying();
        self.changed.notify(usize::MAX);
    }

    /// Called by the task itself: the lease is over.
    fn forget(self: &Rc<Self>, key: &Key) {
        self.journal.acquit(key);
        let removed = {
            let mut slots = self.slots.borrow_mut();
            match slots.get(key) {
                Some(Slot { place: Place::Awake(_), .. }) => slots.remove(key),
                // Somebody waits for this task to end, and has the place.
                _ => None,
            }
        };
        if let Some(Slot { place: Place::Awake(awake), .. }) = removed {
            awake.task.detach();
            self.save_within(SOON);
            self.tell();
        }
        self.mind_staying();
        self.changed.notify(usize::MAX);
    }

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
        self.sleep.staying.borrow_mut().get_or_insert_with(|| self.idle.activity());
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
            log::debug!("cannot have systemd start the service again: {why}; trying again in {} s", pause.as_secs());
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

    /// Called when idleness says that it is time to leave: has the process woken for the next deadline, or keeps it.
    pub(super) async fn prepare_to_leave(self: Rc<Self>) {
        while let Some(wakeup) = self.sleep.wakeup() {
            let (due, now) = (self.next_due(), rt::now());
            // What failed may fail again, so it is not worth staying for.
            let pressing = self.next_due_of(|resting| !resting.is_retry);
            if pressing.is_some_and(|due| due - now <= self.sleep.patience) || due.is_some_and(|due| due - now <= NEAR)
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
        let is_in_file = !self.is_unsaved() && (self.sleep.is_in_file.get() || self.slots.borrow().is_empty());
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
            log::info!("{count} leases stay until they run out: all that could wake us is being stopped, too");
            if let Err(error) = self.disarm(wakeup).await {
                log::warn!("{error}");
            }
            return;
        }
        let is_awake = |slot: &Slot| matches!(slot.place, Place::Awake(_) | Place::Taken(_));
        let soon = self.slots.borrow().values().any(is_awake).then(|| rt::now() + NEAR);
        let Some(due) = self.next_due().into_iter().chain(soon).min() else { return };
        match self.arm(wakeup, due.max(rt::now() + NEAR)).await {
            Ok(()) => log::info!(
                "{count} leases stay, and {} starts {} again when the next one is due; to stop everything: systemctl stop {}",
                wakeup.timer(),
                wakeup.unit(),
                wakeup.everything().join(" ")
            ),
            Err(error) => log::warn!("{count} leases stay, and nobody is there to renew them: {error}"),
        }
    }

    /// Has the process woken at `due` and, in case that fails, once more before it is too late.
    async fn arm(&self, wakeup: &Wakeup, due: Instant) -> io::Result<()> {
        let too_late = {
            let slots = self.slots.borrow();
            let too_late = slots.values().filter_map(|slot| slot.record.as_ref()?.unpack().too_late());
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
