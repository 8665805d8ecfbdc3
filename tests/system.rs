//! Tests of the real binary among real parts.

#[path = "lab/mod.rs"]
mod lab;

#[path = "system/lab_itself.rs"]
mod lab_itself;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    // Before anything else: a user namespace is for a process with one thread.
    let sandbox = lab::sandbox::Sandbox::enter();
    let mut arguments = Arguments::from_args();
    // Most trials mostly wait.
    arguments.test_threads.get_or_insert(8);
    let outside = sandbox.as_ref().err().map(ToString::to_string);
    let trials = lab_itself::TRIALS.iter().map(|&(name, trial)| {
        let outside = outside.clone();
        Trial::ignorable_test(name, move || match outside {
            Some(reason) => conclude(Err(lab::Skip(reason).into())),
            None => conclude(trial()),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(sandbox);
    conclusion.exit_code()
}

/// A trial that lacks a part is ignored, with its reason; where every part is required, it fails.
fn conclude(result: lab::Result) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<lab::Skip>() {
            Some(reason) if std::env::var_os("SMOL_DHCP_PROXY_REQUIRE").is_none() => {
                Ok(Completion::ignored_with(reason))
            }
            _ => Err(error.into()),
        },
    }
}
