//! Bounds on the work that a container, or the network that it is in, can make a session do.

use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// Frames and link changes that are handled as they come. An exchange has some ten.
const BURST: u32 = 100;
/// The least time from one to the next after that. The kernel's queue holds some hundreds
/// meanwhile, and drops the rest.
const INTERVAL: Duration = Duration::from_millis(5);

/// A token bucket for what a session hears, so that a flood at one interface leaves the thread to
/// the other leases.
#[derive(Debug)]
pub(super) struct HearingRate(RateLimit);

impl Default for HearingRate {
    fn default() -> Self {
        Self(RateLimit::new(BURST, INTERVAL))
    }
}

impl HearingRate {
    /// Counts something that was heard.
    pub(super) fn count(&mut self, now: Instant) {
        self.0.take(now);
    }

    /// Returns the time to wait before more is heard, mostly none.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.0.available_at(1) - now
    }
}

/// The delay of a reopening that follows another one closely, at first and at most.
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MOST: Duration = Duration::from_secs(5);
/// A time without trouble, after which the next reopening is not delayed.
const QUIET: Duration = Duration::from_secs(10);

/// A back-off for sockets that are closed because the interface is in doubt. To open some and look
/// at the link takes some thirty system calls, and a container can put its interface in doubt as
/// often as it likes.
#[derive(Debug, Default)]
pub(super) struct ReopeningDelay {
    /// When the sockets were closed, and how long they have to stay so.
    last: Option<(Instant, Duration)>,
}

impl ReopeningDelay {
    /// Notes that the sockets are closed for a doubt.
    pub(super) fn close(&mut self, now: Instant) {
        let delay = match self.last {
            Some((last, delay)) if now - last < delay + QUIET => {
                (delay * 2).clamp(DELAY_FIRST, DELAY_MOST)
            }
            _ => Duration::ZERO,
        };
        self.last = Some((now, delay));
    }

    /// Returns the time until which the sockets stay closed, if it is in the future.
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
        let mut rate = HearingRate::default();
        for _ in 0..BURST {
            assert_eq!(rate.pause(at(0)), Duration::ZERO);
            rate.count(at(0));
        }
        assert_eq!(rate.pause(at(0)), INTERVAL);
        assert_eq!(rate.pause(at(3)), INTERVAL - Duration::from_millis(3));

        // However much there is to be heard, in a second it is two hundred.
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
        let mut delay = ReopeningDelay::default();
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
        // After a quiet time it is as it was at first.
        delay.close(now + QUIET);
        assert_eq!(delay.until(now + QUIET), None);
    }
}
