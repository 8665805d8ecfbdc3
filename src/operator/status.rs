//! `status`: the leases and the daemon, from its files alone.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use lexopt::prelude::{Long, Short, Value};

use crate::proxy::config::LEASE_FILE_NAME;
use crate::proxy::store::lease_file::Peeked;

use super::arguments::{Failure, directory};
use super::report::{Clocks, Report, holder};
use super::{metrics, podman, screen};

const HELP: &str = "\
Shows the leases, from the daemon's files: nothing is started, woken or written.

Usage: smol-dhcp-proxy status [OPTIONS] [CONTAINER|MAC|ADDRESS]

CONTAINER is a name, an id or its beginning. With it, all that is known of its leases is shown.

Options:
  -d, --dir DIR      directory of the daemon's files [default: /run/podman]
      --json         print JSON
      --openmetrics  print OpenMetrics text, for Prometheus and the like
  -v, --verbose      print all fields of all leases, and of the daemon, and all counters
  -h, --help         print this help

Exit status: 0 healthy, 1 not healthy or not found, 2 a wrong command line, 3 cannot be found out.
";

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Table,
    Verbose,
    Json,
    OpenMetrics,
}

/// The arguments.
#[derive(Debug, Default)]
struct Asked {
    dir: Option<OsString>,
    form: Form,
    word: Option<String>,
}

pub(super) fn run(parser: lexopt::Parser, output: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    let Some(asked) = parse(parser)? else {
        output.extend_from_slice(HELP.as_bytes());
        return Ok(ExitCode::SUCCESS);
    };
    let directory = directory(asked.dir);
    let lease_file = directory.join(LEASE_FILE_NAME);
    let clocks = Clocks::read();
    let peeked = Peeked::read(&lease_file)
        .map_err(|error| unknown(&lease_file.with_extension("state"), &error))?;
    let Some(peeked) = peeked else {
        return Err(Failure::Unknown(format!(
            "there is no state file in {}: no daemon has run there since it was made (--dir names another directory)",
            directory.display()
        )));
    };
    let pid = holder(&lease_file.with_extension("lock"));
    let names = if peeked.leases.is_empty() {
        podman::Names::default()
    } else {
        podman::names()
    };
    let mut report = Report::new(&peeked, (&directory, pid), &names, clocks);
    if let Some(word) = &asked.word {
        report.leases.retain(|lease| lease.is_meant_by(word));
        if report.leases.is_empty() {
            return Err(Failure::Failed(format!("no lease is of {word:?}")));
        }
    }
    let text = match asked.form {
        Form::Json => {
            serde_json::to_writer_pretty(&mut *output, &report)
                .map_err(|error| Failure::Failed(error.to_string()))?;
            "\n".to_owned()
        }
        Form::OpenMetrics => metrics::exposition(&report),
        Form::Verbose => [screen::details(&report.leases), screen::daemon(&report)].join("\n"),
        Form::Table if asked.word.is_some() => screen::details(&report.leases),
        Form::Table => screen::table(&report),
    };
    output.extend_from_slice(text.as_bytes());
    let is_healthy = report.healthy;
    // The process ends; to free a thousand leases piece by piece takes a while.
    std::mem::forget((report, peeked));
    Ok(if is_healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Parses the arguments; `None` asks for the help.
fn parse(mut parser: lexopt::Parser) -> Result<Option<Asked>, Failure> {
    let mut asked = Asked::default();
    while let Some(argument) = parser.next()? {
        let form = match argument {
            Short('d') | Long("dir") => {
                asked.dir = Some(parser.value()?);
                continue;
            }
            Short('h') | Long("help") => return Ok(None),
            Long("json") => Form::Json,
            Long("openmetrics") => Form::OpenMetrics,
            Short('v') | Long("verbose") => Form::Verbose,
            Value(value) if asked.word.is_none() => {
                asked.word = Some(value.to_string_lossy().into_owned());
                continue;
            }
            argument => return Err(argument.unexpected().into()),
        };
        if ![Form::Table, form].contains(&asked.form) {
            return Err(Failure::Usage(
                "choose one of --json, --openmetrics and --verbose".to_owned(),
            ));
        }
        asked.form = form;
    }
    if asked.form == Form::OpenMetrics && asked.word.is_some() {
        return Err(Failure::Usage(
            "--openmetrics is about all leases: name none".to_owned(),
        ));
    }
    Ok(Some(asked))
}

fn unknown(path: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root",
        io::ErrorKind::Unsupported => ": use the `status` of the newer version",
        _ => "",
    };
    Failure::Unknown(format!("cannot read {}: {error}{advice}", path.display()))
}
