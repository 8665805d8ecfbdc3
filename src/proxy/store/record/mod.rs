//! The record of a dormant lease: types in memory, and [one form](stored) in the table and in the
//! state file.

use std::borrow::Cow;
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

pub(super) use number::{instant, millis};
pub(crate) use stored::{ENDING, EncodedRecord, FormerLease, INTENT, StoredRecord};
use trouble::Condition;
pub(crate) use trouble::LeaseTrouble;
pub(crate) use view::{ContainerId, EntryValues, LeaseView, Routers, STATES};

mod adopted;
mod check;
mod clamp;
mod demand;
mod number;
mod phase;
mod stored;
mod trouble;
mod view;

/// The delay before a retry, doubled with each failure up to [`MAX_RETRY_DELAY`].
const RETRY_DELAY: Duration = Duration::from_secs(30);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// A time that never comes: T1 and T2 of an infinite lease.
const NEVER: Instant = Instant::from_boot(Duration::MAX);
/// A time that is always past.
const AT_ONCE: Instant = Instant::from_boot(Duration::ZERO);

/// Everything needed to resume a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The container's request, with the client identifier and the host name that the server was
    /// sent.
    pub(crate) request: Request,
    pub(crate) interface: ContainerInterface,
    /// The changes that the lease made to the link.
    pub(crate) applied: Applied,
    /// Option 57 in bytes, if the MTU was known.
    pub(crate) message_size: Option<u16>,
    pub(crate) state: RecordState,
    /// Set if the link may differ from [`applied`](Self::applied).
    pub(crate) link_check: Option<LinkCheck>,
    /// Set after a failure.
    retry: Option<Retry>,
    pub(crate) last_trouble: Option<LeaseTrouble>,
}

/// The progress of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordState {
    /// Setup is in progress.
    Intent,
    /// A lease is held, or acquired again after a loss.
    Held {
        snapshot: Snapshot,
        /// The time of renewal if that is not the client's own, because the server does not answer
        /// other clients.
        deferred_until: Option<Instant>,
        /// The time at which the server was found not to answer.
        unresponsive_since: Option<Instant>,
    },
    /// Teardown is in progress.
    Ending {
        /// The lease to release, in BOUND; in INIT if there is none.
        snapshot: Snapshot,
        /// As in [`Held`](Self::Held).
        unresponsive_since: Option<Instant>,
    },
}

/// A check of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkCheck {
    pub(crate) at: Instant,
    /// Checks in a row that found the link changed.
    pub(crate) count: u32,
    /// A message is due, but there is no carrier.
    pub(crate) is_send_pending: bool,
}

/// A retry after failures.
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
            link_check: None,
            retry: None,
            last_trouble: None,
        }
    }

    /// Returns the record of a lease that is dormant until its client is due, or its link check.
    pub(crate) fn dormant(
        (request, interface): (&Request, &ContainerInterface),
        config: &dhcp::Config,
        snapshot: Snapshot,
        applied: &Applied,
        link_check: Option<LinkCheck>,
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
                unresponsive_since: None,
            },
            link_check,
            ..Self::intent(&request, interface)
        }
    }

    /// Returns the same lease at the beginning of its Teardown. A Setup without a lease is returned
    /// unchanged.
    pub(crate) fn ending(self) -> Self {
        match self.state {
            RecordState::Intent => self,
            RecordState::Held {
                snapshot,
                unresponsive_since,
                ..
            }
            | RecordState::Ending {
                snapshot,
                unresponsive_since,
            } => Self {
                state: RecordState::Ending {
                    snapshot: phase::to_be_released(snapshot),
                    unresponsive_since,
                },
                retry: None,
                ..self
            },
        }
    }

    /// Returns the same lease after a failure at `now`, with a longer delay than the last time.
    pub(crate) fn with_retry(mut self, now: Instant) -> Self {
        let failures = self.retry.map_or(0, |retry| retry.failures);
        let delay = RETRY_DELAY
            .saturating_mul(1 << failures.min(16))
            .min(MAX_RETRY_DELAY);
        // A temporary fault must not cost the lease.
        let remaining = self.remaining(now).filter(|remaining| !remaining.is_zero());
        let delay = remaining.map_or(delay, |remaining| delay.min(remaining / 4).max(RETRY_DELAY));
        self.retry = Some(Retry {
            at: now + delay,
            failures: failures.saturating_add(1),
        });
        self
    }

    /// Returns the same lease, dormant until `until`.
    pub(crate) fn with_retry_at(mut self, until: Instant) -> Self {
        self.retry = Some(Retry {
            at: until,
            failures: self.retry.map_or(0, |retry| retry.failures),
        });
        self
    }

    /// Returns the same lease after its server was found at `now` not to answer.
    pub(crate) fn with_unresponsive_server(mut self, now: Instant) -> Self {
        if let RecordState::Held {
            unresponsive_since, ..
        }
        | RecordState::Ending {
            unresponsive_since, ..
        } = &mut self.state
        {
            *unresponsive_since = Some(now);
        }
        self
    }

    /// Returns the same lease, renewed no earlier than `until`, but no later than halfway from T1
    /// to T2, so that time is left for the first REQUEST. `None` for a lease without T1.
    pub(crate) fn defer_renewal(mut self, until: Instant) -> Option<Self> {
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

    /// Returns the same lease with a check of its link due at once.
    pub(crate) fn with_link_check(mut self) -> Self {
        self.link_check.get_or_insert(LinkCheck {
            at: AT_ONCE,
            count: 0,
            is_send_pending: false,
        });
        self
    }

    /// Returns the same lease after trouble at `now`.
    pub(crate) fn with_trouble(self, text: &str, now: Instant) -> Self {
        Self {
            last_trouble: Some(LeaseTrouble::new(text, now)),
            ..self
        }
    }

    pub(crate) fn key(&self) -> &LeaseKey {
        &self.request.key
    }

    /// Returns the container's names.
    pub(crate) fn names(&self) -> ContainerNames<'_> {
        self.request.names()
    }

    /// Returns the prefix of log lines about the lease.
    pub(crate) fn log_prefix(&self) -> LogPrefix<'_> {
        let lease = self.lease();
        self.key()
            .log_prefix(lease.map(|lease| (lease.address, lease.prefix_len)))
    }

    /// Returns what is wrong with the lease, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = match &self.state {
            RecordState::Intent => stored::INTENT,
            RecordState::Ending { .. } => stored::ENDING,
            RecordState::Held { snapshot, .. } => phase::name(&snapshot.phase),
        };
        let condition = Condition {
            state,
            failures: self.retry.map_or(0, |retry| retry.failures),
            is_send_pending: self.link_check.is_some_and(|check| check.is_send_pending),
        };
        condition.trouble().map(Cow::into_owned)
    }

    /// Returns the lease in use, if any.
    pub(crate) fn lease(&self) -> Option<&dhcp::Lease> {
        self.snapshot()?.lease()
    }

    /// Returns the lease in use as netavark's message.
    pub(crate) fn reply(&self) -> Option<NetavarkLease> {
        self.lease().map(|lease| reply::reply(&self.request, lease))
    }

    /// Returns the container's present or last address.
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
    pub(crate) fn t2(&self) -> Option<Instant> {
        let (_, rebind_at) = phase::timers(&self.snapshot()?.phase)?;
        (rebind_at != NEVER).then_some(rebind_at)
    }

    /// Returns the end of the lease; `None` where it is infinite, or there is none.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        self.lease()?.expires_at()
    }

    /// Returns the time from `now` to the end of the lease without a renewal; `None` for an
    /// infinite lease or without one.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.expires_at().map(|end| end - now)
    }

    /// Returns the time at which it is due; `None` for never.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let Some(retry) = self.retry {
            return Some(retry.at);
        }
        // A message that cannot be sent is not due.
        let client = match self.link_check {
            Some(LinkCheck {
                is_send_pending: true,
                ..
            }) => None,
            _ => self.client_due(),
        };
        let link_check = self.link_check.map(|link_check| link_check.at);
        client
            .into_iter()
            .chain(link_check)
            .chain(self.expires_at())
            .min()
    }

    /// Returns the time at which the client is due.
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

    /// Returns the time from which it may be renewed together with others, a tenth of T1 before T1
    /// (RFC 2131 §4.4.5).
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

    /// Returns the time by which it has to be served: T2 until an unanswered renewal has reached
    /// it, else the end of the lease.
    pub(crate) fn deadline(&self) -> Option<Instant> {
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

    /// Returns whether a Teardown is in progress.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, RecordState::Ending { .. })
    }

    /// Returns whether a failure is to be retried.
    pub(crate) fn is_retry(&self) -> bool {
        self.retry.is_some()
    }

    /// Returns whether it is in use and needs nothing but renewals.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.phase(), Some(Phase::Bound { .. })) && self.link_check.is_none()
    }

    /// Returns whether a renewal is unanswered.
    pub(crate) fn is_unanswered(&self) -> bool {
        let phase = self.phase();
        matches!(
            phase,
            Some(Phase::Renewing { .. } | Phase::Rebinding { .. })
        ) && self.link_check.is_none()
    }

    /// Returns the time since which the server is known not to answer.
    pub(crate) fn unresponsive_since(&self) -> Option<Instant> {
        match self.state {
            RecordState::Intent => None,
            RecordState::Held {
                unresponsive_since, ..
            }
            | RecordState::Ending {
                unresponsive_since, ..
            } => unresponsive_since,
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

/// Returns the deferral to `at`, `None` if the client is due then anyway.
fn deferral(snapshot: &Snapshot, at: Instant) -> Option<Instant> {
    (snapshot.due() != Some(at)).then_some(at)
}

#[cfg(test)]
pub(crate) mod tests;
