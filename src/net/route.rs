//! IPv4 routes of the main table.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, parse_u32};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType};
use nix::libc;

use super::link::{Made, was_there};
use super::netlink::{Body, Netlink, NetlinkError, Result, attributes, ipv4, message};

/// A unicast route through one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads: the network's first address, 0.0.0.0 for everywhere.
    pub destination: Ipv4Addr,
    /// How many bits of the destination count, 0 for everywhere.
    pub prefix: u8,
    /// Who forwards; none where the destination is on the link itself.
    pub gateway: Option<Ipv4Addr>,
    /// Through which interface.
    pub index: u32,
    /// Of several routes that fit equally well, the one with the lowest metric wins, and of those
    /// the newest.
    pub metric: u32,
    /// The address that packets leave with. The kernel removes the route when it removes the
    /// address; without this, a default route outlives the address it was made for wherever the
    /// interface has another one.
    pub source: Option<Ipv4Addr>,
    /// Who made it.
    pub protocol: RouteProtocol,
}

impl Route {
    /// A route from a DHCP server: to everything through `gateway`, for as long as `source` is
    /// ours.
    pub fn default_via(gateway: Ipv4Addr, index: u32, source: Ipv4Addr, metric: u32) -> Self {
        Self::from_lease(
            Ipv4Addr::UNSPECIFIED,
            0,
            Some(gateway),
            index,
            source,
            metric,
        )
    }

    /// A route from a DHCP server, for as long as `source` is ours; without a gateway the
    /// destination is on the link.
    ///
    /// Bits of the destination beyond the prefix are dropped: servers send them (RFC 3442), the
    /// kernel refuses them.
    pub fn from_lease(
        destination: Ipv4Addr,
        prefix: u8,
        gateway: Option<Ipv4Addr>,
        index: u32,
        source: Ipv4Addr,
        metric: u32,
    ) -> Self {
        let mask = u32::MAX
            .checked_shl(32_u32.saturating_sub(prefix.into()))
            .unwrap_or(0);
        Self {
            destination: Ipv4Addr::from_bits(destination.to_bits() & mask),
            prefix,
            gateway,
            index,
            metric,
            source: Some(source),
            protocol: RouteProtocol::Dhcp,
        }
    }

    /// Reads a message's body; none where the route is of another table or kind, or has several
    /// next hops.
    ///
    /// # Errors
    ///
    /// Returns an error for a message that is too short or has a malformed attribute.
    pub fn parse(body: &[u8]) -> Result<Option<Self>> {
        let header = RouteHeader::parse(body)?;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let mut route = Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: header.destination_prefix_length,
            gateway: None,
            index: 0,
            metric: 0,
            source: None,
            protocol: header.protocol,
        };
        for attribute in attributes(body, &header) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::RTA_DST => route.destination = ipv4(&attribute).unwrap_or(route.destination),
                libc::RTA_GATEWAY => route.gateway = ipv4(&attribute),
                libc::RTA_PREFSRC => route.source = ipv4(&attribute),
                libc::RTA_OIF => route.index = parse_u32(attribute.value())?,
                libc::RTA_PRIORITY => route.metric = parse_u32(attribute.value())?,
                _ => {}
            }
        }
        Ok((route.index != 0).then_some(route))
    }

    /// Returns whether `present` does what this one is wanted for: the same way, at no higher
    /// metric and for as long.
    fn is_served_by(&self, present: &Route) -> bool {
        let way = |route: &Route| (route.destination, route.prefix, route.gateway, route.index);
        let lasts = present.source.is_none() || present.source == self.source;
        way(self) == way(present) && present.metric <= self.metric && lasts
    }

    fn collides_with(&self, present: &Route) -> bool {
        let slot = |route: &Route| (route.destination, route.prefix, route.metric);
        slot(self) == slot(present)
    }
}

/// Routes that are looked at before some are added. The default routes come first, and all of most
/// containers are among them.
const MOST_ROUTES: usize = 1000;

/// The IPv4 routes of the main table, as far as they are looked at, where others are to be added.
///
/// It is one look, however many routes follow, and a bounded one: a container may have a million
/// routes. Not even the kernel goes through them all, as it would to find those of one interface.
#[derive(Debug)]
pub struct RouteTable<'a> {
    netlink: &'a Netlink,
    /// The unicast routes, but for those of several next hops, for none such is made or removed
    /// here.
    present: Vec<Route>,
    /// Whether the look has seen all of them.
    is_whole: bool,
}

impl RouteTable<'_> {
    /// Returns the routes that were looked at.
    pub fn present(&self) -> &[Route] {
        &self.present
    }

    /// Adds a route, unless one to the same end is there already. Returns the route that is there
    /// now.
    ///
    /// Of the routes to one destination at one metric the newest comes first, as with netavark: the
    /// kernel puts it in front of the others unless it is told to do otherwise. So networks that
    /// all bring a default route can share a container. A gateway that no prefix on the link
    /// covers, as with an address of 32 bits, is taken to be on the link all the same.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn add(&mut self, wanted: &Route) -> Result<(Route, Made)> {
        if let Some(served) = self
            .present
            .iter()
            .find(|present| wanted.is_served_by(present))
        {
            return Ok((served.clone(), Made::Already));
        }
        let made = match self.netlink.install(wanted, NLM_F_CREATE) {
            Ok(()) => Made::New,
            // This very route: added since the look, or not among those looked at.
            Err(error) if error.errno() == Some(libc::EEXIST) => Made::Already,
            Err(error) => return Err(error),
        };
        self.present.push(wanted.clone());
        Ok((wanted.clone(), made))
    }

    /// Adds a route in the place of `old`, whose destination it has: at no moment there is none,
    /// and where the kernel refuses it, the old one stays. Where several routes share the place of
    /// `old`, it is added beside that one, which stays.
    ///
    /// # Errors
    ///
    /// As for [`RouteTable::add`].
    pub fn replace(&mut self, old: &Route, wanted: &Route) -> Result<(Route, Made)> {
        let mut sharing = self
            .present
            .iter()
            .filter(|present| old.collides_with(present));
        // The kernel replaces the first one, also where that belongs to others.
        let is_alone = self.is_whole && sharing.next() == Some(old) && sharing.next().is_none();
        let is_served = self
            .present
            .iter()
            .any(|present| wanted.is_served_by(present));
        if !is_alone || is_served || !old.collides_with(wanted) {
            return self.add(wanted);
        }
        self.netlink.install(wanted, NLM_F_REPLACE)?;
        self.present.retain(|present| present != old);
        self.present.push(wanted.clone());
        Ok((wanted.clone(), Made::New))
    }
}

impl Netlink {
    /// Looks at the main table, to add routes.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`NetlinkError::TooMany`].
    pub fn route_table(&self) -> Result<RouteTable<'_>> {
        let main = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            ..RouteHeader::default()
        };
        let (mut present, mut looked_at) = (Vec::new(), 0);
        let look = self.dump_once(message::GET_ROUTE, &Body::new(main), &mut |entry| {
            looked_at += 1;
            if looked_at > MOST_ROUTES {
                return Err(NetlinkError::TooMany {
                    what: "routes",
                    most: MOST_ROUTES,
                });
            }
            present.extend(Route::parse(entry)?);
            Ok(())
        });
        match look {
            // A table that changed meanwhile is as good: what counts is what the kernel says when a
            // route is added.
            Ok(_) => Ok(RouteTable {
                netlink: self,
                present,
                is_whole: true,
            }),
            Err(NetlinkError::TooMany { .. }) => Ok(RouteTable {
                netlink: self,
                present,
                is_whole: false,
            }),
            Err(error) => Err(error),
        }
    }

    fn install(&self, route: &Route, flags: u16) -> Result<()> {
        let mut message = route_message(route);
        match self.request(message::NEW_ROUTE, flags, &message) {
            Err(error) if error.errno() == Some(libc::ENETUNREACH) && route.gateway.is_some() => {
                message.header.flags |= RouteFlags::Onlink;
                self.request(message::NEW_ROUTE, flags, &message).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Removes exactly this route. Tells whether it was there; an interface that is gone has none.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, but for a route or interface that does not exist.
    pub fn remove_route(&self, route: &Route) -> Result<bool> {
        let removed = self.request(message::DEL_ROUTE, 0, &route_message(route));
        was_there(removed, &[libc::ESRCH, libc::ENODEV])
    }
}

fn route_message(route: &Route) -> Body<RouteHeader> {
    let mut message = Body::new(RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: route.protocol,
        scope: if route.gateway.is_some() {
            RouteScope::Universe
        } else {
            RouteScope::Link
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    });
    let destination = (route.prefix > 0).then_some(route.destination);
    let addresses = [
        (libc::RTA_DST, destination),
        (libc::RTA_GATEWAY, route.gateway),
        (libc::RTA_PREFSRC, route.source),
    ];
    for (kind, address) in addresses {
        if let Some(address) = address {
            message.push(kind, &address.octets());
        }
    }
    message.push(libc::RTA_OIF, &route.index.to_ne_bytes());
    message.push(libc::RTA_PRIORITY, &route.metric.to_ne_bytes());
    message
}
