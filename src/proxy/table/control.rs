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

use super::claim::DetachOnDrop;
use super::state::{SlotState, Table};
use super::teardown::EndedLease;

/// The time in which a renewal comes to its end, counted from its turn: a lease without an answer
/// listens for ten seconds.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(15);

/// The time for all leases that crashed the daemon, which are renewed one after the other. With the
/// time for the other leases it is less than the caller waits for.
const SUSPECTS_TIMEOUT: Duration = Duration::from_secs(28);

/// The result for a lease, and the reason in words.
type ResultAndReason = (LeaseResult, String);

/// The stage of a lease in the table.
#[derive(Debug)]
enum LeaseStage {
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
    End(ResultAndReason),
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
    /// The time at which the call had it started.
    started: Option<Instant>,
    /// The time at which it is no longer waited for.
    end: Instant,
    /// Set once it is known.
    result: Option<ResultAndReason>,
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
            let end = rt::now() + SUSPECTS_TIMEOUT;
            self.renew_suspects(suspects, end, &mut leases).await;
            Ok(LeaseOutcomes { leases })
        };
        or(work, stopping(closing)).await
    }

    /// Renews leases that crashed the daemon as far as there is time until `end`, and adds their
    /// outcomes to `outcomes`.
    ///
    /// They are renewed one by one, so that a crash costs no other of them its renewal. Unlike the
    /// plan this does not wait for other work to end: the operator has chosen the time.
    async fn renew_suspects(
        self: &Rc<Self>,
        suspects: Vec<LeaseKey>,
        end: Instant,
        outcomes: &mut Vec<LeaseOutcome>,
    ) {
        for suspect in suspects {
            if rt::now() + RENEWAL_TIMEOUT <= end {
                self.renew_together(vec![suspect], outcomes).await;
            } else {
                outcomes.push(self.not_begun(&suspect));
            }
        }
    }

    /// Renews leases, and adds their outcomes to `outcomes`.
    async fn renew_together(
        self: &Rc<Self>,
        keys: Vec<LeaseKey>,
        outcomes: &mut Vec<LeaseOutcome>,
    ) {
        let observer = self.observers.observe(&keys);
        let renewals = keys.into_iter().map(|key| self.renewal(key));
        let mut renewals: Vec<_> = renewals.collect();
        (0..renewals.len()).for_each(|index| self.advance(&mut renewals[index]));
        loop {
            let (changes, next) = observer.changes();
            changes
                .into_iter()
                .for_each(|index| self.advance(&mut renewals[index]));
            let now = rt::now();
            let mut first_end = None;
            for renewal in renewals
                .iter_mut()
                .filter(|renewal| renewal.result.is_none())
            {
                if renewal.end <= now {
                    renewal.result = Some(self.late(&renewal.key));
                } else if first_end.is_none_or(|end| renewal.end < end) {
                    first_end = Some(renewal.end);
                }
            }
            let Some(end) = first_end else { break };
            or(next, self.context.sleep_until(end)).await;
        }
        for Renewal {
            key,
            before,
            result,
            ..
        } in renewals
        {
            let after = self.leased(&key).map(|lease| lease.address);
            let before = before.map(|lease| lease.address);
            outcomes.extend(result.map(|result| outcome(&key, (before, after), result)));
        }
    }

    /// Returns a renewal that has not begun.
    fn renewal(&self, key: LeaseKey) -> Renewal {
        Renewal {
            before: self.leased(&key),
            key,
            started: None,
            end: rt::now() + RENEWAL_TIMEOUT,
            result: None,
        }
    }

    /// Does the next step of a renewal.
    fn advance(self: &Rc<Self>, renewal: &mut Renewal) {
        if renewal.result.is_some() {
            return;
        }
        let Renewal {
            key,
            before,
            started,
            ..
        } = renewal;
        match self.next_step(key, before.as_ref(), *started) {
            // It may wait for a turn that it got before this call.
            Step::Wait => {
                if let Some(turn) = self.turn_of(key) {
                    renewal.end = renewal.end.max(turn + RENEWAL_TIMEOUT);
                }
            }
            Step::Start => {
                *started = Some(rt::now());
                renewal.end = self.start_renewal(&renewal.key) + RENEWAL_TIMEOUT;
            }
            Step::End(result) => renewal.result = Some(result),
        }
    }

    /// Returns the turn of a lease that a task works on.
    fn turn_of(&self, key: &LeaseKey) -> Option<Instant> {
        self.with_slots(|slots| match &slots.get(key)?.state {
            SlotState::Active(active) => Some(active.turn),
            SlotState::Claimed(_) | SlotState::Dormant { .. } => None,
        })
    }

    /// Has a dormant lease worked on at its turn, which is returned. Its server is asked even where
    /// the plan would spare it for a while. Without an answer T1 stays where it was.
    fn start_renewal(self: &Rc<Self>, key: &LeaseKey) -> Instant {
        let now = rt::now();
        let turn = self.plan.borrow_mut().turn(now);
        if let Some(record) = self.dormant_record(key) {
            let t1 = record.pending_t1(now);
            self.set_record(key, &record.with_message_due(now));
            self.wake(key, turn, t1);
        }
        turn
    }

    fn next_step(
        &self,
        key: &LeaseKey,
        before: Option<&dhcp::Lease>,
        started: Option<Instant>,
    ) -> Step {
        let stage = self.stage(key);
        if let LeaseStage::Dormant(_) = stage
            && started.is_none()
            && self.journal.trust(key) == Trust::Quarantined
        {
            let why = "the daemon died several times while working on it; restart the container";
            return Step::End((LeaseResult::Failed, why.to_owned()));
        }
        next_step(&stage, before, started, rt::now())
    }

    /// Returns the outcome of a renewal whose time is over.
    fn late(&self, key: &LeaseKey) -> ResultAndReason {
        let trouble = self.record(key).and_then(|record| record.trouble());
        let seconds = RENEWAL_TIMEOUT.as_secs();
        let why = trouble.unwrap_or_else(|| format!("no outcome within {seconds} s"));
        (LeaseResult::Failed, format!("{why}; the work goes on"))
    }

    /// Returns the outcome of a renewal for which no time was left.
    fn not_begun(&self, key: &LeaseKey) -> LeaseOutcome {
        let why = "the leases before it, at which the daemon has died as well, took all of the time; \
                   call again";
        let address = self.leased(key).map(|lease| lease.address);
        let failed = (LeaseResult::Failed, why.to_owned());
        outcome(key, (address, address), failed)
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
                .map(|key| match self.stage(&key) {
                    LeaseStage::NoLease => (key, Err((LeaseResult::NoLease, String::new()))),
                    // A Setup would fail, although its caller is alive.
                    LeaseStage::Claimed { is_ending } => (key, Err(claimed(is_ending))),
                    LeaseStage::Active(_) | LeaseStage::Dormant(_) => {
                        (key.clone(), Ok(self.spawn_release(key)))
                    }
                })
                .collect();
            let mut leases = Vec::with_capacity(releases.len());
            for (key, release) in releases {
                let ended = match release {
                    Ok(release) => release.await,
                    Err(result) => Err(result),
                };
                let (result, address) = match ended {
                    Ok(ended) => (released(&ended), ended.lease),
                    Err(result) => (result, None),
                };
                let address = address.and_then(|lease| lease.yiaddr.parse().ok());
                let after = self.leased(&key).map(|lease| lease.address);
                leases.push(outcome(&key, (address.or(after), after), result));
            }
            self.persist().await;
            Ok(LeaseOutcomes { leases })
        };
        or(work, stopping(closing)).await
    }

    /// Spawns the task that releases a lease at its turn. It goes on when it is no longer waited for.
    /// A lease that a Setup or a Teardown has claimed before its turn is left to that call.
    fn spawn_release(
        self: &Rc<Self>,
        key: LeaseKey,
    ) -> DetachOnDrop<Result<EndedLease, ResultAndReason>> {
        let turn = self.plan.borrow_mut().turn(rt::now());
        self.releases.borrow_mut().insert(key.clone());
        let table = Rc::clone(self);
        let release = async move {
            let _activity = table.idle.activity();
            table.context.sleep_until(turn).await;
            let is_untouched = table.releases.borrow_mut().remove(&key);
            match table.stage(&key) {
                LeaseStage::Claimed { is_ending } => return Err(claimed(is_ending)),
                LeaseStage::Active(_) | LeaseStage::Dormant(_) if !is_untouched => {
                    let why = "the container was set up anew meanwhile; its new lease stays";
                    return Err((LeaseResult::Failed, why.to_owned()));
                }
                LeaseStage::Active(_) | LeaseStage::Dormant(_) | LeaseStage::NoLease => {}
            }
            let ended = table.journal.watch(&key, table.end(&key)).await;
            ended.ok_or((LeaseResult::NoLease, String::new()))
        };
        DetachOnDrop(Some(self.context.runtime.spawn(release)))
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

    fn stage(&self, key: &LeaseKey) -> LeaseStage {
        let record = self.record(key);
        self.with_slots(
            |slots| match (slots.get(key).map(|slot| &slot.state), record) {
                (None, _) => LeaseStage::NoLease,
                (Some(SlotState::Claimed(_)), record) => LeaseStage::Claimed {
                    is_ending: record.is_some_and(|record| record.is_ending()),
                },
                (Some(SlotState::Dormant { .. }), Some(record)) => LeaseStage::Dormant(record),
                (Some(SlotState::Active(_) | SlotState::Dormant { .. }), record) => {
                    LeaseStage::Active(record)
                }
            },
        )
    }
}

/// Returns the next step of a renewal on demand of a lease that was `before` at its beginning.
fn next_step(
    stage: &LeaseStage,
    before: Option<&dhcp::Lease>,
    started: Option<Instant>,
    now: Instant,
) -> Step {
    let record = match stage {
        LeaseStage::NoLease if started.is_some() => {
            let why = "its container or its interface is gone";
            return Step::End((LeaseResult::Failed, why.to_owned()));
        }
        LeaseStage::NoLease => return Step::End((LeaseResult::NoLease, String::new())),
        LeaseStage::Claimed { is_ending } => return Step::End(claimed(*is_ending)),
        LeaseStage::Active(record) => record.as_ref(),
        LeaseStage::Dormant(record) => Some(record),
    };
    if let Some(result) = record.and_then(|record| renewed(before, record.lease()?)) {
        return Step::End((result, String::new()));
    }
    match stage {
        LeaseStage::Dormant(record) if record.is_ending() => Step::End(claimed(true)),
        LeaseStage::Dormant(record) => match started {
            None => Step::Start,
            Some(since) => Step::End((LeaseResult::Failed, not_renewed(record, since, now))),
        },
        LeaseStage::Active(_) | LeaseStage::Claimed { .. } | LeaseStage::NoLease => Step::Wait,
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

/// Returns the reason why a dormant lease is not renewed, although that was begun at `since`.
fn not_renewed(record: &Record, since: Instant, now: Instant) -> String {
    let new = record.last_trouble.as_ref();
    let new = new.filter(|trouble| trouble.at >= since);
    let trouble = record.trouble();
    trouble
        .or_else(|| new.map(|trouble| trouble.text.clone()))
        .unwrap_or_else(|| {
            // The session had nothing to send: the client limits its own messages.
            let wait = record.due().map_or(Duration::ZERO, |due| due - now);
            format!(
                "too many messages in the last hour; the next one is due in {} s",
                wait.as_secs()
            )
        })
}

fn claimed(is_ending: bool) -> ResultAndReason {
    let call = if is_ending { "Teardown" } else { "Setup" };
    let why = format!("a {call} of the container is under way; try again later");
    (LeaseResult::Failed, why)
}

fn released(ended: &EndedLease) -> ResultAndReason {
    match &ended.ending {
        Ok(None) => (LeaseResult::Released, String::new()),
        Ok(Some(why)) => (LeaseResult::LeftToExpire, why.clone()),
        Err(error) => (LeaseResult::Failed, format!("{error}; trying again later")),
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
    (result, reason): ResultAndReason,
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
