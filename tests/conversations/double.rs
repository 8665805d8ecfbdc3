//! The test double of the network: replies like servers, compares the client's messages, and holds
//! the clock.
//!
//! It is strict: a message or an event that a test does not expect fails it.

use dhcproto::v4::{Message, MessageType};
use smol_dhcp_proxy::dhcp::{
    self, Client, Config, Event, Ignored, Lease, Phase, Plainness, Snapshot, Unusable,
};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

mod answer;
mod said;
pub use answer::*;
pub use said::*;

pub const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 6);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
pub const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const BROADCAST_MAC: Mac = Mac([0xff; 6]);
pub const CLIENT_ID: &[u8] = b"\0container";

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn hours(n: u64) -> Duration {
    seconds(n * 3600)
}

pub fn config() -> Config {
    Config {
        deadline: Some(seconds(45)),
        ..Config::new(MAC, CLIENT_ID.to_vec())
    }
}

/// The start of all conversations; not zero, which would hide mistakes.
pub fn start_of_time() -> Instant {
    Instant::from_boot(seconds(1000))
}

/// The snapshot of a client that was BOUND with this lease, without fuzz.
pub fn bound_with(lease: Lease) -> Snapshot {
    let never = Instant::from_boot(Duration::MAX);
    let (renew_at, rebind_at) = (
        lease.renew_at().unwrap_or(never),
        lease.rebind_at().unwrap_or(never),
    );
    let phase = Phase::Bound {
        lease,
        renew_at,
        rebind_at,
    };
    Snapshot {
        phase,
        failures: 0,
        plainness: Plainness::Full,
        rate_full_at: start_of_time(),
    }
}

/// The fields of an event that tests compare. The whole lease is in [`Conversation::lease`].
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    Bound(Ipv4Addr),
    Renewed(Ipv4Addr),
    Changed(Ipv4Addr, Ipv4Addr),
    Lost(Ipv4Addr, Lost),
    Declined(Ipv4Addr),
    Contested(Ipv4Addr),
    Unusable(Vec<Unusable>),
    ProxyArp(Ipv4Addr),
    NoLeaseTime(Option<Duration>),
    GaveUp(String),
    Released,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Lost {
    Expired,
    Refused,
    Conflict,
}

pub fn gave_up(why: &str) -> Says {
    Says::GaveUp(why.to_owned())
}

impl From<Event> for Says {
    fn from(event: Event) -> Self {
        match event {
            Event::Bound(lease) => Self::Bound(lease.address),
            Event::Renewed(lease) => Self::Renewed(lease.address),
            Event::Changed { old, new } => Self::Changed(old.address, new.address),
            Event::Lost {
                old,
                why: dhcp::LossReason::Expired,
            } => Self::Lost(old.address, Lost::Expired),
            Event::Lost {
                old,
                why: dhcp::LossReason::Refused { .. },
            } => Self::Lost(old.address, Lost::Refused),
            Event::Lost {
                old,
                why: dhcp::LossReason::Conflict { .. },
            } => Self::Lost(old.address, Lost::Conflict),
            Event::Declined { address, .. } => Self::Declined(address),
            Event::Contested { address, .. } => Self::Contested(address),
            Event::Unusable { values, .. } => Self::Unusable(values),
            Event::ProxyArp { address, .. } => Self::ProxyArp(address),
            Event::NoLeaseTime { assumed, .. } => Self::NoLeaseTime(assumed),
            Event::GaveUp(why) => Self::GaveUp(why.to_string()),
            Event::Released => Self::Released,
        }
    }
}

/// A client, its clock, and its messages and events that the test has not yet compared.
pub struct Conversation {
    config: Config,
    begin: Box<dyn Fn(Config) -> Client>,
    client: Option<Client>,
    now: Instant,
    said: VecDeque<Said>,
    says: VecDeque<Event>,
    /// The last message with a new xid, and the xid before it.
    last: Option<Message>,
    declined: Option<Message>,
    earlier_xid: u32,
    /// The test expects ARP probes and announcements; without this they are ignored.
    with_arp: bool,
}

impl Conversation {
    /// A client in INIT, and a caller that waits 45 s.
    pub fn start() -> Self {
        Self::seeded(7)
    }

    /// The same with another seed.
    pub fn seeded(seed: u64) -> Self {
        Self::with(move |config| Client::new(config, seed, start_of_time()))
    }

    /// A client in INIT-REBOOT with `ip`.
    pub fn reboot(ip: Ipv4Addr) -> Self {
        Self::with(move |config| Client::reboot(config, ip, 7, start_of_time()))
    }

    /// A client that resumes from a snapshot.
    pub fn resume(snapshot: Snapshot) -> Self {
        Self::with(move |config| Client::resume(config, snapshot.clone(), 7, start_of_time()))
    }

    fn with(begin: impl Fn(Config) -> Client + 'static) -> Self {
        Self {
            config: config(),
            begin: Box::new(begin),
            client: None,
            now: start_of_time(),
            said: VecDeque::new(),
            says: VecDeque::new(),
            last: None,
            declined: None,
            earlier_xid: 0,
            with_arp: false,
        }
    }

    /// Makes the test expect each probe and each announcement.
    pub fn with_arp(mut self) -> Self {
        self.with_arp = true;
        self
    }

    /// Makes all delays round figures.
    pub fn without_fuzz(self) -> Self {
        self.configured(|config| config.fuzz = false)
    }

    /// Without a caller that waits.
    pub fn patient(self) -> Self {
        self.configured(|config| config.deadline = None)
    }

    pub fn configured(mut self, edit: impl FnOnce(&mut Config)) -> Self {
        edit(&mut self.config);
        self
    }

    /// A conversation in which `IP` was leased at 0 s.
    pub fn bound(time: Duration) -> Self {
        Self::bound_by(ack(IP, time))
    }

    pub fn bound_by(ack: Answer) -> Self {
        let mut c = Self::start().without_fuzz();
        c.at(0)
            .sends(discover())
            .hears(bare_offer(IP))
            .sends(request(IP))
            .hears(ack)
            .says(Says::Bound(IP));
        c
    }

    pub fn client(&mut self) -> &mut Client {
        self.client
            .get_or_insert_with(|| (self.begin)(self.config.clone()))
    }

    /// Runs until `seconds` after the start. Each message or event on the way fails the test.
    pub fn at(&mut self, seconds: impl Into<f64>) -> &mut Self {
        let then = start_of_time() + Duration::from_secs_f64(seconds.into());
        assert!(then >= self.now, "time runs forward");
        while let Some(due) = self.client().poll_timeout().filter(|due| *due < then) {
            self.quiet();
            assert!(due >= self.now, "a deadline in the past");
            self.now = due;
            self.client().handle_timeout(due);
            self.drain();
            let next = self.client().poll_timeout();
            assert!(
                next.is_none_or(|next| next > due),
                "the deadline {due:?} does not go away"
            );
        }
        if then > self.now {
            self.quiet();
        }
        self.now = then;
        self.client().handle_timeout(then);
        self.drain();
        self
    }

    /// Jumps to `seconds` after the start, as after a suspend of the machine.
    pub fn wakes_at(&mut self, seconds: impl Into<f64>) -> &mut Self {
        self.quiet();
        self.now = start_of_time() + Duration::from_secs_f64(seconds.into());
        let now = self.now;
        self.client().handle_timeout(now);
        self.drain();
        self
    }

    /// Returns the client's snapshot, and checks that a client resumed from it is equal.
    pub fn suspend(&mut self) -> Snapshot {
        self.quiet();
        let (now, config) = (self.now, self.config.clone());
        let snapshot = self.client().suspend().expect("a snapshot");
        let resumed = Client::resume(config, snapshot.clone(), 8, now);
        if snapshot.due().is_none_or(|due| due > now) {
            assert_eq!(
                resumed.suspend().as_ref(),
                Some(&snapshot),
                "it is not the same any more"
            );
            assert_eq!(resumed.poll_timeout(), snapshot.due());
        }
        snapshot
    }

    /// Replaces the client at `seconds` after the start by one resumed from its snapshot.
    pub fn resumes_at(&mut self, seconds: impl Into<f64>) -> &mut Self {
        let snapshot = self.suspend();
        self.now = start_of_time() + Duration::from_secs_f64(seconds.into());
        self.client = Some(Client::resume(self.config.clone(), snapshot, 8, self.now));
        self.drain();
        self
    }

    /// The same without a carrier: the messages of the resumed client are dropped.
    pub fn resumes_at_without_carrier(&mut self, seconds: impl Into<f64>) -> &mut Self {
        let snapshot = self.client().suspend().expect("a snapshot");
        self.now = start_of_time() + Duration::from_secs_f64(seconds.into());
        let mut client = Client::resume(self.config.clone(), snapshot, 8, self.now);
        client.handle_carrier(false, self.now);
        self.client = Some(client);
        self.drain();
        self
    }

    pub fn sends(&mut self, expected: Said) -> &mut Self {
        let said = self.said.pop_front();
        assert_eq!(said.as_ref(), Some(&expected), "{}", self.context());
        self
    }

    pub fn says(&mut self, expected: Says) -> &mut Self {
        let event = self.says.pop_front().map(Says::from);
        assert_eq!(event.as_ref(), Some(&expected), "{}", self.context());
        self
    }

    /// Returns the whole event.
    pub fn event(&mut self) -> Event {
        self.says.pop_front().expect("an event")
    }

    /// Drops all events, for tests of the lease alone.
    pub fn forget_events(&mut self) -> &mut Self {
        self.says.clear();
        self
    }

    pub fn hears(&mut self, answer: Answer) -> &mut Self {
        let frame = self.frame(&answer);
        self.hears_frame(&frame)
    }

    pub fn hears_frame(&mut self, frame: &[u8]) -> &mut Self {
        let result = self.handle(frame);
        assert_eq!(result, Ok(()), "{}", self.context());
        self
    }

    /// Receives a reply that must be ignored for this reason.
    pub fn ignores(&mut self, answer: Answer, why: Ignored) -> &mut Self {
        let frame = self.frame(&answer);
        self.ignores_frame(&frame, why)
    }

    pub fn ignores_frame(&mut self, frame: &[u8], why: Ignored) -> &mut Self {
        let before = (self.client().state(), self.client().poll_timeout());
        assert_eq!(self.handle(frame), Err(why));
        self.quiet();
        assert_eq!(
            (self.client().state(), self.client().poll_timeout()),
            before
        );
        self
    }

    /// Changes the carrier of the interface.
    pub fn carrier(&mut self, present: bool) -> &mut Self {
        let now = self.now;
        self.client().handle_carrier(present, now);
        self.drain();
        self
    }

    pub fn releases(&mut self) -> &mut Self {
        let now = self.now;
        self.client().release(now);
        self.drain();
        self
    }

    pub fn lease(&mut self) -> &Lease {
        self.client().lease().expect("a lease")
    }

    /// Returns the last DHCP message of the client.
    pub fn last(&self) -> &Message {
        self.last.as_ref().expect("a message")
    }

    /// Returns the last DECLINE of the client; the next message at once has another xid.
    pub fn declined(&self) -> &Message {
        self.declined.as_ref().expect("a DECLINE")
    }

    /// Checks that the test has compared all messages and events.
    pub fn quiet(&self) {
        assert!(
            self.said.is_empty(),
            "unexpected {}: {:?}",
            self.context(),
            self.said
        );
        assert!(
            self.says.is_empty(),
            "unexpected {}: {:?}",
            self.context(),
            self.says
        );
    }

    pub fn frame(&mut self, answer: &Answer) -> Vec<u8> {
        let xid = if answer.late {
            self.earlier_xid
        } else {
            self.last().xid()
        };
        answer.write(xid)
    }

    fn context(&self) -> String {
        let state = self.client.as_ref().map_or("nowhere", Client::state);
        format!("after {:?}, in {state}", self.now - start_of_time())
    }

    fn handle(&mut self, frame: &[u8]) -> Result<(), Ignored> {
        let now = self.now;
        let result = self.client().handle_packet(frame, now);
        self.drain();
        result
    }

    fn drain(&mut self) {
        let mut bytes = Vec::new();
        while let Some(transmit) = self.client().poll_transmit(&mut bytes) {
            let (said, message) = Said::read(transmit, &bytes);
            if self.with_arp || !said.is_claim() {
                self.said.push_back(said);
            }
            let Some(message) = message else { continue };
            if message.opts().msg_type() == Some(MessageType::Decline) {
                self.declined = Some(message);
                continue;
            }
            let xid = message.xid();
            if let Some(last) = self.last.replace(message).filter(|last| last.xid() != xid) {
                self.earlier_xid = last.xid();
            }
        }
        while let Some(event) = self.client().poll_event() {
            self.says.push_back(event);
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.quiet();
        }
    }
}
