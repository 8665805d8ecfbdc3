//! `renew` and `release`: leases renewed now, or given back.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};
use serde::Serialize;

use crate::proxy::config::LEASE_FILE_NAME;
use crate::proxy::store::lease_file::Peeked;
use crate::rpc::{
    Call, LeaseIdentity, LeaseOutcome, LeaseOutcomes, LeaseResult, LeaseSelection, Reply,
};

use super::arguments::{Failure, directory};
use super::report::{Clocks, LeaseReport, Report, select};
use super::text::{Rows, printable};
use super::{client, podman, screen};

pub(super) const RENEW_HELP: &str = "\
Renews leases now, whatever they wait for, and shows what came of it.

Usage: smol-dhcp-proxy renew [OPTIONS] CONTAINER|MAC|ADDRESS|--all

CONTAINER is a name, an id or its beginning. The daemon is started where it sleeps.

Options:
      --all       renew all leases
  -d, --dir DIR   directory of the socket and of the daemon's files [default: /run/podman]
      --json      print JSON
  -h, --help      print this help

Exit status: 0 all are renewed, 1 one is not, 2 a wrong command line, 3 cannot be found out.
";

pub(super) const RELEASE_HELP: &str = "\
Gives leases back to their servers, and takes the addresses off the containers' interfaces.

A container that runs has no address then until it is started again or connected anew.

Usage: smol-dhcp-proxy release [OPTIONS] CONTAINER|MAC|ADDRESS|--all

CONTAINER is a name, an id or its beginning. The daemon is started where it sleeps.

Options:
      --all       give all leases back
  -d, --dir DIR   directory of the socket and of the daemon's files [default: /run/podman]
      --json      print JSON
  -y, --yes       do not ask
  -h, --help      print this help

Exit status: 0 all are given back, 1 one is not, 2 a wrong command line, 3 cannot be found out.
";

/// The version of the JSON form, raised as that of `status` is.
const VERSION: u32 = 1;

/// The time that the daemon has for one lease, for its own start, and for each further lease at the
/// rate of renewals.
const BASE_TIMEOUT: Duration = Duration::from_secs(45);
const TIMEOUT_PER_LEASE: Duration = Duration::from_millis(40);
/// The same where the number of leases is not known.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(600);

/// The most bytes of identities in one call, below the daemon's limit for a message.
const MAX_IDENTITIES: usize = 12 * 1024;

/// The most leases that the question of `release` lists.
const MAX_LISTED: usize = 20;

/// The command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Renew,
    Release,
}

/// The arguments.
#[derive(Debug, Default)]
struct Wanted {
    all: bool,
    word: Option<String>,
    json: bool,
    yes: bool,
}

pub(super) fn run(
    demand: Demand,
    mut parser: lexopt::Parser,
    output: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let (mut dir, mut wanted) = (None, Wanted::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("dir") => dir = Some(parser.value()?),
            Long("all") => wanted.all = true,
            Long("json") => wanted.json = true,
            Short('y') | Long("yes") if demand == Demand::Release => wanted.yes = true,
            Short('h') | Long("help") => {
                output.extend_from_slice(demand.help().as_bytes());
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if wanted.word.is_none() => {
                wanted.word = Some(value.to_string_lossy().into_owned());
            }
            argument => return Err(argument.unexpected().into()),
        }
    }
    if wanted.all == wanted.word.is_some() {
        return Err(Failure::Usage(
            "name a container, a MAC or an address, or say --all".to_owned(),
        ));
    }
    let directory = directory(dir);
    let (leases, is_complete) = match known(&directory) {
        Ok(known) => known,
        // The daemon knows what all are.
        Err(_) if wanted.all => (Vec::new(), false),
        Err(failure) => return Err(failure),
    };
    let leases = match &wanted.word {
        Some(word) => meant(leases, word, is_complete)?,
        None => leases,
    };
    let count = (is_complete || !wanted.all).then_some(leases.len());
    if demand == Demand::Release && !wanted.yes && count != Some(0) {
        confirm(count, &leases)?;
    }
    let selections = selections(&leases, wanted.all).into_iter();
    let (outcomes, failure) =
        in_calls(selections.map(|selection| ask(demand, &directory, selection, count)));
    if failure.is_none() || !outcomes.is_empty() {
        show(&outcomes, &leases, wanted.json, output)?;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(if outcomes.iter().all(|outcome| demand.is_done(outcome)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

impl Demand {
    fn help(self) -> &'static str {
        match self {
            Self::Renew => RENEW_HELP,
            Self::Release => RELEASE_HELP,
        }
    }

    fn call(self, selection: LeaseSelection) -> Call {
        match self {
            Self::Renew => Call::Renew(selection),
            Self::Release => Call::Release(selection),
        }
    }

    /// Returns whether it has its effect.
    fn is_done(self, outcome: &LeaseOutcome) -> bool {
        match (self, outcome.result()) {
            (_, LeaseResult::Failed | LeaseResult::Unknown) => false,
            (Self::Renew, LeaseResult::NoLease | LeaseResult::Released) => false,
            (_, LeaseResult::LeftToExpire) => false,
            (Self::Renew | Self::Release, _) => true,
        }
    }
}

/// Returns the leases of the state file, and whether it could be read to its end.
fn known(directory: &Path) -> Result<(Vec<LeaseReport>, bool), Failure> {
    let lease_file = directory.join(LEASE_FILE_NAME);
    let clocks = Clocks::read();
    let peeked = Peeked::read(&lease_file).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => ": run it as root",
            _ => ": --all asks the daemon for all of its leases",
        };
        let file = lease_file.with_extension("state");
        Failure::Unknown(format!("cannot read {}: {error}{advice}", file.display()))
    })?;
    let Some(peeked) = peeked else {
        return Err(Failure::Failed(format!(
            "there is no state file in {}, so there are no leases (--dir names another directory)",
            directory.display()
        )));
    };
    let is_complete = peeked.trouble.is_none() && peeked.unusable == 0;
    let report = Report::new(
        &peeked,
        (directory, None),
        &podman::names(&peeked.leases),
        clocks,
    );
    Ok((report.leases, is_complete))
}

/// Returns the leases that an operator means by `word`.
fn meant(
    leases: Vec<LeaseReport>,
    word: &str,
    is_complete: bool,
) -> Result<Vec<LeaseReport>, Failure> {
    let leases = select(leases, word)?;
    match (leases.is_empty(), is_complete) {
        (false, _) => Ok(leases),
        (true, true) => Err(Failure::Failed(format!("no lease is of {word:?}"))),
        (true, false) => Err(Failure::Unknown(format!(
            "no lease is of {word:?}, as far as the state file can be read: it is damaged. --all \
             asks the daemon for all of its leases"
        ))),
    }
}

/// Returns the outcomes of calls up to the first that fails, and its failure.
fn in_calls(
    calls: impl Iterator<Item = Result<Vec<LeaseOutcome>, Failure>>,
) -> (Vec<LeaseOutcome>, Option<Failure>) {
    let mut outcomes = Vec::new();
    for call in calls {
        match call {
            Ok(more) => outcomes.extend(more),
            Err(failure) => return (outcomes, Some(failure)),
        }
    }
    (outcomes, None)
}

/// Returns the leases that are to be given back, for the question: one line each.
fn listed(leases: &[LeaseReport]) -> String {
    let mut rows = Rows::default();
    for lease in leases.iter().take(MAX_LISTED) {
        let address = lease
            .address
            .as_ref()
            .map_or("-".into(), ToString::to_string);
        rows.push([name(lease), printable(&lease.interface), address]);
    }
    let mut text = rows.lines();
    if let Some(more) = leases
        .len()
        .checked_sub(MAX_LISTED)
        .filter(|more| *more > 0)
    {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}

/// Returns the name of a container.
fn name(lease: &LeaseReport) -> String {
    printable(&screen::container(lease))
}

/// Asks on the terminal whether leases are to be given back.
fn confirm(count: Option<usize>, leases: &[LeaseReport]) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "without a terminal to ask on, release needs --yes".to_owned(),
        ));
    }
    let listed = listed(leases);
    let count = match count {
        Some(1) => "1 lease".to_owned(),
        Some(count) => format!("{count} leases"),
        None => "all leases".to_owned(),
    };
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{listed}Give back {count}? [y/N] ")
        .and_then(|()| io::stdin().read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Failure::Failed("nothing was given back".to_owned())),
        Err(error) => Err(Failure::Failed(format!("cannot ask: {error}"))),
    }
}

/// Divides the leases into calls.
fn selections(leases: &[LeaseReport], all: bool) -> Vec<LeaseSelection> {
    if all {
        return vec![LeaseSelection {
            all,
            leases: Vec::new(),
        }];
    }
    let mut selections: Vec<LeaseSelection> = Vec::new();
    let mut length = usize::MAX;
    for lease in leases {
        let lease = identity(lease);
        // With the tags and lengths of its fields.
        let added = lease.mac.len() + lease.namespace.len() + lease.interface.len() + 16;
        if length.saturating_add(added) > MAX_IDENTITIES {
            selections.push(LeaseSelection::default());
            length = 0;
        }
        length += added;
        if let Some(last) = selections.last_mut() {
            last.leases.push(lease);
        }
    }
    selections
}

fn identity(lease: &LeaseReport) -> LeaseIdentity {
    LeaseIdentity {
        mac: lease.mac.to_string(),
        namespace: lease.namespace.to_string(),
        interface: lease.interface.to_string(),
    }
}

fn ask(
    demand: Demand,
    directory: &Path,
    selection: LeaseSelection,
    count: Option<usize>,
) -> Result<Vec<LeaseOutcome>, Failure> {
    let timeout = count.map_or(UNKNOWN_TIMEOUT, |count| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        BASE_TIMEOUT.saturating_add(TIMEOUT_PER_LEASE.saturating_mul(count))
    });
    let doing = match (demand, count) {
        (Demand::Renew, None | Some(1)) => "renewing".to_owned(),
        (Demand::Renew, Some(count)) => format!("renewing {count} leases"),
        (Demand::Release, None | Some(1)) => "giving back".to_owned(),
        (Demand::Release, Some(count)) => format!("giving back {count} leases"),
    };
    match client::call(directory, &demand.call(selection), timeout, &doing)? {
        Reply::Outcomes(LeaseOutcomes { leases }) => Ok(leases),
        Reply::Lease(_) | Reply::Operation(_) => {
            Err(Failure::Failed("the answer is to another call".to_owned()))
        }
    }
}

/// An outcome in JSON.
#[derive(Debug, Serialize)]
struct OutcomeReport<'a> {
    container_id: Option<&'a str>,
    container_name: Option<&'a str>,
    interface: &'a str,
    namespace: &'a str,
    mac: &'a str,
    address_before: Option<&'a str>,
    address_after: Option<&'a str>,
    result: &'static str,
    reason: Option<&'a str>,
}

/// All outcomes in JSON.
#[derive(Debug, Serialize)]
struct OutcomesReport<'a> {
    version: u32,
    leases: Vec<OutcomeReport<'a>>,
}

/// Prints the outcomes; `known` has the containers' names.
fn show(
    outcomes: &[LeaseOutcome],
    known: &[LeaseReport],
    json: bool,
    output: &mut Vec<u8>,
) -> Result<(), Failure> {
    let nothing = LeaseIdentity::default();
    let all = outcomes.iter().map(|outcome| {
        let lease = outcome.lease.as_ref().unwrap_or(&nothing);
        (
            outcome,
            lease,
            known.iter().find(|known| identity(known) == *lease),
        )
    });
    if json {
        let leases = all.map(|(outcome, lease, known)| report(outcome, lease, known));
        let report = OutcomesReport {
            version: VERSION,
            leases: leases.collect(),
        };
        serde_json::to_writer_pretty(&mut *output, &report)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        output.push(b'\n');
        return Ok(());
    }
    let mut rows = Rows::default();
    rows.push(["CONTAINER", "INTERFACE", "ADDRESS", "RESULT"].map(str::to_owned));
    for (outcome, lease, known) in all {
        let container = known.map_or_else(|| printable(&lease.namespace), name);
        rows.push([
            container,
            printable(&lease.interface),
            addresses(outcome),
            result(outcome),
        ]);
    }
    let text = if outcomes.is_empty() {
        "there are no leases\n".to_owned()
    } else {
        rows.lines()
    };
    output.extend_from_slice(text.as_bytes());
    Ok(())
}

fn report<'a>(
    outcome: &'a LeaseOutcome,
    lease: &'a LeaseIdentity,
    known: Option<&'a LeaseReport>,
) -> OutcomeReport<'a> {
    let text = |text: &'a String| (!text.is_empty()).then_some(text.as_str());
    OutcomeReport {
        container_id: known.and_then(|known| known.container_id.as_deref()),
        container_name: known.and_then(|known| known.container_name.as_deref()),
        interface: &lease.interface,
        namespace: &lease.namespace,
        mac: &lease.mac,
        address_before: text(&outcome.address_before),
        address_after: text(&outcome.address_after),
        result: match outcome.result() {
            LeaseResult::Unknown => "unknown",
            LeaseResult::Renewed => "renewed",
            LeaseResult::Changed => "changed",
            LeaseResult::NewAddress => "new address",
            LeaseResult::Released => "released",
            LeaseResult::NoLease => "no lease",
            LeaseResult::Failed => "failed",
            LeaseResult::LeftToExpire => "left to expire",
        },
        reason: text(&outcome.reason),
    }
}

fn addresses(outcome: &LeaseOutcome) -> String {
    let (before, after) = (&*outcome.address_before, &*outcome.address_after);
    match (before, after) {
        ("", "") => "-".to_owned(),
        (address, "") | ("", address) => address.to_owned(),
        (before, after) if before == after => after.to_owned(),
        (before, after) => format!("{before} -> {after}"),
    }
}

fn result(outcome: &LeaseOutcome) -> String {
    let result = match outcome.result() {
        LeaseResult::Unknown => "unknown",
        LeaseResult::Renewed => "renewed",
        LeaseResult::Changed => "renewed, with other settings",
        LeaseResult::NewAddress => "a new address",
        LeaseResult::Released => "given back",
        LeaseResult::NoLease => "no lease",
        LeaseResult::Failed => "failed",
        LeaseResult::LeftToExpire => "taken off, and left to expire",
    };
    match &*outcome.reason {
        "" => result.to_owned(),
        reason => format!("{result}: {}", printable(reason)),
    }
}

#[cfg(test)]
mod tests;
