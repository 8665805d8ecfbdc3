//! `doctor`: inspects all that the daemon needs, with advice where something is missing.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use lexopt::prelude::{Long, Short};
use rustix::process::geteuid;

use super::arguments::{Failure, directory};
use super::diagnosis::{Diagnosis, Severity, table};

mod files;
mod host;
mod listener;
mod units;

const HELP: &str = "\
Inspects all that the daemon needs on this host, and changes nothing.

Usage: smol-dhcp-proxy doctor [OPTIONS]

Options:
  -d, --dir DIR   directory of the socket and of the daemon's files [default: /run/podman]
  -h, --help      print this help

Exit status: 0 no problem, 1 a problem, 2 a wrong command line, 3 no problem was found, and something
cannot be found out.
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
    let (mut findings, remedies) = units::findings(&directory);
    findings.push(listener::finding(&directory, &remedies.serve));
    findings.extend(files::findings(&directory, &remedies.restart));
    findings.extend(host::findings());
    output.extend_from_slice(table(&findings).as_bytes());
    Ok(ExitCode::from(exit_status(&findings)))
}

/// Returns the exit status: a problem that is certain outweighs all that is unknown.
fn exit_status(findings: &[Diagnosis]) -> u8 {
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    if has(Severity::Problem) {
        1
    } else if has(Severity::Unknown) {
        3
    } else {
        0
    }
}

/// Commands that mend a setup.
#[derive(Debug, PartialEq, Eq)]
struct Remedies {
    /// Makes the socket listen, for smol-dhcp-proxy.
    serve: String,
    /// Starts the daemon, anew where one runs.
    restart: String,
}

/// Returns the finding for an error: a want of permission tells nothing of the subject.
fn failed(
    subject: &'static str,
    what: impl AsRef<str>,
    error: &io::Error,
    advice: impl Into<String>,
) -> Diagnosis {
    let text = format!("{}: {error}", what.as_ref());
    if error.kind() == io::ErrorKind::PermissionDenied {
        Diagnosis::unknown(subject, text, with_permission())
    } else {
        Diagnosis::problem(subject, text, advice)
    }
}

/// Returns the advice where a permission is missing.
fn with_permission() -> &'static str {
    if geteuid().is_root() {
        "run doctor on the host itself, in no container or sandbox"
    } else {
        "run doctor as root"
    }
}

/// Returns a path as a word of a shell command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_outweighs_what_is_unknown() {
        let good = || Diagnosis::good("a", "");
        let unknown = || Diagnosis::unknown("b", "", "");
        let problem = || Diagnosis::problem("c", "", "");
        assert_eq!(exit_status(&[good(), Diagnosis::note("d", "")]), 0);
        assert_eq!(exit_status(&[unknown(), good()]), 3);
        assert_eq!(exit_status(&[unknown(), problem(), good()]), 1);
    }

    #[test]
    fn want_of_permission_is_unknown_and_other_errors_are_problems() {
        let denied = failed("a", "b", &io::ErrorKind::PermissionDenied.into(), "c");
        assert_eq!(denied.verdict, Severity::Unknown);
        assert_eq!(denied.advice.as_deref(), Some(with_permission()));
        let missing = failed("a", "b", &io::ErrorKind::NotFound.into(), "c");
        assert_eq!(missing.verdict, Severity::Problem);
        assert_eq!(missing.advice.as_deref(), Some("c"));
    }

    #[test]
    fn a_path_is_one_word_of_a_command() {
        assert_eq!(quoted("/run/podman".as_ref()), "/run/podman");
        assert_eq!(quoted("/run/a b".as_ref()), "'/run/a b'");
        assert_eq!(quoted("a'$(x)".as_ref()), r"'a'\''$(x)'");
        assert_eq!(quoted("".as_ref()), "''");
    }
}
