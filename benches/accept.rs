//! The time to accept a connection: `cargo bench --bench accept` (`-- --quick`, or `-- --test` for
//! one run of each).
//!
//! Measured from connect(2) to the first byte of the answer of a warm echo service on a Unix socket.
//! Five servers do the same work, each in its own process, for the same client:
//!
//! | server | implementation |
//! |---|---|
//! | `ours` | `examples/echo.rs`: the service library on smol |
//! | `twin` | the same source on tokio's current_thread runtime (`benches/twin`) |
//! | `threads` | tokio alone, without the library, on its multi_thread runtime |
//! | `std` | a blocking loop: one connection after the other |
//! | `epoll` | a bare epoll loop: the minimum for several connections, the floor |
//!
//! On two processors, the client has one and the servers the other: their placement by the
//! scheduler would make a larger difference than the servers. The client waits until the server has
//! closed the connection, so that no work is counted against the next server.
//!
//! criterion measures 1, 16 and 256 clients at once. Two tables follow: all servers in turns, so
//! that every disturbance hits all alike; and the system calls of one connection, counted by strace.
//! Compare ratios of one run, not figures of different runs. The exit status is 1 if ours misses a
//! target, except after a quick run, which is too short to tell.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its purpose"
)]
#![expect(unreachable_pub, reason = "nothing of a bench is public")]

#[path = "accept/loops.rs"]
mod loops;
#[path = "accept/servers.rs"]
mod servers;
#[path = "accept/syscalls.rs"]
mod syscalls;

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use servers::Server;
use smol_dhcp_proxy::rt::now;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The numbers of simultaneous clients.
const CLIENTS: [usize; 3] = [1, 16, 256];

/// With this many clients or more, only one round in this many is run.
const CROWD: usize = 16;

/// The target for the time of ours with one client, as a multiple of the floor's,
const MAX_OF_FLOOR: f64 = 1.4;
/// and of the twin's. The medians of two equal servers differ by some percent.
const MAX_OF_TWIN: f64 = 1.05;
/// The target for the system calls from accept(2) to close(2).
const MAX_CALLS: f64 = 30.0;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [serve, kind, path] = &arguments[..]
        && serve == "--serve"
    {
        return done(loops::serve(kind, path).map(|()| true));
    }
    // cargo passes --bench, except in a test.
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let quick = !has("--bench") || has("--quick") || has("--test");
    done(run(quick).map(|met| met || quick))
}

fn done(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints. Returns whether ours meets all targets.
fn run(quick: bool) -> Result<bool> {
    servers::build()?;
    let (ours, theirs) = processors()?;
    // Child processes inherit the affinity.
    sched_setaffinity(Pid::this(), &theirs)?;
    let servers = servers::NAMES
        .map(Server::start)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    sched_setaffinity(Pid::this(), &ours)?;
    let mut criterion = Criterion::default().configure_from_args();
    for clients in CLIENTS {
        let mut group = criterion.benchmark_group("accept");
        group.throughput(Throughput::Elements(clients as u64));
        for server in &servers {
            group.bench_function(BenchmarkId::new(server.name, clients), |bencher| {
                bencher
                    .iter_custom(|rounds| (0..rounds).map(|_| round(&server.path, clients)).sum());
            });
        }
    }
    criterion.final_summary();

    let [ours, twin, floor] = side_by_side(&servers, if quick { 20 } else { 2000 })?;
    let calls = syscalls::table(if quick { 20 } else { 200 })?;
    let mut all_met = true;
    let mut target = |what: &str, is: f64, most: f64| {
        let met = is <= most;
        all_met &= met;
        let word = if met { "met" } else { "missed" };
        println!("{is:>7.2} {what}: {word} (target: at most {most})");
    };
    println!();
    target(
        "times the floor, with one client",
        ours[0] / floor[0],
        MAX_OF_FLOOR,
    );
    for ((clients, ours), twin) in CLIENTS.iter().zip(&ours).zip(&twin) {
        target(
            &format!("times the twin, clients: {clients}"),
            ours / twin,
            MAX_OF_TWIN,
        );
    }
    match calls {
        Some(calls) => target("system calls for a connection", calls, MAX_CALLS),
        None => println!("No strace: the system calls were not counted."),
    }
    Ok(all_met)
}

/// Returns one processor for the client and one for the servers, or all processors for both if there
/// is only one.
fn processors() -> Result<(CpuSet, CpuSet)> {
    let all = sched_getaffinity(Pid::this())?;
    let mut each = (0..CpuSet::count())
        .filter(|&cpu| all.is_set(cpu).unwrap_or(false))
        .map(|cpu| {
            let mut set = CpuSet::new();
            set.set(cpu).map(|()| set)
        });
    match (each.next(), each.next()) {
        (Some(one), Some(other)) => Ok((one?, other?)),
        _ => Ok((all, all)),
    }
}

/// Runs that many clients at once. Returns the time until all have their answer, without the close
/// of the connections, for which this waits too.
fn round(path: &Path, clients: usize) -> Duration {
    let begun = now();
    let call = || {
        let mut stream = UnixStream::connect(path).expect("the server listens");
        stream.write_all(b"?").expect("the server is connected");
        stream
    };
    let mut streams: Vec<_> = (0..clients).map(|_| call()).collect();
    for stream in &mut streams {
        stream.read_exact(&mut [0]).expect("the server answers");
        // The blocking loop serves no other client before this.
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("the server is connected");
    }
    let answered = now();
    for stream in &mut streams {
        stream
            .read_to_end(&mut Vec::new())
            .expect("the server closes the connection");
    }
    answered - begun
}

/// Runs the servers in turns. Prints all medians, and returns those of ours, the twin and the floor.
fn side_by_side(servers: &[Server], rounds: usize) -> Result<[Vec<f64>; 3]> {
    let mut times = vec![vec![Vec::new(); CLIENTS.len()]; servers.len()];
    for turn in 0..rounds {
        for (column, clients) in CLIENTS.into_iter().enumerate() {
            // A round of many clients has more connections.
            if turn % clients.min(CROWD) != 0 {
                continue;
            }
            for place in 0..servers.len() {
                // The order changes in each turn.
                let row = (place + turn) % servers.len();
                times[row][column].push(round(&servers[row].path, clients));
            }
        }
    }
    let micros: Vec<Vec<_>> = times
        .iter_mut()
        .map(|row| row.iter_mut().map(|times| median(times)).collect())
        .collect();
    let floor = micros.last().ok_or("the floor is the last server")?;
    println!(
        "\nMedians in microseconds until all clients have their answers, and as multiples of the floor, in turns: {rounds} rounds, {} of {CROWD} clients or more\n",
        rounds.div_ceil(CROWD)
    );
    println!(
        "{:8} {:>17} {:>17} {:>17} {:>15}",
        "clients", CLIENTS[0], CLIENTS[1], CLIENTS[2], "accepts/s (256)"
    );
    for (server, row) in servers.iter().zip(&micros) {
        print!("{:8}", server.name);
        for (micros, floor) in row.iter().zip(floor) {
            print!(" {micros:>10.1} {:>6.2}", micros / floor);
        }
        println!(" {:>15.0}", CLIENTS[2] as f64 * 1e6 / row[2]);
    }
    let row = |name: &str| {
        servers
            .iter()
            .position(|server| server.name == name)
            .map(|row| micros[row].clone())
    };
    Ok(["ours", "twin", "epoll"].map(|name| row(name).unwrap_or_default()))
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
