//! All leases: the slot of each, the work on it, and the decision when the process may exit.
//!
//! | file | part |
//! |---|---|
//! | `state.rs` | the slots, and the one function that changes a slot |
//! | `plan.rs` | which lease is due, which one waits, until when the process may sleep: pure |
//! | `renewal_rate.rs`, `unresponsive.rs` | parts of the plan: rate limit, unresponsive servers |
//! | `schedule.rs` | the tasks that do what is due |
//! | `serve.rs` | dispatch of a call |
//! | `claim.rs` | one call at a time for each lease |
//! | `setup.rs`, `teardown.rs` | the calls |
//! | `control.rs`, `observed.rs` | renewals and releases that the operator asks for, and the wait for them |
//! | `save.rs` | when the state file is written |
//! | `start.rs` | leases from the state file |
//! | `adopt.rs` | leases of netavark's proxy |
//! | `keep_alive.rs`, `leave.rs` | the timer for the next start, and the exit |

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

pub(crate) use keep_alive::LeaseKeepAlive;
pub(crate) use state::{Parts, Table};

#[cfg(test)]
mod tests;
