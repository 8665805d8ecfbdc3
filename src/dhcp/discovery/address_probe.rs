//! ARP probes for addresses that are not going to be used (RFC 5227 §2.1.1).

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp::lease::Lease;
use crate::dhcp::subnet::{mask, network};
use crate::mac::Mac;
use crate::time::Instant;

/// The number of probes for an address, and the time between them: PROBE_MIN. RFC 5227 §1.1 has
/// three, for an address that is about to be used; one more than the client's own is enough here.
const PROBES: u8 = 2;
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time in which a station answers, as for the client.
const ARP_WAIT: Duration = Duration::from_millis(200);
/// The number of claimants of an address that are remembered.
const MOST_CLAIMANTS: usize = 4;
/// Attempts to find a random address that is none of the known ones.
const ATTEMPTS: usize = 16;

/// The reason why an address is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbePurpose {
    Offered,
    /// The router of an offer.
    Router,
    /// Chosen at random in the subnet of an offer.
    Random,
}

/// An address that is probed, and the stations that claim it.
#[derive(Debug)]
pub(super) struct AddressProbe {
    pub(super) address: Ipv4Addr,
    pub(super) purpose: ProbePurpose,
    pub(super) claimants: Vec<Mac>,
    /// The time of the first packet.
    first: Option<Instant>,
    left: u8,
    next: Instant,
}

impl AddressProbe {
    /// Makes the probe of an address, due at once.
    pub(super) fn new(address: Ipv4Addr, purpose: ProbePurpose, now: Instant) -> Self {
        Self {
            address,
            purpose,
            claimants: Vec::new(),
            first: None,
            left: PROBES,
            next: now,
        }
    }

    /// Returns the time of the next packet.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.next)
    }

    /// Returns whether a packet has to be sent now, and counts it.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.first.get_or_insert(now);
            self.left -= 1;
            self.next = now + PROBE_INTERVAL;
        }
        is_due
    }

    /// Returns whether a station had the time to answer a packet.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        self.first.is_some_and(|first| first + ARP_WAIT <= now)
    }

    /// Adds a station that says that it has the address.
    pub(super) fn add_claim(&mut self, station: Mac) {
        if self.claimants.len() < MOST_CLAIMANTS && !self.claimants.contains(&station) {
            self.claimants.push(station);
        }
    }
}

/// Returns a random address of the subnet of a lease that is none of the lease's and of `own`;
/// `None` in a subnet with too few.
pub(super) fn random_address(
    lease: &Lease,
    own: &[Ipv4Addr],
    mut random: impl FnMut() -> u32,
) -> Option<Ipv4Addr> {
    let hosts = !mask(lease.prefix_len).to_bits();
    let subnet = network(lease.address, lease.prefix_len).to_bits();
    let is_known = |address: &Ipv4Addr| {
        let known = [lease.address, lease.server_id].contains(address);
        let listed = [&lease.routers, &lease.dns_servers, &lease.ntp_servers];
        known || own.contains(address) || listed.iter().any(|list| list.contains(address))
    };
    (0..ATTEMPTS)
        .map(|_| random() & hosts)
        // Neither the network itself nor its broadcast address.
        .filter(|host| *host != 0 && *host != hosts)
        .map(|host| Ipv4Addr::from_bits(subnet | host))
        .find(|address| !is_known(address))
}
