//! From a client to its snapshot, and back.

use super::Client;
use super::state::{HeldLease, State};
use crate::dhcp::config::Config;
use crate::dhcp::event::LossReason;
use crate::dhcp::exchange::{Exchange, Search};
use crate::dhcp::message_rate::message_rate;
use crate::dhcp::snapshot::{Phase, Snapshot};
use crate::time::Instant;
use std::net::Ipv4Addr;

impl Client {
    /// Returns a snapshot from which another client can [resume](Self::resume): that one sends the
    /// same messages at the same times. `None` as long as a caller waits, in a state whose next
    /// step depends on an answer (REQUESTING, REBOOTING, PROBING, RELEASING), and after the end.
    ///
    /// A snapshot taken while the client is [listening](Self::is_listening) loses the answer, which
    /// is then requested again. It contains neither outputs that were not polled nor the state of
    /// the carrier: pass that to the resumed client ([`Self::handle_carrier`]).
    pub fn suspend(&self) -> Option<Snapshot> {
        if self.search.deadline.is_some() {
            return None;
        }
        let init = |at: Instant, wanted: Option<Ipv4Addr>| Phase::Init {
            at,
            since: self.search.since,
            wanted,
            pace: self.search.pace,
        };
        let phase = match &self.state {
            State::Init { at } => init(*at, self.search.wanted),
            State::InitReboot { at, address } => init(*at, Some(*address)),
            // The REQUEST for the offer follows within 100 ms.
            State::Selecting {
                second_best: Some(_),
                ..
            } if self.carrier => return None,
            State::Selecting { exchange, .. } => init(exchange.next, self.search.wanted),
            State::Renewing {
                exchange,
                held:
                    HeldLease {
                        lease,
                        renew_at,
                        rebind_at,
                        ..
                    },
            } if exchange.sent > 0 => {
                let (lease, next) = (lease.clone(), exchange.next);
                Phase::Renewing {
                    lease,
                    renew_at: *renew_at,
                    rebind_at: *rebind_at,
                    next,
                }
            }
            State::Rebinding {
                exchange,
                held:
                    HeldLease {
                        lease,
                        renew_at,
                        rebind_at,
                        ..
                    },
            } if exchange.sent > 0 => {
                let (lease, next) = (lease.clone(), exchange.next);
                Phase::Rebinding {
                    lease,
                    renew_at: *renew_at,
                    rebind_at: *rebind_at,
                    next,
                }
            }
            // Without a carrier since T1 nothing was sent, and the lease is as before.
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Phase::Bound {
                lease: held.lease.clone(),
                renew_at: held.renew_at,
                rebind_at: held.rebind_at,
            },
            State::Requesting { .. } | State::Rebooting { .. } | State::Probing { .. } => {
                return None;
            }
            State::Releasing { .. } | State::Stopped => return None,
        };
        let (failures, plainness, rate_full_at) =
            (self.failures, self.plainness, self.rate.full_at());
        Some(Snapshot {
            phase,
            failures,
            plainness,
            rate_full_at,
        })
    }

    /// Makes a client that continues from the [snapshot](Self::suspend) of another one, taken since
    /// the machine booted, and does what is due by now. [`Config::deadline`] is ignored, because no
    /// caller waits.
    ///
    /// A lease that expired in the meantime is reported
    /// ([`Event::Lost`](crate::dhcp::Event::Lost)).
    ///
    /// Deviation: RFC 2131 §4.4.5 has a client enter INIT then. This one asks for the address as by
    /// [`Client::reboot`] (RFC 2131 §4.4.2), because the server may have kept it.
    pub fn resume(config: Config, snapshot: Snapshot, seed: u64, now: Instant) -> Self {
        let Snapshot {
            phase,
            failures,
            plainness,
            rate_full_at,
        } = snapshot.clamped(now);
        let mut client = Self::start(
            Config {
                deadline: None,
                ..config
            },
            State::Stopped,
            seed,
            now,
        );
        (client.failures, client.plainness, client.rate) =
            (failures, plainness, message_rate(rate_full_at));
        client.state = match phase {
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            } => State::Bound {
                held: HeldLease::undefended(lease, renew_at, rebind_at),
                watch: None,
            },
            Phase::Renewing {
                lease,
                renew_at,
                rebind_at,
                next,
            } => {
                let exchange = Exchange::resumed(client.backoff.xid(), next);
                State::Renewing {
                    exchange,
                    held: HeldLease::undefended(lease, renew_at, rebind_at),
                }
            }
            Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next,
            } => {
                let exchange = Exchange::resumed(client.backoff.xid(), next);
                State::Rebinding {
                    exchange,
                    held: HeldLease::undefended(lease, renew_at, rebind_at),
                }
            }
            Phase::Init {
                at,
                since,
                wanted,
                pace,
            } => {
                client.search = Search {
                    pace,
                    unanswered: pace,
                    ..Search::new(since, wanted)
                };
                State::Init { at }
            }
        };
        client.reboot_if_expired(now);
        client.handle_timeout(now);
        client
    }

    fn reboot_if_expired(&mut self, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Bound { held, .. }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. }
                if held.expires_at() <= now =>
            {
                let address = held.lease.address;
                self.lose(held.lease, LossReason::Expired, now);
                State::InitReboot { at: now, address }
            }
            state @ (State::Init { .. }
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::InitReboot { .. }
            | State::Rebooting { .. }
            | State::Probing { .. }
            | State::Bound { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Releasing { .. }
            | State::Stopped) => state,
        };
    }
}
