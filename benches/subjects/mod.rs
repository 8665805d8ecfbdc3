//! What the benches measure: our daemon and those beside it, built as users get them and started as
//! systemd would.

#![allow(dead_code, unreachable_pub, reason = "each bench takes a part of it")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is a bench's purpose"
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

/// How programs are built, and the folder where cargo puts them: as users get them, but for `cargo
/// test`, which is to see soon that all of it still works.
pub const PROFILE: (&str, &str) = if cfg!(debug_assertions) {
    ("dev", "debug")
} else {
    ("release", "release")
};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Enough for figures.
    Full,
    /// A few of each, to see that all of it still works: `-- --quick`, `-- --test`, or without
    /// `cargo bench`.
    Quick,
}

/// Runs a bench within a sandbox. Its exit code is 1 where `run` fails, or says that ours does not
/// keep what was promised; a quick run is too short to tell.
///
/// The subjects that `choose` names are built before: the sandbox may have no network and no other
/// user.
pub fn main(choose: &[Kin], run: impl FnOnce(&[Subject], Extent) -> Result<bool>) -> ExitCode {
    outside(choose, |subjects, extent| {
        // Before the first thread.
        let _sandbox = Sandbox::enter().map_err(|error| Skip::Lacking(error.to_string()))?;
        run(subjects, extent)
    })
}

/// The same without a sandbox, for a script that makes its own.
pub fn outside(choose: &[Kin], run: impl FnOnce(&[Subject], Extent) -> Result<bool>) -> ExitCode {
    let says = |flag: &str| env::args().any(|argument| argument == flag);
    let quick = !says("--bench") || says("--quick") || says("--test");
    let extent = if quick { Extent::Quick } else { Extent::Full };
    match Subject::choose(choose).and_then(|subjects| run(&subjects, extent)) {
        Ok(kept) if kept || quick => ExitCode::SUCCESS,
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

/// Which program a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Our binary, or the one that `DAEMON` names.
    Ours,
    /// The same for musl, linked statically, where the target is installed (`rustup target add`).
    Static,
    /// The same on tokio (benches/twin).
    Twin,
    /// netavark's own proxy, where `tests/run` has built it or `NETAVARK_BIN` names its folder.
    Netavark,
}

/// A program to be measured.
#[derive(Clone, Debug)]
pub struct Subject {
    pub kin: Kin,
    pub name: &'static str,
    pub path: PathBuf,
    /// What stays whatever is measured.
    pub first: &'static [&'static str],
}

impl Subject {
    /// Builds or finds them; one that this machine does not have is left out, with a line that says
    /// why.
    fn choose(kin: &[Kin]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for &kin in kin {
            match Self::new(kin) {
                Ok(subject) => all.push(subject),
                Err(error) => match Skip::reason(&*error) {
                    Some(reason) => println!("{kin:?} is left out: {reason}"),
                    None => return Err(error),
                },
            }
        }
        Ok(all)
    }

    fn new(kin: Kin) -> Result<Self> {
        let target = target()?;
        let program = |folder: PathBuf| folder.join(PROFILE.1).join(NAME);
        let (name, path, first): (_, _, &[&str]) = match kin {
            Kin::Ours => match env::var_os("DAEMON") {
                Some(named) => ("ours", named.into(), &[]),
                None => {
                    build(&target, &["--bin", NAME])?;
                    ("ours", program(target), &[])
                }
            },
            Kin::Static => {
                if !has_musl() {
                    return Err(
                        Skip::Lacking(format!("rustup target add {MUSL} was not run")).into(),
                    );
                }
                build(&target, &["--bin", NAME, "--target", MUSL])?;
                ("static", program(target.join(MUSL)), &[])
            }
            Kin::Twin => {
                let folder = target.join("twin");
                build(&folder, &["--bin", NAME, "--features", "tokio-twin"])?;
                ("twin", program(folder), &[])
            }
            Kin::Netavark => ("netavark", netavark()?, &["dhcp-proxy"]),
        };
        Ok(Self {
            kin,
            name,
            path,
            first,
        })
    }

    /// It as a unit: it never leaves by itself.
    pub fn unit(&self, arguments: &[&str]) -> Result<Unit> {
        let all = [self.first, &["-a", "0"], arguments].concat();
        // Logging is part of a program's work, but the lab asks for more of it than a user does.
        Ok(Unit::new(&self.path, &all)?
            .set("RUST_LOG", "warn")
            .set("SMOL_DHCP_PROXY_SANDBOX", "auto"))
    }

    /// The program on the host of `topology`, ready for calls.
    pub fn start(&self, topology: &Topology, arguments: &[&str]) -> Result<(Unit, Daemon)> {
        let unit = self.unit(arguments)?;
        let daemon = unit.start(&topology.host)?;
        // An answer says that it is ready, which netavark tells no service manager.
        answered(grpc::call(&unit.socket(), &unknown(topology)))?;
        Ok((unit, daemon))
    }

    /// A network with that many containers, and the program on its host, ready for calls.
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

/// Runs a script with real peers (tests/peers/lib.bash) on the subjects; returns what it printed.
pub fn peers(mut script: Command, subjects: &[Subject]) -> Result<String> {
    for subject in subjects {
        match subject.kin {
            Kin::Netavark => script.env(
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
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(said),
        Some(77) => Err(Skip::Lacking(said.lines().last().unwrap_or_default().to_owned()).into()),
        _ => Err(format!("{}:\n{said}", output.status).into()),
    }
}

/// Bytes of a program without its symbols.
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

/// A file for figures that others read (benches/plots), in a folder of the target folder.
pub fn results(name: &str) -> Result<PathBuf> {
    let folder = target()?.join("bench-results");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

/// The target folder that this bench was built in: it is two below, in `release/deps` or
/// `debug/deps`.
pub fn target() -> Result<PathBuf> {
    let bench = env::current_exe()?;
    Ok(bench
        .ancestors()
        .nth(3)
        .ok_or("cargo puts a bench three folders deep")?
        .to_owned())
}

/// Builds a program for itself: cargo builds a bench's own programs for a test, with unwinding.
pub fn build(target: &Path, arguments: &[&str]) -> Result {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--profile", PROFILE.0, "--quiet"])
        .args(arguments);
    // Any example brings in the dependencies of the tests, which are built already, with their
    // features. What is measured does without.
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

/// Whether the standard library is there for musl.
fn has_musl() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", MUSL])
        .output();
    asked.is_ok_and(|said| Path::new(String::from_utf8_lossy(&said.stdout).trim()).is_dir())
}

/// The real dnsmasq at the far end of the network, which answers at once; nothing of its leases is
/// renewed while we look.
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

/// A call that touches no network: the Teardown of an unknown lease.
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

/// The times in milliseconds, the shortest first.
pub fn sorted(durations: &[Duration]) -> Vec<f64> {
    let mut all: Vec<f64> = durations
        .iter()
        .map(|duration| duration.as_secs_f64() * 1000.0)
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

/// In milliseconds.
pub fn median(durations: &[Duration]) -> f64 {
    let all = sorted(durations);
    (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0
}

/// What was promised, and whether it was kept in this run.
pub struct Promises {
    pub kept: bool,
}

impl Promises {
    pub fn new() -> Self {
        Self { kept: true }
    }

    /// Notes and prints that `what` is `is`, where `most` was promised.
    pub fn at_most(&mut self, what: &str, is: f64, most: f64) {
        let kept = is <= most;
        self.kept &= kept;
        println!(
            "{} {what}: {is:.3} (at most {most:.3})",
            if kept { "  kept" } else { "MISSED" }
        );
    }

    /// Notes and prints that it is not known whether it was kept.
    pub fn not_measured(&mut self, what: &str) {
        self.kept = false;
        println!("NOT MEASURED {what}");
    }
}
