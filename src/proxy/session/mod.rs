//! One lease at work: the client, the sockets while they are needed, the link, and the loop that
//! joins them.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::dhcp::{self, Client, Event, LossReason};
use crate::rpc::Lease;
use crate::rt::{self, Runtime};
use crate::time::Instant;

use crate::proxy::call::reply;
use crate::proxy::call::request::Request;
use crate::proxy::config::DhcpSettings;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::{ContainerInterface, Unreachable};
use crate::proxy::container::sockets::{ExchangeSockets, LinkState, is_link_away};
use crate::proxy::error::Error;
use crate::proxy::key::ContainerNames;
use crate::proxy::patience::Wait;
use crate::proxy::session::log_text::{Brief, LostBy};
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::record::Record;

mod acquire;
mod config;
mod end;
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
    pub(crate) habits: DhcpSettings,
    pub(crate) memory: RefCell<AddressHistory>,
}

/// A container's lease while something is done for it: each interface has its own (RFC 2131 3.6).
///
/// Until it is [settled](Session::settle), dropping it undoes everything: the lease is given back
/// and the link is as it was. Once settled it stays when the process goes, for the kernel and the
/// server know when it ends, and a [record](Session::record) says how to go on.
#[derive(Debug)]
pub(crate) struct Session {
    commons: Rc<SessionContext>,
    request: Request,
    site: ContainerInterface,
    client: Client,
    /// Open while an exchange is under way, for a socket would keep the container's namespace
    /// alive.
    wire: Option<ExchangeSockets>,
    reopening: ReopeningDelay,
    hearing: HearingRate,
    /// How the link was when it was last looked at.
    link: LinkState,
    settings: Applied,
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
    /// Called before a lease that was made known is given back.
    before_undoing: Option<BeforeRollback>,
    /// The lease is being given back, for which the interface need not have the MAC any more that
    /// the lease is for.
    releasing: bool,
}

/// What has to be done before a lease is given back that was made known already.
pub(crate) struct BeforeRollback(pub(crate) Box<dyn FnOnce()>);

impl fmt::Debug for BeforeRollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Undoing")
    }
}

/// What has become of a session that was kept.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// There is nothing to do until its record is due.
    Rests(Box<Record>),
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
enum Next {
    Event(Event),
    Rest(Box<Record>),
    Gone(String),
    /// The interface has another hardware address now.
    OtherMac(String),
}

impl Next {
    /// Sorts out the end of a lease, where `unreachable` is one.
    fn end(unreachable: Unreachable) -> Result<Self, Error> {
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
        commons: Rc<SessionContext>,
        request: Request,
        site: ContainerInterface,
        client: Client,
        mut settings: Applied,
    ) -> Self {
        if let Some(lease) = client.lease() {
            settings.place(lease);
        }
        Self {
            commons,
            request,
            site,
            client,
            wire: None,
            reopening: ReopeningDelay::default(),
            hearing: HearingRate::default(),
            link: LinkState::Ready,
            settings,
            settled: false,
            stale: false,
            looks: 0,
            trouble: String::new(),
            told_of_taken_port: false,
            waiting: None,
            before_undoing: None,
            releasing: false,
        }
    }

    /// From now on a drop leaves the lease and the link alone (RFC 2131 3.2 (4)).
    pub(crate) fn settle(&mut self) {
        self.settled = true;
        self.before_undoing = None;
        self.client.mark_in_use();
    }

    /// What the caller of Setup gets; none while the lease is lost.
    pub(crate) fn reply(&self) -> Option<Lease> {
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
                Next::Event(event) => event,
                Next::Rest(record) => return Outcome::Rests(record),
                Next::Gone(why) => {
                    log::info!("{self}: {why}; its lease is left to run out");
                    // Where the interface is there, and another one's now.
                    let _ = self.take_off_link();
                    return Outcome::Gone;
                }
                Next::OtherMac(why) => {
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
                    let change = log_text::Change(&old, &new).to_string();
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

    /// A lease in place of the one that was there.
    fn adopt(&mut self, lease: &dhcp::Lease) {
        if self.settings.place(lease) {
            log::info!("{self}: renewed {}", Brief(lease));
        } else {
            // netavark's words, which its users look for.
            let mac = &self.request.mac_text;
            log::info!(
                "ip or gateway for mac {mac} changed, update address: {}",
                Brief(lease)
            );
        }
        let applied = self.put_on_link(lease);
        match applied {
            // The next look at the link tells what has become of it.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => self.stale = true,
            applied => self.note(applied.map_err(Error::from)),
        }
    }

    /// No lease in place of the one that was there.
    fn lose(&mut self, old: &dhcp::Lease, why: &LossReason) {
        log::warn!(
            "{self}: lost the lease of {}: {}; looking for another",
            old.address,
            LostBy(why)
        );
        let undone = self.take_off_link();
        self.note(undone);
    }

    /// Logs the search domains that are left out of the reply.
    fn tell_cut_search_list(&self, lease: &dhcp::Lease) {
        let left_out = reply::left_out(&self.request, lease);
        if !left_out.is_empty() {
            let server = lease.server_id;
            log::warn!(
                "{self}: the search list from {server} is too long for resolv.conf; left out {left_out}"
            );
        }
    }

    /// Makes the link what the lease says.
    fn put_on_link(&mut self, lease: &dhcp::Lease) -> Result<(), Unreachable> {
        let netlink = self.site.check(&self.request)?;
        Ok(self.settings.apply(
            &netlink,
            self.site.index,
            lease,
            self.commons.habits.mtu,
            rt::now(),
        )?)
    }

    fn take_off_link(&mut self) -> Result<(), Error> {
        if self.settings.is_empty() {
            return Ok(());
        }
        match self.site.netlink(&self.request) {
            Ok(netlink) => self.settings.undo(&netlink, self.site.index),
            // With the namespace or the interface all that was on it has gone.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => {
                self.settings = Applied::default()
            }
            Err(Unreachable::Fault(error)) => return Err(error),
        }
        Ok(())
    }

    /// Remembers whether the link is in order, to look again if not.
    fn note(&mut self, outcome: Result<(), Error>) {
        let trouble = outcome
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        self.stale = !trouble.is_empty();
        // What was so the last time has been told then.
        if self.stale && self.trouble != trouble && self.looks == 0 {
            log::warn!("{self}: {trouble}");
        }
        self.trouble = trouble;
    }

    /// Opens the sockets, unless they are open, or were closed too often of late.
    fn reach(&mut self) -> Result<(), Unreachable> {
        if self.wire.is_none() && (self.releasing || self.reopening.until(rt::now()).is_none()) {
            let open = if self.releasing {
                ContainerInterface::open_for_release
            } else {
                ContainerInterface::open
            };
            let wire = open(&self.site, &self.request)?;
            self.client.handle_mtu(wire.mtu);
            self.wire = Some(wire);
            log::debug!("{self}: opened its sockets");
            self.mind_link();
        }
        Ok(())
    }

    /// Tells the client whether the link carries anything.
    fn mind_link(&mut self) {
        let Some(state) = self.wire.as_ref().map(|wire| wire.state) else {
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
        self.wire
            .as_ref()
            .is_some_and(|wire| wire.state == LinkState::Ready)
    }

    /// What comes next: an event, rest, or the news that the container cannot be reached any more.
    /// A drop on the way loses nothing.
    async fn next(&mut self) -> Next {
        loop {
            // Before the sockets are closed: the caller of Setup waits for this, and not for that.
            if let Some(event) = self.client.poll_event() {
                return Next::Event(event);
            }
            if self.client.is_listening() {
                match self.reach().map_err(Next::end) {
                    Ok(()) => {}
                    Err(Ok(end)) => return end,
                    Err(Err(error)) => self.note(Err(error)),
                }
                // That there is no carrier may have been the last straw.
                if let Some(event) = self.client.poll_event() {
                    return Next::Event(event);
                }
            }
            if self.stale && !self.is_down() && (self.wire.is_some() || !self.client.is_listening())
            {
                match self.set_link_right().map_err(Next::end) {
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
                // Nobody is to answer any more.
                self.wire = None;
                if let Some(record) = self.record().filter(|_| self.settled) {
                    return Next::Rest(Box::new(record));
                }
            }
            self.wait().await;
        }
    }

    /// Makes the link what the lease says, or what it was where there is none.
    fn set_link_right(&mut self) -> Result<(), Unreachable> {
        match self.client.lease().cloned() {
            Some(lease) => self.put_on_link(&lease),
            None => Ok(self.take_off_link()?),
        }
    }

    /// Sends all that the client wants sent. What cannot be sent is as good as lost on the way, and
    /// the client knows when to say it again. Tells whether the link is there as far as one can see
    /// from here.
    fn send(&mut self) -> bool {
        let mut in_doubt = false;
        // Before anything is said that is answered by ARP.
        let of_interest = self.client.address_of_interest();
        if let Some(Err(error)) = self
            .wire
            .as_mut()
            .map(|wire| wire.set_arp_filter(of_interest))
        {
            // New sockets would not hear more, and a lease without this is better than none.
            log::warn!("{self}: cannot listen to ARP: {error}");
        }
        let mut bytes = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(&mut bytes) {
            let Some(wire) = self
                .wire
                .as_ref()
                .filter(|wire| wire.state == LinkState::Ready)
            else {
                continue;
            };
            let peer = self.client.lease().and_then(|lease| lease.server_mac);
            if wire.port_is_taken() && !std::mem::replace(&mut self.told_of_taken_port, true) {
                log::info!(
                    "{self}: the container uses UDP port 68 itself, so a packet socket has to do for all"
                );
            }
            if let Err(error) = wire.send(transmit, &bytes, self.request.key.mac, peer) {
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
        self.wire
            .as_ref()
            .is_some_and(|wire| wire.state == LinkState::Down)
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
fn seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| Error::fault("asking for random numbers")(errno.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
