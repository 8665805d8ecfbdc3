//! ARP claims of other stations to an address, as the states store them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp::lease::Lease;
use crate::mac::Mac;
use crate::time::Instant;

/// Time to wait for an ARP reply: from the next hop of a RELEASE, and from the router in a check
/// for proxy ARP.
pub(super) const ARP_TIMEOUT: Duration = Duration::from_millis(200);
/// The time for which a claim counts (RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Delay between the announcement that defends an address and the probe after it. A kernel that has
/// the address answers within milliseconds; a slow one has another eight seconds.
const PROBE_AFTER_DEFENCE: Duration = Duration::from_secs(2);

/// Claims to an address that is not in use yet: the latest of two stations. One may answer for
/// every address, and the other have it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims([Option<(Mac, Instant)>; 2]);

impl Claims {
    pub(super) fn add(&mut self, by: Mac, now: Instant) {
        let other = self
            .0
            .into_iter()
            .flatten()
            .find(|(station, _)| *station != by);
        self.0 = [Some((by, now)), other];
    }

    /// Returns the stations whose claims count, the latest first. A probe goes with each REQUEST,
    /// and an owner answers every one: an older claim is of a station that has left, or was forged.
    pub(super) fn stations(self, now: Instant) -> impl Iterator<Item = Mac> {
        self.0
            .into_iter()
            .flatten()
            .filter(move |(_, at)| now - *at < DEFEND_INTERVAL)
            .map(|(by, _)| by)
    }
}

/// A claim to a leased address that is not in use yet, while the client checks whether the station
/// answers for every address (proxy ARP).
#[derive(Clone, Copy, Debug)]
pub(super) struct ProxyCheck {
    pub(super) by: Mac,
    /// The address that it answers for as well if it does proxy ARP.
    pub(super) router: Ipv4Addr,
}

/// A claim to the address in use, answered by an announcement (RFC 5227 §2.4 (b)).
///
/// Only one station is remembered at a time: whatever the number of stations, there is one
/// announcement in [`DEFEND_INTERVAL`], and the claims of the others do not prolong it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defence {
    /// The address is given up if this station claims it again.
    pub(super) against: Mac,
    /// A second claim counts from this time on. Before it, the reply of the router may be on its
    /// way, and that of the station to the announcement.
    pub(super) counts_from: Instant,
    /// The time of the probe that provokes a second claim; `None` after it.
    pub(super) probe_at: Option<Instant>,
    pub(super) until: Instant,
}

impl Defence {
    pub(super) fn new(against: Mac, counts_from: Instant, now: Instant) -> Self {
        Self {
            against,
            counts_from,
            probe_at: Some(now + PROBE_AFTER_DEFENCE),
            until: now + DEFEND_INTERVAL,
        }
    }

    /// Returns the time of the probe or, after it, the end.
    pub(super) fn due(self, carrier: bool) -> Instant {
        self.probe_at
            .filter(|_| carrier)
            .unwrap_or(self.until)
            .min(self.until)
    }
}

/// The time after an ACK in which the client listens for claims of other stations.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConflictWatch {
    pub(super) until: Instant,
    /// An announcement is sent at the end.
    pub(super) announce: bool,
    /// Connections may depend on the address.
    pub(super) is_in_use: bool,
    /// The deadline of a caller that waits until the address is in use.
    pub(super) deadline: Option<Instant>,
}

/// Returns the router to ask in a check for proxy ARP. `None` without one, or if it is the DHCP
/// server, whose station is known from the lease.
pub(super) fn router_to_ask(lease: &Lease) -> Option<Ipv4Addr> {
    let first = lease.routers.first().copied();
    first.filter(|router| *router != lease.server_id || lease.server_mac.is_none())
}
