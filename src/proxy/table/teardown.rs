//! Teardown, and every other end of a lease: given back or left to run out, and taken off the link.

use std::rc::Rc;

use crate::proxy::container::interface::{Unreachable, canonical};
use crate::proxy::key::{ContainerNames, LeaseKey, Selector};
use crate::rpc::{NetavarkLease, NetworkConfig};
use crate::rt;
use crate::time::Instant;

use super::claim::{Before, Claim, Finish};
use super::state::Table;

impl Table {
    /// Ends the leases that a call means. Never fails: what is not there is as good as torn down.
    pub(super) async fn teardown(self: &Rc<Self>, config: &NetworkConfig) -> NetavarkLease {
        let Some(selector) = Selector::parse(config) else {
            return NetavarkLease::default();
        };
        let selector = selector.with_netns(canonical);
        let mut keys = self.keys(|key| selector.matches_interface(key));
        if keys.is_empty() {
            keys = self.keys(|key| selector.matches_mac(key));
            // Another interface may have the same MAC.
            keys.retain(|key| {
                selector
                    .interface()
                    .is_none_or(|name| self.is_named(key, name))
            });
        }
        self.end_each(keys, |_| None).await.unwrap_or_default()
    }

    /// Returns whether a lease's interface has this name by now, or is not there any more.
    fn is_named(&self, key: &LeaseKey, name: &str) -> bool {
        let Some(record) = self.record(key) else {
            return false;
        };
        let _step = self.journal.enter(key);
        match record.interface.name(&record.request) {
            Ok(there) => there == name,
            Err(unreachable) => matches!(unreachable, Unreachable::Gone(_)),
        }
    }

    /// Ends and releases all leases, and cancels those in the making, at a pace that the network
    /// bears.
    pub(super) async fn end_all(self: &Rc<Self>) {
        let turn = |now| Some(self.plan.borrow_mut().turn(now));
        self.end_each(self.keys(|_| true), turn).await;
    }

    /// Ends and releases leases, each when it is its `turn`, and cancels those in the making.
    /// Returns one of them.
    pub(super) async fn end_each(
        self: &Rc<Self>,
        keys: Vec<LeaseKey>,
        turn: impl Fn(Instant) -> Option<Instant>,
    ) -> Option<NetavarkLease> {
        let endings: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let (table, turn) = (Rc::clone(self), turn(rt::now()));
                let ending = async move {
                    if let Some(turn) = turn {
                        table.context.sleep_until(turn).await;
                    }
                    table.journal.watch(&key, table.end(&key)).await
                };
                Finish(Some(self.context.runtime.spawn(ending)))
            })
            .collect();
        let mut ended = None;
        for ending in endings {
            ended = ending.await.or(ended);
        }
        // That they are over.
        self.persist().await;
        ended
    }

    async fn end(self: &Rc<Self>, key: &LeaseKey) -> Option<NetavarkLease> {
        let (claim, before) = self.claim(key, &Rc::default()).await;
        let before = before?;
        let lease = self.record(key).and_then(|record| record.reply());
        self.dismiss(&claim, before, |_| true).await;
        lease
    }

    /// Ends a lease whose slot is claimed, released or not.
    pub(super) async fn dismiss(
        self: &Rc<Self>,
        claim: &Claim,
        before: Before,
        release: impl FnOnce(ContainerNames<'_>) -> bool,
    ) {
        // The caller may hang up, but this has to be done before the daemon leaves.
        let _activity = self.idle.activity();
        let session = match before {
            Before::Active(active) => active.stop().await,
            Before::Dormant => None,
        };
        let Some(record) = self.record(&claim.key) else {
            return;
        };
        self.remember_address(record.who(), &record);
        // A Teardown that was not over goes on, whatever takes its place.
        let release = record.is_ending() || release(record.who());
        // From here on a crash does not bring it back or, where it stays leased, leaves its link in
        // doubt.
        let noted = if release {
            record.clone().ending()
        } else {
            record.clone().with_look()
        };
        self.set_record(&claim.key, &noted);
        self.persist().await;
        let place = record.place();
        let session = match session {
            Some(session) => Ok(Some(session)),
            None => self.revive(record, false),
        };
        let ended = match session {
            Ok(Some(session)) => session.end(release).await,
            Ok(None) => Ok(()),
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{place}: {why}; its lease is left to run out");
                Ok(())
            }
            Err(Unreachable::Fault(error)) => Err(error),
        };
        if let Err(error) = ended {
            log::warn!("{place}: cannot end its lease: {error}");
            *claim.unfinished.borrow_mut() = release.then_some(noted);
        }
    }
}
