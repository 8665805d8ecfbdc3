//! `doctor`: inspects all that the daemon needs, with advice where something is missing.

use std::process::ExitCode;

use lexopt::prelude::{Long, Short};

use crate::proxy::config::LEASE_FILE_NAME;

use super::arguments::{Failure, directory};
use super::diagnosis::{Diagnosis, table};

mod host;
mod units;

const HELP: &str = "\
Inspects all that the daemon needs on this host, and changes nothing.

Usage: smol-dhcp-proxy doctor [OPTIONS]

Options:
  -d, --dir DIR   directory of the socket and of the daemon's files [default: /run/podman]
  -h, --help      print this help

Exit status: 0 no problem, 1 a problem, 2 a wrong command line.
";

pub(super) fn run(mut parser: lexopt::Parser, output: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    let mut dir = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("dir") => dir = Some(parser.value()?),
            Short('h') | Long("help") => {
                output.extend_from_slice(HELP.as_bytes());
                return Ok(ExitCode::SUCCESS);
            }
            argument => return Err(argument.unexpected().into()),
        }
    }
    let directory = directory(dir);
    let lease_file = directory.join(LEASE_FILE_NAME);
    let mut findings = units::findings(&directory);
    findings.extend(host::findings(&directory, &lease_file));
    output.extend_from_slice(table(&findings).as_bytes());
    Ok(if findings.iter().any(Diagnosis::is_problem) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}
