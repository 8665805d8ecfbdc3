//! The report of `status`: the daemon, its leases, its counters, and their health. In JSON it is of
//! the form that `status.schema.json` describes.
//!
//! Conditions make the daemon unhealthy, and counters never do: a count does not go down when the
//! trouble is over. Where leases are selected, the conditions of leases are those of the selected.
//!
//! | condition | healthy? |
//! |---|---|
//! | the state file is damaged, or an entry of it makes no sense | no |
//! | a lease is due for two minutes and more, and no daemon runs | no |
//! | a lease is due for two minutes and more, and the daemon does not work on it | no |
//! | there are leases, no daemon runs, and nothing starts it again: it has no timer, systemd has lost it, or its time is over for two minutes and more | no |
//! | a container has no lease, or a renewal of its lease is unanswered, its interface has no carrier, or the last work on it failed | no |
//! | the daemon died at a lease three times, and leaves it alone | no |
//! | the same of a container that is gone | yes: the daemon removes it when it is due |
//! | the last trouble of a lease that is over | yes |
//! | no daemon runs, and a timer starts it again | yes: it sleeps |
//! | no daemon runs, and all leases are infinite | yes: nothing is due |
//! | the sandbox is off, or the kernel has a part of it only | yes |
//!
//! | counter | healthy? | a rise means |
//! |---|---|---|
//! | acquisitions, renewals, probes, wakes, processor time | yes | work |
//! | rebinds | yes | the server that gave the lease did not answer between T1 and T2 |
//! | naks, declines, conflicts, expiries | yes | look at the server, or for a station with the same address |
//! | failures | yes | by reason: carrier, server, other stations, this host |
//! | calls | yes | statuses other than OK and CANCELLED: a container did not get its address |
//! | events | yes | `dropped` and `failed`: the program of `--on-change` did not hear of a change |

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{major, minor};
use serde::Serialize;

use crate::proxy::store::counters::Counters;
use crate::proxy::store::lease_file::{DaemonState, Peeked};
use crate::time::Instant;

use super::arguments::Failure;
use super::podman::Names;
use super::text;

mod lease;
mod namespaces;
mod select;
#[cfg(test)]
mod tests;

use lease::OVERDUE;
pub(super) use lease::{Clocks, LeaseReport, Moment, NamespaceState};
use namespaces::Namespaces;
pub(super) use select::select;

/// The version of the JSON form. It is raised when a field changes its meaning or goes; new fields
/// may come at any time.
const VERSION: u32 = 1;

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    /// The date at which it was made.
    pub(super) date: String,
    pub(super) healthy: bool,
    /// The reasons why it is not healthy.
    pub(super) reasons: Vec<String>,
    pub(super) daemon: DaemonReport,
    /// As of the last write; `None` where the file has none.
    pub(super) counters: Option<Counters>,
    /// All leases, or the selected.
    pub(super) leases: Vec<LeaseReport>,
    /// The number of all leases.
    #[serde(skip)]
    pub(super) count: usize,
}

/// The daemon.
#[derive(Debug, Serialize)]
pub(super) struct DaemonReport {
    /// The version of this program, which need not be the daemon's.
    pub(super) program_version: &'static str,
    pub(super) directory: String,
    /// The process, where one runs.
    pub(super) pid: Option<u32>,
    pub(super) awake_since: Option<Moment>,
    /// The version of the process that runs, else of the last one. This and what follows up to the
    /// sandbox is not known before a process has written the state file.
    pub(super) version: Option<String>,
    /// The systemd unit.
    pub(super) unit: Option<String>,
    /// It exits while there are leases.
    pub(super) may_sleep: Option<bool>,
    /// The reason why not.
    pub(super) stays: Option<String>,
    /// The time for which systemd's timer was set last.
    pub(super) timer: Option<Moment>,
    /// The sandbox as it is enforced.
    pub(super) sandbox: Option<SandboxReport>,
    /// The instance that has counted, and since when.
    pub(super) instance: Option<String>,
    pub(super) counting_since: Option<Moment>,
    /// The next time at which something is due.
    pub(super) next_wake: Option<Moment>,
    /// The version that wrote the state file last.
    #[serde(skip)]
    pub(super) writer: Option<String>,
}

/// The daemon's sandbox.
#[derive(Debug, Serialize)]
pub(super) struct SandboxReport {
    /// The version of Landlock.
    pub(super) landlock: Option<u32>,
    /// There is a system call filter.
    pub(super) seccomp: bool,
}

impl Report {
    /// Makes the report on what is in a state file, which is of a daemon with this process id where
    /// one runs.
    pub(super) fn new(
        peeked: &Peeked,
        (directory, pid): (&Path, Option<u32>),
        names: &Names,
        clocks: Clocks,
    ) -> Self {
        let mut namespaces = Namespaces::default();
        let report_on = |view| {
            let deaths = peeked.deaths_at(view, pid.is_some());
            LeaseReport::new(view, (namespaces.state(view), deaths), names, clocks)
        };
        let leases: Vec<_> = peeked.leases.iter().map(report_on).collect();
        let mut daemon = DaemonReport::new(peeked, (directory, pid), clocks);
        let next = leases.iter().filter_map(|lease| lease.due).min();
        daemon.next_wake = next.map(|at| clocks.moment(at));
        let reasons = reasons(peeked, pid, &leases, clocks);
        Self {
            version: VERSION,
            date: text::date(clocks.wall),
            healthy: reasons.is_empty(),
            reasons,
            daemon,
            counters: peeked.counters.clone(),
            count: leases.len(),
            leases,
        }
    }

    /// Restricts the report, made of the same, to the leases that are meant by `word`.
    ///
    /// # Errors
    ///
    /// No lease is meant, or it is not clear which.
    pub(super) fn select(
        &mut self,
        word: &str,
        peeked: &Peeked,
        clocks: Clocks,
    ) -> Result<(), Failure> {
        self.leases = select(std::mem::take(&mut self.leases), word)?;
        if self.leases.is_empty() {
            return Err(Failure::Failed(format!("no lease is of {word:?}")));
        }
        self.reasons = reasons(peeked, self.daemon.pid, &self.leases, clocks);
        self.healthy = self.reasons.is_empty();
        Ok(())
    }
}

/// Returns the reasons why a daemon, of this process id or without a process, is not healthy, as far
/// as these leases are concerned.
fn reasons(
    peeked: &Peeked,
    pid: Option<u32>,
    leases: &[LeaseReport],
    clocks: Clocks,
) -> Vec<String> {
    let mut reasons = reasons_of_file(peeked);
    if pid.is_some() {
        reasons.extend(leases.iter().filter_map(|lease| lease.overdue(clocks)));
    } else {
        reasons.extend(reason_of_absence(peeked.daemon.as_ref(), leases, clocks));
    }
    reasons.extend(leases.iter().filter_map(LeaseReport::unhealthy));
    reasons
}

/// Returns the reason why a daemon that does not run should.
fn reason_of_absence(
    state: Option<&DaemonState>,
    leases: &[LeaseReport],
    clocks: Clocks,
) -> Option<String> {
    let next = leases.iter().filter_map(|lease| lease.due).min();
    if let Some(late) = next.map(|next| clocks.boot - next)
        && late > OVERDUE
    {
        return Some(format!(
            "a lease is due since {}, and no daemon runs",
            text::length(late)
        ));
    }
    // Older versions do not tell.
    let state = state.filter(|_| !leases.is_empty())?;
    let needs_start = next.is_some() || leases.iter().any(LeaseReport::is_in_call);
    let why = match state.timer_at {
        _ if !state.stays.is_empty() => state.stays.clone(),
        None if needs_start => "no timer is set".to_owned(),
        Some(at) if needs_start && clocks.boot - at > OVERDUE => format!(
            "its timer was set for a time that is over since {}",
            text::length(clocks.boot - at)
        ),
        Some(at) if needs_start && at > clocks.boot && has_lost_timer(&state.unit) => {
            "systemd no longer has its timer".to_owned()
        }
        _ => return None,
    };
    Some(format!(
        "no daemon runs, and nothing starts it again: {why}"
    ))
}

/// Returns whether systemd's transient timer for a unit is gone, as it is after `systemctl stop`. Only
/// files tell: to ask systemd would be a call that may wait.
fn has_lost_timer(unit: &str) -> bool {
    let Some(name) = unit.strip_suffix(".service") else {
        return false;
    };
    let user = format!("/run/user/{}/systemd", rustix::process::geteuid().as_raw());
    let has_timer = |manager: &str| {
        let file = format!("{manager}/transient/{name}.timer");
        Path::new(&file).exists()
    };
    // As sd_booted(3) finds it out.
    let is_booted = Path::new("/run/systemd/system").is_dir();
    is_booted && !has_timer("/run/systemd") && !has_timer(&user)
}

/// Returns the reasons why a state file is not healthy.
fn reasons_of_file(peeked: &Peeked) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(trouble) = &peeked.trouble {
        reasons.push(format!(
            "the state file cannot be read to its end: {trouble}"
        ));
    }
    match peeked.unusable {
        0 => {}
        1 => reasons.push("an entry of the state file makes no sense".to_owned()),
        count => reasons.push(format!("{count} entries of the state file make no sense")),
    }
    reasons
}

/// Returns the start of a process, as the state file has it, else as the kernel does.
fn awake_since(pid: u32, state: Option<&DaemonState>) -> Option<Instant> {
    if let Some(state) = state.filter(|state| state.pid == pid) {
        return Some(state.awake_since);
    }
    /// USER_HZ, the same on all architectures with Linux's generic headers.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): field 22; the name in field 2 may contain blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some(Instant::from_boot(Duration::from_millis(
        ticks.saturating_mul(1000 / TICKS_PER_SECOND),
    )))
}

impl DaemonReport {
    /// Returns what the state file says of the daemon with this process id, or of the last one where
    /// none runs.
    fn new(peeked: &Peeked, (directory, pid): (&Path, Option<u32>), clocks: Clocks) -> Self {
        let written = peeked.daemon.as_ref();
        // A process that has just started writes with its first change of a lease.
        let state = written.filter(|state| pid.is_none_or(|pid| pid == state.pid));
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        let counters = peeked.counters.as_ref();
        Self {
            program_version: env!("CARGO_PKG_VERSION"),
            directory: directory.display().to_string(),
            pid,
            awake_since: pid
                .and_then(|pid| awake_since(pid, written))
                .map(|at| clocks.moment(at)),
            version: state.and_then(|state| known(&state.version)),
            unit: state.and_then(|state| known(&state.unit)),
            may_sleep: state.map(|state| state.stays.is_empty()),
            stays: state.and_then(|state| known(&state.stays)),
            timer: written
                .and_then(|state| state.timer_at)
                .map(|at| clocks.moment(at)),
            sandbox: state.map(|state| SandboxReport {
                landlock: (state.landlock > 0).then_some(state.landlock),
                seccomp: state.seccomp,
            }),
            instance: counters.map(|counters| format!("{:016x}", counters.instance)),
            counting_since: counters.map(|counters| clocks.dated(counters.since)),
            next_wake: None,
            writer: written.and_then(|state| known(&state.version)),
        }
    }
}

/// Returns the id of the process that holds the lock file at `lock`. The lock is not touched: a
/// daemon that starts at this moment would find it taken.
pub(super) fn holder(lock: &Path) -> Option<u32> {
    let stat = fs::symlink_metadata(lock).ok()?;
    let (device, inode) = (stat.dev(), stat.ino().to_string());
    let device = format!("{:02x}:{:02x}", major(device), minor(device));
    // The holder's own account, which is of its process namespace.
    let signature = fs::read_to_string(lock).unwrap_or_default();
    let signature = signature.lines().next().map(str::trim);
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 4711 00:1a:1523 0 EOF
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        let (on, file) = words.next()?.rsplit_once(':')?;
        // Some file systems show another device to stat(2).
        let is_it = on == device || signature == Some(pid);
        (kind == "FLOCK" && file == inode && is_it)
            .then(|| pid.parse().ok())
            .flatten()
    })
}
