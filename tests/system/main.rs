//! Tests of the real binary among real parts. `cargo test --test system -- NAME` runs those with
//! NAME in their names, and `'calls::|lease::'` those with either.
//!
//! A trial that lacks a part is ignored and says which; with SMOL_DHCP_PROXY_REQUIRE=1 in the
//! environment it fails.

#[path = "../status/form.rs"]
mod form;
#[path = "../lab/mod.rs"]
mod lab;
#[macro_use]
#[path = "../lab/trial.rs"]
mod trial;

mod blame;
mod callers;
mod calls;
mod changed;
mod check;
mod conflict;
mod control;
mod crash;
mod damage;
mod expiry;
mod file;
mod flood;
mod hostile;
mod hostile_callers;
mod instances;
mod lab_itself;
mod lease;
mod leaving;
mod link;
mod logging;
mod manual;
mod networks;
mod odd;
mod odd_servers;
mod options;
mod patience;
mod peer_fails;
mod peers;
mod refusals;
mod resting;
mod resume;
mod servers;
mod state_files;
mod status;
mod storm;
mod suspend;
mod topology;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use libtest_mimic::{Arguments, Trial};

use lab::sandbox::Sandbox;
use lab::stage::Stage;
use lab::topology::Topology;
use lab::{Result, Skip};
use trial::tell;

/// A trial of a table.
type Boxed = Box<dyn FnOnce() -> Result + Send>;
/// A trial that notes its time under the name that it is given.
type Timed = Box<dyn FnOnce(String) -> Result + Send>;

/// The machine, of which each trial takes a share while it runs.
static MACHINE: Machine = Machine {
    free: Mutex::new(0),
    freed: Condvar::new(),
};

fn main() -> ExitCode {
    // Before anything else: a user namespace is for a process with one thread.
    let sandbox = Sandbox::enter();
    let mut arguments = Arguments::from_args();
    // Most trials mostly wait.
    let threads = *arguments.test_threads.get_or_insert(8);
    *MACHINE.free() = threads;
    // Several words joined by `|` run the trials that have one of them in their names.
    let words = arguments.filter.take_if(|filter| filter.contains('|'));
    let words: Vec<_> = words.iter().flat_map(|words| words.split('|')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));

    let groups = [
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
        check::TRIALS,
        check::ODD_TRIALS,
        check::LINK_TRIALS,
        check::ERROR_TRIALS,
        check::SURROUNDINGS_TRIALS,
        control::TRIALS,
        servers::TRIALS,
        networks::TRIALS,
        topology::TRIALS,
        patience::TRIALS,
        peer_fails::TRIALS,
        suspend::TRIALS,
        instances::TRIALS,
        state_files::TRIALS,
        logging::TRIALS,
        status::TRIALS,
        flood::TRIALS,
    ];
    let named = groups
        .into_iter()
        .flatten()
        .map(|trial| (trial::name(trial), Box::new(trial.1) as Boxed));
    // The scripts are the longest: at the end the last of them would run alone, for two minutes.
    let beside = peers::trials()
        .into_iter()
        .chain(named)
        .chain(odd_servers::trials())
        .map(|trial| with_share(1, trial));
    // These load the machine. They are the last ones, so that nothing waits behind them.
    let in_pairs = hostile::trials(false).map(|trial| with_share(threads.div_ceil(2), trial));
    let callers = callers::TRIALS
        .iter()
        .map(|trial| (trial::name(trial), Box::new(trial.1) as Boxed));
    let alone = callers
        .chain(hostile::trials(true))
        .chain(hostile_callers::trials())
        .map(|trial| with_share(threads, trial));
    let outside = sandbox.as_ref().err().map(ToString::to_string);
    let wanted = beside
        .chain(in_pairs)
        .chain(alone)
        .filter(|(name, _)| is_wanted(name));
    let trials = wanted.map(|(name, run)| {
        let (outside, note) = (outside.clone(), name.clone());
        Trial::ignorable_test(name, move || match outside {
            Some(reason) => trial::conclude(|| Err(Skip::Lacking(reason).into())),
            None => trial::conclude(|| run(note)),
        })
    });
    let trials: Vec<_> = trials.collect();
    let has_trial = |word: &str| trials.iter().any(|trial| trial.name().contains(word));
    let missing = words.iter().find(|word| !has_trial(word));
    if let Some(word) = missing {
        tell(&format!("no trial has {word:?} in its name"));
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(sandbox);
    if conclusion.num_passed > 10 {
        tell(&format!("The longest trials:\n{}", trial::longest(25)));
    }
    conclusion.exit_code()
}

/// Lets a trial wait for its share of the machine, then note its time.
fn with_share(share: usize, (name, run): (String, Boxed)) -> (String, Timed) {
    let run = move |name| {
        let _share = MACHINE.take(share);
        trial::timed(name, run)
    };
    (name, Box::new(run))
}

/// Counts what is free of the machine, in as many parts as trials may run at a time.
struct Machine {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Machine {
    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `share` parts are free, and takes them until the value is dropped.
    fn take(&'static self, share: usize) -> Share {
        let mut free = self.free();
        while *free < share {
            free = self
                .freed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= share;
        Share(self, share)
    }
}

/// A share of the machine.
struct Share(&'static Machine, usize);

impl Drop for Share {
    fn drop(&mut self) {
        *self.0.free() += self.1;
        self.0.freed.notify_all();
    }
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
