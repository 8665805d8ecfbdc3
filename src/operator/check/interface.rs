//! The interface that is inspected.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use crate::mac::Mac;
use crate::net::link::Link;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::operator::arguments::Failure;
use crate::operator::text::printable;
use crate::proxy::container::parent::Parent;

use super::namespace::{InspectedNamespace, cannot};
use super::ports::{BusyPort, busy_ports};

/// The interfaces of the kernel's wireless stack have this entry in sysfs.
const WIRELESS: &str = "phy80211";
/// The names of interfaces in an error.
const MOST_NAMES: usize = 10;
/// The bytes that each host has to receive in one datagram (RFC 791 §3.1, RFC 2131 §2).
pub(super) const MIN_MTU: u16 = 576;

/// An interface.
#[derive(Debug, Default, Serialize)]
pub(super) struct InterfaceReport {
    pub(super) name: String,
    /// The path of its namespace; `None` is the namespace of this process.
    pub(super) namespace: Option<String>,
    /// The driver's name of a virtual interface.
    pub(super) kind: Option<String>,
    pub(super) mac: Option<String>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    /// The interface of the host that a container's interface is made on, or is paired with.
    pub(super) parent: Option<String>,
    /// The bridge, or the like, that it is a port of.
    pub(super) port_of: Option<String>,
    /// The interface is, or is on, this wireless one.
    pub(super) wireless: Option<String>,
    /// A bridge port on the way does not forward yet (spanning tree).
    pub(super) port_starting: bool,
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) busy_ports: Vec<BusyPort>,
    #[serde(skip)]
    pub(super) index: u32,
    /// An Ethernet address of one station.
    #[serde(skip)]
    pub(super) station: Option<Mac>,
    /// All other stations of the namespace.
    #[serde(skip)]
    pub(super) own_stations: Vec<Mac>,
    /// The addresses of all interfaces of the namespace and, for ipvlan, of the parent.
    #[serde(skip)]
    pub(super) local_addresses: Vec<LocalAddress>,
    /// Sources that were not read, or not to their end.
    #[serde(skip)]
    pub(super) unread: Vec<&'static str>,
}

/// An address of an interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalAddress {
    pub(super) address: Ipv4Addr,
    /// The name of its interface.
    pub(super) interface: String,
    /// The interface has the MAC of the inspected one: for servers that is one client.
    pub(super) is_of_station: bool,
}

impl InterfaceReport {
    /// Reads all about an interface.
    pub(super) fn read(namespace: &InspectedNamespace, name: &OsStr) -> Result<Self, Failure> {
        let shown = printable(&name.to_string_lossy());
        let netlink = namespace.netlink()?;
        let failed = |error: NetlinkError| cannot(&format!("look for {shown}"), &error.into_io());
        let link = netlink.link_by_name(name.as_bytes()).map_err(failed)?;
        let link = link.ok_or_else(|| unknown(&netlink, namespace, &shown))?;
        let mut unread = Vec::new();
        let parent = parent_of(&netlink, namespace, &link);
        let parent = or_unread(parent, "the parent of the interface", &mut unread);
        let links = netlink.links();
        let links = or_unread(links, "the interfaces of the namespace", &mut unread);
        let mut local_addresses = addresses_on(&netlink, &links, &link, &mut unread);
        let name = printable(&link.name);
        let own = local_addresses.iter().filter(|on| on.interface == name);
        let addresses = own.map(|local| local.address).collect();
        if parent.is_some() && is_ipvlan(&link) {
            local_addresses.extend(addresses_of_parent(&link, &mut unread));
        }
        let master = links.iter().find(|other| Some(other.index) == link.master);
        let on_host = parent.as_ref().map(|parent| parent.name.clone());
        let station = link.mac.map(Mac);
        Ok(Self {
            name,
            namespace: namespace.path.clone(),
            kind: link.kind.as_deref().map(printable),
            mac: station.map(|mac| mac.to_string()),
            mtu: link.mtu,
            up: link.up,
            carrier: link.carrier,
            port_starting: parent.is_some_and(|parent| parent.is_port_starting),
            wireless: on_host
                .as_deref()
                .filter(|name| is_wireless("/sys/class/net".as_ref(), name))
                .map(printable),
            parent: on_host
                .filter(|_| !namespace.is_own())
                .as_deref()
                .map(printable),
            port_of: master.map(|link| printable(&link.name)),
            addresses,
            busy_ports: busy_ports(namespace, &mut unread),
            index: link.index,
            station: station.filter(|mac| is_of_one_station(*mac)),
            own_stations: links.iter().filter_map(|link| link.mac.map(Mac)).collect(),
            local_addresses,
            unread,
        })
    }

    /// Returns whether the driver has this name.
    pub(super) fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Returns whether DHCP messages can be sent, as soon as there is a carrier.
    pub(super) fn can_send(&self) -> bool {
        self.station.is_some() && self.up && self.mtu >= u32::from(MIN_MTU)
    }

    /// Returns whether DHCP messages can be sent now.
    pub(super) fn is_working(&self) -> bool {
        self.can_send() && self.carrier
    }

    /// Returns the addresses of its station, which a server that knows clients by MAC may offer.
    pub(super) fn station_addresses(&self) -> Vec<Ipv4Addr> {
        let local = self.local_addresses.iter();
        let own = local.filter(|local| local.is_of_station);
        own.map(|local| local.address).collect()
    }
}

/// Returns a result, or the default and a mark that it is missing.
fn or_unread<T: Default, E>(
    read: Result<T, E>,
    what: &'static str,
    unread: &mut Vec<&'static str>,
) -> T {
    read.unwrap_or_else(|_| {
        unread.push(what);
        T::default()
    })
}

/// Returns the interface of this namespace that a link is on, or is paired with; in its own
/// namespace a link is its parent.
fn parent_of(
    netlink: &Netlink,
    namespace: &InspectedNamespace,
    link: &Link,
) -> Result<Option<Parent>, Failure> {
    let failed = |error: NetlinkError| cannot("look for the parent", &error.into_io());
    if namespace.is_own() {
        // It is its own port of a bridge, too.
        let own = Link {
            parent_elsewhere: Some(link.index),
            ..link.clone()
        };
        return Parent::find(netlink, Some(link.clone()), &own).map_err(failed);
    }
    // A third namespace may have an interface of the same index.
    if link.parent_elsewhere.is_none() || !namespace.is_here(netlink, link.parent_namespace)? {
        return Ok(None);
    }
    Parent::find(&InspectedNamespace::own().netlink()?, None, link).map_err(failed)
}

/// Returns the addresses of these links of a namespace; `link` is the inspected one.
fn addresses_on(
    netlink: &Netlink,
    links: &[Link],
    link: &Link,
    unread: &mut Vec<&'static str>,
) -> Vec<LocalAddress> {
    let all = netlink.all_addresses();
    let all = or_unread(all, "the addresses of the namespace", unread);
    let local = all.iter().filter_map(|(index, address)| {
        let on = links.iter().find(|on| on.index == *index)?;
        Some(LocalAddress {
            address: address.address,
            interface: printable(&on.name),
            is_of_station: on.mac.is_some() && on.mac == link.mac,
        })
    });
    local.collect()
}

/// Returns the addresses that the host's interfaces with the MAC of an ipvlan have: its parent, and
/// the bridge or bond of that.
fn addresses_of_parent(link: &Link, unread: &mut Vec<&'static str>) -> Vec<LocalAddress> {
    let Ok(host) = InspectedNamespace::own().netlink() else {
        unread.push("the addresses of the parent");
        return Vec::new();
    };
    let links = or_unread(host.links(), "the interfaces of the host", unread);
    let addresses = addresses_on(&host, &links, link, unread);
    let of_station = addresses.into_iter().filter(|local| local.is_of_station);
    of_station.collect()
}

fn is_ipvlan(link: &Link) -> bool {
    matches!(link.kind.as_deref(), Some("ipvlan" | "ipvtap"))
}

/// Returns whether a station can have this address: neither zero, as the loopback's, nor that of a
/// group.
fn is_of_one_station(mac: Mac) -> bool {
    mac != Mac::UNSPECIFIED && mac.0[0] & 1 == 0
}

/// Returns the failure for a name that no interface has, with the names that there are.
fn unknown(netlink: &Netlink, namespace: &InspectedNamespace, name: &str) -> Failure {
    let links = netlink.links().unwrap_or_default();
    let names: Vec<_> = links
        .iter()
        .map(|Link { name, .. }| printable(name))
        .take(MOST_NAMES)
        .collect();
    let (place, advice) = match &namespace.path {
        Some(path) => (printable(path), ""),
        None => (
            "this network namespace".to_owned(),
            "; --netns names another namespace",
        ),
    };
    Failure::Unknown(format!(
        "there is no interface {name} in {place}; there are: {}{advice}",
        names.join(", ")
    ))
}

/// Returns whether an interface of this namespace is a wireless one, by sysfs.
fn is_wireless(sysfs: &Path, name: &str) -> bool {
    sysfs.join(name).join(WIRELESS).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wireless_interface_is_known_by_sysfs() {
        let sysfs = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(sysfs.path().join("wlan0").join(WIRELESS)).unwrap();
        std::fs::create_dir_all(sysfs.path().join("eth0")).unwrap();
        let wireless = ["wlan0", "eth0", "eth1"].map(|name| is_wireless(sysfs.path(), name));
        assert_eq!(wireless, [true, false, false]);
    }

    #[test]
    fn stations_have_an_address_of_their_own() {
        let is_station = |text| is_of_one_station(Mac::parse(text).unwrap());
        assert!(is_station("02:88:00:00:00:01"));
        assert!(!is_station("00:00:00:00:00:00"));
        assert!(!is_station("01:00:5e:00:00:01"));
        assert!(!is_station("ff:ff:ff:ff:ff:ff"));
    }
}
