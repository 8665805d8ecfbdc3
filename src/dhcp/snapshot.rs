//! Snapshots: the part of a client that is needed to continue later, in this process or in another
//! one.

use super::backoff::MAX_INTERVAL;
use super::lease::Lease;
use super::message_rate::{latest_full_at, message_rate};
use super::plainness::Plainness;
use crate::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A time that never comes: the end of an infinite lease.
pub(super) const NEVER: Instant = Instant::from_boot(Duration::MAX);

/// The state of a [`Client`](super::Client) between two exchanges, made by
/// [`Client::suspend`](super::Client::suspend) for [`Client::resume`](super::Client::resume). Its
/// instants are those of the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The state.
    pub phase: Phase,
    /// Rounds that ended with a NAK, without an ACK or with a conflict, minus the renewals since.
    pub failures: u32,
    /// The plainness of the messages that the server answers.
    pub plainness: Plainness,
    /// The time from which the limit on messages allows a whole burst again; may be in the past.
    pub rate_full_at: Instant,
}

/// The states of RFC 2131 figure 5 in which no exchange is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// BOUND: nothing to do until T1.
    Bound {
        /// The lease in use.
        lease: Lease,
        /// T1; `Duration::MAX` after the boot in an infinite lease.
        renew_at: Instant,
        /// T2; `Duration::MAX` after the boot in an infinite lease.
        rebind_at: Instant,
    },
    /// RENEWING: the leasing server was asked, and has not answered.
    Renewing {
        /// The lease in use.
        lease: Lease,
        /// T1, from which the `secs` field counts.
        renew_at: Instant,
        /// T2.
        rebind_at: Instant,
        /// The next REQUEST, unless T2 or the end comes first.
        next: Instant,
    },
    /// REBINDING: all servers were asked, and none has answered.
    Rebinding {
        /// The lease in use.
        lease: Lease,
        /// T1, from which the `secs` field counts.
        renew_at: Instant,
        /// T2.
        rebind_at: Instant,
        /// The next REQUEST, unless the end comes first.
        next: Instant,
    },
    /// INIT: no lease, no waiting caller, and no answer to the last DISCOVER if one was sent.
    Init {
        /// The next DISCOVER.
        at: Instant,
        /// The beginning of the search, from which the `secs` field counts.
        since: Instant,
        /// The requested address (option 50).
        wanted: Option<Ipv4Addr>,
        /// DISCOVERs since the carrier came up, which determine the next wait.
        pace: u32,
    },
}

impl Snapshot {
    /// Returns when to [resume](super::Client::resume), which is the
    /// [`poll_timeout`](super::Client::poll_timeout) of the resumed client. Before it there is
    /// nothing to do.
    pub fn due(&self) -> Option<Instant> {
        let (send_at, messages) = match self.phase {
            Phase::Bound { renew_at, .. } => (renew_at, 1),
            Phase::Renewing {
                rebind_at, next, ..
            } => (next.min(rebind_at), 1),
            Phase::Rebinding { next, .. } => (next, 1),
            Phase::Init { at, .. } => (at, 2),
        };
        let end = self.lease().and_then(Lease::expires_at).unwrap_or(NEVER);
        let due = send_at
            .max(message_rate(self.rate_full_at).available_at(messages))
            .min(end);
        (due != NEVER).then_some(due)
    }

    /// Returns the lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Bound { lease, .. }
            | Phase::Renewing { lease, .. }
            | Phase::Rebinding { lease, .. } => Some(lease),
            Phase::Init { .. } => None,
        }
    }

    /// Returns the server of the lease in use.
    pub fn server(&self) -> Option<Ipv4Addr> {
        self.lease().map(|lease| lease.server_id)
    }

    /// Sets T1 to `now` in BOUND, which RFC 2131 §4.4.5 allows. In any other phase something else
    /// is due.
    pub fn renew_now(&mut self, now: Instant) {
        if let Phase::Bound { renew_at, .. } = &mut self.phase {
            *renew_at = now.min(*renew_at);
        }
    }

    /// Returns to BOUND with T1 at `t1`, after a renewal before T1 had no answer. Other phases than
    /// RENEWING stay.
    pub fn restore_t1(&mut self, t1: Instant) {
        if let Phase::Renewing {
            lease, rebind_at, ..
        } = &self.phase
        {
            self.phase = Phase::Bound {
                lease: lease.clone(),
                renew_at: t1,
                rebind_at: *rebind_at,
            };
        }
    }

    /// Sets the next message to `now` in phases other than BOUND, after a carrier was missing.
    pub fn retransmit_now(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Bound { .. } => {}
            Phase::Renewing { next, .. }
            | Phase::Rebinding { next, .. }
            | Phase::Init { at: next, .. } => {
                *next = now.min(*next);
            }
        }
    }

    /// Returns the snapshot with all times limited to possible ones, for a snapshot from a file,
    /// whose content is not trusted. One from [`Client::suspend`](super::Client::suspend) is
    /// unchanged.
    #[must_use]
    pub fn clamped(self, now: Instant) -> Self {
        let rate_full_at = self.rate_full_at.min(latest_full_at(now));
        let phase = match self.phase {
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            } => {
                let (lease, rebind_at) = clamp_lease(lease, rebind_at, now);
                Phase::Bound {
                    lease,
                    renew_at,
                    rebind_at,
                }
            }
            Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next,
            } if lease.lease_time.is_some() => {
                let (lease, rebind_at) = clamp_lease(lease, rebind_at, now);
                Phase::Rebinding {
                    lease,
                    renew_at,
                    rebind_at,
                    next,
                }
            }
            // An infinite lease is never rebound, and only this limit ends a long wait.
            Phase::Renewing {
                lease,
                renew_at,
                rebind_at,
                next,
            }
            | Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next,
            } => {
                let next = if lease.lease_time.is_none() {
                    next.min(now + MAX_INTERVAL)
                } else {
                    next
                };
                let (lease, rebind_at) = clamp_lease(lease, rebind_at, now);
                Phase::Renewing {
                    lease,
                    renew_at,
                    rebind_at,
                    next,
                }
            }
            Phase::Init {
                at,
                since,
                wanted,
                pace,
            } => Phase::Init {
                at: at.min(now + MAX_INTERVAL),
                since: since.min(now),
                wanted,
                pace,
            },
        };
        Self {
            phase,
            rate_full_at,
            ..self
        }
    }
}

/// Returns the lease, acquired at `now` at the latest and with its timers in order, and the time to
/// rebind, at the end of the lease at the latest and never in an infinite one.
fn clamp_lease(lease: Lease, rebind_at: Instant, now: Instant) -> (Lease, Instant) {
    let lease = Lease {
        acquired_at: lease.acquired_at.min(now),
        ..lease
    }
    .with_timers_in_order();
    let rebind_at = lease
        .expires_at()
        .map_or(NEVER, |expiry| expiry.min(rebind_at));
    (lease, rebind_at)
}
