//! Claims of other stations to an address, as far as a state remembers them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp::lease::Lease;
use crate::mac::Mac;
use crate::time::Instant;

/// How long a station on the link has to answer ARP: to a release that looks for its server, and to
/// a question whether the router answers for every address.
pub(super) const ARP_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a claim counts: DEFEND_INTERVAL (RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// From the announcement that defends an address to the probe behind it. A kernel that has the
/// address answers within milliseconds; this leaves a slow one eight seconds more.
const PROBE_AFTER_DEFENCE: Duration = Duration::from_secs(2);

/// Claims to an address that is not in use yet, the latest of each of two stations: one may answer
/// for every address, and the other one have it.
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

    /// Returns the stations whose claims count, the latest first. Each REQUEST is repeated together
    /// with its probe, and an owner answers each of them: an older claim is that of a station that
    /// has gone, or was never there.
    pub(super) fn stations(self, now: Instant) -> impl Iterator<Item = Mac> {
        self.0
            .into_iter()
            .flatten()
            .filter(move |(_, at)| now - *at < DEFEND_INTERVAL)
            .map(|(by, _)| by)
    }
}

/// A claim to an address that was leased and is not in use yet, by a station that may answer for
/// every address.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProxyCheck {
    pub(super) by: Mac,
    /// The address that it answers for as well if it is so.
    pub(super) router: Ipv4Addr,
}

/// A claim to the address in use that was answered by an announcement (RFC 5227 §2.4 (b)).
///
/// Only one station is remembered at a time: however many of them claim the address, there is one
/// announcement in [`DEFEND_INTERVAL`], and what is heard of the others does not make it longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defence {
    /// The address is given up if this station claims it again.
    pub(super) against: Mac,
    /// From when on it counts: until then the answer of the router may be under way, and that of
    /// the station to the announcement.
    pub(super) counts_from: Instant,
    /// When to ask for the claim to be repeated; `None` once that was done.
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

    /// Returns when the defence has something to do: its probe, or its end.
    pub(super) fn due(self, carrier: bool) -> Instant {
        self.probe_at
            .filter(|_| carrier)
            .unwrap_or(self.until)
            .min(self.until)
    }
}

/// The time after an ACK in which claims of other stations to the address are listened for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConflictWatch {
    pub(super) until: Instant,
    /// Whether it ends with an announcement.
    pub(super) announce: bool,
    /// Connections may depend on the address by now.
    pub(super) is_in_use: bool,
    /// When the caller stops waiting, if one waits until the address is in use.
    pub(super) deadline: Option<Instant>,
}

/// Returns the router whose station would tell that a claim to the address of this lease is none.
/// Where it is the DHCP server, that station is known.
pub(super) fn router_to_ask(lease: &Lease) -> Option<Ipv4Addr> {
    let first = lease.routers.first().copied();
    first.filter(|router| *router != lease.server_id || lease.server_mac.is_none())
}
