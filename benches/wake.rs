//! The cost of renewals with a daemon that exits in between: `cargo bench --bench wake` (`--
//! --quick`).
//!
//! A hundred leases with a T1 of 60 s under a real systemd with the shipped units. The script is
//! tests/peers/sleep.sh, and takes seven minutes for each subject. A quick run has two leases and
//! takes a minute.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::path::Path;
use std::process::{Command, ExitCode};

use subjects::lab::Result;
use subjects::{Extent, Subject, SubjectKind, Targets, peers};

fn main() -> ExitCode {
    subjects::outside(&[SubjectKind::Ours, SubjectKind::Netavark], run)
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
    let mut targets = Targets::new();
    targets.at_most(
        "percent of the time with a process",
        number(&ours, "a process exists")?,
        5.0,
    );
    targets.at_most(
        "ms of processor time for a renewal",
        number(&ours, "processor time of the service")? / 1000.0,
        5.0,
    );
    Ok(targets.met)
}

fn figures(output: &str) -> &str {
    output.find("FIGURES").map_or("", |at| &output[at..])
}

/// Returns the first number after the name of a figure.
fn number(output: &str, name: &str) -> Result<f64> {
    let lines = figures(output).lines();
    let rest = lines
        .filter_map(|line| line.trim_start().strip_prefix(name))
        .next();
    let word = rest
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("no figure {name:?}"))?;
    Ok(word.parse()?)
}
