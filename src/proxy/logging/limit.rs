//! Limits the lines per place in the source, so that neither the network nor a container or a
//! caller fills the disk.

use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// The most lines at once: a thousand containers of a starting host log a line each.
const BURST: u32 = 1000;
/// The interval between further lines.
const INTERVAL: Duration = Duration::from_millis(100);
/// The most places with a bucket of their own; all others share one.
const MAX_SITES: usize = 256;

/// File and line.
pub(super) type Site = (&'static str, u32);

const ELSEWHERE: Site = ("elsewhere", 0);

/// A token bucket per place.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    buckets: Vec<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    site: Site,
    rate: RateLimit,
    suppressed: u64,
}

impl Limiter {
    /// Returns whether a line of `site` may be logged at `now`, else counts it as suppressed.
    pub(super) fn pass(&mut self, site: Site, now: Instant) -> bool {
        let bucket = self.bucket(site, now);
        let passes = bucket.has_token(now);
        if passes {
            bucket.rate.take(now);
        } else {
            bucket.suppressed = bucket.suppressed.saturating_add(1);
        }
        passes
    }

    /// Returns a place that may log again, and its number of suppressed lines, which is reset.
    pub(super) fn take_suppressed(&mut self, now: Instant) -> Option<(Site, u64)> {
        let bucket = self
            .buckets
            .iter_mut()
            .find(|bucket| bucket.suppressed > 0 && bucket.has_token(now))?;
        Some((bucket.site, std::mem::take(&mut bucket.suppressed)))
    }

    fn bucket(&mut self, mut site: Site, now: Instant) -> &mut Bucket {
        let place =
            |buckets: &[Bucket], site: Site| buckets.iter().position(|bucket| bucket.site == site);
        let mut found = place(&self.buckets, site);
        if found.is_none() && self.buckets.len() >= MAX_SITES {
            self.buckets
                .retain(|bucket| bucket.rate.full_at() > now || bucket.suppressed > 0);
            if self.buckets.len() >= MAX_SITES {
                site = ELSEWHERE;
                found = place(&self.buckets, site);
            }
        }
        let index = found.unwrap_or_else(|| {
            self.buckets.push(Bucket {
                site,
                rate: RateLimit::new(BURST, INTERVAL),
                suppressed: 0,
            });
            self.buckets.len() - 1
        });
        &mut self.buckets[index]
    }
}

impl Bucket {
    fn has_token(&self, now: Instant) -> bool {
        self.rate.available_at(1) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(1_000_000 + millis))
    }

    #[test]
    fn a_burst_passes_and_then_ten_a_second() {
        let mut limiter = Limiter::default();
        let passed = |limiter: &mut Limiter, from: u64, to: u64| {
            (from..to)
                .filter(|millis| limiter.pass(("a.rs", 1), at(*millis)))
                .count()
        };
        assert_eq!(passed(&mut limiter, 0, 10), 10);
        assert_eq!(passed(&mut limiter, 10, 60_010), 990 + 600);
        assert!(
            limiter.pass(("a.rs", 2), at(60_010)),
            "another place has a bucket of its own"
        );
    }

    #[test]
    fn what_is_suppressed_is_counted_and_told_once() {
        let mut limiter = Limiter::default();
        for _ in 0..1500 {
            limiter.pass(("a.rs", 1), at(0));
        }
        assert_eq!(
            limiter.take_suppressed(at(50)),
            None,
            "its lines may not be logged yet"
        );
        assert_eq!(limiter.take_suppressed(at(100)), Some((("a.rs", 1), 500)));
        assert_eq!(limiter.take_suppressed(at(100)), None);
    }

    #[test]
    fn many_places_take_bounded_memory() {
        let mut limiter = Limiter::default();
        for line in 0..10_000 {
            limiter.pass(("a.rs", line), at(0));
        }
        assert_eq!(limiter.buckets.len(), MAX_SITES + 1);
        assert_eq!(
            limiter.take_suppressed(at(100)),
            Some((ELSEWHERE, 10_000 - MAX_SITES as u64 - 1000))
        );
        limiter.pass(("b.rs", 1), at(10_000_000));
        assert_eq!(
            limiter.buckets.len(),
            1,
            "those that are full again need no bucket"
        );
    }
}
