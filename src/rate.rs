//! A token bucket: arithmetic on instants only.

use std::time::Duration;

use crate::time::Instant;

/// A token bucket that holds `burst` tokens and gets one back every `interval`.
///
/// Its only state is the instant at which it is full again; each token taken moves that instant
/// into the future (the generic cell rate algorithm of ATM). The bucket can go into debt, which
/// delays later tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    full_at: Instant,
}

impl RateLimit {
    /// Returns a full bucket.
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

    /// Returns the time at which the bucket is full again, in the past if it is full.
    pub const fn full_at(self) -> Instant {
        self.full_at
    }

    /// Returns the earliest time at which `tokens`, at most `burst`, are available, in the past if
    /// they are available now.
    pub fn available_at(self, tokens: u32) -> Instant {
        if tokens == 0 {
            return Instant::from_boot(Duration::ZERO);
        }
        let before_full = self.interval * self.burst.saturating_sub(tokens);
        Instant::from_boot(self.full_at.since_boot().saturating_sub(before_full))
    }

    /// Takes a token, into debt if none is available.
    pub fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// Takes a token and returns the time at which it is available: `now` or later.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let at = self.available_at(1).max(now);
        self.take(now);
        at
    }

    /// Puts back a token.
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
