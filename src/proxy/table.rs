//! All leases, by MAC and network namespace: who may make one, who ends it, and what the lease file says of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use futures_lite::future::or;

use crate::rpc::{Answer, Call, Lease, NetworkConfig, OperationResponse, Reply, Status};
use crate::rt::{self, Runtime, Task};
use crate::service::{Activity, Closing, Idle, Notify, Wakeup};
use crate::time::Instant;

use super::config::Habits;
use super::error::Error;
use super::identity::Identity;
use super::leases::LeaseFile;
use super::memory::{Memory, Who};
use super::pace::Pace;
use super::record::{Packed, Record};
use super::request::{Key, Request, Selector};
use super::schedule::Sleep;
use super::session::{Commons, Session, Undoing};
use super::silence::Silence;
use super::site::{Site, Unreachable, canonical};
use claim::{Claim, Finish};

mod claim;
mod saving;

/// How long a Setup may still take when the daemon is asked to leave: less than its connection has.
const LAST_CHANCE: Duration = Duration::from_secs(3);

/// How soon what nobody waits for is in the file.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// How soon is tried again what failed for want of something.
const RETRY: Duration = Duration::from_secs(30);

/// The leases of this daemon.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) commons: Rc<Commons>,
    pub(super) idle: Idle,
    pub(super) pace: Pace,
    pub(super) sleep: Sleep,
    pub(super) silence: RefCell<Silence>,
    /// Tells the schedule that something is due at another time.
    pub(super) changed: Event,
    pub(super) slots: RefCell<BTreeMap<Key, Slot>>,
    notify: Notify,
    file: LeaseFile,
    identity: Identity,
    memory: RefCell<Memory>,
    /// The file does not say all that it should.
    pub(super) unsaved: Cell<bool>,
    /// Somebody is going to write it.
    saving: Cell<bool>,
    /// Why it could not be written the last time.
    trouble: RefCell<Option<String>>,
    /// How many leases the service manager was told of.
    told: Cell<Option<usize>>,
}

/// What there is for one key.
#[derive(Debug)]
pub(super) struct Slot {
    /// How to go on with it, as the lease file has it; none before the file has anything.
    pub(super) record: Option<Packed>,
    pub(super) place: Place,
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) enum Place {
    /// A call is making or ending a lease; whoever else wants to has to wait for it.
    Taken(Rc<Taken>),
    /// A task does something for the lease.
    Awake(Box<Awake>),
    /// There is nothing to do until it is due.
    Resting(Resting),
}

/// What is known of a lease that rests without looking into its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resting {
    /// None where it is for ever.
    pub(super) due: Option<Instant>,
    /// From when on it may be renewed together with others.
    pub(super) may_renew_from: Option<Instant>,
    /// The link is as the record says.
    pub(super) known: bool,
}

#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Tells the one who makes a lease to leave off.
    cancel: Event,
    /// Tells everybody that the place is free or holds a lease.
    over: Event,
}

/// A lease that a task does something for.
#[derive(Debug)]
pub(super) struct Awake {
    /// Tells the task to stop; it gives the session back then, if it has one.
    pub(super) stop: Event,
    pub(super) task: Task<Option<Session>>,
    pub(super) _activity: Activity,
}

/// A lease that was there when somebody took its place.
enum Before {
    Awake(Box<Awake>),
    Resting,
}

impl Table {
    /// An empty table.
    pub(super) fn new(
        runtime: Runtime,
        idle: Idle,
        notify: Notify,
        (file, memory): (LeaseFile, Memory),
        (habits, identity): (Habits, Identity),
        sleep: Sleep,
    ) -> Rc<Self> {
        Rc::new(Self {
            commons: Rc::new(Commons { runtime, habits }),
            idle,
            pace: Pace::new(),
            sleep,
            silence: RefCell::default(),
            changed: Event::new(),
            slots: RefCell::default(),
            notify,
            file,
            identity,
            memory: RefCell::new(memory),
            unsaved: Cell::default(),
            saving: Cell::default(),
            trouble: RefCell::default(),
            told: Cell::default(),
        })
    }

    /// Takes over what earlier instances have left, and sees to it that everything is done in its time from now on.
    pub(super) fn take_over(self: &Rc<Self>) {
        let found = self.file.read();
        // Who was woken for a few leases does not look at them all.
        let in_doubt = |record: &Record| !Wakeup::woken_by_timer() && !record.still_fits();
        for record in found.over.iter().map(Packed::unpack) {
            self.remember(record.who(), &record);
        }
        let mut changed = found.is_other || !found.over.is_empty();
        self.sleep.take_in(&found.leases);
        for (packed, asleep) in found.leases {
            let record = packed.unpack();
            let Some(key) = record.key() else { continue };
            if record.is_gone() {
                log::info!("{}: its network namespace is gone; its lease is left to run out", record.place());
                self.remember(record.who(), &record);
                changed = true;
                continue;
            }
            if let Some((server, since)) = record.server().zip(record.silence()) {
                self.silence.borrow_mut().is_silent(server, since);
            }
            let asleep = asleep && !in_doubt(&record);
            let record = if asleep { record } else { record.with_look() };
            let place = Place::Resting(Resting::of(&record, asleep));
            self.slots.borrow_mut().insert(key, Slot { record: Some(Packed::from(&record)), place });
        }
        if changed {
            self.save_within(SOON);
        }
        self.mind_staying();
        self.tell();
        let table = Rc::clone(self);
        self.commons.runtime.spawn(async move { table.keep_schedule().await }).detach();
    }

    /// Serves one call. Dropping the future cancels it: a Setup leaves nothing behind, a Teardown goes on alone. When
    /// `closing` resolves, a Setup has to come to an end.
    pub(super) async fn serve(self: Rc<Self>, call: Call, closing: Closing) -> Result<Answer, Status> {
        let reply = match call {
            Call::Setup(config) => {
                let leaving = async {
                    closing.await;
                    rt::sleep(LAST_CHANCE).await;
                    Err(Error::Leaving)
                };
                let made = or(self.setup(config), leaving).await;
                if let Err(error) = &made {
                    error.log("Setup");
                    // That there is nothing left of it.
                    self.persist().await;
                }
                Reply::Lease(made?)
            }
            Call::Teardown(config) => Reply::Lease(self.teardown(&config).await),
            Call::Clean => {
                self.end_all(|_| true).await;
                Reply::Operation(OperationResponse { success: self.trouble.borrow().is_none() })
            }
        };
        Ok(Answer { reply, warning: self.trouble.borrow().clone() })
    }

    async fn setup(self: &Rc<Self>, config: NetworkConfig) -> Result<Lease, Error> {
        let mut request = Request::parse(config, &self.identity)?;
        let netns = canonical(&request.ns_path);
        if *netns != *request.ns_path {
            request.key.netns = netns.into();
        }
        // A call that nobody could serve leaves alone what is there.
        let site = Site::find(&request)?;
        let key = request.key.clone();
        // Declared before the session, so dropped after it: the place is free when nothing of the session is left.
        let (mut claim, before) = self.claim(&key).await;
        // A container that is set up again.
        if let Some(before) = before {
            let table = Rc::clone(self);
            let client_id = request.client_id.clone();
            // Goes on when the caller hangs up: until it is over nobody else may have the place.
            let ending = self.commons.runtime.spawn(async move {
                // To the server another client identifier is another client, and the old one will not be back.
                table.dismiss(&claim, before, |who| who.client_id != client_id).await;
                claim
            });
            claim = Finish(Some(ending)).await;
        }
        let wish = self.memory.borrow_mut().recall(request.who());
        self.note(&key, &Record::intent(&request, &site));
        self.persist().await;
        let leased = async |session: &Session| self.noted(&key, session).await;
        let (table, place) = (Rc::clone(self), key.clone());
        // A crash in the middle of it is to be followed by the rest of it.
        let undoing = Undoing(Box::new(move || table.note_ending(&place)));
        let acquisition = Session::acquire(Rc::clone(&self.commons), request, site, wish, (leased, undoing));
        let cancelled = async {
            claim.cancelled().await;
            Err(Error::Superseded)
        };
        let mut session = or(cancelled, acquisition).await?;
        let lease = session.reply().expect("acquired");
        session.settle();
        claim.settle(self.hold(key.clone(), session));
        self.save_within(SOON);
        self.tell();
        Ok(lease)
    }

    /// Never fails: what is not there is as good as torn down.
    async fn teardown(self: &Rc<Self>, config: &NetworkConfig) -> Lease {
        let Some(selector) = Selector::parse(config) else { return Lease::default() };
        let selector = selector.with_netns(canonical);
        self.end_all(|key| selector.matches(key)).await.unwrap_or_default()
    }

    /// Ends and releases all leases that `chosen` chooses, and cancels those in the making. Returns one of them.
    pub(super) async fn end_all(self: &Rc<Self>, chosen: impl Fn(&Key) -> bool) -> Option<Lease> {
        let keys: Vec<_> = self.slots.borrow().keys().filter(|key| chosen(key)).cloned().collect();
        let endings: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let table = Rc::clone(self);
                Finish(Some(self.commons.runtime.spawn(async move { table.end(&key).await })))
            })
            .collect();
        let mut ended = None;
        for ending in endings {
            ended = ending.await.or(ended);
        }
        // That they are over.
        self.persist().await;
        ended
    }

    async fn end(self: &Rc<Self>, key: &Key) -> Option<Lease> {
        let (claim, before) = self.claim(key).await;
        let before = before?;
        let lease = self.record(key).map(|record| record.lease).filter(|lease| !lease.yiaddr.is_empty());
        self.dismiss(&claim, before, |_| true).await;
        lease
    }

    /// Ends a lease whose place is taken, released or not.
    async fn dismiss(self: &Rc<Self>, claim: &Claim, before: Before, release: impl FnOnce(Who<'_>) -> bool) {
        // The caller may hang up, but this has to be done before the daemon leaves.
        let _activity = self.idle.activity();
        let session = match before {
            Before::Awake(awake) => awake.stop().await,
            Before::Resting => None,
        };
        let Some(record) = self.record(&claim.key) else { return };
        self.remember(record.who(), &record);
        let release = record.who().is_none_or(release);
        // From here on a crash does not bring it back or, where it stays leased, leaves its link in doubt.
        let noted = if release { record.clone().ending() } else { record.clone().with_look() };
        self.note(&claim.key, &noted);
        self.persist().await;
        let place = record.place();
        let ended = match session.map_or_else(|| self.revive(record, false), |session| Ok(Some(session))) {
            Ok(Some(session)) => session.end(release).await,
            Ok(None) => Ok(()),
            Err(Unreachable::Gone(why)) => {
                log::info!("{place}: {why}; its lease is left to run out");
                Ok(())
            }
            Err(Unreachable::Fault(error)) => Err(error),
        };
        if let Err(error) = ended {
            log::warn!("{place}: cannot end its lease: {error}");
            *claim.unfinished.borrow_mut() = release.then_some(noted);
        }
    }

    /// A session that goes on with a record, `early` to renew it before its time. None where there is nothing to go on with.
    pub(super) fn revive(&self, record: Record, early: bool) -> Result<Option<Session>, Unreachable> {
        match record.recall() {
            Some(remembered) => Session::revive(&self.commons, remembered, early),
            None => Ok(None),
        }
    }

    /// Keeps in mind what a container had that is about to lose it.
    pub(super) fn remember(&self, who: Option<Who<'_>>, record: &Record) {
        if let (Some(who), Some(address)) = (who, record.address()) {
            self.memory.borrow_mut().remember(who, address);
        }
    }
}

impl Place {
    /// When there is something to be done; none where somebody is at it, or that is never.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Resting(resting) => resting.due,
            Self::Taken(_) | Self::Awake(_) => None,
        }
    }
}

impl Resting {
    pub(super) fn of(record: &Record, known: bool) -> Self {
        Self { due: record.due(), may_renew_from: record.may_renew_from(), known }
    }

    /// What failed for want of something, to be tried again.
    pub(super) fn again() -> Self {
        Self { due: Some(rt::now() + RETRY), may_renew_from: None, known: false }
    }
}

impl Awake {
    /// Stops the task, and takes the session from it.
    async fn stop(self: Box<Self>) -> Option<Session> {
        self.stop.notify(usize::MAX);
        self.task.await
    }
}
