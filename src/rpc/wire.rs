//! What travels: netavark's protobuf messages, by hand, and gRPC's five bytes before each of them.
//! Pure.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;

use super::{Code, Status};

/// The most bytes that one message may have. A real one has a few hundred; the longest path a
/// kernel takes has 4096.
pub const MESSAGE_LIMIT: usize = 16 * 1024;

/// The bytes before a message: one that tells of compression, four that count (big endian).
pub const PREFIX: usize = 5;

/// What every path of the service begins with.
const SERVICE: &str = "/netavark_proxy.NetavarkProxy/";

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Get a lease for this container.
    Setup(NetworkConfig),
    /// Give the lease of this container back.
    Teardown(NetworkConfig),
    /// Give everything back.
    Clean,
}

impl Call {
    /// Reads the request whose path and whole body these are.
    ///
    /// # Errors
    ///
    /// UNIMPLEMENTED where the path is no method of ours or the message is compressed,
    /// RESOURCE_EXHAUSTED where it is longer than [`MESSAGE_LIMIT`], INVALID_ARGUMENT where the
    /// body is anything but one well-formed message.
    pub fn decode(path: &str, body: &[u8]) -> Result<Self, Status> {
        match path.strip_prefix(SERVICE) {
            Some("Setup") => Ok(Self::Setup(message(body)?)),
            Some("Teardown") => Ok(Self::Teardown(message(body)?)),
            Some("Clean") => message(body).map(|Empty {}| Self::Clean),
            _ => Err(Status::new(
                Code::Unimplemented,
                format!("unknown method {path}"),
            )),
        }
    }

    /// The path and the body of this request, as a client sends them.
    pub fn encode(&self) -> (String, Bytes) {
        let (method, body) = match self {
            Self::Setup(config) => ("Setup", frame(config)),
            Self::Teardown(config) => ("Teardown", frame(config)),
            Self::Clean => ("Clean", frame(&Empty {})),
        };
        (format!("{SERVICE}{method}"), body)
    }
}

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every reply is a lease, and it lives for a moment"
)]
pub enum Reply {
    /// The answer to Setup and to Teardown.
    Lease(NetavarkLease),
    /// The answer to Clean.
    Operation(OperationResponse),
}

impl Reply {
    /// The body of the answer.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Lease(lease) => frame(lease),
            Self::Operation(response) => frame(response),
        }
    }
}

/// How a call that succeeded ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked for.
    pub reply: Reply,
    /// What the caller should know beside it, in words for people. Travels as the trailer
    /// `warning`, encoded like `grpc-message`; who does not know it does not see it.
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

/// Puts a message behind its five bytes.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length.try_into().expect("our messages are far below 4 GiB"));
    message.encode(&mut out).expect("a BytesMut grows");
    out.freeze()
}

/// Reads the one message that a unary call has.
///
/// # Errors
///
/// Returns the errors of [`Call::decode`].
pub fn message<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
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
        Ok(length) if length <= MESSAGE_LIMIT && length < rest.len() => {
            return Err(bad("more than one message"));
        }
        Ok(length) if length <= MESSAGE_LIMIT => return Err(bad("the message ends too early")),
        _ => return Err(too_long()),
    }
    M::decode(rest).map_err(|error| bad(&error.to_string()))
}

/// The answer to who sends more than [`MESSAGE_LIMIT`].
pub fn too_long() -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!("a message of more than {MESSAGE_LIMIT} bytes"),
    )
}

/// Reads a `grpc-timeout`: up to eight digits and a unit of time. None where it is anything else.
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

/// The container that a call is about.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NetworkConfig {
    /// The host's interface that the container's hangs on. May be empty in a Teardown.
    #[prost(string, tag = "1")]
    pub host_iface: String,
    /// The interface within the container.
    #[prost(string, tag = "2")]
    pub container_iface: String,
    /// Its MAC address, six pairs of hexadecimal digits with colons between them.
    #[prost(string, tag = "3")]
    pub container_mac_addr: String,
    /// The domain that the container is to be in.
    #[prost(string, tag = "4")]
    pub domain_name: String,
    /// The name to tell the server (RFC 2132 section 3.14).
    #[prost(string, tag = "5")]
    pub host_name: String,
    /// Which protocol to get an address by; a number that is no [`Version`] stays what it is.
    #[prost(enumeration = "Version", tag = "6")]
    pub version: i32,
    /// The path of the container's network namespace.
    #[prost(string, tag = "7")]
    pub ns_path: String,
    /// Podman's name for the container. Empty in a Teardown.
    #[prost(string, tag = "8")]
    pub container_id: String,
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Version {
    /// DHCP.
    V4 = 0,
    /// DHCPv6.
    V6 = 1,
}

/// A lease as clients know it. In JSON, with these names in snake case, it is also an entry of
/// netavark's lease file.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct NetavarkLease {
    /// When renewal begins, in seconds from the acknowledgement (RFC 2131 section 4.4.5).
    #[prost(uint32, tag = "1")]
    pub t1: u32,
    /// When rebinding begins, in seconds.
    #[prost(uint32, tag = "2")]
    pub t2: u32,
    /// When the lease ends, in seconds.
    #[prost(uint32, tag = "3")]
    pub lease_time: u32,
    /// The interface's MTU in bytes, 0 where the server named none.
    #[prost(uint32, tag = "4")]
    pub mtu: u32,
    /// The domain to search in.
    #[prost(string, tag = "5")]
    pub domain_name: String,
    /// The MAC address that holds the lease.
    #[prost(string, tag = "6")]
    pub mac_address: String,
    /// Whether the addresses are IPv6.
    #[prost(bool, tag = "10")]
    pub is_v6: bool,
    /// The next server of a boot; commonly 0.0.0.0.
    #[prost(string, tag = "11")]
    pub siaddr: String,
    /// The leased address.
    #[prost(string, tag = "12")]
    pub yiaddr: String,
    /// The DHCP server.
    #[prost(string, tag = "16")]
    pub srv_id: String,
    /// The mask of the address, in dotted form.
    #[prost(string, tag = "17")]
    pub subnet_mask: String,
    /// The broadcast address, empty where the server named none.
    #[prost(string, tag = "18")]
    pub broadcast_addr: String,
    /// Name servers, best first.
    #[prost(string, repeated, tag = "19")]
    pub dns_servers: Vec<String>,
    /// Routers, best first.
    #[prost(string, repeated, tag = "20")]
    pub gateways: Vec<String>,
    /// Time servers, best first.
    #[prost(string, repeated, tag = "21")]
    pub ntp_servers: Vec<String>,
    /// The name that the server gave.
    #[prost(string, tag = "22")]
    pub host_name: String,
}

/// How a Clean went.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OperationResponse {
    /// Whether it did everything.
    #[prost(bool, tag = "1")]
    pub success: bool,
}

/// Nothing, which is what Clean takes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

#[cfg(test)]
mod tests;
