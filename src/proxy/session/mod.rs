//! A session: one lease that is being worked on. One loop joins the DHCP client, the sockets of an
//! exchange, and the container's link.
//!
//! | file | part |
//! |---|---|
//! | `acquire.rs` | the first lease, while the caller of Setup waits |
//! | `receive.rs` | waiting for frames, link changes and deadlines |
//! | `link.rs` | address, routes and MTU |
//! | `end.rs` | release and rollback |
//! | `resume.rs` | from a record to a session and back |
//! | `config.rs` | the client's configuration |
//! | `events.rs` | events for the program of `--on-change` |
//! | `limits.rs` | rate limits |
//! | `log_text.rs` | texts for the log |

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::dhcp::{Client, Event};
use crate::net::raw;
use crate::rpc::NetavarkLease;
use crate::rt::{self, Runtime};
use crate::time::Instant;

use crate::proxy::acquire_timeout::AcquireDeadline;
use crate::proxy::call::reply;
use crate::proxy::call::request::Request;
use crate::proxy::config::DhcpSettings;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::{ContainerInterface, Unreachable};
use crate::proxy::container::sockets::{ExchangeSockets, LinkState, is_link_away};
use crate::proxy::error::CallError;
use crate::proxy::key::ContainerNames;
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::counters::{Counter, Counters, FailureReason};
use crate::proxy::store::record::{LeaseTrouble, Record};

mod acquire;
mod config;
mod end;
mod events;
mod limits;
mod link;
pub(crate) mod log_text;
mod receive;
mod resume;

pub(crate) use events::{EventProgram, LeaseEvent};
use limits::{ReceiveRate, ReopenDelay};

/// The delay before sockets that could not be opened are opened again, and before the first recheck
/// of a link that does not match its lease. Each further recheck waits twice as long, up to
/// [`MAX_RECHECK`].
const MIN_RECHECK: Duration = Duration::from_secs(5);
const MAX_RECHECK: Duration = Duration::from_secs(300);

/// The parts that all sessions share.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) runtime: Runtime,
    pub(crate) settings: DhcpSettings,
    pub(crate) history: RefCell<AddressHistory>,
    pub(crate) counters: RefCell<Counters>,
    /// The program of `--on-change`.
    pub(crate) events: Option<Rc<EventProgram>>,
}

/// The lease of one container interface while it is being worked on. Each interface has a client of
/// its own (RFC 2131 §3.6).
///
/// A failure before the session is [committed](Session::commit) must be [rolled
/// back](Session::roll_back): the lease is released and the link restored. A committed lease
/// outlives the process: kernel and server know when it ends, and its [record](Session::record)
/// says how to resume it.
#[derive(Debug)]
pub(crate) struct Session {
    context: Rc<SessionContext>,
    request: Request,
    interface: ContainerInterface,
    client: Client,
    /// Open during an exchange only: a socket keeps the container's namespace alive.
    sockets: Option<ExchangeSockets>,
    reopen_delay: ReopenDelay,
    receive_rate: ReceiveRate,
    /// The state at the last check.
    link_state: LinkState,
    applied: Applied,
    is_committed: bool,
    /// The link may not match the lease.
    is_link_stale: bool,
    /// Failed rechecks of the link in a row.
    rechecks: u32,
    /// The last failure, which is logged once while it persists.
    last_error: String,
    last_trouble: Option<LeaseTrouble>,
    is_taken_port_logged: bool,
    /// A message of this exchange could not be sent, which is counted once.
    is_send_failure_counted: bool,
    /// Set while the caller of Setup waits.
    deadline: Option<Box<AcquireDeadline>>,
    /// A RELEASE is being sent, for which the interface may have another MAC by now.
    is_releasing: bool,
    /// The last message of the release: whether it is ARP, or the failure to send it.
    sent_frame: Option<Result<bool, String>>,
}

/// The end of a [run](Session::run).
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing to do before the record is due.
    Dormant(Box<Record>),
    /// The container or its interface no longer exists.
    Gone,
}

/// The effect of an event on a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// More time for the same lease.
    Lifetime,
    /// A lease with other settings, or none.
    Settings,
}

/// The result of [`Session::next_step`].
enum NextStep {
    Event(Event),
    Dormant(Box<Record>),
    Gone(String),
    /// The interface has another MAC now.
    OtherMac(String),
}

impl NextStep {
    /// Returns the step that ends a lease, or the error of a failure that may pass.
    fn end(unreachable: Unreachable) -> Result<Self, CallError> {
        match unreachable {
            Unreachable::Gone(why) => Ok(Self::Gone(why)),
            Unreachable::OtherMac(why) => Ok(Self::OtherMac(why)),
            Unreachable::Fault(error) => Err(error),
        }
    }
}

impl SessionContext {
    pub(crate) fn count(&self, counter: Counter) {
        self.counters.borrow_mut().count(counter);
    }

    pub(crate) async fn sleep_until(&self, time: Instant) {
        if let Err(error) = self.runtime.sleep_until(time).await {
            log::error!("cannot sleep on the boot clock: {error}");
            rt::sleep(MIN_RECHECK).await;
        }
    }
}

impl Session {
    fn new(
        context: Rc<SessionContext>,
        request: Request,
        interface: ContainerInterface,
        client: Client,
        mut applied: Applied,
    ) -> Self {
        if let Some(lease) = client.lease() {
            applied.set_address_and_gateway(lease);
        }
        Self {
            context,
            request,
            interface,
            client,
            sockets: None,
            reopen_delay: ReopenDelay::default(),
            receive_rate: ReceiveRate::default(),
            link_state: LinkState::Ready,
            applied,
            is_committed: false,
            is_link_stale: false,
            rechecks: 0,
            last_error: String::new(),
            last_trouble: None,
            is_taken_port_logged: false,
            is_send_failure_counted: false,
            deadline: None,
            is_releasing: false,
            sent_frame: None,
        }
    }

    /// Marks the lease as in use (RFC 2131 §3.2 (4)): a drop leaves lease and link alone from now
    /// on.
    fn commit(&mut self) {
        self.is_committed = true;
        self.client.mark_in_use();
    }

    /// Returns the reply to Setup; `None` where there is no lease.
    pub(crate) fn reply(&self) -> Option<NetavarkLease> {
        self.client
            .lease()
            .map(|lease| reply::reply(&self.request, lease))
    }

    /// Returns the names of the container.
    pub(crate) fn names(&self) -> ContainerNames<'_> {
        ContainerNames {
            client_id: &self.client.config().client_id,
            ..self.request.names()
        }
    }

    /// Works on the lease until nothing is to be done or the container is gone. Reports each change
    /// to `changed` before it is applied to the link. May be dropped at any time, and called again.
    pub(crate) async fn run(&mut self, changed: impl AsyncFn(&Self, Change)) -> Outcome {
        loop {
            let event = match self.next_step().await {
                NextStep::Event(event) => event,
                NextStep::Dormant(record) => return Outcome::Dormant(record),
                NextStep::Gone(why) => {
                    log::info!("{self}: {why}; the lease is left to expire");
                    // Removes what is left, should the interface be there after all.
                    let _ = self.take_off_link();
                    if let Some(lease) = self.client.lease() {
                        self.emit(LeaseEvent::Gone, lease);
                    }
                    return Outcome::Gone;
                }
                NextStep::OtherMac(why) => {
                    // The server binds the lease to the MAC (RFC 2131 §4.3.2): it cannot be renewed
                    // from another one.
                    log::info!("{self}: {why}; releasing the lease");
                    let lease = self.client.lease().cloned();
                    let failed = self.release().await;
                    let undone = self.take_off_link();
                    self.set_link_result(undone);
                    if let Some(lease) = lease {
                        let event = if failed.is_none() {
                            LeaseEvent::Released
                        } else {
                            LeaseEvent::Unreleased
                        };
                        self.emit(event, &lease);
                    }
                    return Outcome::Gone;
                }
            };
            if self.log_notice(&event) {
                continue;
            }
            changed(
                self,
                if matches!(event, Event::Renewed(_)) {
                    Change::Lifetime
                } else {
                    Change::Settings
                },
            )
            .await;
            match event {
                Event::Bound(lease) => {
                    self.context.count(Counter::Acquisition);
                    self.log_left_out_domains(&lease);
                    self.apply(&lease);
                    self.emit(LeaseEvent::Bound, &lease);
                }
                Event::Renewed(lease) => {
                    self.apply(&lease);
                    self.emit(LeaseEvent::Renewed, &lease);
                }
                Event::Changed { old, new } => {
                    if old.search != new.search || old.domain_name != new.domain_name {
                        self.log_left_out_domains(&new);
                    }
                    self.apply(&new);
                    let change = log_text::LeaseChange(&old, &new).to_string();
                    if !change.is_empty() {
                        log::info!("{self}: {} changed {change}", new.server_id);
                    }
                    self.emit(LeaseEvent::Changed(old.address), &new);
                }
                Event::Lost { old, why } => {
                    self.apply_loss(&old, &why);
                    self.emit(LeaseEvent::Lost(&why), &old);
                }
                Event::Declined { .. } | Event::Unusable { .. } | Event::Contested { .. } => {}
                Event::ProxyArp { .. } | Event::NoLeaseTime { .. } => {}
                Event::GaveUp(_) | Event::Released => return Outcome::Gone,
            }
        }
    }

    /// Opens the sockets, unless they are open or a delay is in force.
    fn open_sockets(&mut self) -> Result<(), Unreachable> {
        if self.sockets.is_none()
            && (self.is_releasing || self.reopen_delay.until(rt::now()).is_none())
        {
            let open = if self.is_releasing {
                ContainerInterface::open_for_release
            } else {
                ContainerInterface::open
            };
            let sockets = open(&self.interface, &self.request)?;
            self.client.handle_mtu(sockets.mtu);
            self.sockets = Some(sockets);
            self.is_send_failure_counted = false;
            log::debug!("{self}: opened its sockets");
            self.update_carrier();
        }
        Ok(())
    }

    /// Passes the state of the link to the client.
    fn update_carrier(&mut self) {
        let Some(state) = self.sockets.as_ref().map(|sockets| sockets.state) else {
            return;
        };
        let before = std::mem::replace(&mut self.link_state, state);
        if before != state {
            log::info!("{self}: {state}");
            if state == LinkState::Ready {
                self.record_carrier();
            } else {
                self.set_trouble(&state.to_string());
            }
        }
        // The kernel removes the routes of an interface that goes down.
        self.is_link_stale |= state == LinkState::Down;
        self.client
            .handle_carrier(state == LinkState::Ready, rt::now());
    }

    /// Returns whether the sockets are open and there is a carrier.
    fn can_send(&self) -> bool {
        self.sockets
            .as_ref()
            .is_some_and(|sockets| sockets.state == LinkState::Ready)
    }

    /// Returns the next event, or the end of the run. May be dropped without losing an event.
    async fn next_step(&mut self) -> NextStep {
        loop {
            self.count();
            // Before the sockets are closed, which the caller of Setup need not wait for.
            if let Some(event) = self.client.poll_event() {
                return NextStep::Event(event);
            }
            if self.client.is_listening() {
                match self.open_sockets().map_err(NextStep::end) {
                    Ok(()) => {}
                    Err(Ok(end)) => return end,
                    Err(Err(error)) => self.set_link_result(Err(error)),
                }
                // A missing carrier may have ended the acquisition.
                if let Some(event) = self.client.poll_event() {
                    return NextStep::Event(event);
                }
            }
            if self.is_link_stale
                && !self.is_down()
                && (self.sockets.is_some() || !self.client.is_listening())
            {
                match self.restore_link().map_err(NextStep::end) {
                    Err(Ok(end)) => return end,
                    Err(Err(error)) => self.set_link_result(Err(error)),
                    Ok(()) => self.set_link_result(Ok(())),
                }
            }
            if !self.send() {
                continue;
            }
            if !self.client.is_listening() {
                self.sockets = None;
                if let Some(record) = self.record().filter(|_| self.is_committed) {
                    return NextStep::Dormant(Box::new(record));
                }
            }
            self.wait().await;
        }
    }

    /// Sends the client's messages. A failure counts as a lost message, which the client
    /// retransmits. Returns `false` where it shows that the interface is down or gone.
    fn send(&mut self) -> bool {
        let mut in_doubt = false;
        // Before a message that may be answered by ARP.
        let of_interest = self.client.arp_address();
        if let Some(Err(error)) = self
            .sockets
            .as_mut()
            .map(|sockets| sockets.set_arp_filter(of_interest))
        {
            // New sockets would fail as well, and a lease without conflict detection is better than
            // none.
            log::warn!("{self}: cannot filter ARP: {error}; not detecting address conflicts");
        }
        let mut bytes = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(&mut bytes) {
            let Some(sockets) = self
                .sockets
                .as_ref()
                .filter(|sockets| sockets.state == LinkState::Ready)
            else {
                continue;
            };
            let peer = self.client.lease().and_then(|lease| lease.server_mac);
            if sockets.is_port_taken() && !std::mem::replace(&mut self.is_taken_port_logged, true) {
                log::info!(
                    "{self}: the container uses UDP port 68 itself; sending by packet socket only"
                );
            }
            let sent = sockets.send(transmit, &bytes, self.request.key.mac, peer);
            if self.is_releasing {
                let is_arp = raw::arp_sender(&bytes).is_some();
                let sent = sent.as_ref().map(|()| is_arp);
                self.sent_frame = Some(sent.map_err(ToString::to_string));
            }
            if let Err(error) = sent {
                let state = self.client.state();
                log::warn!("{self}: cannot send in state {state}: {error}");
                self.set_trouble(&format!("cannot send in state {state}: {error}"));
                if !std::mem::replace(&mut self.is_send_failure_counted, true) {
                    self.context.count(Counter::Failure(FailureReason::Kernel));
                }
                if is_link_away(&error) {
                    self.suspect_link();
                    in_doubt = true;
                }
            }
        }
        !in_doubt
    }

    /// Adds to the daemon's counters what the client has counted.
    fn count(&mut self) {
        let tally = self.client.take_tally();
        self.context.counters.borrow_mut().add_tally(&tally);
    }

    /// Records trouble for the lease's record.
    fn set_trouble(&mut self, text: &str) {
        self.last_trouble = Some(LeaseTrouble::new(text, rt::now()));
    }

    /// Returns whether the interface is down. The open sockets report its return.
    fn is_down(&self) -> bool {
        self.sockets
            .as_ref()
            .is_some_and(|sockets| sockets.state == LinkState::Down)
    }
}

/// The prefix of log lines about the lease.
impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = self.client.lease();
        let address = lease.map(|lease| (lease.address, lease.prefix_len));
        self.request.key.log_prefix(address).fmt(f)
    }
}

/// Returns the random seed of a client's transaction ids and jitter.
fn seed() -> Result<u64, CallError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| CallError::fault("asking for random numbers")(errno.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
