//! `doctor`: inspects all that the daemon needs, with advice where something is missing.

use std::process::ExitCode;

use lexopt::prelude::{Long, Short};

use crate::proxy::config::LEASE_FILE_NAME;

use super::arguments::{Failure, directory};
use super::text::Rows;

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

/// The result of an inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// A reason why containers get no address, or lose it.
    Problem,
}

/// One subject of the inspection.
#[derive(Debug, PartialEq, Eq)]
struct Diagnosis {
    verdict: Severity,
    subject: &'static str,
    text: String,
    /// The remedy.
    advice: Option<String>,
}

impl Diagnosis {
    fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self {
            verdict: Severity::Good,
            subject,
            text: text.into(),
            advice: None,
        }
    }

    fn note(subject: &'static str, text: impl Into<String>) -> Self {
        Self {
            verdict: Severity::Note,
            ..Self::good(subject, text)
        }
    }

    fn problem(subject: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Severity::Problem,
            advice: Some(advice.into()),
            ..Self::good(subject, text)
        }
    }

    fn with_advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }
}

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
    output.extend_from_slice(screen(&findings).as_bytes());
    let is_ill = |finding: &Diagnosis| finding.verdict == Severity::Problem;
    Ok(if findings.iter().any(is_ill) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn screen(findings: &[Diagnosis]) -> String {
    let mut rows = Rows::default();
    for finding in findings {
        let verdict = match finding.verdict {
            Severity::Good => "ok",
            Severity::Note => "note",
            Severity::Problem => "PROBLEM",
        };
        rows.push([verdict, finding.subject, &finding.text].map(str::to_owned));
        if let Some(advice) = &finding.advice {
            rows.push([String::new(), String::new(), format!("-> {advice}")]);
        }
    }
    let problems = findings
        .iter()
        .filter(|it| it.verdict == Severity::Problem)
        .count();
    let summary = match problems {
        0 => "no problem was found".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    format!("{}\n{summary}\n", rows.lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_has_advice_below_its_finding() {
        let findings = [
            Diagnosis::good("kernel", "6.1"),
            Diagnosis::problem("socket", "nothing listens", "start it"),
        ];
        assert_eq!(
            screen(&findings),
            "ok       kernel  6.1\nPROBLEM  socket  nothing listens\n                 -> start it\n\n1 problem\n"
        );
    }
}
