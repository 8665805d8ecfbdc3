//! The time to start containers one after the other, as Podman's lock does at a boot: `cargo bench
//! --bench boot` (`-- --quick`).
//!
//! Real Podman under a real systemd, with the installed units (`benches/boot/rig.sh`), as root. Each
//! container gets its address from our proxy or from netavark's, on a macvlan network with a DHCP
//! server, or without DHCP on a bridge network. The three take turns. Before each turn of a proxy
//! its service is stopped. Each time goes to `target/bench-results/boot.csv`
//! (`subject,starts_ms,removals_ms`).

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use subjects::lab::{Result, Skip};
use subjects::{Extent, Subject, SubjectKind, Targets, median, sorted};

/// The target for the starts with our proxy, as a multiple of the time on a bridge network without
/// DHCP,
const MAX_OF_BRIDGE: f64 = 1.15;
/// and of the time with netavark's proxy.
const MAX_OF_NETAVARK: f64 = 0.5;

const NAMES: [&str; 3] = ["ours", "netavark", "bridge"];

/// The times of all turns of one subject.
#[derive(Default)]
struct Turns {
    starts: Vec<Duration>,
    removals: Vec<Duration>,
}

fn main() -> ExitCode {
    subjects::main(&[SubjectKind::Ours], run)
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let (containers, rounds) = if extent == Extent::Full {
        (15, 7)
    } else {
        (2, 1)
    };
    let ours = subjects.first().ok_or("there is no daemon")?;
    let output = turns(&ours.path, containers, rounds)?;
    let all = NAMES.map(|name| parse(&output, name));
    if let Some(at) = all.iter().position(|turns| turns.starts.len() != rounds) {
        return Err(format!("not {rounds} turns of {}:\n{output}", NAMES[at]).into());
    }

    println!(
        "\nMilliseconds for {containers} times `podman run -d`, and for as many `podman rm -f`; {rounds} turns each\n"
    );
    println!(
        "{:10} {:>8} {:>8} {:>8} {:>10}",
        "", "median", "shortest", "longest", "removals"
    );
    let mut csv = "subject,starts_ms,removals_ms\n".to_owned();
    for (name, turns) in NAMES.iter().zip(&all) {
        let (starts, removals) = (sorted(&turns.starts), median(&turns.removals));
        println!(
            "{name:10} {:8.0} {:8.0} {:8.0} {removals:10.0}",
            median(&turns.starts),
            starts[0],
            starts[rounds - 1]
        );
        for (start, removal) in turns.starts.iter().zip(&turns.removals) {
            writeln!(csv, "{name},{},{}", start.as_millis(), removal.as_millis())?;
        }
    }
    if extent == Extent::Full {
        fs::write(subjects::results("boot.csv")?, csv)?;
    }

    println!();
    let [ours, netavark, bridge] = &all;
    let ratio = |of: fn(&Turns) -> &Vec<Duration>, to: &Turns| median(of(ours)) / median(of(to));
    let mut targets = Targets::new();
    targets.at_most(
        "of the bridge network's time, starts",
        ratio(|turns| &turns.starts, bridge),
        MAX_OF_BRIDGE,
    );
    targets.at_most(
        "of netavark's time, starts",
        ratio(|turns| &turns.starts, netavark),
        MAX_OF_NETAVARK,
    );
    println!(
        "       of the bridge network's time, removals: {:.3}",
        ratio(|turns| &turns.removals, bridge)
    );
    println!(
        "       of netavark's time, removals: {:.3}",
        ratio(|turns| &turns.removals, netavark)
    );
    Ok(targets.met)
}

/// Returns the output of the rig. Skips if the rig skips.
fn turns(daemon: &Path, containers: usize, rounds: usize) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/boot/rig.sh");
    let mut command = Command::new(&script);
    command
        .args([containers.to_string(), rounds.to_string()])
        .env("DAEMON", daemon)
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(text),
        Some(77) => Err(Skip::Impossible(
            text.lines().last().unwrap_or("no reason given").to_owned(),
        )
        .into()),
        _ => Err(format!(
            "{}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

/// Parses the lines `turn SUBJECT STARTS REMOVALS` of one subject.
fn parse(output: &str, subject: &str) -> Turns {
    let mut turns = Turns::default();
    for line in output.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("turn") || words.next() != Some(subject) {
            continue;
        }
        let mut milliseconds = words
            .filter_map(|word| word.parse().ok())
            .map(Duration::from_millis);
        if let (Some(starts), Some(removals)) = (milliseconds.next(), milliseconds.next()) {
            turns.starts.push(starts);
            turns.removals.push(removals);
        }
    }
    turns
}
