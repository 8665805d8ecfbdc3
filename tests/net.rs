//! Tests of the `net` layer against the kernel, in namespaces of their own.
//!
//! What the layer did is asked back through the laboratory's own rtnetlink, another hand's reading
//! of the same pages.

#[path = "lab/mod.rs"]
mod lab;

#[path = "net/hostile.rs"]
mod hostile;
#[path = "net/links.rs"]
mod links;
#[path = "net/namespaces.rs"]
mod namespaces;
#[path = "net/news.rs"]
mod news;
#[path = "net/sockets.rs"]
mod sockets;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

type NamedTrial = (&'static str, fn() -> lab::Result);

fn main() -> ExitCode {
    // Before anything else: a user namespace is for a process with one thread.
    let sandbox = lab::sandbox::Sandbox::enter();
    let mut arguments = Arguments::from_args();
    // One after the other, because some of them count the descriptors of the process.
    arguments.test_threads = Some(1);
    let outside = sandbox.as_ref().err().map(ToString::to_string);
    let trials = [
        namespaces::TRIALS,
        links::TRIALS,
        sockets::TRIALS,
        news::TRIALS,
        hostile::TRIALS,
    ]
    .concat();
    let trials = trials.into_iter().map(|(name, trial)| {
        let outside = outside.clone();
        Trial::ignorable_test(name, move || match outside {
            Some(reason) => conclude(Err(lab::Skip::Lacking(reason).into())),
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
        Err(error) => match lab::Skip::reason(&*error) {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => Err(error.into()),
        },
    }
}
