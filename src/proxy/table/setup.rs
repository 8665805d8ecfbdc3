//! Setup: acquires a container's lease, or rolls everything back.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use crate::proxy::acquire_timeout::{AcquireTimeout, Circumstances};
use crate::proxy::call::request::Request;
use crate::proxy::config::Timeout;
use crate::proxy::container::interface::{ContainerInterface, canonical};
use crate::proxy::container::parent::Parent;
use crate::proxy::error::CallError;
use crate::proxy::session::{Change, Session};
use crate::proxy::store::record::Record;
use crate::rpc::{NetavarkLease, NetworkConfig};
use crate::rt;
use crate::service::Shutdown;

use super::claim::{Claim, DetachOnDrop};
use super::state::{Cancellation, Table};

/// The time that a Setup gets at a shutdown, shorter than that of its connection.
const SETUP_GRACE: Duration = Duration::from_secs(3);

/// Cancels a Setup when its caller hangs up.
struct CancelOnDrop(Rc<Cancellation>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Table {
    /// Serves a Setup. When `closing` resolves, it has to end within [`SETUP_GRACE`].
    ///
    /// A drop rolls the Setup back. A Setup that succeeds in the same moment stays until its
    /// Teardown.
    ///
    /// # Errors
    ///
    /// The request is invalid, or no server gave a lease.
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
        // A task, because a rollback goes on after the caller has hung up.
        let (table, told, activity) = (Rc::clone(self), Rc::clone(&cancel), self.idle.activity());
        let work = async move {
            let made = table.run_setup(request, &told).await;
            drop(activity);
            made
        };
        let task = self.context.runtime.spawn(self.journal.watch(&key, work));
        let mut made = DetachOnDrop(Some(task));
        let _hang_up = CancelOnDrop(Rc::clone(&cancel));
        let leaving = async {
            closing.await;
            rt::sleep(SETUP_GRACE).await;
            None
        };
        if let Some(made) = or(async { Some((&mut made).await) }, leaving).await {
            return made;
        }
        cancel.cancel();
        made.await.map_err(|error| match error {
            CallError::Superseded => CallError::Stopping,
            error => error,
        })
    }

    async fn run_setup(
        self: &Rc<Self>,
        mut request: Request,
        cancel: &Rc<Cancellation>,
    ) -> Result<NetavarkLease, CallError> {
        // Before the claim: an invalid request leaves an existing lease alone.
        let (interface, parent) = ContainerInterface::find(&request)?;
        let timeout = self.timeout_for(&mut request, parent);
        let claimed = async { Ok(self.claim_for_setup(&request, cancel).await) };
        let claim = or(superseded(cancel), claimed).await?;
        self.set_record(&claim.key, &Record::intent(&request, &interface));
        // Before sockets are opened, whose close takes the kernel 10 ms each.
        let saved = async {
            self.persist().await;
            Ok(())
        };
        or(superseded(cancel), saved).await?;
        let session = self
            .acquire(request, interface, timeout, (&claim, cancel))
            .await?;
        let lease = session.reply().expect("acquired");
        let active = self.spawn_session(claim.key.clone(), session);
        claim.activate(active);
        Ok(lease)
    }

    /// Claims the slot of a request, and ends the lease in it.
    async fn claim_for_setup(
        self: &Rc<Self>,
        request: &Request,
        cancel: &Rc<Cancellation>,
    ) -> Claim {
        let key = &request.key;
        // Leases from before a change of the MAC are of no use.
        let predecessors = self.keys(|other| other.is_predecessor(key));
        if !predecessors.is_empty() {
            self.end_leases(predecessors, |_| None).await;
        }
        let (claim, before) = self.claim(key, cancel).await;
        // A container that is set up again.
        let Some(before) = before else {
            return claim;
        };
        let (table, client_id) = (Rc::clone(self), request.client_id.clone());
        let ending = async move {
            // A client identifier that has changed is another client for the server. The old lease
            // is released. A failure is logged, and this Setup finds out what it means.
            let _ = table
                .end_claimed(&claim, before, |names| names.client_id != client_id)
                .await;
            claim
        };
        // Goes on after a cancellation: no other call may get the slot before it ends.
        let task = self.journal.watch(key, ending);
        DetachOnDrop(Some(self.context.runtime.spawn(task))).await
    }

    /// Acquires a lease, or rolls back.
    async fn acquire(
        self: &Rc<Self>,
        request: Request,
        interface: ContainerInterface,
        timeout: AcquireTimeout,
        (claim, cancel): (&Claim, &Rc<Cancellation>),
    ) -> Result<Session, CallError> {
        let asked = request.clone();
        let wanted = self.context.history.borrow_mut().recall(asked.names());
        let opened = Session::open(&self.context, request, interface, (wanted, timeout));
        let acquired = match opened {
            Ok(mut session) => {
                let leased = async |session: &Session| {
                    self.record_session(&claim.key, session, Change::Settings)
                        .await;
                };
                match or(superseded(cancel), session.acquire(leased)).await {
                    Ok(()) => Ok(session),
                    Err(error) => {
                        // Written ahead: after a crash, the next start finishes the release.
                        session.roll_back(|| self.write_ending(&claim.key)).await;
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &acquired
            && error.is_network_failure()
        {
            if let Some(wanted) = wanted {
                let mut history = self.context.history.borrow_mut();
                history.forget(asked.names(), wanted);
            }
            let is_auto = self.context.settings.acquisition == Timeout::Auto;
            if is_auto && error.is_unanswered() {
                let mut networks = self.networks.borrow_mut();
                networks.record_unanswered(&asked.host_interface, rt::now());
            }
        }
        acquired
    }

    /// Returns the time limit on `parent`. Its name is put into the request where the caller gave
    /// none.
    fn timeout_for(&self, request: &mut Request, parent: Option<Parent>) -> AcquireTimeout {
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
            Timeout::Exactly(time) => AcquireTimeout::exactly(time),
            Timeout::Unlimited => AcquireTimeout::exactly(Duration::MAX),
            Timeout::Auto => {
                let mut networks = self.networks.borrow_mut();
                let network = networks.circumstances(&request.host_interface, carrier, rt::now());
                AcquireTimeout::decide(&Circumstances {
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
