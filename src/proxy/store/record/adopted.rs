//! The record of a lease that netavark's proxy acquired.

use std::time::Duration;

use super::number::millis;
use super::phase::StoredLease;
use super::{NEVER, Record, clamp};
use crate::dhcp::{self, Phase, Plainness, Snapshot};
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::rpc::wire::NetavarkLease;
use crate::time::Instant;

impl Record {
    /// Returns the record of a lease of another program, on an interface with its address since
    /// `since`: due for renewal at once. `None` if the lease is malformed.
    ///
    /// That program may have renewed it without recording it. A lease that would be in REBINDING or
    /// expired by now is taken to be at T2: the REQUEST is broadcast, and without an answer the
    /// lease ends after its remaining time.
    pub(crate) fn adopted(
        lease: NetavarkLease,
        container: (&Request, &ContainerInterface),
        applied: &Applied,
        (since, now): (Instant, Instant),
    ) -> Option<Self> {
        let stored = StoredLease {
            reply: lease,
            acquired_at: millis(since)?,
            ..StoredLease::default()
        };
        // T1 and T2 may be missing.
        let lease = clamp::checked_lease(stored.parse()?, now)?;
        let rebind_at = lease.acquired_at + lease.t2;
        let phase = if lease.lease_time.is_none() {
            Phase::Bound {
                lease,
                renew_at: now,
                rebind_at: NEVER,
            }
        } else if now < rebind_at {
            Phase::Bound {
                lease,
                renew_at: now,
                rebind_at,
            }
        } else {
            let at_t2 = Instant::from_boot(now.since_boot().saturating_sub(lease.t2));
            Phase::Rebinding {
                lease: dhcp::Lease {
                    acquired_at: at_t2,
                    ..lease
                },
                renew_at: now,
                rebind_at: now,
                next: now,
            }
        };
        let snapshot = Snapshot {
            phase,
            failures: 0,
            // Its server answers netavark's messages.
            plainness: Plainness::LikeNetavark,
            rate_full_at: Instant::from_boot(Duration::ZERO),
        };
        let (request, _) = container;
        let config = dhcp::Config {
            host_name: request.host_name.clone(),
            ..dhcp::Config::new(request.key.mac, request.client_id.clone())
        };
        Some(Self::dormant(container, &config, snapshot, applied, None))
    }
}
