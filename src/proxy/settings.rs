//! What a lease puts on the link, with what it takes to undo exactly that.

use std::net::Ipv4Addr;

use crate::dhcp::{self, Lease};
use crate::net::link::Made;
use crate::net::netlink::{Error as NetlinkError, Netlink};
use crate::net::route::Route;
use crate::time::Instant;

use super::error::Error;

/// The metric of a default route by DHCP, as netavark sets it.
const METRIC: u32 = 100;
/// What every IPv4 host has to be able to take (RFC 791); less than that is a mistake.
const MTU_MIN: u16 = 576;

/// What is on the link because of us. What was there before is not in here, and stays.
#[derive(Debug, Default)]
pub(super) struct Settings {
    address: Option<(Ipv4Addr, u8)>,
    routes: Vec<Route>,
    mtu: Option<Mtu>,
}

/// An MTU that we changed.
#[derive(Clone, Copy, Debug)]
struct Mtu {
    before: u32,
    ours: u32,
}

impl Settings {
    /// Whether there is anything to undo.
    pub(super) fn is_empty(&self) -> bool {
        self.address.is_none() && self.routes.is_empty() && self.mtu.is_none()
    }

    /// Makes the link what `lease` says, from whatever was applied before. What is there already is no error.
    ///
    /// When it fails, what it did until then is in `self`, to be undone.
    pub(super) fn apply(&mut self, netlink: &Netlink, index: u32, lease: &Lease, now: Instant) -> Result<(), Error> {
        let wanted = routes(lease, index);
        if self.address.is_some_and(|ours| ours != (lease.address, lease.prefix_len)) {
            // The old one first: of two addresses in one subnet the older takes the younger with it when it goes.
            self.undo(netlink, index);
        }
        let (kept, stale) = std::mem::take(&mut self.routes).into_iter().partition(|route| is_among(route, &wanted));
        self.routes = kept;
        remove(netlink, stale);

        self.set_mtu(netlink, index, lease);
        self.set_address(netlink, index, lease, now)?;
        for route in wanted {
            let fault = fault(format!("adding a route to {}/{}", route.destination, route.prefix));
            let (route, made) = netlink.add_route(&route).map_err(fault)?;
            // A route of ours that went with its address is made a second time.
            if made == Made::New && !self.routes.contains(&route) {
                self.routes.push(route);
            }
        }
        Ok(())
    }

    fn set_address(&mut self, netlink: &Netlink, index: u32, lease: &Lease, now: Instant) -> Result<(), Error> {
        let (address, prefix) = (lease.address, lease.prefix_len);
        let fault = || fault(format!("setting the address {address}/{prefix}"));
        let present = netlink.addresses(index).map_err(fault())?;
        let permanent =
            present.iter().any(|there| (there.address, there.prefix, there.valid) == (address, prefix, None));
        if permanent && self.address.is_none() {
            // Somebody else's, and meant to stay.
            return Ok(());
        }
        // The kernel's own clock ends the address with the lease, also when nobody is there to do so.
        let valid = lease.expires_at().map(|expiry| expiry - now);
        let made = netlink.set_address(index, address, prefix, lease.broadcast, valid).map_err(fault())?;
        if made == Made::New {
            self.address = Some((address, prefix));
        }
        Ok(())
    }

    /// An MTU that the link does not take is the server's mistake, and no reason to go without a lease.
    fn set_mtu(&mut self, netlink: &Netlink, index: u32, lease: &Lease) {
        let Some(mtu) = lease.mtu else { return };
        let refuse = |why: &str| log::warn!("ignoring the MTU of {mtu} bytes from {}: {why}", lease.server_id);
        if mtu < MTU_MIN {
            return refuse("less than 576 is no MTU for IPv4");
        }
        let link = match netlink.link_by_index(index) {
            Ok(Some(link)) => link,
            Ok(None) => return,
            Err(error) => return refuse(&error.to_string()),
        };
        let ours = u32::from(mtu);
        if link.mtu == ours {
            return;
        }
        if !link.takes_mtu(ours) {
            return refuse(&format!("{} takes at most {}", link.name, link.max_mtu));
        }
        match netlink.set_mtu(index, ours) {
            Ok(()) => self.mtu = Some(Mtu { before: self.mtu.map_or(link.mtu, |mtu| mtu.before), ours }),
            Err(error) => refuse(&format!("{} does not take it: {error}", link.name)),
        }
    }

    /// Takes everything of ours off the link. What cannot be removed is logged: there is nothing else to be done.
    pub(super) fn undo(&mut self, netlink: &Netlink, index: u32) {
        remove(netlink, std::mem::take(&mut self.routes));
        if let Some((address, prefix)) = self.address.take()
            && let Err(error) = netlink.remove_address(index, address, prefix)
        {
            log::warn!("cannot remove the address {address}/{prefix}: {error}");
        }
        if let Some(mtu) = self.mtu.take() {
            // Unless somebody has set another one since.
            let ours = netlink.link_by_index(index).is_ok_and(|link| link.is_some_and(|link| link.mtu == mtu.ours));
            if ours && let Err(error) = netlink.set_mtu(index, mtu.before) {
                log::warn!("cannot set the MTU back to {}: {error}", mtu.before);
            }
        }
    }
}

/// The routes of a lease: those on the link itself first, for others may lead over them (RFC 3442), the default last.
fn routes(lease: &Lease, index: u32) -> Vec<Route> {
    let route = |to: Ipv4Addr, prefix, gateway| Route::from_lease(to, prefix, gateway, index, lease.address, METRIC);
    let (link, far): (Vec<_>, Vec<_>) = lease.routes.iter().partition(|route| route.gateway.is_none());
    let classless =
        link.into_iter().chain(far).map(|to: &dhcp::Route| route(to.destination, to.prefix_len, to.gateway));
    let default = lease.routers.first().map(|gateway| Route::default_via(*gateway, index, lease.address, METRIC));
    classless.chain(default).collect()
}

/// Whether `route` is one of `wanted`, whatever metric was free for it.
fn is_among(route: &Route, wanted: &[Route]) -> bool {
    wanted.iter().any(|wanted| *route == Route { metric: route.metric, ..wanted.clone() })
}

fn remove(netlink: &Netlink, routes: Vec<Route>) {
    // The reverse of the order in which one made the other possible.
    for route in routes.into_iter().rev() {
        if let Err(error) = netlink.remove_route(&route) {
            log::warn!("cannot remove the route to {}/{}: {error}", route.destination, route.prefix);
        }
    }
}

fn fault(doing: String) -> impl FnOnce(NetlinkError) -> Error {
    move |error| Error::fault(doing)(error.into_io())
}
