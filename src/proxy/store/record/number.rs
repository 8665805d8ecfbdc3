//! Times and texts as they are stored.

use std::time::Duration;

use crate::time::Instant;

/// The last time that is stored, some thousand years after the boot. Sums with a time that comes
/// from a file do not overflow.
pub(super) const FAR: u64 = 1 << 45;

/// Returns a time in milliseconds; `None` for one that does not come.
pub(super) fn millis(at: Instant) -> Option<u64> {
    u64::try_from(at.since_boot().as_millis())
        .ok()
        .filter(|&millis| millis <= FAR)
}

pub(super) fn instant(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millis.min(FAR)))
}

pub(super) fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
