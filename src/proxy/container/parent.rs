//! The host's interface that leads to a container's network.

use crate::net::link::Link;
use crate::net::netlink::{Netlink, Result};

/// Kinds of interfaces (IFLA_INFO_KIND).
const BRIDGE: &str = "bridge";
const VETH: &str = "veth";

/// The carrier of a parent at one time. A different value means that the carrier has come up since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// The interface index.
    pub(crate) index: u32,
    /// The number of times that the carrier has come up.
    pub(crate) ups: u32,
}

/// A snapshot of a parent.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) name: String,
    pub(crate) carrier: Carrier,
    /// A bridge port between the container and the network is listening or learning.
    pub(crate) is_port_starting: bool,
}

impl Parent {
    /// Finds the parent of `link`, which is in a container: the interface that the caller `named`,
    /// else the one below `link`.
    pub(crate) fn find(host: &Netlink, named: Option<Link>, link: &Link) -> Result<Option<Self>> {
        let below = match (&named, link.parent_elsewhere) {
            // A macvlan is on the interface that the caller names. Of a veth, the other end is a
            // port of that interface.
            (Some(_), _) if link.is_station_of_parent() => None,
            (_, Some(index)) => host.link_by_index(index)?,
            (_, None) => None,
        };
        let own_port = link.parent_elsewhere;
        let links = [&named, &below].into_iter().flatten();
        let mut bridges: Vec<_> = links.filter_map(bridge_of).collect();
        // The caller may name the bridge of that port.
        bridges.dedup();
        let is_port_starting = bridges
            .into_iter()
            .any(|bridge| is_bridge_starting(host, bridge, own_port));
        Ok(named.or(below).map(
            |Link {
                 name,
                 index,
                 carrier_ups,
                 kind,
                 ..
             }| {
                // The carrier of a bridge changes with the containers that are its ports.
                let ups = if kind.as_deref() == Some(BRIDGE) {
                    0
                } else {
                    carrier_ups
                };
                Self {
                    name,
                    carrier: Carrier { index, ups },
                    is_port_starting,
                }
            },
        ))
    }
}

/// Returns the index of the bridge that a link is, or is a port of.
fn bridge_of(link: &Link) -> Option<u32> {
    if link.kind.as_deref() == Some(BRIDGE) {
        Some(link.index)
    } else {
        link.master
    }
}

/// Returns whether a port of a bridge is about to forward, either the container's `own_port` or a
/// port towards the network.
fn is_bridge_starting(host: &Netlink, bridge: u32, own_port: Option<u32>) -> bool {
    // A bridge with too many ports counts as forwarding.
    let ports = host.ports(bridge).unwrap_or_default();
    ports
        .iter()
        .any(|port| port.is_port_starting() && is_on_the_way(port, bridge, own_port))
}

/// Returns whether the container's frames pass a port of a bridge: it is the container's own, or
/// does not belong to another container.
fn is_on_the_way(port: &Link, bridge: u32, own_port: Option<u32>) -> bool {
    let is_pair = port.kind.as_deref() == Some(VETH) && port.parent_elsewhere.is_some();
    // The uplink of a host that is itself a container is a veth as well, but is older than the
    // bridge; a container's is younger.
    let is_of_a_container = is_pair && port.index > bridge;
    !is_of_a_container || own_port == Some(port.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_another_container_is_not_on_the_way() {
        let port = |kind: Option<&str>, parent_elsewhere| {
            let port = Link {
                index: 7,
                kind: kind.map(str::to_owned),
                parent_elsewhere,
                ..Link::default()
            };
            [Some(7), Some(8), None].map(|own| {
                let is_uplink = is_on_the_way(&port, 9, own);
                assert!(is_uplink, "it was there before the bridge");
                is_on_the_way(&port, 3, own)
            })
        };
        assert_eq!(port(Some(VETH), Some(2)), [true, false, false]);
        assert_eq!(
            port(Some(VETH), None),
            [true; 3],
            "the other end is on the host, too"
        );
        assert_eq!(port(None, None), [true; 3], "hardware");
        assert_eq!(port(Some("vlan"), Some(2)), [true; 3]);
    }
}
