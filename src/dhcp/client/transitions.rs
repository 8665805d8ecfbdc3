//! The transitions of RFC 2131 figure 5. Each sends its message, and returns the new state.

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

/// The time to request the previous address before a search for any address (RFC 2131 §3.2 (3)).
pub(super) const REBOOT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which a DISCOVER, or the REQUEST of a renewal, is repeated under one xid. A lease
/// counts from the first message with the xid of its ACK. If that was hours ago, and the server now
/// grants a shorter lease, it would have expired already.
pub(super) const XID_LIFETIME: Duration = Duration::from_secs(60);
/// A lease that was held for longer than this makes up for all earlier failures.
const STABLE_AFTER: Duration = Duration::from_secs(128);
/// The least wait after a DECLINE (RFC 2131 §3.1 (5)).
const DECLINE_WAIT: Duration = Duration::from_secs(10);

/// The search for a lease.
impl Client {
    /// Enters SELECTING with a DISCOVER (RFC 2131 §4.4.1), or repeats the DISCOVER of `exchange`
    /// without an OFFER (RFC 2131 §3.1 (3)).
    pub(super) fn discover(&mut self, exchange: Option<Exchange>, now: Instant) -> State {
        let mut exchange = self.exchange_or_new(exchange, now);
        self.search.discovers = self.search.discovers.saturating_add(1);
        // Counted over all rounds: a server that offers and then does not answer does not shorten
        // the waits.
        self.search.pace = self.search.pace.saturating_add(1);
        self.search.unanswered = self.search.unanswered.saturating_add(1);
        self.plainness = Plainness::for_discover(self.search.unanswered).max(self.config.plainness);
        if self.search.unanswered > Plainness::FULL_ATTEMPTS {
            // The address may be of another network, or of this one before its renumbering.
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

    /// Enters REQUESTING, or repeats its REQUEST (RFC 2131 §3.1 (5)): for the offered address, and
    /// with the identifier of its server (RFC 2131 §4.3.2).
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

    /// Enters REBOOTING, or repeats its REQUEST: without a server identifier, so that any server
    /// may answer (RFC 2131 §4.3.2).
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

    /// Enters INIT after a round without a lease (RFC 2131 §3.1 (5)).
    pub(super) fn start_over(&mut self, why: AcquireError, now: Instant) -> State {
        let in_use = matches!(why, AcquireError::InUse { .. });
        self.tally.conflicts += u32::from(in_use);
        if in_use || matches!(why, AcquireError::Refused { .. }) {
            self.search.wanted = None;
        }
        self.tally.naks += u32::from(matches!(why, AcquireError::Refused { .. }));
        self.search.last_error = Some(why);
        self.record_failure(in_use, now)
    }

    /// Enters INIT after the end of the lease (RFC 2131 §4.4.5). An expired address is requested
    /// again. A caller waits only if the lease was not in use yet.
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
        match why {
            LossReason::Expired => self.tally.expiries += 1,
            LossReason::Refused { .. } => self.tally.naks += 1,
            LossReason::Conflict { .. } => self.tally.conflicts += 1,
        }
        let next = match why {
            // A conflict after a long use is not a failure of the search, and neither is one of an
            // address in use. If the server offers the address again, the DECLINE is the first
            // failure, without a wait.
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

    /// Counts a failure, and returns INIT with the wait before the next DISCOVER.
    ///
    /// There is no wait after the first failure. Deviation: RFC 2131 §3.1 (5) wants 10 s after a
    /// DECLINE, to avoid a loop of client and server; the server has marked the declined address.
    /// From the second failure on these 10 s are kept, unless a caller waits.
    ///
    /// Where a caller waits, there is no wait after the second conflict either, and later waits
    /// double up to 8 s. Deviation: RFC 5227 §2.1.1 wants a minute after ten conflicts
    /// (RFC 5227 §1.1); the caller's deadline and the hourly limit bound the number of messages
    /// here. Where no caller waits, the waits double up to two minutes.
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

    /// Stops at the caller's deadline, and reports how far the search got (RFC 2131 §3.1 (5)).
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

    /// Handles the return of the carrier: a renewal is repeated, and a search starts again.
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
            // This may be another network, and only the server can tell. RFC 2131 §4.4.5 allows a
            // renewal before T1.
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

/// The lease: renewal and release.
impl Client {
    /// Enters BOUND with the lease that ends a search.
    pub(super) fn bind_first(&mut self, lease: Lease, now: Instant) -> State {
        if !self.plainness.has_client_id() {
            // The server knows the lease by the MAC from now on, also after a restart of the
            // process.
            self.config.client_id.clear();
        }
        self.events.push_back(Event::Bound(Box::new(lease.clone())));
        let watch = self.announce_new(lease.address, now);
        self.bind(lease, (watch, None), now)
    }

    /// Enters BOUND with a new or renewed lease.
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

    /// Enters RENEWING at T1, REBINDING at T2 and INIT at the end (RFC 2131 §4.4.5). After a
    /// suspend of the machine it enters the state that is due by now.
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

    /// Enters RENEWING, or repeats its REQUEST: by unicast from our address to the server
    /// identifier (RFC 2131 §4.1), without options 54 and 50 (RFC 2131 §4.3.2).
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
            // RFC 2131 §4.4.5 sets the wait after T1. Before T1, where the reason to ask is that
            // the network may have changed, half of the time until T2 could be half a day or, for
            // an infinite lease, endless.
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

    /// Enters REBINDING, or repeats its REQUEST: to all servers (RFC 2131 §4.3.2).
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

    /// Sends the RELEASE, after an ARP request for its next hop if the server's station is unknown.
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

    /// Sends the RELEASE: `ciaddr`, the server identifier, `secs` 0 and no parameter request list
    /// (RFC 2131 §4.4.6 and table 5).
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

    /// Broadcasts a message (RFC 2131 §4.4.4) from our address, or from 0.0.0.0 without one
    /// (RFC 2131 §4.1).
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

    /// Queues a message. Without a carrier it is dropped: a queue of the interface might send it
    /// later, when it is obsolete.
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
