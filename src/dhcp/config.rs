//! The settings of a client.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::frame::HEADERS;
use super::plainness::Plainness;
use crate::mac::Mac;

/// The identity of a client, and the settings of its exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The hardware address of the interface (`chaddr`); replies for another are ignored.
    pub mac: Mac,
    /// The whole value of option 61 with its type byte (RFC 2132 §9.14). If empty, the option is
    /// not sent. At most 255 bytes are sent.
    pub client_id: Vec<u8>,
    /// Option 12. At most 255 bytes are sent.
    pub host_name: Option<String>,
    /// Option 81: the fully qualified name, which the server is asked to enter into the DNS. It
    /// replaces `host_name`, because the two are never sent together (RFC 4702 §3.1). If it is no
    /// domain name, or too long, `host_name` is sent.
    pub fqdn: Option<String>,
    /// Limit of the first acquisition, after which [`Event::GaveUp`](crate::dhcp::Event::GaveUp)
    /// follows. It means that a caller waits, so retransmissions are quicker. `None`: no limit, and
    /// slow retransmissions.
    pub deadline: Option<Duration>,
    /// Asks servers and relays to broadcast their replies (the flag of RFC 2131 §4.1), for
    /// interfaces that receive no unicast before they have an address, and for some relays.
    pub broadcast: bool,
    /// An address to request in the DISCOVER (option 50). An offer of another address waits 100 ms
    /// for an offer of this one.
    pub requested: Option<Ipv4Addr>,
    /// The detection of address conflicts.
    pub probe: Probe,
    /// The largest DHCP message that the client can receive, in bytes (option 57). Below 576 the
    /// option is not sent.
    pub max_message_size: u16,
    /// Asks for a lease in two messages instead of four (option 80, RFC 4039).
    pub rapid_commit: bool,
    /// The plainness of the first DISCOVER. Later ones without an answer are plainer.
    pub plainness: Plainness,
    /// The only servers whose replies are accepted, by their identifiers (option 54). Empty: all.
    pub servers: Vec<Ipv4Addr>,
    /// Servers whose replies are ignored.
    pub denied_servers: Vec<Ipv4Addr>,
    /// Stations that are known for proxy ARP: their claims to an address are ignored.
    pub proxy_arp: Vec<Mac>,
    /// Randomizes delays as RFC 2131 §4.1 and §4.4.5 want it. Off only in tests.
    pub fuzz: bool,
}

impl Config {
    /// Makes the settings for one interface and one client identifier (the whole of option 61),
    /// with defaults for the rest: no host name, no deadline, no broadcast flag, no requested
    /// address.
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
            max_message_size: MAX_MESSAGE,
            rapid_commit: true,
            plainness: Plainness::Full,
            servers: Vec::new(),
            denied_servers: Vec::new(),
            proxy_arp: Vec::new(),
            fuzz: true,
        }
    }

    /// Sets the largest message to the capacity of this MTU, but no more than that of a usual
    /// Ethernet frame (option 57).
    pub fn fit_mtu(&mut self, mtu: u32) {
        let carried = u16::try_from(mtu)
            .unwrap_or(u16::MAX)
            .saturating_sub(HEADERS);
        self.max_message_size = carried.min(MAX_MESSAGE);
    }

    /// Returns whether replies of this server are accepted.
    pub(super) fn allows(&self, server: Ipv4Addr) -> bool {
        (self.servers.is_empty() || self.servers.contains(&server))
            && !self.denied_servers.contains(&server)
    }

    /// Returns the first 255 bytes of the client identifier, the most that one option can hold.
    pub(super) fn sent_client_id(&self) -> &[u8] {
        &self.client_id[..self.client_id.len().min(255)]
    }
}

/// The payload of an Ethernet frame, because routes need room (RFC 3442 page 6); RFC 2131 §2 asks
/// for 576. RFC 2132 §9.10 does not say whether headers count, so they are subtracted.
const MAX_MESSAGE: u16 = 1472;

/// The way to find by ARP whether another station uses an address (RFC 2131 §4.4.1, RFC 5227 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Sends no ARP probes, and ignores claims of other stations.
    Off,
    /// Sends one probe together with the REQUEST, which costs no time. The answer of an owner is
    /// expected before the ACK; for a late answer the client listens for another 2 s. The waits of
    /// RFC 5227 §2.1.1 would take seven seconds, and RFC 5227 §2.2 allows shorter ones.
    WithRequest,
    /// Sends this many probes between ACK and [`Event::Bound`](crate::dhcp::Event::Bound), with the
    /// waits of RFC 5227 §1.1: up to a second before the first, one or two seconds between them,
    /// two after the last. 0 means [`Probe::Off`].
    Before(u8),
}
