//! IPv4 routes of the main table.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, parse_u32};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType};
use nix::libc;

use super::link::{AddOutcome, was_there};
use super::netlink::{Body, Netlink, NetlinkError, Result, attributes, ipv4, message};

/// A unicast route through one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The first address of the destination network; 0.0.0.0 for a default route.
    pub destination: Ipv4Addr,
    /// The prefix length in bits; 0 for a default route.
    pub prefix: u8,
    /// The gateway; `None` for a destination on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The index of the interface.
    pub index: u32,
    /// The metric. Of several routes with the longest prefix, the one with the lowest metric wins,
    /// and of those the newest.
    pub metric: u32,
    /// The source address of packets. The kernel removes the route together with this address.
    /// Without it, a default route would outlive its lease if the interface has another address.
    pub source: Option<Ipv4Addr>,
    /// The origin of the route (`RTPROT_...` in rtnetlink(7)).
    pub protocol: RouteProtocol,
}

impl Route {
    /// Returns a default route from a DHCP server, which exists as long as the address `source`.
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

    /// Returns a route from a DHCP server, which exists as long as the address `source`. Without a
    /// gateway the destination is on the link.
    ///
    /// Bits of the destination beyond the prefix are cleared: servers send them (RFC 3442), and the
    /// kernel rejects them.
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

    /// Parses the body of a message. Returns `None` for a route of another table or type, or with
    /// several next hops.
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

    /// Returns whether `present` makes this route superfluous: it has the same path, no higher
    /// metric, and exists at least as long.
    fn is_covered_by(&self, present: &Route) -> bool {
        let path = |route: &Route| (route.destination, route.prefix, route.gateway, route.index);
        let lasts = present.source.is_none() || present.source == self.source;
        path(self) == path(present) && present.metric <= self.metric && lasts
    }

    fn collides_with(&self, present: &Route) -> bool {
        let slot = |route: &Route| (route.destination, route.prefix, route.metric);
        slot(self) == slot(present)
    }
}

/// The most routes that are read before others are added. The default routes come first, and most
/// containers have fewer.
const MAX_ROUTES: usize = 1000;

/// The IPv4 routes of the main table, up to a limit, to which others are to be added.
///
/// The table is read once for all added routes. The limit is needed because a container may have a
/// million routes. A request for the routes of one interface would make the kernel go through all.
#[derive(Debug)]
pub struct RouteTable<'a> {
    netlink: &'a Netlink,
    /// The unicast routes with one next hop. Others are neither added nor removed here.
    present: Vec<Route>,
    /// `present` is not cut by the limit.
    is_whole: bool,
}

impl RouteTable<'_> {
    /// Returns the routes that were read.
    pub fn present(&self) -> &[Route] {
        &self.present
    }

    /// Adds a route, unless an existing one makes it superfluous. Returns the added or the existing
    /// route.
    ///
    /// Of the routes with the same destination and metric the newest wins, as with netavark: the
    /// kernel inserts it before the others by default. So several networks of a container can each
    /// have a default route. A gateway outside all prefixes on the link, as with an address of 32
    /// bits, counts as on-link.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn add(&mut self, wanted: &Route) -> Result<(Route, AddOutcome)> {
        if let Some(present) = self
            .present
            .iter()
            .find(|present| wanted.is_covered_by(present))
        {
            return Ok((present.clone(), AddOutcome::Existed));
        }
        let made = match self.netlink.install(wanted, NLM_F_CREATE) {
            Ok(()) => AddOutcome::Added,
            // The same route: added since the table was read, or beyond the limit.
            Err(error) if error.errno() == Some(libc::EEXIST) => AddOutcome::Existed,
            Err(error) => return Err(error),
        };
        self.present.push(wanted.clone());
        Ok((wanted.clone(), made))
    }

    /// Replaces the route `old` to the same destination without a gap. If the kernel rejects the new
    /// route, `old` stays. If several routes have the destination and metric of `old`, the new one
    /// is added, and `old` stays.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn replace(&mut self, old: &Route, wanted: &Route) -> Result<(Route, AddOutcome)> {
        let mut sharing = self
            .present
            .iter()
            .filter(|present| old.collides_with(present));
        // The kernel replaces the first of them, which may belong to another program.
        let is_alone = self.is_whole && sharing.next() == Some(old) && sharing.next().is_none();
        let is_covered = self
            .present
            .iter()
            .any(|present| wanted.is_covered_by(present));
        if !is_alone || is_covered || !old.collides_with(wanted) {
            return self.add(wanted);
        }
        self.netlink.install(wanted, NLM_F_REPLACE)?;
        self.present.retain(|present| present != old);
        self.present.push(wanted.clone());
        Ok((wanted.clone(), AddOutcome::Added))
    }
}

impl Netlink {
    /// Reads the main table, to add routes.
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
        let (mut present, mut count) = (Vec::new(), 0);
        let dump = self.dump_once(message::GET_ROUTE, &Body::new(main), &mut |entry| {
            count += 1;
            if count > MAX_ROUTES {
                return Err(NetlinkError::TooMany {
                    what: "routes",
                    most: MAX_ROUTES,
                });
            }
            present.extend(Route::parse(entry)?);
            Ok(())
        });
        match dump {
            // A change meanwhile is harmless: the kernel checks each route that is added.
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

    /// Removes exactly this route. Returns false if the route or the interface did not exist.
    ///
    /// # Errors
    ///
    /// Returns any other error of the kernel.
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
