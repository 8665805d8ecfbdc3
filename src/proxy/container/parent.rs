//! The interface of the host that leads to a container's network.

use crate::net::link::Link;
use crate::net::netlink::{Netlink, Result};

/// Kinds of interfaces (IFLA_INFO_KIND).
const BRIDGE: &str = "bridge";
const VETH: &str = "veth";

/// The carrier of a parent at one moment: another number, or another index, means that it has come
/// up since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// The number of the interface.
    pub(crate) index: u32,
    /// How often its carrier has come up.
    pub(crate) ups: u32,
}

/// A parent as it was when the kernel was asked.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) name: String,
    pub(crate) carrier: Carrier,
    /// A port of the bridge between the container and the network is listening or learning.
    pub(crate) is_port_starting: bool,
}

impl Parent {
    /// Finds the parent of `link`, which is in a container: the one that the caller has `named`,
    /// else the one that `link` is stacked on.
    pub(crate) fn find(host: &Netlink, named: Option<Link>, link: &Link) -> Result<Option<Self>> {
        let below = match (&named, link.parent_elsewhere) {
            // A macvlan is on the interface that the caller names, and the other end of a veth is a
            // port of it.
            (Some(_), _) if link.is_station_of_parent() => None,
            (_, Some(index)) => host.link_by_index(index)?,
            (_, None) => None,
        };
        let own_port = link.parent_elsewhere;
        let is_starting = |link: &Option<Link>| {
            link.as_ref()
                .is_some_and(|link| is_bridge_starting(host, link, own_port))
        };
        let is_port_starting = is_starting(&named) || is_starting(&below);
        Ok(named.or(below).map(
            |Link {
                 name,
                 index,
                 carrier_ups,
                 kind,
                 ..
             }| {
                // The carrier of a bridge comes and goes with the containers that are its ports.
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

/// Returns whether a port of the bridge that `link` is, or is a port of, is about to forward: the
/// container's `own_port`, or one that leads to the network.
fn is_bridge_starting(host: &Netlink, link: &Link, own_port: Option<u32>) -> bool {
    let bridge = if link.kind.as_deref() == Some(BRIDGE) {
        Some(link.index)
    } else {
        link.master
    };
    // Of a bridge with very many ports nothing is known.
    let ports = bridge
        .map(|bridge| host.ports(bridge).unwrap_or_default())
        .unwrap_or_default();
    ports
        .iter()
        .any(|port| port.is_port_starting() && is_on_the_way(port, own_port))
}

/// Returns whether what the container says passes this port of a bridge: it is its own, or does not
/// lead to another container.
fn is_on_the_way(port: &Link, own_port: Option<u32>) -> bool {
    let is_of_a_container = port.kind.as_deref() == Some(VETH) && port.parent_elsewhere.is_some();
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
            [Some(7), Some(8), None].map(|own| is_on_the_way(&port, own))
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
