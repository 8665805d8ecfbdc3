//! Interfaces and their IPv4 addresses.

use std::net::Ipv4Addr;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator, parse_u32,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeader, AddressScope, CacheInfo};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use nix::libc;

use super::netlink::{Body, Netlink, Result, attributes, ipv4, message, text};

/// Interfaces that are read of a namespace at most.
const MOST_LINKS: usize = 1000;
/// Addresses that are read of an interface at most. To remove the oldest of 10,000 takes the kernel
/// half a second, and four times as long for twice as many.
const MOST_ADDRESSES: usize = 1000;

/// Names are at most this many bytes (`IFNAMSIZ` less the terminating zero).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// An interface as it was when the kernel was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, the same for as long as it stays in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where that is one of Ethernet's six bytes.
    pub mac: Option<[u8; 6]>,
    /// Bytes of IP packet that fit one frame.
    pub mtu: u32,
    /// The smallest MTU that the driver takes.
    pub min_mtu: u32,
    /// The greatest MTU that the driver takes. One stacked on another interface, as macvlan is, may
    /// still refuse what the one below does not carry.
    pub max_mtu: u32,
    /// Set up by its administrator.
    pub up: bool,
    /// Something is at the other end.
    pub carrier: bool,
    /// The driver's name for a virtual interface: `veth`, `macvlan`.
    pub kind: Option<String>,
    /// The number of the interface that it is stacked on, in another network namespace.
    pub parent_elsewhere: Option<u32>,
    /// The number of the bridge, or the like, that it is a port of.
    pub master: Option<u32>,
    /// Its state as the port of a bridge (`BR_STATE_...` in linux/if_bridge.h).
    pub port_state: Option<u8>,
    /// How often its carrier has come up.
    pub carrier_ups: u32,
}

impl Link {
    /// Reads a message's body. Only what is used is decoded, so that nothing else that a newer
    /// kernel tells can fail.
    ///
    /// # Errors
    ///
    /// Returns an error for a message that is too short or has a malformed attribute.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let header = LinkHeader::parse(body)?;
        let mut link = Link {
            index: header.index,
            max_mtu: u32::MAX,
            up: header.flags.contains(LinkFlags::Up),
            carrier: has_carrier(header.flags),
            ..Link::default()
        };
        let (mut parent, mut is_elsewhere) = (None, false);
        for attribute in attributes(body, &header) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = text(&attribute),
                libc::IFLA_ADDRESS => link.mac = attribute.value().try_into().ok(),
                libc::IFLA_MTU => link.mtu = parse_u32(attribute.value())?,
                libc::IFLA_MIN_MTU => link.min_mtu = parse_u32(attribute.value())?,
                // Zero stands for no limit.
                libc::IFLA_MAX_MTU => {
                    link.max_mtu = match parse_u32(attribute.value())? {
                        0 => u32::MAX,
                        most => most,
                    }
                }
                libc::IFLA_LINK => parent = Some(parse_u32(attribute.value())?),
                libc::IFLA_LINK_NETNSID => is_elsewhere = true,
                libc::IFLA_MASTER => link.master = Some(parse_u32(attribute.value())?),
                libc::IFLA_CARRIER_UP_COUNT => link.carrier_ups = parse_u32(attribute.value())?,
                libc::IFLA_LINKINFO => link.read_info(attribute.value()),
                _ => {}
            }
        }
        link.parent_elsewhere = parent.filter(|_| is_elsewhere);
        Ok(link)
    }

    /// Reads the nested attributes of the driver, and those of a port's bridge.
    fn read_info(&mut self, info: &[u8]) {
        let mut is_bridge_port = false;
        for attribute in NlasIterator::new(info).map_while(std::result::Result::ok) {
            match attribute.kind() {
                libc::IFLA_INFO_KIND => self.kind = Some(text(&attribute)),
                libc::IFLA_INFO_SLAVE_KIND => is_bridge_port = text(&attribute) == "bridge",
                libc::IFLA_INFO_SLAVE_DATA if is_bridge_port => {
                    let mut inner =
                        NlasIterator::new(attribute.value()).map_while(std::result::Result::ok);
                    let state = inner.find(|inner| inner.kind() == PORT_STATE);
                    self.port_state = state.and_then(|state| state.value().first().copied());
                }
                _ => {}
            }
        }
    }

    /// Returns whether this is a port that forwards nothing yet, and will do so by itself.
    pub fn is_port_starting(&self) -> bool {
        const LISTENING: u8 = 1;
        const LEARNING: u8 = 2;
        matches!(self.port_state, Some(LISTENING | LEARNING))
    }

    /// Returns whether this is a further station on the network of the interface that it is stacked
    /// on.
    pub fn is_station_of_parent(&self) -> bool {
        self.kind
            .as_deref()
            .is_some_and(|kind| matches!(kind, "macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
    }

    /// Whether the driver takes this MTU.
    pub fn takes_mtu(&self, mtu: u32) -> bool {
        (self.min_mtu..=self.max_mtu).contains(&mtu)
    }
}

/// Returns whether something is at the other end of an interface.
pub(super) fn has_carrier(flags: LinkFlags) -> bool {
    // With the former alone the kernel may still throw away what is sent, for up to a second
    // (netdevice(7), IFF_RUNNING: RFC 2863's operational state).
    flags.contains(LinkFlags::LowerUp | LinkFlags::Running)
}

/// An IPv4 address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// How many of its bits name the network.
    pub prefix: u8,
    /// Where a broadcast goes.
    pub broadcast: Option<Ipv4Addr>,
    /// What is left until the kernel removes it, in whole seconds; none is for ever.
    pub valid: Option<Duration>,
    /// What is left until it is no longer chosen for new connections.
    pub preferred: Option<Duration>,
    /// When it was made, in hundredths of a second since the boot without times of suspension; it
    /// begins anew after 497 days.
    pub made_at: u32,
}

impl Address {
    /// Reads a message's body: the number of the interface, and its address. None where the message
    /// has no local address.
    ///
    /// # Errors
    ///
    /// Returns an error for a message that is too short or has a malformed attribute.
    pub fn parse(body: &[u8]) -> Result<Option<(u32, Self)>> {
        let header = AddressHeader::parse(body)?;
        let (mut address, mut broadcast) = (None, None);
        let (mut valid, mut preferred, mut made_at) = (FOREVER, FOREVER, 0);
        for attribute in attributes(body, &header) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::IFA_LOCAL => address = ipv4(&attribute),
                libc::IFA_BROADCAST => broadcast = ipv4(&attribute),
                libc::IFA_CACHEINFO => {
                    let info = CacheInfo::parse(attribute.value())?;
                    (valid, preferred, made_at) = (info.ifa_valid, info.ifa_preferred, info.cstamp);
                }
                _ => {}
            }
        }
        let lifetime =
            |seconds: u32| (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()));
        let (valid, preferred) = (lifetime(valid), lifetime(preferred));
        let prefix = header.prefix_len;
        Ok(address.map(|address| {
            (
                header.index,
                Self {
                    address,
                    prefix,
                    broadcast,
                    valid,
                    preferred,
                    made_at,
                },
            )
        }))
    }
}

/// Whether something is there because of us. What was there before is not ours to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was not there; it is now.
    New,
    /// It was there already.
    Already,
}

impl Netlink {
    /// Returns the interface of that name, or `None` where there is none or the name is not valid.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, but for an interface that does not exist.
    pub fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        // The kernel would cut a longer name, or answer for "any interface" to an empty one.
        if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) {
            return Ok(None);
        }
        let mut message = link_request(0);
        message.push(libc::IFLA_IFNAME, name.as_bytes());
        self.link(&message)
    }

    /// Returns the interface of that number.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, but for an interface that does not exist.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        // The kernel counts from one, in a signed number, and takes anything else for a broken
        // request.
        if i32::try_from(index).unwrap_or(0) == 0 {
            return Ok(None);
        }
        self.link(&link_request(index))
    }

    fn link(&self, message: &Body<LinkHeader>) -> Result<Option<Link>> {
        match self.request(message::GET_LINK, 0, message) {
            Ok(answers) => answers.first().map(|body| Link::parse(body)).transpose(),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns all interfaces, of which there may be 1,000.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn links(&self) -> Result<Vec<Link>> {
        let bound = ("interfaces in the network namespace", MOST_LINKS);
        self.read_table(message::GET_LINK, &link_request(0), bound, |body| {
            Link::parse(body).map(Some)
        })
    }

    /// Returns the ports of a bridge, of which there may be 1,000.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn ports(&self, bridge: u32) -> Result<Vec<Link>> {
        let mut message = link_request(0);
        message.push(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        let read =
            |body: &[u8]| Ok(Some(Link::parse(body)?).filter(|link| link.master == Some(bridge)));
        self.read_table(
            message::GET_LINK,
            &message,
            ("ports of the bridge", MOST_LINKS),
            read,
        )
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error: `EINVAL` for an MTU that the driver or the interface below
    /// rejects.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        let mut message = Body::new(LinkHeader {
            index,
            ..LinkHeader::default()
        });
        message.push(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.request(message::NEW_LINK, 0, &message).map(drop)
    }

    /// Returns the IPv4 addresses of an interface, of which there may be 1,000. The kernel sends
    /// those of no other.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let header = AddressHeader {
            family: AddressFamily::Inet,
            index,
            ..AddressHeader::default()
        };
        let bound = ("addresses on the interface", MOST_ADDRESSES);
        let read = |body: &[u8]| {
            Ok(Address::parse(body)?
                .filter(|(of, _)| *of == index)
                .map(|(_, address)| address))
        };
        match self.read_table(message::GET_ADDRESS, &Body::new(header), bound, read) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Vec::new()),
            addresses => addresses,
        }
    }

    /// Puts an address on an interface, or gives the one that is there new lifetimes.
    ///
    /// After `valid` the kernel removes it, give or take a second, and with it every route that
    /// names it as its source; none is for ever. Parts of a second count as a whole one, so the
    /// kernel is never early.
    ///
    /// An address of the same network that was there before stays the primary one, and takes this
    /// one with it when it goes (unless the sysctl `promote_secondaries` is set). To replace an
    /// address, remove the old one first.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error: `ENODEV` for an interface that does not exist.
    pub fn set_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        broadcast: Option<Ipv4Addr>,
        valid: Option<Duration>,
    ) -> Result<Made> {
        let mut message = address_message(index, address, prefix);
        if let Some(broadcast) = broadcast {
            message.push(libc::IFA_BROADCAST, &broadcast.octets());
        }
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = valid.map_or(FOREVER, seconds);
        lifetimes.ifa_preferred = lifetimes.ifa_valid;
        let mut bytes = vec![0; lifetimes.buffer_len()];
        lifetimes.emit(&mut bytes);
        message.push(libc::IFA_CACHEINFO, &bytes);
        match self.request(message::NEW_ADDRESS, NLM_F_CREATE | NLM_F_EXCL, &message) {
            Ok(_) => Ok(Made::New),
            Err(error) if error.errno() == Some(libc::EEXIST) => self
                .request(message::NEW_ADDRESS, NLM_F_CREATE | NLM_F_REPLACE, &message)
                .map(|_| Made::Already),
            Err(error) => Err(error),
        }
    }

    /// Takes an address off an interface, and with it every route that names it as its source.
    /// Tells whether it was there; an interface that is gone has none.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, but for an address or interface that does not exist.
    pub fn remove_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<bool> {
        let removed = self.request(
            message::DEL_ADDRESS,
            0,
            &address_message(index, address, prefix),
        );
        was_there(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

/// What the kernel takes for no end, as an address's lifetime in seconds.
const FOREVER: u32 = u32::MAX;

/// A lifetime as the kernel wants it: not zero, which it refuses, and no end only where that is
/// meant.
fn seconds(lifetime: Duration) -> u32 {
    let whole = lifetime
        .as_secs()
        .saturating_add(u64::from(lifetime.subsec_nanos() > 0));
    u32::try_from(whole)
        .unwrap_or(FOREVER)
        .clamp(1, FOREVER - 1)
}

/// A request for interfaces, without the counters of each, which are the greater part of an answer.
fn link_request(index: u32) -> Body<LinkHeader> {
    let mut message = Body::new(LinkHeader {
        index,
        ..LinkHeader::default()
    });
    message.push(libc::IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
    message
}

/// The state of a bridge's port (`IFLA_BRPORT_STATE` in linux/if_link.h).
const PORT_STATE: u16 = 1;

/// A bit of `IFLA_EXT_MASK` (`RTEXT_FILTER_SKIP_STATS` in linux/rtnetlink.h).
const SKIP_STATISTICS: u32 = 1 << 3;

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> Body<AddressHeader> {
    let mut message = Body::new(AddressHeader {
        family: AddressFamily::Inet,
        prefix_len: prefix,
        scope: AddressScope::Universe,
        index,
        ..AddressHeader::default()
    });
    // Peers of a point-to-point link would differ; for us both are the same.
    message.push(libc::IFA_LOCAL, &address.octets());
    message.push(libc::IFA_ADDRESS, &address.octets());
    message
}

/// The outcome of a removal, where `absent` are the errors that mean it was not there.
pub(super) fn was_there(removed: Result<impl Sized>, absent: &[i32]) -> Result<bool> {
    match removed {
        Ok(_) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| absent.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(info: &[u8]) -> Link {
        let mut message = Body::new(LinkHeader::default());
        message.push(libc::IFLA_LINKINFO, info);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        Link::parse(&bytes).unwrap()
    }

    #[test]
    fn kinds_of_interfaces_that_are_stations_of_their_parents_network() {
        let is_station = |kind: &str| {
            link(&attribute(libc::IFLA_INFO_KIND, kind.as_bytes())).is_station_of_parent()
        };
        assert_eq!(
            ["macvlan", "macvtap", "ipvlan", "ipvtap"].map(is_station),
            [true; 4]
        );
        assert_eq!(
            ["veth", "bridge", "vlan", "macvlan2"].map(is_station),
            [false; 4]
        );
        assert!(!link(&[]).is_station_of_parent());
    }

    #[test]
    fn a_port_is_starting_while_it_listens_and_learns() {
        let port = |master: &[u8], state: u8| {
            let data = attribute(libc::IFLA_INFO_SLAVE_DATA, &attribute(PORT_STATE, &[state]));
            link(&[attribute(libc::IFLA_INFO_SLAVE_KIND, master), data].concat()).is_port_starting()
        };
        // Disabled, listening, learning, forwarding, blocking.
        assert_eq!(
            [0, 1, 2, 3, 4].map(|state| port(b"bridge\0", state)),
            [false, true, true, false, false]
        );
        assert!(
            !port(b"bond\0", 1),
            "the same number means something else there"
        );
        assert!(!link(&attribute(libc::IFLA_INFO_KIND, b"veth\0")).is_port_starting());
    }
}
