//! One lease at work: the client, the sockets while they are needed, the link, and the loop that joins them.

use std::future::pending;
use std::io;
use std::time::Duration;

use futures_lite::future::or;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dhcp::{self, Client, Event, Lost};
use crate::rpc::Lease;
use crate::rt::{self, Runtime};

use super::error::Error;
use super::reply;
use super::request::Request;
use super::settings::Settings;
use super::site::{Site, Unreachable, Wire};

/// A container's lease and all that keeps it.
///
/// Until it is [settled](Session::settle), dropping it undoes everything: the lease is given back and the link is
/// as it was. Once settled it stays when the process goes, for the kernel and the server know when it ends.
#[derive(Debug)]
pub(super) struct Session {
    runtime: Runtime,
    request: Request,
    site: Site,
    client: Client,
    /// Open while an exchange is under way, for a socket would keep the container's namespace alive.
    wire: Option<Wire>,
    settings: Settings,
    /// The lease on the link, or the last one that was there.
    lease: Option<dhcp::Lease>,
    settled: bool,
    told_of_taken_port: bool,
}

impl Session {
    /// Gets a lease and puts it on the link, within `patience` where there is such. All or nothing.
    pub(super) async fn acquire(
        runtime: Runtime,
        request: Request,
        patience: Option<Duration>,
        wish: Option<std::net::Ipv4Addr>,
    ) -> Result<Self, Error> {
        let (site, wire) = Site::find(&request)?;
        let config = dhcp::Config {
            host_name: request.host_name.clone(),
            deadline: patience,
            requested: wish,
            ..dhcp::Config::new(request.key.mac.0, request.client_id.clone())
        };
        let client = Client::new(config, seed()?, rt::now());
        let mut session = Self {
            runtime,
            request,
            site,
            client,
            wire: Some(wire),
            settings: Settings::default(),
            lease: None,
            settled: false,
            told_of_taken_port: false,
        };
        loop {
            match session.next_event().await {
                Ok(Event::Bound(lease)) => {
                    session.put_on_link(lease)?;
                    // `keep` closes the sockets, which takes the kernel ten milliseconds, while the caller has its answer.
                    return Ok(session);
                }
                Ok(Event::GaveUp(why)) => {
                    return Err(Error::NoAnswer { interface: session.request.container_interface.clone(), why });
                }
                // All other events need a lease.
                Ok(event) => log::debug!("{session}: {event:?} without a lease"),
                Err(Unreachable::Gone(why)) => return Err(Error::Vanished(why)),
                Err(Unreachable::Fault(error)) => return Err(error),
            }
        }
    }

    /// From now on a drop leaves the lease and the link alone.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// What the caller of Setup gets, and the lease file has; none while the lease is lost.
    pub(super) fn reply(&self) -> Option<Lease> {
        self.client.lease().map(|lease| reply::reply(&self.request, lease))
    }

    /// The address that the container has.
    pub(super) fn address(&self) -> Option<std::net::Ipv4Addr> {
        self.lease.as_ref().map(|lease| lease.address)
    }

    /// Keeps the lease for as long as the container is there, and tells `changed` what has become of it. May be
    /// dropped at any time, and called again.
    pub(super) async fn keep(&mut self, changed: impl Fn(&Self)) {
        loop {
            let event = match self.next_event().await {
                Ok(event) => event,
                Err(Unreachable::Gone(why)) => {
                    log::info!("{self}: {why}; its lease is left to run out");
                    self.settings = Settings::default();
                    return;
                }
                Err(Unreachable::Fault(error)) => {
                    log::warn!("{self}: {error}");
                    continue;
                }
            };
            match event {
                Event::Bound(lease) | Event::Renewed(lease) | Event::Changed { new: lease, .. } => {
                    if let Err(error) = self.put_on_link(lease) {
                        log::error!("{self}: {error}");
                    }
                }
                Event::Lost { old, why } => {
                    let why = match why {
                        Lost::Expired => "nobody extended it in time".to_owned(),
                        Lost::Refused { server, message } => {
                            format!(
                                "refused by {server}{}",
                                message.map(|text| format!(": {text}")).unwrap_or_default()
                            )
                        }
                    };
                    log::warn!("{self}: lost the lease of {}: {why}; looking for another", old.address);
                    self.take_off_link();
                }
                Event::GaveUp(_) | Event::Released => return,
            }
            changed(self);
        }
    }

    /// Ends it: takes the lease off the link and, before that, `release`s it to the server. When this returns, the
    /// RELEASE has left the interface, and nothing of ours holds the container's namespace.
    pub(super) async fn end(mut self, release: bool) {
        // Should this be dropped on the way, dropping does the rest.
        self.settled = false;
        if let Err(error) = self.reach() {
            log::info!("{self}: {error}; nothing to be released");
            self.settled = true;
            return;
        }
        if release {
            self.client.release(rt::now());
            loop {
                self.send();
                match self.client.poll_event() {
                    Some(Event::Released) => break,
                    Some(_) => {}
                    None => self.wait().await,
                }
            }
        }
        self.take_off_link();
        self.settled = true;
    }

    /// Puts a lease on the link, in place of the one that may be there.
    fn put_on_link(&mut self, lease: dhcp::Lease) -> Result<(), Error> {
        let mac = &self.request.mac_text;
        let time = lease.lease_time.map_or("ever".to_owned(), |time| format!("{} s", time.as_secs()));
        let text = format!("{}/{} from {} for {time}", lease.address, lease.prefix_len, lease.server_id);
        match self.lease.replace(lease.clone()) {
            Some(old) if same_place(&old, &lease) => log::info!("{self}: renewed {text}"),
            // netavark's words, which its users look for.
            Some(_) => log::info!("ip or gateway for mac {mac} changed, update address: {text}"),
            None => log::info!("{self}: {text}"),
        }
        self.reach().map_err(|error| match error {
            Unreachable::Gone(why) => Error::Vanished(why),
            Unreachable::Fault(error) => error,
        })?;
        let wire = self.wire.as_ref().expect("reached");
        self.settings.apply(&wire.netlink, self.site.index, &lease, rt::now())
    }

    fn take_off_link(&mut self) {
        if self.settings.is_empty() {
            return;
        }
        match self.reach() {
            Ok(()) => {
                let wire = self.wire.as_ref().expect("reached");
                self.settings.undo(&wire.netlink, self.site.index);
            }
            Err(error) => log::debug!("{self}: nothing to take off the link: {error}"),
        }
    }

    /// Opens the sockets, unless they are open.
    fn reach(&mut self) -> Result<(), Unreachable> {
        if self.wire.is_none() {
            self.wire = Some(self.site.open(&self.request)?);
        }
        Ok(())
    }

    /// Closes the sockets, unless an answer may be under way.
    fn rest(&mut self) {
        if !self.client.is_listening() {
            self.wire = None;
        }
    }

    /// The client's next event. A drop on the way loses nothing.
    async fn next_event(&mut self) -> Result<Event, Unreachable> {
        loop {
            let reached = if self.client.is_listening() { self.reach() } else { Ok(()) };
            match reached {
                Err(Unreachable::Fault(error)) => log::warn!("{self}: {error}"),
                reached => reached?,
            }
            self.send();
            if let Some(event) = self.client.poll_event() {
                return Ok(event);
            }
            self.rest();
            self.wait().await;
        }
    }

    /// Sends all that the client wants sent. What cannot be sent is as good as lost on the way, and the client knows
    /// when to say it again.
    fn send(&mut self) {
        let mut bytes = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(&mut bytes) {
            let Some(wire) = &self.wire else { continue };
            let peer = self.client.lease().and_then(|lease| lease.server_mac);
            if wire.port_is_taken() && !std::mem::replace(&mut self.told_of_taken_port, true) {
                log::info!("{self}: the container uses UDP port 68 itself, so a packet socket has to do for all");
            }
            if let Err(error) = wire.send(transmit, &bytes, self.request.key.mac, peer) {
                log::warn!("{self}: cannot send in state {}: {error}", self.client.state());
            }
        }
    }

    /// Waits for a frame or for the client's next deadline, and tells the client.
    async fn wait(&mut self) {
        let Self { runtime, client, wire, .. } = self;
        let due = client.poll_timeout();
        let time = async {
            match due {
                Some(due) => runtime.sleep_until(due).await.map(|()| None),
                None => pending().await,
            }
        };
        let frame = async {
            match wire {
                Some(wire) => wire.hear(<[u8]>::to_vec).await.map(Some),
                None => pending().await,
            }
        };
        let heard: io::Result<_> = or(frame, time).await;
        match heard {
            Ok(Some(frame)) => {
                if let Err(ignored) = client.handle_packet(&frame, rt::now()) {
                    log::trace!("ignored a frame: {ignored:?}");
                }
            }
            Ok(None) => client.handle_timeout(rt::now()),
            Err(error) => {
                // The interface went down, or away. Opened anew, the sockets tell which.
                log::debug!("{self}: {error}");
                self.wire = None;
            }
        }
    }
}

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.request.container_interface, self.request.key.netns.display())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.settled || (self.client.lease().is_none() && self.settings.is_empty()) {
            return;
        }
        log::info!("{self}: giving the lease back");
        if let Err(error) = self.reach() {
            log::debug!("{self}: {error}");
            return;
        }
        // A RELEASE that would have to wait for ARP is not waited for in here; its ACK has told us where to send it.
        self.client.release(rt::now());
        self.send();
        self.take_off_link();
    }
}

/// Whether two leases have the same address and gateways, so that nothing moves for the container.
fn same_place(old: &dhcp::Lease, new: &dhcp::Lease) -> bool {
    (old.address, old.prefix_len, &old.routers) == (new.address, new.prefix_len, &new.routers)
}

/// Chance for one client: its transaction ids and its jitter.
fn seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| Error::fault("asking for random numbers")(errno.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
