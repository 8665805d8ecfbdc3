//! Tests of the real binary among real parts. `cargo test --test system -- NAME` runs those with
//! NAME in their names.
//!
//! A trial that lacks a part is ignored and says which; with SMOL_DHCP_PROXY_REQUIRE=1 in the
//! environment it fails.

#[path = "lab/mod.rs"]
mod lab;

#[path = "system/blame.rs"]
mod blame;
#[path = "system/callers.rs"]
mod callers;
#[path = "system/calls.rs"]
mod calls;
#[path = "system/changed.rs"]
mod changed;
#[path = "system/conflict.rs"]
mod conflict;
#[path = "system/crash.rs"]
mod crash;
#[path = "system/damage.rs"]
mod damage;
#[path = "system/expiry.rs"]
mod expiry;
#[path = "system/file.rs"]
mod file;
#[path = "system/flood.rs"]
mod flood;
#[path = "system/hostile.rs"]
mod hostile;
#[path = "system/hostile_callers.rs"]
mod hostile_callers;
#[path = "system/instances.rs"]
mod instances;
#[path = "system/lab_itself.rs"]
mod lab_itself;
#[path = "system/lease.rs"]
mod lease;
#[path = "system/leaving.rs"]
mod leaving;
#[path = "system/link.rs"]
mod link;
#[path = "system/logging.rs"]
mod logging;
#[path = "system/manual.rs"]
mod manual;
#[path = "system/networks.rs"]
mod networks;
#[path = "system/odd.rs"]
mod odd;
#[path = "system/odd_servers.rs"]
mod odd_servers;
#[path = "system/options.rs"]
mod options;
#[path = "system/patience.rs"]
mod patience;
#[path = "system/peer_fails.rs"]
mod peer_fails;
#[path = "system/peers.rs"]
mod peers;
#[path = "system/refusals.rs"]
mod refusals;
#[path = "system/resting.rs"]
mod resting;
#[path = "system/resume.rs"]
mod resume;
#[path = "system/servers.rs"]
mod servers;
#[path = "system/state_files.rs"]
mod state_files;
#[path = "system/storm.rs"]
mod storm;
#[path = "system/suspend.rs"]
mod suspend;
#[path = "system/topology.rs"]
mod topology;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{OnceLock, PoisonError, RwLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use lab::sandbox::{Sandbox, take_evidence};
use lab::stage::Stage;
use lab::topology::Topology;
use lab::{Result, Skip};

/// A trial's name and what it does.
type Named = (&'static str, fn() -> Result);
/// A trial of a table.
type Boxed = Box<dyn FnOnce() -> Result + Send>;

/// Held by each trial: for itself by one that disturbs the timing of others, together by all the
/// others.
static ALONE: RwLock<()> = RwLock::new(());

fn main() -> ExitCode {
    // Before anything else: a user namespace is for a process with one thread.
    let sandbox = Sandbox::enter();
    let mut arguments = Arguments::from_args();
    // Most trials mostly wait.
    arguments.test_threads.get_or_insert(8);

    let groups: &[&[Named]] = &[
        lab_itself::TRIALS,
        lease::TRIALS,
        refusals::TRIALS,
        calls::TRIALS,
        changed::TRIALS,
        blame::TRIALS,
        leaving::TRIALS,
        crash::TRIALS,
        storm::TRIALS,
        damage::TRIALS,
        resume::TRIALS,
        manual::TRIALS,
        link::TRIALS,
        file::TRIALS,
        expiry::TRIALS,
        resting::TRIALS,
        odd::TRIALS,
        options::TRIALS,
        conflict::TRIALS,
        servers::TRIALS,
        networks::TRIALS,
        topology::TRIALS,
        patience::TRIALS,
        peer_fails::TRIALS,
        suspend::TRIALS,
        instances::TRIALS,
        state_files::TRIALS,
        logging::TRIALS,
        flood::TRIALS,
    ];
    let named = groups
        .concat()
        .into_iter()
        .map(|(name, trial)| (name.to_owned(), Box::new(trial) as Boxed));
    let beside = named
        .chain(odd_servers::trials())
        .chain(peers::trials())
        .map(|(name, trial)| {
            let trial = move || {
                let _beside = ALONE.read().unwrap_or_else(PoisonError::into_inner);
                trial()
            };
            (name, Box::new(trial) as Boxed)
        });
    // These load the machine. They are the last ones, so that nothing waits behind them.
    let callers = callers::TRIALS
        .iter()
        .map(|(name, trial)| ((*name).to_owned(), Box::new(trial) as Boxed));
    let alone = callers
        .chain(hostile::trials())
        .chain(hostile_callers::trials())
        .map(|(name, trial)| {
            let trial = move || {
                let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
                trial()
            };
            (name, Box::new(trial) as Boxed)
        });
    let outside = sandbox.as_ref().err().map(ToString::to_string);
    let trials = beside.chain(alone).map(|(name, trial)| {
        let outside = outside.clone();
        Trial::ignorable_test(name, move || match outside {
            Some(reason) => conclude(|| Err(Skip::Lacking(reason).into())),
            None => conclude(trial),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(sandbox);
    conclusion.exit_code()
}

/// Runs a trial. One that lacks a part is ignored, with its reason; where every part is required,
/// it fails.
fn conclude(trial: impl FnOnce() -> Result) -> Result<Completion, Failed> {
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
                .unwrap_or(&"a panic without words")
                .to_string(),
        },
    };
    Err(format!("{reason}\n{}", take_evidence()).into())
}

/// Says something to whoever reads the report, whether the trial goes well or not.
fn tell(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The program under test: what `DAEMON` names, as for the scripts, or what cargo built for this
/// test.
fn program() -> &'static Path {
    static NAMED: OnceLock<Option<OsString>> = OnceLock::new();
    let named = NAMED.get_or_init(|| std::env::var_os("DAEMON"));
    Path::new(
        named
            .as_deref()
            .unwrap_or(env!("CARGO_BIN_EXE_smol-dhcp-proxy").as_ref()),
    )
}

/// A daemon with `arguments` on the host of a network with that many containers, and no DHCP server
/// yet.
fn stage(containers: u16, arguments: &[&str]) -> Result<Stage> {
    Stage::new(Topology::new(containers)?, program(), arguments)
}
