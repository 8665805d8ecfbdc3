//! The stored form of the changes to the link.

use std::net::Ipv4Addr;

use prost::Message;
use serde::Serialize;

use super::{AddressAndGateway, Applied, Mtu};
use crate::dhcp;
use crate::net::route::Route;

/// The stored form of [`Applied`].
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredApplied {
    /// With its prefix length, as in 10.0.0.5/24.
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
    /// The [`AddressAndGateway`], as a route.
    #[prost(message, optional, tag = "7")]
    pub(crate) place: Option<StoredRoute>,
}

/// The stored form of a route.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredRoute {
    /// With its prefix length, as in 10.0.0.0/8.
    #[prost(string, tag = "1")]
    pub(crate) to: String,
    /// Empty if on-link.
    #[prost(string, tag = "2")]
    pub(crate) via: String,
    /// 0 if it is not set.
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
    /// Parses the stored form for the interface `index` and the leased address. `None` if an
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
        // The source of every route is the lease's address, even if this program did not set that.
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

    /// Returns destination and gateway; `None` if either is malformed.
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

/// Parses an address with a prefix length.
fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, length) = text.split_once('/')?;
    Some((
        address.parse().ok()?,
        length.parse().ok().filter(|length| *length <= 32)?,
    ))
}
