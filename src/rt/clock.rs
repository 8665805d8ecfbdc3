//! The clocks: time since boot, and the date.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::time::Instant;

/// Reads `CLOCK_BOOTTIME`.
///
/// # Panics
///
/// Never: the kernel's boot clock has no negative times.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_boot(Duration::new(
        time.tv_sec
            .try_into()
            .expect("the boot clock starts at zero"),
        time.tv_nsec
            .try_into()
            .expect("nanoseconds are below a billion"),
    ))
}

/// Reads `CLOCK_REALTIME` as the time since 1970.
///
/// Use it only for interfaces that take a date. No deadline may depend on it, because the date can
/// be set and can step.
pub fn wall_clock() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}
