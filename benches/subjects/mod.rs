//! The subjects of the benches: our daemon and others, in release builds, started as by systemd.

#![allow(dead_code, unreachable_pub, reason = "each bench uses a part of it")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is the purpose of a bench"
)]

#[path = "../../tests/lab/mod.rs"]
pub mod lab;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Call, Status};
use smol_dhcp_proxy::rt;

use lab::daemon::{Daemon, Unit};
use lab::peer::netavark;
use lab::real_server::{Kind, Plan, RealServer};
use lab::sandbox::{self, Sandbox};
use lab::stage::Stage;
use lab::topology::{SERVER_LINK, Topology};
use lab::{Result, Skip, grpc};

const NAME: &str = "smol-dhcp-proxy";
const MUSL: &str = "x86_64-unknown-linux-musl";

/// The build profile of the programs and its folder: a release build, except in `cargo test`, which
/// is a quick check.
pub const PROFILE: (&str, &str) = if cfg!(debug_assertions) {
    ("dev", "debug")
} else {
    ("release", "release")
};

/// The extent of a measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Enough for figures.
    Full,
    /// A few of each, to check that the bench works: `-- --quick`, `-- --test`, or without `cargo
    /// bench`.
    Quick,
}

/// Runs a bench in a sandbox. The exit status is 1 if `run` fails, or if it returns that ours misses
/// a target; a quick run is too short to tell.
///
/// The subjects in `choose` are built first, because the sandbox may have no network and no other
/// user.
pub fn main(
    choose: &[SubjectKind],
    run: impl FnOnce(&[Subject], Extent) -> Result<bool>,
) -> ExitCode {
    outside(choose, |subjects, extent| {
        // Before any thread.
        let _sandbox = Sandbox::enter().map_err(|error| Skip::Lacking(error.to_string()))?;
        run(subjects, extent)
    })
}

/// Does the same without a sandbox, for a script with its own.
pub fn outside(
    choose: &[SubjectKind],
    run: impl FnOnce(&[Subject], Extent) -> Result<bool>,
) -> ExitCode {
    let has = |flag: &str| env::args().any(|argument| argument == flag);
    let quick = !has("--bench") || has("--quick") || has("--test");
    let extent = if quick { Extent::Quick } else { Extent::Full };
    match Subject::choose(choose).and_then(|subjects| run(&subjects, extent)) {
        Ok(met) if met || quick => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => match Skip::reason(&*error) {
            Some(reason) => {
                println!("skipped: {reason}");
                ExitCode::SUCCESS
            }
            None => {
                println!("failed: {error}\n{}", sandbox::take_evidence());
                ExitCode::FAILURE
            }
        },
    }
}

/// The kind of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// Our binary, or the binary that the variable `DAEMON` names.
    Ours,
    /// Our binary for musl, linked statically, if the target is installed (`rustup target add`).
    Static,
    /// Our binary on tokio (benches/twin).
    Twin,
    /// netavark's own proxy, from the build of `tests/run` or the folder in `NETAVARK_BIN`.
    Netavark,
}

impl SubjectKind {
    pub const ALL: [Self; 4] = [Self::Ours, Self::Static, Self::Twin, Self::Netavark];
}

/// A program to be measured.
#[derive(Clone, Debug)]
pub struct Subject {
    pub kind: SubjectKind,
    pub name: &'static str,
    pub path: PathBuf,
    /// The first arguments in every bench.
    pub first: &'static [&'static str],
}

impl Subject {
    /// Builds or finds the subjects. Leaves out those that this machine lacks, and prints the
    /// reason.
    fn choose(kinds: &[SubjectKind]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for &kind in kinds {
            match Self::new(kind) {
                Ok(subject) => all.push(subject),
                Err(error) => match Skip::reason(&*error) {
                    Some(reason) => println!("{kind:?} is left out: {reason}"),
                    None => return Err(error),
                },
            }
        }
        Ok(all)
    }

    fn new(kind: SubjectKind) -> Result<Self> {
        let target = target()?;
        let program = |folder: PathBuf| folder.join(PROFILE.1).join(NAME);
        let (name, path, first): (_, _, &[&str]) = match kind {
            SubjectKind::Ours => match env::var_os("DAEMON") {
                Some(named) => ("ours", named.into(), &[]),
                None => {
                    build(&target, &["--bin", NAME])?;
                    ("ours", program(target), &[])
                }
            },
            SubjectKind::Static => {
                if !has_musl() {
                    return Err(
                        Skip::Lacking(format!("rustup target add {MUSL} was not run")).into(),
                    );
                }
                build(&target, &["--bin", NAME, "--target", MUSL])?;
                ("static", program(target.join(MUSL)), &[])
            }
            SubjectKind::Twin => {
                let folder = target.join("twin");
                build(&folder, &["--bin", NAME, "--features", "tokio-twin"])?;
                ("twin", program(folder), &[])
            }
            SubjectKind::Netavark => ("netavark", netavark()?, &["dhcp-proxy"]),
        };
        Ok(Self {
            kind,
            name,
            path,
            first,
        })
    }

    /// Returns the subject as a unit that never exits when idle.
    pub fn unit(&self, arguments: &[&str]) -> Result<Unit> {
        let all = [self.first, &["-a", "0"], arguments].concat();
        // The log level of a user, not the higher one of the lab.
        Ok(Unit::new(&self.path, &all)?
            .set("RUST_LOG", "warn")
            .set("SMOL_DHCP_PROXY_SANDBOX", "auto"))
    }

    /// Starts the program on the host of `topology`, and waits until it is ready for calls.
    pub fn start(&self, topology: &Topology, arguments: &[&str]) -> Result<(Unit, Daemon)> {
        let unit = self.unit(arguments)?;
        let daemon = unit.start(&topology.host)?;
        // netavark does not notify its readiness, so this waits for an answer.
        answered(grpc::call(&unit.socket(), &unknown(topology)))?;
        Ok((unit, daemon))
    }

    /// Creates a network with that many containers, and starts the program on its host.
    pub fn stage(&self, containers: u16, arguments: &[&str]) -> Result<Stage> {
        let topology = Topology::new(containers)?;
        let (unit, daemon) = self.start(&topology, arguments)?;
        Ok(Stage {
            daemon,
            unit,
            topology,
        })
    }
}

/// Runs a script with real peers (tests/peers/lib.bash) on the subjects. Returns its output.
pub fn peers(mut script: Command, subjects: &[Subject]) -> Result<String> {
    for subject in subjects {
        match subject.kind {
            SubjectKind::Netavark => script.env(
                "NETAVARK_BIN",
                subject.path.parent().ok_or("a program without a folder")?,
            ),
            _ => script.env("DAEMON", &subject.path),
        };
    }
    let output = script
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(text),
        Some(77) => Err(Skip::Lacking(text.lines().last().unwrap_or_default().to_owned()).into()),
        _ => Err(format!("{}:\n{text}", output.status).into()),
    }
}

/// Returns the size of a program in bytes, without its symbols.
pub fn stripped_size(program: &Path) -> Result<u64> {
    let copy = sandbox::folder("stripped")?.join("program");
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(program)
        .status();
    let measured = match stripped {
        Ok(status) if status.success() => &copy,
        _ => {
            println!(
                "No strip(1) (Debian: binutils): {} is measured as it is.",
                program.display()
            );
            program
        }
    };
    Ok(fs::metadata(measured)?.len())
}

/// Returns the path of a file of figures for benches/plots, in the target folder.
pub fn results(name: &str) -> Result<PathBuf> {
    let folder = target()?.join("bench-results");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// Returns the target folder of this bench, which is two levels below it, in `release/deps` or
/// `debug/deps`.
pub fn target() -> Result<PathBuf> {
    let bench = env::current_exe()?;
    Ok(bench
        .ancestors()
        .nth(3)
        .ok_or("cargo puts a bench three folders deep")?
        .to_owned())
}

/// Builds a program by itself. As part of a bench, cargo would build it with unwinding.
pub fn build(target: &Path, arguments: &[&str]) -> Result {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--profile", PROFILE.0, "--quiet"])
        .args(arguments);
    // With an example, cargo uses the dependencies of the tests, with their features, which are
    // built already. A release build does without.
    if PROFILE.0 == "dev"
        && !["--example", "--target"]
            .iter()
            .any(|it| arguments.contains(it))
    {
        command.args(["--example", "echo"]);
    }
    command
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !command.status()?.success() {
        return Err(format!("{command:?} failed").into());
    }
    Ok(())
}

/// Returns whether the standard library for musl is installed.
fn has_musl() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", MUSL])
        .output();
    output.is_ok_and(|it| Path::new(String::from_utf8_lossy(&it.stdout).trim()).is_dir())
}

/// Starts the real dnsmasq at the far end of the network. It answers at once, and its leases are not
/// renewed during a measurement.
pub fn dnsmasq(topology: &Topology) -> Result<RealServer<'_>> {
    RealServer::start(
        Kind::Dnsmasq,
        &topology.server,
        SERVER_LINK,
        &Plan {
            lease: 3600,
            ..Plan::default()
        },
    )
}

/// Returns a call that needs no network: the Teardown of an unknown lease.
pub fn unknown(topology: &Topology) -> Call {
    let mut config = topology.containers[0].config();
    config.container_mac_addr = "02:00:00:00:00:01".to_owned();
    Call::Teardown(config)
}

pub fn answered<T>(answer: Result<T, Status>) -> Result<T> {
    answer.map_err(|status| format!("{:?}: {}", status.code, status.message).into())
}

pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = rt::now();
    work()?;
    Ok(rt::now() - start)
}

/// Returns the times in milliseconds, the shortest first.
pub fn sorted(durations: &[Duration]) -> Vec<f64> {
    let mut all: Vec<f64> = durations
        .iter()
        .map(|duration| duration.as_secs_f64() * 1000.0)
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Returns the median in milliseconds.
pub fn median(durations: &[Duration]) -> f64 {
    let all = sorted(durations);
    (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0
}

/// The targets of a bench.
pub struct Targets {
    /// All targets so far are met.
    pub met: bool,
}

impl Targets {
    pub fn new() -> Self {
        Self { met: true }
    }

    /// Prints and counts a target: the figure `is` of `what` should be `most` or less.
    pub fn at_most(&mut self, what: &str, is: f64, most: f64) {
        let met = is <= most;
        self.met &= met;
        let word = if met { "met" } else { "missed" };
        println!("{word:>6} {what}: {is:.3} (target: at most {most:.3})");
    }

    /// Prints a target without a figure, and counts it as missed.
    pub fn not_measured(&mut self, what: &str) {
        self.met = false;
        println!("missed {what}: not measured");
    }
}
