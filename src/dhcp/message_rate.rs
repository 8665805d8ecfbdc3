//! The limit on the DHCP messages of one client, whatever servers do to it.

use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// Messages that may follow each other as closely as the protocol likes.
const BURST: u32 = 58;
/// The distance of those beyond them.
const INTERVAL: Duration = Duration::from_secs(40);

/// Returns the limit of a client that may send a whole burst at `full_at`, and a part of it before:
/// at most 150 messages in any hour. They are 58 at once, 90 more at one every 40 s, and the last
/// message of a lease, a DECLINE or a RELEASE, which is never held back and each time follows a
/// message that was counted.
///
/// Beyond them, the message of a renewal that was answered is put back, so that a lease of ten
/// seconds is kept for as long as its server wants. Its REQUESTs are at least 5 s apart to count as
/// such: 720 in an hour, whatever a server does.
///
/// RFC 2131 has no such limit; 4.1 only wants clients not to flood the network. A server that
/// refuses whatever it offered, or leases for a second, would otherwise set the pace.
pub(super) const fn message_rate(full_at: Instant) -> RateLimit {
    RateLimit::new(BURST, INTERVAL).with_full_at(full_at)
}

/// Returns the latest time, seen from `now`, at which a limit can be full again: that of one from
/// which everything was taken, DECLINEs and RELEASEs included.
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
                "{within} messages, with two last words to come"
            );
        }
        assert!(sent[999] - sent[900] <= INTERVAL * 99, "but it goes on");
    }

    #[test]
    fn what_is_given_back_is_as_if_it_was_never_spent() {
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
    fn what_is_saved_up_is_no_more_than_a_burst() {
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
