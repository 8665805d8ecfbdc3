//! A lease and its state of RFC 2131 figure 5, as types and in stored form.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::NEVER;
use super::number::{instant, millis, text};
use crate::dhcp::{self, Phase, Snapshot};
use crate::mac::Mac;
use crate::proxy::call::reply::reply;
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::StoredRoute;
use crate::rpc::wire::NetavarkLease;
use crate::time::Instant;

/// The stored names of the phases.
pub(super) const BOUND: &str = "BOUND";
pub(super) const RENEWING: &str = "RENEWING";
pub(super) const REBINDING: &str = "REBINDING";
pub(super) const INIT: &str = "INIT";

/// The fields of a stored record that describe a phase.
#[derive(Debug, Default)]
pub(super) struct StoredPhase {
    /// `None` without a lease.
    pub(super) lease: Option<StoredLease>,
    pub(super) renew_at: Option<u64>,
    pub(super) rebind_at: Option<u64>,
    pub(super) next_at: Option<u64>,
    pub(super) since: u64,
    pub(super) wanted: String,
    pub(super) pace: u32,
}

/// The fields of a stored record that describe a lease.
#[derive(Debug, Default)]
pub(super) struct StoredLease {
    pub(super) reply: NetavarkLease,
    pub(super) acquired_at: u64,
    pub(super) server_mac: String,
    pub(super) server_domain: String,
    pub(super) search: Vec<String>,
    pub(super) routes: Vec<StoredRoute>,
}

impl StoredPhase {
    /// Returns the name of a phase with its fields.
    pub(super) fn new(phase: &Phase, request: &Request) -> (&'static str, Self) {
        let next = match phase {
            Phase::Bound { .. } => None,
            Phase::Renewing { next, .. } | Phase::Rebinding { next, .. } => Some(*next),
            Phase::Init { at, .. } => Some(*at),
        };
        let next_at = next.and_then(millis);
        let stored = match phase {
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            }
            | Phase::Renewing {
                lease,
                renew_at,
                rebind_at,
                next: _,
            }
            | Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next: _,
            } => Self {
                lease: Some(StoredLease::new(lease, request)),
                renew_at: millis(*renew_at),
                rebind_at: millis(*rebind_at),
                next_at,
                ..Self::default()
            },
            Phase::Init {
                at: _,
                since,
                wanted,
                pace,
            } => Self {
                next_at,
                since: millis(*since).unwrap_or(0),
                wanted: text(*wanted),
                pace: *pace,
                ..Self::default()
            },
        };
        (name(phase), stored)
    }

    /// Parses the phase of that name; `None` for an unknown name or a malformed lease.
    pub(super) fn parse(self, name: &str) -> Option<Phase> {
        let at = |millis: Option<u64>| millis.map_or(NEVER, instant);
        let (renew_at, rebind_at, next) = (at(self.renew_at), at(self.rebind_at), at(self.next_at));
        let lease = || self.lease.and_then(StoredLease::parse);
        Some(match name {
            BOUND => Phase::Bound {
                lease: lease()?,
                renew_at,
                rebind_at,
            },
            RENEWING => Phase::Renewing {
                lease: lease()?,
                renew_at,
                rebind_at,
                next,
            },
            REBINDING => Phase::Rebinding {
                lease: lease()?,
                renew_at,
                rebind_at,
                next,
            },
            INIT => Phase::Init {
                at: next,
                since: instant(self.since),
                wanted: self.wanted.parse().ok(),
                pace: self.pace,
            },
            _ => return None,
        })
    }

    /// Parses the phase of a lease in its Teardown, as [`to_be_released`] makes it.
    pub(super) fn parse_ending(self) -> Option<Phase> {
        let has_lease = self
            .lease
            .as_ref()
            .is_some_and(|lease| !lease.reply.yiaddr.is_empty());
        Self {
            next_at: None,
            ..self
        }
        .parse(if has_lease { BOUND } else { INIT })
    }
}

impl StoredLease {
    /// Returns the fields of a container without a lease.
    pub(super) fn none(mac_text: &str) -> Self {
        Self {
            reply: NetavarkLease {
                mac_address: mac_text.to_owned(),
                ..NetavarkLease::default()
            },
            ..Self::default()
        }
    }

    fn new(lease: &dhcp::Lease, request: &Request) -> Self {
        // Every field is named, so that a new one is not forgotten; those without a variable are in
        // the reply.
        let dhcp::Lease {
            address: _,
            prefix_len: _,
            broadcast: _,
            routers: _,
            routes,
            dns_servers: _,
            domain_name,
            search,
            host_name: _,
            mtu: _,
            ntp_servers: _,
            server_id: _,
            next_server: _,
            server_mac,
            lease_time: _,
            t1: _,
            t2: _,
            acquired_at,
        } = lease;
        Self {
            reply: reply(request, lease),
            acquired_at: millis(*acquired_at).unwrap_or(0),
            server_mac: text(*server_mac),
            server_domain: domain_name.clone().unwrap_or_default(),
            search: search.clone(),
            routes: routes.iter().map(StoredRoute::from).collect(),
        }
    }

    /// Parses the lease; `None` if an address is malformed.
    pub(super) fn parse(self) -> Option<dhcp::Lease> {
        let Self {
            reply,
            acquired_at,
            server_mac,
            server_domain,
            search,
            routes,
        } = self;
        let NetavarkLease {
            t1,
            t2,
            lease_time,
            mtu,
            domain_name: _,
            mac_address: _,
            is_v6: _,
            siaddr,
            yiaddr,
            srv_id,
            subnet_mask,
            broadcast_addr,
            dns_servers,
            gateways,
            ntp_servers,
            host_name,
        } = reply;
        let mask: Ipv4Addr = subnet_mask.parse().ok()?;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let is_infinite = lease_time == u32::MAX;
        let timer = |time| {
            if is_infinite {
                Duration::MAX
            } else {
                seconds(time)
            }
        };
        let routes = routes
            .iter()
            .map(|route| dhcp::StaticRoute::try_from(route).ok());
        Some(dhcp::Lease {
            address: yiaddr.parse().ok()?,
            prefix_len: u8::try_from(mask.to_bits().leading_ones()).ok()?,
            broadcast: optional(&broadcast_addr)?,
            routers: addresses(&gateways)?,
            routes: routes.collect::<Option<_>>()?,
            dns_servers: addresses(&dns_servers)?,
            domain_name: non_empty(server_domain),
            search,
            host_name: non_empty(host_name),
            mtu: u16::try_from(mtu).ok().filter(|&mtu| mtu > 0),
            ntp_servers: addresses(&ntp_servers)?,
            server_id: srv_id.parse().ok()?,
            next_server: optional(&siaddr)?.filter(|server| !server.is_unspecified()),
            server_mac: Mac::parse(&server_mac).ok(),
            lease_time: (!is_infinite).then(|| seconds(lease_time)),
            t1: timer(t1),
            t2: timer(t2),
            acquired_at: instant(acquired_at),
        })
    }
}

/// Returns the stored name of a phase.
pub(super) fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Bound { .. } => BOUND,
        Phase::Renewing { .. } => RENEWING,
        Phase::Rebinding { .. } => REBINDING,
        Phase::Init { .. } => INIT,
    }
}

/// Returns T1 and T2 of a phase with a lease; [`NEVER`] for an infinite one.
pub(super) fn timers(phase: &Phase) -> Option<(Instant, Instant)> {
    match phase {
        Phase::Bound {
            renew_at,
            rebind_at,
            ..
        }
        | Phase::Renewing {
            renew_at,
            rebind_at,
            ..
        }
        | Phase::Rebinding {
            renew_at,
            rebind_at,
            ..
        } => Some((*renew_at, *rebind_at)),
        Phase::Init { .. } => None,
    }
}

/// Returns the snapshot to release from, the same for all phases of a lease.
pub(super) fn to_be_released(snapshot: Snapshot) -> Snapshot {
    let phase = match snapshot.phase {
        Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        }
        | Phase::Renewing {
            lease,
            renew_at,
            rebind_at,
            ..
        }
        | Phase::Rebinding {
            lease,
            renew_at,
            rebind_at,
            ..
        } => Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        },
        Phase::Init {
            since,
            wanted,
            pace,
            ..
        } => Phase::Init {
            at: NEVER,
            since,
            wanted,
            pace,
        },
    };
    Snapshot { phase, ..snapshot }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Parses an address that may be empty; `None` if it is malformed.
fn optional(text: &str) -> Option<Option<Ipv4Addr>> {
    if text.is_empty() {
        Some(None)
    } else {
        text.parse().ok().map(Some)
    }
}

fn addresses(texts: &[String]) -> Option<Vec<Ipv4Addr>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}
