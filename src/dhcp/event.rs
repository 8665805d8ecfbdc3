//! The outputs of a client: messages to send, and events of the lease.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::acquire_error::AcquireError;
use super::lease::{Lease, Unusable};
use crate::mac::Mac;

/// The way to send a message of [`Client::poll_transmit`](crate::dhcp::Client::poll_transmit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A whole Ethernet frame, for a packet socket on the interface.
    Frame,
    /// A UDP payload from port 68 to port 67, for a UDP socket. Without one,
    /// [`frame`](crate::dhcp::frame()) makes a frame of it for the packet socket, to
    /// [`Lease::server_mac`].
    Datagram {
        /// The leased address.
        source: Ipv4Addr,
        /// The server that leased it.
        destination: Ipv4Addr,
    },
}

/// An event of the lease that matters to the user (RFC 2131 §4.4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease where there was none: the first one, or the next one after [`Event::Lost`]. Its
    /// address may be the lost one.
    Bound(Box<Lease>),
    /// The lease was extended, with the same settings.
    Renewed(Box<Lease>),
    /// The lease was extended with other settings, possibly another address.
    Changed {
        /// The lease before.
        old: Box<Lease>,
        /// The lease from now on.
        new: Box<Lease>,
    },
    /// The address must no longer be used. The client searches for a new lease by itself.
    Lost {
        /// The lost lease.
        old: Box<Lease>,
        /// The reason.
        why: LossReason,
    },
    /// A leased address was declined before its use, because another station has it. The server was
    /// told (DHCPDECLINE), and the search continues.
    Declined {
        /// The address.
        address: Ipv4Addr,
        /// The server that leased it.
        server: Ipv4Addr,
        /// The other station.
        by: Mac,
    },
    /// A new or changed lease came with unusable values, which were left out of it.
    Unusable {
        /// The server.
        server: Ipv4Addr,
        /// The first of them, at least one.
        values: Vec<Unusable>,
    },
    /// Another station claims the address in use. The client has announced it once more, and keeps
    /// it unless the station repeats its claim within 10 s (RFC 5227 §2.4 (b)).
    Contested {
        /// The address.
        address: Ipv4Addr,
        /// The station.
        by: Mac,
    },
    /// A station that does proxy ARP answers for our address: it is the DHCP server's or the
    /// router's, or has claimed another address before. Its claims are ignored from now on.
    ProxyArp {
        /// The address.
        address: Ipv4Addr,
        /// The station.
        by: Mac,
    },
    /// A new lease came without a lease time.
    NoLeaseTime {
        /// The server.
        server: Ipv4Addr,
        /// The assumed time; `None` if infinite.
        assumed: Option<Duration>,
    },
    /// No lease within [`Config::deadline`](crate::dhcp::Config::deadline). The client has stopped.
    GaveUp(AcquireError),
    /// The client has stopped after [`Client::release`](crate::dhcp::Client::release). Send all of
    /// [`Client::poll_transmit`](crate::dhcp::Client::poll_transmit) before removing the address.
    Released,
}

/// The reason for the end of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No server extended it in time.
    Expired,
    /// A server refused to extend it (DHCPNAK).
    Refused {
        /// The server.
        server: Ipv4Addr,
        /// The server's message (option 56) without control characters.
        message: Option<String>,
    },
    /// Another station uses the address (RFC 5227). It was declined (DHCPDECLINE) only if it was
    /// not in use yet.
    Conflict {
        /// The station.
        by: Mac,
    },
}
