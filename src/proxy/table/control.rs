//! The operator's calls: leases that are renewed now, and leases that are given back.

use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;

use crate::dhcp;
use crate::mac::{Mac, MacError};
use crate::net::peer;
use crate::proxy::error::CallError;
use crate::proxy::key::LeaseKey;
use crate::proxy::store::record::Record;
use crate::proxy::store::trust::Trust;
use crate::rpc::{
    Call, Code, LeaseIdentity, LeaseOutcome, LeaseOutcomes, LeaseResult, LeaseSelection, Status,
};
use crate::rt::{self, Stream};
use crate::time::Instant;

use super::state::{SlotState, Table};
use super::teardown::EndedLease;

/// The time in which a renewal comes to its end, counted from its turn: a lease without an answer
/// listens for ten seconds.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(15);

/// The outcome for a lease, and the reason in words.
type Told = (LeaseResult, String);

/// A lease, as a call finds it in the table.
#[derive(Debug)]
enum Sight {
    NoLease,
    /// A Setup makes it or, where that is set, a Teardown ends it.
    Claimed {
        is_ending: bool,
    },
    Active(Option<Record>),
    Dormant(Record),
}

/// The next step of a renewal on demand.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Has the lease worked on.
    Start,
    /// Waits until the lease changes.
    Wait,
    End(Told),
}

/// Refuses the operator's calls of users other than root and the daemon's own, whatever the mode of
/// the socket is: what manages containers has to set them up and tear them down, and no more.
pub(crate) fn permit(call: &Call, peer: &Stream) -> Result<(), Status> {
    if !call.is_control() {
        return Ok(());
    }
    let own = rustix::process::geteuid().as_raw();
    let user = rt::with_descriptor(peer, |peer| peer::user(&peer));
    if user.as_ref().is_ok_and(|user| is_permitted(*user, own)) {
        return Ok(());
    }
    let caller = match user {
        Ok(user) => format!("the caller is user {user}"),
        Err(error) => format!("the caller's user is unknown: {error}"),
    };
    Err(Status::new(
        Code::PermissionDenied,
        format!("only root and the daemon's user {own} renew and release leases; {caller}"),
    ))
}

/// Returns whether a user may control a daemon of the user `own`.
fn is_permitted(user: u32, own: u32) -> bool {
    user == 0 || user == own
}

/// A lease during its renewal on demand.
struct Renewal {
    key: LeaseKey,
    before: Option<dhcp::Lease>,
    is_started: bool,
    /// The time at which it is no longer waited for.
    end: Instant,
    /// The outcome, once it is known.
    told: Option<Told>,
}

impl Table {
    /// Renews the selected leases now, at the rate of all renewals, and waits for the outcomes. A
    /// drop ends the wait only.
    pub(super) async fn renew_now(
        self: &Rc<Self>,
        selection: LeaseSelection,
        closing: impl Future<Output = ()>,
    ) -> Result<LeaseOutcomes, Status> {
        let mut trusted = self.selected(selection)?;
        log::info!("renewing {} leases on demand", trusted.len());
        let mut suspects = trusted.clone();
        suspects.retain(|key| self.journal.deaths(key) > 0);
        trusted.retain(|key| self.journal.deaths(key) == 0);
        let work = async {
            let mut leases = Vec::new();
            self.renew_together(trusted, &mut leases).await;
            // Alone, as the plan has it: a lease that crashes the daemon costs no other its renewal.
            for suspect in suspects {
                self.renew_together(vec![suspect], &mut leases).await;
            }
            Ok(LeaseOutcomes { leases })
        };
        or(work, stopping(closing)).await
    }

    /// Renews leases, and adds their outcomes to `outcomes`.
    async fn renew_together(
        self: &Rc<Self>,
        keys: Vec<LeaseKey>,
        outcomes: &mut Vec<LeaseOutcome>,
    ) {
        let observer = self.observers.observe(&keys);
        let begin = |key: LeaseKey| Renewal {
            before: self.leased(&key),
            key,
            is_started: false,
            end: rt::now() + RENEWAL_TIMEOUT,
            told: None,
        };
        let mut renewals: Vec<_> = keys.into_iter().map(begin).collect();
        (0..renewals.len()).for_each(|index| self.advance(&mut renewals[index]));
        loop {
            let (changes, next) = observer.changes();
            changes
                .into_iter()
                .for_each(|index| self.advance(&mut renewals[index]));
            let now = rt::now();
            let mut first_end = None;
            for renewal in renewals.iter_mut().filter(|renewal| renewal.told.is_none()) {
                if renewal.end <= now {
                    renewal.told = Some(self.late(&renewal.key));
                } else if first_end.is_none_or(|end| renewal.end < end) {
                    first_end = Some(renewal.end);
                }
            }
            let Some(end) = first_end else { break };
            or(next, self.context.sleep_until(end)).await;
        }
        for Renewal {
            key, before, told, ..
        } in renewals
        {
            let after = self.leased(&key).map(|lease| lease.address);
            let before = before.map(|lease| lease.address);
            outcomes.extend(told.map(|told| outcome(&key, (before, after), told)));
        }
    }

    /// Does the next step of a renewal.
    fn advance(self: &Rc<Self>, renewal: &mut Renewal) {
        if renewal.told.is_some() {
            return;
        }
        let Renewal {
            key,
            before,
            is_started,
            ..
        } = renewal;
        match self.next_step(key, before.as_ref(), *is_started) {
            Step::Wait => {}
            Step::Start => {
                *is_started = true;
                renewal.end = self.start_renewal(&renewal.key) + RENEWAL_TIMEOUT;
            }
            Step::End(told) => renewal.told = Some(told),
        }
    }

    /// Has a dormant lease worked on at its turn, which is returned. Its server is asked even where
    /// the plan would spare it for a while.
    fn start_renewal(self: &Rc<Self>, key: &LeaseKey) -> Instant {
        let now = rt::now();
        let turn = self.plan.borrow_mut().turn(now);
        if let Some(record) = self.dormant_record(key) {
            self.set_record(key, &record.with_message_due(now));
            self.wake(key, turn);
        }
        turn
    }

    fn next_step(&self, key: &LeaseKey, before: Option<&dhcp::Lease>, is_started: bool) -> Step {
        let sight = self.sight(key);
        if let Sight::Dormant(_) = sight
            && !is_started
            && self.journal.trust(key) == Trust::Quarantined
        {
            let why = "the daemon died several times while working on it; restart the container";
            return Step::End((LeaseResult::Failed, why.to_owned()));
        }
        next_step(&sight, before, is_started, rt::now())
    }

    /// Returns the outcome of a renewal whose time is over.
    fn late(&self, key: &LeaseKey) -> Told {
        let trouble = self.record(key).and_then(|record| record.trouble());
        let seconds = RENEWAL_TIMEOUT.as_secs();
        let why = trouble.unwrap_or_else(|| format!("no outcome within {seconds} s"));
        (LeaseResult::Failed, format!("{why}; the work goes on"))
    }

    /// Releases the selected leases at the rate of all renewals, and takes them off their links. A
    /// drop ends the wait only.
    pub(super) async fn release_now(
        self: &Rc<Self>,
        selection: LeaseSelection,
        closing: impl Future<Output = ()>,
    ) -> Result<LeaseOutcomes, Status> {
        let keys = self.selected(selection)?;
        log::info!("releasing {} leases on demand", keys.len());
        let work = async {
            let releases: Vec<_> = keys
                .into_iter()
                .map(|key| match self.sight(&key) {
                    Sight::NoLease => (key, None, Some((LeaseResult::NoLease, String::new()))),
                    // A Setup would fail, although its caller is alive.
                    Sight::Claimed { is_ending } => (key, None, Some(claimed(is_ending))),
                    Sight::Active(_) | Sight::Dormant(_) => {
                        let turn = self.plan.borrow_mut().turn(rt::now());
                        let ending = self.spawn_end(key.clone(), Some(turn));
                        (key, Some(ending), None)
                    }
                })
                .collect();
            let mut leases = Vec::with_capacity(releases.len());
            for (key, ending, told) in releases {
                let ended = match ending {
                    Some(ending) => ending.await,
                    None => None,
                };
                let told = told.unwrap_or_else(|| released(ended.as_ref()));
                let address = ended.and_then(|ended| ended.lease);
                let address = address.and_then(|lease| lease.yiaddr.parse().ok());
                let after = self.leased(&key).map(|lease| lease.address);
                leases.push(outcome(&key, (address.or(after), after), told));
            }
            self.persist().await;
            Ok(LeaseOutcomes { leases })
        };
        or(work, stopping(closing)).await
    }

    /// Returns the keys of a selection, each once. They need not be in the table.
    fn selected(&self, selection: LeaseSelection) -> Result<Vec<LeaseKey>, Status> {
        let LeaseSelection { all, leases } = selection;
        match (all, leases.is_empty()) {
            (true, true) => Ok(self.keys(|_| true)),
            (true, false) => Err(Status::new(
                Code::InvalidArgument,
                "a selection of all leases has no list",
            )),
            (false, _) => {
                let mut keys = Vec::with_capacity(leases.len());
                for lease in &leases {
                    let key = key(lease)?;
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                Ok(keys)
            }
        }
    }

    /// Returns the lease of a key.
    fn leased(&self, key: &LeaseKey) -> Option<dhcp::Lease> {
        self.record(key)?.lease().cloned()
    }

    fn sight(&self, key: &LeaseKey) -> Sight {
        let record = self.record(key);
        self.with_slots(
            |slots| match (slots.get(key).map(|slot| &slot.state), record) {
                (None, _) => Sight::NoLease,
                (Some(SlotState::Claimed(_)), record) => Sight::Claimed {
                    is_ending: record.is_some_and(|record| record.is_ending()),
                },
                (Some(SlotState::Dormant { .. }), Some(record)) => Sight::Dormant(record),
                (Some(SlotState::Active(_) | SlotState::Dormant { .. }), record) => {
                    Sight::Active(record)
                }
            },
        )
    }
}

/// Returns the next step of a renewal on demand of a lease that was `before` at its beginning.
fn next_step(sight: &Sight, before: Option<&dhcp::Lease>, is_started: bool, now: Instant) -> Step {
    let record = match sight {
        Sight::NoLease if is_started => {
            let why = "its container or its interface is gone";
            return Step::End((LeaseResult::Failed, why.to_owned()));
        }
        Sight::NoLease => return Step::End((LeaseResult::NoLease, String::new())),
        Sight::Claimed { is_ending } => return Step::End(claimed(*is_ending)),
        Sight::Active(record) => record.as_ref(),
        Sight::Dormant(record) => Some(record),
    };
    if let Some(result) = record.and_then(|record| renewed(before, record.lease()?)) {
        return Step::End((result, String::new()));
    }
    match sight {
        Sight::Dormant(record) if record.is_ending() => Step::End(claimed(true)),
        Sight::Dormant(_) if !is_started => Step::Start,
        Sight::Dormant(record) => Step::End((LeaseResult::Failed, not_renewed(record, now))),
        Sight::Active(_) | Sight::Claimed { .. } | Sight::NoLease => Step::Wait,
    }
}

/// Returns the effect of a renewal, `None` where the lease is still the one before.
fn renewed(before: Option<&dhcp::Lease>, after: &dhcp::Lease) -> Option<LeaseResult> {
    match before {
        Some(before) if after.acquired_at <= before.acquired_at => None,
        Some(before) if before.same_settings(after) => Some(LeaseResult::Renewed),
        Some(before) if before.address == after.address => Some(LeaseResult::Changed),
        Some(_) | None => Some(LeaseResult::NewAddress),
    }
}

/// Returns the reason why a dormant lease is not renewed.
fn not_renewed(record: &Record, now: Instant) -> String {
    record.trouble().unwrap_or_else(|| {
        // The session had nothing to send: the client limits its own messages.
        let wait = record.due().map_or(Duration::ZERO, |due| due - now);
        format!(
            "too many messages in the last hour; the next one is due in {} s",
            wait.as_secs()
        )
    })
}

fn claimed(is_ending: bool) -> Told {
    let call = if is_ending { "Teardown" } else { "Setup" };
    let why = format!("a {call} of the container is under way; try again later");
    (LeaseResult::Failed, why)
}

fn released(ended: Option<&EndedLease>) -> Told {
    match ended.map(|ended| &ended.ending) {
        None => (LeaseResult::NoLease, String::new()),
        Some(Ok(None)) => (LeaseResult::Released, String::new()),
        Some(Ok(Some(why))) => {
            let why = format!("{why}; its server was not told, and lets it expire");
            (LeaseResult::Released, why)
        }
        Some(Err(error)) => (LeaseResult::Failed, format!("{error}; trying again later")),
    }
}

/// Parses the identity of a lease.
fn key(identity: &LeaseIdentity) -> Result<LeaseKey, Status> {
    let bad = |error: MacError| Status::new(Code::InvalidArgument, error.to_string());
    Ok(LeaseKey {
        mac: Mac::parse(&identity.mac).map_err(bad)?,
        netns: Path::new(&identity.namespace).into(),
        interface: identity.interface.as_str().into(),
    })
}

fn outcome(
    key: &LeaseKey,
    (before, after): (Option<Ipv4Addr>, Option<Ipv4Addr>),
    (result, reason): Told,
) -> LeaseOutcome {
    let text = |address: Option<Ipv4Addr>| {
        address
            .map(|address| address.to_string())
            .unwrap_or_default()
    };
    LeaseOutcome {
        lease: Some(LeaseIdentity {
            mac: key.mac.to_string(),
            namespace: key.netns.display().to_string(),
            interface: key.interface.to_string(),
        }),
        address_before: text(before),
        address_after: text(after),
        result: result.into(),
        reason,
    }
}

/// Fails when the process is to exit. What was begun is finished by the next process.
async fn stopping<T>(closing: impl Future<Output = ()>) -> Result<T, Status> {
    closing.await;
    Err(CallError::Stopping.into())
}

#[cfg(test)]
mod tests;
