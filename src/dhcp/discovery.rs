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

use address_probe::{AddressProbe, ProbePurpose, random_address};
use ignored_replies::IgnoredReplies;
use offering::ServerReply;

pub(crate) use ignored_replies::ReplyFault;
pub(crate) use offering::{Delivery, Offer, OfferingServer};

mod address_probe;
mod ignored_replies;
mod offering;
mod ownership;
#[cfg(test)]
mod tests;

/// The least time of a search that finds a server: dnsmasq, the usual server of home routers, pings
/// an address for three seconds before it offers it.
const MIN_SEARCH: Duration = Duration::from_secs(4);
/// The time for which further servers are waited for after each new one.
const AFTER_NEW_SERVER: Duration = Duration::from_secs(2);
/// The longest wait for the answer to a DISCOVER, once a server is known.
const CONFIRMATION_WAIT: Duration = Duration::from_secs(1);
/// The full DISCOVERs that follow the first reply of a server which has answered none. Those before
/// it may not have reached the server: a switch port drops all frames for 30 s (spanning tree).
const CONFIRMATIONS: usize = 2;
/// The number of servers that are remembered.
const MOST_SERVERS: usize = 8;
/// The value that a reply without any address of its server lacks.
const SERVER_IDENTIFIER: &str = "server identifier";
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
    /// The addresses of this station, which are not probed.
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
    /// The time of the last new server, or of the first usable OFFER of a known one.
    last_news: Option<Instant>,
    servers: Vec<OfferingServer>,
    /// Servers beyond [`MOST_SERVERS`] have answered.
    has_more_servers: bool,
    probes: Vec<AddressProbe>,
    frames: u32,
    ignored: IgnoredReplies,
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
            last_news: None,
            servers: Vec::new(),
            has_more_servers: false,
            probes: Vec::new(),
            frames: 0,
            ignored: IgnoredReplies::default(),
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
        let payload = frame::parse(bytes, self.config.mac)
            .inspect_err(|why| self.ignored.count_frame(bytes, why))?;
        match payload {
            Payload::Arp(arp) => self.handle_arp(arp),
            Payload::Dhcp {
                payload,
                from,
                is_intact,
            } => {
                let delivery = Delivery::of(bytes);
                let reply =
                    ServerMessage::read(payload, from, &self.config).inspect_err(|why| {
                        if self.is_answer(payload) {
                            self.ignored.count_message(from.0, why);
                        }
                    })?;
                self.handle_reply(&reply, (is_intact, delivery), now)
            }
        }
    }

    /// Returns whether a message has the transaction id of a DISCOVER, or is too short to have one.
    fn is_answer(&self, payload: &[u8]) -> bool {
        const XID: std::ops::Range<usize> = 4..8;
        let xid = payload.get(XID).and_then(|bytes| bytes.try_into().ok());
        xid.is_none_or(|xid| {
            let xid = u32::from_be_bytes(xid);
            self.sent.iter().any(|sent| sent.xid == xid)
        })
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
            let why = Ignored::Unexpected {
                message_type: reply.message_type.into(),
                state: "SELECTING",
            };
            self.ignored.count_message(reply.from, &why);
            return Err(why);
        }
        let answer = ServerReply {
            reply,
            form: discover.form,
            took: now - discover.at,
            delivery,
            is_intact,
        };
        let Some(id) = answer.server() else {
            let why = Ignored::Incomplete(SERVER_IDENTIFIER);
            self.ignored.count_message(reply.from, &why);
            return Err(why);
        };
        let place = self.place_of(id, &answer, now)?;
        let server = &mut self.servers[place];
        let had_offer = server.offer.is_some();
        server.add(&answer, now);
        if let Some(Offer { lease, .. }) = &server.offer {
            if !had_offer {
                self.last_news = Some(now);
            }
            let lease = lease.clone();
            self.probe_offer(&lease, now);
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Returns the place of the server that a reply is of, and adds a new one.
    fn place_of(
        &mut self,
        id: Ipv4Addr,
        answer: &ServerReply<'_>,
        now: Instant,
    ) -> Result<usize, Ignored> {
        let mac = answer.reply.from;
        if answer.is_intact {
            // The identifier in a damaged reply of this station may have been another one's.
            self.servers
                .retain(|known| known.id == id || known.mac != mac || !known.is_damaged());
        }
        let is_it = |server: &OfferingServer| (server.id, server.mac) == (id, mac);
        let is_station = |server: &OfferingServer| !answer.is_intact && server.mac == mac;
        let mut servers = self.servers.iter();
        let known = servers.position(is_it);
        match known.or_else(|| self.servers.iter().position(is_station)) {
            Some(place) => Ok(place),
            None if self.servers.len() >= MOST_SERVERS => {
                self.has_more_servers = true;
                Err(Ignored::OtherServer(id))
            }
            None => {
                self.last_news = Some(now);
                self.next = self.next.map(|next| next.min(now + CONFIRMATION_WAIT));
                self.servers.push(OfferingServer::new(id, answer, now));
                Ok(self.servers.len() - 1)
            }
        }
    }

    /// Starts to probe an offered address with its router and, with the first one, a random address
    /// of its subnet: a station that answers for one of these, too, does proxy ARP.
    fn probe_offer(&mut self, lease: &Lease, now: Instant) {
        if self.settings.own_addresses.contains(&lease.address) {
            return;
        }
        let is_first = self.probes.is_empty();
        self.add_probe(lease.address, ProbePurpose::Offered, now);
        if let Some(router) = ownership::router_to_ask(lease) {
            self.add_probe(router, ProbePurpose::Router, now);
        }
        if is_first {
            let own = &self.settings.own_addresses;
            let random = random_address(lease, own, || self.backoff.xid());
            if let Some(address) = random {
                self.add_probe(address, ProbePurpose::Random, now);
            }
        }
    }

    /// Adds a probe of an address that is neither probed yet nor this station's own.
    fn add_probe(&mut self, address: Ipv4Addr, purpose: ProbePurpose, now: Instant) {
        let is_probed = self.probes.iter().any(|probe| probe.address == address);
        if !is_probed && !self.settings.own_addresses.contains(&address) {
            self.probes.push(AddressProbe::new(address, purpose, now));
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

    /// Returns the form of the next DISCOVER. Once a server has answered, the full one is repeated
    /// while that server has not answered it, because a frame may have been lost; then the flagged
    /// one is sent.
    fn form_to_send(&self) -> Option<DiscoverForm> {
        let Some(first) = self.servers.first() else {
            return Some(DiscoverForm::ORDER[self.sent.len() % DiscoverForm::ORDER.len()]);
        };
        let is_unconfirmed = |server: &OfferingServer| {
            let sent = self.sent_after_reply_of(server, DiscoverForm::Full);
            !server.has_answered(DiscoverForm::Full) && sent.count() < CONFIRMATIONS
        };
        if self.servers.iter().any(is_unconfirmed) {
            return Some(DiscoverForm::Full);
        }
        let is_answered = |form| self.servers.iter().any(|server| server.has_answered(form));
        let mut flagged = self.sent_after_reply_of(first, DiscoverForm::Broadcast);
        let is_next = is_answered(DiscoverForm::Full)
            && !is_answered(DiscoverForm::Broadcast)
            && flagged.next().is_none();
        is_next.then_some(DiscoverForm::Broadcast)
    }

    /// Returns the times of the DISCOVERs of a form that followed the first reply of a server.
    fn sent_after_reply_of(
        &self,
        server: &OfferingServer,
        form: DiscoverForm,
    ) -> impl Iterator<Item = Instant> {
        let since = server.first_reply_at;
        let sent = self.sent.iter();
        sent.filter(move |sent| sent.form == form && sent.at > since)
            .map(|sent| sent.at)
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
        let Some(news) = self.last_news else {
            return deadline;
        };
        // The last DISCOVER, and the next one, have time to be answered.
        let last = self.sent.last().map(|sent| sent.at);
        let discovers = [last, self.next].into_iter().flatten();
        let further = discovers.map(|at| at + CONFIRMATION_WAIT);
        further
            .fold(news + AFTER_NEW_SERVER, Instant::max)
            .max(self.began + MIN_SEARCH)
            .min(deadline)
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

    /// Returns the replies that could not be used.
    pub(crate) fn ignored(&self) -> &IgnoredReplies {
        &self.ignored
    }

    /// Returns the number of DISCOVERs that were sent.
    pub(crate) fn discovers(&self) -> usize {
        self.sent.len()
    }

    /// Returns whether a server that has answered another form leaves full DISCOVERs without an
    /// answer. Those before its first reply do not count, and neither do the last ones before `now`.
    pub(crate) fn is_full_ignored_by(&self, server: &OfferingServer, now: Instant) -> bool {
        let sent = self.sent_after_reply_of(server, DiscoverForm::Full);
        let unanswered = sent.filter(|at| *at + CONFIRMATION_WAIT <= now);
        !server.has_answered(DiscoverForm::Full) && unanswered.count() >= CONFIRMATIONS
    }
}

/// Returns the client identifier of a search (option 61): type 0, this program's name and the MAC.
///
/// The identifiers of containers and of the host differ: a container's id, a MAC with type 1, or a
/// DUID with type 255. A server that knows clients by it offers an address that is free, and touches
/// neither a lease nor a reservation of theirs. It is the same each time, so that ten searches have
/// a server keep one address for a minute, and not ten.
fn client_id(mac: Mac) -> Vec<u8> {
    let mut id = b"\0smol-dhcp-proxy check ".to_vec();
    id.extend_from_slice(mac.to_string().as_bytes());
    id
}
