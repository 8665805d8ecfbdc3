//! All leases, by MAC and network namespace: who may make one, who ends it, and what the state file
//! says of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use futures_lite::future::or;

use crate::rpc::{Answer, Call, Lease, NetworkConfig, OperationResponse, Reply, Status};
use crate::rt::{self, Runtime, Task};
use crate::service::{Activity, Closing, Idle, Notify};
use crate::time::Instant;

use crate::proxy::call::client_id::ClientIdentity;
use crate::proxy::call::request::Request;
use crate::proxy::config::{DhcpSettings, Timeout};
use crate::proxy::container::interface::{ContainerInterface, Unreachable, canonical};
use crate::proxy::container::parent::Parent;
use crate::proxy::error::Error;
use crate::proxy::key::{ContainerNames, LeaseKey, Selector};
use crate::proxy::patience::{Circumstances, Patience};
use crate::proxy::session::{BeforeRollback, Change, Session, SessionContext};
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::journal::{Journal, Trust};
use crate::proxy::store::lease_file::LeaseFile;
use crate::proxy::store::networks::Networks;
use crate::proxy::store::record::{EncodedRecord, Record};
use crate::proxy::table::renewal_rate::RenewalRate;
use crate::proxy::table::sleep::Sleep;
use crate::proxy::table::unresponsive::UnresponsiveServers;
use adopt::Adoption;
use claim::{Claim, Finish};

mod adopt;
mod claim;
mod podman;
pub(crate) mod renewal_rate;
mod save;
mod schedule;
pub(crate) mod sleep;
mod start;
pub(crate) mod unresponsive;

/// How long a Setup may still take once the time of a drain counts: less than its connection has.
const LAST_CHANCE: Duration = Duration::from_secs(3);

/// How soon what nobody waits for is in the file.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// The leases of this daemon.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) commons: Rc<SessionContext>,
    pub(crate) idle: Idle,
    pub(crate) pace: RenewalRate,
    pub(crate) sleep: Sleep,
    pub(crate) silence: RefCell<UnresponsiveServers>,
    /// Which lease is worked on, and of which the process died before.
    pub(crate) journal: Rc<Journal>,
    /// Tells the schedule that something is due at another time.
    pub(crate) changed: Event,
    pub(crate) slots: RefCell<BTreeMap<LeaseKey, Slot>>,
    notify: Notify,
    file: LeaseFile,
    adoption: Adoption,
    identity: ClientIdentity,
    pub(crate) networks: RefCell<Networks>,
    /// The file does not say all that it should.
    pub(crate) unsaved: Cell<bool>,
    /// Somebody is going to write it.
    saving: Cell<bool>,
    /// Why it could not be written the last time.
    trouble: RefCell<Option<String>>,
    /// How many leases the service manager was told of.
    told: Cell<Option<usize>>,
}

/// What there is for one key.
#[derive(Debug)]
pub(crate) struct Slot {
    /// How to go on with it, as the state file has it; none before the file has anything.
    pub(crate) record: Option<EncodedRecord>,
    pub(crate) place: SlotState,
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum SlotState {
    /// A call is making or ending a lease; whoever else wants to has to wait for it.
    Taken(Rc<Taken>),
    /// A task does something for the lease.
    Active(Box<Active>),
    /// There is nothing to do until it is due.
    Dormant(Dormant),
}

/// What is known of a lease that rests without looking into its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dormant {
    /// None where it is for ever.
    pub(crate) due: Option<Instant>,
    /// From when on it may be renewed together with others.
    pub(crate) may_renew_from: Option<Instant>,
    /// The link is as the record says.
    pub(crate) known: bool,
    /// The process died at work on it: it is done last, and alone.
    pub(crate) is_suspect: bool,
    /// Something failed, and the process need not stay for the next try.
    pub(crate) is_retry: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Tells the one who makes a lease to leave off.
    cancel: Event,
    /// Tells everybody that the place is free or holds a lease.
    over: Event,
}

/// A lease that a task does something for.
#[derive(Debug)]
pub(crate) struct Active {
    /// Tells the task to stop; it gives the session back then, if it has one.
    pub(crate) stop: Event,
    pub(crate) task: Task<Option<Session>>,
    pub(crate) _activity: Activity,
}

/// A lease that was there when somebody took its place.
pub(crate) enum Before {
    Active(Box<Active>),
    Dormant,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(
        runtime: Runtime,
        idle: Idle,
        notify: Notify,
        (file, memory, networks, journal): (LeaseFile, AddressHistory, Networks, Rc<Journal>),
        (habits, identity): (DhcpSettings, ClientIdentity),
        sleep: Sleep,
    ) -> Rc<Self> {
        Rc::new(Self {
            commons: Rc::new(SessionContext {
                runtime,
                habits,
                memory: RefCell::new(memory),
            }),
            idle,
            pace: RenewalRate::new(),
            sleep,
            silence: RefCell::default(),
            journal,
            changed: Event::new(),
            slots: RefCell::default(),
            notify,
            file,
            adoption: Adoption::default(),
            identity,
            networks: RefCell::new(networks),
            unsaved: Cell::default(),
            saving: Cell::default(),
            trouble: RefCell::default(),
            told: Cell::default(),
        })
    }

    /// Serves one call. Dropping the future cancels it: a Setup leaves nothing behind, a Teardown
    /// goes on alone. When `counting` resolves, a Setup has to come to an end.
    pub(crate) async fn serve(
        self: Rc<Self>,
        call: Call,
        counting: Closing,
    ) -> Result<Answer, Status> {
        // It may be about one of them.
        self.adoption.is_over().await;
        let reply = match call {
            Call::Setup(config) => {
                let leaving = async {
                    counting.await;
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
                self.end_all().await;
                Reply::Operation(OperationResponse {
                    success: self.trouble.borrow().is_none(),
                })
            }
        };
        Ok(Answer {
            reply,
            warning: self.trouble.borrow().clone(),
        })
    }

    async fn setup(self: &Rc<Self>, config: NetworkConfig) -> Result<Lease, Error> {
        let mut request = Request::parse(config, &self.identity)?;
        let netns = canonical(&request.ns_path);
        if *netns != *request.ns_path {
            request.key.netns = netns.into();
        }
        let key = request.key.clone();
        self.journal.watch(&key, self.set_up(request)).await
    }

    async fn set_up(self: &Rc<Self>, mut request: Request) -> Result<Lease, Error> {
        // A call that cannot be served leaves alone what is there.
        let (site, parent) = ContainerInterface::find(&request)?;
        let patience = self.patience_for(&mut request, parent);
        let key = request.key.clone();
        // The MAC has changed since: what was leased for the other one is of no use any more.
        let keys = self.keys(|other| other.is_predecessor(&key));
        if !keys.is_empty() {
            self.end_each(keys, |_| None).await;
        }
        // Declared before the session, so dropped after it: the place is free when nothing of the
        // session is left.
        let (mut claim, before) = self.claim(&key).await;
        // A container that is set up again.
        if let Some(before) = before {
            let table = Rc::clone(self);
            let client_id = request.client_id.clone();
            // Goes on when the caller hangs up: until it is over nobody else may have the place.
            let journal = Rc::clone(&self.journal);
            let ending = self.commons.runtime.spawn(journal.watch(&key, async move {
                // To the server another client identifier is another client, and the old one will
                // not be back.
                table
                    .dismiss(&claim, before, |who| who.client_id != client_id)
                    .await;
                claim
            }));
            claim = Finish(Some(ending)).await;
        }
        let wish = self.commons.memory.borrow_mut().recall(request.who());
        let asked = request.clone();
        self.note(&key, &Record::intent(&request, &site));
        self.persist().await;
        let leased = async |session: &Session| self.noted(&key, session, Change::Settings).await;
        let (table, place) = (Rc::clone(self), key.clone());
        // A crash in the middle of it is to be followed by the rest of it.
        let undoing = BeforeRollback(Box::new(move || table.note_ending(&place)));
        let network = request.host_interface.clone();
        let chosen = (wish, patience);
        let acquisition = Session::acquire(
            Rc::clone(&self.commons),
            request,
            site,
            chosen,
            (leased, undoing),
        );
        let cancelled = async {
            claim.cancelled().await;
            Err(Error::Superseded)
        };
        let acquired = or(cancelled, acquisition).await;
        if let (Some(wish), Err(error)) = (wish, &acquired)
            && error.is_of_network()
        {
            self.commons.memory.borrow_mut().forget(asked.who(), wish);
        }
        let is_auto = self.commons.habits.acquisition == Timeout::Auto;
        // One interface without a carrier tells nothing of the network.
        if let (
            true,
            Err(
                error @ Error::NoAnswer {
                    is_unanswered: true,
                    ..
                },
            ),
        ) = (is_auto, &acquired)
            && error.is_of_network()
        {
            self.networks
                .borrow_mut()
                .note_unanswered(&network, rt::now());
        }
        let mut session = acquired?;
        let lease = session.reply().expect("acquired");
        session.settle();
        claim.settle(self.hold(key.clone(), session));
        self.save_within(SOON);
        self.tell();
        Ok(lease)
    }

    /// Returns the time for an acquisition on `parent`, whose name takes the place of one that the
    /// caller has not given.
    fn patience_for(&self, request: &mut Request, parent: Option<Parent>) -> Patience {
        let (carrier, is_port_starting) = match parent {
            Some(parent) => {
                if request.host_interface.is_empty() {
                    request.host_interface = parent.name;
                }
                (Some(parent.carrier), parent.is_port_starting)
            }
            None => (None, false),
        };
        match self.commons.habits.acquisition {
            Timeout::Exactly(time) => Patience::told(time),
            Timeout::Unlimited => Patience::told(Duration::MAX),
            Timeout::Auto => {
                let mut networks = self.networks.borrow_mut();
                let network = networks.circumstances(&request.host_interface, carrier, rt::now());
                Patience::decide(&Circumstances {
                    is_port_starting,
                    ..network
                })
            }
        }
    }

    /// Never fails: what is not there is as good as torn down.
    async fn teardown(self: &Rc<Self>, config: &NetworkConfig) -> Lease {
        let Some(selector) = Selector::parse(config) else {
            return Lease::default();
        };
        let selector = selector.with_netns(canonical);
        let mut keys = self.keys(|key| selector.matches_interface(key));
        if keys.is_empty() {
            keys = self.keys(|key| selector.matches_mac(key));
            // Another interface may have the same MAC.
            keys.retain(|key| {
                selector
                    .interface()
                    .is_none_or(|name| self.is_named(key, name))
            });
        }
        self.end_each(keys, |_| None).await.unwrap_or_default()
    }

    /// Returns whether a lease's interface has this name by now, or is not there any more.
    fn is_named(&self, key: &LeaseKey, name: &str) -> bool {
        let Some(record) = self.record(key) else {
            return false;
        };
        let _step = self.journal.enter(key);
        match record.interface.name(&record.request) {
            Ok(there) => there == name,
            Err(unreachable) => matches!(unreachable, Unreachable::Gone(_)),
        }
    }

    fn keys(&self, chosen: impl Fn(&LeaseKey) -> bool) -> Vec<LeaseKey> {
        self.slots
            .borrow()
            .keys()
            .filter(|key| chosen(key))
            .cloned()
            .collect()
    }

    /// Ends and releases all leases, and cancels those in the making, at a pace that the network
    /// bears.
    pub(crate) async fn end_all(self: &Rc<Self>) {
        self.end_each(self.keys(|_| true), |now| Some(self.pace.turn(now)))
            .await;
    }

    /// Ends and releases leases, each when it is its `turn`, and cancels those in the making.
    /// Returns one of them.
    async fn end_each(
        self: &Rc<Self>,
        keys: Vec<LeaseKey>,
        turn: impl Fn(Instant) -> Option<Instant>,
    ) -> Option<Lease> {
        let endings: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let (table, turn) = (Rc::clone(self), turn(rt::now()));
                let ending = async move {
                    if let Some(turn) = turn {
                        table.commons.sleep_until(turn).await;
                    }
                    table.journal.watch(&key, table.end(&key)).await
                };
                Finish(Some(self.commons.runtime.spawn(ending)))
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

    async fn end(self: &Rc<Self>, key: &LeaseKey) -> Option<Lease> {
        let (claim, before) = self.claim(key).await;
        let before = before?;
        let lease = self.record(key).and_then(|record| record.reply());
        self.dismiss(&claim, before, |_| true).await;
        lease
    }

    /// Ends a lease whose place is taken, released or not.
    async fn dismiss(
        self: &Rc<Self>,
        claim: &Claim,
        before: Before,
        release: impl FnOnce(ContainerNames<'_>) -> bool,
    ) {
        // The caller may hang up, but this has to be done before the daemon leaves.
        let _activity = self.idle.activity();
        let session = match before {
            Before::Active(awake) => awake.stop().await,
            Before::Dormant => None,
        };
        let Some(record) = self.record(&claim.key) else {
            return;
        };
        self.remember(record.who(), &record);
        let release = release(record.who());
        // From here on a crash does not bring it back or, where it stays leased, leaves its link in
        // doubt.
        let noted = if release {
            record.clone().ending()
        } else {
            record.clone().with_look()
        };
        self.note(&claim.key, &noted);
        self.persist().await;
        let place = record.place();
        let ended =
            match session.map_or_else(|| self.revive(record, false), |session| Ok(Some(session))) {
                Ok(Some(session)) => session.end(release).await,
                Ok(None) => Ok(()),
                Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
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

    /// A session that goes on with a record, `early` to renew it before its time. None where there
    /// is nothing to go on with.
    pub(crate) fn revive(
        &self,
        record: Record,
        early: bool,
    ) -> Result<Option<Session>, Unreachable> {
        Session::revive(&self.commons, record, early)
    }

    /// Keeps in mind what a container had that is about to lose it.
    pub(crate) fn remember(&self, who: ContainerNames<'_>, record: &Record) {
        if let Some(address) = record.address() {
            self.commons.memory.borrow_mut().remember(who, address);
        }
    }
}

impl SlotState {
    /// The lease at rest, if it is.
    pub(crate) fn resting(&self) -> Option<&Dormant> {
        match self {
            Self::Dormant(resting) => Some(resting),
            Self::Taken(_) | Self::Active(_) => None,
        }
    }
}

impl Dormant {
    pub(crate) fn of(record: &Record, known: bool) -> Self {
        let is_retry = record.is_retry();
        Self {
            due: record.due(),
            may_renew_from: record.may_renew_from(),
            known,
            is_suspect: false,
            is_retry,
        }
    }

    /// The same, as far as it can be trusted.
    pub(crate) fn trusted(self, trust: Trust, now: Instant) -> Self {
        match trust {
            Trust::Full => self,
            Trust::Last => Self {
                due: self.due.map(|due| due.max(now)),
                may_renew_from: None,
                is_suspect: true,
                ..self
            },
            Trust::Quarantined => Self {
                due: None,
                may_renew_from: None,
                ..self
            },
        }
    }
}

impl Active {
    /// Stops the task, and takes the session from it.
    async fn stop(self: Box<Self>) -> Option<Session> {
        self.stop.notify(usize::MAX);
        self.task.await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::dhcp::Probe;
    use crate::proxy::config::ClientId;
    use crate::proxy::config::MtuRule;
    use crate::proxy::store::directory::StateDirectory;

    /// A table whose files are in `folder`.
    pub(crate) fn table(runtime: &Runtime, folder: &Path) -> Rc<Table> {
        let habits = DhcpSettings {
            acquisition: Timeout::Unlimited,
            probe: Probe::Off,
            broadcast: false,
            client_id: ClientId::Container,
            fqdn: false,
            mtu: MtuRule::Lower,
            rapid_commit: true,
            servers: Vec::new(),
            denied_servers: Vec::new(),
        };
        let directory = StateDirectory::lock(&folder.join("lock"), None).unwrap();
        let (file, memory) = (
            LeaseFile::new(&directory, "leases"),
            AddressHistory::new(&directory, "known", "boot"),
        );
        let networks = Networks::new(&directory, "networks", file.boot_id());
        let files = (file, memory, networks, Journal::new(&directory, "work"));
        let sleep = Sleep::new(Err("a test".into()), Duration::ZERO);
        let identity = (habits, ClientIdentity::Container);
        Table::new(
            runtime.clone(),
            Idle::new(None),
            Notify::none(),
            files,
            identity,
            sleep,
        )
    }
}
