//! What the daemon costs, beside netavark's own proxy, in one run: `cargo bench --bench footprint` (`-- --quick`).
//!
//! Both serve the same scene at the same time, each on a network of its own: containers with a macvlan each in their
//! own namespaces, and the real dnsmasq with `--no-ping` at the other end of the host's parent link. Setups and
//! Teardowns alternate between the two, so that whatever else the machine does disturbs both alike. Figures of
//! different runs are not comparable; their ratios are.
//!
//! Ours is the release binary, which cargo builds first, or the one that `DAEMON` names. The peer is
//! `$NETAVARK_BIN/netavark` (`tests/run` installs it); where it is missing only ours is measured. The exit code is 1
//! where ours misses a threshold.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
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

/// How much is measured.
struct Extent {
    leases: u16,
    cold_starts: usize,
}

const FULL: Extent = Extent { leases: 30, cold_starts: 10 };
const QUICK: Extent = Extent { leases: 8, cold_starts: 3 };

/// The length of a lease in seconds: nothing is renewed while we look.
const LEASE: u32 = 3600;
/// The most kilobytes (of 1000 bytes) that our stripped binary may have.
const MOST_KILOBYTES: f64 = 1200.0;

fn main() -> ExitCode {
    let extent = if env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    // The sandbox may have no network and no other user, so building comes first.
    match build().and_then(|ours| run(ours, &extent)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
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

/// Makes the release binary what it is for users: `cargo bench` itself has just built it for a test, with unwinding.
fn build() -> Result<PathBuf> {
    if let Some(named) = env::var_os("DAEMON") {
        return Ok(named.into());
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "--quiet", "--bin", "smol-dhcp-proxy"]).status()?;
    if !built.success() {
        return Err("the release build failed".into());
    }
    Ok(env!("CARGO_BIN_EXE_smol-dhcp-proxy").into())
}

/// Measures and prints; tells whether ours keeps what was promised.
fn run(ours: PathBuf, extent: &Extent) -> Result<bool> {
    // Before the first thread.
    let _sandbox = Sandbox::enter().map_err(|error| Skip::Lacking(error.to_string()))?;
    let mut programs = vec![Program { name: "ours", path: ours, arguments: &["-a", "0"] }];
    match netavark() {
        Ok(path) => programs.push(Program { name: "netavark", path, arguments: &["dhcp-proxy", "-a", "0"] }),
        Err(missing) => println!("No netavark ({missing}): only ours is measured."),
    }
    let stages = programs.iter().map(|program| program.stage(extent.leases)).collect::<Result<Vec<_>>>()?;
    let _servers = stages.iter().map(|stage| dnsmasq(&stage.topology)).collect::<Result<Vec<_>>>()?;

    let mut figures = vec![Figures::default(); programs.len()];
    for (program, figures) in programs.iter().zip(&mut figures) {
        figures.size = program.stripped_size()?;
    }
    for _ in 0..extent.cold_starts {
        for ((program, stage), figures) in programs.iter().zip(&stages).zip(&mut figures) {
            figures.cold_starts.push(program.cold_start(&stage.topology)?);
        }
    }
    for (stage, figures) in stages.iter().zip(&mut figures) {
        figures.idle = Memory::of(&stage.daemon)?;
    }
    for container in 0..extent.leases.into() {
        for (stage, figures) in stages.iter().zip(&mut figures) {
            figures.setups.push(timed(|| stage.setup(container))?);
        }
    }
    for (stage, figures) in stages.iter().zip(&mut figures) {
        // What is open for a moment after a lease is not what it costs to keep.
        for container in &stage.topology.containers {
            container.namespace.await_rest()?;
        }
        figures.leased = Memory::of(&stage.daemon)?;
    }
    for container in 0..extent.leases.into() {
        for (stage, figures) in stages.iter().zip(&mut figures) {
            figures.teardowns.push(timed(|| stage.teardown(container))?);
        }
    }
    Ok(print(&programs, &figures, extent))
}

fn dnsmasq(topology: &Topology) -> Result<RealServer<'_>> {
    RealServer::start(Kind::Dnsmasq, &topology.server, SERVER_LINK, &Plan { lease: LEASE, ..Plan::default() })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = rt::now();
    work()?;
    Ok(rt::now() - start)
}

/// A proxy to be measured.
struct Program {
    name: &'static str,
    path: PathBuf,
    arguments: &'static [&'static str],
}

impl Program {
    fn unit(&self) -> Result<Unit> {
        // Logging is part of a program's work, but the lab asks for more of it than a user does.
        Ok(Unit::new(&self.path, self.arguments)?.set("RUST_LOG", "warn"))
    }

    /// A network with that many containers, and the program on its host, ready for calls.
    fn stage(&self, containers: u16) -> Result<Stage> {
        let (topology, unit) = (Topology::new(containers)?, self.unit()?);
        let daemon = unit.start(&topology.host)?;
        let stage = Stage { daemon, unit, topology };
        // An answer says that it is ready, which netavark tells no service manager.
        answered(grpc::call(&stage.unit.socket(), &unknown(&stage.topology)))?;
        Ok(stage)
    }

    /// From the start of a process that finds a call waiting to its answer. This includes the shell that sets LISTEN_PID,
    /// a millisecond for both.
    fn cold_start(&self, topology: &Topology) -> Result<Duration> {
        let unit = self.unit()?;
        let mut channel = answered(grpc::Channel::connect(&unit.socket()))?;
        let waiting = answered(channel.begin(&unknown(topology)))?;
        timed(|| {
            let daemon = unit.start(&topology.host)?;
            answered(channel.finish(waiting))?;
            Ok(daemon)
        })
    }

    /// Bytes of the program without its symbols.
    fn stripped_size(&self) -> Result<f64> {
        let copy = sandbox::folder("stripped")?.join(self.name);
        let stripped = Command::new("strip").arg("-o").arg(&copy).arg(&self.path).status();
        let measured = match stripped {
            Ok(status) if status.success() => &copy,
            _ => {
                println!("No strip(1) (Debian: binutils): {} is measured as it is.", self.path.display());
                &self.path
            }
        };
        Ok(fs::metadata(measured)?.len() as f64 / 1000.0)
    }
}

/// A call that touches no network: the Teardown of a lease that nobody has.
fn unknown(topology: &Topology) -> Call {
    let mut config = topology.containers[0].config();
    config.container_mac_addr = "02:00:00:00:00:01".to_owned();
    Call::Teardown(config)
}

fn answered<T>(answer: Result<T, Status>) -> Result<T> {
    answer.map_err(|status| format!("{:?}: {}", status.code, status.message).into())
}

/// What a process holds at one moment; memory in kB of 1024 bytes.
#[derive(Clone, Default)]
struct Memory {
    pss: u64,
    anonymous: u64,
    threads: u64,
    descriptors: usize,
}

impl Memory {
    fn of(daemon: &Daemon) -> Result<Self> {
        let descriptors = daemon.settled_descriptors()?.len();
        Ok(Self {
            pss: daemon.proportional_memory()?,
            anonymous: daemon.status("RssAnon")?,
            threads: daemon.status("Threads")?,
            descriptors,
        })
    }
}

/// All that was measured of one program; the size in kB of 1000 bytes.
#[derive(Clone, Default)]
struct Figures {
    size: f64,
    idle: Memory,
    leased: Memory,
    cold_starts: Vec<Duration>,
    setups: Vec<Duration>,
    teardowns: Vec<Duration>,
}

/// A line of the table: a figure, how to take it, and how many of it ours may have for each of the peer's.
type Row = (String, fn(&Figures) -> f64, Option<f64>);

/// Prints the table; tells whether ours keeps every threshold that could be checked.
fn print(programs: &[Program], figures: &[Figures], extent: &Extent) -> bool {
    let leased = |what: &str| format!("with {} leases: {what}", extent.leases);
    let rows: [Row; 16] = [
        ("stripped binary, kB".into(), |all| all.size, None),
        ("idle: Pss, kB".into(), |all| all.idle.pss as f64, None),
        ("idle: RssAnon, kB".into(), |all| all.idle.anonymous as f64, None),
        ("idle: threads".into(), |all| all.idle.threads as f64, None),
        ("idle: descriptors".into(), |all| all.idle.descriptors as f64, None),
        (leased("Pss, kB"), |all| all.leased.pss as f64, None),
        (leased("RssAnon, kB"), |all| all.leased.anonymous as f64, (extent.leases == FULL.leases).then_some(1.0 / 4.0)),
        (leased("threads"), |all| all.leased.threads as f64, None),
        (leased("descriptors"), |all| all.leased.descriptors as f64, None),
        (format!("Setup, median of {}, ms", extent.leases), |all| median(&all.setups), Some(1.0 / 10.0)),
        ("Setup, shortest, ms".into(), |all| sorted(&all.setups)[0], None),
        ("Setup, longest, ms".into(), |all| sorted(&all.setups)[all.setups.len() - 1], None),
        (format!("Teardown, median of {}, ms", extent.leases), |all| median(&all.teardowns), None),
        (format!("cold start, median of {}, ms", extent.cold_starts), |all| median(&all.cold_starts), None),
        ("cold start, shortest, ms".into(), |all| sorted(&all.cold_starts)[0], None),
        ("cold start, longest, ms".into(), |all| sorted(&all.cold_starts)[all.cold_starts.len() - 1], None),
    ];

    let names: String = programs.iter().map(|program| format!("{:>12}", program.name)).collect();
    println!("{:34}{names}   ratio", "");
    let mut kept = true;
    for (what, figure, most) in rows {
        let values: Vec<f64> = figures.iter().map(figure).collect();
        let cells: String = values.iter().map(|value| format!("{value:12.*}", digits(*value))).collect();
        let ratio = values.get(1).map(|theirs| values[0] / theirs);
        let shown = ratio.map(|ratio| format!("{ratio:8.3}")).unwrap_or_default();
        let verdict = match (most, ratio) {
            (Some(most), Some(ratio)) => verdict(ratio <= most, &mut kept, &format!("at most {most} of the peer's")),
            _ if what.starts_with("stripped") => {
                verdict(values[0] <= MOST_KILOBYTES, &mut kept, &format!("at most {MOST_KILOBYTES} kB"))
            }
            _ => String::new(),
        };
        println!("{what:34}{cells}{shown}{verdict}");
    }
    kept
}

fn verdict(met: bool, kept: &mut bool, threshold: &str) -> String {
    *kept &= met;
    format!("   {} ({threshold})", if met { "met" } else { "MISSED" })
}

/// Fractions only where they tell something.
fn digits(value: f64) -> usize {
    if value.fract() == 0.0 || value >= 100.0 { 0 } else { 2 }
}

fn sorted(durations: &[Duration]) -> Vec<f64> {
    let mut all: Vec<f64> = durations.iter().map(|duration| duration.as_secs_f64() * 1000.0).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn median(durations: &[Duration]) -> f64 {
    let all = sorted(durations);
    (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0
}
