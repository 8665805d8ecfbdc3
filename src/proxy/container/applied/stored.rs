//! What a lease has put on the link, as it is stored.

use std::net::Ipv4Addr;

use prost::Message;
use serde::Serialize;

use super::{AddressAndGateway, Applied, Mtu};
use crate::dhcp;
use crate::net::route::Route;

/// [`Applied`], as it is stored.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredApplied {
    /// With the length of its prefix, as in 10.0.0.5/24.
    #[prost(string, tag = "1")]
    pub(crate) address: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) routes: Vec<StoredRoute>,
    #[prost(uint32, optional, tag = "3")]
    pub(crate) mtu_before: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub(crate) mtu: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(crate) refused_mtu: Option<u32>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) refused_routes: Vec<StoredRoute>,
    /// The [`AddressAndGateway`], as the route to the first by way of the second.
    #[prost(message, optional, tag = "7")]
    pub(crate) place: Option<StoredRoute>,
}

/// A route, as it is stored.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredRoute {
    /// With the length of its prefix, as in 10.0.0.0/8.
    #[prost(string, tag = "1")]
    pub(crate) to: String,
    /// Empty for what is on the link itself.
    #[prost(string, tag = "2")]
    pub(crate) via: String,
    /// 0 where it is not on a link yet.
    #[prost(uint32, tag = "3")]
    pub(crate) metric: u32,
}

impl From<&Applied> for StoredApplied {
    fn from(applied: &Applied) -> Self {
        let Applied {
            address,
            routes,
            mtu,
            refused_mtu,
            refused_routes,
            last,
        } = applied;
        let stored = |route: &Route| {
            StoredRoute::new(
                (route.destination, route.prefix),
                route.gateway,
                route.metric,
            )
        };
        Self {
            address: address
                .map(|(address, prefix)| format!("{address}/{prefix}"))
                .unwrap_or_default(),
            routes: routes.iter().map(stored).collect(),
            mtu_before: mtu.map(|Mtu { before, .. }| before),
            mtu: mtu.map(|Mtu { ours, .. }| ours),
            refused_mtu: refused_mtu.map(u32::from),
            refused_routes: refused_routes.iter().map(stored).collect(),
            place: last.map(|AddressAndGateway { address, gateway }| {
                StoredRoute::new(address, gateway, 0)
            }),
        }
    }
}

impl StoredApplied {
    /// Reads it back, for the interface `index`, whose lease is for `leased`. `None` where an
    /// address or a route is malformed.
    pub(crate) fn parse(&self, index: u32, leased: Option<Ipv4Addr>) -> Option<Applied> {
        let Self {
            address,
            routes,
            mtu_before,
            mtu,
            refused_mtu,
            refused_routes,
            place,
        } = self;
        let address = if address.is_empty() {
            None
        } else {
            Some(network(address)?)
        };
        // Every route of ours has the lease's address for its source, whether this program has put
        // that on the link or not.
        let source = address
            .map(|(address, _)| address)
            .or(leased)
            .unwrap_or(Ipv4Addr::UNSPECIFIED);
        let route = |stored: &StoredRoute| {
            let ((to, prefix), via) = stored.ends()?;
            let metric = stored.metric;
            Some(Route::from_lease(to, prefix, via, index, source, metric))
        };
        Some(Applied {
            address,
            routes: routes.iter().map(route).collect::<Option<_>>()?,
            mtu: mtu_before
                .zip(*mtu)
                .map(|(before, ours)| Mtu { before, ours }),
            refused_mtu: refused_mtu.and_then(|mtu| mtu.try_into().ok()),
            refused_routes: refused_routes.iter().map(route).collect::<Option<_>>()?,
            last: place
                .as_ref()
                .and_then(StoredRoute::ends)
                .map(|(address, gateway)| AddressAndGateway { address, gateway }),
        })
    }
}

impl StoredRoute {
    fn new((to, prefix_len): (Ipv4Addr, u8), via: Option<Ipv4Addr>, metric: u32) -> Self {
        let via = via.map(|via| via.to_string()).unwrap_or_default();
        Self {
            to: format!("{to}/{prefix_len}"),
            via,
            metric,
        }
    }

    /// Destination and gateway; `None` where either is malformed.
    fn ends(&self) -> Option<((Ipv4Addr, u8), Option<Ipv4Addr>)> {
        let via = if self.via.is_empty() {
            None
        } else {
            Some(self.via.parse().ok()?)
        };
        Some((network(&self.to)?, via))
    }
}

impl From<&dhcp::StaticRoute> for StoredRoute {
    fn from(route: &dhcp::StaticRoute) -> Self {
        Self::new((route.destination, route.prefix_len), route.gateway, 0)
    }
}

impl TryFrom<&StoredRoute> for dhcp::StaticRoute {
    type Error = ();

    fn try_from(stored: &StoredRoute) -> Result<Self, ()> {
        let ((destination, prefix_len), gateway) = stored.ends().ok_or(())?;
        Ok(Self {
            destination,
            prefix_len,
            gateway,
        })
    }
}

/// Reads an address with the length of a prefix.
fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = text.split_once('/')?;
    Some((
        address.parse().ok()?,
        length.parse().ok().filter(|length| *length <= 32)?,
    ))
}
