//! All leases: which call or task has one, what is due, and when the process may leave.
//!
//! | file | what it does |
//! |---|---|
//! | `state.rs` | the slots, and the one way to change one |
//! | `plan.rs` | what is due, what waits, until when the process may sleep: pure |
//! | `serve.rs` | one call |
//! | `claim.rs` | one call at a time for each lease |
//! | `setup.rs`, `teardown.rs` | a lease made, and ended |
//! | `schedule.rs` | work on leases at its time |
//! | `control.rs`, `observed.rs` | renewals and releases that the operator asks for, and the wait for them |
//! | `save.rs` | when the state file is written |
//! | `start.rs`, `adopt.rs` | leases of earlier instances, and of netavark's proxy |
//! | `keep_alive.rs`, `leave.rs` | whether the process may leave, and what starts it again |
//! | `renewal_rate.rs`, `unresponsive.rs` | parts of the plan: turns, and servers that do not answer |

mod adopt;
mod claim;
mod control;
mod keep_alive;
mod leave;
mod observed;
mod plan;
mod renewal_rate;
mod save;
mod schedule;
mod serve;
mod setup;
mod start;
mod state;
mod teardown;
mod unresponsive;

pub(crate) use control::permit;
pub(crate) use keep_alive::LeaseKeepAlive;
pub(crate) use state::{Parts, Table};

#[cfg(test)]
mod tests;
