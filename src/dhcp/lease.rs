//! The content of a DHCPACK: an address, settings, and times.

use super::ignored::Ignored;
use super::message::ServerMessage;
use super::option::{self, Options};
use super::subnet::{
    StaticRoute, broadcast, class_prefix, is_broadcast_of, is_host_address, mask, network,
    prefix_len,
};
use crate::mac::Mac;
use crate::time::Instant;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The least T1 of a long lease, and the least time between two renewals that do not count against
/// the hourly limit on messages.
pub(super) const MIN_T1: Duration = Duration::from_secs(5);
/// The least T1 of a short lease is the lease divided by this.
const MIN_T1_DIVISOR: u32 = 64;
/// The lease time if the server gives none; other clients assume the same.
const DEFAULT_LEASE_TIME: Duration = Duration::from_secs(3600);
/// The number of unusable values that are reported.
const MAX_UNUSABLE: usize = 4;

/// A lease, from the server's last DHCPACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address (`yiaddr`).
    pub address: Ipv4Addr,
    /// Bits of the subnet mask (option 1), 1 to 32. Without a valid mask the class of the address
    /// decides (RFC 950).
    pub prefix_len: u8,
    /// Option 28 if it is an address of the subnet, else the last address of the subnet; `None` in
    /// a subnet without one (RFC 3021).
    pub broadcast: Option<Ipv4Addr>,
    /// Default gateways, the preferred one first: option 3, or the default routes of options 121 or
    /// 249, which replace it (RFC 3442). They may lie outside of the subnet.
    pub routers: Vec<Ipv4Addr>,
    /// All other routes, from option 121, else 249, else 33.
    pub routes: Vec<StaticRoute>,
    /// Option 6.
    pub dns_servers: Vec<Ipv4Addr>,
    /// The first domain name in option 15.
    pub domain_name: Option<String>,
    /// The other domain names in option 15, then those in option 119.
    pub search: Vec<String>,
    /// Option 12: the host name from the server.
    pub host_name: Option<String>,
    /// Option 26, in bytes. The interface may not allow it.
    pub mtu: Option<u16>,
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 54: the destination of REQUESTs at T1 and of the RELEASE.
    pub server_id: Ipv4Addr,
    /// `siaddr`: the next server in bootstrap, which may be another than the DHCP server.
    pub next_server: Option<Ipv4Addr>,
    /// The station that sent the ACK on this link: the server or a router. `None` if unknown, as in
    /// some stored leases.
    pub server_mac: Option<Mac>,
    /// Option 51; `None` if infinite.
    pub lease_time: Option<Duration>,
    /// T1 after `acquired_at` (option 58, corrected), less than `t2`. `Duration::MAX` if infinite.
    pub t1: Duration,
    /// T2 after `acquired_at` (option 59, corrected), less than `lease_time`. `Duration::MAX` if
    /// infinite.
    pub t2: Duration,
    /// The start of all times: the first transmission of the request, which is never later than the
    /// start by the server's clock (RFC 2131 §4.4.1).
    pub acquired_at: Instant,
}

impl Lease {
    /// Returns the subnet mask.
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix_len)
    }

    /// Returns T1; `None` if infinite.
    pub fn renew_at(&self) -> Option<Instant> {
        self.lease_time.map(|_| self.acquired_at + self.t1)
    }

    /// Returns T2; `None` if infinite.
    pub fn rebind_at(&self) -> Option<Instant> {
        self.lease_time.map(|_| self.acquired_at + self.t2)
    }

    /// Returns the end of the lease; `None` if infinite.
    pub fn expires_at(&self) -> Option<Instant> {
        self.lease_time.map(|time| self.acquired_at + time)
    }

    /// Returns the lease with T1 and T2 in order, as those of a server are.
    pub(super) fn with_timers_in_order(self) -> Self {
        let (t1, t2) = match self.lease_time {
            Some(time) => timers(time, Some(self.t1), Some(self.t2)),
            None => (Duration::MAX, Duration::MAX),
        };
        Self { t1, t2, ..self }
    }

    /// Returns whether `address` is on the subnet of the lease.
    pub fn is_on_link(&self, address: Ipv4Addr) -> bool {
        network(address, self.prefix_len) == network(self.address, self.prefix_len)
    }

    /// Returns whether `other` differs only in its times and its server.
    pub fn same_settings(&self, other: &Self) -> bool {
        let other_with_our_times = Self {
            server_id: self.server_id,
            next_server: self.next_server,
            server_mac: self.server_mac,
            lease_time: self.lease_time,
            t1: self.t1,
            t2: self.t2,
            acquired_at: self.acquired_at,
            ..other.clone()
        };
        *self == other_with_our_times
    }

    /// Reads the lease in a DHCPACK or DHCPOFFER of `server`, counted from `since`. Returns
    /// unusable values beside it; the lease is accepted without them.
    ///
    /// Deviation: RFC 2131 §3.5 has a default for each missing setting. Here `known`, the OFFER or
    /// the lease before, replaces a missing setting if it is of the same subnet: some servers leave
    /// settings out of the ACK or of renewals, and a container would lose its default route. Mask,
    /// routes and DNS servers are kept one by one. All others are kept only if none of these three
    /// is given.
    pub(super) fn read(
        reply: &ServerMessage,
        (server, known): (Ipv4Addr, Option<&Self>),
        since: Instant,
    ) -> Result<(Self, Vec<Unusable>), Ignored> {
        let options = &reply.options;
        let address = reply.address;
        if !is_host_address(address) {
            return Err(Ignored::Incomplete("address"));
        }
        let known = known.filter(|known| known.is_on_link(address));
        let essential = [option::SUBNET_MASK, option::ROUTERS, option::DNS_SERVERS];
        let extras = known.filter(|_| essential.iter().all(|code| options.bytes(*code).is_none()));
        let lease_time = match granted_time(reply) {
            Some(u32::MAX) => None, // RFC 2131 §3.3
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
            None => known.map_or(Some(DEFAULT_LEASE_TIME), |known| known.lease_time),
        };
        let (t1, t2) = match lease_time {
            Some(time) => {
                let timer = |code| Some(Duration::from_secs(options.long(code)?.into()));
                timers(
                    time,
                    timer(option::RENEWAL_TIME),
                    timer(option::REBINDING_TIME),
                )
            }
            None => (Duration::MAX, Duration::MAX),
        };
        let mut unusable = Vec::new();
        let (prefix_len, broadcast) = read_subnet(options, address, known, &mut unusable);
        let (routers, routes) = read_routes(options, address, known, &mut unusable);
        let (domains, is_odd) = options.domains(option::DOMAIN_NAME);
        unusable.extend(is_odd.then_some(Unusable::DomainName));
        let (search, is_odd) = options.names(option::DOMAIN_SEARCH);
        unusable.extend(is_odd.then_some(Unusable::SearchList));
        let mut domains = domains.into_iter();
        unusable.truncate(MAX_UNUSABLE);
        let lease = Self {
            address,
            prefix_len,
            broadcast,
            routers,
            routes,
            dns_servers: given_or_known(
                options.addresses(option::DNS_SERVERS),
                known.map(|known| &known.dns_servers),
            ),
            domain_name: domains.next().or_else(|| extras?.domain_name.clone()),
            search: given_or_known(
                domains.chain(search).collect(),
                extras.map(|known| &known.search),
            ),
            host_name: options
                .name(option::HOST_NAME)
                .or_else(|| extras?.host_name.clone()),
            mtu: options.short(option::MTU).or_else(|| extras?.mtu),
            ntp_servers: given_or_known(
                options.addresses(option::NTP_SERVERS),
                extras.map(|known| &known.ntp_servers),
            ),
            server_id: server,
            next_server: reply.next_server,
            server_mac: Some(reply.from),
            lease_time,
            t1,
            t2,
            acquired_at: since,
        };
        Ok((lease, unusable))
    }
}

/// Returns the prefix length and the broadcast address in a reply for `address`. Adds invalid ones
/// to `unusable`.
fn read_subnet(
    options: &Options,
    address: Ipv4Addr,
    known: Option<&Lease>,
    unusable: &mut Vec<Unusable>,
) -> (u8, Option<Ipv4Addr>) {
    let prefix_len = match options.address(option::SUBNET_MASK) {
        Some(mask) => prefix_len(mask).unwrap_or_else(|| {
            unusable.push(Unusable::Mask(mask));
            class_prefix(address)
        }),
        None => known.map_or_else(|| class_prefix(address), |known| known.prefix_len),
    };
    let broadcast = match options.address(option::BROADCAST_ADDRESS) {
        Some(given) if is_broadcast_of(given, address, prefix_len) => Some(given),
        given => {
            unusable.extend(given.map(Unusable::Broadcast));
            let known = known
                .filter(|known| known.prefix_len == prefix_len)
                .and_then(|known| known.broadcast);
            known
                .filter(|_| given.is_none())
                .or_else(|| broadcast(address, prefix_len))
        }
    };
    (prefix_len, broadcast)
}

/// Returns the default gateways and the other routes in a reply for `address`. Adds invalid
/// gateways to `unusable`.
fn read_routes(
    options: &Options,
    address: Ipv4Addr,
    known: Option<&Lease>,
    unusable: &mut Vec<Unusable>,
) -> (Vec<Ipv4Addr>, Vec<StaticRoute>) {
    // RFC 3442 page 5: classless routes replace options 3 and 33.
    let (routers, routes) = match options.classless_routes() {
        Some(routes) => {
            let (default, routes): (Vec<_>, Vec<_>) = routes
                .into_iter()
                .partition(|route| route.prefix_len == 0 && route.gateway.is_some());
            (
                default
                    .into_iter()
                    .filter_map(|route| route.gateway)
                    .collect(),
                routes,
            )
        }
        None => (
            given_or_known(
                options.addresses(option::ROUTERS),
                known.map(|known| &known.routers),
            ),
            given_or_known(options.static_routes(), known.map(|known| &known.routes)),
        ),
    };
    let mut is_usable = |gateway: Ipv4Addr| {
        let usable = is_host_address(gateway) && gateway != address;
        unusable.extend((!usable).then_some(Unusable::Gateway(gateway)));
        usable
    };
    let routers = routers
        .into_iter()
        .filter(|router| is_usable(*router))
        .collect();
    let routes = routes
        .into_iter()
        .filter(|route| route.gateway.is_none_or(&mut is_usable))
        .collect();
    (routers, routes)
}

/// Returns the lease time of a reply (RFC 2131 table 3); `None` for a missing one and for 0.
pub(super) fn granted_time(reply: &ServerMessage) -> Option<u32> {
    reply
        .options
        .long(option::LEASE_TIME)
        .filter(|time| *time > 0)
}

/// Returns the `given` list or, if empty, the known one.
fn given_or_known<T: Clone>(given: Vec<T>, known: Option<&Vec<T>>) -> Vec<T> {
    if given.is_empty() {
        known.cloned().unwrap_or_default()
    } else {
        given
    }
}

/// A value that a server gave, and that the client does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// A subnet mask with holes (option 1). The mask of the address class replaces it.
    Mask(Ipv4Addr),
    /// A broadcast address outside of the subnet (option 28). That of the subnet replaces it.
    Broadcast(Ipv4Addr),
    /// A gateway that is the host itself or no host address (options 3, 33, 121 and 249). Its route
    /// is left out.
    Gateway(Ipv4Addr),
    /// Text in option 15 that is no domain name. The names in it are used.
    DomainName,
    /// Invalid names in option 119, or bytes that are no list of names. The valid names are used.
    SearchList,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask(mask) => write!(f, "subnet mask {mask}"),
            Self::Broadcast(address) => write!(f, "broadcast address {address}"),
            Self::Gateway(address) => write!(f, "gateway {address}"),
            Self::DomainName => f.write_str("text in option 15 (domain name)"),
            Self::SearchList => f.write_str("a part of option 119 (search list)"),
        }
    }
}

/// Returns T1 and T2 with 0 < T1 < T2 < lease: those of the server if they are in order, else one
/// half and seven eighths (RFC 2131 §4.4.5). Some servers send none, zeros, or both beyond the
/// lease.
///
/// Deviation: RFC 2132 §9.11 sets no lower limit. T1 is at least [`MIN_T1`] or, in a short lease, a
/// 64th of the lease: with a T1 of one second, each container of a host would send a REQUEST every
/// second.
fn timers(lease: Duration, t1: Option<Duration>, t2: Option<Duration>) -> (Duration, Duration) {
    let shortest = MIN_T1.min(lease / MIN_T1_DIVISOR);
    let within = |timer: Option<Duration>, limit: Duration| {
        timer.filter(|timer| !timer.is_zero() && *timer < limit)
    };
    let t2 = within(t2, lease).unwrap_or(lease * 7 / 8);
    let t1 = within(t1, t2).unwrap_or(lease / 2).max(shortest);
    // Only a T1 that was replaced can be too late here, which means that T2 was too early.
    (t1, if t1 < t2 { t2 } else { lease * 7 / 8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_kept_or_corrected() {
        let timers = |t1: Option<u64>, t2: Option<u64>| {
            let [t1, t2] = [t1, t2].map(|timer| timer.map(Duration::from_secs));
            let (t1, t2) = timers(Duration::from_secs(800), t1, t2);
            (t1.as_secs(), t2.as_secs())
        };
        let default = (400, 700);
        assert_eq!(timers(Some(10), Some(20)), (10, 20), "as the server says");
        assert_eq!(timers(Some(1), Some(20)), (5, 20), "T1 of a second");
        assert_eq!(
            timers(Some(1), Some(5)),
            (5, 700),
            "T2 that leaves T1 no room"
        );
        assert_eq!(timers(None, None), default, "missing");
        assert_eq!(timers(Some(0), Some(0)), default, "zero");
        assert_eq!(timers(Some(800), Some(900)), default, "beyond the lease");
        assert_eq!(
            timers(Some(600), Some(500)),
            (400, 500),
            "inverted: T1 is corrected"
        );
        assert_eq!(
            timers(Some(200), Some(100)),
            default,
            "inverted, both early"
        );
        assert_eq!(timers(None, Some(300)), default, "T2 before the default T1");
        assert_eq!(timers(Some(750), None), default, "T1 after the default T2");
    }

    #[test]
    fn t1_has_a_minimum_that_depends_on_the_lease() {
        let t1 = |lease| {
            let [t1, t2] = [1, 2].map(|timer| Some(Duration::from_secs(timer)));
            timers(Duration::from_secs(lease), t1, t2).0.as_millis()
        };
        assert_eq!([4, 60, 64].map(t1), [1000; 3], "as the server says");
        assert_eq!(
            [128, 320, 3600, 1_000_000_000].map(t1),
            [2000, 5000, 5000, 5000]
        );
    }
}
