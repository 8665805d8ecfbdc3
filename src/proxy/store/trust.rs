//! The trust that work for a lease does not end the process.

/// After so many deaths, nothing is done for a lease until there is a call for it.
const QUARANTINE: u32 = 3;

/// The trust that work for a lease does not end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The process did not die at work for it.
    Full,
    /// It is tried after all others, and alone.
    Last,
    /// Only a call starts work for it.
    Quarantined,
}

impl Trust {
    /// Returns the trust after a number of deaths.
    pub(crate) fn after(deaths: u32) -> Self {
        match deaths {
            0 => Self::Full,
            1.. if deaths < QUARANTINE => Self::Last,
            _ => Self::Quarantined,
        }
    }
}
