//! What a lease puts on the link, with what it takes to undo exactly that.

use std::net::Ipv4Addr;

use nix::libc;
use prost::Message;
use serde::Serialize;

use crate::dhcp::{self, Lease};
use crate::net::link::Made;
use crate::net::netlink::{Error as NetlinkError, Netlink};
use crate::net::route::{Route, RouteTable};
use crate::time::Instant;

use crate::proxy::config::MtuRule;
use crate::proxy::error::Error;

/// The metric of netavark's default routes, and the lower one that it has for macvlan and ipvlan: a
/// container on the LAN and on a NAT bridge as well leaves by the LAN.
const METRIC: u32 = 100;
const METRIC_ON_LAN: u32 = 99;
/// What every IPv4 host has to be able to take (RFC 791); less than that is a mistake.
const MTU_MIN: u16 = 576;

/// What is on the link because of us. What was there before is not in here, and stays.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    address: Option<(Ipv4Addr, u8)>,
    routes: Vec<Route>,
    mtu: Option<Mtu>,
    /// The MTU that was warned about.
    refused_mtu: Option<u16>,
    /// The routes that the kernel did not take, and that were warned about.
    refused_routes: Vec<Route>,
    /// Where the last lease has put the container: its address, and the router that the default
    /// route leads to.
    place: Option<StoredRoute>,
}

/// An MTU that we changed.
#[derive(Clone, Copy, Debug)]
struct Mtu {
    before: u32,
    ours: u32,
}

/// [`Applied`] as they are remembered.
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
    #[prost(message, optional, tag = "7")]
    pub(crate) place: Option<StoredRoute>,
}

/// A route as it is remembered.
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

impl StoredRoute {
    fn new((to, prefix_len): (Ipv4Addr, u8), via: Option<Ipv4Addr>, metric: u32) -> Self {
        let via = via.map(|via| via.to_string()).unwrap_or_default();
        Self {
            to: format!("{to}/{prefix_len}"),
            via,
            metric,
        }
    }

    /// Destination and gateway; none where they make no sense.
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

    fn try_from(way: &StoredRoute) -> Result<Self, ()> {
        let ((destination, prefix_len), gateway) = way.ends().ok_or(())?;
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

impl Applied {
    /// Takes note of where `lease` puts the container, and returns whether the last one put it
    /// there too.
    pub(crate) fn place(&mut self, lease: &Lease) -> bool {
        let place = Some(StoredRoute::new(
            (lease.address, lease.prefix_len),
            lease.routers.first().copied(),
            0,
        ));
        std::mem::replace(&mut self.place, place) == self.place
    }

    /// What there is to undo, to be remembered.
    pub(crate) fn remember(&self) -> StoredApplied {
        let way = |route: &Route| {
            StoredRoute::new(
                (route.destination, route.prefix),
                route.gateway,
                route.metric,
            )
        };
        StoredApplied {
            address: self
                .address
                .map(|(address, prefix)| format!("{address}/{prefix}"))
                .unwrap_or_default(),
            routes: self.routes.iter().map(way).collect(),
            mtu_before: self.mtu.map(|mtu| mtu.before),
            mtu: self.mtu.map(|mtu| mtu.ours),
            refused_mtu: self.refused_mtu.map(u32::from),
            refused_routes: self.refused_routes.iter().map(way).collect(),
            place: self.place.clone(),
        }
    }

    /// What was remembered of the interface `index`, whose lease is for `leased`; none where it
    /// makes no sense.
    pub(crate) fn recall(
        on_link: &StoredApplied,
        index: u32,
        leased: Option<Ipv4Addr>,
    ) -> Option<Self> {
        let address = if on_link.address.is_empty() {
            None
        } else {
            Some(network(&on_link.address)?)
        };
        // All that are ours were made like this, the address being ours or not.
        let source = address
            .map(|(address, _)| address)
            .or(leased)
            .unwrap_or(Ipv4Addr::UNSPECIFIED);
        let route = |way: &StoredRoute| {
            let ((to, prefix), via) = way.ends()?;
            Some(Route::from_lease(
                to, prefix, via, index, source, way.metric,
            ))
        };
        Some(Self {
            address,
            routes: on_link.routes.iter().map(route).collect::<Option<_>>()?,
            mtu: on_link
                .mtu_before
                .zip(on_link.mtu)
                .map(|(before, ours)| Mtu { before, ours }),
            refused_mtu: on_link.refused_mtu.and_then(|mtu| mtu.try_into().ok()),
            refused_routes: on_link
                .refused_routes
                .iter()
                .map(route)
                .collect::<Option<_>>()?,
            place: on_link.place.clone().filter(|place| place.ends().is_some()),
        })
    }

    /// Takes an address that was found on the link for a lease's.
    pub(crate) fn adopt(&mut self, address: Ipv4Addr, prefix: u8) {
        self.address = Some((address, prefix));
    }

    /// Makes the link what `lease` says where netavark's proxy has applied it: that proxy's default
    /// route does not end with the lease, and is replaced.
    pub(crate) fn take_over(
        &mut self,
        netlink: &Netlink,
        index: u32,
        lease: &Lease,
        mtu: MtuRule,
        now: Instant,
    ) -> Result<(), Error> {
        let table = netlink
            .route_table()
            .map_err(fault("looking at the routes".to_owned()))?;
        let is_netavarks = |route: &&Route| {
            let leads_to = (route.prefix, route.gateway, route.index, route.source);
            route.gateway.is_some() && leads_to == (0, lease.routers.first().copied(), index, None)
        };
        let routes = table
            .present()
            .iter()
            .filter(is_netavarks)
            .cloned()
            .collect();
        remove(netlink, routes);
        self.apply(netlink, index, lease, mtu, now)
    }

    /// Whether there is anything to undo.
    pub(crate) fn is_empty(&self) -> bool {
        self.address.is_none() && self.routes.is_empty() && self.mtu.is_none()
    }

    /// Makes the link what `lease` says, from whatever was applied before. What is there already is
    /// no error.
    ///
    /// When it fails, what it did until then is in `self`, to be undone.
    pub(crate) fn apply(
        &mut self,
        netlink: &Netlink,
        index: u32,
        lease: &Lease,
        mtu: MtuRule,
        now: Instant,
    ) -> Result<(), Error> {
        if self
            .address
            .is_some_and(|ours| ours != (lease.address, lease.prefix_len))
        {
            // The old one first: of two addresses in one subnet the older takes the younger with it
            // when it goes.
            self.undo_address(netlink, index);
        }
        self.set_mtu(netlink, index, lease, mtu);
        self.set_address(netlink, index, lease, now)?;
        self.set_routes(netlink, index, lease)?;
        self.routes.shrink_to_fit();
        Ok(())
    }

    /// Adds the routes of `lease` before it removes those that are in it no more, so that there is
    /// a default route at all times. A route that the kernel refuses is the server's mistake, and
    /// no reason to go without the others or without a lease.
    fn set_routes(&mut self, netlink: &Netlink, index: u32, lease: &Lease) -> Result<(), Error> {
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
    ) -> Result<bool, Error> {
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
        let ours =
            made == Made::New || (route.protocol, route.source) == (wanted.protocol, wanted.source);
        if ours && !self.routes.contains(&route) {
            self.routes.push(route);
        }
        Ok(true)
    }

    fn set_address(
        &mut self,
        netlink: &Netlink,
        index: u32,
        lease: &Lease,
        now: Instant,
    ) -> Result<(), Error> {
        let (address, prefix) = (lease.address, lease.prefix_len);
        let fault = || fault(format!("setting the address {address}/{prefix}"));
        // Where there are too many to be read, it is taken for one with a lifetime, and gets
        // another.
        let present = netlink.addresses(index).unwrap_or_default();
        let permanent = present
            .iter()
            .any(|there| (there.address, there.prefix, there.valid) == (address, prefix, None));
        if permanent && self.address.is_none() {
            // Somebody else's, and meant to stay.
            return Ok(());
        }
        // The kernel's own clock ends the address with the lease, also when nobody is there to do
        // so. One that is there and has a lifetime is a lease's, too: an earlier instance left it,
        // and it is ours now.
        let valid = lease.expires_at().map(|expiry| expiry - now);
        netlink
            .set_address(index, address, prefix, lease.broadcast, valid)
            .map_err(fault())?;
        self.address = Some((address, prefix));
        Ok(())
    }

    /// An MTU that the link does not take is the server's mistake, and no reason to go without a
    /// lease.
    fn set_mtu(&mut self, netlink: &Netlink, index: u32, lease: &Lease, rule: MtuRule) {
        let Some(mtu) = lease.mtu.filter(|_| rule != MtuRule::Ignore) else {
            return self.undo_mtu(netlink, index);
        };
        let refused = self.try_mtu(netlink, index, mtu, rule).err();
        if let Some(why) = refused.as_ref().filter(|_| self.refused_mtu != Some(mtu)) {
            log::warn!(
                "ignoring the MTU of {mtu} bytes from {}: {why}",
                lease.server_id
            );
        }
        self.refused_mtu = refused.map(|_| mtu);
    }

    fn try_mtu(
        &mut self,
        netlink: &Netlink,
        index: u32,
        mtu: u16,
        rule: MtuRule,
    ) -> Result<(), String> {
        if mtu < MTU_MIN {
            return Err("less than 576 is no MTU for IPv4".to_owned());
        }
        let Some(link) = netlink
            .link_by_index(index)
            .map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let ours = u32::from(mtu);
        // One that is not what we set is what somebody else wants.
        if link.mtu == ours || self.mtu.is_some_and(|set| set.ours != link.mtu) {
            return Ok(());
        }
        // A lower one was chosen for a reason, such as a tunnel further on, that the server does
        // not know of. One that we have lowered goes back to what it was, and no further.
        let before = self.mtu.map_or(link.mtu, |set| set.before);
        if rule == MtuRule::Lower && ours > before {
            self.undo_mtu(netlink, index);
            return Err(format!(
                "{} has one of {before}, which --mtu lower does not raise",
                link.name
            ));
        }
        if !link.takes_mtu(ours) {
            return Err(format!(
                "{} takes from {} to {}",
                link.name, link.min_mtu, link.max_mtu
            ));
        }
        netlink
            .set_mtu(index, ours)
            .map_err(|error| format!("{} does not take it: {error}", link.name))?;
        self.mtu = Some(Mtu { before, ours });
        Ok(())
    }

    /// Takes everything of ours off the link. What cannot be removed is logged: there is nothing
    /// else to be done.
    pub(crate) fn undo(&mut self, netlink: &Netlink, index: u32) {
        remove(netlink, std::mem::take(&mut self.routes));
        self.undo_address(netlink, index);
        self.undo_mtu(netlink, index);
    }

    fn undo_address(&mut self, netlink: &Netlink, index: u32) {
        let Some((address, prefix)) = self.address.take() else {
            return;
        };
        let addresses = || netlink.addresses(index);
        let before = match addresses() {
            Ok(before) => before,
            // To remove the first of very many takes the kernel minutes, in which nothing else
            // would be done here.
            Err(error @ NetlinkError::TooMany { .. }) => {
                log::warn!("leaving the address {address}/{prefix} to its lifetime: {error}");
                return;
            }
            Err(_) => Vec::new(),
        };
        if let Err(error) = netlink.remove_address(index, address, prefix) {
            log::warn!("cannot remove the address {address}/{prefix}: {error}");
            return;
        }
        // Younger ones of the same subnet go with it (unless `promote_secondaries` is set), and
        // they are not ours.
        let after = addresses().unwrap_or_default();
        let left = |one: Ipv4Addr| one == address || after.iter().any(|after| after.address == one);
        for lost in before.iter().filter(|before| !left(before.address)) {
            let restored =
                netlink.set_address(index, lost.address, lost.prefix, lost.broadcast, lost.valid);
            if let Err(error) = restored {
                log::warn!(
                    "cannot bring back the address {}/{}: {error}",
                    lost.address,
                    lost.prefix
                );
            }
        }
    }

    fn undo_mtu(&mut self, netlink: &Netlink, index: u32) {
        let Some(mtu) = self.mtu.take() else { return };
        // Unless somebody has set another one since.
        let ours = netlink
            .link_by_index(index)
            .is_ok_and(|link| link.is_some_and(|link| link.mtu == mtu.ours));
        if ours && let Err(error) = netlink.set_mtu(index, mtu.before) {
            log::warn!("cannot set the MTU back to {}: {error}", mtu.before);
        }
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
fn metric_for(netlink: &Netlink, index: u32) -> Result<u32, Error> {
    let link = netlink
        .link_by_index(index)
        .map_err(fault("looking at the interface".to_owned()))?;
    Ok(if link.is_some_and(|link| link.is_station_of_parent()) {
        METRIC_ON_LAN
    } else {
        METRIC
    })
}

fn remove(netlink: &Netlink, routes: Vec<Route>) {
    // The reverse of the order in which one made the other possible.
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

fn fault(doing: String) -> impl FnOnce(NetlinkError) -> Error {
    move |error| Error::fault(doing)(error.into_io())
}
