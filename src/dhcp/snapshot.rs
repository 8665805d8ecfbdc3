//! Snapshots: what a client has to remember to go on later, in this process or in another one.

use super::backoff::MAX_INTERVAL;
use super::lease::Lease;
use super::message_rate::{latest_full_at, message_rate};
use super::plainness::Plainness;
use crate::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A moment that does not come: the end of an infinite lease.
pub(super) const NEVER: Instant = Instant::from_boot(Duration::MAX);

/// All that is left of a [`Client`](super::Client) while nothing is in flight:
/// [`Client::suspend`](super::Client::suspend) makes it, [`Client::resume`](super::Client::resume)
/// goes on with it. Its instants are those of the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it was.
    pub phase: Phase,
    /// Rounds that ended with a NAK, without an ACK or with a conflict, less what renewals have
    /// made good since.
    pub failures: u32,
    /// How plain the message was that the server has answered.
    pub plainness: Plainness,
    /// When as many messages as ever may be sent at once again. In the past: by now.
    pub rate_full_at: Instant,
}

/// The states of RFC 2131 figure 5 that outlast an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// BOUND: a lease that nothing is to be done for until T1.
    Bound {
        /// The lease in use.
        lease: Lease,
        /// T1; `Duration::MAX` after the boot in an infinite lease.
        renew_at: Instant,
        /// T2; `Duration::MAX` after the boot in an infinite lease.
        rebind_at: Instant,
    },
    /// RENEWING: its server has been asked for more time, and has not answered.
    Renewing {
        /// The lease in use.
        lease: Lease,
        /// T1, from which the seconds of the renewal count.
        renew_at: Instant,
        /// T2.
        rebind_at: Instant,
        /// When to ask again, unless T2 or the end comes first.
        next: Instant,
    },
    /// REBINDING: all servers have been asked for more time, and none has answered.
    Rebinding {
        /// The lease in use.
        lease: Lease,
        /// T1, from which the seconds of the renewal count.
        renew_at: Instant,
        /// T2.
        rebind_at: Instant,
        /// When to ask again, unless the end comes first.
        next: Instant,
    },
    /// INIT: there is no lease, no caller waits for one, and the last DISCOVER, if there was one,
    /// has not been answered.
    Init {
        /// When to send the next DISCOVER.
        at: Instant,
        /// When the search began, from which its seconds count.
        since: Instant,
        /// The address that would be the most welcome.
        wanted: Option<Ipv4Addr>,
        /// DISCOVERs since the carrier was last there: they are sent ever more seldom.
        pace: u32,
    },
}

impl Snapshot {
    /// When to [resume](super::Client::resume): what a client made of this would answer to
    /// [`poll_timeout`](super::Client::poll_timeout). Earlier there is nothing for it to do.
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

    /// The lease in use, if any.
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

    /// Has a lease that waits for T1 renewed at `now`, which RFC 2131 §4.4.5 allows. In any other
    /// phase something else is due, and stays so.
    pub fn renew_now(&mut self, now: Instant) {
        if let Phase::Bound { renew_at, .. } = &mut self.phase {
            *renew_at = now.min(*renew_at);
        }
    }

    /// Has what could not be said, or was said in vain, said at `now`: for an owner that had no
    /// carrier.
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

    /// Returns the snapshot without a lease of later than `now` and without waits that no client
    /// would have chosen, for snapshots from a file, whose content is not trusted. One that a
    /// client has made stays as it is.
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
            // A lease for ever is never rebound, and nothing else ends a long silence.
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

/// A lease of `now` at the latest, and its T2, which does not come after its end, nor ever in one
/// without an end.
fn clamp_lease(lease: Lease, rebind_at: Instant, now: Instant) -> (Lease, Instant) {
    let lease = Lease {
        acquired_at: lease.acquired_at.min(now),
        ..lease
    };
    let rebind_at = lease
        .expires_at()
        .map_or(NEVER, |expiry| expiry.min(rebind_at));
    (lease, rebind_at)
}
