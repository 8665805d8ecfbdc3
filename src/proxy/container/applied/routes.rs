//! Sets and removes the routes of a lease.

use std::net::Ipv4Addr;

use nix::libc;

use super::{Applied, fault};
use crate::dhcp::{self, Lease};
use crate::net::link::AddOutcome;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::net::route::{Route, RouteTable};
use crate::proxy::error::CallError;
use crate::proxy::key::{LeaseKey, LogPrefix};

/// netavark's metric of default routes, and the lower one for macvlan and ipvlan, so that a
/// container on the LAN and on a NAT bridge leaves by the LAN.
const METRIC: u32 = 100;
const METRIC_ON_LAN: u32 = 99;

impl Applied {
    /// Adds the routes of `lease`, then removes outdated ones, so that there is always a default
    /// route. If the kernel refuses a route, the others are still set: the server is at fault.
    pub(super) fn set_routes(
        &mut self,
        netlink: &Netlink,
        index: u32,
        key: &LeaseKey,
        lease: &Lease,
    ) -> Result<(), CallError> {
        let prefix = key.log_prefix(Some((lease.address, lease.prefix_len)));
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
            prefix,
            refused: Vec::new(),
            placed: Vec::new(),
            warned: std::mem::take(&mut self.refused_routes),
        };
        let mut trouble = Ok(());
        for route in &wanted {
            trouble = trouble.and(self.set_route(&mut table, route, &mut new, lease).map(drop));
        }
        // The first that the kernel takes, even if other routes failed.
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
        // If the replacement of a route was refused, the old route stays.
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
        remove(netlink, stale, prefix);
        self.refused_routes = new.refused;
        Ok(())
    }

    /// Adds a route, or replaces an old one to the same destination. Returns whether the kernel
    /// took it.
    fn set_route(
        &mut self,
        table: &mut RouteTable<'_>,
        wanted: &Route,
        new: &mut NewRoutes<'_>,
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
        // A DHCP route with this source address is an earlier instance's, and belongs to the lease.
        let ours = made == AddOutcome::Added
            || (route.protocol, route.source) == (wanted.protocol, wanted.source);
        if ours && !self.routes.contains(&route) {
            self.routes.push(route);
        }
        Ok(true)
    }
}

/// The routes of a lease while they are set.
struct NewRoutes<'a> {
    prefix: LogPrefix<'a>,
    /// On the link, with their metrics there.
    placed: Vec<Route>,
    refused: Vec<Route>,
    /// Refused and logged the last time.
    warned: Vec<Route>,
}

impl NewRoutes<'_> {
    fn refuse(&mut self, route: &Route, error: &NetlinkError, lease: &Lease) {
        if !self.warned.contains(route) {
            let via = route
                .gateway
                .map(|gateway| format!(" via {gateway}"))
                .unwrap_or_default();
            let (to, prefix, server) = (route.destination, route.prefix, lease.server_id);
            log::warn!(
                "{}: ignoring the route to {to}/{prefix}{via} from {server}: {error}",
                self.prefix
            );
        }
        self.refused.push(route.clone());
    }
}

/// Returns whether the kernel refuses the route itself, not because of the state of the link.
fn is_refusal(error: &NetlinkError) -> bool {
    error
        .errno()
        .is_some_and(|errno| [libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH].contains(&errno))
}

/// Returns the routes of a lease (RFC 3442 page 5) except its default routes: on-link routes first,
/// because others may depend on them.
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

/// Returns the default routes of a lease, the preferred one first; only one is set.
fn default_routes(lease: &Lease, index: u32, metric: u32) -> Vec<Route> {
    lease
        .routers
        .iter()
        .map(|gateway| Route::default_via(*gateway, index, lease.address, metric))
        .collect()
}

/// Returns the metric of routes on the interface.
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

/// Removes routes in reverse order, because later ones may depend on earlier ones. Failures are
/// logged.
pub(super) fn remove(netlink: &Netlink, routes: Vec<Route>, prefix: LogPrefix<'_>) {
    for route in routes.into_iter().rev() {
        if let Err(error) = netlink.remove_route(&route) {
            log::warn!(
                "{prefix}: cannot remove the route to {}/{}: {error}",
                route.destination,
                route.prefix
            );
        }
    }
}
