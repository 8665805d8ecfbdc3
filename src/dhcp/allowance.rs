//! How many DHCP messages one client may send, whatever servers do to it.

use crate::time::Instant;
use std::time::Duration;

/// Messages that may follow each other as closely as the protocol likes.
const BURST: u32 = 58;
/// What comes beyond them comes one by one, this far apart.
const EACH: Duration = Duration::from_secs(40);

/// At most 150 messages in any hour: 58 at once, 90 more at one every 40 s, and the last word of a
/// lease, a DECLINE or a RELEASE, which is never held back and each time follows a message that was
/// counted.
///
/// Beyond them, the message of a renewal that was answered is [given back](Self::give_back), so
/// that a lease of ten seconds is kept for as long as its server wants. Its REQUESTs are at least 5
/// s apart to count as such: 720 in an hour, whatever a server does.
///
/// RFC 2131 has no such limit; 4.1 only wants clients not to flood the network. A server that
/// refuses whatever it offered, or leases for a second, would otherwise set the pace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// When the burst will be whole again; each message moves this further away.
    whole_at: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self::whole_at(now)
    }

    /// One that will be whole again then.
    pub(super) fn whole_at(whole_at: Instant) -> Self {
        Self { whole_at }
    }

    pub(super) fn is_whole_at(self) -> Instant {
        self.whole_at
    }

    /// When one is whole again that could not be used up any further by `now`, last words included.
    pub(super) fn exhausted(now: Instant) -> Instant {
        now + EACH * (BURST + 2)
    }

    /// From when on that many messages may be sent; none need no allowance.
    pub(super) fn when(self, messages: u32) -> Instant {
        if messages == 0 {
            return Instant::from_boot(Duration::ZERO);
        }
        let before_whole = EACH * BURST.saturating_sub(messages);
        Instant::from_boot(self.whole_at.since_boot().saturating_sub(before_whole))
    }

    /// Counts a message.
    pub(super) fn spend(&mut self, now: Instant) {
        self.whole_at = self.whole_at.max(now) + EACH;
    }

    /// Counts a message no more.
    pub(super) fn give_back(&mut self) {
        self.whole_at = Instant::from_boot(self.whole_at.since_boot().saturating_sub(EACH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_150_in_any_hour() {
        let hour = Duration::from_secs(3600);
        let mut now = Instant::from_boot(hour);
        let mut allowance = Allowance::new(now);
        let mut sent = Vec::new();
        for _ in 0..1000 {
            now = now.max(allowance.when(1));
            allowance.spend(now);
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
        assert!(sent[999] - sent[900] <= EACH * 99, "but it goes on");
    }

    #[test]
    fn what_is_given_back_is_as_if_it_was_never_spent() {
        let now = Instant::from_boot(Duration::from_secs(3600));
        let mut allowance = Allowance::new(now);
        for _ in 0..BURST {
            allowance.spend(now);
        }
        let when = allowance.when(1);
        allowance.spend(now + EACH);
        allowance.give_back();
        assert_eq!(allowance.when(1), when);
    }

    #[test]
    fn what_is_saved_up_is_no_more_than_a_burst() {
        let start = Instant::from_boot(Duration::from_secs(10));
        let mut allowance = Allowance::new(start);
        let later = start + Duration::from_secs(1_000_000);
        for _ in 0..BURST {
            assert!(allowance.when(1) <= later);
            allowance.spend(later);
        }
        assert_eq!(allowance.when(1), later + EACH);
        assert_eq!(allowance.when(2), later + EACH * 2);
    }
}
