//! `check`: the DHCP servers that an interface reaches, found without taking a lease.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};

use crate::proxy::config::decimal_seconds;
use crate::rt;

use super::arguments::Failure;

use interface::InterfaceReport;
use namespace::InspectedNamespace;
use progress::ProgressLine;
use report::{CheckReport, SearchReport};

mod interface;
mod judge;
mod namespace;
mod ports;
mod progress;
mod report;
mod screen;
mod search;

pub(super) const HELP: &str = "\
Finds the DHCP servers that an interface reaches, and takes no lease: it sends DISCOVERs and ARP
probes, never a REQUEST. The DHCP client of the host is not disturbed.

Usage: smol-dhcp-proxy check [OPTIONS] IFACE

Options:
      --netns PATH        network namespace of the interface, as /run/netns/NAME or
                          /proc/PID/ns/net [default: this one]
      --timeout SECONDS   the longest time for answers, up to 300 [default: 10]
      --json              print JSON
  -h, --help              print this help

Exit status: 0 a server offers an address without a problem, 1 none does, 2 a wrong command line,
3 cannot be found out, as of a DHCP server of this host.
";

/// The longest time for answers without an option, and with one.
const TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The command line.
#[derive(Debug, PartialEq, Eq)]
struct CheckArguments {
    interface: OsString,
    netns: Option<PathBuf>,
    timeout: Duration,
    json: bool,
}

pub(super) fn run(parser: lexopt::Parser, output: &mut Vec<u8>) -> Result<ExitCode, Failure> {
    let Some(arguments) = parse(parser)? else {
        output.extend_from_slice(HELP.as_bytes());
        return Ok(ExitCode::SUCCESS);
    };
    let progress = ProgressLine::new(rt::now());
    let namespace = InspectedNamespace::open(arguments.netns.as_deref())?;
    let mut interface = InterfaceReport::read(&namespace, &arguments.interface)?;
    let search = search::run(&namespace, &mut interface, arguments.timeout, progress)?;
    let search = search.map(SearchReport::from);
    let judgement = judge::findings(&interface, search.as_ref());
    let is_known = judgement.is_known;
    let report = CheckReport::new(interface, search, judgement);
    if arguments.json {
        serde_json::to_writer_pretty(&mut *output, &report)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        output.push(b'\n');
    } else {
        output.extend_from_slice(screen::text(&report).as_bytes());
    }
    match (report.healthy, is_known) {
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, true) => Ok(ExitCode::from(1)),
        (false, false) => Err(Failure::Unknown(UNREACHABLE.to_owned())),
    }
}

/// The text for a DHCP server of this host, which does not hear the packet sockets of this host.
const UNREACHABLE: &str =
    "a DHCP server of this host cannot be reached from the host itself; --netns names a container";

/// Reads the command line; `None` asks for the help.
fn parse(mut parser: lexopt::Parser) -> Result<Option<CheckArguments>, Failure> {
    let (mut interface, mut netns, mut timeout, mut json) = (None, None, TIMEOUT, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("netns") => netns = Some(PathBuf::from(parser.value()?)),
            Long("timeout") => timeout = parse_timeout(&parser.value()?)?,
            Long("json") => json = true,
            Short('h') | Long("help") => return Ok(None),
            Value(name) if interface.is_none() => interface = Some(name),
            argument => return Err(argument.unexpected().into()),
        }
    }
    let interface = interface.ok_or_else(|| {
        Failure::Usage("check needs the name of an interface, as in: check eth0".to_owned())
    })?;
    Ok(Some(CheckArguments {
        interface,
        netns,
        timeout,
        json,
    }))
}

fn parse_timeout(value: &OsStr) -> Result<Duration, Failure> {
    let seconds = value.to_str().and_then(decimal_seconds);
    let in_range = |time: &Duration| !time.is_zero() && *time <= LONGEST_TIMEOUT;
    seconds.filter(in_range).ok_or_else(|| {
        Failure::Usage(format!(
            "--timeout {}: a number of seconds is needed, more than 0 and at most {}",
            value.display(),
            LONGEST_TIMEOUT.as_secs()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<CheckArguments>, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|failure| match failure {
            Failure::Usage(text) => text,
            Failure::Failed(text) | Failure::Unknown(text) => panic!("no usage error: {text}"),
        })
    }

    #[test]
    fn a_command_line_names_one_interface() {
        let plain = CheckArguments {
            interface: "eth0".into(),
            netns: None,
            timeout: Duration::from_secs(10),
            json: false,
        };
        assert_eq!(parsed(&["eth0"]), Ok(Some(plain)));
        let all = CheckArguments {
            interface: "eth1".into(),
            netns: Some("/run/netns/a".into()),
            timeout: Duration::from_millis(2500),
            json: true,
        };
        let words = ["--netns", "/run/netns/a", "eth1", "--timeout=2.5", "--json"];
        assert_eq!(parsed(&words), Ok(Some(all)));
        assert_eq!(parsed(&["eth0", "--help"]), Ok(None));
        for (wrong, text) in [
            (&[][..], "name of an interface"),
            (&["eth0", "eth1"], "eth1"),
            (&["--colour", "eth0"], "--colour"),
            (&["eth0", "--timeout"], "--timeout"),
            (&["eth0", "--timeout", "0"], "at most 300"),
            (&["eth0", "--timeout", "301"], "at most 300"),
            (&["eth0", "--timeout", "-1"], "at most 300"),
            (&["eth0", "--timeout", "soon"], "--timeout soon"),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.contains(text), "{wrong:?}: {error}");
        }
    }
}
