//! A client, its clock, and somebody who checks after every call that it did nothing that it may
//! never do.

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder};
use smol_dhcp_proxy::dhcp::{Client, Config, Event, Lease, Phase, Snapshot, Transmit};
use smol_dhcp_proxy::time::Instant;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

/// More than any call may cause; the client needs three at most.
const MOST_AT_ONCE: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);
const MOST_IN_AN_HOUR: usize = 150;
/// A whole frame of the client is never longer than what every link takes.
const LONGEST_FRAME: usize = 1514;

pub struct Watched {
    client: Client,
    now: Instant,
    /// The lease in use, as the events tell it, or as it was given to [`Client::resume`].
    held: Option<Lease>,
    last_lease: Option<Lease>,
    stopped: bool,
    /// Whether it was in our own state PROBING after the last call.
    probing: bool,
    carrier: bool,
    xid: u32,
    earlier_xid: u32,
    last_frame: Vec<u8>,
    /// The kind of its last DHCP message.
    last_kind: Option<MessageType>,
    /// When it sent DHCP messages in the last hour.
    sent: VecDeque<Instant>,
}

impl Watched {
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        Self::watch(Client::new(config, seed, now), (None, None), now)
    }

    pub fn reboot(config: Config, address: Ipv4Addr, seed: u64, now: Instant) -> Self {
        Self::watch(
            Client::reboot(config, address, seed, now),
            (None, None),
            now,
        )
    }

    /// A client that goes on with what may have come out of any file.
    pub fn resume(config: Config, rest: Snapshot, seed: u64, now: Instant) -> Self {
        let held = rest.lease().cloned();
        let has_asked = matches!(rest.phase, Phase::Renewing { .. } | Phase::Rebinding { .. });
        let last_kind = has_asked.then_some(MessageType::Request);
        Self::watch(
            Client::resume(config, rest, seed, now),
            (held, last_kind),
            now,
        )
    }

    /// What the client would have to remember, which is all that another one needs.
    pub fn rest(&self) -> Option<Snapshot> {
        let rest = self.client.suspend()?;
        assert_eq!(
            rest.lease(),
            self.held.as_ref(),
            "the lease in use is forgotten"
        );
        let resumed = Client::resume(self.config().clone(), rest.clone(), 0, self.now);
        if rest.due().is_none_or(|due| due > self.now) {
            assert_eq!(
                (resumed.suspend().as_ref(), resumed.poll_timeout()),
                (Some(&rest), rest.due())
            );
        }
        Some(rest)
    }

    /// Lets the client go, and goes on with another one, which knows no more than the rest says.
    pub fn rests(&mut self, now: Instant) {
        assert!(now >= self.now, "time runs forward");
        let Some(rest) = self.rest() else { return };
        (self.client, self.now) = (Client::resume(self.config().clone(), rest, 0, now), now);
        if !self.carrier {
            self.client.handle_carrier(false, now);
            self.count_dropped_request();
        }
        self.check();
    }

    fn watch(
        client: Client,
        (held, last_kind): (Option<Lease>, Option<MessageType>),
        now: Instant,
    ) -> Self {
        let mut watched = Self {
            client,
            now,
            last_lease: held.clone(),
            held,
            stopped: false,
            probing: false,
            carrier: true,
            xid: 0,
            earlier_xid: 0,
            last_frame: Vec::new(),
            last_kind,
            sent: VecDeque::new(),
        };
        watched.check();
        watched
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn due(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    pub fn config(&self) -> &Config {
        self.client.config()
    }

    /// The lease in use or, where there is none, the one before.
    pub fn last_lease(&self) -> Option<&Lease> {
        self.last_lease.as_ref()
    }

    pub fn state(&self) -> &'static str {
        self.client.state()
    }

    pub fn is_leased(&self) -> bool {
        self.held.is_some()
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub fn xid(&self) -> u32 {
        self.xid
    }

    pub fn earlier_xid(&self) -> u32 {
        self.earlier_xid
    }

    /// Time is `now`, which may be early or late.
    pub fn wakes(&mut self, now: Instant) {
        assert!(now >= self.now, "time runs forward");
        self.now = now;
        let early = self.client.poll_timeout().is_none_or(|due| due > now);
        let before = self.client.state();
        self.client.handle_timeout(now);
        let outputs = self.check();
        assert!(
            !early || (outputs == 0 && self.client.state() == before),
            "something was done too early"
        );
    }

    /// Hears a frame. One that is ignored changes nothing.
    pub fn hears(&mut self, frame: &[u8]) {
        self.wakes(self.now);
        let before = (
            self.client.state(),
            self.client.poll_timeout(),
            self.client.is_listening(),
        );
        let ignored = self.client.handle_packet(frame, self.now);
        let outputs = self.check();
        if ignored.is_err() {
            let after = (
                self.client.state(),
                self.client.poll_timeout(),
                self.client.is_listening(),
            );
            assert_eq!((after, outputs), (before, 0), "{ignored:?}");
        }
        frame.clone_into(&mut self.last_frame);
    }

    /// The last frame comes a second time.
    pub fn hears_again(&mut self) {
        let frame = std::mem::take(&mut self.last_frame);
        self.hears(&frame);
    }

    pub fn carrier(&mut self, present: bool) {
        self.carrier = present;
        self.client.handle_carrier(present, self.now);
        if !present {
            self.count_dropped_request();
        }
        self.check();
    }

    /// A REQUEST that the loss of the carrier dropped counts as sent: it sets the time of the next
    /// one, which is a retransmission.
    fn count_dropped_request(&mut self) {
        if ["RENEWING", "REBINDING"].contains(&self.client.state()) {
            self.last_kind = Some(MessageType::Request);
        }
    }

    pub fn releases(&mut self) {
        self.client.release(self.now);
        self.check();
        assert!(["RELEASING", "STOPPED"].contains(&self.client.state()));
    }

    /// Drains the client and looks at all that came of it; returns how much that was.
    fn check(&mut self) -> usize {
        let before = self.held.clone();
        let was_stopped = self.stopped;

        let mut sent = Vec::new();
        let mut out = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(&mut out) {
            sent.push((transmit, out.clone()));
            assert!(sent.len() <= MOST_AT_ONCE, "so much to say at once");
        }
        let mut happened = 0;
        while let Some(event) = self.client.poll_event() {
            happened += 1;
            assert!(happened <= MOST_AT_ONCE, "so much happening at once");
            self.follow(event);
        }
        for (transmit, bytes) in &sent {
            self.check_said(*transmit, bytes, before.as_ref());
        }

        let (state, lease, due) = (
            self.client.state(),
            self.client.lease(),
            self.client.poll_timeout(),
        );
        let outputs = sent.len() + happened;
        assert!(!was_stopped || outputs == 0, "an end is an end");
        assert_eq!(self.stopped, state == "STOPPED");
        assert_eq!(
            lease,
            self.held.as_ref(),
            "the events tell which lease is in use"
        );
        let holding = ["BOUND", "RENEWING", "REBINDING", "RELEASING"].contains(&state);
        assert_eq!(lease.is_some(), holding, "{state}");
        let expired = |lease: &Lease| lease.expires_at().is_some_and(|expiry| expiry <= self.now);
        assert!(
            !lease.is_some_and(expired),
            "an address is used beyond its lease"
        );
        assert!(
            due.is_none_or(|due| due > self.now),
            "{state}: a deadline in the past"
        );
        assert!(
            due.is_some() || ["BOUND", "STOPPED"].contains(&state) || !self.carrier,
            "{state}: nothing will wake it"
        );
        assert!(
            !(self.stopped && (self.client.is_listening() || due.is_some())),
            "an end is an end"
        );
        self.probing = state == "PROBING";
        assert_eq!(self.client.is_leased(), holding || self.probing);
        outputs
    }

    /// One event, and whether it may come now.
    fn follow(&mut self, event: Event) {
        assert!(!self.stopped, "{event:?} after the end");
        self.held = match (event, self.held.take()) {
            (Event::Bound(new), None) => Some(*new),
            (Event::Renewed(new), Some(old)) => {
                assert!(old.same_settings(&new));
                Some(*new)
            }
            (Event::Changed { old: told, new }, Some(old)) => {
                assert!(*told == old && !old.same_settings(&new));
                Some(*new)
            }
            (Event::Lost { old: told, .. }, Some(old)) => {
                assert_eq!(*told, old);
                None
            }
            (Event::Declined { .. }, None) => None,
            (Event::ProxyArp { by, .. }, held) => {
                assert!(by != self.client.config().mac);
                held
            }
            (Event::NoLeaseTime { .. }, held) => held,
            (Event::Unusable { values, .. }, held) => {
                assert!((1..=4).contains(&values.len()), "{values:?}");
                held
            }
            (Event::Contested { address, by }, Some(lease)) => {
                assert!(address == lease.address && by != self.client.config().mac);
                Some(lease)
            }
            (Event::GaveUp(why), None) => {
                assert!(!why.to_string().is_empty());
                self.stopped = true;
                None
            }
            (Event::Released, _) => {
                self.stopped = true;
                None
            }
            (event, held) => panic!("{event:?} while holding {held:?}"),
        };
        if let Some(lease) = &self.held {
            assert!(
                lease.expires_at().is_none_or(|expiry| expiry > self.now),
                "a lease that has ended already"
            );
            assert!((1..=32).contains(&lease.prefix_len));
            assert!(
                Duration::ZERO < lease.t1 && (lease.t1 < lease.t2 || lease.lease_time.is_none())
            );
            assert!(lease.lease_time.is_none_or(|time| lease.t2 < time));
            assert!(lease.search.len() <= 32);
            self.last_lease = Some(lease.clone());
        }
    }

    /// One thing that the client said: well-formed, as the configuration wants it, and in its place
    /// (RFC 2131 table 5).
    fn check_said(&mut self, transmit: Transmit, bytes: &[u8], before: Option<&Lease>) {
        assert!(self.carrier, "said into nothing");
        assert!(bytes.len() <= LONGEST_FRAME);
        let (payload, source) = match transmit {
            Transmit::Datagram {
                source,
                destination,
            } => {
                assert!(
                    self.held.as_ref().is_some_and(
                        |lease| (lease.address, lease.server_id) == (source, destination)
                    )
                );
                (bytes, source)
            }
            Transmit::Frame => {
                assert_eq!(bytes[6..12], self.config().mac.0);
                match bytes[12..14] {
                    [8, 0] => check_headers(bytes),
                    [8, 6] => {
                        return assert_eq!(
                            (bytes.len(), &bytes[22..28]),
                            (42, &self.config().mac.0[..])
                        );
                    }
                    _ => panic!("neither IPv4 nor ARP"),
                }
            }
        };
        assert!(payload.len() >= 300, "relays drop short messages");
        let message = Message::decode(&mut Decoder::new(payload)).expect("a message");
        self.count(message.xid());
        self.check_options(&message);
        self.last_kind = message.opts().msg_type();

        let options = message.opts();
        let requested = options.contains(OptionCode::RequestedIpAddress);
        let server = options.contains(OptionCode::ServerIdentifier);
        let ciaddr = Some(message.ciaddr()).filter(|address| !address.is_unspecified());
        assert_eq!(source, message.ciaddr());
        match options.msg_type().expect("a type") {
            MessageType::Discover => assert!(!server && ciaddr.is_none() && self.held.is_none()),
            MessageType::Request if ciaddr.is_none() => assert!(requested && self.held.is_none()),
            MessageType::Request => assert!(!requested && !server && self.held.is_some()),
            MessageType::Decline => assert!(requested && server && ciaddr.is_none()),
            MessageType::Release => assert!(server && !requested && self.stopped),
            other => panic!("{other:?} is no message of a client"),
        }
        if ciaddr.is_some() {
            let ours = [before, self.held.as_ref()]
                .into_iter()
                .flatten()
                .any(|lease| Some(lease.address) == ciaddr);
            // A lease that is still being probed can be given back; no event has told of it.
            let unused = self.probing && options.has_msg_type(MessageType::Release);
            assert!(ours || unused, "{ciaddr:?} is not ours");
        }
    }

    /// What was asked for comes out of the bytes again.
    fn check_options(&self, message: &Message) {
        let (config, options) = (self.config(), message.opts());
        assert_eq!(
            (message.opcode(), message.chaddr()),
            (Opcode::BootRequest, &config.mac.0[..])
        );
        // The last bits of the xid tell how plain a message is. A REQUEST that is said again may do
        // without options that netavark's does not have.
        let is_plainer = match (options.msg_type(), self.last_kind) {
            (Some(MessageType::Request), Some(MessageType::Request))
                if config.max_message_size >= 576 =>
            {
                !options.contains(OptionCode::MaxMessageSize)
            }
            (Some(MessageType::Request), Some(MessageType::Request)) => {
                !options.contains(OptionCode::ClientFQDN)
            }
            _ => false,
        };
        let plainness = (message.xid() & 3).max(if is_plainer { 2 } else { 0 });
        let id = Some(config.client_id.clone()).filter(|id| !id.is_empty() && plainness < 3);
        let id = id.map(DhcpOption::ClientIdentifier);
        assert_eq!(options.get(OptionCode::ClientIdentifier), id.as_ref());
        if message.ciaddr().is_unspecified() && !options.has_msg_type(MessageType::Decline) {
            assert_eq!(message.flags().broadcast(), config.broadcast);
        }
        let asks = options.has_msg_type(MessageType::Discover)
            || options.has_msg_type(MessageType::Request);
        let says_size = asks && plainness < 2 && config.max_message_size >= 576;
        let largest = says_size.then_some(DhcpOption::MaxMessageSize(config.max_message_size));
        assert_eq!(options.get(OptionCode::MaxMessageSize), largest.as_ref());
        assert_eq!(options.contains(OptionCode::ParameterRequestList), asks);
        assert!(message.secs() >= 1 || !asks);
        let is_rapid =
            options.has_msg_type(MessageType::Discover) && plainness < 1 && config.rapid_commit;
        assert_eq!(options.contains(OptionCode::RapidCommit), is_rapid);
        // RFC 4702 §3.1: one name or the other.
        let whole_name = match options.get(OptionCode::ClientFQDN) {
            Some(DhcpOption::ClientFQDN(fqdn)) => Some(fqdn.domain().to_ascii()),
            _ => None,
        };
        assert_eq!(
            whole_name,
            config
                .fqdn
                .as_ref()
                .filter(|_| asks && plainness < 2)
                .map(|name| format!("{name}."))
        );
        let name = config
            .host_name
            .clone()
            .filter(|_| asks && whole_name.is_none() && plainness < 3)
            .map(DhcpOption::Hostname);
        assert_eq!(options.get(OptionCode::Hostname), name.as_ref());
    }

    fn count(&mut self, xid: u32) {
        if xid != self.xid {
            self.earlier_xid = std::mem::replace(&mut self.xid, xid);
        }
        self.sent.push_back(self.now);
        self.sent.retain(|at| self.now - *at < HOUR);
        assert!(
            self.sent.len() <= MOST_IN_AN_HOUR,
            "{} messages in an hour",
            self.sent.len()
        );
    }
}

/// The payload of a UDP datagram from port 68 to 67, and its source address. The sums are taken by
/// hand.
fn check_headers(frame: &[u8]) -> (&[u8], Ipv4Addr) {
    let ip = &frame[14..];
    assert_eq!(
        (ip[0], ip[9], usize::from(short(ip, 2))),
        (0x45, 17, ip.len())
    );
    assert_eq!(sum(&ip[..20]), 0xffff);
    let udp = &ip[20..];
    assert_eq!(
        (short(udp, 0), short(udp, 2), usize::from(short(udp, 4))),
        (68, 67, udp.len())
    );
    let pseudo_header = [&ip[12..20], &[0, 17], &udp[4..6]].concat();
    assert_eq!(sum(&[&pseudo_header, udp].concat()), 0xffff);
    (&udp[8..], Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The Internet checksum (RFC 1071) of bytes that contain their own: all ones where they are whole.
fn sum(bytes: &[u8]) -> u16 {
    let total: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (total & 0xffff) + (total >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}
