//! A DHCPv4 client (RFC 2131) as a pure state machine: frames and the time go in, frames, events
//! and deadlines come out.
//!
//! Nothing here opens a socket, reads a clock or rolls dice: the caller brings all three. After
//! every input (the beginning by [`Client::new`], [`Client::reboot`] or [`Client::resume`],
//! [`Client::handle_packet`], [`Client::handle_timeout`], [`Client::handle_carrier`],
//! [`Client::release`]) drain the outputs:
//!
//! ```
//! use smol_dhcp_proxy::dhcp::{Client, Config, Transmit};
//! use smol_dhcp_proxy::mac::Mac;
//! use smol_dhcp_proxy::time::Instant;
//! use std::time::Duration;
//!
//! let mac = Mac([0x02, 0, 0, 0, 0, 1]);
//! let now = Instant::from_boot(Duration::from_secs(100));
//! let mut client = Client::new(Config::new(mac, b"\0container".to_vec()), 7, now);
//!
//! let mut out = Vec::new();
//! while let Some(transmit) = client.poll_transmit(&mut out) {
//!     assert_eq!(transmit, Transmit::Frame); // a DISCOVER: send `out` on the packet socket
//! }
//! while let Some(event) = client.poll_event() {
//!     unreachable!("{event:?} before any answer"); // apply it to the link
//! }
//! let wake = client.poll_timeout(); // then call handle_timeout; a frame before that goes to handle_packet
//! assert!(wake > Some(now));
//! ```
//!
//! Between two exchanges the client itself is not needed: [`Client::suspend`] says what has to be
//! remembered, be it in a file, and at [`Snapshot::due`] another client goes on with that, by
//! [`Client::resume`].
//!
//! | file | what it knows |
//! |---|---|
//! | `client.rs` | the states of RFC 2131 figure 5, and what they wait for |
//! | `client/receive.rs` | what a frame means in each of them |
//! | `client/conflict.rs` | claims of other stations to our address, and its defence |
//! | `client/transitions.rs` | what is done on the way from one to the next |
//! | `rest.rs`, `client/resume.rs` | what has to be remembered to go on later, and how to go on |
//! | `message_rate.rs` | the limit on messages in an hour |
//! | `exchange.rs` | what is under way, and since when |
//! | `plainness.rs` | what is left out of a message, for servers that do not like it |
//! | `why.rs` | how an acquisition failed |
//! | `lease.rs` | what an ACK promises, and until when |
//! | `backoff.rs` | how long to wait before saying it again |
//! | `message.rs`, `option.rs` | DHCP messages and their options |
//! | `frame.rs` | Ethernet, ARP, IPv4 and UDP around them |

use crate::mac::Mac;
use std::net::Ipv4Addr;
use std::time::Duration;

mod acquire_error;
mod backoff;
mod client;
mod exchange;
mod frame;
mod lease;
mod message;
mod message_rate;
mod option;
mod plainness;
mod snapshot;

pub use acquire_error::AcquireError;
pub use client::Client;
pub use frame::frame;
pub use lease::{Lease, StaticRoute, Unusable};
pub use plainness::Plainness;
pub use snapshot::{Phase, Snapshot};

/// Who asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface's own address; goes into `chaddr`, and replies for any other are ignored.
    pub mac: Mac,
    /// The whole value of option 61, its type byte included (RFC 2132 9.14). Empty: the option is
    /// left out. At most 255 bytes are sent.
    pub client_id: Vec<u8>,
    /// Option 12. At most 255 bytes are sent.
    pub host_name: Option<String>,
    /// Option 81: the whole name, which the server is asked to enter into the DNS. It takes the
    /// place of `host_name`, for the two are never sent together (RFC 4702 3.1); one that is no
    /// domain name, or too long, gives way to it.
    pub fqdn: Option<String>,
    /// How long the first acquisition may take before [`Event::GaveUp`]; also means that somebody
    /// waits, which makes the retransmissions brisk. `None`: patiently, for ever.
    pub deadline: Option<Duration>,
    /// Asks servers and relays to broadcast their replies (the flag of RFC 2131 4.1), for
    /// interfaces that hear no unicast before they have an address, and for some relays.
    pub broadcast: bool,
    /// An address to ask for in the DISCOVER (option 50). The server may well offer another, which
    /// then waits 100 ms for somebody to offer this one.
    pub requested: Option<Ipv4Addr>,
    /// How to find out whether somebody else has the address.
    pub probe: Probe,
    /// The largest DHCP message that we can hear, in bytes (option 57). Less than 576: the option
    /// is left out.
    pub max_message_size: u16,
    /// Asks for a lease in two messages instead of four (option 80, RFC 4039).
    pub rapid_commit: bool,
    /// How plain the first DISCOVER is; those that are not answered are followed by plainer ones.
    pub plainness: Plainness,
    /// The only servers, by their identifiers (option 54), that anything is heard of; empty: all.
    pub servers: Vec<Ipv4Addr>,
    /// Servers that nothing is heard of.
    pub denied_servers: Vec<Ipv4Addr>,
    /// Stations that are known to answer ARP for every address: their claims are none.
    pub proxy_arp: Vec<Mac>,
    /// Whether delays are randomized as RFC 2131 4.1 and 4.4.5 want it. Off only in tests, to have
    /// round figures.
    pub fuzz: bool,
}

impl Config {
    /// For one interface and one client identifier (all of option 61), with the usual choice for
    /// the rest: no host name, no deadline, no broadcast flag, no particular address.
    pub fn new(mac: Mac, client_id: Vec<u8>) -> Self {
        Self {
            mac,
            client_id,
            host_name: None,
            fqdn: None,
            deadline: None,
            broadcast: false,
            requested: None,
            probe: Probe::WithRequest,
            max_message_size: LARGEST_MESSAGE,
            rapid_commit: true,
            plainness: Plainness::Full,
            servers: Vec::new(),
            denied_servers: Vec::new(),
            proxy_arp: Vec::new(),
            fuzz: true,
        }
    }

    /// Sets the largest message to what an interface with this MTU carries (option 57), and a usual
    /// Ethernet frame does.
    pub fn fit_mtu(&mut self, mtu: u32) {
        let carried = u16::try_from(mtu)
            .unwrap_or(u16::MAX)
            .saturating_sub(frame::HEADERS);
        self.max_message_size = carried.min(LARGEST_MESSAGE);
    }

    /// Returns whether anything is to be heard of a server.
    fn allows(&self, server: Ipv4Addr) -> bool {
        (self.servers.is_empty() || self.servers.contains(&server))
            && !self.denied_servers.contains(&server)
    }

    /// As much of the client identifier as one option holds.
    fn sent_client_id(&self) -> &[u8] {
        &self.client_id[..self.client_id.len().min(255)]
    }
}

/// An Ethernet frame's worth, for routes need room (RFC 3442 page 6); 576 would do for RFC 2131 2.
/// RFC 2132 9.10 does not say whether headers count; this fits either way.
const LARGEST_MESSAGE: u16 = 1472;

/// Asking the link by ARP whether an address is free before it is used (RFC 2131 4.4.1, RFC 5227
/// 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nobody is asked, and nobody's claim is heard.
    Off,
    /// One probe that costs no time: it goes out together with the REQUEST, and whoever has not
    /// answered when the ACK is here is late. Late is not lost: the client goes on listening for 2
    /// s. The waits of RFC 5227 2.1.1 would cost seven seconds, which RFC 5227 2.2 leaves to us.
    WithRequest,
    /// As many as this between ACK and [`Event::Bound`], with the waits of RFC 5227 1.1: up to a
    /// second before the first, one or two seconds between them, two after the last. 0 means
    /// [`Probe::Off`].
    Before(u8),
}

/// What [`Client::poll_transmit`] has put into the caller's buffer, and how it wants to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A whole Ethernet frame, for a packet socket on the interface.
    Frame,
    /// A UDP payload from port 68 to port 67, for the kernel to route. Where that cannot be,
    /// [`frame`] wraps it for the packet socket, to [`Lease::server_mac`].
    Datagram {
        /// The leased address.
        source: Ipv4Addr,
        /// The server that leased it.
        destination: Ipv4Addr,
    },
}

/// What happened to the lease: what users want to know (RFC 2131 4.4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease where there was none: the first one, or the next one after [`Event::Lost`]. Whether
    /// the address is still the one that was lost is for the caller to compare.
    Bound(Box<Lease>),
    /// The same settings for a longer time.
    Renewed(Box<Lease>),
    /// The server extended the lease and changed its settings, perhaps the address itself.
    Changed {
        /// What held until now.
        old: Box<Lease>,
        /// What holds from now on.
        new: Box<Lease>,
    },
    /// The address must not be used any more. The client looks for a new lease by itself.
    Lost {
        /// What has ended.
        old: Box<Lease>,
        /// Why it has ended.
        why: LossReason,
    },
    /// An address that was never used: somebody else has it. The server was told (DHCPDECLINE), and
    /// the search goes on.
    Declined {
        /// The address.
        address: Ipv4Addr,
        /// Who gave it to us.
        server: Ipv4Addr,
        /// Who has it.
        by: Mac,
    },
    /// A new lease, or one whose settings have changed, came with values that make no sense and are
    /// left out of it.
    Unusable {
        /// The server.
        server: Ipv4Addr,
        /// Some of them, at least one.
        values: Vec<Unusable>,
    },
    /// Another station claims the address in use. It was announced once more and is kept, unless
    /// the station claims it again within 10 s (RFC 5227 2.4 (b)).
    Contested {
        /// The address.
        address: Ipv4Addr,
        /// The station.
        by: Mac,
    },
    /// A station answers ARP for an address that is, or is about to be, ours, and is taken to
    /// answer for every address (proxy ARP): it is the DHCP server's own or the router's, or has
    /// claimed another address before. Its claims count no more.
    ProxyArp {
        /// The address.
        address: Ipv4Addr,
        /// The station.
        by: Mac,
    },
    /// A new lease came without a time.
    NoLeaseTime {
        /// The server.
        server: Ipv4Addr,
        /// The time that is assumed; `None` for ever.
        assumed: Option<Duration>,
    },
    /// No lease within [`Config::deadline`]; the client has stopped for good.
    GaveUp(AcquireError),
    /// The end of [`Client::release`]: all that can be said to the server has been handed out
    /// (drain [`Client::poll_transmit`] before acting on this); the client has stopped for good.
    Released,
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// Nobody extended it in time.
    Expired,
    /// A server said no (DHCPNAK).
    Refused {
        /// Who.
        server: Ipv4Addr,
        /// The server's own words (option 56), control characters replaced.
        message: Option<String>,
    },
    /// Another station uses the address (RFC 5227). The server was told (DHCPDECLINE) of one that
    /// had just been leased.
    Conflict {
        /// Who.
        by: Mac,
    },
}

/// Why a frame was left unread. Never an error: a network is full of frames that are not for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Addressed to another station.
    NotForUs,
    /// Not UDP over IPv4 to port 68, nor ARP that says anything about our address or answers a
    /// question of ours.
    NotDhcp,
    /// A fragment; servers keep to what [`Config::max_message_size`] allows.
    Fragment,
    /// Shorter than its own headers say, or otherwise not what it claims to be.
    Malformed,
    /// An IPv4 or UDP checksum is wrong.
    Checksum,
    /// For another client: `chaddr` or client identifier differ.
    OtherClient,
    /// Another transaction's, or late: nothing with this `xid` is under way.
    OtherExchange,
    /// From a server that we are not talking to.
    OtherServer(Ipv4Addr),
    /// A message type that has no place in the client's state.
    Unexpected {
        /// The type (option 53).
        message_type: u8,
        /// The state, by its name in RFC 2131 figure 5.
        state: &'static str,
    },
    /// A reply that lacks something it cannot be used without.
    Incomplete(&'static str),
}
