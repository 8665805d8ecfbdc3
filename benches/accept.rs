//! The time to accept a connection: `cargo bench --bench accept` (`-- --quick`, or `-- --test` for
//! one run of each).
//!
//! A warm echo service, on the other end of a Unix socket: from connect(2) to the first byte of the
//! answer. Five servers do the same work, each a process of its own, and one and the same client
//! asks them:
//!
//! | server | what it is |
//! |---|---|
//! | `ours` | `examples/echo.rs`: the service library on smol |
//! | `twin` | the same source on tokio's current_thread runtime (`benches/twin`) |
//! | `threads` | what one writes with tokio alone, on its multi_thread runtime |
//! | `std` | a blocking loop: one connection after the other, and never a wait for two things at once |
//! | `epoll` | a bare epoll loop: the least that can wait for several, the floor |
//!
//! Where there are two processors, the client has one and the servers the other: where the
//! scheduler puts them is a matter of luck, and makes more of a difference than what they are.
//! The client waits until the server has hung up, so that what one server has left to do is not
//! counted against the next.
//!
//! criterion says how long 1, 16 and 256 clients at once wait. Then come two tables: the five side
//! by side, in turns, so that whatever else the machine does disturbs all alike; and the system
//! calls of one connection, counted by strace. Figures of different runs are not comparable; the
//! ratios of one run are. The exit code is 1 where ours misses what was promised, except in a quick
//! run, which is over too soon to tell.

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

/// How many clients there are at a time.
const CLIENTS: [usize; 3] = [1, 16, 256];

/// From so many clients on, a round is one of that many connections and more, and there are as many
/// fewer rounds.
const CROWD: usize = 16;

/// At one client, ours takes at most so many times as long as the floor,
const MOST_OF_FLOOR: f64 = 1.4;
/// and as the twin; the medians of two equal servers differ by some percent.
const MOST_OF_TWIN: f64 = 1.05;
/// The most system calls from accept(2) to close(2).
const MOST_CALLS: f64 = 30.0;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [serve, kind, path] = &arguments[..]
        && serve == "--serve"
    {
        return done(loops::serve(kind, path).map(|()| true));
    }
    // cargo says --bench, unless it is testing.
    let says = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let quick = !says("--bench") || says("--quick") || says("--test");
    done(run(quick).map(|kept| kept || quick))
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

/// Measures and prints; tells whether ours keeps what was promised.
fn run(quick: bool) -> Result<bool> {
    servers::build()?;
    let (ours, theirs) = processors()?;
    // Who is started has what its parent has.
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
    let mut kept = true;
    let mut promise = |what: &str, is: f64, most: f64| {
        kept &= is <= most;
        println!(
            "{:>7.2} {what}: {} (at most {most})",
            is,
            if is <= most { "kept" } else { "MISSED" }
        );
    };
    println!();
    promise(
        "times the floor, at one client",
        ours[0] / floor[0],
        MOST_OF_FLOOR,
    );
    for ((clients, ours), twin) in CLIENTS.iter().zip(&ours).zip(&twin) {
        promise(
            &format!("times the twin, clients: {clients}"),
            ours / twin,
            MOST_OF_TWIN,
        );
    }
    match calls {
        Some(calls) => promise("system calls for a connection", calls, MOST_CALLS),
        None => println!("No strace: the system calls were not counted."),
    }
    Ok(kept)
}

/// One processor for the client and one for the servers, or all for both where there is but one.
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

/// So many clients at once, and how long it takes until all of them have their answer. Hanging up,
/// awaited too, takes no part in it.
fn round(path: &Path, clients: usize) -> Duration {
    let begun = now();
    let call = || {
        let mut stream = UnixStream::connect(path).expect("the server listens as long as we run");
        stream.write_all(b"?").expect("it keeps its connections");
        stream
    };
    let mut streams: Vec<_> = (0..clients).map(|_| call()).collect();
    for stream in &mut streams {
        stream.read_exact(&mut [0]).expect("it answers");
        // The blocking loop has no time for others until its client has gone.
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("the connection lasts");
    }
    let answered = now();
    for stream in &mut streams {
        stream
            .read_to_end(&mut Vec::new())
            .expect("it hangs up in its turn");
    }
    answered - begun
}

/// The servers in turns: prints the medians, and returns those of ours, the twin and the floor.
fn side_by_side(servers: &[Server], rounds: usize) -> Result<[Vec<f64>; 3]> {
    let mut times = vec![vec![Vec::new(); CLIENTS.len()]; servers.len()];
    for turn in 0..rounds {
        for (column, clients) in CLIENTS.into_iter().enumerate() {
            // A crowd has more connections in a round.
            if turn % clients.min(CROWD) != 0 {
                continue;
            }
            for place in 0..servers.len() {
                // No server always follows the same one.
                let row = (place + turn) % servers.len();
                times[row][column].push(round(&servers[row].path, clients));
            }
        }
    }
    let micros: Vec<Vec<_>> = times
        .iter_mut()
        .map(|row| row.iter_mut().map(|times| median(times)).collect())
        .collect();
    let floor = micros.last().ok_or("the floor is the last one")?;
    println!(
        "\nMedians in microseconds until all have their answers, and as a multiple of the floor, in turns: {rounds} rounds, {} of the crowds\n",
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
