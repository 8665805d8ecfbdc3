//! Links, addresses and routes of a [`Namespace`], made and read by rtnetlink(7).

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netlink::message::{
    DEL_ADDRESS, DEL_LINK, GET_ADDRESS, GET_LINK, GET_ROUTE, NEW_ADDRESS, NEW_LINK, NEW_ROUTE,
};

use super::Result;
use super::namespace::Namespace;
use super::packets::Mac;

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub up: bool,
}

/// An IPv4 address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub broadcast: Option<Ipv4Addr>,
    /// Seconds until the kernel removes it; `u32::MAX` means never.
    pub valid: u32,
    pub preferred: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub index: Option<u32>,
    pub metric: u32,
}

impl Namespace {
    /// Makes a veth pair: `name` here, `peer_name` in `peer`; both are set up.
    pub fn veth(&self, name: &str, peer: &Namespace, peer_name: &str) -> Result {
        let mut other = named(peer_name);
        other
            .attributes
            .push(LinkAttribute::NetNsFd(peer.file().as_raw_fd()));
        let mut link = named(name);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.run(|| create(link))?;
        self.run(|| set_up(name))?;
        peer.run(|| set_up(peer_name))
    }

    /// Makes a macvlan in bridge mode on `parent` here, and moves it into `child` as `name`; it is
    /// set up.
    pub fn macvlan(&self, parent: &str, child: &Namespace, name: &str, mac: Mac) -> Result {
        let mut link = named(name);
        link.attributes.extend([
            LinkAttribute::Link(self.link(parent)?.index),
            LinkAttribute::NetNsFd(child.file().as_raw_fd()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
                    MacVlanMode::Bridge,
                )])),
            ]),
        ]);
        self.run(|| create(link))?;
        child.run(|| set_up(name))
    }

    /// Makes a bridge with the links `ports` on it; it is set up.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result {
        self.make_bridge(name, ports, vec![])
    }

    /// The same with spanning tree: a port is deaf and mute until it has listened and learned, each
    /// for `delay`.
    pub fn spanning_tree_bridge(&self, name: &str, ports: &[&str], delay: Duration) -> Result {
        // In hundredths of a second.
        let delay = InfoBridge::ForwardDelay(u32::try_from(delay.as_millis() / 10)?);
        self.make_bridge(
            name,
            ports,
            vec![delay, InfoBridge::StpState(BridgeStpState::KernelStp)],
        )
    }

    fn make_bridge(&self, name: &str, ports: &[&str], settings: Vec<InfoBridge>) -> Result {
        let mut link = named(name);
        let info = vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(settings)),
        ];
        link.attributes.push(LinkAttribute::LinkInfo(info));
        self.run(|| create(link))?;
        let bridge = self.link(name)?.index;
        for port in ports {
            self.change(port, LinkAttribute::Controller(bridge))?;
        }
        self.run(|| set_up(name))
    }

    /// Changes the MTU of a link, in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result {
        self.change(name, LinkAttribute::Mtu(mtu))
    }

    /// Changes the MAC of a link.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result {
        self.change(name, LinkAttribute::Address(mac.0.to_vec()))
    }

    /// Sets a link up or down.
    pub fn set_state(&self, name: &str, up: bool) -> Result {
        self.run(|| set_state(name, up))
    }

    /// Gives a link another name; it has to be down for that.
    pub fn rename_link(&self, name: &str, new_name: &str) -> Result {
        let mut link = named(new_name);
        link.header.index = self.link(name)?.index;
        self.run(|| request(NEW_LINK, 0, &link))
    }

    /// Moves a link into another namespace.
    pub fn move_link(&self, name: &str, to: &Namespace) -> Result {
        self.change(name, LinkAttribute::NetNsFd(to.file().as_raw_fd()))
    }

    /// Deletes a link.
    pub fn delete_link(&self, name: &str) -> Result {
        self.run(|| request(DEL_LINK, 0, &named(name)))
    }

    fn change(&self, name: &str, attribute: LinkAttribute) -> Result {
        let mut link = named(name);
        link.attributes.push(attribute);
        self.run(|| request(NEW_LINK, 0, &link))
    }

    /// Gives a link an address.
    pub fn add_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result {
        let message = self.address_message(name, address, prefix)?;
        self.run(|| request(NEW_ADDRESS, NLM_F_CREATE | NLM_F_EXCL, &message))
    }

    /// Takes an address off a link.
    pub fn remove_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result {
        let message = self.address_message(name, address, prefix)?;
        self.run(|| request(DEL_ADDRESS, 0, &message))
    }

    fn address_message(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = self.link(name)?.index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        Ok(message)
    }

    /// Adds a default route by `gateway`, which an address of the link `name` reaches.
    pub fn add_default_route(&self, name: &str, gateway: Ipv4Addr, metric: u32) -> Result {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(self.link(name)?.index),
            RouteAttribute::Priority(metric),
        ];
        self.run(|| request(NEW_ROUTE, NLM_F_CREATE | NLM_F_EXCL, &message))
    }

    /// All links.
    pub fn links(&self) -> Result<Vec<Link>> {
        let messages = self.run(|| dump(GET_LINK, &LinkMessage::default()))?;
        messages
            .iter()
            .map(|message| Ok(Link::from(LinkMessage::parse(message)?)))
            .collect()
    }

    /// The link of that name.
    pub fn link(&self, name: &str) -> Result<Link> {
        let link = self.links()?.into_iter().find(|link| link.name == name);
        link.ok_or_else(|| format!("there is no link {name}").into())
    }

    /// All IPv4 addresses but those of the loopback.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let mut query = AddressMessage::default();
        query.header.family = AddressFamily::Inet;
        let messages = self.run(|| dump(GET_ADDRESS, &query))?;
        let all = messages
            .iter()
            .map(|message| Address::read(AddressMessage::parse(message)?));
        all.filter(|address| !matches!(address, Ok(address) if address.address.is_loopback()))
            .collect()
    }

    /// The IPv4 routes of the main table.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let messages = self.run(|| dump(GET_ROUTE, &query))?;
        let parsed = messages
            .iter()
            .map(|message| Ok(RouteMessage::parse(message)?))
            .collect::<Result<Vec<_>>>()?;
        let main = parsed
            .into_iter()
            .filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(main.map(Route::from).collect())
    }

    /// The default routes, best first.
    pub fn default_routes(&self) -> Result<Vec<Route>> {
        let mut routes = self.routes()?;
        routes.retain(|route| route.prefix == 0);
        routes.sort_by_key(|route| route.metric);
        Ok(routes)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            up,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    }
}

impl Address {
    fn read(message: AddressMessage) -> Result<Self> {
        let (mut local, mut broadcast, mut lifetime) = (None, None, (u32::MAX, u32::MAX));
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(std::net::IpAddr::V4(address)) => local = Some(address),
                AddressAttribute::Broadcast(address) => broadcast = Some(address),
                AddressAttribute::CacheInfo(info) => {
                    lifetime = (info.ifa_valid, info.ifa_preferred)
                }
                _ => {}
            }
        }
        Ok(Self {
            index: message.header.index,
            address: local.ok_or("an address message without an address")?,
            prefix: message.header.prefix_len,
            broadcast,
            valid: lifetime.0,
            preferred: lifetime.1,
        })
    }
}

impl From<RouteMessage> for Route {
    fn from(message: RouteMessage) -> Self {
        let prefix = message.header.destination_prefix_length;
        let mut route = Self {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix,
            gateway: None,
            index: None,
            metric: 0,
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.destination = address
                }
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                    route.gateway = Some(address)
                }
                RouteAttribute::Oif(index) => route.index = Some(index),
                RouteAttribute::Priority(metric) => route.metric = metric,
                _ => {}
            }
        }
        route
    }
}

/// Sets a link of the current namespace up.
pub fn set_up(name: &str) -> Result {
    set_state(name, true)
}

fn set_state(name: &str, up: bool) -> Result {
    let mut link = named(name);
    link.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    link.header.change_mask = LinkFlags::Up;
    request(NEW_LINK, 0, &link)
}

fn create(link: LinkMessage) -> Result {
    request(NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, &link)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// Has the kernel do one thing in the current namespace.
fn request(kind: u16, flags: u16, body: &impl Emitable) -> Result {
    Netlink::open()?.request(kind, flags, body)?;
    Ok(())
}

/// Reads a whole table of the current namespace.
fn dump(kind: u16, query: &impl Emitable) -> Result<Vec<Vec<u8>>> {
    Ok(Netlink::open()?.dump(kind, query)?)
}
