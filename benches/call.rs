//! The cost of a call that needs no network: `cargo bench --bench call` (`-- --quick`).
//!
//! Each call is the gRPC Teardown of an unknown lease, on a new connection, as netavark makes it.
//! The daemons are warm, and take turns.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use subjects::lab::daemon::Daemon;
use subjects::lab::stage::Stage;
use subjects::lab::{Result, Skip, eventually, grpc, program, sandbox};
use subjects::{Extent, Subject, SubjectKind, answered, median, sorted, timed, unknown};

fn main() -> std::process::ExitCode {
    subjects::main(&SubjectKind::ALL, run)
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let rounds = if extent == Extent::Full { 2000 } else { 20 };
    let stages = subjects
        .iter()
        .map(|subject| subject.stage(1, &[]))
        .collect::<Result<Vec<_>>>()?;
    let mut times = vec![Vec::new(); stages.len()];
    for round in 0..rounds + rounds / 10 {
        if round == rounds / 10 {
            // The rounds before this were the warm-up.
            times.iter_mut().for_each(Vec::clear);
        }
        for place in 0..stages.len() {
            // The order changes in each turn.
            let number = (place + round as usize) % stages.len();
            times[number].push(timed(|| call(&stages[number]))?);
        }
    }
    // One daemon after the other: these figures do not depend on the state of the machine.
    let spent = stages
        .iter()
        .map(|stage| processor(stage, rounds))
        .collect::<Result<Vec<_>>>()?;
    let calls = stages
        .iter()
        .map(|stage| system_calls(stage, rounds / 10))
        .collect::<Result<Vec<_>>>();
    let calls = calls
        .map(Some)
        .or_else(|error| match Skip::reason(&*error) {
            Some(reason) => {
                println!("System calls are not counted: {reason}");
                Ok(None)
            }
            None => Err(error),
        })?;

    println!("           median ms    p90 ms  processor µs  ours / it: median  processor");
    let ours = (median(&times[0]), spent[0].as_secs_f64());
    for ((subject, times), spent) in subjects.iter().zip(&times).zip(&spent) {
        let (median, all, spent) = (median(times), sorted(times), spent.as_secs_f64());
        let (p90, ratios) = (all[all.len() * 9 / 10], (ours.0 / median, ours.1 / spent));
        let name = subject.name;
        println!(
            "{name:10} {median:9.3} {p90:9.3} {:13.1} {:18.3} {:10.3}",
            spent * 1e6,
            ratios.0,
            ratios.1
        );
    }
    for (subject, calls) in subjects.iter().zip(calls.into_iter().flatten()) {
        let sum: f64 = calls.values().sum();
        let mut calls: Vec<_> = calls.into_iter().filter(|(_, each)| *each >= 0.1).collect();
        calls.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let calls: Vec<_> = calls
            .iter()
            .map(|(name, each)| format!("{name} {each:.1}"))
            .collect();
        println!(
            "{:10} {sum:6.1} system calls: {}",
            subject.name,
            calls.join(", ")
        );
    }
    // This bench has no targets.
    Ok(true)
}

fn call(stage: &Stage) -> Result {
    answered(grpc::call(&stage.unit.socket(), &unknown(&stage.topology))).map(drop)
}

/// Returns the daemon's processor time for one call.
fn processor(stage: &Stage, rounds: u32) -> Result<Duration> {
    let before = scheduled(&stage.daemon)?;
    for _ in 0..rounds {
        call(stage)?;
    }
    Ok((scheduled(&stage.daemon)? - before) / rounds)
}

/// Returns the processor time of all threads, from /proc/PID/schedstat: `stat` has it only in ticks.
fn scheduled(daemon: &Daemon) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.id()))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += Duration::from_nanos(
            text.split_whitespace()
                .next()
                .ok_or("an empty schedstat")?
                .parse()?,
        );
    }
    Ok(sum)
}

/// Counts the daemon's system calls by name, for each gRPC call. Skips without strace.
fn system_calls(stage: &Stage, rounds: u32) -> Result<BTreeMap<String, f64>> {
    let (strace, table) = (
        program::need("strace", "strace")?,
        sandbox::folder("strace")?.join("table"),
    );
    let id = stage.daemon.id();
    let mut command = Command::new(strace);
    command
        .args(["-f", "-c", "-U", "calls,name", "-p", &id.to_string(), "-o"])
        .arg(&table)
        .stderr(Stdio::null());
    let mut strace = Daemon::from(command.spawn()?);
    eventually(
        "strace is attached to every thread",
        Duration::from_secs(5),
        || {
            for thread in fs::read_dir(format!("/proc/{id}/task"))? {
                if fs::read_to_string(thread?.path().join("status"))?.contains("TracerPid:\t0") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        },
    )?;
    for _ in 0..rounds {
        call(stage)?;
    }
    strace.signal(Signal::SIGINT)?;
    strace.await_exit(Duration::from_secs(5))?;
    let row = |line: &str| {
        let (count, name) = line.trim().split_once(char::is_whitespace)?;
        let count: f64 = count.parse().ok()?;
        (name.trim() != "total").then(|| (name.trim().to_owned(), count / f64::from(rounds)))
    };
    Ok(fs::read_to_string(table)?.lines().filter_map(row).collect())
}
