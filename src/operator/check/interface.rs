//! The interface that is inspected, and the sockets of DHCP in its namespace.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;

use crate::mac::Mac;
use crate::net::link::Link;
use crate::net::netlink::Netlink;
use crate::operator::arguments::Failure;
use crate::operator::processes::holders;
use crate::operator::text::printable;
use crate::proxy::container::parent::Parent;

use super::namespace::{InspectedNamespace, cannot};

/// The interfaces of the kernel's wireless stack have this entry in sysfs.
const WIRELESS: &str = "phy80211";
/// The sockets of a namespace that are read, in bytes of /proc/net/udp: some 8,000.
const LONGEST_TABLE: u64 = 1 << 20;
/// The names of interfaces in an error.
const MOST_NAMES: usize = 10;
/// The ports of DHCP servers and clients (RFC 2131 §4.1).
const PORTS: [u16; 2] = [67, 68];

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
}

/// A UDP port of DHCP that is in use in the namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct BusyPort {
    pub(super) port: u16,
    /// Names and ids; empty if the processes cannot be seen.
    pub(super) processes: Vec<String>,
}

impl InterfaceReport {
    /// Reads all about an interface.
    pub(super) fn read(namespace: &InspectedNamespace, name: &str) -> Result<Self, Failure> {
        let netlink = namespace.netlink()?;
        let failed = |error: crate::net::netlink::NetlinkError| {
            cannot(&format!("look for {}", printable(name)), &error.into_io())
        };
        let link = netlink.link_by_name(name).map_err(failed)?;
        let link = link.ok_or_else(|| unknown(&netlink, namespace, name))?;
        // In its own namespace, the interface is its parent.
        let parent = if namespace.is_own() {
            Parent::find(&netlink, Some(link.clone()), &link)
        } else {
            Parent::find(&InspectedNamespace::own().netlink()?, None, &link)
        };
        let parent = parent.ok().flatten().filter(|parent| {
            // Another namespace may have an interface of the same number.
            namespace.is_own() || parent.name != "lo"
        });
        let port_of = link
            .master
            .and_then(|master| netlink.link_by_index(master).ok()?);
        let on_host = parent.as_ref().map(|parent| parent.name.clone());
        let addresses = netlink.addresses(link.index).unwrap_or_default();
        let station = link.mac.map(Mac);
        let others = netlink.links().unwrap_or_default().into_iter();
        Ok(Self {
            name: printable(&link.name),
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
            port_of: port_of.map(|link| printable(&link.name)),
            addresses: addresses.iter().map(|address| address.address).collect(),
            busy_ports: busy_ports(&udp_sockets(namespace)),
            index: link.index,
            station: station.filter(|mac| is_of_one_station(*mac)),
            own_stations: others.filter_map(|link| link.mac.map(Mac)).collect(),
        })
    }

    /// Returns the name and the kind for a sentence.
    pub(super) fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
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
        "there is no interface {} in {place}; there are: {}{advice}",
        printable(name),
        names.join(", ")
    ))
}

/// Returns whether an interface of this namespace is a wireless one, by sysfs.
fn is_wireless(sysfs: &Path, name: &str) -> bool {
    sysfs.join(name).join(WIRELESS).exists()
}

/// Returns the beginning of the namespace's table of UDP sockets.
fn udp_sockets(namespace: &InspectedNamespace) -> String {
    let mut bytes = Vec::new();
    let read = namespace.run(|| {
        let table = File::open("/proc/thread-self/net/udp")?;
        table.take(LONGEST_TABLE).read_to_end(&mut bytes)
    });
    // Without /proc no port is known to be in use.
    let _ = read;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn busy_ports(table: &str) -> Vec<BusyPort> {
    let sockets = sockets_of_dhcp(table);
    let busy = |port| {
        let of_port = sockets.iter().filter(|(bound, _)| *bound == port);
        let mut processes: Vec<_> = of_port
            .clone()
            .flat_map(|(_, inode)| holders(*inode))
            .collect();
        processes.dedup();
        of_port
            .count()
            .gt(&0)
            .then_some(BusyPort { port, processes })
    };
    PORTS.into_iter().filter_map(busy).collect()
}

/// Returns the ports of DHCP in a table of UDP sockets (proc(5)), with the inodes of their sockets.
fn sockets_of_dhcp(table: &str) -> Vec<(u16, u64)> {
    let sockets = table.lines().skip(1).filter_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
        let mut words = line.split_whitespace().skip(1);
        let (_, port) = words.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = words.nth(7)?.parse().ok()?;
        PORTS.contains(&port).then_some((port, inode))
    });
    sockets.take(MOST_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_dhcp_are_found_by_number() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 68: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0\n\
            \x20 69: 0100580A:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0\n\
            \x20 70: 00000000:0045 00000000:0044 07 00000000:00000000 00:00000000 00000000     0        0 4713 2 0000000000000000 0\n\
            nonsense\n";
        assert_eq!(sockets_of_dhcp(table), [(68, 4711), (67, 4712)]);
        assert_eq!(sockets_of_dhcp(""), []);
    }

    #[test]
    fn a_hostile_table_names_few_processes() {
        let line = "0: 00000000:0044 00000000:0000 07 0:0 00:0 0 0 0 1\n";
        let table = "heading\n".to_owned() + &line.repeat(1000);
        assert_eq!(sockets_of_dhcp(&table).len(), MOST_NAMES);
    }

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
