//! The DHCP client: its construction, its inputs and its outputs.

use super::backoff::Backoff;
use super::config::{Config, Probe};
use super::event::{Event, Transmit};
use super::exchange::{Exchange, Search};
use super::frame::{self, Payload};
use super::ignored::Ignored;
use super::lease::Lease;
use super::message::{ServerMessage, comparable_bytes};
use super::message_rate::message_rate;
use super::plainness::Plainness;
use super::snapshot::NEVER;
use crate::mac::Mac;
use crate::rate::RateLimit;
use crate::time::Instant;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

use state::{HeldLease, State};

mod claim;
mod conflict;
mod listening;
mod probe;
mod receive;
mod resume;
mod state;
mod timeout;
mod transitions;

/// Damaged replies after which one more that says the same is read.
const DAMAGED_COPIES: u32 = 2;

/// A DHCPv4 client for one interface. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Client {
    config: Config,
    backoff: Backoff,
    rate: RateLimit,
    carrier: bool,
    search: Search,
    /// The options that the messages to the server leave out.
    plainness: Plainness,
    /// The content of the last reply with a wrong UDP checksum, and how many before it had the
    /// same.
    damaged: Option<(Vec<u8>, u32)>,
    /// The latest stations that cost us an address, and which.
    conflicts: VecDeque<(Mac, Ipv4Addr)>,
    /// Rounds that ended with a NAK, without an ACK or with a conflict, less what renewals have
    /// made good since.
    failures: u32,
    /// When the wait for an answer, or for the carrier, ends; `None` once it has. Without meaning
    /// in states that do not listen, or as long as they last.
    stop_listening_at: Option<Instant>,
    state: State,
    outbox: VecDeque<(Transmit, Vec<u8>)>,
    events: VecDeque<Event>,
}

impl Client {
    /// Makes a client without an address (INIT): its DISCOVER is ready to be sent.
    ///
    /// RFC 2131 §4.4.1 wants a random wait of up to 10 s first, for hosts that boot together.
    /// Containers do not, and a caller waits for them, so we start at once.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        Self::start(config, State::Init { at: now }, seed, now)
    }

    /// Gives the first acquisition time until `until`, where it had less and is not over.
    pub fn extend_deadline(&mut self, until: Instant) {
        self.search.deadline = self.search.deadline.map(|deadline| deadline.max(until));
    }

    /// A client that wants `address` again, which is not in use now (INIT-REBOOT, RFC 2131 §4.4.2):
    /// it asks for it without a DISCOVER, twice within 5 s, and then looks for any.
    pub fn reboot(config: Config, address: Ipv4Addr, seed: u64, now: Instant) -> Self {
        Self::start(config, State::InitReboot { at: now, address }, seed, now)
    }

    fn start(config: Config, state: State, seed: u64, now: Instant) -> Self {
        let mut search = Search::new(now, config.requested);
        search.deadline = config.deadline.map(|patience| now + patience);
        let probe = if config.probe == Probe::Before(0) {
            Probe::Off
        } else {
            config.probe
        };
        let plainness = config.plainness;
        let mut client = Self {
            backoff: Backoff::new(seed, config.fuzz),
            config: Config { probe, ..config },
            rate: message_rate(now),
            carrier: true,
            search,
            plainness,
            damaged: None,
            conflicts: VecDeque::new(),
            failures: 0,
            stop_listening_at: None,
            state,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.handle_timeout(now);
        client
    }

    /// Takes in a whole Ethernet frame that the interface has heard. One that means nothing to the
    /// client changes nothing, and the `Err` says why.
    ///
    /// # Errors
    ///
    /// Why the frame is ignored; the client is as it was.
    pub fn handle_packet(&mut self, frame: &[u8], now: Instant) -> Result<(), Ignored> {
        // Time first: what has expired by now is not saved by a frame that was still waiting to be
        // read.
        self.handle_timeout(now);
        match frame::parse(frame, self.config.mac)? {
            Payload::Dhcp {
                payload,
                from,
                is_intact,
            } => {
                let reply = ServerMessage::read(payload, from, &self.config)?;
                if !is_intact && !self.accept_damaged(payload) {
                    return Err(Ignored::Checksum);
                }
                self.handle_reply(&reply, now)?;
            }
            Payload::Arp(arp) => self.handle_arp(arp, now)?,
        }
        // What the frame has led to may be due at once.
        self.handle_timeout(now);
        Ok(())
    }

    /// Returns whether several damaged replies have said the same as this one.
    ///
    /// RFC 1122 has a datagram with a wrong checksum discarded. On some networks all have one,
    /// because a card or a bridge miscounts; damage by chance comes once, or twice where a frame
    /// does.
    fn accept_damaged(&mut self, payload: &[u8]) -> bool {
        let said = comparable_bytes(payload);
        let before = self.damaged.take().filter(|(before, _)| *before == said);
        let alike = before.map_or(0, |(_, alike)| alike.saturating_add(1));
        self.damaged = Some((said, alike));
        alike >= DAMAGED_COPIES
    }

    /// Does what is due. Call it at [`Client::poll_timeout`]; too early, too late or too often does
    /// no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.due() <= now {
            self.step(now);
        }
    }

    /// Takes in whether the interface has a carrier; until told otherwise, it has. Without one
    /// nothing is sent, and the first thing after its return is to say again what was not heard: on
    /// this network or, for all we know, on another one (RFC 2131 §3.7).
    pub fn handle_carrier(&mut self, present: bool, now: Instant) {
        if present && !self.carrier {
            // What has run out meanwhile is not said again.
            self.handle_timeout(now);
            self.carrier = true;
            self.on_carrier_up(now);
        }
        if self.carrier && !present {
            self.start_listening(now);
        }
        self.carrier = present;
        if !present {
            // Messages that were not polled yet are dropped: a client that begins without a carrier
            // sends nothing, and does not count it either.
            if matches!(self.state, State::Selecting { .. }) && !self.outbox.is_empty() {
                self.search.discovers = self.search.discovers.saturating_sub(1);
            }
            self.outbox.clear();
        }
        self.handle_timeout(now);
    }

    /// Takes in how large an IP packet the interface carries: no server is told that a larger one
    /// will do.
    pub fn handle_mtu(&mut self, mtu: u32) {
        self.config.fit_mtu(mtu);
    }

    /// Gives the lease back and stops: [`Event::Released`] follows at once or, where a hardware
    /// address has to be asked for, within 200 ms. A client without a lease has nothing to give
    /// back and just stops.
    ///
    /// The RELEASE is a [`Transmit::Frame`], because the address is taken off the link right after
    /// it, and the kernel drops what then still waits for its own ARP.
    pub fn release(&mut self, now: Instant) {
        self.handle_timeout(now);
        if matches!(self.state, State::Releasing { .. } | State::Stopped) {
            return;
        }
        // No need to ask for anything any more.
        self.outbox.clear();
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => self.start_release(held.lease, now),
            // Acknowledged, though not in use yet.
            State::Probing { lease, .. } => self.start_release(*lease, now),
            State::Init { .. } | State::Selecting { .. } | State::Requesting { .. } => {
                self.stop(Event::Released)
            }
            State::InitReboot { .. } | State::Rebooting { .. } => self.stop(Event::Released),
            State::Releasing { .. } | State::Stopped => State::Stopped,
        };
    }

    /// Puts the next thing to send into `out` (whose old contents are gone) and says how it wants
    /// to travel.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = pop(&mut self.outbox)?;
        *out = bytes;
        Some(transmit)
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        pop(&mut self.events)
    }

    /// When [`Client::handle_timeout`] wants to be called next; `None` while time alone changes
    /// nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.due();
        (due != NEVER).then_some(due)
    }

    /// Returns the settings, with what was learned since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns how plain the message was that the server has answered.
    pub fn plainness(&self) -> Plainness {
        self.plainness
    }

    /// The lease in use, if any.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Releasing { lease, .. } => Some(lease),
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(&held.lease),
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Stopped => None,
        }
    }

    fn held(&self) -> Option<&HeldLease> {
        match &self.state {
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::Probing { .. } => None,
            State::InitReboot { .. } | State::Rebooting { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }

    /// Returns the address that a claim of another station by ARP would cost us: one that we have,
    /// or are about to have.
    pub fn own_address(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Requesting { offer, .. } => Some(offer.address),
            State::Rebooting { address, .. } => Some(*address),
            State::Probing { lease, .. } => Some(lease.address),
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held.lease.address),
            State::Init { .. } | State::Selecting { .. } | State::InitReboot { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }

    /// The address that ARP is to be heard of: the one at stake, that of the router where another
    /// station's claim is in doubt, or that of the station that a RELEASE is to go to.
    pub fn arp_address(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Probing {
                check: Some(check), ..
            } => Some(check.router),
            State::Releasing { next_hop, .. } => Some(*next_hop),
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Bound { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Stopped => self.own_address(),
        }
    }

    /// Whether a server has leased us an address, in use already or not: there is something to
    /// [release](Self::release).
    pub fn is_leased(&self) -> bool {
        matches!(self.state, State::Probing { .. }) || self.lease().is_some()
    }

    /// The state's name, for logs; that of RFC 2131 figure 5 where it has one.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Init { .. } => "INIT",
            State::Selecting { .. } => "SELECTING",
            State::Requesting { .. } => "REQUESTING",
            State::InitReboot { .. } => "INIT-REBOOT",
            State::Rebooting { .. } => "REBOOTING",
            State::Probing { .. } => "PROBING",
            State::Bound { .. } => "BOUND",
            State::Renewing { .. } => "RENEWING",
            State::Rebinding { .. } => "REBINDING",
            State::Releasing { .. } => "RELEASING",
            State::Stopped => "STOPPED",
        }
    }

    fn exchange(&self) -> Option<Exchange> {
        match &self.state {
            State::Selecting { exchange, .. } | State::Requesting { exchange, .. } => {
                Some(*exchange)
            }
            State::Rebooting { exchange, .. } => Some(*exchange),
            State::Renewing { exchange, .. } | State::Rebinding { exchange, .. } => Some(*exchange),
            State::Init { .. }
            | State::InitReboot { .. }
            | State::Probing { .. }
            | State::Bound { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }
}

/// The next of what is to be handed out. An empty queue keeps no room: a lease lives for days and
/// says little.
fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}
