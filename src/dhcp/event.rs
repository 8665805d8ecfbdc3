//! The outputs of a client: messages to send, and what has happened to the lease.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::acquire_error::AcquireError;
use super::lease::{Lease, Unusable};
use crate::mac::Mac;

/// The way on which a message from [`Client::poll_transmit`](crate::dhcp::Client::poll_transmit) is
/// to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A whole Ethernet frame, for a packet socket on the interface.
    Frame,
    /// A UDP payload from port 68 to port 67, for the kernel to route. Where that cannot be,
    /// [`frame`](crate::dhcp::frame()) wraps it for the packet socket, to [`Lease::server_mac`].
    Datagram {
        /// The leased address.
        source: Ipv4Addr,
        /// The server that leased it.
        destination: Ipv4Addr,
    },
}

/// What happened to the lease: what users want to know (RFC 2131 §4.4.5).
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
    /// An address was given up before it was used: another station has it. The server was told
    /// (DHCPDECLINE), and the search goes on.
    Declined {
        /// The address.
        address: Ipv4Addr,
        /// The server that gave it.
        server: Ipv4Addr,
        /// The station that has it.
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
    /// the station claims it again within 10 s (RFC 5227 §2.4 (b)).
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
    /// No lease within [`Config::deadline`](crate::dhcp::Config::deadline); the client has stopped
    /// for good.
    GaveUp(AcquireError),
    /// The end of [`Client::release`](crate::dhcp::Client::release): all that can be said to the
    /// server has been handed out
    /// (drain [`Client::poll_transmit`](crate::dhcp::Client::poll_transmit) before acting on this);
    /// the client has stopped for good.
    Released,
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No server extended it in time.
    Expired,
    /// A server said no (DHCPNAK).
    Refused {
        /// The server.
        server: Ipv4Addr,
        /// The server's message (option 56), control characters replaced.
        message: Option<String>,
    },
    /// Another station uses the address (RFC 5227). The server was told (DHCPDECLINE) of one that
    /// had just been leased.
    Conflict {
        /// The station.
        by: Mac,
    },
}
