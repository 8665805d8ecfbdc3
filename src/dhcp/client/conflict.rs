//! Claims of other stations to our address, by ARP (RFC 5227): one that is not in use yet is turned down, one in use is
//! defended.

use super::{Client, Held, Offer, State, Vigil};
use crate::dhcp::frame::Arp;
use crate::dhcp::{Event, Ignored, Lost, Mac, Probe};
use crate::time::Instant;
use std::time::Duration;

/// How long a claim counts: DEFEND_INTERVAL (RFC 5227 1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// From the announcement that defends an address to the probe behind it. A kernel that has the address answers within
/// milliseconds; this leaves a slow one eight seconds more.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A claim to an address that is not in use yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    by: Mac,
    at: Instant,
}

impl Claim {
    /// Returns the station, as long as its claim counts. Each REQUEST is repeated together with its probe, and an owner
    /// answers each of them: an older claim is that of a station that has gone, or was never there.
    pub(super) fn station(self, now: Instant) -> Option<Mac> {
        (now - self.at < DEFEND_INTERVAL).then_some(self.by)
    }
}

/// A claim to the address in use that was answered by an announcement (RFC 5227 2.4 (b)).
///
/// Only one station is remembered at a time: however many of them claim the address, there is one announcement in
/// [`DEFEND_INTERVAL`], and what is heard of the others does not make it longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defence {
    /// The address is given up if this station claims it again.
    against: Mac,
    /// When to ask for the claim to be repeated; `None` once that was done.
    ask_at: Option<Instant>,
    until: Instant,
}

impl Defence {
    fn new(against: Mac, now: Instant) -> Self {
        Self { against, ask_at: Some(now + ASK_AGAIN), until: now + DEFEND_INTERVAL }
    }

    /// Returns when [`Client::go_on_defending`] has something to do.
    pub(super) fn due(self, carrier: bool) -> Instant {
        self.ask_at.filter(|_| carrier).unwrap_or(self.until).min(self.until)
    }
}

impl Client {
    /// Tells the client that connections may depend on the lease from now on: a claim to its address is answered by a
    /// defence (RFC 5227 2.4), and no more by a DECLINE.
    pub fn mark_in_use(&mut self) {
        if let State::Bound { vigil: Some(vigil), .. } = &mut self.state {
            vigil.is_in_use = true;
        }
    }

    pub(super) fn handle_arp(&mut self, arp: Arp, now: Instant) -> Result<(), Ignored> {
        if let State::Releasing { .. } = self.state {
            return self.hear_next_hop(arp, now);
        }
        let by = arp.sender.0;
        // Our own words may come back to us; they are no conflict (RFC 5227 2.1.1).
        if self.config.probe == Probe::Off || by == self.config.mac {
            return Err(Ignored::NotDhcp);
        }
        let is_watched = self.is_address_watched();
        let claims = |address| arp.sender.1 == address;
        // A station that probes for an address that is not in use yet would use it as soon as we do (RFC 5227 2.1.1).
        let wants =
            |address| claims(address) || (!arp.is_reply && arp.sender.1.is_unspecified() && arp.target.1 == address);
        match &mut self.state {
            State::Requesting { offer: Offer { address, .. }, taken_by, .. }
            | State::Rebooting { address, taken_by, .. }
                if wants(*address) =>
            {
                *taken_by = Some(Claim { by, at: now });
            }
            State::Probing { lease, .. } if wants(lease.address) => {
                let (address, server) = (lease.address, lease.server_id);
                self.state = self.refuse(address, server, by, now);
            }
            // The one probe took no time of its own, so this is the rest of the time that RFC 5227 2.1.1 listens before an
            // address is used: the owner is late, and there is no connection yet to be kept. After a rapid commit it is
            // the DECLINE of RFC 4039 3.1.
            State::Bound { held, vigil: Some(Vigil { announce: true, is_in_use: false, .. }) }
                if claims(held.lease.address) =>
            {
                let old = held.lease.clone();
                self.decline(old.address, old.server_id, by, now);
                self.state = self.lose(old, Lost::Conflict { by }, now);
            }
            // RFC 5227 2.4: any ARP packet of another station that has our address as its sender's.
            State::Bound { held, .. } | State::Renewing { held, .. } | State::Rebinding { held, .. }
                if is_watched && claims(held.lease.address) =>
            {
                return self.contest(by, now);
            }
            _ => return Err(Ignored::NotDhcp),
        }
        Ok(())
    }

    /// Answers a claim to the address in use. A single frame, which any station can forge, costs nothing but an
    /// announcement; a station that repeats its claim has the address, or will not give way.
    ///
    /// RFC 5227 2.4 (b): an address is defended once in [`DEFEND_INTERVAL`], and given up at the next conflict. We confess
    /// to counting conflicts with the same station only, lest two forged frames with two names in them do what one cannot.
    /// No DECLINE: the address was ours, and was in use. If the server offers it again, it is probed as any other, and
    /// declined if its owner answers.
    fn contest(&mut self, by: Mac, now: Instant) -> Result<(), Ignored> {
        let Some(held) = self.held_mut() else { return Err(Ignored::NotDhcp) };
        let address = held.lease.address;
        match held.defence {
            Some(defence) if defence.against == by => {
                let old = held.lease.clone();
                self.state = self.lose(old, Lost::Conflict { by }, now);
            }
            Some(_) => return Err(Ignored::NotDhcp),
            None => {
                held.defence = Some(Defence::new(by, now));
                self.announce(address);
                self.events.push_back(Event::Contested { address, by });
            }
        }
        Ok(())
    }

    /// Sends the probe behind the announcement, since the kernel of an owner answers probes and does not announce by itself;
    /// forgets the claim in the end.
    pub(super) fn go_on_defending(&mut self, now: Instant) {
        let Some(held) = self.held_mut() else { return };
        let address = held.lease.address;
        match &mut held.defence {
            Some(defence) if now < defence.until => {
                defence.ask_at = None;
                self.probe_own(address);
            }
            defence => *defence = None,
        }
    }

    /// Returns the claim to the address in use that was answered last, as long as it counts.
    pub(super) fn defence(&self) -> Option<Defence> {
        self.held().and_then(|held| held.defence)
    }

    /// Returns whether claims to the address in use are listened for. A flood of claims does not make this last: a claim
    /// that is heard in a state that had ended its listening starts no defence.
    fn is_address_watched(&self) -> bool {
        match &self.state {
            State::Bound { held, vigil } => vigil.is_some() || held.defence.is_some(),
            State::Renewing { held, .. } | State::Rebinding { held, .. } => {
                self.deaf_at.is_some() || held.defence.is_some()
            }
            State::Init { .. } | State::Selecting { .. } | State::Requesting { .. } | State::Probing { .. } => false,
            State::InitReboot { .. } | State::Rebooting { .. } => false,
            State::Releasing { .. } | State::Stopped => false,
        }
    }

    fn held_mut(&mut self) -> Option<&mut Held> {
        match &mut self.state {
            State::Bound { held, .. } | State::Renewing { held, .. } | State::Rebinding { held, .. } => Some(held),
            State::Init { .. } | State::Selecting { .. } | State::Requesting { .. } | State::Probing { .. } => None,
            State::InitReboot { .. } | State::Rebooting { .. } => None,
            State::Releasing { .. } | State::Stopped => None,
        }
    }
}
