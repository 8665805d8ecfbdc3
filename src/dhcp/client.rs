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
use super::tally::Tally;
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

/// The number of damaged replies after which the next one with the same content is read.
const DAMAGED_COPIES: u32 = 2;

/// A DHCPv4 client for one interface. The [module](super) says how to drive it.
#[derive(Debug)]
pub struct Client {
    config: Config,
    backoff: Backoff,
    rate: RateLimit,
    carrier: bool,
    search: Search,
    /// The options that messages to the server leave out.
    plainness: Plainness,
    /// The content of the last reply with a wrong UDP checksum, and how many equal ones preceded
    /// it.
    damaged: Option<(Vec<u8>, u32)>,
    /// The latest stations with a claim to one of our addresses, and that address.
    conflicts: VecDeque<(Mac, Ipv4Addr)>,
    /// Rounds that ended with a NAK, without an ACK or with a conflict, minus the renewals since.
    failures: u32,
    /// The end of the wait for an answer or for the carrier; `None` after it. Used only in states
    /// whose `Listening` is `Until`.
    stop_listening_at: Option<Instant>,
    tally: Tally,
    state: State,
    outbox: VecDeque<(Transmit, Vec<u8>)>,
    events: VecDeque<Event>,
}

impl Client {
    /// Makes a client without an address (INIT) with a DISCOVER ready to be sent.
    ///
    /// Deviation: RFC 2131 §4.4.1 asks for a random wait of up to 10 s, for hosts that boot
    /// together. Containers do not boot together, and a caller waits for them.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        Self::start(config, State::Init { at: now }, seed, now)
    }

    /// Extends the deadline of the first acquisition to `until`. Does nothing after the
    /// acquisition, or if the deadline is later already.
    pub fn extend_deadline(&mut self, until: Instant) {
        self.search.deadline = self.search.deadline.map(|deadline| deadline.max(until));
    }

    /// Makes a client that asks for its previous `address` (INIT-REBOOT, RFC 2131 §4.4.2), which
    /// must not be in use. It sends two REQUESTs within 5 s, and then looks for any address.
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
            tally: Tally::default(),
            state,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.handle_timeout(now);
        client
    }

    /// Handles a whole Ethernet frame that the interface received.
    /// # Errors
    ///
    /// Returns the reason why the frame is ignored. The client is unchanged then.
    pub fn handle_packet(&mut self, frame: &[u8], now: Instant) -> Result<(), Ignored> {
        // Timers first: a lease that has expired is not saved by a frame that was still in the
        // queue.
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
        // The new state may have something to do at once.
        self.handle_timeout(now);
        Ok(())
    }

    /// Counts a reply with a wrong UDP checksum, and returns whether to read it: yes after several
    /// with equal content.
    ///
    /// RFC 1122 has such a datagram discarded. On some networks all have a wrong checksum, because
    /// a network card or a bridge miscounts. Random damage occurs once, or twice if the frame does.
    fn accept_damaged(&mut self, payload: &[u8]) -> bool {
        let said = comparable_bytes(payload);
        let before = self.damaged.take().filter(|(before, _)| *before == said);
        let alike = before.map_or(0, |(_, alike)| alike.saturating_add(1));
        self.damaged = Some((said, alike));
        alike >= DAMAGED_COPIES
    }

    /// Does all work that is due. Call it at [`Client::poll_timeout`]; a call at another time does
    /// no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.due() <= now {
            self.step(now);
        }
    }

    /// Handles the loss or the return of the carrier. A new client assumes a carrier.
    ///
    /// Without a carrier nothing is sent. On its return the client repeats its unanswered message,
    /// or checks its lease, because it may be on another network (RFC 2131 §3.7).
    pub fn handle_carrier(&mut self, present: bool, now: Instant) {
        if present && !self.carrier {
            // Whatever expired in the meantime is not retransmitted.
            self.handle_timeout(now);
            self.carrier = true;
            self.on_carrier_up(now);
        }
        if self.carrier && !present {
            self.start_listening(now);
        }
        self.carrier = present;
        if !present {
            // Messages that were not polled are dropped, and a DISCOVER among them is not counted.
            if matches!(self.state, State::Selecting { .. }) && !self.outbox.is_empty() {
                self.search.discovers = self.search.discovers.saturating_sub(1);
            }
            self.outbox.clear();
        }
        self.handle_timeout(now);
    }

    /// Handles the MTU of the interface: the client asks servers for no longer messages.
    pub fn handle_mtu(&mut self, mtu: u32) {
        self.config.fit_mtu(mtu);
    }

    /// Releases the lease and stops. [`Event::Released`] follows at once or, if the server's
    /// hardware address must be resolved first, within 200 ms. A client without a lease just stops.
    ///
    /// The RELEASE is a [`Transmit::Frame`]: the address is removed right after it, and the kernel
    /// drops a datagram that then still waits for ARP.
    pub fn release(&mut self, now: Instant) {
        self.handle_timeout(now);
        if matches!(self.state, State::Releasing { .. } | State::Stopped) {
            return;
        }
        // Requests that were not sent are obsolete.
        self.outbox.clear();
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => self.start_release(held.lease, now),
            // Acknowledged, and not in use yet.
            State::Probing { lease, .. } => self.start_release(*lease, now),
            State::Init { .. } | State::Selecting { .. } | State::Requesting { .. } => {
                self.stop(Event::Released)
            }
            State::InitReboot { .. } | State::Rebooting { .. } => self.stop(Event::Released),
            State::Releasing { .. } | State::Stopped => State::Stopped,
        };
    }

    /// Replaces the content of `out` by the next message to send, and returns how to send it.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = pop(&mut self.outbox)?;
        *out = bytes;
        Some(transmit)
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        pop(&mut self.events)
    }

    /// Returns what was counted since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Returns when to call [`Client::handle_timeout`] next; `None` if nothing is scheduled.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.due();
        (due != NEVER).then_some(due)
    }

    /// Returns the settings, with the proxy ARP stations, plainness and MTU learned since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the plainness of the messages that the server answers.
    pub fn plainness(&self) -> Plainness {
        self.plainness
    }

    /// Returns the lease in use.
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

    /// Returns our address: in use, requested or being probed.
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

    /// Returns the address whose ARP packets the client needs, for the filter of a socket. Set it
    /// before sending. It is [`Client::own_address`], or that of the router during a check for
    /// proxy ARP, or that of the next hop of a RELEASE.
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

    /// Returns whether there is a lease to [release](Self::release), in use or being probed.
    pub fn is_leased(&self) -> bool {
        matches!(self.state, State::Probing { .. }) || self.lease().is_some()
    }

    /// Returns the name of the state for logs, that of RFC 2131 figure 5 if it has one.
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

/// Removes the first element. An empty queue frees its memory: a lease lasts for days and seldom
/// sends.
fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}
