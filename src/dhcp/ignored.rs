//! The reasons to ignore a frame.

use std::net::Ipv4Addr;

/// The reason why a frame is ignored. It is no error: most frames on a network are for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The frame is addressed to another station.
    NotForUs,
    /// Neither UDP over IPv4 to port 68 nor ARP that concerns our address or answers our request.
    NotDhcp,
    /// An IPv4 fragment. Servers do not exceed
    /// [`Config::max_message_size`](crate::dhcp::Config::max_message_size).
    Fragment,
    /// The packet is truncated or malformed.
    Malformed,
    /// An IPv4 or UDP checksum is wrong.
    Checksum,
    /// The reply is for another client: `chaddr` differs.
    OtherClient,
    /// No exchange with this `xid` is under way. The reply is late or another client's.
    OtherExchange,
    /// The server is not part of the exchange, or is excluded by the configuration.
    OtherServer(Ipv4Addr),
    /// The message type is not expected in this state.
    Unexpected {
        /// The type (option 53).
        message_type: u8,
        /// The name of the state in RFC 2131 figure 5.
        state: &'static str,
    },
    /// The reply lacks an essential value.
    Incomplete(&'static str),
}
