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
use super::{json, metrics, podman, screen};

const HELP: &str = "\
Shows the leases, from the daemon's files: nothing is started, woken or written.

Usage: smol-dhcp-proxy status [OPTIONS] [CONTAINER|MAC|ADDRESS]

CONTAINER is a name, an id or its beginning. With it, all that is known of its leases is shown, and
their health decides.

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
    let pid = holder(&lease_file.with_extension("lock"));
    let clocks = Clocks::read();
    let peeked = match read(&lease_file, pid) {
        Ok(peeked) => peeked,
        Err((is_running, failure)) => {
            // A collector that takes the output has to see that something is wrong.
            if asked.form == Form::OpenMetrics {
                output.extend_from_slice(metrics::unknown(is_running).as_bytes());
            }
            return Err(failure);
        }
    };
    let names = podman::names(&peeked.leases);
    let mut report = Report::new(&peeked, (&directory, pid), &names, clocks);
    if let Some(word) = &asked.word {
        report.select(word, &peeked, clocks)?;
    }
    match asked.form {
        Form::Json => json::push(output, &report)?,
        Form::OpenMetrics => output.extend_from_slice(metrics::exposition(&report).as_bytes()),
        Form::Verbose => {
            let text = [screen::details(&report), screen::daemon(&report)].join("\n");
            output.extend_from_slice(text.as_bytes());
        }
        Form::Table if asked.word.is_some() => {
            output.extend_from_slice(screen::details(&report).as_bytes());
        }
        Form::Table => output.extend_from_slice(screen::table(&report).as_bytes()),
    }
    let is_healthy = report.healthy;
    // The process ends; to free a thousand leases piece by piece takes a while.
    std::mem::forget((report, peeked, names));
    Ok(if is_healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Reads the state file of a daemon, of this process id or without a process. The error says whether
/// a daemon runs, as far as that is known.
fn read(lease_file: &Path, pid: Option<u32>) -> Result<Peeked, (Option<bool>, Failure)> {
    let is_running = pid.is_some();
    let error = match Peeked::read(lease_file) {
        Ok(Some(peeked)) => return Ok(peeked),
        Ok(None) => {
            let why = absence(lease_file, pid);
            return Err((Some(is_running), Failure::Unknown(why)));
        }
        Err(error) => error,
    };
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root",
        io::ErrorKind::Unsupported => ": use the `status` of the newer version",
        _ => "",
    };
    let path = lease_file.with_extension("state");
    let why = format!("cannot read {}: {error}{advice}", path.display());
    // The lock cannot be read either, then.
    let is_running = (is_running || !is_denied).then_some(is_running);
    Err((is_running, Failure::Unknown(why)))
}

/// Returns the reason why there is no state file.
fn absence(lease_file: &Path, pid: Option<u32>) -> String {
    let directory = lease_file.parent().unwrap_or(lease_file).display();
    let lock = lease_file.with_extension("lock");
    if let Some(pid) = pid {
        return format!(
            "there is no state file in {directory}, although the daemon runs as process {pid}: it \
             cannot write there, as its log says, or has just been started"
        );
    }
    let why = if lock.exists() {
        "a daemon has run there, and its state file was removed"
    } else {
        "no daemon has run there since it was made (--dir names another directory)"
    };
    format!("there is no state file in {directory}: {why}")
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
