//! Tests of the `net` layer against the kernel, in namespaces of their own.
//!
//! What the layer did is asked back through the laboratory's own rtnetlink, another hand's reading
//! of the same pages.

#[path = "../lab/mod.rs"]
mod lab;
#[macro_use]
#[path = "../lab/trial.rs"]
mod trial;

mod hostile;
mod links;
mod namespaces;
mod news;
mod sockets;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

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
    let trials = trials.into_iter().map(|named| {
        let outside = outside.clone();
        let name = trial::name(&named);
        Trial::ignorable_test(name.clone(), move || match outside {
            Some(reason) => trial::conclude(|| Err(lab::Skip::Lacking(reason).into())),
            None => trial::conclude(|| trial::timed(name, named.1)),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(sandbox);
    if conclusion.num_passed > 10 {
        trial::tell(&format!("The longest trials:\n{}", trial::longest(5)));
    }
    conclusion.exit_code()
}
