//! An embedded DHCP server: honest by default, silent or forgetful when told to, and it remembers
//! all that it heard.
//!
//! dhcproto reads and writes the messages, so that the client under test never talks to its own
//! reading of the RFCs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use super::namespace::Namespace;
use super::packets::{Datagram, Mac, Tap, arp_claim};
use super::server_thread::{self, ServerThread, check_running, lock, server_port};
use super::{Result, eventually};

/// The server's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own address, which the link has already.
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
    /// The first address of the pool; the next ones follow, and none is given to a second client.
    pub first: Ipv4Addr,
    pub lease: Duration,
    /// Options 58 and 59; left out where none.
    pub t1: Option<Duration>,
    pub t2: Option<Duration>,
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub mtu: Option<u16>,
    /// Option 28.
    pub broadcast: Option<Ipv4Addr>,
}

/// An address that a client was offered or has. After its end it is still reserved for the client
/// until another client needs it.
#[derive(Clone, Copy, Debug)]
struct Leased {
    address: Ipv4Addr,
    until: Instant,
}

/// A station that claims an address, and the process that has to receive the claim together with
/// the ACK.
#[derive(Clone, Debug)]
struct Dispute {
    by: Mac,
    client: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::new(10, 88, 0, 1),
            mask: Ipv4Addr::new(255, 255, 0, 0),
            first: Ipv4Addr::new(10, 88, 1, 1),
            lease: Duration::from_secs(3600),
            t1: None,
            t2: None,
            router: Some(Ipv4Addr::new(10, 88, 0, 1)),
            dns: vec![Ipv4Addr::new(10, 88, 0, 1)],
            domain: Some("lab.example".to_owned()),
            mtu: None,
            broadcast: None,
        }
    }
}

/// A message that the server heard, with the addresses of its packet and frame.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    pub kind: MessageType,
    pub from: Mac,
    pub to: Mac,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub message: Message,
}

impl Heard {
    /// Returns whether it has a server identifier, as a REQUEST after an OFFER and a RELEASE have.
    pub fn names_server(&self) -> bool {
        self.message.opts().contains(OptionCode::ServerIdentifier)
    }

    /// Returns whether it requests an address by option 50.
    pub fn requests_address(&self) -> bool {
        self.message.opts().contains(OptionCode::RequestedIpAddress)
    }

    /// Returns whether it was sent by unicast.
    pub fn is_unicast(&self) -> bool {
        self.to != Mac::BROADCAST && !self.destination.is_broadcast()
    }

    /// The client's hardware address.
    pub fn client(&self) -> Mac {
        Mac(self.message.chaddr().try_into().unwrap_or_default())
    }
}

/// A running server; dropped, it is gone and hears nothing any more.
#[derive(Debug)]
pub struct Server {
    state: Arc<Mutex<State>>,
    _thread: ServerThread,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    silent: bool,
    /// Kinds that it hears and does not answer.
    unanswered: Vec<MessageType>,
    given: u32,
    leases: BTreeMap<Mac, Leased>,
    /// Addresses that a client found in use.
    declined: BTreeSet<Ipv4Addr>,
    disputes: Vec<Dispute>,
    /// A frame to send behind the answer, and the process that has to see both at once.
    claim: Option<(Vec<u8>, u32)>,
    heard: Vec<Heard>,
    fault: Option<String>,
}

impl Server {
    /// Starts a server on the link `name` of `namespace`.
    pub fn start(namespace: &Namespace, name: &str, settings: Settings) -> Result<Self> {
        Self::listen(namespace, name, settings, Some(server_port(namespace)?))
    }

    /// Starts one beside another server on the same link.
    pub fn beside(namespace: &Namespace, name: &str, settings: Settings) -> Result<Self> {
        let server = Self::listen(namespace, name, settings, None)?;
        server.set_silent(false);
        Ok(server)
    }

    /// Only listens, beside another server.
    pub fn eavesdrop(namespace: &Namespace, name: &str) -> Result<Self> {
        Self::listen(namespace, name, Settings::default(), None)
    }

    fn listen(
        namespace: &Namespace,
        name: &str,
        settings: Settings,
        port: Option<UdpSocket>,
    ) -> Result<Self> {
        let state = State {
            settings,
            silent: port.is_none(),
            unanswered: Vec::new(),
            given: 0,
            leases: BTreeMap::new(),
            declined: BTreeSet::new(),
            disputes: Vec::new(),
            claim: None,
            heard: Vec::new(),
            fault: None,
        };
        let state = Arc::new(Mutex::new(state));
        let _thread = ServerThread::start((namespace, name), &state, port, listen)?;
        Ok(Self { state, _thread })
    }

    /// Stops answering, or answers again. It hears on.
    pub fn set_silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// Leaves messages of these kinds unanswered, and those of others no more. It hears on.
    pub fn leave_unanswered(&self, kinds: &[MessageType]) {
        self.lock().unanswered = kinds.to_vec();
    }

    /// Changes what it gives out from now on.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.lock().settings);
    }

    /// The next addresses that it gives are claimed by these stations, the last one first, right
    /// behind the ACK. To the process `client`, which is stopped meanwhile, both come at once.
    pub fn dispute(&self, stations: &[Mac], client: u32) {
        self.lock().disputes = stations
            .iter()
            .map(|by| Dispute { by: *by, client })
            .collect();
    }

    /// Forgets its leases: a client that renews gets a NAK, and then another address.
    pub fn forget(&self) {
        self.lock().leases.clear();
    }

    /// The lease of a client, unless it has run out.
    pub fn lease_of(&self, client: Mac) -> Option<Ipv4Addr> {
        let now = rt::now();
        self.lock()
            .leases
            .get(&client)
            .filter(|lease| lease.until > now)
            .map(|lease| lease.address)
    }

    /// Returns the clients with a lease.
    pub fn clients(&self) -> Vec<Mac> {
        let now = rt::now();
        self.lock()
            .leases
            .iter()
            .filter(|(_, lease)| lease.until > now)
            .map(|(client, _)| *client)
            .collect()
    }

    /// Everything it heard so far, oldest first.
    pub fn heard(&self) -> Vec<Heard> {
        self.lock().heard.clone()
    }

    /// The kinds of the messages that it heard, oldest first.
    pub fn heard_kinds(&self) -> Vec<MessageType> {
        self.heard().iter().map(|heard| heard.kind).collect()
    }

    /// The messages of one kind.
    pub fn heard_of(&self, kind: MessageType) -> Vec<Heard> {
        self.heard()
            .into_iter()
            .filter(|heard| heard.kind == kind)
            .collect()
    }

    /// Waits until it has heard so many messages of one kind, and gives the last of these.
    pub fn await_message(
        &self,
        kind: MessageType,
        count: usize,
        within: Duration,
    ) -> Result<Heard> {
        eventually(
            &format!("the server hears {kind:?} number {count}"),
            within,
            || {
                check_running(&self.state)?;
                Ok(self.heard_of(kind).into_iter().nth(count - 1))
            },
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl server_thread::State for State {
    fn fault(&mut self) -> &mut Option<String> {
        &mut self.fault
    }
}

/// Serves until the other end of `stopped` is closed.
fn listen(tap: &Tap, stopped: &UnixStream, state: &Mutex<State>) -> Result {
    loop {
        let mut ready = [
            PollFd::new(tap, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut ready, None)?;
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        while let Some(frame) = tap.receive()? {
            let Some(datagram) =
                Datagram::parse(&frame).filter(|datagram| datagram.destination.port() == 67)
            else {
                continue;
            };
            let (answer, claim) = {
                let mut state = lock(state);
                (state.hear(&datagram, tap.mac), state.claim.take())
            };
            let Some(answer) = answer else { continue };
            match claim {
                None => tap.send(&answer.to_frame())?,
                Some((claim, client)) => {
                    let client = Pid::from_raw(i32::try_from(client)?);
                    kill(client, Signal::SIGSTOP)?;
                    tap.send(&answer.to_frame())?;
                    tap.send(&claim)?;
                    kill(client, Signal::SIGCONT)?;
                }
            }
        }
    }
}

impl State {
    fn hear(&mut self, datagram: &Datagram, our_mac: Mac) -> Option<Datagram> {
        let message = Message::decode(&mut Decoder::new(&datagram.payload)).ok()?;
        let heard = Heard {
            at: rt::now(),
            kind: message.opts().msg_type()?,
            from: datagram.from,
            to: datagram.to,
            source: *datagram.source.ip(),
            destination: *datagram.destination.ip(),
            message,
        };
        self.heard.push(heard.clone());
        if self.silent || self.unanswered.contains(&heard.kind) {
            return None;
        }
        let (kind, address) = self.decide(&heard)?;
        let reply = self.reply(&heard.message, kind, address);
        if let (MessageType::Ack, Some(address)) = (kind, address) {
            self.claim = self
                .disputes
                .pop()
                .map(|Dispute { by, client }| (arp_claim(by, address, heard.client()), client));
        }
        // RFC 2131 §4.1: to a client with an address, there; else by broadcast where the
        // client asks for it or gets a NAK; else to the address that it is about to have, without
        // ARP.
        let known = heard.message.ciaddr();
        let broadcast =
            kind == MessageType::Nak || known.is_unspecified() && heard.message.flags().broadcast();
        let (to, destination) = match address {
            _ if broadcast => (Mac::BROADCAST, Ipv4Addr::BROADCAST),
            _ if !known.is_unspecified() => (heard.client(), known),
            Some(address) => (heard.client(), address),
            None => (Mac::BROADCAST, Ipv4Addr::BROADCAST),
        };
        Some(Datagram {
            from: our_mac,
            to,
            source: SocketAddrV4::new(self.settings.address, 67),
            destination: SocketAddrV4::new(destination, 68),
            payload: reply.to_vec().ok()?,
        })
    }

    /// The answer to a message: RFC 2131 §4.3, with table 4 to tell one REQUEST from
    /// another.
    fn decide(&mut self, heard: &Heard) -> Option<(MessageType, Option<Ipv4Addr>)> {
        let (message, client) = (&heard.message, heard.client());
        let lease = self.leases.get(&client).map(|lease| lease.address);
        let requested = match message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        };
        match heard.kind {
            MessageType::Discover => {
                Some((MessageType::Offer, Some(self.assign(client, requested))))
            }
            MessageType::Request => {
                let wanted = match message.opts().get(OptionCode::ServerIdentifier) {
                    Some(DhcpOption::ServerIdentifier(server))
                        if *server != self.settings.address =>
                    {
                        self.leases.remove(&client); // It took the offer of another server.
                        return None;
                    }
                    _ if !message.ciaddr().is_unspecified() => Some(message.ciaddr()),
                    _ => requested,
                };
                match lease {
                    Some(lease) if Some(lease) == wanted => {
                        self.give(client, lease);
                        Some((MessageType::Ack, Some(lease)))
                    }
                    _ => Some((MessageType::Nak, None)),
                }
            }
            MessageType::Release if lease == Some(message.ciaddr()) => {
                self.leases.remove(&client);
                None
            }
            MessageType::Decline => {
                self.declined
                    .extend(self.leases.remove(&client).map(|lease| lease.address));
                None
            }
            _ => None,
        }
    }

    /// Returns the address that the client has; else the address that it requests, if free; else
    /// the next one (RFC 2131 §4.3.1).
    fn assign(&mut self, client: Mac, wanted: Option<Ipv4Addr>) -> Ipv4Addr {
        if let Some(lease) = self.leases.get(&client) {
            return lease.address;
        }
        let first = self.settings.first.to_bits();
        let is_free = |wanted: &Ipv4Addr| {
            let was_given = (first..first + self.given).contains(&wanted.to_bits());
            was_given
                && !self.declined.contains(wanted)
                && !self.leases.values().any(|leased| leased.address == *wanted)
        };
        if let Some(wanted) = wanted.filter(is_free) {
            return self.give(client, wanted);
        }
        loop {
            let address = Ipv4Addr::from_bits(self.settings.first.to_bits() + self.given);
            self.given += 1;
            if !self.declined.contains(&address) {
                return self.give(client, address);
            }
        }
    }

    fn give(&mut self, client: Mac, address: Ipv4Addr) -> Ipv4Addr {
        self.leases.insert(
            client,
            Leased {
                address,
                until: rt::now() + self.settings.lease,
            },
        );
        address
    }

    fn reply(&self, request: &Message, kind: MessageType, address: Option<Ipv4Addr>) -> Message {
        let settings = &self.settings;
        let mut reply = Message::default();
        reply
            .set_opcode(Opcode::BootReply)
            .set_xid(request.xid())
            .set_flags(request.flags())
            .set_chaddr(request.chaddr())
            .set_ciaddr(if kind == MessageType::Ack {
                request.ciaddr()
            } else {
                Ipv4Addr::UNSPECIFIED
            })
            .set_yiaddr(address.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(settings.address));
        if kind == MessageType::Nak {
            options.insert(DhcpOption::Message("no such lease".to_owned()));
            return reply;
        }
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        options.insert(DhcpOption::AddressLeaseTime(seconds(settings.lease)));
        options.insert(DhcpOption::SubnetMask(settings.mask));
        let more = [
            settings.t1.map(|time| DhcpOption::Renewal(seconds(time))),
            settings.t2.map(|time| DhcpOption::Rebinding(seconds(time))),
            settings
                .router
                .map(|router| DhcpOption::Router(vec![router])),
            (!settings.dns.is_empty()).then(|| DhcpOption::DomainNameServer(settings.dns.clone())),
            settings.domain.clone().map(DhcpOption::DomainName),
            settings.mtu.map(DhcpOption::InterfaceMtu),
            settings.broadcast.map(DhcpOption::BroadcastAddr),
        ];
        for option in more.into_iter().flatten() {
            options.insert(option);
        }
        reply
    }
}
