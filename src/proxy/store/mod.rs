//! Persistent state: leases, former addresses, facts about networks, the journal of work.

pub(crate) mod address_history;
pub(crate) mod counters;
pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod journal;
mod json;
pub(crate) mod lease_file;
pub(crate) mod networks;
pub(crate) mod oddities;
pub(crate) mod podman;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod trust;
