//! The deadline of each state, and the action at it.

use super::Client;
use super::claim::Claims;
use super::listening::Listening;
use super::state::State;
use super::transitions::{REBOOT_TIMEOUT, XID_LIFETIME};
use crate::dhcp::acquire_error::AcquireError;
use crate::dhcp::event::Event;
use crate::dhcp::snapshot::NEVER;
use crate::time::Instant;

/// REQUESTs for one offer before the next search. RFC 2131 §3.1 (5) has four within a minute as an
/// example; a caller waits for less than that, and a server that has just made an offer is near.
const REQUESTS_PER_OFFER: u32 = 3;
/// REQUESTs within [`REBOOT_TIMEOUT`].
const REBOOT_REQUESTS: u32 = 2;

impl Client {
    /// Returns when the state has something to do. A message waits for the carrier and for the
    /// message rate, the end of a state does not.
    pub(super) fn due(&self) -> Instant {
        let (send_at, messages, end) = match &self.state {
            // A DISCOVER is useless without the REQUEST after it, so the rate must allow both.
            State::Init { at } => (*at, 2, NEVER),
            State::Selecting {
                second_best: Some((_, until)),
                ..
            } => (*until, 1, NEVER),
            State::Selecting { exchange, .. } => (exchange.next, 2, NEVER),
            State::Requesting { exchange, .. } => (exchange.next, 1, NEVER),
            State::InitReboot { at, .. } => (*at, 1, NEVER),
            State::Rebooting { exchange, .. } => (exchange.next, 1, NEVER),
            State::Probing { lease, next, .. } => (*next, 0, lease.expires_at().unwrap_or(NEVER)),
            // Without a carrier it enters RENEWING as well, to listen for its return.
            State::Bound { held, watch } => {
                let renew_at = held.renew_at.max(self.rate.available_at(1));
                let watch = watch.filter(|watch| self.carrier || !watch.announce);
                let watch_ends = watch.map_or(NEVER, |watch| watch.until);
                (NEVER, 0, held.expires_at().min(renew_at).min(watch_ends))
            }
            State::Renewing { exchange, held } => {
                (exchange.next.min(held.rebind_at), 1, held.expires_at())
            }
            State::Rebinding { exchange, held } => (exchange.next, 1, held.expires_at()),
            State::Releasing { until, .. } => (NEVER, 0, *until),
            State::Stopped => (NEVER, 0, NEVER),
        };
        let send_at = if self.carrier {
            send_at.max(self.rate.available_at(messages))
        } else {
            NEVER
        };
        let stop_listening_at = self
            .stop_listening_at
            .filter(|_| self.listening() == Listening::Until);
        let defence_due = self
            .defence()
            .map_or(NEVER, |defence| defence.due(self.carrier));
        send_at
            .min(end)
            .min(defence_due)
            .min(stop_listening_at.unwrap_or(NEVER))
            .min(self.search.deadline.unwrap_or(NEVER))
    }

    /// Does one action that is due.
    pub(super) fn step(&mut self, now: Instant) {
        if self.listening() == Listening::Until
            && self
                .stop_listening_at
                .is_some_and(|stop_listening_at| stop_listening_at <= now)
        {
            return self.stop_listening(now);
        }
        if self
            .defence()
            .is_some_and(|defence| defence.due(self.carrier) <= now)
        {
            return self.continue_defence(now);
        }
        let over = self.search.deadline.filter(|deadline| *deadline <= now);
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match over {
            Some(deadline) => self.end_at_deadline(state, deadline, now),
            None => self.advance(state, now),
        };
    }

    /// Leaves a state at the caller's deadline.
    fn end_at_deadline(&mut self, state: State, deadline: Instant, now: Instant) -> State {
        match state {
            // The station claims the address and has not answered for the router: it is the owner.
            State::Probing {
                lease,
                check: Some(check),
                ..
            } => self.decline_lease(lease.address, lease.server_id, check.by, now),
            // An address without an answer to the probes counts as free; the watch continues.
            State::Probing { lease, .. }
                if self.carrier && lease.expires_at().is_none_or(|expiry| now < expiry) =>
            {
                self.bind_first(*lease, now)
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
            | State::Stopped => self.give_up(&state, deadline),
        }
    }

    /// Leaves a state or retransmits its message, because its time has come.
    fn advance(&mut self, state: State, now: Instant) -> State {
        match state {
            State::Init { .. } => self.discover(None, now),
            State::Selecting {
                exchange,
                second_best: Some((offer, until)),
            } if until <= now => {
                self.request(exchange.into_request(now), offer, Claims::default(), now)
            }
            State::Selecting { exchange, .. } => self.discover(Some(exchange), now),
            // After a suspend of the machine no old offer is requested: the lease would count from
            // then.
            State::Requesting {
                exchange,
                offer,
                claims,
            } if exchange.sent < REQUESTS_PER_OFFER && now - exchange.since < XID_LIFETIME => {
                self.request(exchange, offer, claims, now)
            }
            State::Requesting { offer, .. } => self.start_over(
                AcquireError::NoAck {
                    address: offer.address,
                    server: offer.server_id,
                },
                now,
            ),
            State::InitReboot { address, .. } => {
                self.request_previous(address, None, Claims::default(), now)
            }
            State::Rebooting {
                exchange,
                address,
                claims,
            } if exchange.sent < REBOOT_REQUESTS && now < exchange.since + REBOOT_TIMEOUT => {
                self.request_previous(address, Some(exchange), claims, now)
            }
            State::Rebooting {
                address, claims, ..
            } => {
                let is_taken = claims.stations(now).next().is_some();
                self.search.wanted = (!is_taken).then_some(address);
                State::Init { at: now }
            }
            // The station claims the address and has not answered for the router: it is the owner.
            State::Probing {
                lease,
                next,
                check: Some(check),
                ..
            } if next <= now => self.decline_lease(lease.address, lease.server_id, check.by, now),
            State::Probing { lease, left, .. } => self.probe_next(lease, left, now),
            State::Bound {
                held,
                watch: Some(watch),
            } if watch.until <= now && now < held.expires_at() => {
                if watch.announce {
                    self.announce(held.lease.address);
                }
                State::Bound { held, watch: None }
            }
            State::Renewing { exchange, held } if now < held.rebind_at => {
                self.renew(held, Some(exchange), now)
            }
            State::Rebinding { exchange, held } if now < held.expires_at() => {
                self.rebind(held, Some(exchange), now)
            }
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => self.on_lease_timer(held, now),
            State::Releasing { .. } | State::Stopped => self.stop(Event::Released),
        }
    }
}
