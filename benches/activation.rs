//! Cold start by socket activation: `cargo bench --bench activation` (`-- --quick`, or `--
//! --test`).
//!
//! A client waits in the backlog with its complete request sent, as when systemd starts a service.
//! Measured is the time from the exec of the program to the first byte of the answer, for two
//! groups:
//!
//! - The service library alone: `examples/echo.rs` (on smol, on tokio) echoes one byte. The floor is
//!   a program that adopts the descriptor, accepts once with std, and echoes
//!   (`benches/activation/floor.rs`).
//! - The daemon: the Teardown of an unknown lease by gRPC, which needs no network. Ours (on glibc,
//!   on musl, on tokio) beside netavark's.
//!
//! All take turns. This program itself sets LISTEN_PID between fork and exec, without a shell, and
//! reads the clock last. Each time goes to `target/bench-results/activation.csv`
//! (`subject,microseconds`).

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use smol_dhcp_proxy::rpc::Call;
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use subjects::lab::topology::Topology;
use subjects::lab::{Result, grpc, sandbox};
use subjects::{Extent, Subject, SubjectKind, Targets, median, sorted};

/// The target for the start of our echo, as a multiple of the floor's time,
const MAX_OF_FLOOR: f64 = 1.5;
/// and for the start of our daemon, as a multiple of netavark's time.
const MAX_OF_NETAVARK: f64 = 0.4;

/// The timeout for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The first descriptor that systemd hands over.
const FIRST_FD: i32 = 3;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if let [exec, program, arguments @ ..] = &arguments[..]
        && exec == "--exec"
    {
        let error = become_activated(Path::new(program), arguments);
        println!("{}: {error}", Path::new(program).display());
        return ExitCode::FAILURE;
    }
    let all = SubjectKind::ALL;
    // Built before the sandbox starts, as the daemons are.
    match services() {
        Ok(services) => subjects::main(&all, |daemons, extent| run(services, daemons, extent)),
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Executes `program` with the socket in stdin as its descriptor 3. Before that, writes the time to
/// stdout, in nanoseconds since boot.
fn become_activated(program: &Path, arguments: &[std::ffi::OsString]) -> Box<dyn Error> {
    // dup(2) returns the lowest free number.
    match rustix::io::dup(io::stdin()) {
        Ok(socket) if socket.as_raw_fd() == FIRST_FD => std::mem::forget(socket),
        Ok(socket) => {
            return format!("descriptor {} was free, not {FIRST_FD}", socket.as_raw_fd()).into();
        }
        Err(error) => return error.into(),
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", "1")
        .env_remove("NOTIFY_SOCKET");
    match io::stdout().write_all(format!("{}\n", rt::now().since_boot().as_nanos()).as_bytes()) {
        Ok(()) => command.exec().into(),
        Err(error) => error.into(),
    }
}

fn run(mut starters: Vec<Starter>, daemons: &[Subject], extent: Extent) -> Result<bool> {
    for subject in daemons {
        starters.push(daemon(subject)?);
    }
    let topology = Topology::new(1)?;
    let call = subjects::unknown(&topology);
    let rounds = if extent == Extent::Full { 300 } else { 3 };
    let mut times = vec![Vec::new(); starters.len()];
    for turn in 0..rounds {
        for place in 0..starters.len() {
            // The order changes in each turn.
            let index = (place + turn) % starters.len();
            times[index].push(starters[index].start(&call)?);
        }
    }

    println!("\nMilliseconds from exec to the first answer; {rounds} starts each, in turns\n");
    println!("{:18} {:>8} {:>8} {:>8}", "", "median", "shortest", "p90");
    let mut csv = "subject,microseconds\n".to_owned();
    for (starter, times) in starters.iter().zip(&times) {
        let all = sorted(times);
        println!(
            "{:18} {:8.3} {:8.3} {:8.3}",
            starter.name,
            median(times),
            all[0],
            all[all.len() * 9 / 10]
        );
        for time in times {
            writeln!(csv, "{},{:.1}", starter.name, time.as_secs_f64() * 1e6)?;
        }
    }
    // A quick run has too few starts for a distribution.
    if extent == Extent::Full {
        fs::write(subjects::results("activation.csv")?, csv)?;
    }

    println!();
    let mut targets = Targets::new();
    let of = |name: &str| {
        starters
            .iter()
            .position(|starter| starter.name == name)
            .map(|index| median(&times[index]))
    };
    let mut compare = |what: &str, one: &str, other: &str, most| match (of(one), of(other)) {
        (Some(one), Some(other)) => targets.at_most(what, one / other, most),
        _ => targets.not_measured(what),
    };
    compare(
        "of the floor's time, the service library",
        "echo",
        "floor",
        MAX_OF_FLOOR,
    );
    compare(
        "of netavark's time, the daemon",
        "daemon",
        "netavark",
        MAX_OF_NETAVARK,
    );
    Ok(targets.met)
}

/// Builds the service library's echo on both runtimes, and the floor.
fn services() -> Result<Vec<Starter>> {
    let target = subjects::target()?;
    let service = |name, folder: &Path, program: &str, what: &[&str]| -> Result<Starter> {
        subjects::build(folder, &[&["--no-default-features"], what].concat())?;
        let program = folder.join(subjects::PROFILE.1).join(program);
        Ok(Starter {
            name,
            program,
            arguments: vec!["/nowhere".to_owned()],
            protocol: Protocol::Byte,
        })
    };
    Ok(vec![
        service(
            "floor",
            &target,
            "floor",
            &["--bin", "floor", "--features", "bench-programs"],
        )?,
        service("echo", &target, "examples/echo", &["--example", "echo"])?,
        service(
            "echo twin",
            &target.join("twin"),
            "examples/echo",
            &["--example", "echo", "--features", "tokio-twin"],
        )?,
    ])
}

/// Returns the starter of a daemon without leases.
fn daemon(subject: &Subject) -> Result<Starter> {
    let name = match subject.kind {
        SubjectKind::Ours => "daemon",
        SubjectKind::Static => "daemon static",
        SubjectKind::Twin => "daemon twin",
        SubjectKind::Netavark => "netavark",
    };
    let folder = sandbox::folder("activation")?.display().to_string();
    let arguments = subject
        .first
        .iter()
        .copied()
        .chain(["-a", "0", "--dir", &folder])
        .map(str::to_owned)
        .collect();
    Ok(Starter {
        name,
        program: subject.path.clone(),
        arguments,
        protocol: Protocol::Grpc,
    })
}

/// A program, and the protocol of its answer.
struct Starter {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    protocol: Protocol,
}

enum Protocol {
    Byte,
    Grpc,
}

impl Starter {
    /// Measures one cold start, from exec to the answer.
    fn start(&self, call: &Call) -> Result<Duration> {
        let path = sandbox::scratch().join("activation.sock");
        // In blocking mode, as systemd hands it over.
        let listener = UnixListener::bind(&path)?;
        let stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        fs::remove_file(&path)?;
        match self.protocol {
            Protocol::Byte => {
                (&stream).write_all(b"?")?;
                let mut started = self.exec(listener)?;
                (&stream).read_exact(&mut [0])?;
                started.answered(rt::now())
            }
            Protocol::Grpc => {
                let mut channel = subjects::answered(grpc::Channel::over(stream))?;
                let pending = subjects::answered(channel.begin(call))?;
                let mut started = self.exec(listener)?;
                subjects::answered(channel.finish(pending))?;
                started.answered(rt::now())
            }
        }
    }

    fn exec(&self, listener: UnixListener) -> Result<Started> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("--exec")
            .arg(&self.program)
            .args(&self.arguments)
            .env("RUST_LOG", "warn");
        command
            .stdin(std::os::fd::OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(Started(command.spawn()?))
    }
}

/// A started program, killed on drop.
struct Started(Child);

impl Started {
    /// Returns the time from exec to `end`.
    fn answered(&mut self, end: Instant) -> Result<Duration> {
        let mut output = String::new();
        self.0
            .stdout
            .take()
            .ok_or("no pipe of stdout")?
            .read_to_string(&mut output)?;
        let nanos = output
            .trim()
            .parse()
            .map_err(|_| format!("not a time: {output:?}"))?;
        Ok(end - Instant::from_boot(Duration::from_nanos(nanos)))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Best effort.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
