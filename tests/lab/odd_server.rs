//! A DHCP server with habits: it answers as an honest one, and a script of three functions changes
//! what it hears, what it answers and which ARP questions it answers, to the byte.
//!
//! dhcproto reads the requests; the replies are made of bytes, for an encoder would refuse half of
//! them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use super::namespace::Namespace;
use super::packets::{Datagram, Mac, Tap};
use super::server_thread::{self, ServerThread, check_running, lock, server_port};
use super::{Result, eventually};

pub mod arp;
pub mod reply;

use arp::{Claim, Question};
use reply::Reply;

/// The habits of a server. The default has none.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Returns whether a message is answered at all.
    pub hears: fn(&Request) -> bool,
    /// Changes the honest answer to a message.
    pub answers: fn(&Request, &mut Reply),
    /// Returns the stations that say that they have the address of an ARP question, beside its
    /// owner.
    pub claims: fn(&Question) -> Option<Claim>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            hears: |_| true,
            answers: |_, _| (),
            claims: |_| None,
        }
    }
}

/// A message of a client.
#[derive(Clone, Debug)]
pub struct Request {
    pub kind: MessageType,
    pub client: Mac,
    /// The number of messages of this kind that the client has sent, this one included.
    pub count: usize,
    /// Set if the server has another network than at its start ([`OddServer::renumber`]).
    pub renumbered: bool,
    /// The length of the message, in bytes.
    pub length: usize,
    pub message: Message,
}

impl Request {
    /// Returns whether an option is in the message.
    pub fn has(&self, code: u8) -> bool {
        self.message.opts().contains(OptionCode::from(code))
    }

    /// Returns option 50.
    pub fn requested(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        }
    }

    /// Returns the number of options that the client asks for (option 55).
    pub fn wishes(&self) -> usize {
        match self.message.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(codes)) => codes.len(),
            _ => 0,
        }
    }

    /// Returns option 57, in bytes.
    pub fn largest(&self) -> u16 {
        match self.message.opts().get(OptionCode::MaxMessageSize) {
            Some(DhcpOption::MaxMessageSize(bytes)) => *bytes,
            _ => 0,
        }
    }

    /// Returns whether the client has the address that it asks for.
    pub fn is_renewal(&self) -> bool {
        self.kind == MessageType::Request && !self.message.ciaddr().is_unspecified()
    }
}

/// A running server; dropped, it is gone.
#[derive(Debug)]
pub struct OddServer {
    state: Arc<Mutex<State>>,
    _thread: ServerThread,
}

#[derive(Debug)]
struct State {
    script: Script,
    address: Ipv4Addr,
    renumbered: bool,
    /// The last octet of the next address.
    next: u8,
    leases: BTreeMap<Mac, Ipv4Addr>,
    heard: Vec<Request>,
    /// Frames to be sent, each at its time.
    pending: Vec<(Instant, Vec<u8>)>,
    fault: Option<String>,
}

impl OddServer {
    /// Starts a server on the link `name` of `namespace` with the address `address`.
    pub fn start(
        namespace: &Namespace,
        name: &str,
        address: Ipv4Addr,
        script: Script,
    ) -> Result<Self> {
        let port = server_port(namespace)?;
        let state = Arc::new(Mutex::new(State {
            script,
            address,
            renumbered: false,
            next: 1,
            leases: BTreeMap::new(),
            heard: Vec::new(),
            pending: Vec::new(),
            fault: None,
        }));
        let _thread = ServerThread::start((namespace, name), &state, Some(port), serve)?;
        Ok(Self { state, _thread })
    }

    /// Gives out addresses of [`reply::OTHER_NETWORK`] from now on, and has forgotten its leases.
    pub fn renumber(&self) {
        let mut state = lock(&self.state);
        state.renumbered = true;
        state.leases.clear();
        state.heard.clear();
    }

    /// Returns the messages of a client, oldest first.
    pub fn heard_of(&self, client: Mac) -> Vec<Request> {
        lock(&self.state)
            .heard
            .iter()
            .filter(|request| request.client == client)
            .cloned()
            .collect()
    }

    /// Waits until it has heard `count` messages of a client for which `which` holds.
    pub fn await_messages(
        &self,
        what: &str,
        client: Mac,
        count: usize,
        which: fn(&Request) -> bool,
    ) -> Result {
        eventually(
            &format!("the server hears {what} number {count}"),
            Duration::from_secs(10),
            || {
                check_running(&self.state)?;
                Ok((self
                    .heard_of(client)
                    .iter()
                    .filter(|request| which(request))
                    .count()
                    >= count)
                    .then_some(()))
            },
        )
    }
}

impl server_thread::State for State {
    fn fault(&mut self) -> &mut Option<String> {
        &mut self.fault
    }
}

/// Serves until the other end of `stopped` is closed.
fn serve(tap: &Tap, stopped: &UnixStream, state: &Mutex<State>) -> Result {
    loop {
        let due = lock(state).pending.iter().map(|(due, _)| *due).min();
        let wait = due
            .map(|due| Timespec::try_from(due.since(rt::now())))
            .transpose()?;
        let mut ready = [
            PollFd::new(tap, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut ready, wait.as_ref())?;
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        while let Some(frame) = tap.receive()? {
            lock(state).hear(&frame, tap.mac);
        }
        for frame in lock(state).take_due(rt::now()) {
            tap.send(&frame)?;
        }
    }
}

impl State {
    fn take_due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let all = std::mem::take(&mut self.pending);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(due, _)| *due <= now);
        self.pending = later;
        due.into_iter().map(|(_, frame)| frame).collect()
    }

    fn hear(&mut self, frame: &[u8], our_mac: Mac) {
        if let Some(question) = Question::parse(frame, our_mac) {
            if let Some(claim) = (self.script.claims)(&question) {
                self.pending
                    .push((rt::now() + claim.after, claim.to_frame(&question)));
            }
        } else if let Some(datagram) = Datagram::parse(frame)
            && datagram.destination.port() == 67
            && let Some(reply) = self.hear_message(&datagram, our_mac)
        {
            let due = rt::now() + reply.after;
            let frames = reply.to_frames();
            self.pending.extend(
                std::iter::repeat_n(frames, reply.copies)
                    .flatten()
                    .map(|frame| (due, frame)),
            );
        }
    }

    fn hear_message(&mut self, datagram: &Datagram, our_mac: Mac) -> Option<Reply> {
        let message = Message::decode(&mut Decoder::new(&datagram.payload)).ok()?;
        let kind = message.opts().msg_type()?;
        let client = Mac(message.chaddr().try_into().ok()?);
        let earlier = self
            .heard
            .iter()
            .filter(|heard| (heard.client, heard.kind) == (client, kind))
            .count();
        let length = datagram.payload.len();
        let request = Request {
            kind,
            client,
            count: earlier + 1,
            renumbered: self.renumbered,
            length,
            message,
        };
        self.heard.push(request.clone());
        let is_heard = (self.script.hears)(&request);
        let (kind, address) = self.decide(&request).filter(|_| is_heard)?;
        let mut reply = Reply::new(&request, kind, address, (our_mac, self.address));
        (self.script.answers)(&request, &mut reply);
        Some(reply)
    }

    /// Returns the kind of the answer, and the address in it (RFC 2131 §4.3).
    fn decide(&mut self, request: &Request) -> Option<(MessageType, Ipv4Addr)> {
        match request.kind {
            MessageType::Discover => Some((MessageType::Offer, self.assign(request.client))),
            MessageType::Request => {
                let held = self.leases.get(&request.client).copied();
                let ciaddr =
                    Some(request.message.ciaddr()).filter(|address| !address.is_unspecified());
                let is_right = held.is_some() && held == ciaddr.or(request.requested());
                Some(
                    held.filter(|_| is_right)
                        .map_or((MessageType::Nak, Ipv4Addr::UNSPECIFIED), |held| {
                            (MessageType::Ack, held)
                        }),
                )
            }
            MessageType::Decline | MessageType::Release => {
                self.leases.remove(&request.client);
                None
            }
            _ => None,
        }
    }

    fn assign(&mut self, client: Mac) -> Ipv4Addr {
        let second = if self.renumbered {
            reply::OTHER_NETWORK
        } else {
            reply::NETWORK
        };
        let next = &mut self.next;
        *self.leases.entry(client).or_insert_with(|| {
            *next += 1;
            Ipv4Addr::new(10, second, 1, *next)
        })
    }
}
