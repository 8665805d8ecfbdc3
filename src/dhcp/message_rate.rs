//! The limit on the DHCP messages of one client, whatever servers send.

use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// Messages that may be sent without a delay.
const BURST: u32 = 58;
/// Time between two further messages.
const INTERVAL: Duration = Duration::from_secs(40);

/// Returns the limit of a client that may send a whole burst from `full_at` on: at most 150
/// messages in any hour. These are 58 at once, 90 more at one every 40 s, and the DECLINE or
/// RELEASE of a lease, which is never delayed and always follows a message that was counted.
///
/// Answered renewals do not count, so that a lease of ten seconds can be kept for any time. Only
/// those at least 5 s after the one before are exempt, which are at most 720 in an hour.
///
/// RFC 2131 has no such limit; RFC 2131 §4.1 wants clients not to flood the network. Without it a
/// server that refuses each REQUEST, or leases for a second, would determine the rate.
pub(super) const fn message_rate(full_at: Instant) -> RateLimit {
    RateLimit::new(BURST, INTERVAL).with_full_at(full_at)
}

/// Returns the latest time at which a limit can be full again: after all messages were sent at
/// `now`, DECLINE and RELEASE included.
pub(super) fn latest_full_at(now: Instant) -> Instant {
    now + INTERVAL * (BURST + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_150_in_any_hour() {
        let hour = Duration::from_secs(3600);
        let mut now = Instant::from_boot(hour);
        let mut rate = message_rate(now);
        let mut sent = Vec::new();
        for _ in 0..1000 {
            now = now.max(rate.available_at(1));
            rate.take(now);
            sent.push(now);
        }
        assert_eq!(sent.iter().filter(|at| **at == sent[0]).count(), 58);
        for (index, first) in sent.iter().enumerate() {
            let within = sent[index..]
                .iter()
                .take_while(|at| **at - *first <= hour)
                .count();
            assert!(
                within <= 148,
                "{within} messages, with a DECLINE and a RELEASE to come"
            );
        }
        assert!(sent[999] - sent[900] <= INTERVAL * 99, "but it never stops");
    }

    #[test]
    fn a_message_that_is_put_back_was_never_counted() {
        let now = Instant::from_boot(Duration::from_secs(3600));
        let mut rate = message_rate(now);
        for _ in 0..BURST {
            rate.take(now);
        }
        let when = rate.available_at(1);
        rate.take(now + INTERVAL);
        rate.put_back();
        assert_eq!(rate.available_at(1), when);
    }

    #[test]
    fn no_more_than_a_burst_is_saved_up() {
        let start = Instant::from_boot(Duration::from_secs(10));
        let mut rate = message_rate(start);
        let later = start + Duration::from_secs(1_000_000);
        for _ in 0..BURST {
            assert!(rate.available_at(1) <= later);
            rate.take(later);
        }
        assert_eq!(rate.available_at(1), later + INTERVAL);
        assert_eq!(rate.available_at(2), later + INTERVAL * 2);
    }
}
