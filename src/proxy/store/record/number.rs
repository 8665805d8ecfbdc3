//! The stored form of times and texts.

use std::time::Duration;

use crate::time::Instant;

/// The last time that is stored, in milliseconds: some thousand years after boot. Adding a time
/// from a file to it does not overflow.
pub(super) const MAX_MILLIS: u64 = 1 << 45;

/// Returns a time in milliseconds; `None` for [`NEVER`](super::NEVER).
pub(in crate::proxy::store) fn millis(at: Instant) -> Option<u64> {
    u64::try_from(at.since_boot().as_millis())
        .ok()
        .filter(|&millis| millis <= MAX_MILLIS)
}

pub(in crate::proxy::store) fn instant(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millis.min(MAX_MILLIS)))
}

pub(super) fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
