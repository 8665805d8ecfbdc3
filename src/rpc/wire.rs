//! Protobuf messages, written by hand, and gRPC's prefix of five bytes. Pure.
//!
//! The service `netavark_proxy.NetavarkProxy` is netavark's. The second one is the operator's:
//!
//! ```proto
//! syntax = "proto3";
//! package smol_dhcp_proxy;
//!
//! // Only for root and the user of the daemon; others get PERMISSION_DENIED.
//! service Control {
//!   // Renews leases now. Answers when the outcome of each is known, or its time is over.
//!   rpc Renew(LeaseSelection) returns (LeaseOutcomes);
//!   // Releases leases, and takes them off their links.
//!   rpc Release(LeaseSelection) returns (LeaseOutcomes);
//! }
//!
//! message LeaseSelection {
//!   bool all = 1;                        // then the list is empty
//!   repeated LeaseIdentity leases = 2;
//! }
//!
//! message LeaseIdentity {
//!   string mac = 1;
//!   string namespace = 2;                // the path of the network namespace
//!   string interface = 3;                // the name within it
//! }
//!
//! message LeaseOutcomes {
//!   repeated LeaseOutcome leases = 1;    // one for each selected lease
//! }
//!
//! message LeaseOutcome {
//!   LeaseIdentity lease = 1;
//!   string address_before = 2;           // empty without a lease
//!   string address_after = 3;            // empty without a lease
//!   LeaseResult result = 4;
//!   string reason = 5;                   // in words; empty where there is nothing to explain
//! }
//!
//! enum LeaseResult {
//!   UNKNOWN = 0;
//!   RENEWED = 1;                         // more time, nothing else is different
//!   CHANGED = 2;                         // more time, and other settings for the same address
//!   NEW_ADDRESS = 3;
//!   RELEASED = 4;
//!   NO_LEASE = 5;                        // the daemon has none of that identity
//!   FAILED = 6;
//!   LEFT_TO_EXPIRE = 7;                  // off the link, and the server could not be told
//! }
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;

use super::{Code, Status};

/// The longest message in bytes. A usual one has a few hundred; the longest path of the kernel has
/// 4096.
pub const MESSAGE_LIMIT: usize = 16 * 1024;

/// The longest answer that a client reads, in bytes: that of some ten thousand leases.
pub const ANSWER_LIMIT: usize = 4 << 20;

/// The length of the prefix: a compression flag and the message length (four bytes, big endian).
pub const PREFIX: usize = 5;

/// The beginnings of the methods' paths.
const SERVICE: &str = "/netavark_proxy.NetavarkProxy/";
const CONTROL: &str = "/smol_dhcp_proxy.Control/";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Acquires a lease for the container.
    Setup(NetworkConfig),
    /// Releases the container's lease.
    Teardown(NetworkConfig),
    /// Releases all leases.
    Clean,
    /// Renews leases now.
    Renew(LeaseSelection),
    /// Releases leases.
    Release(LeaseSelection),
}

impl Call {
    /// Decodes a request from its path and its complete body.
    ///
    /// # Errors
    ///
    /// UNIMPLEMENTED for an unknown path or a compressed message, RESOURCE_EXHAUSTED for a message
    /// longer than [`MESSAGE_LIMIT`], INVALID_ARGUMENT if the body is not exactly one valid
    /// message.
    pub fn decode(path: &str, body: &[u8]) -> Result<Self, Status> {
        match (path.strip_prefix(SERVICE), path.strip_prefix(CONTROL)) {
            (Some("Setup"), _) => Ok(Self::Setup(message(body)?)),
            (Some("Teardown"), _) => Ok(Self::Teardown(message(body)?)),
            (Some("Clean"), _) => message(body).map(|Empty {}| Self::Clean),
            (_, Some("Renew")) => Ok(Self::Renew(message(body)?)),
            (_, Some("Release")) => Ok(Self::Release(message(body)?)),
            _ => Err(Status::new(
                Code::Unimplemented,
                format!("unknown method {path}"),
            )),
        }
    }

    /// Returns the path and the body of this request, as a client sends them.
    pub fn encode(&self) -> (String, Bytes) {
        let (service, method, body) = match self {
            Self::Setup(config) => (SERVICE, "Setup", frame(config)),
            Self::Teardown(config) => (SERVICE, "Teardown", frame(config)),
            Self::Clean => (SERVICE, "Clean", frame(&Empty {})),
            Self::Renew(selection) => (CONTROL, "Renew", frame(selection)),
            Self::Release(selection) => (CONTROL, "Release", frame(selection)),
        };
        (format!("{service}{method}"), body)
    }

    /// Returns whether it is of the operator's service.
    pub fn is_control(&self) -> bool {
        match self {
            Self::Setup(_) | Self::Teardown(_) | Self::Clean => false,
            Self::Renew(_) | Self::Release(_) => true,
        }
    }

    /// Decodes the body of the answer to this call.
    ///
    /// # Errors
    ///
    /// Those of [`Call::decode`], for a body of more than [`ANSWER_LIMIT`].
    pub fn decode_reply(&self, body: &[u8]) -> Result<Reply, Status> {
        Ok(match self {
            Self::Setup(_) | Self::Teardown(_) => Reply::Lease(within(body, ANSWER_LIMIT)?),
            Self::Clean => Reply::Operation(within(body, ANSWER_LIMIT)?),
            Self::Renew(_) | Self::Release(_) => Reply::Outcomes(within(body, ANSWER_LIMIT)?),
        })
    }
}

/// The message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every reply is a lease, and it lives for a moment"
)]
pub enum Reply {
    /// Answers Setup and Teardown.
    Lease(NetavarkLease),
    /// Answers Clean.
    Operation(OperationResponse),
    /// Answers Renew and Release.
    Outcomes(LeaseOutcomes),
}

impl Reply {
    /// Returns the body of the answer.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Lease(lease) => frame(lease),
            Self::Operation(response) => frame(response),
            Self::Outcomes(outcomes) => frame(outcomes),
        }
    }
}

/// The result of a successful call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message.
    pub reply: Reply,
    /// A warning for the caller's user, in the trailer `warning`, encoded like `grpc-message`;
    /// clients that do not know it ignore it.
    pub warning: Option<String>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            warning: None,
        }
    }
}

/// Prepends the prefix to a message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length.try_into().expect("our messages are far below 4 GiB"));
    message.encode(&mut out).expect("a BytesMut grows");
    out.freeze()
}

/// Decodes the one message of a unary call.
///
/// # Errors
///
/// Those of [`Call::decode`].
pub fn message<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    within(body, MESSAGE_LIMIT)
}

fn within<M: Message + Default>(body: &[u8], limit: usize) -> Result<M, Status> {
    let bad = |why: &str| Status::new(Code::InvalidArgument, why);
    let Some((&[compressed, a, b, c, d], rest)) = body.split_first_chunk::<PREFIX>() else {
        return Err(bad("a request without a message"));
    };
    if compressed != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "compressed messages are not understood",
        ));
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if length == rest.len() => {}
        Ok(length) if length <= limit && length < rest.len() => {
            return Err(bad("more than one message"));
        }
        Ok(length) if length <= limit => return Err(bad("the message ends too early")),
        _ => return Err(longer_than(limit)),
    }
    M::decode(rest).map_err(|error| bad(&error.to_string()))
}

/// Returns the error for a message longer than [`MESSAGE_LIMIT`].
pub fn too_long() -> Status {
    longer_than(MESSAGE_LIMIT)
}

fn longer_than(limit: usize) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!("a message of more than {limit} bytes"),
    )
}

/// Parses a `grpc-timeout`: up to eight digits and a unit. `None` if it is malformed.
pub fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(3600 * count)),
        "M" => Some(Duration::from_secs(60 * count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The container of a call.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NetworkConfig {
    /// The parent of the container's interface on the host. May be empty in a Teardown.
    #[prost(string, tag = "1")]
    pub host_iface: String,
    /// The interface within the container.
    #[prost(string, tag = "2")]
    pub container_iface: String,
    /// The MAC of that interface, six pairs of hexadecimal digits separated by colons.
    #[prost(string, tag = "3")]
    pub container_mac_addr: String,
    /// The container's domain.
    #[prost(string, tag = "4")]
    pub domain_name: String,
    /// The host name for the server (RFC 2132 §3.14).
    #[prost(string, tag = "5")]
    pub host_name: String,
    /// A [`Version`]; an unknown number is preserved.
    #[prost(enumeration = "Version", tag = "6")]
    pub version: i32,
    /// The path of the container's network namespace.
    #[prost(string, tag = "7")]
    pub ns_path: String,
    /// Podman's id of the container. Empty in a Teardown.
    #[prost(string, tag = "8")]
    pub container_id: String,
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Version {
    /// Uses DHCP.
    V4 = 0,
    /// Uses DHCPv6.
    V6 = 1,
}

/// A lease as clients know it. In JSON, with these field names, it is an entry of netavark's lease
/// file.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct NetavarkLease {
    /// T1 in seconds from the DHCPACK (RFC 2131 §4.4.5).
    #[prost(uint32, tag = "1")]
    pub t1: u32,
    /// T2 in seconds.
    #[prost(uint32, tag = "2")]
    pub t2: u32,
    /// The lease time in seconds.
    #[prost(uint32, tag = "3")]
    pub lease_time: u32,
    /// The MTU in bytes, 0 if the server sent none.
    #[prost(uint32, tag = "4")]
    pub mtu: u32,
    /// The search domain.
    #[prost(string, tag = "5")]
    pub domain_name: String,
    /// The MAC that the lease is for.
    #[prost(string, tag = "6")]
    pub mac_address: String,
    /// True for IPv6 addresses.
    #[prost(bool, tag = "10")]
    pub is_v6: bool,
    /// The next server for booting, usually 0.0.0.0.
    #[prost(string, tag = "11")]
    pub siaddr: String,
    /// The leased address.
    #[prost(string, tag = "12")]
    pub yiaddr: String,
    /// The server identifier.
    #[prost(string, tag = "16")]
    pub srv_id: String,
    /// The subnet mask, in dotted form.
    #[prost(string, tag = "17")]
    pub subnet_mask: String,
    /// The broadcast address, empty if the server sent none.
    #[prost(string, tag = "18")]
    pub broadcast_addr: String,
    /// Name servers in the order of preference.
    #[prost(string, repeated, tag = "19")]
    pub dns_servers: Vec<String>,
    /// Routers in the order of preference.
    #[prost(string, repeated, tag = "20")]
    pub gateways: Vec<String>,
    /// Time servers in the order of preference.
    #[prost(string, repeated, tag = "21")]
    pub ntp_servers: Vec<String>,
    /// The host name that the server sent.
    #[prost(string, tag = "22")]
    pub host_name: String,
}

/// The result of a Clean.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OperationResponse {
    /// True if nothing failed.
    #[prost(bool, tag = "1")]
    pub success: bool,
}

/// The empty argument of Clean.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// The leases that a Renew or a Release is about.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseSelection {
    /// All leases.
    #[prost(bool, tag = "1")]
    pub all: bool,
    /// These leases.
    #[prost(message, repeated, tag = "2")]
    pub leases: Vec<LeaseIdentity>,
}

/// The identity of a lease: that of its entry in the state file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct LeaseIdentity {
    /// The MAC of the container's interface.
    #[prost(string, tag = "1")]
    pub mac: String,
    /// The path of the container's network namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// The interface within the container.
    #[prost(string, tag = "3")]
    pub interface: String,
}

/// The result of a Renew or a Release.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseOutcomes {
    /// The outcome for each selected lease.
    #[prost(message, repeated, tag = "1")]
    pub leases: Vec<LeaseOutcome>,
}

/// The outcome for one lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseOutcome {
    /// The lease.
    #[prost(message, optional, tag = "1")]
    pub lease: Option<LeaseIdentity>,
    /// The address before the call, empty without a lease.
    #[prost(string, tag = "2")]
    pub address_before: String,
    /// The address after the call, empty without a lease.
    #[prost(string, tag = "3")]
    pub address_after: String,
    /// A [`LeaseResult`]; an unknown number is preserved.
    #[prost(enumeration = "LeaseResult", tag = "4")]
    pub result: i32,
    /// The reason in words, empty where there is nothing to explain.
    #[prost(string, tag = "5")]
    pub reason: String,
}

/// The effect of a Renew or a Release on a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LeaseResult {
    /// A number of another version.
    Unknown = 0,
    /// The lease has more time, with the same settings.
    Renewed = 1,
    /// The lease has more time and other settings, with the same address.
    Changed = 2,
    /// The container has another address, or has one again.
    NewAddress = 3,
    /// The lease is given back, and off the link.
    Released = 4,
    /// The daemon has no lease of that identity.
    NoLease = 5,
    /// Nothing of that.
    Failed = 6,
    /// The lease is off the link. Its server could not be told, and keeps it until it expires.
    LeftToExpire = 7,
}

#[cfg(test)]
mod tests;
