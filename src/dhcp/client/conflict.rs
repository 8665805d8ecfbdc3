//! Claims of other stations to our address, by ARP (RFC 5227): one that is not in use yet is turned
//! down, one in use is defended.

use super::Client;
use super::claim::{ARP_TIMEOUT, Claims, ConflictWatch, Defence, router_to_ask};
use super::state::{HeldLease, State};
use crate::dhcp::config::Probe;
use crate::dhcp::event::{Event, LossReason};
use crate::dhcp::frame::Arp;
use crate::dhcp::ignored::Ignored;
use crate::dhcp::lease::Lease;
use crate::mac::Mac;
use crate::time::Instant;
use std::net::Ipv4Addr;

/// As many conflicts are remembered, to know a station again that claims another address.
const MAX_CONFLICTS: usize = 4;
/// As many stations that answer for every address are known at most; the one that was found first
/// is forgotten.
const MAX_PROXY_ARP: usize = 8;

impl Client {
    /// Tells the client that connections may depend on the lease from now on: a claim to its
    /// address is answered by a defence (RFC 5227 §2.4), and no more by a DECLINE.
    pub fn mark_in_use(&mut self) {
        if let State::Bound {
            watch: Some(watch), ..
        } = &mut self.state
        {
            watch.is_in_use = true;
        }
    }

    pub(super) fn handle_arp(&mut self, arp: Arp, now: Instant) -> Result<(), Ignored> {
        if let State::Releasing { .. } = self.state {
            return self.handle_next_hop(arp, now);
        }
        let by = arp.sender.0;
        // Our own words may come back to us; they are no conflict (RFC 5227 §2.1.1).
        if self.config.probe == Probe::Off || by == self.config.mac {
            return Err(Ignored::NotDhcp);
        }
        if arp.is_reply
            && arp.target.0 == self.config.mac
            && self.checked_station() == Some((by, arp.sender.1))
        {
            self.confirm_proxy_arp(by, now);
            return Ok(());
        }
        let is_watched = self.is_address_watched();
        if let Some(lease) = self
            .watched_lease(is_watched)
            .filter(|lease| arp.conflicts_with(lease.address))
            && self.is_proxy_arp(by, lease)
        {
            let address = lease.address;
            return if arp.sender.1 == address {
                self.add_proxy_arp(by, address)
            } else {
                Err(Ignored::NotDhcp)
            };
        }
        self.handle_claim(arp, is_watched, now)
    }

    /// Takes in a packet that may claim the address at stake, from a station that does not answer
    /// for every address.
    fn handle_claim(&mut self, arp: Arp, is_watched: bool, now: Instant) -> Result<(), Ignored> {
        let by = arp.sender.0;
        let conflicts = |address| arp.conflicts_with(address);
        let is_claim_to = |address| arp.sender.1 == address;
        match &mut self.state {
            State::Requesting { offer, claims, .. } if conflicts(offer.address) => {
                claims.add(by, now)
            }
            State::Rebooting {
                address, claims, ..
            } if conflicts(*address) => claims.add(by, now),
            State::Probing {
                lease, check: None, ..
            } if conflicts(lease.address) => {
                let lease = lease.clone();
                self.state = self.check_claim(lease, by, now);
            }
            // The one probe took no time of its own, so this is the rest of the time that RFC 5227
            // §2.1.1 listens before an address is used: the owner is late, and there is no
            // connection yet to be kept. After a rapid commit it is the DECLINE of RFC 4039 §3.1.
            State::Bound {
                held,
                watch:
                    Some(ConflictWatch {
                        announce: true,
                        is_in_use: false,
                        ..
                    }),
            } if is_claim_to(held.lease.address) => {
                let old = held.lease.clone();
                self.send_decline(old.address, old.server_id, by, now);
                self.state = self.lose(old, LossReason::Conflict { by }, now);
            }
            // RFC 5227 §2.4: any ARP packet of another station that has our address as its sender's.
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. }
                if is_watched && is_claim_to(held.lease.address) =>
            {
                return self.defend(by, now);
            }
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Bound { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Releasing { .. }
            | State::Stopped => return Err(Ignored::NotDhcp),
        }
        Ok(())
    }

    /// Answers a claim to the address in use. A single frame, which any station can forge, costs
    /// nothing but an announcement; a station that repeats its claim has the address, or will not
    /// give way.
    ///
    /// RFC 5227 §2.4 (b): an address is defended once in `DEFEND_INTERVAL`, and given up at the
    /// next conflict. We confess to counting conflicts with the same station only, lest two forged
    /// frames with two names in them do what one cannot. No DECLINE: the address was ours, and was
    /// in use. If the server offers it again, it is probed as any other, and declined if its owner
    /// answers. The router is asked after as well: a station that answers for it, too, is the
    /// router, or answers for every address, and has no claim.
    fn defend(&mut self, by: Mac, now: Instant) -> Result<(), Ignored> {
        let Some(held) = self.held_mut() else {
            return Err(Ignored::NotDhcp);
        };
        let address = held.lease.address;
        match held.defence {
            Some(defence) if defence.against == by && defence.counts_from <= now => {
                let old = held.lease.clone();
                self.state = self.lose(old, LossReason::Conflict { by }, now);
            }
            Some(_) => return Err(Ignored::NotDhcp),
            None => {
                let router = router_to_ask(&held.lease);
                let counts_from = if router.is_some() {
                    now + ARP_TIMEOUT
                } else {
                    now
                };
                held.defence = Some(Defence::new(by, counts_from, now));
                self.remember_conflict(by, address);
                if let Some(router) = router {
                    self.send_arp(Arp::request((self.config.mac, address), router));
                }
                self.announce(address);
                self.events.push_back(Event::Contested { address, by });
            }
        }
        Ok(())
    }

    /// The lease that claims of other stations are about, where they are listened to.
    fn watched_lease(&self, is_watched: bool) -> Option<&Lease> {
        match &self.state {
            State::Requesting { offer, .. } => Some(offer),
            State::Probing { lease, .. } => Some(lease),
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => is_watched.then_some(&held.lease),
            State::Init { .. }
            | State::Selecting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Releasing { .. }
            | State::Stopped => None,
        }
    }

    /// Returns whether a station that claims the address of this lease is taken to claim every
    /// address: gateways with proxy ARP, hosts of virtual machines and private VLANs have such
    /// stations. RFC 5227 has no word for them, and by its letter (RFC 5227 §2.1.1) no address could
    /// be used there, so we confess: the DHCP server's own station is one, for it would not lease
    /// what it has; and so is one that has claimed another address of ours before.
    fn is_proxy_arp(&self, by: Mac, lease: &Lease) -> bool {
        let is_servers_own =
            lease.address == lease.server_id || lease.routers.contains(&lease.address);
        let has_claimed_another = || {
            self.conflicts
                .iter()
                .any(|known| known.0 == by && known.1 != lease.address)
        };
        let is_server = lease.server_mac == Some(by);
        !is_servers_own
            && (self.config.proxy_arp.contains(&by) || is_server || has_claimed_another())
    }

    /// Notes that a station answers for every address. One that is known already changes nothing.
    fn add_proxy_arp(&mut self, by: Mac, address: Ipv4Addr) -> Result<(), Ignored> {
        if self.config.proxy_arp.contains(&by) {
            return Err(Ignored::NotDhcp);
        }
        if self.config.proxy_arp.len() >= MAX_PROXY_ARP {
            self.config.proxy_arp.remove(0);
        }
        self.config.proxy_arp.push(by);
        self.events.push_back(Event::ProxyArp { address, by });
        Ok(())
    }

    /// Remembers a station that has cost us an address, or may.
    pub(super) fn remember_conflict(&mut self, by: Mac, address: Ipv4Addr) {
        self.conflicts.retain(|known| *known != (by, address));
        self.conflicts.truncate(MAX_CONFLICTS - 1);
        self.conflicts.push_front((by, address));
    }

    /// Returns the owner of a lease's address among the stations that have claimed it. Those that
    /// answer for every address are noted.
    pub(super) fn find_owner(
        &mut self,
        claims: Claims,
        lease: &Lease,
        now: Instant,
    ) -> Option<Mac> {
        let mut owner = None;
        for by in claims.stations(now) {
            if self.is_proxy_arp(by, lease) {
                // Where it is known already, there is nothing to note.
                let _ = self.add_proxy_arp(by, lease.address);
            } else {
                owner = owner.or(Some(by));
            }
        }
        owner
    }

    /// Returns the station whose claim is in doubt, and the address of the router that it may be,
    /// or answer for.
    fn checked_station(&self) -> Option<(Mac, Ipv4Addr)> {
        if let State::Probing {
            check: Some(check), ..
        } = &self.state
        {
            return Some((check.by, check.router));
        }
        let held = self.held()?;
        held.defence
            .map(|defence| defence.against)
            .zip(router_to_ask(&held.lease))
    }

    /// Takes a station whose claim was in doubt for one that answers for every address: the lease
    /// is used, or stays in use.
    fn confirm_proxy_arp(&mut self, by: Mac, now: Instant) {
        if let State::Probing { lease, .. } = &self.state {
            let lease = lease.clone();
            let _ = self.add_proxy_arp(by, lease.address);
            self.state = match self.config.probe {
                Probe::Before(probes @ 1..) => self.probe(lease, probes, now),
                Probe::Before(0) | Probe::WithRequest | Probe::Off => {
                    // Its claim may have come after that of an owner, which answers once more.
                    self.probe_with_request(lease.address);
                    self.bind_first(*lease, now)
                }
            };
        } else if let Some(held) = self.held_mut() {
            let address = held.lease.address;
            held.defence = None;
            let _ = self.add_proxy_arp(by, address);
        }
    }

    /// Returns when a caller stops waiting whose lease is not in use yet.
    pub(super) fn caller_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Bound {
                watch: Some(watch), ..
            } if !watch.is_in_use => watch.deadline,
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Bound { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Releasing { .. }
            | State::Stopped => None,
        }
    }

    /// Sends the probe behind the announcement, since the kernel of an owner answers probes and
    /// does not announce by itself; forgets the claim in the end.
    pub(super) fn continue_defence(&mut self, now: Instant) {
        let Some(held) = self.held_mut() else { return };
        let address = held.lease.address;
        match &mut held.defence {
            Some(defence) if now < defence.until => {
                defence.probe_at = None;
                self.probe_own_address(address);
            }
            defence => *defence = None,
        }
    }

    /// Returns the claim to the address in use that was answered last, as long as it counts.
    pub(super) fn defence(&self) -> Option<Defence> {
        self.held().and_then(|held| held.defence)
    }

    /// Returns whether claims to the address in use are listened for. A flood of claims does not
    /// make this last: a claim that is heard in a state that had ended its listening starts no
    /// defence.
    fn is_address_watched(&self) -> bool {
        match &self.state {
            State::Bound { held, watch } => watch.is_some() || held.defence.is_some(),
            State::Renewing { held, .. } | State::Rebinding { held, .. } => {
                self.stop_listening_at.is_some() || held.defence.is_some()
            }
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::Probing { .. } => false,
            State::InitReboot { .. } | State::Rebooting { .. } => false,
            State::Releasing { .. } | State::Stopped => false,
        }
    }

    fn held_mut(&mut self) -> Option<&mut HeldLease> {
        match &mut self.state {
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::Probing { .. } => None,
            State::InitReboot { .. } | State::Rebooting { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }
}
