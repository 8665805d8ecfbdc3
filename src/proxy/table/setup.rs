//! Setup: a container's first lease, and everything undone where it comes to nothing.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use crate::proxy::call::request::Request;
use crate::proxy::config::Timeout;
use crate::proxy::container::interface::{ContainerInterface, canonical};
use crate::proxy::container::parent::Parent;
use crate::proxy::error::CallError;
use crate::proxy::patience::{Circumstances, Patience};
use crate::proxy::session::{Change, Session};
use crate::proxy::store::record::Record;
use crate::rpc::{NetavarkLease, NetworkConfig};
use crate::rt;
use crate::service::Shutdown;

use super::claim::{Claim, Finish};
use super::state::{Cancellation, Table};

/// How long a Setup may still take once the time of a drain counts: less than its connection has.
const LAST_CHANCE: Duration = Duration::from_secs(3);

/// Makes a Setup give up when its caller has gone.
struct CancelOnDrop(Rc<Cancellation>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Table {
    /// Gets a lease for the container of a call. When `closing` resolves, the Setup has a moment to
    /// come to its end.
    ///
    /// Dropped, the future makes the Setup give up, which leaves nothing behind. A Setup that has
    /// succeeded in the same moment stays: the caller's Teardown ends it.
    ///
    /// # Errors
    ///
    /// The request cannot be served, or no server gave a lease.
    pub(super) async fn setup(
        self: &Rc<Self>,
        config: NetworkConfig,
        closing: Shutdown,
    ) -> Result<NetavarkLease, CallError> {
        let mut request = Request::parse(config, &self.identity)?;
        let netns = canonical(&request.ns_path);
        if *netns != *request.ns_path {
            request.key.netns = netns.into();
        }
        let (key, cancel) = (request.key.clone(), Rc::<Cancellation>::default());
        // A task of its own, because a roll-back takes time after the caller has gone.
        let (table, told, activity) = (Rc::clone(self), Rc::clone(&cancel), self.idle.activity());
        let work = async move {
            let made = table.set_up(request, &told).await;
            drop(activity);
            made
        };
        let task = self.context.runtime.spawn(self.journal.watch(&key, work));
        let mut made = Finish(Some(task));
        let _hang_up = CancelOnDrop(Rc::clone(&cancel));
        let leaving = async {
            closing.await;
            rt::sleep(LAST_CHANCE).await;
            None
        };
        if let Some(made) = or(async { Some((&mut made).await) }, leaving).await {
            return made;
        }
        cancel.cancel();
        made.await.map_err(|error| match error {
            CallError::Superseded => CallError::Leaving,
            error => error,
        })
    }

    async fn set_up(
        self: &Rc<Self>,
        mut request: Request,
        cancel: &Rc<Cancellation>,
    ) -> Result<NetavarkLease, CallError> {
        // A call that cannot be served leaves alone what is there.
        let (interface, parent) = ContainerInterface::find(&request)?;
        let patience = self.patience_for(&mut request, parent);
        let claimed = async { Ok(self.claim_for_setup(&request, cancel).await) };
        let claim = or(superseded(cancel), claimed).await?;
        self.set_record(&claim.key, &Record::intent(&request, &interface));
        self.persist().await;
        let session = self
            .acquire(request, interface, patience, (&claim, cancel))
            .await?;
        let lease = session.reply().expect("acquired");
        let active = self.keep(claim.key.clone(), session);
        claim.settle(active);
        Ok(lease)
    }

    /// Claims the slot of a request, and ends the lease that was in it.
    async fn claim_for_setup(
        self: &Rc<Self>,
        request: &Request,
        cancel: &Rc<Cancellation>,
    ) -> Claim {
        let key = &request.key;
        // The MAC has changed since: what was leased for the other one is of no use any more.
        let predecessors = self.keys(|other| other.is_predecessor(key));
        if !predecessors.is_empty() {
            self.end_each(predecessors, |_| None).await;
        }
        let (claim, before) = self.claim(key, cancel).await;
        // A container that is set up again.
        let Some(before) = before else {
            return claim;
        };
        let (table, client_id) = (Rc::clone(self), request.client_id.clone());
        let dismissal = async move {
            // To the server another client identifier is another client, and the old one will not
            // be back.
            table
                .dismiss(&claim, before, |names| names.client_id != client_id)
                .await;
            claim
        };
        // Goes on when the call is cancelled: until it is over no other call may have the slot.
        let task = self.journal.watch(key, dismissal);
        Finish(Some(self.context.runtime.spawn(task))).await
    }

    /// Gets a lease and puts it on the link, or undoes all of it.
    async fn acquire(
        self: &Rc<Self>,
        request: Request,
        interface: ContainerInterface,
        patience: Patience,
        (claim, cancel): (&Claim, &Rc<Cancellation>),
    ) -> Result<Session, CallError> {
        let asked = request.clone();
        let wanted = self.context.history.borrow_mut().recall(asked.who());
        let opened = Session::open(&self.context, request, interface, (wanted, patience));
        let acquired = match opened {
            Ok(mut session) => {
                let leased = async |session: &Session| {
                    self.record_session(&claim.key, session, Change::Settings)
                        .await;
                };
                match or(superseded(cancel), session.acquire(leased)).await {
                    Ok(()) => Ok(session),
                    Err(error) => {
                        // A crash in the middle of it is to be followed by the rest of it.
                        session.roll_back(|| self.write_ending(&claim.key)).await;
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &acquired
            && error.is_of_network()
        {
            if let Some(wanted) = wanted {
                let mut history = self.context.history.borrow_mut();
                history.forget(asked.who(), wanted);
            }
            let is_auto = self.context.settings.acquisition == Timeout::Auto;
            if is_auto && error.is_unanswered() {
                let mut networks = self.networks.borrow_mut();
                networks.note_unanswered(&asked.host_interface, rt::now());
            }
        }
        acquired
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
        match self.context.settings.acquisition {
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
}

/// Fails when the call is cancelled.
async fn superseded<T>(cancel: &Cancellation) -> Result<T, CallError> {
    cancel.cancelled().await;
    Err(CallError::Superseded)
}
