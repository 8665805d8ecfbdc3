//! The states of RFC 2131 figure 5, and what moves a client from one to the next.

use super::backoff::Backoff;
use super::exchange::{Exchange, Search};
use super::frame::{self, BROADCAST, Received};
use super::message::{Reply, Request};
use super::option;
use super::{Config, Event, Ignored, Lease, Lost, Mac, Transmit, Why};
use crate::time::Instant;
use smoltcp::wire::DhcpMessageType as Type;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

/// REQUESTs for one offer before looking for another. RFC 2131 3.1 (5) speaks of four within a minute; somebody
/// waits less than that, and a server that has just made an offer is near.
const REQUESTS_PER_OFFER: u32 = 3;
/// How long a remembered address is asked for before any other will do.
const REBOOT_PATIENCE: Duration = Duration::from_secs(5);
/// REQUESTs within [`REBOOT_PATIENCE`].
const REBOOT_REQUESTS: u32 = 2;
/// How long a release waits for a hardware address.
const ARP_PATIENCE: Duration = Duration::from_millis(200);
/// The end of an infinite lease.
const NEVER: Instant = Instant::from_boot(Duration::MAX);

/// A DHCPv4 client for one interface. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Client {
    config: Config,
    backoff: Backoff,
    search: Search,
    state: State,
    outbox: VecDeque<(Transmit, Vec<u8>)>,
    events: VecDeque<Event>,
}

/// The states of figure 5, each with what it alone knows, and two of our own for the end.
#[derive(Debug)]
enum State {
    /// INIT: a DISCOVER goes out at `at`.
    Init { at: Instant },
    /// SELECTING: the DISCOVER is out; the first usable OFFER wins.
    Selecting { exchange: Exchange },
    /// REQUESTING: we have asked for what was offered.
    Requesting { exchange: Exchange, address: Ipv4Addr, server: Ipv4Addr },
    /// INIT-REBOOT: a REQUEST for an address of earlier times goes out at `at`.
    InitReboot { at: Instant, address: Ipv4Addr },
    /// REBOOTING: we have asked whether the address is still ours.
    Rebooting { exchange: Exchange, address: Ipv4Addr },
    /// BOUND: nothing to do until T1.
    Bound { held: Held },
    /// RENEWING: asking the server that leased it, by unicast.
    Renewing { exchange: Exchange, held: Held },
    /// REBINDING: asking any server, by broadcast.
    Rebinding { exchange: Exchange, held: Held },
    /// Wants to say RELEASE, and learns by ARP where to, until `until`.
    Releasing { lease: Lease, next_hop: Ipv4Addr, until: Instant },
    /// Has released or given up; nothing happens any more.
    Stopped,
}

/// A lease in use and when it wants attention: its own times, T1 and T2 with fuzz.
#[derive(Debug)]
struct Held {
    lease: Lease,
    renew_at: Instant,
    rebind_at: Instant,
    expires_at: Instant,
}

impl Client {
    /// A client that knows nothing (INIT): its DISCOVER is ready to be sent.
    ///
    /// RFC 2131 4.4.1 wants a random wait of up to 10 s first, for hosts that boot together. Containers do not,
    /// and somebody waits for them, so we start at once.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        Self::start(config, State::Init { at: now }, seed, now)
    }

    /// A client that wants `address` again, which is not in use now (INIT-REBOOT, RFC 2131 3.2): it asks for it
    /// without a DISCOVER, twice within 5 s, and then looks for any.
    pub fn reboot(config: Config, address: Ipv4Addr, seed: u64, now: Instant) -> Self {
        Self::start(config, State::InitReboot { at: now, address }, seed, now)
    }

    /// A client whose `lease` is in use, acquired since the machine booted: it goes on where the clock says that
    /// it is, be it BOUND, RENEWING, REBINDING or expired ([`Event::Lost`]). Nobody waits, so
    /// [`Config::deadline`] has no meaning here.
    pub fn resume(config: Config, lease: Lease, seed: u64, now: Instant) -> Self {
        let mut client = Self::start(Config { deadline: None, ..config }, State::Stopped, seed, now);
        client.state = client.hold(lease, now);
        client
    }

    fn start(config: Config, state: State, seed: u64, now: Instant) -> Self {
        let mut search = Search::new(now, config.requested);
        search.deadline = config.deadline.map(|patience| now + patience);
        let backoff = Backoff::new(seed, config.fuzz);
        let mut client = Self { config, backoff, search, state, outbox: VecDeque::new(), events: VecDeque::new() };
        client.handle_timeout(now);
        client
    }

    /// Takes in a whole Ethernet frame that the interface has heard. One that means nothing to the client changes
    /// nothing, and the `Err` says why.
    pub fn handle_packet(&mut self, frame: &[u8], now: Instant) -> Result<(), Ignored> {
        // Time first: what has expired by now is not saved by a frame that was still waiting to be read.
        self.handle_timeout(now);
        match frame::open(frame, self.config.mac)? {
            Received::Dhcp { payload, from } => self.handle_reply(&Reply::read(payload, from, &self.config)?, now),
            Received::Arp { address, at } => self.handle_arp(address, at),
        }
    }

    /// Does what is due. Call it at [`Client::poll_timeout`]; too early, too late or too often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if let Some(deadline) = self.search.deadline.filter(|deadline| *deadline <= now) {
            self.state = self.give_up(deadline);
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Init { .. } => self.discover(None, now),
            State::Selecting { exchange } => self.discover(Some(exchange), now),
            State::Requesting { exchange, address, server } if exchange.sent < REQUESTS_PER_OFFER => {
                self.request(exchange, address, server, now)
            }
            State::Requesting { address, server, .. } => self.start_over(Why::NoAck { address, server }, now),
            State::InitReboot { address, .. } => self.ask_again_for(address, None, now),
            State::Rebooting { exchange, address }
                if exchange.sent < REBOOT_REQUESTS && now < exchange.since + REBOOT_PATIENCE =>
            {
                self.ask_again_for(address, Some(exchange), now)
            }
            State::Rebooting { address, .. } => {
                self.search.wanted = Some(address);
                self.discover(None, now)
            }
            State::Renewing { exchange, held } if now < held.rebind_at => self.renew(held, Some(exchange), now),
            State::Rebinding { exchange, held } if now < held.expires_at => self.rebind(held, Some(exchange), now),
            State::Bound { held } | State::Renewing { held, .. } | State::Rebinding { held, .. } => {
                self.follow_the_clock(held, now)
            }
            State::Releasing { .. } | State::Stopped => self.stop(Event::Released),
        };
    }

    /// Takes in whether the interface has a carrier; until told otherwise, it has. Without one nothing is sent, and the
    /// first thing after its return is to say again what was not heard.
    pub fn handle_carrier(&mut self, _present: bool, now: Instant) {
        self.handle_timeout(now);
    }

    /// Gives the lease back and stops: [`Event::Released`] follows at once or, where a hardware address has to be
    /// asked for, within 200 ms. A client without a lease has nothing to give back and just stops.
    ///
    /// The RELEASE is a [`Transmit::Frame`], because the address is taken off the link right after it, and the
    /// kernel drops what then still waits for its own ARP.
    pub fn release(&mut self, now: Instant) {
        self.handle_timeout(now);
        if matches!(self.state, State::Releasing { .. }) {
            return;
        }
        self.state = match self.lease().cloned() {
            Some(lease) => self.give_back(lease, now),
            None => {
                self.outbox.clear(); // No need to ask any more.
                self.stop(Event::Released)
            }
        };
    }

    /// Puts the next thing to send into `out` (whose old contents are gone) and says how it wants to travel.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = pop(&mut self.outbox)?;
        *out = bytes;
        Some(transmit)
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        pop(&mut self.events)
    }

    /// When [`Client::handle_timeout`] wants to be called next; `None` while time alone changes nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = match &self.state {
            State::Init { at } | State::InitReboot { at, .. } => *at,
            State::Selecting { exchange } => exchange.next,
            State::Requesting { exchange, .. } => exchange.next,
            State::Rebooting { exchange, .. } => exchange.next,
            State::Bound { held } => held.renew_at,
            State::Renewing { exchange, held } => exchange.next.min(held.rebind_at),
            State::Rebinding { exchange, held } => exchange.next.min(held.expires_at),
            State::Releasing { until, .. } => *until,
            State::Stopped => NEVER,
        };
        let due = self.search.deadline.map_or(due, |deadline| deadline.min(due));
        (due != NEVER).then_some(due)
    }

    /// Who asks, and for what.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The lease in use, if any.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { held } | State::Renewing { held, .. } | State::Rebinding { held, .. } => Some(&held.lease),
            State::Releasing { lease, .. } => Some(lease),
            State::Init { .. } | State::Selecting { .. } | State::Requesting { .. } => None,
            State::InitReboot { .. } | State::Rebooting { .. } | State::Stopped => None,
        }
    }

    /// Whether an answer may be under way. While this is false nobody needs to listen on the interface.
    pub fn is_listening(&self) -> bool {
        matches!(self.state, State::Releasing { .. }) || self.exchange().is_some()
    }

    /// The state's name, for logs; that of RFC 2131 figure 5 where it has one.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Init { .. } => "INIT",
            State::Selecting { .. } => "SELECTING",
            State::Requesting { .. } => "REQUESTING",
            State::InitReboot { .. } => "INIT-REBOOT",
            State::Rebooting { .. } => "REBOOTING",
            State::Bound { .. } => "BOUND",
            State::Renewing { .. } => "RENEWING",
            State::Rebinding { .. } => "REBINDING",
            State::Releasing { .. } => "RELEASING",
            State::Stopped => "STOPPED",
        }
    }

    fn exchange(&self) -> Option<Exchange> {
        match &self.state {
            State::Selecting { exchange } | State::Requesting { exchange, .. } => Some(*exchange),
            State::Rebooting { exchange, .. } => Some(*exchange),
            State::Renewing { exchange, .. } | State::Rebinding { exchange, .. } => Some(*exchange),
            State::Init { .. } | State::InitReboot { .. } | State::Bound { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }
}

/// The next of what is to be handed out. An empty queue keeps no room: a lease lives for days and says little.
fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}

/// What we hear. The state changes only once all is known to be in order.
impl Client {
    fn handle_reply(&mut self, reply: &Reply, now: Instant) -> Result<(), Ignored> {
        // A late or repeated reply finds another xid, or none.
        let exchange = self.exchange().filter(|exchange| exchange.xid == reply.xid).ok_or(Ignored::OtherExchange)?;
        let server = reply.server().ok_or(Ignored::Incomplete("server identifier"));
        self.state = match (&self.state, reply.message_type) {
            (State::Selecting { .. }, Type::Offer) => self.accept_offer(reply, server?, exchange, now)?,
            (State::Requesting { server: asked, .. }, Type::Ack | Type::Nak) if server != Ok(*asked) => {
                return Err(server.map_or_else(|missing| missing, Ignored::OtherServer));
            }
            (State::Requesting { .. } | State::Rebooting { .. }, Type::Ack) => {
                self.accept_ack(reply, server?, None, exchange, now)?
            }
            (State::Renewing { held, .. } | State::Rebinding { held, .. }, Type::Ack) => {
                let old = held.lease.clone();
                self.accept_ack(reply, server?, Some(old), exchange, now)?
            }
            // RFC 2131 4.3.2: in RENEWING only the server that we ask has a say; in REBINDING we ask them all.
            (State::Renewing { held, .. }, Type::Nak) if server != Ok(held.lease.server_id) => {
                return Err(server.map_or_else(|missing| missing, Ignored::OtherServer));
            }
            (State::Renewing { held, .. } | State::Rebinding { held, .. }, Type::Nak) => {
                let (old, message) = (held.lease.clone(), reply.options.text(option::MESSAGE));
                self.lose(old, Lost::Refused { server: server?, message }, now)
            }
            (State::Requesting { .. } | State::Rebooting { .. }, Type::Nak) => {
                let message = reply.options.text(option::MESSAGE);
                self.start_over(Why::Refused { server: server?, message }, now)
            }
            (_, message_type) => {
                return Err(Ignored::Unexpected { message_type: message_type.into(), state: self.state() });
            }
        };
        Ok(())
    }

    /// SELECTING -> REQUESTING. Only an offer that could become a lease counts.
    fn accept_offer(
        &mut self,
        reply: &Reply,
        server: Ipv4Addr,
        discover: Exchange,
        now: Instant,
    ) -> Result<State, Ignored> {
        let address = Lease::read(reply, server, now)?.address;
        // RFC 2131 4.1 and table 5: the REQUEST keeps the xid and the secs of the DISCOVER.
        let exchange = Exchange { since: now, sent: 0, ..discover };
        Ok(self.request(exchange, address, server, now))
    }

    /// REQUESTING, REBOOTING, RENEWING or REBINDING -> BOUND.
    fn accept_ack(
        &mut self,
        reply: &Reply,
        server: Ipv4Addr,
        old: Option<Lease>,
        request: Exchange,
        now: Instant,
    ) -> Result<State, Ignored> {
        let new = Lease::read(reply, server, request.since)?;
        if new.expires_at().is_some_and(|expiry| expiry <= now) {
            return Err(Ignored::Incomplete("time left"));
        }
        let told = Box::new(new.clone());
        self.events.push_back(match old {
            None => Event::Bound(told),
            Some(old) if old.same_settings(&new) => Event::Renewed(told),
            Some(old) => Event::Changed { old: Box::new(old), new: told },
        });
        Ok(self.hold(new, now))
    }

    fn handle_arp(&mut self, address: Ipv4Addr, at: Mac) -> Result<(), Ignored> {
        match &self.state {
            State::Releasing { lease, next_hop, .. } if *next_hop == address => {
                let lease = Lease { server_mac: Some(at), ..lease.clone() };
                self.state = self.say_release(&lease, at);
                Ok(())
            }
            _ => Err(Ignored::NotDhcp),
        }
    }
}

/// The arrows of figure 5: each does what is to be done on the way, and names the state that it leads to.
impl Client {
    /// To SELECTING, or to it again when an `exchange` is under way.
    fn discover(&mut self, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        self.search.discovers = self.search.discovers.saturating_add(1);
        // Counted over all rounds: a server that offers and then falls silent does not make us hasty.
        let wait = self.backoff.broadcast(self.search.discovers, self.search.deadline.is_some());
        exchange.say(self.search.since, now, now + wait);
        let discover = Request { requested: self.search.wanted, ..exchange.message(Type::Discover) };
        self.broadcast(&discover);
        State::Selecting { exchange }
    }

    /// To REQUESTING, or to it again.
    fn request(&mut self, mut exchange: Exchange, address: Ipv4Addr, server: Ipv4Addr, now: Instant) -> State {
        exchange.sent += 1;
        exchange.next = now + self.backoff.broadcast(exchange.sent, self.search.deadline.is_some());
        let request = exchange.message(Type::Request);
        self.broadcast(&Request { requested: Some(address), server: Some(server), ..request });
        State::Requesting { exchange, address, server }
    }

    /// To REBOOTING, or to it again. No server identifier: any server that knows may answer (RFC 2131 4.3.2).
    fn ask_again_for(&mut self, address: Ipv4Addr, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        let next = match exchange.sent {
            0 => now + self.backoff.broadcast(1, true),
            _ => exchange.since + REBOOT_PATIENCE,
        };
        exchange.say(exchange.since, now, next);
        self.broadcast(&Request { requested: Some(address), ..exchange.message(Type::Request) });
        State::Rebooting { exchange, address }
    }

    /// To BOUND with a new lease, or further where the clock says so.
    fn hold(&mut self, lease: Lease, now: Instant) -> State {
        self.search = Search::new(now, None);
        let held = Held {
            renew_at: lease.acquired_at + self.backoff.lease_timer(lease.t1),
            rebind_at: lease.acquired_at + self.backoff.lease_timer(lease.t2),
            expires_at: lease.expires_at().unwrap_or(NEVER),
            lease,
        };
        self.follow_the_clock(held, now)
    }

    /// From BOUND to RENEWING at T1, to REBINDING at T2, to INIT at the end; who has slept skips what was missed.
    fn follow_the_clock(&mut self, held: Held, now: Instant) -> State {
        if held.expires_at <= now {
            self.lose(held.lease, Lost::Expired, now)
        } else if held.rebind_at <= now {
            self.rebind(held, None, now)
        } else if held.renew_at <= now {
            self.renew(held, None, now)
        } else {
            State::Bound { held }
        }
    }

    /// To RENEWING, or to it again: to the server itself, from our address. Neither server identifier nor
    /// requested address go with it (RFC 2131 4.3.2).
    fn renew(&mut self, held: Held, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        exchange.say(exchange.since, now, now + Backoff::renewal(held.rebind_at - now));
        let (source, destination) = (held.lease.address, held.lease.server_id);
        let request = Request { ciaddr: Some(source), ..exchange.message(Type::Request) };
        self.outbox.push_back((Transmit::Datagram { source, destination }, request.write(&self.config)));
        State::Renewing { exchange, held }
    }

    /// To REBINDING, or to it again: the same to everybody.
    fn rebind(&mut self, held: Held, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        exchange.say(exchange.since, now, now + Backoff::renewal(held.expires_at - now));
        self.broadcast(&Request { ciaddr: Some(held.lease.address), ..exchange.message(Type::Request) });
        State::Rebinding { exchange, held }
    }

    /// To INIT after a round that came to nothing, the longer the more of them there were.
    fn start_over(&mut self, why: Why, now: Instant) -> State {
        self.search.failures = self.search.failures.saturating_add(1);
        if matches!(why, Why::Refused { .. }) {
            self.search.wanted = None;
        }
        self.search.trouble = Some(why);
        let wait = self.backoff.start_over(self.search.failures, self.search.deadline.is_some());
        if wait.is_zero() { self.discover(None, now) } else { State::Init { at: now + wait } }
    }

    /// To INIT because the lease has ended. Nobody waits now. An address that just ran out would be welcome again.
    fn lose(&mut self, old: Lease, why: Lost, now: Instant) -> State {
        self.search = Search::new(now, matches!(why, Lost::Expired).then_some(old.address));
        self.events.push_back(Event::Lost { old: Box::new(old), why });
        self.discover(None, now)
    }

    fn give_up(&mut self, deadline: Instant) -> State {
        let why = match (&self.state, self.search.trouble.take()) {
            (State::Requesting { address, server, .. }, _) => Why::NoAck { address: *address, server: *server },
            (_, Some(trouble)) => trouble,
            (_, None) => Why::NoOffer { within: deadline - self.search.since, discovers: self.search.discovers },
        };
        self.stop(Event::GaveUp(why))
    }

    /// Says RELEASE where we know whom to send it to, else asks for that first.
    fn give_back(&mut self, lease: Lease, now: Instant) -> State {
        let on_link = lease.is_on_link(lease.server_id).then_some(lease.server_id);
        match (lease.server_mac, on_link.or(lease.routers.first().copied())) {
            (Some(mac), _) => self.say_release(&lease, mac),
            (None, Some(next_hop)) => {
                let question = frame::arp_request((self.config.mac, lease.address), next_hop);
                self.outbox.push_back((Transmit::Frame, question));
                State::Releasing { lease, next_hop, until: now + ARP_PATIENCE }
            }
            (None, None) => self.stop(Event::Released),
        }
    }

    /// RFC 2131 4.4.6 and table 5: our address and the server's identifier, `secs` 0, and no wishes.
    fn say_release(&mut self, lease: &Lease, mac: Mac) -> State {
        let message = Request::new(Type::Release, self.backoff.xid(), 0);
        let message = Request { ciaddr: Some(lease.address), server: Some(lease.server_id), ..message };
        let (source, destination) = ((self.config.mac, lease.address), (mac, lease.server_id));
        let frame = frame::frame(&message.write(&self.config), source, destination);
        self.outbox.push_back((Transmit::Frame, frame));
        self.stop(Event::Released)
    }

    fn stop(&mut self, last_word: Event) -> State {
        self.search.deadline = None;
        self.events.push_back(last_word);
        State::Stopped
    }

    /// To all, from the address that we have, or from none (RFC 2131 4.1).
    fn broadcast(&mut self, message: &Request) {
        let source = (self.config.mac, message.ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let frame = frame::frame(&message.write(&self.config), source, (BROADCAST, Ipv4Addr::BROADCAST));
        self.outbox.push_back((Transmit::Frame, frame));
    }

    fn exchange_or_new(&mut self, exchange: Option<Exchange>, now: Instant) -> Exchange {
        exchange.unwrap_or_else(|| Exchange::new(self.backoff.xid(), now))
    }
}
