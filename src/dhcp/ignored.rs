//! The reasons for which a frame changes nothing.

use std::net::Ipv4Addr;

/// Why a frame was left unread. Never an error: a network is full of frames that are not for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Addressed to another station.
    NotForUs,
    /// Not UDP over IPv4 to port 68, nor ARP that says anything about our address or answers a
    /// question of ours.
    NotDhcp,
    /// A fragment; servers keep to what
    /// [`Config::max_message_size`](crate::dhcp::Config::max_message_size) allows.
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
