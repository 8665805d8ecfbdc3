//! A renewal on demand: the record of a lease that does not wait for its time.

use super::{Record, RecordState};
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
}

#[cfg(test)]
mod tests {
    use crate::proxy::store::record::tests::{at, phases, record};

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
}
