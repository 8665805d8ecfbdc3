//! The routes of a lease, set and removed.

use std::net::Ipv4Addr;

use nix::libc;

use super::{Applied, fault};
use crate::dhcp::{self, Lease};
use crate::net::link::AddOutcome;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::net::route::{Route, RouteTable};
use crate::proxy::error::CallError;

/// The metric of netavark's default routes, and the lower one that it has for macvlan and ipvlan: a
/// container on the LAN and on a NAT bridge as well leaves by the LAN.
const METRIC: u32 = 100;
const METRIC_ON_LAN: u32 = 99;

impl Applied {
    /// Adds the routes of `lease` before it removes those that are in it no more, so that there is
    /// a default route at all times. A route that the kernel refuses is the server's mistake, and
    /// no reason to go without the others or without a lease.
    pub(super) fn set_routes(
        &mut self,
        netlink: &Netlink,
        index: u32,
        lease: &Lease,
    ) -> Result<(), CallError> {
        let metric = metric_for(netlink, index)?;
        let (wanted, defaults) = (
            routes(lease, index, metric),
            default_routes(lease, index, metric),
        );
        if wanted.is_empty() && defaults.is_empty() && self.routes.is_empty() {
            return Ok(());
        }
        let mut table = netlink
            .route_table()
            .map_err(fault("looking at the routes".to_owned()))?;
        let mut new = NewRoutes {
            refused: Vec::new(),
            placed: Vec::new(),
            warned: std::mem::take(&mut self.refused_routes),
        };
        let mut trouble = Ok(());
        for route in &wanted {
            trouble = trouble.and(self.set_route(&mut table, route, &mut new, lease).map(drop));
        }
        // The first one that the kernel takes, whatever has become of the others.
        for route in &defaults {
            match self.set_route(&mut table, route, &mut new, lease) {
                Ok(false) => {}
                done => {
                    trouble = trouble.and(done.map(drop));
                    break;
                }
            }
        }
        if let Err(error) = trouble {
            self.refused_routes = new.refused;
            return Err(error);
        }
        // What takes the place of a route may have been refused: then that one is better than none.
        let is_to = |one: &Route, other: &Route| {
            (one.destination, one.prefix) == (other.destination, other.prefix)
        };
        let is_kept = |ours: &Route| {
            let is_replaced = new.placed.iter().any(|route| is_to(route, ours));
            new.placed.contains(ours)
                || (!is_replaced && new.refused.iter().any(|route| is_to(route, ours)))
        };
        let (kept, stale) = std::mem::take(&mut self.routes)
            .into_iter()
            .partition(is_kept);
        self.routes = kept;
        remove(netlink, stale);
        self.refused_routes = new.refused;
        Ok(())
    }

    /// Adds one route, in the place of one of before where there is one to the same destination.
    /// Returns whether the kernel takes it.
    fn set_route(
        &mut self,
        table: &mut RouteTable<'_>,
        wanted: &Route,
        new: &mut NewRoutes,
        lease: &Lease,
    ) -> Result<bool, CallError> {
        let is_to =
            |ours: &&Route| (ours.destination, ours.prefix) == (wanted.destination, wanted.prefix);
        let old = self
            .routes
            .iter()
            .filter(is_to)
            .find(|ours| !new.placed.contains(ours))
            .cloned();
        let set = match &old {
            Some(old) => table.replace(old, wanted),
            None => table.add(wanted),
        };
        let (route, made) = match set {
            Ok(set) => set,
            Err(error) if is_refusal(&error) => {
                new.refuse(wanted, &error, lease);
                return Ok(false);
            }
            Err(error) => {
                return Err(fault(format!(
                    "adding a route to {}/{}",
                    wanted.destination, wanted.prefix
                ))(error));
            }
        };
        new.placed.push(route.clone());
        // One by DHCP from this very address is an earlier instance's, and goes with the lease.
        let ours = made == AddOutcome::Added
            || (route.protocol, route.source) == (wanted.protocol, wanted.source);
        if ours && !self.routes.contains(&route) {
            self.routes.push(route);
        }
        Ok(true)
    }
}

/// What has become of the routes of a lease.
struct NewRoutes {
    /// Those that are on the link, at the metrics that they have got.
    placed: Vec<Route>,
    refused: Vec<Route>,
    /// Those that were refused the last time, and warned about.
    warned: Vec<Route>,
}

impl NewRoutes {
    fn refuse(&mut self, route: &Route, error: &NetlinkError, lease: &Lease) {
        if !self.warned.contains(route) {
            let via = route
                .gateway
                .map(|gateway| format!(" via {gateway}"))
                .unwrap_or_default();
            let (to, prefix, server) = (route.destination, route.prefix, lease.server_id);
            log::warn!("ignoring the route to {to}/{prefix}{via} from {server}: {error}");
        }
        self.refused.push(route.clone());
    }
}

/// Returns whether an error is for what a route says, and not for the state that the link is in.
fn is_refusal(error: &NetlinkError) -> bool {
    error
        .errno()
        .is_some_and(|errno| [libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH].contains(&errno))
}

/// The routes of a lease (RFC 3442 page 5) but for its default routes: those on the link itself
/// first, for others may lead over them.
fn routes(lease: &Lease, index: u32, metric: u32) -> Vec<Route> {
    let route = |to: Ipv4Addr, prefix, gateway| {
        Route::from_lease(to, prefix, gateway, index, lease.address, metric)
    };
    let (link, far): (Vec<_>, Vec<_>) = lease
        .routes
        .iter()
        .partition(|route| route.gateway.is_none());
    link.into_iter()
        .chain(far)
        .map(|to: &dhcp::StaticRoute| route(to.destination, to.prefix_len, to.gateway))
        .collect()
}

/// The default routes of a lease, the preferred one first. One of them is set.
fn default_routes(lease: &Lease, index: u32, metric: u32) -> Vec<Route> {
    lease
        .routers
        .iter()
        .map(|gateway| Route::default_via(*gateway, index, lease.address, metric))
        .collect()
}

/// Returns the metric of a lease's routes on the interface.
fn metric_for(netlink: &Netlink, index: u32) -> Result<u32, CallError> {
    let link = netlink
        .link_by_index(index)
        .map_err(fault("looking at the interface".to_owned()))?;
    Ok(if link.is_some_and(|link| link.is_station_of_parent()) {
        METRIC_ON_LAN
    } else {
        METRIC
    })
}

/// Removes routes in the reverse of the order in which one made the other possible. What cannot be
/// removed is logged.
pub(super) fn remove(netlink: &Netlink, routes: Vec<Route>) {
    for route in routes.into_iter().rev() {
        if let Err(error) = netlink.remove_route(&route) {
            log::warn!(
                "cannot remove the route to {}/{}: {error}",
                route.destination,
                route.prefix
            );
        }
    }
}
