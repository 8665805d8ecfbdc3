//! A lease while nothing is to be done for it: types in memory, and [one form](stored) in the table
//! and in the state file.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use crate::dhcp::{self, Phase, Snapshot};
use crate::rpc::wire::NetavarkLease;
use crate::time::Instant;

use crate::proxy::call::reply;
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::key::{ContainerNames, DhcpServer, LeaseKey, LogPrefix};

pub(crate) use stored::{EncodedRecord, FormerLease, StoredRecord};

mod adopted;
mod check;
mod number;
mod phase;
mod reason;
mod stored;

/// The delay before a failed attempt is repeated: doubled each time, up to [`MAX_RETRY_DELAY`].
const RETRY_DELAY: Duration = Duration::from_secs(30);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// A time that does not come: T1 and T2 of an infinite lease.
const NEVER: Instant = Instant::from_boot(Duration::MAX);
/// A time that has passed, whatever time it is.
const AT_ONCE: Instant = Instant::from_boot(Duration::ZERO);

/// All that it takes to go on with a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The container's request, with the client identifier and the host name that the server knows.
    pub(crate) request: Request,
    pub(crate) interface: ContainerInterface,
    /// What the lease has put on the link.
    pub(crate) applied: Applied,
    /// Option 57 in bytes, where the MTU was known.
    pub(crate) message_size: Option<u16>,
    pub(crate) state: RecordState,
    /// Set where the link may not be as [`applied`](Self::applied) says.
    pub(crate) look: Option<Look>,
    /// Set after a failure.
    retry: Option<Retry>,
}

/// The progress of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordState {
    /// A Setup is under way.
    Intent,
    /// A lease is held, or looked for again after a loss.
    Held {
        snapshot: Snapshot,
        /// The time to renew it where that is not the client's own: its server does not answer
        /// other clients.
        deferred_until: Option<Instant>,
        /// The time at which its server was found not to answer.
        silent_since: Option<Instant>,
    },
    /// A Teardown is under way.
    Ending {
        /// What is to be released, in BOUND, or in INIT where there is no lease.
        snapshot: Snapshot,
        /// As in [`Held`](Self::Held).
        silent_since: Option<Instant>,
    },
}

/// An inspection of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    /// How often in a row the link was not as it should be.
    pub(crate) count: u32,
    /// A message was due and could not be sent for want of a carrier.
    pub(crate) unsaid: bool,
}

/// Another attempt after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retry {
    at: Instant,
    /// Failures in a row.
    failures: u32,
}

impl Record {
    /// Returns the record of a Setup that begins.
    pub(crate) fn intent(request: &Request, interface: &ContainerInterface) -> Self {
        Self {
            request: Request {
                ns_path: Rc::clone(&request.key.netns),
                ..request.clone()
            },
            interface: interface.clone(),
            applied: Applied::default(),
            message_size: None,
            state: RecordState::Intent,
            look: None,
            retry: None,
        }
    }

    /// Returns the record of a lease for which nothing is to be done before the time of its
    /// snapshot, or of `look`.
    pub(crate) fn resting(
        (request, interface): (&Request, &ContainerInterface),
        config: &dhcp::Config,
        snapshot: Snapshot,
        applied: &Applied,
        look: Option<Look>,
    ) -> Self {
        let request = Request {
            client_id: config.client_id.clone(),
            host_name: config.host_name.clone(),
            ..request.clone()
        };
        Self {
            applied: applied.clone(),
            message_size: Some(config.max_message_size),
            state: RecordState::Held {
                snapshot,
                deferred_until: None,
                silent_since: None,
            },
            look,
            ..Self::intent(&request, interface)
        }
    }

    /// Returns the same lease at the beginning of its Teardown. A Setup without a lease stays what
    /// it is.
    pub(crate) fn ending(self) -> Self {
        match self.state {
            RecordState::Intent => self,
            RecordState::Held {
                snapshot,
                silent_since,
                ..
            }
            | RecordState::Ending {
                snapshot,
                silent_since,
            } => Self {
                state: RecordState::Ending {
                    snapshot: phase::to_be_released(snapshot),
                    silent_since,
                },
                retry: None,
                ..self
            },
        }
    }

    /// Returns the same lease after a failure at `now`: the next attempt comes later than the last
    /// time.
    pub(crate) fn with_retry(mut self, now: Instant) -> Self {
        let failures = self.retry.map_or(0, |retry| retry.failures);
        let delay = RETRY_DELAY
            .saturating_mul(1 << failures.min(16))
            .min(MAX_RETRY_DELAY);
        // A fault that lasts a while must not cost the lease.
        let rest = self.remaining(now).filter(|rest| !rest.is_zero());
        let delay = rest.map_or(delay, |rest| delay.min(rest / 4).max(RETRY_DELAY));
        self.retry = Some(Retry {
            at: now + delay,
            failures: failures.saturating_add(1),
        });
        self
    }

    /// Returns the same lease, for which nothing is done before `until`.
    pub(crate) fn put_off_until(mut self, until: Instant) -> Self {
        self.retry = Some(Retry {
            at: until,
            failures: self.retry.map_or(0, |retry| retry.failures),
        });
        self
    }

    /// Returns the same lease, whose server was found at `now` not to answer.
    pub(crate) fn with_silence(mut self, now: Instant) -> Self {
        if let RecordState::Held { silent_since, .. } | RecordState::Ending { silent_since, .. } =
            &mut self.state
        {
            *silent_since = Some(now);
        }
        self
    }

    /// Returns the same lease, renewed no sooner than `until`, as long as half of the time from T1
    /// to T2 is left for the first REQUEST. `None` where there is no lease that has a T1.
    pub(crate) fn put_off(mut self, until: Instant) -> Option<Self> {
        let (renew_at, rebind_at) = (self.t1()?, self.t2()?);
        let RecordState::Held {
            snapshot,
            deferred_until,
            ..
        } = &mut self.state
        else {
            return None;
        };
        let latest = renew_at + (rebind_at - renew_at) / 2;
        *deferred_until = deferral(snapshot, until.max(renew_at).min(latest));
        Some(self)
    }

    /// Returns the same lease, whose link is to be inspected at once.
    pub(crate) fn with_look(mut self) -> Self {
        self.look.get_or_insert(Look {
            at: AT_ONCE,
            count: 0,
            unsaid: false,
        });
        self
    }

    /// Returns the lease's key.
    pub(crate) fn key(&self) -> &LeaseKey {
        &self.request.key
    }

    /// Returns the names that the container goes by.
    pub(crate) fn who(&self) -> ContainerNames<'_> {
        self.request.who()
    }

    /// Returns the prefix of log lines about the lease.
    pub(crate) fn log_prefix(&self) -> LogPrefix<'_> {
        let lease = self.lease();
        self.key()
            .log_prefix(lease.map(|lease| (lease.address, lease.prefix_len)))
    }

    /// Returns the lease in use, if any.
    pub(crate) fn lease(&self) -> Option<&dhcp::Lease> {
        self.snapshot()?.lease()
    }

    /// Returns the lease in use in the caller's terms.
    pub(crate) fn reply(&self) -> Option<NetavarkLease> {
        self.lease().map(|lease| reply::reply(&self.request, lease))
    }

    /// Returns the address that the container has, or had last.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        match &self.snapshot()?.phase {
            Phase::Bound { lease, .. }
            | Phase::Renewing { lease, .. }
            | Phase::Rebinding { lease, .. } => Some(lease.address),
            Phase::Init { wanted, .. } => *wanted,
        }
    }

    /// Returns the server of the lease in use.
    pub(crate) fn server(&self) -> Option<DhcpServer> {
        let lease = self.lease()?;
        Some(DhcpServer {
            network: self.request.host_interface.clone(),
            address: lease.server_id,
            station: lease.server_mac,
        })
    }

    /// Returns T1; `None` in an infinite lease.
    pub(crate) fn t1(&self) -> Option<Instant> {
        let (renew_at, _) = phase::timers(&self.snapshot()?.phase)?;
        (renew_at != NEVER).then_some(renew_at)
    }

    /// Returns T2; `None` in an infinite lease.
    fn t2(&self) -> Option<Instant> {
        let (_, rebind_at) = phase::timers(&self.snapshot()?.phase)?;
        (rebind_at != NEVER).then_some(rebind_at)
    }

    fn expires_at(&self) -> Option<Instant> {
        self.lease()?.expires_at()
    }

    /// Returns the time that the lease lasts from `now` on without a renewal; `None` where it is
    /// infinite, or there is none.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.expires_at().map(|end| end - now)
    }

    /// Returns the time at which there is something to be done; `None` where there never is.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let Some(retry) = self.retry {
            return Some(retry.at);
        }
        // A message that cannot be sent makes nothing due.
        let client = match self.look {
            Some(Look { unsaid: true, .. }) => None,
            _ => self.client_due(),
        };
        let look = self.look.map(|look| look.at);
        client
            .into_iter()
            .chain(look)
            .chain(self.expires_at())
            .min()
    }

    /// Returns the time at which the client has something to do.
    fn client_due(&self) -> Option<Instant> {
        match &self.state {
            RecordState::Intent | RecordState::Ending { .. } => Some(AT_ONCE),
            RecordState::Held {
                snapshot,
                deferred_until,
                ..
            } => deferred_until.or_else(|| snapshot.due()),
        }
    }

    /// Returns the time from which it may be renewed together with others: a tenth of T1 before its
    /// time (RFC 2131 4.4.5).
    pub(crate) fn may_renew_from(&self) -> Option<Instant> {
        let lease = match &self.state {
            RecordState::Held {
                snapshot:
                    Snapshot {
                        phase: Phase::Bound { lease, .. },
                        ..
                    },
                ..
            } if !self.is_retry() => lease,
            _ => return None,
        };
        let renew_at = self.t1()?.since_boot();
        Some(Instant::from_boot(renew_at.saturating_sub(lease.t1 / 10)))
    }

    /// Returns the end of the time in which it is due: T2 where T1 comes next or has passed without
    /// an answer, else the end of the lease.
    pub(crate) fn too_late(&self) -> Option<Instant> {
        match &self.state {
            RecordState::Held {
                snapshot:
                    Snapshot {
                        phase: Phase::Bound { .. } | Phase::Renewing { .. },
                        ..
                    },
                ..
            } => self.t2(),
            RecordState::Held { .. } | RecordState::Ending { .. } | RecordState::Intent => {
                self.expires_at()
            }
        }
    }

    /// Returns whether a Teardown of it is under way.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, RecordState::Ending { .. })
    }

    /// Returns whether a failure of its work waits for another attempt.
    pub(crate) fn is_retry(&self) -> bool {
        self.retry.is_some()
    }

    /// Returns whether it is in use and nothing is to be done for it but to renew it.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.phase(), Some(Phase::Bound { .. })) && self.look.is_none()
    }

    /// Returns whether its server was asked for more time, and did not answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        let phase = self.phase();
        matches!(
            phase,
            Some(Phase::Renewing { .. } | Phase::Rebinding { .. })
        ) && self.look.is_none()
    }

    /// Returns the time since which its server does not answer, as far as this lease has found.
    pub(crate) fn silence(&self) -> Option<Instant> {
        match self.state {
            RecordState::Intent => None,
            RecordState::Held { silent_since, .. } | RecordState::Ending { silent_since, .. } => {
                silent_since
            }
        }
    }

    /// Returns the phase of a lease that is not ending.
    fn phase(&self) -> Option<&Phase> {
        match &self.state {
            RecordState::Held { snapshot, .. } => Some(&snapshot.phase),
            RecordState::Intent | RecordState::Ending { .. } => None,
        }
    }

    fn snapshot(&self) -> Option<&Snapshot> {
        match &self.state {
            RecordState::Intent => None,
            RecordState::Held { snapshot, .. } | RecordState::Ending { snapshot, .. } => {
                Some(snapshot)
            }
        }
    }
}

/// Returns the deferral that has a client woken `at` that time, `None` where it is woken then
/// anyway.
fn deferral(snapshot: &Snapshot, at: Instant) -> Option<Instant> {
    (snapshot.due() != Some(at)).then_some(at)
}

#[cfg(test)]
pub(crate) mod tests;
