//! DHCP replies, by the state in which they arrive. The state changes only after the whole reply
//! was checked.

use super::Client;
use super::claim::Claims;
use super::state::State;
use crate::dhcp::acquire_error::AcquireError;
use crate::dhcp::config::Probe;
use crate::dhcp::event::{Event, LossReason};
use crate::dhcp::exchange::Exchange;
use crate::dhcp::frame::Arp;
use crate::dhcp::ignored::Ignored;
use crate::dhcp::lease::Lease;
use crate::dhcp::lease::{MIN_T1, granted_time};
use crate::dhcp::message::ServerMessage;
use crate::dhcp::option;
use crate::dhcp::plainness::Plainness;
use crate::time::Instant;
use smoltcp::wire::DhcpMessageType as Type;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The time for which the first OFFER waits for an OFFER of the requested address.
const PREFERRED_OFFER_WAIT: Duration = Duration::from_millis(100);

impl Client {
    /// Handles a reply according to the state (RFC 2131 figure 5).
    pub(super) fn handle_reply(
        &mut self,
        reply: &ServerMessage,
        now: Instant,
    ) -> Result<(), Ignored> {
        // A late or repeated reply has another xid (RFC 2131 §4.4.1 and figure 4).
        let exchange = self
            .exchange()
            .filter(|exchange| exchange.is_answered_by(reply.xid))
            .ok_or(Ignored::OtherExchange)?;
        let server = self
            .server_of(reply)
            .ok_or(Ignored::Incomplete("server identifier"))?;
        if !self.config.allows(server) {
            self.count_unusable_offer(reply, server, "that the configuration excludes");
            return Err(Ignored::OtherServer(server));
        }
        self.state = match (&self.state, reply.message_type) {
            (State::Selecting { second_best, .. }, Type::Offer) => {
                let has_second_best = second_best.is_some();
                self.accept_offer(reply, server, has_second_best, exchange, now)?
            }
            // RFC 4039 §3: an ACK to a DISCOVER is accepted only with the option that was sent.
            (State::Selecting { .. }, Type::Ack)
                if reply.is_rapid() && self.has_asked_for_rapid_commit(reply.xid) =>
            {
                self.accept_ack(reply, server, None, exchange, now)?
            }
            // Some servers have two identifiers, or none. No other server knows the transaction and
            // the address.
            (State::Requesting { offer, .. }, Type::Ack)
                if !is_from_server_of(offer, reply) && reply.address != offer.address =>
            {
                return Err(Ignored::OtherServer(server));
            }
            (State::Requesting { offer, .. }, Type::Nak) if !is_from_server_of(offer, reply) => {
                return Err(Ignored::OtherServer(server));
            }
            // RFC 2131 §4.4.2: any server may confirm a previous address.
            (State::Requesting { .. } | State::Rebooting { .. }, Type::Ack) => {
                self.accept_ack(reply, server, None, exchange, now)?
            }
            (State::Renewing { held, .. } | State::Rebinding { held, .. }, Type::Ack) => {
                let old = held.lease.clone();
                self.accept_ack(reply, server, Some(old), exchange, now)?
            }
            // RFC 2131 §4.3.2: in RENEWING only the leasing server may refuse. In REBINDING any
            // server may, but a NAK without an identifier must come from the leasing server.
            (State::Renewing { held, .. }, Type::Nak) if !is_from_server_of(&held.lease, reply) => {
                return Err(Ignored::OtherServer(server));
            }
            (State::Rebinding { held, .. }, Type::Nak)
                if reply.server().is_none() && !is_from_server_of(&held.lease, reply) =>
            {
                return Err(Ignored::OtherServer(server));
            }
            (State::Renewing { held, .. } | State::Rebinding { held, .. }, Type::Nak) => {
                let (old, message) = (held.lease.clone(), reply.options.text(option::MESSAGE));
                self.lose(old, LossReason::Refused { server, message }, now)
            }
            // RFC 2131 §3.1 (5): the requested address is not available.
            (State::Requesting { .. } | State::Rebooting { .. }, Type::Nak) => {
                let message = reply.options.text(option::MESSAGE);
                self.start_over(AcquireError::Refused { server, message }, now)
            }
            // This includes an ACK to a DISCOVER without rapid commit (RFC 2131 §4.4.1).
            (_, message_type) => {
                return Err(Ignored::Unexpected {
                    message_type: message_type.into(),
                    state: self.state(),
                });
            }
        };
        Ok(())
    }

    /// Returns the server of a reply: its identifier (RFC 2131 §4.3.1 wants one in each reply).
    /// Without one, the server of this transaction if the reply comes from its station, else the
    /// reply's source address.
    fn server_of(&self, reply: &ServerMessage) -> Option<Ipv4Addr> {
        let known = match &self.state {
            State::Requesting { offer, .. } => Some(&**offer),
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(&held.lease),
            State::Init { .. }
            | State::Selecting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Releasing { .. }
            | State::Stopped => None,
        };
        let known = known
            .filter(|lease| is_from_server_of(lease, reply))
            .map(|lease| lease.server_id);
        self.renewing_server(reply)
            .or(reply.server())
            .or(known)
            .or_else(|| reply.fallback_server())
    }

    /// Returns the leasing server if it answers its renewal, whatever identifier it gives: by
    /// another one the next unicast would not reach it.
    fn renewing_server(&self, reply: &ServerMessage) -> Option<Ipv4Addr> {
        let State::Renewing { held, .. } = &self.state else {
            return None;
        };
        let server = held.lease.server_id;
        (reply.message_type == Type::Ack && reply.source() == server).then_some(server)
    }

    fn has_asked_for_rapid_commit(&self, xid: u32) -> bool {
        self.config.rapid_commit && Plainness::from_xid(xid).has_rapid_commit()
    }

    /// Counts an OFFER that cannot become a lease, for the error message.
    fn count_unusable_offer(
        &mut self,
        reply: &ServerMessage,
        server: Ipv4Addr,
        fault: &'static str,
    ) {
        if let (State::Selecting { .. }, Type::Offer) = (&self.state, reply.message_type) {
            let offers = self.search.unusable_offers.map_or(0, |(.., offers)| offers);
            self.search.unusable_offers = Some((server, fault, offers.saturating_add(1)));
        }
    }

    /// SELECTING -> REQUESTING. Only an OFFER that can become a lease is accepted (RFC 2131 §4.3.2,
    /// figure 5).
    ///
    /// The first one is taken (RFC 2131 §4.4.1 leaves the choice to the client), unless an address
    /// is requested: then an OFFER of that address is waited for.
    fn accept_offer(
        &mut self,
        reply: &ServerMessage,
        server: Ipv4Addr,
        has_second_best: bool,
        discover: Exchange,
        now: Instant,
    ) -> Result<State, Ignored> {
        let (offer, _) = Lease::read(reply, (server, None), now).inspect_err(|_| {
            self.count_unusable_offer(reply, server, "without an address that a host can have")
        })?;
        let is_wanted = self
            .search
            .wanted
            .is_none_or(|wanted| wanted == offer.address);
        if has_second_best && !is_wanted {
            return Err(Ignored::Unexpected {
                message_type: Type::Offer.into(),
                state: self.state(),
            });
        }
        // The next messages have the plainness of the DISCOVER that the server has answered.
        (self.plainness, self.search.unanswered) = (Plainness::from_xid(reply.xid), 0);
        let offer = Box::new(offer);
        if is_wanted {
            return Ok(self.request(discover.into_request(now), offer, Claims::default(), now));
        }
        Ok(State::Selecting {
            exchange: discover,
            second_best: Some((offer, now + PREFERRED_OFFER_WAIT)),
        })
    }

    /// SELECTING, REQUESTING, REBOOTING, RENEWING or REBINDING -> BOUND, if no other station has
    /// the address.
    fn accept_ack(
        &mut self,
        reply: &ServerMessage,
        server: Ipv4Addr,
        old: Option<Lease>,
        request: Exchange,
        now: Instant,
    ) -> Result<State, Ignored> {
        // RFC 2131 §4.3.2: the values of the ACK count. Missing ones are taken from the OFFER or
        // from the lease before.
        let known = match &self.state {
            State::Requesting { offer, .. } => Some(&**offer),
            State::Init { .. }
            | State::Selecting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Bound { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Releasing { .. }
            | State::Stopped => old.as_ref(),
        };
        let (new, unusable) = Lease::read(reply, (server, known), request.since)?;
        if new.expires_at().is_some_and(|expiry| expiry <= now) {
            return Err(Ignored::Incomplete("time left"));
        }
        if let State::Selecting { .. } = self.state {
            self.plainness = Plainness::from_xid(reply.xid);
        }
        let (is_asked_for, claims) = match &self.state {
            State::Requesting { offer, claims, .. } if offer.address == new.address => {
                (true, *claims)
            }
            State::Rebooting {
                address, claims, ..
            } if *address == new.address => (true, *claims),
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
            | State::Stopped => (false, Claims::default()),
        };
        let owner = self.find_owner(claims, &new, now);
        // A renewal that changes nothing has reported them before.
        if !unusable.is_empty() && old.as_ref().is_none_or(|old| !old.same_settings(&new)) {
            self.events.push_back(Event::Unusable {
                server,
                values: unusable,
            });
        }
        // Deviation: RFC 2131 table 3 wants a time in each lease. Without one, an hour is assumed.
        if old.is_none() && granted_time(reply).is_none() {
            self.events.push_back(Event::NoLeaseTime {
                server,
                assumed: new.lease_time,
            });
        }
        Ok(match (old, owner, self.config.probe) {
            // RFC 2131 §4.4.1 and figure 5: REQUESTING -> INIT, with a DECLINE.
            (None, Some(by), _) => self.check_claim(Box::new(new), by, now),
            (None, None, Probe::Before(probes @ 1..)) => self.probe(Box::new(new), probes, now),
            (None, None, _) => {
                if !is_asked_for {
                    // There was no REQUEST with a probe (RFC 4039 §3.1), or it was for another
                    // address.
                    self.probe_with_request(new.address);
                }
                self.bind_first(new, now)
            }
            (Some(old), ..) => self.extend(old, new, now),
        })
    }

    /// Handles the ARP reply of the next hop of a RELEASE.
    pub(super) fn handle_next_hop(&mut self, arp: Arp, now: Instant) -> Result<(), Ignored> {
        let State::Releasing {
            lease, next_hop, ..
        } = &self.state
        else {
            return Err(Ignored::NotDhcp);
        };
        if !arp.is_reply || arp.sender.1 != *next_hop || arp.target.0 != self.config.mac {
            return Err(Ignored::NotDhcp);
        }
        let lease = Lease {
            server_mac: Some(arp.sender.0),
            ..lease.clone()
        };
        self.state = self.send_release(&lease, arp.sender.0, now);
        Ok(())
    }

    /// RENEWING or REBINDING -> BOUND. Another address replaces the old one (RFC 2131 §4.4.5).
    fn extend(&mut self, old: Lease, new: Lease, now: Instant) -> State {
        // An answered renewal does not count against the hourly limit, which a lease of half a
        // minute would exhaust in half an hour. The server chooses the length of a lease, so this
        // applies only to renewals that are some seconds apart.
        if new.acquired_at - old.acquired_at >= MIN_T1 {
            self.rate.put_back();
        }
        if matches!(self.state, State::Rebinding { .. }) {
            self.tally.rebinds += 1;
        } else {
            self.tally.renewals += 1;
        }
        // Each renewal makes up for one earlier failure.
        self.failures = self.failures.saturating_sub(1);
        let moved = old.address != new.address;
        let told = Box::new(new.clone());
        self.events.push_back(if old.same_settings(&new) {
            Event::Renewed(told)
        } else {
            Event::Changed {
                old: Box::new(old),
                new: told,
            }
        });
        let watch = if moved {
            // The server does not wait, so there is time for one probe only.
            self.probe_own_address(new.address);
            self.announce_new(new.address, now)
        } else {
            self.watch_after_renewal(now)
        };
        let defence = self.defence().filter(|_| !moved);
        self.bind(new, (watch, defence), now)
    }
}

/// Returns whether a reply is from the server of this lease: by its identifier or, without one, by
/// its station.
fn is_from_server_of(lease: &Lease, reply: &ServerMessage) -> bool {
    match reply.server() {
        Some(server) => server == lease.server_id,
        None => lease.server_mac.is_none_or(|station| station == reply.from),
    }
}
