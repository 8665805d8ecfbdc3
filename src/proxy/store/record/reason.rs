//! A record that comes out of a file, brought within what this program could have written itself.
//!
//! This is the only place for it: behind it sums of two instants, or of an instant and a time of
//! DHCP, do not overflow, and no lease is due later than a client in that state would have been.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{NEVER, Record, RecordState, StoredRecord, deferral, phase};
use crate::dhcp::{self, Phase, Snapshot};
use crate::proxy::call::request::OPTION_MAX;
use crate::time::Instant;

/// The longest pause before the link is inspected again, or an attempt that failed is repeated.
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// The pause before an unanswered renewal is repeated is half of the time that is left, or this.
const MIN_RETRANSMISSION: Duration = Duration::from_secs(60);
/// Counters that make pauses longer do so up to a few dozen.
const MAX_COUNT: u32 = 100;

impl Record {
    /// Reads an entry of a file.
    #[cfg(test)]
    pub(crate) fn parse(entry: &serde_json::Value, now: Instant) -> Option<Self> {
        Self::from_file(StoredRecord::parse(entry)?, now)
    }

    /// Returns the record that a file has, as this program could have written it by `now`. `None`
    /// where it is malformed.
    pub(crate) fn from_file(stored: StoredRecord, now: Instant) -> Option<Self> {
        stored.into_record()?.within_reason(now)
    }

    /// Returns the same, changed where its numbers are out of bounds. `None` where there is no
    /// repairing it.
    pub(super) fn within_reason(mut self, now: Instant) -> Option<Self> {
        // The kernel has no other numbers for interfaces, and no DHCP option takes more.
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
                silent_since,
            } => {
                if next(&snapshot.phase) == Some(NEVER) {
                    return None;
                }
                let snapshot = mended(snapshot, now)?;
                let latest = latest(&snapshot);
                RecordState::Held {
                    deferred_until: deferred_until
                        .map(|until| latest.map_or(until, |latest| until.min(latest)))
                        .and_then(|until| deferral(&snapshot, until)),
                    snapshot,
                    silent_since: silent_since.map(|since| since.min(now)),
                }
            }
            RecordState::Ending {
                snapshot,
                silent_since,
            } => RecordState::Ending {
                snapshot: phase::to_be_released(mended(snapshot, now)?),
                silent_since: silent_since.map(|since| since.min(now)),
            },
        };
        let latest = now + MAX_PAUSE;
        if let Some(look) = &mut self.look {
            look.at = look.at.min(latest);
            look.count = look.count.min(MAX_COUNT);
        }
        // A failure is followed by one more try before the lease ends. The end has to be seen to as
        // well.
        let end = self.expires_at().map_or(latest, |end| end.max(now));
        if let Some(retry) = &mut self.retry {
            retry.at = retry.at.min(latest).min(end);
            retry.failures = retry.failures.min(MAX_COUNT);
        }
        Some(self)
    }
}

/// Returns the time of the next message of a phase in which none was answered.
fn next(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Bound { .. } => None,
        Phase::Renewing { next, .. }
        | Phase::Rebinding { next, .. }
        | Phase::Init { at: next, .. } => Some(*next),
    }
}

/// Returns the latest time at which a client may be woken, if it has to be.
fn latest(snapshot: &Snapshot) -> Option<Instant> {
    let due = snapshot.due()?;
    Some(match snapshot.phase {
        // A lease whose server does not answer other clients waits for longer.
        Phase::Bound {
            renew_at,
            rebind_at,
            ..
        } if rebind_at != NEVER => due.max(renew_at + (rebind_at - renew_at) / 2),
        _ => due,
    })
}

/// Returns a snapshot with the times and counters that its client could have. `None` where its lease
/// cannot be used.
fn mended(snapshot: Snapshot, now: Instant) -> Option<Snapshot> {
    let phase = match snapshot.phase {
        Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        } => {
            let lease = usable(lease, now)?;
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
            let lease = usable(lease, now)?;
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
            let lease = usable(lease, now)?;
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
    let mended = Snapshot {
        phase,
        failures: snapshot.failures.min(MAX_COUNT),
        ..snapshot
    };
    Some(mended.clamped(now))
}

/// Returns a lease of `now` at the latest, with T1 and T2 in the order that RFC 2131 4.4.5 has them
/// in. `None` where it cannot be used.
pub(super) fn usable(mut lease: dhcp::Lease, now: Instant) -> Option<dhcp::Lease> {
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
    // A lease of a second or two has timers of fractions of a second, which the file does not show.
    if time.as_secs() > 2 && !is_in_order {
        let seconds = time.as_secs();
        lease.t1 = Duration::from_secs(seconds / 2);
        lease.t2 = Duration::from_secs(seconds - seconds / 8 - 1);
    }
    (lease.t1 <= lease.t2 && lease.t2 <= time).then_some(lease)
}

/// Returns T1 and T2 in the order that RFC 2131 4.4.5 has them in, and no later than those of the
/// lease.
fn timers(lease: &dhcp::Lease, renew_at: Instant, rebind_at: Instant) -> (Instant, Instant) {
    let Some(end) = lease.expires_at() else {
        return (renew_at, rebind_at);
    };
    // The lease has them without their fractions of a second.
    let latest = |timer: Duration| (lease.acquired_at + timer + Duration::from_secs(1)).min(end);
    let rebind_at = latest(lease.t2).min(rebind_at);
    (latest(lease.t1).min(renew_at).min(rebind_at), rebind_at)
}

/// Returns the time of a retransmission in a phase that lasts until `limit`.
fn retransmission(next: Instant, limit: Option<Instant>, now: Instant) -> Instant {
    limit.map_or(next, |limit| {
        next.min(now + ((limit - now) / 2).max(MIN_RETRANSMISSION))
    })
}

#[cfg(test)]
mod tests;
