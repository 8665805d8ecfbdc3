//! A renewal on demand: the record of a lease that does not wait for its time.

use super::{Record, RecordState};
use crate::dhcp::Phase;
use crate::time::Instant;

impl Record {
    /// Returns the same lease with its next message due at `now`, whatever it waits for: T1, the
    /// retransmission of an unanswered REQUEST, the next DISCOVER, or a retry after failures.
    pub(crate) fn with_message_due(mut self, now: Instant) -> Self {
        if let RecordState::Held {
            snapshot,
            deferred_until,
            ..
        } = &mut self.state
        {
            snapshot.renew_now(now);
            snapshot.retransmit_now(now);
            *deferred_until = None;
        }
        self.retry = None;
        self
    }

    /// Returns T1 of a lease in BOUND that has not reached it.
    pub(crate) fn pending_t1(&self, now: Instant) -> Option<Instant> {
        match self.phase() {
            Some(Phase::Bound { renew_at, .. }) => Some(*renew_at).filter(|t1| now < *t1),
            _ => None,
        }
    }

    /// Returns the same lease, in BOUND with T1 at `t1` again where it is in RENEWING and `t1` is yet
    /// to come: a renewal before T1 without an answer is no reason to repeat it until then.
    pub(crate) fn with_t1_restored(mut self, t1: Instant, now: Instant) -> Self {
        if let RecordState::Held { snapshot, .. } = &mut self.state
            && now < t1
        {
            snapshot.restore_t1(t1);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::dhcp::Phase;
    use crate::proxy::store::record::tests::{at, phases, record};
    use crate::time::Instant;

    #[test]
    fn a_message_is_due_whatever_the_lease_waits_for() {
        let (now, later) = (at(1_600_000), at(3_000_000));
        for record in phases().map(record) {
            assert_ne!(record.due(), Some(now));
            let deferred = record.clone().defer_renewal(later);
            let waiting = [record.clone(), record.clone().with_retry_at(later)];
            for record in waiting.into_iter().chain(deferred) {
                assert_eq!(record.with_message_due(now).due(), Some(now));
            }
        }
    }

    #[test]
    fn t1_is_that_of_before_where_an_early_renewal_has_no_answer() {
        let [bound, renewing, rebinding, init, _] = phases().map(record);
        let t1 = bound.t1().unwrap();
        let (before, after) = (at(1_600_000), t1);
        assert!(before < t1);
        assert_eq!(bound.pending_t1(before), Some(t1));
        assert_eq!(bound.pending_t1(after), None);
        for record in [&renewing, &rebinding, &init] {
            assert_eq!(record.pending_t1(before), None);
        }
        let restored = renewing.clone().with_t1_restored(t1, before);
        assert_eq!((restored.t1(), restored.due()), (Some(t1), Some(t1)));
        assert_eq!(
            (restored.lease(), restored.t2()),
            (renewing.lease(), renewing.t2())
        );
        assert!(restored.is_bound() && restored.trouble().is_none());
        // T1 has come meanwhile.
        assert_eq!(renewing.clone().with_t1_restored(t1, after), renewing);
        for record in [bound, rebinding, init] {
            assert_eq!(record.clone().with_t1_restored(t1, before), record);
        }
    }

    #[test]
    fn an_infinite_lease_is_not_due_after_an_early_renewal_without_an_answer() {
        let never = Instant::from_boot(std::time::Duration::MAX);
        let [Phase::Bound { mut lease, .. }, ..] = phases() else {
            panic!("BOUND comes first")
        };
        lease.lease_time = None;
        let infinite = record(Phase::Bound {
            lease: lease.clone(),
            renew_at: never,
            rebind_at: never,
        });
        assert_eq!(infinite.pending_t1(at(0)), Some(never));
        let unanswered = record(Phase::Renewing {
            lease,
            renew_at: at(0),
            rebind_at: never,
            next: at(300_000),
        });
        assert_eq!(unanswered.with_t1_restored(never, at(10_000)).due(), None);
    }
}
