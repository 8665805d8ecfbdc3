//! Trials: tests that decide at run time whether this machine has what they need.
//!
//! A test program of its own main function includes this file beside the laboratory.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Completion, Failed};
use smol_dhcp_proxy::rt;

use crate::lab::sandbox::take_evidence;
use crate::lab::{Result, Skip};

/// A trial: the path of its function, and the function.
pub(crate) type Named = (&'static str, fn() -> Result);

/// Registers the trials of a file: `trials![a_renewal_is_sent]` makes `TRIALS` of the functions
/// named, each under its own path. The compiler reports a function that is left out as dead code.
macro_rules! trials {
    ($($trial:ident),+ $(,)?) => {
        pub(crate) const TRIALS: &[$crate::trial::Named] =
            &[$((concat!(module_path!(), "::", stringify!($trial)), $trial)),+];
    };
}

/// Returns the name of a trial: its path within the test program.
pub(crate) fn name((path, _): &Named) -> String {
    let within = path.split_once("::").map_or(*path, |(_, within)| within);
    within.to_owned()
}

/// The time that each trial has taken.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Runs a trial and notes its time, for [`longest`].
pub(crate) fn timed(name: String, trial: impl FnOnce() -> Result) -> Result {
    let start = rt::now();
    let result = catch_unwind(AssertUnwindSafe(trial));
    let took = rt::now() - start;
    TIMES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((took, name));
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Describes the longest `count` trials so far, a line each.
pub(crate) fn longest(count: usize) -> String {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_by(|a, b| b.cmp(a));
    let lines = times.iter().take(count);
    lines
        .map(|(took, name)| format!("{:7.1} s  {name}\n", took.as_secs_f64()))
        .collect()
}

/// Runs a trial. A trial that lacks a part is ignored, with its reason; if every part is required,
/// it fails.
pub(crate) fn conclude(trial: impl FnOnce() -> Result) -> Result<Completion, Failed> {
    take_evidence();
    let reason = match catch_unwind(AssertUnwindSafe(trial)) {
        Ok(Ok(())) => return Ok(Completion::Completed),
        Ok(Err(error)) => match Skip::reason(&*error) {
            Some(reason) => return Ok(Completion::ignored_with(reason)),
            None => error.to_string(),
        },
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(message) => message.clone(),
            None => panic
                .downcast_ref::<&str>()
                .unwrap_or(&"a panic without a message")
                .to_string(),
        },
    };
    Err(format!("{reason}\n{}", take_evidence()).into())
}

/// Prints a line for the reader of the report, whether the trial passes or fails.
pub(crate) fn tell(text: &str) {
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
