//! The trust in a lease not to end the process.

/// A lease that the process died of so often is left alone until a call for it.
const QUARANTINE: u32 = 3;

/// How far a lease can be trusted not to end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The process did not die of it.
    Full,
    /// It is tried after all others, and alone.
    Last,
    /// Nothing is done for it but by a call.
    Quarantined,
}

impl Trust {
    /// Returns the trust in a lease that the process died of so often.
    pub(crate) fn after(deaths: u32) -> Self {
        match deaths {
            0 => Self::Full,
            1.. if deaths < QUARANTINE => Self::Last,
            _ => Self::Quarantined,
        }
    }
}
