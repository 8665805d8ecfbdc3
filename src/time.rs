//! Instants on the boot clock, without a clock. [`crate::rt::now`] returns the present one.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant on `CLOCK_BOOTTIME`, which counts suspend and never steps (clock_gettime(2)).
///
/// A lease expires in real time: a machine that resumes after T1 has to renew at once.
/// `std::time::Instant` is `CLOCK_MONOTONIC`, which stops during suspend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// Returns the instant `since_boot` after boot.
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Returns the time since boot.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Duration::MAX`] after boot, a deadline that never comes.
    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:.3?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero_and_sums_never_overflow() {
        let (early, late) = (
            Instant::from_boot(Duration::from_secs(1)),
            Instant::from_boot(Duration::from_secs(3)),
        );
        assert_eq!(late - early, Duration::from_secs(2));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(late + Duration::MAX, Instant::from_boot(Duration::MAX));
    }
}
