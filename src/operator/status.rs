//! `status`: the leases and the daemon, from its files alone.

use std::io::{self};
use std::process::ExitCode;

use lexopt::prelude::{Long, Short, Value};

use crate::proxy::config::LEASE_FILE_NAME;
use crate::proxy::store::lease_file::Peeked;

use super::arguments::{Failure, directory};
use super::report::{Clocks, Report, holder};
use super::{podman, screen};

const HELP: &str = "\
Shows the leases, from the daemon's files: nothing is started, woken or written.

Usage: smol-dhcp-proxy status [OPTIONS] [CONTAINER|MAC|ADDRESS]

CONTAINER is a name, an id or its beginning. With it, all that is known of its leases is shown.

Options:
  -d, --dir DIR   directory of the daemon's files [default: /run/podman]
      --json      print JSON
  -h, --help      print this help

Exit status: 0 healthy, 1 not healthy or not found, 2 a wrong command line, 3 cannot be found out.
";

pub(super) fn run(mut parser: lexopt::Parser, output: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    let (mut dir, mut json, mut word) = (None, false, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("dir") => dir = Some(parser.value()?),
            Long("json") => json = true,
            Short('h') | Long("help") => {
                output.extend_from_slice(HELP.as_bytes());
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if word.is_none() => word = Some(value.to_string_lossy().into_owned()),
            argument => return Err(argument.unexpected().into()),
        }
    }
    let directory = directory(dir);
    let lease_file = directory.join(LEASE_FILE_NAME);
    let clocks = Clocks::read();
    let peeked = Peeked::read(&lease_file, clocks.boot)
        .map_err(|error| unknown(&lease_file.with_extension("state"), &error))?;
    let Some(peeked) = peeked else {
        return Err(Failure::Unknown(format!(
            "there is no state file in {}: no daemon has run there since it was made (--dir names another directory)",
            directory.display()
        )));
    };
    let pid = holder(&lease_file.with_extension("lock"));
    let mut report = Report::new(&peeked, (&directory, pid), &podman::names(), clocks);
    if let Some(word) = &word {
        report.leases.retain(|lease| lease.is_meant_by(word));
        if report.leases.is_empty() {
            return Err(Failure::Failed(format!("no lease is of {word:?}")));
        }
    }
    if json {
        serde_json::to_writer_pretty(&mut *output, &report)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        output.push(b'\n');
    } else if word.is_some() {
        output.extend_from_slice(screen::details(&report.leases).as_bytes());
    } else {
        output.extend_from_slice(screen::table(&report).as_bytes());
    }
    Ok(if report.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn unknown(path: &std::path::Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root",
        _ => "",
    };
    Failure::Unknown(format!("cannot read {}: {error}{advice}", path.display()))
}
