//! The search for DHCP servers that takes nothing: it sends DISCOVERs and ARP probes, never a
//! REQUEST, and remembers what all servers offer.
//!
//! It is driven as a [`Client`](super::Client) is, and follows the client's ladder of ever plainer
//! DISCOVERs, so that the client does not hear a server that this does not hear.
//! A server that listens keeps what it offers for a minute or so, and nothing else stays.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::DhcpMessageType as Type;

use super::backoff::Backoff;
use super::config::Config;
use super::frame::{self, Arp, Payload};
use super::ignored::Ignored;
use super::lease::Lease;
use super::message::{ClientMessage, ServerMessage};
use super::plainness::Plainness;
use crate::mac::Mac;
use crate::time::Instant;

use address_probe::{AddressProbe, random_address};
use offering::ServerReply;

pub(crate) use offering::{Delivery, Offer, OfferingServer};

mod address_probe;
mod offering;
#[cfg(test)]
mod tests;

/// The least time of a search that finds a server: dnsmasq, the usual server of home routers, pings
/// an address for three seconds before it offers it.
const MIN_SEARCH: Duration = Duration::from_secs(4);
/// The time for which further servers are waited for after each new one.
const AFTER_NEW_SERVER: Duration = Duration::from_secs(2);
/// The longest wait for the answer to a DISCOVER, once a server is known.
const CONFIRMATION_WAIT: Duration = Duration::from_secs(1);
/// The number of servers that are remembered.
const MOST_SERVERS: usize = 8;
/// The number of replies and ARP packets that are read. An honest network sends a dozen.
const MOST_FRAMES: u32 = 1000;

/// The interface of a search, and the time for it.
#[derive(Clone, Debug)]
pub(crate) struct DiscoverySettings {
    pub(crate) mac: Mac,
    /// The MTU of the interface.
    pub(crate) mtu: u32,
    pub(crate) timeout: Duration,
    /// The stations of this namespace, whose ARP replies are no claims: Linux answers on each
    /// interface for the addresses of all.
    pub(crate) own_stations: Vec<Mac>,
    /// The addresses of the interface, which are not probed.
    pub(crate) own_addresses: Vec<Ipv4Addr>,
}

/// A form of the DISCOVER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscoverForm {
    /// As the client sends it first, but for options 50 and 80: the answer to option 80 would be a
    /// lease (RFC 4039 §3).
    Full,
    /// The same with the broadcast flag (RFC 2131 §4.1).
    Broadcast,
    /// As netavark's proxy sends it.
    LikeNetavark,
    /// Without a client identifier.
    Bare,
}

impl DiscoverForm {
    /// The order in which they are sent while no server answers.
    const ORDER: [Self; 4] = [Self::Full, Self::Broadcast, Self::LikeNetavark, Self::Bare];

    fn plainness(self) -> Plainness {
        match self {
            Self::Full | Self::Broadcast => Plainness::Full,
            Self::LikeNetavark => Plainness::LikeNetavark,
            Self::Bare => Plainness::Bare,
        }
    }
}

/// A DISCOVER that was sent. Each has a transaction id of its own, so that a reply tells which one
/// it answers, and how long that took.
#[derive(Clone, Copy, Debug)]
struct SentDiscover {
    xid: u32,
    form: DiscoverForm,
    at: Instant,
}

/// Replies to this station that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Fragments of IPv4 packets, and the station of the first one.
    pub(crate) fragments: Option<(u32, Mac)>,
    /// Malformed packets, and packets with a wrong IPv4 checksum.
    pub(crate) malformed: u32,
}

/// A search for DHCP servers on one interface.
#[derive(Debug)]
pub(crate) struct Discovery {
    config: Config,
    settings: DiscoverySettings,
    backoff: Backoff,
    began: Instant,
    sent: Vec<SentDiscover>,
    /// The time of the next DISCOVER.
    next: Option<Instant>,
    last_new_server: Option<Instant>,
    servers: Vec<OfferingServer>,
    /// Servers beyond [`MOST_SERVERS`] have answered.
    has_more_servers: bool,
    probes: Vec<AddressProbe>,
    frames: u32,
    unreadable: Unreadable,
    outbox: VecDeque<Vec<u8>>,
}

impl Discovery {
    /// Begins a search with a DISCOVER ready to be sent.
    pub(crate) fn new(settings: DiscoverySettings, seed: u64, now: Instant) -> Self {
        let mut config = Config {
            rapid_commit: false,
            ..Config::new(settings.mac, client_id(settings.mac))
        };
        config.fit_mtu(settings.mtu);
        let mut discovery = Self {
            config,
            settings,
            backoff: Backoff::new(seed, true),
            began: now,
            sent: Vec::new(),
            next: Some(now),
            last_new_server: None,
            servers: Vec::new(),
            has_more_servers: false,
            probes: Vec::new(),
            frames: 0,
            unreadable: Unreadable::default(),
            outbox: VecDeque::new(),
        };
        discovery.handle_timeout(now);
        discovery
    }

    /// Handles a whole Ethernet frame that the interface received.
    /// # Errors
    ///
    /// Returns the reason why the frame is ignored.
    pub(crate) fn handle_packet(&mut self, bytes: &[u8], now: Instant) -> Result<(), Ignored> {
        self.handle_timeout(now);
        if self.is_over(now) {
            return Err(Ignored::OtherExchange);
        }
        self.frames += 1;
        let payload = frame::parse(bytes, self.config.mac).inspect_err(|why| match why {
            Ignored::Fragment => self.unreadable.count_fragment(bytes),
            Ignored::Malformed | Ignored::Checksum => self.unreadable.malformed += 1,
            Ignored::NotForUs
            | Ignored::NotDhcp
            | Ignored::OtherClient
            | Ignored::OtherExchange
            | Ignored::OtherServer(_)
            | Ignored::Unexpected { .. }
            | Ignored::Incomplete(_) => {}
        })?;
        match payload {
            Payload::Arp(arp) => self.handle_arp(arp),
            Payload::Dhcp {
                payload,
                from,
                is_intact,
            } => {
                let reply = ServerMessage::read(payload, from, &self.config)?;
                let delivery = Delivery::of(bytes);
                self.handle_reply(&reply, (is_intact, delivery), now)
            }
        }
    }

    fn handle_reply(
        &mut self,
        reply: &ServerMessage,
        (is_intact, delivery): (bool, Delivery),
        now: Instant,
    ) -> Result<(), Ignored> {
        let discover = self.sent.iter().find(|sent| sent.xid == reply.xid);
        let discover = *discover.ok_or(Ignored::OtherExchange)?;
        if !matches!(reply.message_type, Type::Offer | Type::Ack) {
            return Err(Ignored::Unexpected {
                message_type: reply.message_type.into(),
                state: "SELECTING",
            });
        }
        let answer = ServerReply {
            reply,
            form: discover.form,
            took: now - discover.at,
            delivery,
            is_intact,
        };
        let id = answer
            .server()
            .ok_or(Ignored::Incomplete("server identifier"))?;
        let is_it = |server: &OfferingServer| (server.id, server.mac) == (id, reply.from);
        let place = match self.servers.iter().position(is_it) {
            Some(place) => place,
            None if self.servers.len() >= MOST_SERVERS => {
                self.has_more_servers = true;
                return Err(Ignored::OtherServer(id));
            }
            None => {
                self.last_new_server = Some(now);
                self.next = self.next.map(|next| next.min(now + CONFIRMATION_WAIT));
                self.servers.push(OfferingServer::new(id, &answer));
                self.servers.len() - 1
            }
        };
        self.servers[place].add(&answer, now);
        if let Some(Offer { lease, .. }) = &self.servers[place].offer {
            self.probe_offer(&lease.clone(), now);
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Starts to probe an offered address and, with the first one, a random address of its subnet:
    /// a station that answers for both answers for every address.
    fn probe_offer(&mut self, lease: &Lease, now: Instant) {
        let is_probed = |probe: &AddressProbe| probe.address == lease.address;
        if self.settings.own_addresses.contains(&lease.address) || self.probes.iter().any(is_probed)
        {
            return;
        }
        let is_first = self.probes.is_empty();
        self.probes
            .push(AddressProbe::new(lease.address, false, now));
        if is_first {
            let own = &self.settings.own_addresses;
            let random = random_address(lease, own, || self.backoff.xid());
            self.probes
                .extend(random.map(|address| AddressProbe::new(address, true, now)));
        }
    }

    fn handle_arp(&mut self, arp: Arp) -> Result<(), Ignored> {
        let (station, address) = arp.sender;
        let probe = self
            .probes
            .iter_mut()
            .find(|probe| probe.address == address)
            .ok_or(Ignored::NotDhcp)?;
        if station == self.config.mac || self.settings.own_stations.contains(&station) {
            return Err(Ignored::NotDhcp);
        }
        probe.add_claim(station);
        Ok(())
    }

    /// Does all work that is due. Call it at [`Discovery::poll_timeout`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.is_over(now) {
            return;
        }
        if self.next.is_some_and(|next| next <= now) {
            self.next = self.form_to_send().map(|form| self.discover(form, now));
        }
        for probe in &mut self.probes {
            if probe.take_due(now) {
                let arp = Arp::probe(self.config.mac, probe.address);
                self.outbox.push_back(arp.write());
            }
        }
    }

    /// Returns the form of the next DISCOVER. Once a server has answered, the flagged one is sent
    /// if it was not, and the full one is repeated if that is the one without an answer, because a
    /// frame may have been lost.
    fn form_to_send(&self) -> Option<DiscoverForm> {
        if self.servers.is_empty() {
            return Some(DiscoverForm::ORDER[self.sent.len() % DiscoverForm::ORDER.len()]);
        }
        if self.sent_of(DiscoverForm::Broadcast) == 0 {
            return Some(DiscoverForm::Broadcast);
        }
        let mut servers = self.servers.iter();
        let is_full_answered = servers.any(|server| server.has_answered(DiscoverForm::Full));
        (!is_full_answered && self.sent_of(DiscoverForm::Full) < 2).then_some(DiscoverForm::Full)
    }

    /// Sends a DISCOVER, and returns the time of the next one.
    fn discover(&mut self, form: DiscoverForm, now: Instant) -> Instant {
        // Two transaction ids that differ in more than their lowest bits.
        let xid = loop {
            let xid = form.plainness().encode(self.backoff.xid());
            if self.sent.iter().all(|sent| sent.xid != xid) {
                break xid;
            }
        };
        // RFC 2131 table 5 allows any value; some servers do not answer while it is 0.
        let secs = u16::try_from((now - self.began).as_secs()).unwrap_or(u16::MAX);
        let message = ClientMessage::new(Type::Discover, xid, secs.max(1));
        self.config.broadcast = form == DiscoverForm::Broadcast;
        self.outbox.push_back(frame::frame(
            &message.write(&self.config),
            (self.config.mac, Ipv4Addr::UNSPECIFIED),
            (Mac::BROADCAST, Ipv4Addr::BROADCAST),
        ));
        self.sent.push(SentDiscover { xid, form, at: now });
        let count = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        let wait = self.backoff.discover(count, true);
        now + if self.servers.is_empty() {
            wait
        } else {
            wait.min(CONFIRMATION_WAIT)
        }
    }

    /// Returns the next frame to send. Hear ARP of all [`Discovery::probed_addresses`] before.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// Returns when to call [`Discovery::handle_timeout`] next: at the end, at the latest.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let probes = self.probes.iter().filter_map(AddressProbe::due);
        probes.chain(self.next).fold(self.end(), Instant::min)
    }

    /// Returns whether the search has ended.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.is_flooded() || self.end() <= now
    }

    fn end(&self) -> Instant {
        let deadline = self.began + self.settings.timeout;
        self.last_new_server.map_or(deadline, |at| {
            (at + AFTER_NEW_SERVER)
                .max(self.began + MIN_SEARCH)
                .min(deadline)
        })
    }

    /// Returns the addresses whose ARP packets are needed, those of new servers last.
    pub(crate) fn probed_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.probes.iter().map(|probe| probe.address)
    }

    /// Returns the servers that have answered, the first one first.
    pub(crate) fn servers(&self) -> &[OfferingServer] {
        &self.servers
    }

    /// Returns whether more frames came than the search reads, or more servers answered than it
    /// remembers. The search has ended then.
    pub(crate) fn is_flooded(&self) -> bool {
        self.frames >= MOST_FRAMES || self.has_more_servers
    }

    /// Returns the replies that could not be read.
    pub(crate) fn unreadable(&self) -> Unreadable {
        self.unreadable
    }

    /// Returns the number of DISCOVERs that were sent.
    pub(crate) fn discovers(&self) -> usize {
        self.sent.len()
    }

    /// Returns how many DISCOVERs of a form were sent.
    pub(crate) fn sent_of(&self, form: DiscoverForm) -> usize {
        self.sent.iter().filter(|sent| sent.form == form).count()
    }

    /// Returns the random address that was probed.
    pub(crate) fn random_address(&self) -> Option<Ipv4Addr> {
        let random = self.probes.iter().find(|probe| probe.is_random);
        random.map(|probe| probe.address)
    }

    /// Returns the stations that answer for the random address and for an offered one: proxy ARP.
    pub(crate) fn proxy_arp_stations(&self) -> Vec<Mac> {
        let (random, offered): (Vec<_>, Vec<_>) =
            self.probes.iter().partition(|probe| probe.is_random);
        let random = random.into_iter().flat_map(|probe| &probe.claimants);
        random
            .filter(|by| offered.iter().any(|probe| probe.claimants.contains(by)))
            .copied()
            .collect()
    }

    /// Returns the station that has the address which a server offers.
    ///
    /// As for the client, a station that does proxy ARP has no claim, and neither has the server's
    /// own, because a server does not lease its own address; if it offers that, it has one.
    pub(crate) fn owner(&self, server: &OfferingServer) -> Option<Mac> {
        let lease = &server.offer.as_ref()?.lease;
        let is_servers_own = lease.address == server.id || lease.routers.contains(&lease.address);
        let probe = self
            .probes
            .iter()
            .find(|probe| probe.address == lease.address)?;
        let proxies = self.proxy_arp_stations();
        let mut claimants = probe.claimants.iter();
        claimants
            .find(|by| is_servers_own || **by != server.mac && !proxies.contains(by))
            .copied()
    }
}

impl Unreadable {
    fn count_fragment(&mut self, frame: &[u8]) {
        const SOURCE: std::ops::Range<usize> = 6..12;
        let source = frame.get(SOURCE).and_then(|bytes| bytes.try_into().ok());
        let (count, station) = self
            .fragments
            .unwrap_or((0, source.map_or(Mac::UNSPECIFIED, Mac)));
        self.fragments = Some((count + 1, station));
    }
}

/// Returns the client identifier of a search (option 61): type 0, this program's name and the MAC.
///
/// It is none that a container or the host has: those are a container's id, a MAC with type 1, or a
/// DUID with type 255. A server that knows clients by it offers an address that is free, and touches
/// neither a lease nor a reservation of theirs. It is the same each time, so that ten searches have
/// a server keep one address for a minute, and not ten.
fn client_id(mac: Mac) -> Vec<u8> {
    let mut id = b"\0smol-dhcp-proxy check ".to_vec();
    id.extend_from_slice(mac.to_string().as_bytes());
    id
}
