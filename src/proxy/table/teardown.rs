//! Teardown, and every other end of a lease: released or left to expire, and removed from the link.

use std::rc::Rc;

use crate::proxy::container::interface::{Unreachable, canonical};
use crate::proxy::error::CallError;
use crate::proxy::key::{ContainerNames, LeaseKey, Selector};
use crate::proxy::session::Session;
use crate::proxy::store::counters::{Counter, FailureReason};
use crate::rpc::{NetavarkLease, NetworkConfig};
use crate::rt;
use crate::time::Instant;

use super::claim::{Claim, DetachOnDrop, Previous};
use super::state::Table;

/// A lease that has ended.
pub(super) struct EndedLease {
    /// `None` where its search or its Setup has ended.
    pub(super) lease: Option<NetavarkLease>,
    pub(super) ending: Ending,
}

/// The end of a lease: nothing, or the reason why its server was not told; or the failure that is
/// retried later.
pub(super) type Ending = Result<Option<String>, CallError>;

impl Table {
    /// Ends the leases that a call selects. Never fails: a lease that does not exist counts as
    /// ended.
    pub(super) async fn teardown(self: &Rc<Self>, config: &NetworkConfig) -> NetavarkLease {
        let Some(selector) = Selector::parse(config) else {
            return NetavarkLease::default();
        };
        let selector = selector.with_netns(canonical);
        let mut keys = self.keys(|key| selector.matches_interface(key));
        if keys.is_empty() {
            keys = self.keys(|key| selector.matches_mac(key));
            // Two interfaces may have the same MAC.
            keys.retain(|key| {
                selector
                    .interface()
                    .is_none_or(|name| self.has_interface(key, name))
            });
        }
        self.end_leases(keys, |_| None).await.unwrap_or_default()
    }

    /// Returns whether a lease's interface has this name now, or no longer exists.
    fn has_interface(&self, key: &LeaseKey, name: &str) -> bool {
        let Some(record) = self.record(key) else {
            return false;
        };
        let _step = self.journal.begin_step(key);
        match record.interface.name(&record.request) {
            Ok(there) => there == name,
            Err(unreachable) => matches!(unreachable, Unreachable::Gone(_)),
        }
    }

    /// Ends and releases all leases at a limited rate, and cancels Setups in progress.
    pub(super) async fn end_all(self: &Rc<Self>) {
        let turn = |now| Some(self.plan.borrow_mut().turn(now));
        self.end_leases(self.keys(|_| true), turn).await;
    }

    /// Ends and releases leases, each at its `turn`, and cancels Setups in progress. Returns one of
    /// them.
    pub(super) async fn end_leases(
        self: &Rc<Self>,
        keys: Vec<LeaseKey>,
        turn: impl Fn(Instant) -> Option<Instant>,
    ) -> Option<NetavarkLease> {
        let endings: Vec<_> = keys
            .into_iter()
            .map(|key| self.spawn_end(key, turn(rt::now())))
            .collect();
        let mut last = None;
        for ending in endings {
            last = ending.await.and_then(|ended| ended.lease).or(last);
        }
        self.persist().await;
        last
    }

    /// Spawns the task that ends and releases a lease at its `turn`. It goes on when it is no longer
    /// waited for.
    fn spawn_end(
        self: &Rc<Self>,
        key: LeaseKey,
        turn: Option<Instant>,
    ) -> DetachOnDrop<Option<EndedLease>> {
        let table = Rc::clone(self);
        let ending = async move {
            if let Some(turn) = turn {
                table.context.sleep_until(turn).await;
            }
            table.journal.watch(&key, table.end(&key)).await
        };
        DetachOnDrop(Some(self.context.runtime.spawn(ending)))
    }

    /// Ends and releases a lease, or cancels its Setup. `None` where there is nothing to end.
    pub(super) async fn end(self: &Rc<Self>, key: &LeaseKey) -> Option<EndedLease> {
        let (claim, before) = self.claim(key, &Rc::default()).await;
        let before = before?;
        let lease = self.record(key).and_then(|record| record.reply());
        let ending = self.end_claimed(&claim, before, |_| true).await;
        Some(EndedLease { lease, ending })
    }

    /// Ends the lease of a claimed slot. `release` decides whether its server gets a RELEASE.
    pub(super) async fn end_claimed(
        self: &Rc<Self>,
        claim: &Claim,
        before: Previous,
        release: impl FnOnce(ContainerNames<'_>) -> bool,
    ) -> Ending {
        // Goes on after the caller has hung up, so the process must not exit.
        let _activity = self.idle.activity();
        let session = match before {
            Previous::Active(active) => active.stop().await,
            Previous::Dormant => None,
        };
        let Some(record) = self.record(&claim.key) else {
            return Ok(None);
        };
        self.remember_address(record.names(), &record);
        // An interrupted Teardown is always finished.
        let release = record.is_ending() || release(record.names());
        // Written ahead: after a crash, the next start finishes the Teardown, or rechecks the link
        // of a lease that is not released.
        let noted = if release {
            record.clone().ending()
        } else {
            record.clone().with_link_check()
        };
        self.set_record(&claim.key, &noted);
        self.persist().await;
        let prefix = record.log_prefix().to_string();
        let session = match session {
            Some(session) => Ok(Some(session)),
            None => Session::resume(&self.context, record, false),
        };
        if let Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) = &session {
            self.context.emit_gone(&noted);
        }
        let ending = match session {
            Ok(Some(session)) => session.end(release).await,
            Ok(None) => Ok(None),
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{prefix}: {why}; the lease is left to expire");
                Ok(Some(why))
            }
            Err(Unreachable::Fault(error)) => Err(error),
        };
        if let Err(error) = &ending {
            log::warn!("{prefix}: cannot end the lease: {error}");
            self.context.count(Counter::Failure(FailureReason::Kernel));
            let why = format!("cannot end the lease: {error}");
            *claim.retry.borrow_mut() = release.then(|| noted.with_trouble(&why, rt::now()));
        }
        ending
    }
}
