//! What renewals cost a host whose daemon sleeps in between: `cargo bench --bench wake` (`--
//! --quick`).
//!
//! A hundred leases over a T1 of 60 s under a real systemd with the shipped units, which takes
//! seven minutes for each subject: the script is tests/peers/sleep.sh. A quick run has two leases
//! and takes a minute.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::path::Path;
use std::process::{Command, ExitCode};

use subjects::lab::Result;
use subjects::{Extent, Kin, Promises, Subject, peers};

fn main() -> ExitCode {
    subjects::outside(&[Kin::Ours, Kin::Netavark], run)
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/sleep.sh");
    let full = extent == Extent::Full;
    let measure = |subject: &str| {
        let mut command = Command::new(&script);
        command
            .env("FULL", if full { "1" } else { "" })
            .env("SUBJECT", subject)
            .env("sandbox", "auto");
        peers(command, subjects)
    };
    let ours = measure("smol-dhcp-proxy")?;
    print!("{}", figures(&ours));
    if full {
        print!("{}", figures(&measure("netavark")?));
    }
    let mut promises = Promises::new();
    promises.at_most(
        "percent of the time that a process exists",
        number(&ours, "a process exists")?,
        5.0,
    );
    promises.at_most(
        "ms of processor for a renewal",
        number(&ours, "processor time of the service")? / 1000.0,
        5.0,
    );
    Ok(promises.kept)
}

fn figures(said: &str) -> &str {
    said.find("FIGURES").map_or("", |at| &said[at..])
}

/// The first number after the name of a figure.
fn number(said: &str, name: &str) -> Result<f64> {
    let lines = figures(said).lines();
    let rest = lines
        .filter_map(|line| line.trim_start().strip_prefix(name))
        .next();
    let word = rest
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("no figure {name:?}"))?;
    Ok(word.parse()?)
}
