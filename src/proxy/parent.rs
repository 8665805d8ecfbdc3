//! The interface of the host that leads to a container's network.

use crate::net::link::Link;
use crate::net::netlink::{Netlink, Result};

use super::networks::Carrier;

/// The kind of a bridge (IFLA_INFO_KIND).
const BRIDGE: &str = "bridge";

/// A parent as it was when the kernel was asked.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) name: String,
    pub(super) carrier: Carrier,
    /// A port of the bridge that leads to the network is listening or learning.
    pub(super) is_port_starting: bool,
}

impl Parent {
    /// Finds the parent of `link`, which is in a container: the one that the caller has `named`, else the one that `link` is
    /// stacked on.
    pub(super) fn find(host: &Netlink, named: Option<Link>, link: &Link) -> Result<Option<Self>> {
        let below = match (&named, link.parent_elsewhere) {
            // A macvlan is on the interface that the caller names, and the other end of a veth is a port of it.
            (Some(_), _) if link.is_station_of_parent() => None,
            (_, Some(index)) => host.link_by_index(index)?,
            (_, None) => None,
        };
        let is_starting = |link: &Option<Link>| link.as_ref().is_some_and(|link| is_bridge_starting(host, link));
        let is_port_starting = is_starting(&named) || is_starting(&below);
        Ok(named.or(below).map(|Link { name, index, carrier_ups, kind, .. }| {
            // The carrier of a bridge comes and goes with the containers that are its ports.
            let ups = if kind.as_deref() == Some(BRIDGE) { 0 } else { carrier_ups };
            Self { name, carrier: Carrier { index, ups }, is_port_starting }
        }))
    }
}

/// Returns whether a port of the bridge that `link` is, or is a port of, is about to forward.
fn is_bridge_starting(host: &Netlink, link: &Link) -> bool {
    let bridge = if link.kind.as_deref() == Some(BRIDGE) { Some(link.index) } else { link.master };
    // Of a bridge with very many ports nothing is known.
    bridge.is_some_and(|bridge| host.ports(bridge).unwrap_or_default().iter().any(Link::is_port_starting))
}
