//! All sessions, by MAC and network namespace: who may start one, who ends it, and what the lease file says of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use event_listener::{Event, EventListener};
use futures_lite::future::{or, yield_now};

use crate::rpc::{Answer, Call, Lease, NetworkConfig, OperationResponse, Reply, Status};
use crate::rt::{self, Runtime, Task};
use crate::service::{Activity, Closing, Idle, Notify};

use super::config::Habits;
use super::error::Error;
use super::identity::Identity;
use super::leases::{Entry, LeaseFile, Packed};
use super::memory::Memory;
use super::pace::Pace;
use super::request::{Key, Mac, Request, Selector};
use super::session::{Commons, Session};
use super::site::{Site, canonical};

/// How long a Setup may still take when the daemon is asked to leave: less than its connection has.
const LAST_CHANCE: Duration = Duration::from_secs(3);

/// The leases of this daemon.
#[derive(Debug)]
pub(super) struct Table {
    commons: Rc<Commons>,
    idle: Idle,
    notify: Notify,
    file: LeaseFile,
    identity: Identity,
    places: RefCell<BTreeMap<Key, Place>>,
    memory: RefCell<Memory>,
    /// How many leases the service manager was told of.
    told: Cell<Option<usize>>,
}

/// What there is for one key.
#[derive(Debug)]
enum Place {
    /// A call is making or ending a lease; whoever else wants to has to wait for it.
    Taken(Rc<Taken>),
    /// A lease.
    Held(Box<Held>),
}

#[derive(Debug, Default)]
struct Taken {
    /// Tells the one who makes a lease to leave off.
    cancel: Event,
    /// Tells everybody that the place is free or holds a lease.
    over: Event,
}

/// A lease that a task keeps.
#[derive(Debug)]
struct Held {
    /// What the lease file says; none while the lease is lost.
    lease: Option<Packed>,
    container_interface: String,
    /// Tells the task to stop; it gives the session back then.
    stop: Event,
    task: Task<Session>,
    _activity: Activity,
}

impl Table {
    /// An empty table, whose file is left alone until there is something to write.
    pub(super) fn new(
        runtime: Runtime,
        idle: Idle,
        notify: Notify,
        file: LeaseFile,
        habits: Habits,
        identity: Identity,
    ) -> Rc<Self> {
        let commons = Rc::new(Commons { runtime, habits, pace: Pace::new() });
        let (places, memory, told) = Default::default();
        Rc::new(Self { commons, idle, notify, file, identity, places, memory, told })
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
                Reply::Lease(or(self.setup(config), leaving).await.inspect_err(|error| error.log("Setup"))?)
            }
            Call::Teardown(config) => Reply::Lease(self.teardown(&config).await),
            Call::Clean => {
                self.end_all(|_| true).await;
                if self.file.forget(|_, _| true) {
                    self.save();
                }
                Reply::Operation(OperationResponse { success: true })
            }
        };
        Ok(reply.into())
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
        let (mut claim, held) = self.claim(&key).await;
        // A container that is set up again.
        if let Some(held) = held {
            let table = Rc::clone(self);
            let client_id = request.client_id.clone();
            // Goes on when the caller hangs up: until it is over nobody else may have the place.
            let ending = self.commons.runtime.spawn(async move {
                // To the server another client identifier is another client, and the old one will not be back.
                table.dismiss(held, |session| session.who().client_id != client_id).await;
                claim
            });
            claim = Finish(Some(ending)).await;
        }
        let wish = self.memory.borrow().recall(request.who());
        let acquisition = Session::acquire(Rc::clone(&self.commons), request, site, wish);
        let cancelled = async {
            claim.cancelled().await;
            Err(Error::Superseded)
        };
        let mut session = or(cancelled, acquisition).await?;
        let lease = session.reply().expect("acquired");
        session.settle();
        self.forget_earlier(&Selector::from(&key));
        claim.settle(self.hold(session));
        self.save();
        Ok(lease)
    }

    /// Never fails: what is not there is as good as torn down.
    async fn teardown(self: &Rc<Self>, config: &NetworkConfig) -> Lease {
        let Some(selector) = Selector::parse(config) else { return Lease::default() };
        let selector = selector.with_netns(canonical);
        let ended = self.end_all(|key| selector.matches(key)).await;
        if self.forget_earlier(&selector) {
            self.save();
        }
        ended.unwrap_or_default()
    }

    /// Ends and releases all sessions that `chosen` chooses, and cancels those in the making. Returns one of the leases.
    async fn end_all(self: &Rc<Self>, chosen: impl Fn(&Key) -> bool) -> Option<Lease> {
        let keys: Vec<_> = self.places.borrow().keys().filter(|key| chosen(key)).cloned().collect();
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
        ended
    }

    async fn end(self: &Rc<Self>, key: &Key) -> Option<Lease> {
        let (claim, held) = self.claim(key).await;
        let held = held?;
        let lease = held.lease.as_ref().map(Packed::unpack);
        self.dismiss(held, |_| true).await;
        drop(claim);
        lease
    }

    /// Ends a lease whose place is taken, released or not.
    async fn dismiss(&self, held: Box<Held>, release: impl FnOnce(&Session) -> bool) {
        // The caller may hang up, but this has to be done before the daemon leaves.
        let _activity = self.idle.activity();
        let session = held.stop().await;
        self.remember(&session);
        let release = release(&session);
        session.end(release).await;
        self.save();
    }

    /// Keeps in mind what a container had that is about to lose it.
    fn remember(&self, session: &Session) {
        if let Some(address) = session.address() {
            self.memory.borrow_mut().remember(session.who(), address);
        }
    }

    /// Leaves out of the file what earlier instances wrote of the same container. Tells whether there was any.
    fn forget_earlier(&self, selector: &Selector) -> bool {
        self.file.forget(|mac, netns| Mac::parse(mac).is_ok_and(|mac| selector.means(mac, netns)))
    }

    /// Takes a place, cancelling whoever makes a lease there and waiting for whoever ends one; returns the lease
    /// that it held.
    async fn claim(self: &Rc<Self>, key: &Key) -> (Claim, Option<Box<Held>>) {
        loop {
            let over = {
                let mut places = self.places.borrow_mut();
                if let Some(Place::Taken(taken)) = places.get(key) {
                    let over = taken.over.listen();
                    taken.cancel.notify(usize::MAX);
                    over
                } else {
                    let taken = Rc::<Taken>::default();
                    let cancelled = RefCell::new(taken.cancel.listen());
                    let held = match places.insert(key.clone(), Place::Taken(Rc::clone(&taken))) {
                        Some(Place::Held(held)) => Some(held),
                        Some(Place::Taken(_)) | None => None,
                    };
                    let claim = Claim { table: Rc::clone(self), key: key.clone(), taken, cancelled };
                    return (claim, held);
                }
            };
            over.await;
        }
    }

    /// Starts the task that keeps a session.
    fn hold(self: &Rc<Self>, mut session: Session) -> Held {
        let lease = session.reply().as_ref().map(Packed::from);
        let container_interface = session.container_interface().to_owned();
        let stop = Event::new();
        let stopped = stop.listen();
        let table = Rc::clone(self);
        let task = self.commons.runtime.spawn(async move {
            let kept = async {
                // Setup is answered first: `keep` begins with closing the sockets, which takes the kernel a while.
                yield_now().await;
                session.keep(|session| table.update(session.key(), session.reply())).await;
                table.remember(&session);
                table.forget(session.key());
            };
            or(kept, stopped).await;
            session
        });
        Held { lease, container_interface, stop, task, _activity: self.idle.activity() }
    }

    fn update(&self, key: &Key, lease: Option<Lease>) {
        if let Some(Place::Held(held)) = self.places.borrow_mut().get_mut(key) {
            held.lease = lease.as_ref().map(Packed::from);
        }
        self.save();
    }

    /// Called by the task that kept the lease, as its last act.
    fn forget(&self, key: &Key) {
        let place = self.places.borrow_mut().remove(key);
        match place {
            Some(Place::Held(held)) => {
                held.task.detach();
                self.save();
            }
            // Somebody is waiting for this task to end, and has the place.
            Some(taken) => drop(self.places.borrow_mut().insert(key.clone(), taken)),
            None => {}
        }
    }

    /// Writes the file. A failure is no reason to refuse or to end a lease that works.
    fn save(&self) {
        let places = self.places.borrow();
        let held = || {
            places.iter().filter_map(|(key, place)| match place {
                Place::Held(held) => Some((key, held, held.lease.as_ref()?)),
                Place::Taken(_) => None,
            })
        };
        let entries = held().map(|(key, held, lease)| Entry {
            lease,
            ns_path: &key.netns,
            container_iface: &held.container_interface,
        });
        if let Err(error) = self.file.replace(entries) {
            log::error!("cannot write the lease file: {error}; it does not show the last change");
        }
        let count = held().count();
        if self.told.replace(Some(count)) != Some(count) {
            self.notify.status(if count == 1 { "1 lease".to_owned() } else { format!("{count} leases") });
        }
    }
}

impl Held {
    /// Stops the task, and takes the session from it.
    async fn stop(self: Box<Self>) -> Session {
        self.stop.notify(usize::MAX);
        self.task.await
    }
}

/// A place that one call has to itself. Dropped, the place is empty.
#[derive(Debug)]
struct Claim {
    table: Rc<Table>,
    key: Key,
    taken: Rc<Taken>,
    cancelled: RefCell<EventListener>,
}

impl Claim {
    /// Waits until somebody else wants the place.
    async fn cancelled(&self) {
        std::future::poll_fn(|context| Pin::new(&mut *self.cancelled.borrow_mut()).poll(context)).await;
    }

    /// Leaves a lease in the place.
    fn settle(self, held: Held) {
        self.table.places.borrow_mut().insert(self.key.clone(), Place::Held(Box::new(held)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut places = self.table.places.borrow_mut();
        if matches!(places.get(&self.key), Some(Place::Taken(taken)) if Rc::ptr_eq(taken, &self.taken)) {
            places.remove(&self.key);
        }
        drop(places);
        self.taken.over.notify(usize::MAX);
    }
}

/// Waits for a task, and lets it go on alone when nobody waits any more.
struct Finish<T>(Option<Task<T>>);

impl<T> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let task = self.0.as_mut().expect("polled only until it is ready");
        let done = Pin::new(task).poll(context);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
