//! Containers started one after the other, as Podman's lock has them at a boot: `cargo bench
//! --bench boot` (`-- --quick`).
//!
//! Real Podman under a real systemd, by the units as they are installed (`benches/boot/rig.sh`), as
//! root. Each container gets its address by ours or by netavark's proxy on a macvlan network with a
//! DHCP server, or without DHCP on a bridge network. The three take turns; each turn of a proxy
//! begins with its service not running. Each single time goes to `target/bench-results/boot.csv`
//! (`subject,starts_ms,removals_ms`).

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use subjects::lab::{Result, Skip};
use subjects::{Extent, Kin, Promises, Subject, median, sorted};

/// Containers on a network with DHCP start in at most so many times of what they take on a bridge
/// network without,
const MOST_OF_BRIDGE: f64 = 1.15;
/// and of what they take with netavark's proxy.
const MOST_OF_NETAVARK: f64 = 0.5;

const NAMES: [&str; 3] = ["ours", "netavark", "bridge"];

/// Times of all turns of one subject.
#[derive(Default)]
struct Turns {
    starts: Vec<Duration>,
    removals: Vec<Duration>,
}

fn main() -> ExitCode {
    subjects::main(&[Kin::Ours], run)
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let (containers, rounds) = if extent == Extent::Full {
        (15, 7)
    } else {
        (2, 1)
    };
    let ours = subjects.first().ok_or("there is no daemon")?;
    let said = turns(&ours.path, containers, rounds)?;
    let all = NAMES.map(|name| parse(&said, name));
    if let Some(at) = all.iter().position(|turns| turns.starts.len() != rounds) {
        return Err(format!("{rounds} turns of {} were asked for\n{said}", NAMES[at]).into());
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
    let mut promises = Promises::new();
    promises.at_most(
        "of the bridge network's time, starts",
        ratio(|turns| &turns.starts, bridge),
        MOST_OF_BRIDGE,
    );
    promises.at_most(
        "of netavark's time, starts",
        ratio(|turns| &turns.starts, netavark),
        MOST_OF_NETAVARK,
    );
    println!(
        "       of the bridge network's time, removals: {:.3}",
        ratio(|turns| &turns.removals, bridge)
    );
    println!(
        "       of netavark's time, removals: {:.3}",
        ratio(|turns| &turns.removals, netavark)
    );
    Ok(promises.kept)
}

/// Returns what the rig says. Skips where it skips.
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
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(said),
        Some(77) => Err(Skip::Impossible(
            said.lines().last().unwrap_or("no reason given").to_owned(),
        )
        .into()),
        _ => Err(format!(
            "{}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

/// Reads the lines `turn SUBJECT STARTS REMOVALS` of one subject.
fn parse(said: &str, subject: &str) -> Turns {
    let mut turns = Turns::default();
    for line in said.lines() {
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
