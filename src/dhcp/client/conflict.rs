//! ARP claims of other stations to our address (RFC 5227): an address that is not in use yet is
//! declined, one in use is defended.

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

/// Remembered conflicts, to recognize a station that claims a second address.
const MAX_CONFLICTS: usize = 4;
/// Known proxy ARP stations; the oldest is replaced.
const MAX_PROXY_ARP: usize = 8;

impl Client {
    /// Marks the lease as used by connections. From now on a claim to its address is answered by a
    /// defence (RFC 5227 §2.4) and no longer by a DECLINE.
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
        // Our own packets may be reflected; they are no conflict (RFC 5227 §2.1.1).
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

    /// Handles an ARP packet of a station that is not known for proxy ARP.
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
            // The probe went with the REQUEST, so this is the rest of the time for which
            // RFC 5227 §2.1.1 listens before an address is used: the owner answers late, and there
            // is no connection yet to keep. After a rapid commit it is the DECLINE of
            // RFC 4039 §3.1.
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
            // RFC 5227 §2.4: any ARP packet of another station with our address as its sender
            // address.
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

    /// Defends the address in use against the first claim of a station, and gives it up at the
    /// second. A single frame, which any station can forge, costs no more than an announcement.
    ///
    /// RFC 5227 §2.4 (b): an address is defended once in `DEFEND_INTERVAL`, and given up at the
    /// next conflict. Deviation: only conflicts with the same station count, or two forged frames
    /// with different senders would take the address. No DECLINE is sent, because the address was
    /// in use. If the server offers it again, it is probed and declined like any other.
    ///
    /// The router is asked as well: a station that also answers for the router is the router or
    /// does proxy ARP, and has no claim.
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

    /// Returns the lease whose address is watched for claims.
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

    /// Returns whether a station that claims the address of this lease does proxy ARP, that is,
    /// answers for every address. Gateways, hosts of virtual machines and private VLANs have such
    /// stations.
    ///
    /// Deviation: by RFC 5227 §2.1.1 no address could be used there. The DHCP server's own station
    /// does proxy ARP, because a server does not lease its own address; so does a station that has
    /// claimed another address of ours before.
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

    /// Adds a station that does proxy ARP. Ignores the packet if it is known already.
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

    /// Remembers a station that claims an address of ours.
    pub(super) fn remember_conflict(&mut self, by: Mac, address: Ipv4Addr) {
        self.conflicts.retain(|known| *known != (by, address));
        self.conflicts.truncate(MAX_CONFLICTS - 1);
        self.conflicts.push_front((by, address));
    }

    /// Returns the owner of a lease's address among the stations that have claimed it, and adds the
    /// others to those that do proxy ARP.
    pub(super) fn find_owner(
        &mut self,
        claims: Claims,
        lease: &Lease,
        now: Instant,
    ) -> Option<Mac> {
        let mut owner = None;
        for by in claims.stations(now) {
            if self.is_proxy_arp(by, lease) {
                // An error means that it is known already.
                let _ = self.add_proxy_arp(by, lease.address);
            } else {
                owner = owner.or(Some(by));
            }
        }
        owner
    }

    /// Returns the station that is checked for proxy ARP, and the router's address.
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

    /// Concludes that a station does proxy ARP: the lease is used, or stays in use.
    fn confirm_proxy_arp(&mut self, by: Mac, now: Instant) {
        if let State::Probing { lease, .. } = &self.state {
            let lease = lease.clone();
            let _ = self.add_proxy_arp(by, lease.address);
            self.state = match self.config.probe {
                Probe::Before(probes @ 1..) => self.probe(lease, probes, now),
                Probe::Before(0) | Probe::WithRequest | Probe::Off => {
                    // Its claim may have replaced that of an owner, which answers this probe again.
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

    /// Returns the deadline of a caller whose lease is not in use yet.
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

    /// Sends the probe after the announcement, because the kernel of an owner answers probes and
    /// not announcements. Ends the defence when its time is over.
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

    /// Returns the current defence of the address in use.
    pub(super) fn defence(&self) -> Option<Defence> {
        self.held().and_then(|held| held.defence)
    }

    /// Returns whether claims to the address in use are heard. A flood of claims does not prolong
    /// this: a claim in a state that no longer listens starts no defence.
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
