//! The settings of a client.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::frame::HEADERS;
use super::plainness::Plainness;
use crate::mac::Mac;

/// The identity of a client, and the options of its exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface's own address; goes into `chaddr`, and replies for any other are ignored.
    pub mac: Mac,
    /// The whole value of option 61, its type byte included (RFC 2132 §9.14). Empty: the option is
    /// left out. At most 255 bytes are sent.
    pub client_id: Vec<u8>,
    /// Option 12. At most 255 bytes are sent.
    pub host_name: Option<String>,
    /// Option 81: the whole name, which the server is asked to enter into the DNS. It takes the
    /// place of `host_name`, for the two are never sent together (RFC 4702 §3.1); one that is no
    /// domain name, or too long, gives way to it.
    pub fqdn: Option<String>,
    /// How long the first acquisition may take before
    /// [`Event::GaveUp`](crate::dhcp::Event::GaveUp). A caller waits for it then, so
    /// retransmissions are quicker. `None`: for ever, and slowly.
    pub deadline: Option<Duration>,
    /// Asks servers and relays to broadcast their replies (the flag of RFC 2131 §4.1), for
    /// interfaces that hear no unicast before they have an address, and for some relays.
    pub broadcast: bool,
    /// An address to ask for in the DISCOVER (option 50). The server may well offer another, which
    /// then waits 100 ms for an offer of this one.
    pub requested: Option<Ipv4Addr>,
    /// How conflicts with another station about the address are detected.
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
    /// Whether delays are randomized as RFC 2131 §4.1 and §4.4.5 want it. Off only in tests, to have
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
            max_message_size: MAX_MESSAGE,
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
            .saturating_sub(HEADERS);
        self.max_message_size = carried.min(MAX_MESSAGE);
    }

    /// Returns whether anything is to be heard of a server.
    pub(super) fn allows(&self, server: Ipv4Addr) -> bool {
        (self.servers.is_empty() || self.servers.contains(&server))
            && !self.denied_servers.contains(&server)
    }

    /// As much of the client identifier as one option holds.
    pub(super) fn sent_client_id(&self) -> &[u8] {
        &self.client_id[..self.client_id.len().min(255)]
    }
}

/// An Ethernet frame's worth, for routes need room (RFC 3442 page 6); 576 would do for RFC 2131 §2.
/// RFC 2132 §9.10 does not say whether headers count; this fits either way.
const MAX_MESSAGE: u16 = 1472;

/// Asking the link by ARP whether an address is free before it is used (RFC 2131 §4.4.1, RFC 5227
/// §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// No ARP is sent, and claims of other stations are ignored.
    Off,
    /// One probe that costs no time: it goes out together with the REQUEST, and an owner that has
    /// not answered when the ACK is here is late. The client goes on listening for 2 s. The waits
    /// of RFC 5227 §2.1.1 would cost seven seconds, which RFC 5227 §2.2 leaves to us.
    WithRequest,
    /// As many as this between ACK and [`Event::Bound`](crate::dhcp::Event::Bound), with the waits
    /// of RFC 5227 §1.1: up to a second before the first, one or two seconds between them, two
    /// after the last. 0 means [`Probe::Off`].
    Before(u8),
}
