//! The transitions of RFC 2131 figure 5: each sends what goes with it, and returns the state that
//! it leads to.

use super::Client;
use super::claim::{ARP_TIMEOUT, Claims, ConflictWatch, Defence};
use super::state::{HeldLease, State};
use crate::dhcp::acquire_error::AcquireError;
use crate::dhcp::backoff::{Backoff, FUZZ};
use crate::dhcp::config::Probe;
use crate::dhcp::event::{Event, LossReason, Transmit};
use crate::dhcp::exchange::{Exchange, Search};
use crate::dhcp::frame::{self, Arp};
use crate::dhcp::lease::Lease;
use crate::dhcp::message::ClientMessage;
use crate::dhcp::plainness::Plainness;
use crate::mac::Mac;
use crate::time::Instant;
use smoltcp::wire::DhcpMessageType as Type;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a remembered address is asked for before any other will do (RFC 2131 §3.2 (3)).
pub(super) const REBOOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a DISCOVER, or the REQUEST of a renewal, is repeated under one xid. A lease counts from
/// the first message with the xid of its ACK; were that hours ago, a server that now leases for
/// less would have given us nothing.
pub(super) const XID_LIFETIME: Duration = Duration::from_secs(60);
/// A lease that was held longer than this has made good for earlier failures.
const STABLE_AFTER: Duration = Duration::from_secs(128);
/// RFC 2131 §3.1 (5): the least to wait after a DECLINE.
const DECLINE_WAIT: Duration = Duration::from_secs(10);

/// Looking for a lease.
impl Client {
    /// To SELECTING (RFC 2131 §4.4.1), or to it again when an `exchange` is under way and no server
    /// has offered anything (RFC 2131 §3.1 (3)).
    pub(super) fn discover(&mut self, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        self.search.discovers = self.search.discovers.saturating_add(1);
        // Counted over all rounds: a server that offers and then falls silent does not make us
        // hasty.
        self.search.pace = self.search.pace.saturating_add(1);
        self.search.unanswered = self.search.unanswered.saturating_add(1);
        self.plainness = Plainness::for_discover(self.search.unanswered).max(self.config.plainness);
        if self.search.unanswered > Plainness::FULL_ATTEMPTS {
            // It may be of another network, or of this one by an earlier number.
            self.search.wanted = None;
        }
        let wait = self
            .backoff
            .discover(self.search.pace, self.search.deadline.is_some());
        exchange.count_sent(self.search.since, now, now + wait);
        let discover = exchange.message(Type::Discover, self.plainness);
        let discover = ClientMessage {
            requested: self.search.wanted,
            ..discover
        };
        self.broadcast(&discover, now);
        State::Selecting {
            exchange,
            second_best: None,
        }
    }

    /// To REQUESTING, or to it again (RFC 2131 §3.1 (5)): for the address and from the server of the
    /// offer (RFC 2131 §4.3.2).
    pub(super) fn request(
        &mut self,
        mut exchange: Exchange,
        offer: Box<Lease>,
        claims: Claims,
        now: Instant,
    ) -> State {
        exchange.sent += 1;
        exchange.next = now
            + self
                .backoff
                .broadcast(exchange.sent, self.search.deadline.is_some());
        let request = exchange.message(Type::Request, self.plainness);
        self.broadcast(
            &ClientMessage {
                requested: Some(offer.address),
                server: Some(offer.server_id),
                ..request
            },
            now,
        );
        self.probe_with_request(offer.address);
        State::Requesting {
            exchange,
            offer,
            claims,
        }
    }

    /// To REBOOTING, or to it again. No server identifier: any server that knows may answer (RFC
    /// 2131 §4.3.2).
    pub(super) fn request_previous(
        &mut self,
        address: Ipv4Addr,
        exchange: Option<Exchange>,
        claims: Claims,
        now: Instant,
    ) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        let next = match exchange.sent {
            0 => now + self.backoff.broadcast(1, true),
            _ => exchange.since + REBOOT_TIMEOUT,
        };
        exchange.count_sent(exchange.since, now, next);
        let request = exchange.message(Type::Request, self.plainness);
        self.broadcast(
            &ClientMessage {
                requested: Some(address),
                ..request
            },
            now,
        );
        self.probe_with_request(address);
        State::Rebooting {
            exchange,
            address,
            claims,
        }
    }

    /// To INIT after a round that came to nothing (RFC 2131 §3.1 (5)), and on from there the later
    /// the more of them there were.
    pub(super) fn start_over(&mut self, why: AcquireError, now: Instant) -> State {
        let in_use = matches!(why, AcquireError::InUse { .. });
        if in_use || matches!(why, AcquireError::Refused { .. }) {
            self.search.wanted = None;
        }
        self.search.last_error = Some(why);
        self.record_failure(in_use, now)
    }

    /// To INIT because the lease has ended (RFC 2131 §4.4.5). No caller waits now, but for one whose
    /// lease has not been in use yet. An address that just ran out would be welcome again.
    pub(super) fn lose(&mut self, old: Lease, why: LossReason, now: Instant) -> State {
        let was_stable = now - old.acquired_at > STABLE_AFTER;
        let was_defended = self.defence().is_some();
        if was_stable {
            self.failures = 0;
        }
        let deadline = self.caller_deadline();
        self.search = Search {
            deadline,
            ..Search::new(now, (why == LossReason::Expired).then_some(old.address))
        };
        if let LossReason::Conflict { by } = why {
            self.search.last_error = Some(AcquireError::InUse {
                address: old.address,
                server: old.server_id,
                by,
            });
        }
        let next = match why {
            // A conflict that comes after so long is no fault of the round that led to the address,
            // and one in use is given up without a DECLINE. Should its server offer it again,
            // declining it is the first failure, which costs no time.
            LossReason::Conflict { .. } if was_stable || was_defended => State::Init { at: now },
            LossReason::Expired => State::Init { at: now },
            LossReason::Refused { .. } => self.record_failure(false, now),
            LossReason::Conflict { .. } => self.record_failure(true, now),
        };
        self.events.push_back(Event::Lost {
            old: Box::new(old),
            why,
        });
        next
    }

    /// The first failure is forgiven, and after it nothing waits: an address that was just declined
    /// is marked in its server, and RFC 2131 §3.1 (5) wants 10 s there only lest client and server
    /// go round in circles. From the second one on it is kept, unless a caller waits: then the
    /// second conflict is forgiven as well, and the waits double to 8 s and no more, where RFC 5227
    /// §2.1.1 wants a minute after ten conflicts (RFC 5227 §1.1). A caller's patience is bounded, and
    /// so is the hourly limit on messages. Where no caller waits, they double to two minutes.
    fn record_failure(&mut self, in_use: bool, now: Instant) -> State {
        self.failures = self.failures.saturating_add(1);
        let caller_waits = self.search.deadline.is_some();
        let forgiven = u32::from(in_use && caller_waits);
        let wait = self
            .backoff
            .start_over(self.failures - forgiven, caller_waits);
        let least = if in_use && !caller_waits && self.failures > 1 {
            DECLINE_WAIT
        } else {
            Duration::ZERO
        };
        State::Init {
            at: now + wait.max(least),
        }
    }

    /// Tells the caller that has waited until now how far the search got (RFC 2131 §3.1 (5)).
    pub(super) fn give_up(&mut self, state: &State, deadline: Instant) -> State {
        let why = match (state, self.search.last_error.take()) {
            _ if !self.carrier => AcquireError::NoCarrier,
            (State::Requesting { offer, .. }, _) => AcquireError::NoAck {
                address: offer.address,
                server: offer.server_id,
            },
            (_, Some(last_error)) => last_error,
            (_, None) => match self.search.unusable_offers {
                Some((server, fault, offers)) => AcquireError::UnusableOffer {
                    server,
                    fault,
                    offers,
                },
                None => AcquireError::NoOffer {
                    within: deadline - self.search.since,
                    discovers: self.search.discovers,
                },
            },
        };
        self.stop(Event::GaveUp(why))
    }

    pub(super) fn stop(&mut self, last_event: Event) -> State {
        self.search.deadline = None;
        self.events.push_back(last_event);
        State::Stopped
    }

    /// The carrier is back: what was under way is said again, and what had not come to a lease
    /// starts anew.
    pub(super) fn on_carrier_up(&mut self, now: Instant) {
        (self.search.pace, self.search.unanswered) = (0, 0);
        match &mut self.state {
            State::Selecting { .. } | State::Requesting { .. } => {
                self.state = State::Init { at: now }
            }
            State::Rebooting { address, .. } => {
                self.state = State::InitReboot {
                    at: now,
                    address: *address,
                }
            }
            State::Init { at } | State::InitReboot { at, .. } => *at = now,
            State::Renewing { exchange, .. } | State::Rebinding { exchange, .. } => {
                exchange.next = now
            }
            State::Probing {
                left, next, check, ..
            } => {
                if let (Probe::Before(probes), None) = (self.config.probe, check) {
                    (*left, *next) = (probes, now);
                }
            }
            // Perhaps another network: only the server can tell, and RFC 2131 §4.4.5 allows to ask
            // before T1.
            State::Bound { held, watch } => {
                held.renew_at = now;
                // The second announcement has waited for the carrier (RFC 5227 §2.3).
                if watch.take().is_some_and(|watch| watch.announce) {
                    let address = held.lease.address;
                    self.announce(address);
                }
            }
            State::Releasing { .. } | State::Stopped => {}
        }
    }
}

/// Keeping a lease, and giving it back.
impl Client {
    /// To BOUND with the first lease of a search.
    pub(super) fn bind_first(&mut self, lease: Lease, now: Instant) -> State {
        if !self.plainness.has_client_id() {
            // The server knows the lease by the MAC from now on, also in a later process.
            self.config.client_id.clear();
        }
        self.events.push_back(Event::Bound(Box::new(lease.clone())));
        let watch = self.announce_new(lease.address, now);
        self.bind(lease, (watch, None), now)
    }

    /// To BOUND with a new lease.
    pub(super) fn bind(
        &mut self,
        lease: Lease,
        (watch, defence): (Option<ConflictWatch>, Option<Defence>),
        now: Instant,
    ) -> State {
        self.search = Search::new(now, None);
        let held = HeldLease {
            renew_at: lease.acquired_at + self.backoff.lease_timer(lease.t1),
            rebind_at: lease.acquired_at + self.backoff.lease_timer(lease.t2),
            lease,
            defence,
        };
        State::Bound { held, watch }
    }

    /// From BOUND to RENEWING at T1, to REBINDING at T2, to INIT at the end (RFC 2131 §4.4.5).
    /// After a suspension, what was missed is skipped.
    pub(super) fn on_lease_timer(&mut self, held: HeldLease, now: Instant) -> State {
        self.start_listening(now);
        if held.expires_at() <= now {
            self.lose(held.lease, LossReason::Expired, now)
        } else if held.rebind_at <= now {
            self.rebind(held, None, now)
        } else {
            self.renew(held, None, now)
        }
    }

    /// To RENEWING, or to it again: to the server itself, whose identifier is its address (RFC 2131
    /// §4.1), from ours. Neither server identifier nor requested address go with it (RFC 2131
    /// §4.3.2).
    pub(super) fn renew(
        &mut self,
        held: HeldLease,
        exchange: Option<Exchange>,
        now: Instant,
    ) -> State {
        let is_first = exchange.is_none_or(|exchange| exchange.sent == 0);
        let mut exchange = self.exchange_or_new(exchange, now);
        if self.carrier {
            let wait = Backoff::renewal(
                held.rebind_at - now,
                held.lease.t2.saturating_sub(held.lease.t1),
            );
            // RFC 2131 §4.4.5 speaks of silence after T1. An earlier question is asked because the
            // network may be another one: half of the time until T2 would be half a day then and,
            // in a lease for ever, no end of time.
            let is_early = held.lease.renew_at().is_none_or(|t1| now + FUZZ < t1);
            let wait = if is_early {
                wait.min(self.backoff.long_interval())
            } else {
                wait
            };
            exchange.count_sent(held.renew_at, now, now + wait);
            let (source, destination) = (held.lease.address, held.lease.server_id);
            let request = ClientMessage {
                ciaddr: Some(source),
                ..exchange.message(Type::Request, self.plainness)
            };
            self.rate.take(now);
            self.start_listening(now);
            self.send(
                Transmit::Datagram {
                    source,
                    destination,
                },
                request.write(&self.config),
            );
            if is_first {
                self.probe_own_address(source);
            }
        }
        State::Renewing { exchange, held }
    }

    /// To REBINDING, or to it again: the same to all servers (RFC 2131 §4.3.2).
    pub(super) fn rebind(
        &mut self,
        held: HeldLease,
        exchange: Option<Exchange>,
        now: Instant,
    ) -> State {
        let is_first = exchange.is_none_or(|exchange| exchange.sent == 0);
        let mut exchange = self.exchange_or_new(exchange, now);
        if self.carrier {
            exchange.count_sent(
                held.renew_at,
                now,
                now + Backoff::renewal(held.expires_at() - now, held.expires_at() - held.rebind_at),
            );
            let address = held.lease.address;
            let request = exchange.message(Type::Request, self.plainness);
            self.broadcast(
                &ClientMessage {
                    ciaddr: Some(address),
                    ..request
                },
                now,
            );
            if is_first {
                self.probe_own_address(address);
            }
        }
        State::Rebinding { exchange, held }
    }

    /// Says RELEASE where we know whom to send it to, else asks for that first.
    pub(super) fn start_release(&mut self, lease: Lease, now: Instant) -> State {
        let on_link = lease.is_on_link(lease.server_id).then_some(lease.server_id);
        match (lease.server_mac, on_link.or(lease.routers.first().copied())) {
            (Some(mac), _) => self.send_release(&lease, mac, now),
            (None, Some(next_hop)) => {
                self.send_arp(Arp::request((self.config.mac, lease.address), next_hop));
                State::Releasing {
                    lease,
                    next_hop,
                    until: now + ARP_TIMEOUT,
                }
            }
            (None, None) => self.stop(Event::Released),
        }
    }

    /// RFC 2131 §4.4.6 and table 5: our address and the server's identifier, `secs` 0, and no
    /// wishes.
    pub(super) fn send_release(&mut self, lease: &Lease, mac: Mac, now: Instant) -> State {
        let message =
            ClientMessage::new(Type::Release, self.plainness.encode(self.backoff.xid()), 0);
        let message = ClientMessage {
            ciaddr: Some(lease.address),
            server: Some(lease.server_id),
            ..message
        };
        let (source, destination) = ((self.config.mac, lease.address), (mac, lease.server_id));
        let frame = frame::frame(&message.write(&self.config), source, destination);
        self.rate.take(now);
        self.send(Transmit::Frame, frame);
        self.stop(Event::Released)
    }

    /// To all (RFC 2131 §4.4.4), from the address that we have, or from none (RFC 2131 §4.1).
    pub(super) fn broadcast(&mut self, message: &ClientMessage, now: Instant) {
        let source = (
            self.config.mac,
            message.ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED),
        );
        let frame = frame::frame(
            &message.write(&self.config),
            source,
            (Mac::BROADCAST, Ipv4Addr::BROADCAST),
        );
        self.rate.take(now);
        self.start_listening(now);
        self.send(Transmit::Frame, frame);
    }

    /// Without a carrier it would go nowhere, or into a queue that opens at a time when it is not
    /// true any more.
    pub(super) fn send(&mut self, transmit: Transmit, bytes: Vec<u8>) {
        if self.carrier {
            self.outbox.push_back((transmit, bytes));
        }
    }

    fn exchange_or_new(&mut self, exchange: Option<Exchange>, now: Instant) -> Exchange {
        match exchange {
            Some(exchange) if now - exchange.since < XID_LIFETIME => exchange,
            Some(exchange) => exchange.restarted(self.backoff.xid(), now),
            None => Exchange::new(self.backoff.xid(), now),
        }
    }
}
