//! The stations that have the offered addresses, by their answers to ARP probes.

use std::net::Ipv4Addr;

use super::address_probe::ProbePurpose;
use super::{Discovery, OfferingServer};
use crate::dhcp::lease::Lease;
use crate::mac::Mac;
use crate::time::Instant;

impl Discovery {
    /// Returns the random address that was probed.
    pub(crate) fn random_address(&self) -> Option<Ipv4Addr> {
        let mut probes = self.probes.iter();
        let random = probes.find(|probe| probe.purpose == ProbePurpose::Random);
        random.map(|probe| probe.address)
    }

    /// Returns the stations that answer for an offered address and for the random one, or for the
    /// router of the offer: proxy ARP. A gateway need not answer for addresses of its own link.
    pub(crate) fn proxy_arp_stations(&self) -> Vec<Mac> {
        let random = self.random_address();
        let mut stations = Vec::new();
        for lease in self.servers.iter().filter_map(offered_lease) {
            let others = random.into_iter().chain(router_to_ask(lease));
            let others: Vec<_> = others.filter(|other| *other != lease.address).collect();
            for by in self.claimants(lease.address) {
                let is_proxy = others.iter().any(|it| self.claimants(*it).contains(by));
                if is_proxy && !stations.contains(by) {
                    stations.push(*by);
                }
            }
        }
        stations
    }

    /// Returns the station that has the address which a server offers.
    ///
    /// As for the client, a station that does proxy ARP has no claim, and neither has the server's
    /// own, because a server does not lease its own address; if it offers that, it has one.
    pub(crate) fn owner(&self, server: &OfferingServer) -> Option<Mac> {
        let lease = offered_lease(server)?;
        let is_servers_own = lease.address == server.id || lease.routers.contains(&lease.address);
        let proxies = self.proxy_arp_stations();
        let mut claimants = self.claimants(lease.address).iter();
        claimants
            .find(|by| is_servers_own || **by != server.mac && !proxies.contains(by))
            .copied()
    }

    /// Returns whether other stations had the time to claim the address which a server offers, or
    /// it is this station's own.
    pub(crate) fn is_offer_probed(&self, server: &OfferingServer, now: Instant) -> bool {
        offered_lease(server).is_none_or(|lease| {
            let mut probes = self.probes.iter();
            self.settings.own_addresses.contains(&lease.address)
                || probes.any(|probe| probe.address == lease.address && probe.is_awaited(now))
        })
    }

    fn claimants(&self, address: Ipv4Addr) -> &[Mac] {
        let mut probes = self.probes.iter();
        let probe = probes.find(|probe| probe.address == address);
        probe.map_or(&[], |probe| &probe.claimants)
    }
}

fn offered_lease(server: &OfferingServer) -> Option<&Lease> {
    server.offer.as_ref().map(|offer| &offer.lease)
}

/// Returns the router that tells whether a claimant does proxy ARP, as for the client: the first
/// one. The server itself is known by its replies.
pub(super) fn router_to_ask(lease: &Lease) -> Option<Ipv4Addr> {
    let first = lease.routers.first().copied();
    first.filter(|router| *router != lease.server_id)
}
