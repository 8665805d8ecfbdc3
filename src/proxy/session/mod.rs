//! One lease at work: the client, the sockets while they are needed, the link, and the loop that
//! joins them.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::dhcp::{Client, Event};
use crate::rpc::NetavarkLease;
use crate::rt::{self, Runtime};
use crate::time::Instant;

use crate::proxy::call::reply;
use crate::proxy::call::request::Request;
use crate::proxy::config::DhcpSettings;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::{ContainerInterface, Unreachable};
use crate::proxy::container::sockets::{ExchangeSockets, LinkState, is_link_away};
use crate::proxy::error::CallError;
use crate::proxy::key::ContainerNames;
use crate::proxy::patience::Wait;
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::record::Record;

mod acquire;
mod config;
mod end;
mod link;
pub(crate) mod log_text;
mod receive;
mod restraint;
mod resume;

use restraint::{HearingRate, ReopeningDelay};

/// How soon sockets that could not be opened, or a link that is not what the lease says, are looked
/// at again; the link twice as late each time, up to [`SELDOM`].
const RETRY: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(300);

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) runtime: Runtime,
    pub(crate) settings: DhcpSettings,
    pub(crate) history: RefCell<AddressHistory>,
}

/// A container's lease while something is done for it: each interface has its own (RFC 2131 3.6).
///
/// Until it is settled, a failure has to be [rolled back](Session::roll_back): the lease is given
/// back and the link is as it was. Once settled it stays when the process goes, for the kernel and
/// the server know when it ends, and a [record](Session::record) says how to go on.
#[derive(Debug)]
pub(crate) struct Session {
    context: Rc<SessionContext>,
    request: Request,
    site: ContainerInterface,
    client: Client,
    /// Open while an exchange is under way, for a socket would keep the container's namespace
    /// alive.
    sockets: Option<ExchangeSockets>,
    reopening: ReopeningDelay,
    hearing: HearingRate,
    /// How the link was when it was last looked at.
    link: LinkState,
    applied: Applied,
    settled: bool,
    /// The link may not be what the lease says.
    stale: bool,
    /// How often in a row the link was not as it should be when the session came to rest.
    looks: u32,
    /// The last trouble, so that one that lasts is told of once.
    trouble: String,
    told_of_taken_port: bool,
    /// The wait of the caller of Setup.
    waiting: Option<Box<Wait>>,
    /// The lease is being given back, for which the interface need not have the MAC any more that
    /// the lease is for.
    releasing: bool,
}

/// What has become of a session that was kept.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// There is nothing to do until its record is due.
    Dormant(Box<Record>),
    /// The container is not there any more.
    Gone,
}

/// How an event changes a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It lasts longer, and is the same in all else.
    Time,
    /// There is another one, or none.
    Settings,
}

/// What comes next in a session.
enum NextStep {
    Event(Event),
    Rest(Box<Record>),
    Gone(String),
    /// The interface has another hardware address now.
    OtherMac(String),
}

impl NextStep {
    /// Sorts out the end of a lease, where `unreachable` is one.
    fn end(unreachable: Unreachable) -> Result<Self, CallError> {
        match unreachable {
            Unreachable::Gone(why) => Ok(Self::Gone(why)),
            Unreachable::OtherMac(why) => Ok(Self::OtherMac(why)),
            Unreachable::Fault(error) => Err(error),
        }
    }
}

impl SessionContext {
    pub(crate) async fn sleep_until(&self, time: Instant) {
        if let Err(error) = self.runtime.sleep_until(time).await {
            log::error!("cannot sleep on the boot clock: {error}");
            rt::sleep(RETRY).await;
        }
    }
}

impl Session {
    fn new(
        context: Rc<SessionContext>,
        request: Request,
        site: ContainerInterface,
        client: Client,
        mut applied: Applied,
    ) -> Self {
        if let Some(lease) = client.lease() {
            applied.note_address_and_gateway(lease);
        }
        Self {
            context,
            request,
            site,
            client,
            sockets: None,
            reopening: ReopeningDelay::default(),
            hearing: HearingRate::default(),
            link: LinkState::Ready,
            applied,
            settled: false,
            stale: false,
            looks: 0,
            trouble: String::new(),
            told_of_taken_port: false,
            waiting: None,
            releasing: false,
        }
    }

    /// From now on a drop leaves the lease and the link alone (RFC 2131 3.2 (4)).
    fn settle(&mut self) {
        self.settled = true;
        self.client.mark_in_use();
    }

    /// What the caller of Setup gets; none while the lease is lost.
    pub(crate) fn reply(&self) -> Option<NetavarkLease> {
        self.client
            .lease()
            .map(|lease| reply::reply(&self.request, lease))
    }

    /// Who has the lease.
    pub(crate) fn who(&self) -> ContainerNames<'_> {
        ContainerNames {
            client_id: &self.client.config().client_id,
            ..self.request.who()
        }
    }

    /// Does what there is to do for the lease, as long as the container is there, and makes known
    /// to `changed` what has become of it, before anything is changed for it. May be dropped at any
    /// time, and called again.
    pub(crate) async fn keep(&mut self, changed: impl AsyncFn(&Self, Change)) -> Outcome {
        loop {
            let event = match self.next().await {
                NextStep::Event(event) => event,
                NextStep::Rest(record) => return Outcome::Dormant(record),
                NextStep::Gone(why) => {
                    log::info!("{self}: {why}; its lease is left to run out");
                    // Where the interface is there, and another one's now.
                    let _ = self.take_off_link();
                    return Outcome::Gone;
                }
                NextStep::OtherMac(why) => {
                    // The server knows the lease by the MAC (RFC 2131 4.3.2): there is no renewing
                    // it from another one.
                    log::info!("{self}: {why}; giving its lease back");
                    self.release().await;
                    let undone = self.take_off_link();
                    self.note(undone);
                    return Outcome::Gone;
                }
            };
            if self.remark(&event) {
                continue;
            }
            changed(
                self,
                if matches!(event, Event::Renewed(_)) {
                    Change::Time
                } else {
                    Change::Settings
                },
            )
            .await;
            match event {
                Event::Bound(lease) => {
                    self.tell_cut_search_list(&lease);
                    self.adopt(&lease);
                }
                Event::Renewed(lease) => self.adopt(&lease),
                Event::Changed { old, new } => {
                    if old.search != new.search || old.domain_name != new.domain_name {
                        self.tell_cut_search_list(&new);
                    }
                    self.adopt(&new);
                    let change = log_text::LeaseChange(&old, &new).to_string();
                    if !change.is_empty() {
                        log::info!("{self}: {} changed {change}", new.server_id);
                    }
                }
                Event::Lost { old, why } => self.lose(&old, &why),
                Event::Declined { .. } | Event::Unusable { .. } | Event::Contested { .. } => {}
                Event::ProxyArp { .. } | Event::NoLeaseTime { .. } => {}
                Event::GaveUp(_) | Event::Released => return Outcome::Gone,
            }
        }
    }

    /// Opens the sockets, unless they are open, or were closed too often of late.
    fn reach(&mut self) -> Result<(), Unreachable> {
        if self.sockets.is_none() && (self.releasing || self.reopening.until(rt::now()).is_none()) {
            let open = if self.releasing {
                ContainerInterface::open_for_release
            } else {
                ContainerInterface::open
            };
            let sockets = open(&self.site, &self.request)?;
            self.client.handle_mtu(sockets.mtu);
            self.sockets = Some(sockets);
            log::debug!("{self}: opened its sockets");
            self.mind_link();
        }
        Ok(())
    }

    /// Tells the client whether the link carries anything.
    fn mind_link(&mut self) {
        let Some(state) = self.sockets.as_ref().map(|sockets| sockets.state) else {
            return;
        };
        let before = std::mem::replace(&mut self.link, state);
        if before != state {
            log::info!("{self}: {state}");
            if state == LinkState::Ready {
                self.note_carrier();
            }
        }
        // What the kernel takes off a link that goes down has to be put back.
        self.stale |= state == LinkState::Down;
        self.client
            .handle_carrier(state == LinkState::Ready, rt::now());
    }

    /// Whether the sockets are open, and something can be said there.
    fn is_ready(&self) -> bool {
        self.sockets
            .as_ref()
            .is_some_and(|sockets| sockets.state == LinkState::Ready)
    }

    /// What comes next: an event, rest, or the news that the container cannot be reached any more.
    /// A drop on the way loses nothing.
    async fn next(&mut self) -> NextStep {
        loop {
            // Before the sockets are closed: the caller of Setup waits for this, and not for that.
            if let Some(event) = self.client.poll_event() {
                return NextStep::Event(event);
            }
            if self.client.is_listening() {
                match self.reach().map_err(NextStep::end) {
                    Ok(()) => {}
                    Err(Ok(end)) => return end,
                    Err(Err(error)) => self.note(Err(error)),
                }
                // That there is no carrier may have been the last straw.
                if let Some(event) = self.client.poll_event() {
                    return NextStep::Event(event);
                }
            }
            if self.stale
                && !self.is_down()
                && (self.sockets.is_some() || !self.client.is_listening())
            {
                match self.set_link_right().map_err(NextStep::end) {
                    Err(Ok(end)) => return end,
                    Err(Err(error)) => self.note(Err(error)),
                    Ok(()) => self.note(Ok(())),
                }
            }
            if !self.send() {
                // The next look tells more.
                continue;
            }
            if !self.client.is_listening() {
                // No answer is awaited any more.
                self.sockets = None;
                if let Some(record) = self.record().filter(|_| self.settled) {
                    return NextStep::Rest(Box::new(record));
                }
            }
            self.wait().await;
        }
    }

    /// Sends all that the client wants sent. What cannot be sent is as good as lost on the way, and
    /// the client knows when to say it again. Tells whether the link is there as far as one can see
    /// from here.
    fn send(&mut self) -> bool {
        let mut in_doubt = false;
        // Before anything is said that is answered by ARP.
        let of_interest = self.client.arp_address();
        if let Some(Err(error)) = self
            .sockets
            .as_mut()
            .map(|sockets| sockets.set_arp_filter(of_interest))
        {
            // New sockets would not hear more, and a lease without this is better than none.
            log::warn!("{self}: cannot listen to ARP: {error}");
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
            if sockets.port_is_taken() && !std::mem::replace(&mut self.told_of_taken_port, true) {
                log::info!(
                    "{self}: the container uses UDP port 68 itself, so a packet socket has to do for all"
                );
            }
            if let Err(error) = sockets.send(transmit, &bytes, self.request.key.mac, peer) {
                log::warn!(
                    "{self}: cannot send in state {}: {error}",
                    self.client.state()
                );
                if is_link_away(&error) {
                    self.doubt_link();
                    in_doubt = true;
                }
            }
        }
        !in_doubt
    }

    /// Whether the link is down, of which the sockets will tell the end.
    fn is_down(&self) -> bool {
        self.sockets
            .as_ref()
            .is_some_and(|sockets| sockets.state == LinkState::Down)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}",
            self.request.container_interface,
            self.request.ns_path.display()
        )
    }
}

/// Chance for one client: its transaction ids and its jitter.
fn seed() -> Result<u64, CallError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| CallError::fault("asking for random numbers")(errno.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
