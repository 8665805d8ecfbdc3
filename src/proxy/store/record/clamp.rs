//! Clamps a record from a file to values that this program could have written itself.
//!
//! Only here: elsewhere neither the sum of two instants nor that of an instant and a DHCP time
//! overflows, and no lease is due later than its client would be.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{NEVER, Record, RecordState, StoredRecord, deferral, phase};
use crate::dhcp::{self, Phase, Snapshot};
use crate::proxy::call::request::OPTION_MAX;
use crate::time::Instant;

/// The longest delay before the link is checked again or a failure is retried.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// An unanswered renewal is repeated after half of the remaining time, but no sooner than this.
const MIN_RETRANSMISSION: Duration = Duration::from_secs(60);
/// The largest counter of failures; delays stop growing far below.
pub(super) const MAX_COUNT: u32 = 100;

impl Record {
    /// Parses an entry of a file.
    #[cfg(test)]
    pub(crate) fn parse(entry: &serde_json::Value, now: Instant) -> Option<Self> {
        Self::from_file(StoredRecord::parse(entry)?, now)
    }

    /// Returns the record of a file, clamped to values possible at `now`. `None` if it is
    /// malformed.
    pub(crate) fn from_file(stored: StoredRecord, now: Instant) -> Option<Self> {
        stored.into_record()?.clamped(now)
    }

    /// Returns the record with its numbers clamped, `None` if it is unusable.
    pub(super) fn clamped(mut self, now: Instant) -> Option<Self> {
        // The kernel's largest interface index, and the most that a DHCP option holds.
        let host_name = self.request.host_name.as_deref().unwrap_or_default();
        let is_usable = (1..=i32::MAX.unsigned_abs()).contains(&self.interface.index)
            && self.request.client_id.len().max(host_name.len()) <= OPTION_MAX;
        if !is_usable {
            return None;
        }
        self.state = match self.state {
            RecordState::Intent => RecordState::Intent,
            RecordState::Held {
                snapshot,
                deferred_until,
                unresponsive_since,
            } => {
                if next_message(&snapshot.phase) == Some(NEVER) {
                    return None;
                }
                let snapshot = clamped_snapshot(snapshot, now)?;
                let latest = latest_due(&snapshot);
                RecordState::Held {
                    deferred_until: deferred_until
                        .map(|until| latest.map_or(until, |latest| until.min(latest)))
                        .and_then(|until| deferral(&snapshot, until)),
                    snapshot,
                    unresponsive_since: unresponsive_since.map(|since| since.min(now)),
                }
            }
            RecordState::Ending {
                snapshot,
                unresponsive_since,
            } => RecordState::Ending {
                snapshot: phase::to_be_released(clamped_snapshot(snapshot, now)?),
                unresponsive_since: unresponsive_since.map(|since| since.min(now)),
            },
        };
        let latest = now + MAX_DELAY;
        if let Some(link_check) = &mut self.link_check {
            link_check.at = link_check.at.min(latest);
            link_check.count = link_check.count.min(MAX_COUNT);
        }
        // A retry comes before the lease ends, and so does the handling of its end.
        let end = self.expires_at().map_or(latest, |end| end.max(now));
        if let Some(retry) = &mut self.retry {
            retry.at = retry.at.min(latest).min(end);
            retry.failures = retry.failures.min(MAX_COUNT);
        }
        Some(self)
    }
}

/// Returns the time of the next message in an unanswered phase.
fn next_message(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Bound { .. } => None,
        Phase::Renewing { next, .. }
        | Phase::Rebinding { next, .. }
        | Phase::Init { at: next, .. } => Some(*next),
    }
}

/// Returns the latest time at which the client may be due, `None` if it never is.
fn latest_due(snapshot: &Snapshot) -> Option<Instant> {
    let due = snapshot.due()?;
    Some(match snapshot.phase {
        // A lease may be deferred while its server does not answer other clients.
        Phase::Bound {
            renew_at,
            rebind_at,
            ..
        } if rebind_at != NEVER => due.max(renew_at + (rebind_at - renew_at) / 2),
        _ => due,
    })
}

/// Returns the snapshot with possible times and counters. `None` if its lease is unusable.
fn clamped_snapshot(snapshot: Snapshot, now: Instant) -> Option<Snapshot> {
    let phase = match snapshot.phase {
        Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        } => {
            let lease = checked_lease(lease, now)?;
            let (renew_at, rebind_at) = timers(&lease, renew_at, rebind_at);
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            }
        }
        Phase::Renewing {
            lease,
            renew_at,
            rebind_at,
            next,
        } => {
            let lease = checked_lease(lease, now)?;
            let (renew_at, rebind_at) = timers(&lease, renew_at, rebind_at);
            let limit = lease.expires_at().map(|_| rebind_at);
            Phase::Renewing {
                lease,
                renew_at,
                rebind_at,
                next: retransmission(next, limit, now),
            }
        }
        Phase::Rebinding {
            lease,
            renew_at,
            rebind_at,
            next,
        } => {
            let lease = checked_lease(lease, now)?;
            let (renew_at, rebind_at) = timers(&lease, renew_at, rebind_at);
            let limit = lease.expires_at();
            Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next: retransmission(next, limit, now),
            }
        }
        Phase::Init {
            at,
            since,
            wanted,
            pace,
        } => Phase::Init {
            at,
            since: since.min(now),
            wanted,
            pace: pace.min(MAX_COUNT),
        },
    };
    let snapshot = Snapshot {
        phase,
        failures: snapshot.failures.min(MAX_COUNT),
        ..snapshot
    };
    Some(snapshot.clamped(now))
}

/// Returns a lease acquired no later than `now`, with T1 and T2 in the order of RFC 2131 §4.4.5.
/// `None` if it is unusable.
pub(super) fn checked_lease(mut lease: dhcp::Lease, now: Instant) -> Option<dhcp::Lease> {
    let is_usable = |address: Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback())
    };
    if !is_usable(lease.address) || lease.prefix_len == 0 {
        return None;
    }
    lease.acquired_at = lease.acquired_at.min(now);
    let Some(time) = lease.lease_time else {
        return Some(lease);
    };
    let is_in_order = Duration::ZERO < lease.t1 && lease.t1 < lease.t2 && lease.t2 < time;
    // T1 and T2 of a lease of one or two seconds have fractions, which are not stored.
    if time.as_secs() > 2 && !is_in_order {
        let seconds = time.as_secs();
        lease.t1 = Duration::from_secs(seconds / 2);
        lease.t2 = Duration::from_secs(seconds - seconds / 8 - 1);
    }
    (lease.t1 <= lease.t2 && lease.t2 <= time).then_some(lease)
}

/// Returns T1 and T2 in the order of RFC 2131 §4.4.5, no later than those of the lease.
fn timers(lease: &dhcp::Lease, renew_at: Instant, rebind_at: Instant) -> (Instant, Instant) {
    let Some(end) = lease.expires_at() else {
        return (renew_at, rebind_at);
    };
    // The lease has them in whole seconds.
    let latest = |timer: Duration| (lease.acquired_at + timer + Duration::from_secs(1)).min(end);
    let rebind_at = latest(lease.t2).min(rebind_at);
    (latest(lease.t1).min(renew_at).min(rebind_at), rebind_at)
}

/// Returns the time of a retransmission in a phase that ends at `limit`.
fn retransmission(next: Instant, limit: Option<Instant>, now: Instant) -> Instant {
    limit.map_or(next, |limit| {
        next.min(now + ((limit - now) / 2).max(MIN_RETRANSMISSION))
    })
}

#[cfg(test)]
mod tests;
