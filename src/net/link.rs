//! Interfaces and their IPv4 addresses.

use std::net::Ipv4Addr;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator, parse_i32, parse_u32,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeader, AddressScope, CacheInfo};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use nix::libc;

use super::netlink::{Body, Netlink, Result, attributes, ipv4, message, text};

/// The most interfaces that are read of a namespace.
const MAX_LINKS: usize = 1000;
/// The most addresses that are read of an interface. The kernel takes half a second to remove the
/// oldest of 10,000, and four times as long for twice as many.
const MAX_ADDRESSES: usize = 1000;

/// The longest name in bytes (`IFNAMSIZ` less the terminating zero).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// The state of an interface at the time of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface index, constant while the interface is in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address, if it has the six bytes of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The smallest MTU that the driver accepts, in bytes.
    pub min_mtu: u32,
    /// The largest MTU that the driver accepts, in bytes. An interface on top of another one, such
    /// as a macvlan, may still refuse an MTU above that of the lower one.
    pub max_mtu: u32,
    /// The interface is administratively up.
    pub up: bool,
    /// The interface has a carrier.
    pub carrier: bool,
    /// The kind of a virtual interface, such as `veth` or `macvlan`.
    pub kind: Option<String>,
    /// The index of the lower interface, if that is in another network namespace.
    pub parent_elsewhere: Option<u32>,
    /// The [identifier](Netlink::namespace_id) of that namespace.
    pub parent_namespace: Option<i32>,
    /// The index of the bridge, or other master, of which this is a port.
    pub master: Option<u32>,
    /// The state as a port of a bridge (`BR_STATE_...` in linux/if_bridge.h).
    pub port_state: Option<u8>,
    /// The number of times that the carrier has come up.
    pub carrier_ups: u32,
}

impl Link {
    /// Parses the body of a message. Decodes only the attributes in use, so that no attribute of a
    /// newer kernel can fail.
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
        let mut parent = None;
        for attribute in attributes(body, &header) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = text(&attribute),
                libc::IFLA_ADDRESS => link.mac = attribute.value().try_into().ok(),
                libc::IFLA_MTU => link.mtu = parse_u32(attribute.value())?,
                libc::IFLA_MIN_MTU => link.min_mtu = parse_u32(attribute.value())?,
                // Zero means no limit.
                libc::IFLA_MAX_MTU => {
                    link.max_mtu = match parse_u32(attribute.value())? {
                        0 => u32::MAX,
                        most => most,
                    }
                }
                libc::IFLA_LINK => parent = Some(parse_u32(attribute.value())?),
                libc::IFLA_LINK_NETNSID => {
                    link.parent_namespace = Some(parse_i32(attribute.value())?)
                }
                libc::IFLA_MASTER => link.master = Some(parse_u32(attribute.value())?),
                libc::IFLA_CARRIER_UP_COUNT => link.carrier_ups = parse_u32(attribute.value())?,
                libc::IFLA_LINKINFO => link.read_info(attribute.value()),
                _ => {}
            }
        }
        link.parent_elsewhere = parent.filter(|_| link.parent_namespace.is_some());
        Ok(link)
    }

    /// Parses the nested attributes of the driver and of the bridge port.
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

    /// Returns whether this is a bridge port that does not forward yet, but will without further
    /// configuration.
    pub fn is_port_starting(&self) -> bool {
        const LISTENING: u8 = 1;
        const LEARNING: u8 = 2;
        matches!(self.port_state, Some(LISTENING | LEARNING))
    }

    /// Returns whether this interface is a separate station on the network of its lower interface.
    pub fn is_station_of_parent(&self) -> bool {
        self.kind
            .as_deref()
            .is_some_and(|kind| matches!(kind, "macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
    }

    /// Returns whether the driver accepts this MTU.
    pub fn takes_mtu(&self, mtu: u32) -> bool {
        (self.min_mtu..=self.max_mtu).contains(&mtu)
    }
}

/// Returns whether an interface has a carrier and is operational.
pub(super) fn has_carrier(flags: LinkFlags) -> bool {
    // With IFF_LOWER_UP alone the kernel may still drop frames, for up to a second (netdevice(7),
    // IFF_RUNNING: the operational state of RFC 2863).
    flags.contains(LinkFlags::LowerUp | LinkFlags::Running)
}

/// An IPv4 address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// The prefix length in bits.
    pub prefix: u8,
    /// The broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// The remaining valid lifetime in whole seconds; `None` is infinite. The kernel removes the
    /// address at its end.
    pub valid: Option<Duration>,
    /// The remaining preferred lifetime. After it, the address is no source of new connections.
    pub preferred: Option<Duration>,
    /// The time of creation, in hundredths of a second since the boot, without suspends. It wraps
    /// after 497 days.
    pub made_at: u32,
}

impl Address {
    /// Parses the body of a message. Returns the interface index and the address, or `None` if the
    /// message has no local address.
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

/// The result of adding an address or a route. A rollback removes only new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddOutcome {
    /// It did not exist before.
    Added,
    /// It existed before.
    Existed,
}

impl Netlink {
    /// Returns the interface with that name, or `None` if there is none or the name is invalid.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, except for a missing interface.
    pub fn link_by_name(&self, name: impl AsRef<[u8]>) -> Result<Option<Link>> {
        let name = name.as_ref();
        // The kernel would truncate a longer name, and take an empty one for any interface.
        if name.is_empty() || name.len() > NAME_MAX || name.iter().any(|byte| b"/\0".contains(byte))
        {
            return Ok(None);
        }
        let mut message = link_request(0);
        message.push(libc::IFLA_IFNAME, name);
        self.link(&message)
    }

    /// Returns the interface with that index, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, except for a missing interface.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        // Indexes are positive and signed; the kernel rejects a request with any other number.
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

    /// Returns all interfaces, at most 1,000.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn links(&self) -> Result<Vec<Link>> {
        let bound = ("interfaces in the network namespace", MAX_LINKS);
        self.read_table(message::GET_LINK, &link_request(0), bound, |body| {
            Link::parse(body).map(Some)
        })
    }

    /// Returns the ports of a bridge, at most 1,000.
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
            ("ports of the bridge", MAX_LINKS),
            read,
        )
    }

    /// Sets the MTU of an interface, in bytes.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error: `EINVAL` for an MTU that the driver or the lower interface
    /// rejects.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        let mut message = Body::new(LinkHeader {
            index,
            ..LinkHeader::default()
        });
        message.push(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.request(message::NEW_LINK, 0, &message).map(drop)
    }

    /// Returns the IPv4 addresses of an interface, at most 1,000.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let addresses = self.read_addresses(index, "addresses on the interface")?;
        Ok(addresses.into_iter().map(|(_, address)| address).collect())
    }

    /// Returns the IPv4 addresses of an interface, or of all for index 0, with its index.
    pub(super) fn read_addresses(
        &self,
        index: u32,
        what: &'static str,
    ) -> Result<Vec<(u32, Address)>> {
        let header = AddressHeader {
            family: AddressFamily::Inet,
            index,
            ..AddressHeader::default()
        };
        let is_of = |(of, _): &(u32, Address)| index == 0 || *of == index;
        let read = |body: &[u8]| Ok(Address::parse(body)?.filter(is_of));
        let bound = (what, MAX_ADDRESSES);
        match self.read_table(message::GET_ADDRESS, &Body::new(header), bound, read) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Vec::new()),
            addresses => addresses,
        }
    }

    /// Adds an address to an interface, or sets new lifetimes if the address exists.
    ///
    /// The kernel removes the address after `valid`, to within a second, and with it every route
    /// with this source; `None` is infinite. Lifetimes are rounded up to whole seconds, so that the
    /// kernel is never early.
    ///
    /// An older address of the same network stays the primary one. Its removal removes this address
    /// too, unless the sysctl `promote_secondaries` is set. So to replace an address, remove the old
    /// one first.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error: `ENODEV` for a missing interface.
    pub fn set_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        broadcast: Option<Ipv4Addr>,
        valid: Option<Duration>,
    ) -> Result<AddOutcome> {
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
            Ok(_) => Ok(AddOutcome::Added),
            Err(error) if error.errno() == Some(libc::EEXIST) => self
                .request(message::NEW_ADDRESS, NLM_F_CREATE | NLM_F_REPLACE, &message)
                .map(|_| AddOutcome::Existed),
            Err(error) => Err(error),
        }
    }

    /// Removes an address from an interface, and with it every route with this source. Returns false
    /// if the address or the interface did not exist.
    ///
    /// # Errors
    ///
    /// Returns any other error of the kernel.
    pub fn remove_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<bool> {
        let removed = self.request(
            message::DEL_ADDRESS,
            0,
            &address_message(index, address, prefix),
        );
        was_there(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }
}

/// The infinite lifetime of an address.
const FOREVER: u32 = u32::MAX;

/// Returns a lifetime in seconds, rounded up. It is neither zero, which the kernel rejects, nor
/// [`FOREVER`].
fn seconds(lifetime: Duration) -> u32 {
    let whole = lifetime
        .as_secs()
        .saturating_add(u64::from(lifetime.subsec_nanos() > 0));
    u32::try_from(whole)
        .unwrap_or(FOREVER)
        .clamp(1, FOREVER - 1)
}

/// Returns a request for interfaces without their statistics, which are the larger part of an
/// answer.
fn link_request(index: u32) -> Body<LinkHeader> {
    let mut message = Body::new(LinkHeader {
        index,
        ..LinkHeader::default()
    });
    message.push(libc::IFLA_EXT_MASK, &SKIP_STATISTICS.to_ne_bytes());
    message
}

/// The attribute for the state of a bridge port (`IFLA_BRPORT_STATE` in linux/if_link.h).
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
    // The two differ only for a peer of a point-to-point link.
    message.push(libc::IFA_LOCAL, &address.octets());
    message.push(libc::IFA_ADDRESS, &address.octets());
    message
}

/// Returns whether a removal removed something; `absent` are the errors for a missing object.
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

    /// Encodes an attribute as the kernel does.
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
