//! Rate limits for work that a container, or a station on its network, can cause.

use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// Frames and link changes that are handled without a pause. An exchange has about ten.
const BURST: u32 = 100;
/// The least interval after a burst. The kernel queues a few hundred frames meanwhile and drops the
/// rest.
const INTERVAL: Duration = Duration::from_millis(5);

/// A token bucket for received frames and link changes: a flood on one interface must not delay the
/// other leases.
#[derive(Debug)]
pub(super) struct ReceiveRate(RateLimit);

impl Default for ReceiveRate {
    fn default() -> Self {
        Self(RateLimit::new(BURST, INTERVAL))
    }
}

impl ReceiveRate {
    /// Takes a token for a frame or a link change.
    pub(super) fn count(&mut self, now: Instant) {
        self.0.take(now);
    }

    /// Returns the time to wait before the next one is handled; usually zero.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.0.available_at(1) - now
    }
}

/// The delay of the second reopening, and the longest one.
const MIN_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The time without a failure after which the next reopening is immediate.
const RESET_AFTER: Duration = Duration::from_secs(10);

/// Exponential backoff for the reopening of sockets. A reopening costs about thirty system calls,
/// and a container can set its interface down and up at any rate.
#[derive(Debug, Default)]
pub(super) struct ReopenDelay {
    /// The last closing, and the delay from then on.
    last: Option<(Instant, Duration)>,
}

impl ReopenDelay {
    /// Records that the sockets are closed because the interface may be down or gone.
    pub(super) fn close(&mut self, now: Instant) {
        let delay = match self.last {
            Some((last, delay)) if now - last < delay + RESET_AFTER => {
                (delay * 2).clamp(MIN_DELAY, MAX_DELAY)
            }
            _ => Duration::ZERO,
        };
        self.last = Some((now, delay));
    }

    /// Returns the end of the delay, if it is in the future.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.last
            .map(|(last, delay)| last + delay)
            .filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1000) + Duration::from_millis(millis))
    }

    #[test]
    fn an_exchange_is_heard_at_once_and_a_flood_is_not() {
        let mut rate = ReceiveRate::default();
        for _ in 0..BURST {
            assert_eq!(rate.pause(at(0)), Duration::ZERO);
            rate.count(at(0));
        }
        assert_eq!(rate.pause(at(0)), INTERVAL);
        assert_eq!(rate.pause(at(3)), INTERVAL - Duration::from_millis(3));

        // Two hundred a second are handled in any flood.
        let (mut now, mut heard) = (at(0), 0);
        while now < at(10_000) {
            now = now + rate.pause(now);
            rate.count(now);
            heard += 1;
        }
        assert!((1990..=2001).contains(&heard), "{heard} in ten seconds");
        assert_eq!(rate.pause(at(20_000)), Duration::ZERO);
    }

    #[test]
    fn the_first_reopening_is_at_once_and_others_are_ever_later() {
        let mut delay = ReopenDelay::default();
        assert_eq!(delay.until(at(0)), None);
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..9 {
            delay.close(now);
            let until = delay.until(now).unwrap_or(now);
            delays.push((until - now).as_millis());
            now = until;
            assert_eq!(delay.until(now), None);
        }
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        // After a quiet time the delay starts again at zero.
        delay.close(now + RESET_AFTER);
        assert_eq!(delay.until(now + RESET_AFTER), None);
    }
}
