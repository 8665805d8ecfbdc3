//! One lease as `status` reports it.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::operator::podman::Names;
use crate::operator::text;
use crate::proxy::store::record::{ContainerId, ENDING, INTENT, LeaseView, Routers};
use crate::proxy::store::trust::Trust;
use crate::rt;
use crate::time::Instant;

/// The time after which a lease that is due and is not worked on is overdue.
pub(super) const OVERDUE: Duration = Duration::from_secs(120);

/// One lease. Its texts are those of the state file, which stays in memory.
#[derive(Clone, Debug, Serialize)]
pub(in crate::operator) struct LeaseReport {
    pub(in crate::operator) container_id: Option<ContainerId>,
    pub(in crate::operator) container_name: Option<String>,
    pub(in crate::operator) interface: Cow<'static, str>,
    /// The interface of the host's that the container's is made on.
    pub(in crate::operator) parent: Cow<'static, str>,
    pub(in crate::operator) namespace: Cow<'static, str>,
    pub(in crate::operator) namespace_state: NamespaceState,
    pub(in crate::operator) mac: Cow<'static, str>,
    pub(in crate::operator) state: &'static str,
    pub(in crate::operator) address: Option<Ipv4Addr>,
    pub(in crate::operator) prefix_length: Option<u8>,
    pub(in crate::operator) routers: Routers<'static>,
    pub(in crate::operator) server: Option<Ipv4Addr>,
    /// The station that the server's last answer came from.
    pub(in crate::operator) server_mac: Option<Cow<'static, str>>,
    pub(in crate::operator) acquired: Option<Moment>,
    /// T1.
    pub(in crate::operator) renewal: Option<Moment>,
    /// T2.
    pub(in crate::operator) rebinding: Option<Moment>,
    pub(in crate::operator) expiry: Option<Moment>,
    /// The next time at which the daemon does something for it.
    pub(in crate::operator) next_wake: Option<Moment>,
    /// The fault of this lease, in words.
    pub(in crate::operator) trouble: Option<Cow<'static, str>>,
    pub(in crate::operator) last_trouble: Option<TroubleReport>,
    /// The same as `next_wake`.
    #[serde(skip)]
    pub(super) due: Option<Instant>,
}

/// The last failure of work on a lease.
#[derive(Clone, Debug, Serialize)]
pub(in crate::operator) struct TroubleReport {
    pub(in crate::operator) at: Moment,
    pub(in crate::operator) text: String,
}

/// A network namespace, as its path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::operator) enum NamespaceState {
    Alive,
    Gone,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(in crate::operator) struct Moment {
    #[serde(serialize_with = "as_date")]
    pub(in crate::operator) date: Duration,
    /// The time until then; negative in the past.
    pub(in crate::operator) in_seconds: i64,
}

fn as_date<S: Serializer>(since_1970: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::date(*since_1970))
}

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::operator) struct Clocks {
    pub(in crate::operator) boot: Instant,
    pub(in crate::operator) wall: Duration,
}

impl Clocks {
    pub(in crate::operator) fn read() -> Self {
        Self {
            boot: rt::now(),
            wall: rt::wall_clock(),
        }
    }

    pub(super) fn moment(self, at: Instant) -> Moment {
        let (ahead, behind) = (at - self.boot, self.boot - at);
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Moment {
            date: self.wall.saturating_add(ahead).saturating_sub(behind),
            in_seconds: seconds(ahead) - seconds(behind),
        }
    }

    /// Returns the moment of a date.
    pub(super) fn dated(self, since_1970: Duration) -> Moment {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Moment {
            date: since_1970,
            in_seconds: seconds(since_1970).saturating_sub(seconds(self.wall)),
        }
    }
}

impl LeaseReport {
    /// Makes the report on a lease at which the daemon has died `deaths` times.
    pub(super) fn new(
        view: &LeaseView<'static>,
        (namespace_state, deaths): (NamespaceState, u32),
        names: &Names,
        clocks: Clocks,
    ) -> Self {
        let moment = |at: Instant| clocks.moment(at);
        let container_id = view.container_id();
        let is_quarantined = Trust::after(deaths) == Trust::Quarantined;
        let due = view.due.filter(|_| !is_quarantined);
        let trouble = if is_quarantined {
            Some(Cow::Owned(format!(
                "the daemon died {deaths} times while working on it, and renews it no longer"
            )))
        } else {
            view.trouble()
        };
        Self {
            container_name: container_id
                .and_then(|id| names.get(&id).filter(|name| !name.is_empty()))
                .cloned(),
            container_id,
            interface: view.interface.clone(),
            parent: view.parent.clone(),
            namespace: view.namespace.clone(),
            namespace_state,
            mac: view.mac.clone(),
            state: view.state,
            address: view.address,
            prefix_length: view.prefix_length,
            routers: view.routers,
            server: view.server,
            server_mac: view.server_mac.clone(),
            acquired: view.acquired_at.map(moment),
            renewal: view.t1.map(moment),
            rebinding: view.t2.map(moment),
            expiry: view.expires_at.map(moment),
            next_wake: due.map(moment),
            trouble,
            last_trouble: view.last_trouble.as_ref().map(|trouble| TroubleReport {
                at: moment(trouble.at),
                text: trouble.text.clone(),
            }),
            due,
        }
    }

    pub(in crate::operator) fn is_alive(&self) -> bool {
        self.namespace_state == NamespaceState::Alive
    }

    /// Returns whether a Setup or a Teardown has begun and not ended.
    pub(super) fn is_in_call(&self) -> bool {
        matches!(self.state, INTENT | ENDING)
    }

    /// Returns the reason why this lease makes the whole unhealthy. That of a container that is
    /// gone does not: the daemon removes it when it is due.
    pub(super) fn unhealthy(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        self.is_alive()
            .then(|| format!("{}: {trouble}", self.place()))
    }

    /// Returns the reason why a daemon that runs should have worked on this lease by now. A call
    /// that is under way takes its time.
    pub(super) fn overdue(&self, clocks: Clocks) -> Option<String> {
        let late = clocks.boot - self.due?;
        let is_overdue = late > OVERDUE && self.is_alive() && !self.is_in_call();
        is_overdue.then(|| {
            format!(
                "{}: due since {}, and the daemon does not work on it",
                self.place(),
                text::length(late)
            )
        })
    }

    /// Returns the container's interface and its container or namespace.
    pub(in crate::operator) fn place(&self) -> String {
        let container = self.container_name.as_deref().unwrap_or(&self.namespace);
        format!("{} of {container}", self.interface)
    }
}
