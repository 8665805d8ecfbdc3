//! A token bucket: arithmetic on instants alone.

use std::time::Duration;

use crate::time::Instant;

/// A token bucket that holds `burst` tokens and gets one back every `interval`.
///
/// Its whole state is the instant at which it is full again, which each token taken moves into the
/// future (the generic cell rate algorithm of ATM). A token can be taken before it is there: the
/// bucket then goes into debt, and later ones are available the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    full_at: Instant,
}

impl RateLimit {
    /// Makes a bucket that is full since the machine booted.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            full_at: Instant::from_boot(Duration::ZERO),
        }
    }

    /// Returns the same bucket, full again at `full_at`.
    #[must_use]
    pub const fn with_full_at(self, full_at: Instant) -> Self {
        Self { full_at, ..self }
    }

    /// Returns when the bucket is full again; in the past, it is.
    pub const fn full_at(self) -> Instant {
        self.full_at
    }

    /// Returns the earliest time at which that many tokens, at most `burst`, are there, in the past
    /// where they are there already. No tokens are there at any time.
    pub fn available_at(self, tokens: u32) -> Instant {
        if tokens == 0 {
            return Instant::from_boot(Duration::ZERO);
        }
        let before_full = self.interval * self.burst.saturating_sub(tokens);
        Instant::from_boot(self.full_at.since_boot().saturating_sub(before_full))
    }

    /// Takes a token, be it there or not.
    pub fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// Takes the next token, and returns when it is there: `now`, or a later time.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let at = self.available_at(1).max(now);
        self.take(now);
        at
    }

    /// Puts a token back, as if it had not been taken.
    pub fn put_back(&mut self) {
        let full_at = self.full_at.since_boot().saturating_sub(self.interval);
        self.full_at = Instant::from_boot(full_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn a_burst_is_there_at_once_and_then_one_each_interval() {
        let mut rate = RateLimit::new(3, INTERVAL);
        let reserved: Vec<_> = (0..5).map(|_| rate.reserve(at(0))).collect();
        assert_eq!(reserved, [at(0), at(0), at(0), at(10), at(20)]);
        assert_eq!(rate.full_at(), at(50));
        assert_eq!(
            (rate.available_at(1), rate.available_at(3)),
            (at(30), at(50))
        );
        assert_eq!(rate.available_at(0), Instant::from_boot(Duration::ZERO));
    }

    #[test]
    fn no_more_than_a_burst_is_saved_up() {
        let mut rate = RateLimit::new(3, INTERVAL);
        for _ in 0..3 {
            assert!(rate.available_at(1) <= at(1_000_000));
            rate.take(at(1_000_000));
        }
        assert_eq!(rate.available_at(1), at(1_000_010));
    }

    #[test]
    fn a_token_that_is_put_back_was_never_taken() {
        let mut rate = RateLimit::new(3, INTERVAL).with_full_at(at(0));
        rate.take(at(0));
        let before = rate;
        rate.take(at(5));
        rate.put_back();
        assert_eq!(rate, before);
    }
}
