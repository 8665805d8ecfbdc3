//! The report of `status`: the daemon, its leases, its counters, and their health. In JSON it is of
//! the form that `status.schema.json` describes.
//!
//! Conditions make the daemon unhealthy, and counters never do: a count does not go down when the
//! trouble is over.
//!
//! | condition | healthy? |
//! |---|---|
//! | the state file is damaged, or an entry of it makes no sense | no |
//! | a lease is due for two minutes and more, and no daemon runs | no |
//! | a lease is due for two minutes and more, and the daemon does not work on it | no |
//! | there are leases, no daemon runs, and nothing starts it again | no |
//! | a container has no lease, or a renewal of its lease is unanswered, its interface has no carrier, or the last work on it failed | no |
//! | the same of a container that is gone | yes: it goes by itself |
//! | the last trouble of a lease that is over | yes |
//! | no daemon runs, and a timer starts it again | yes: it sleeps |
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

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{major, minor};
use serde::{Serialize, Serializer};

use crate::mac::Mac;
use crate::proxy::store::counters::Counters;
use crate::proxy::store::lease_file::{DaemonState, Peeked};
use crate::proxy::store::record::{ENDING, INTENT, LeaseView};
use crate::rt;
use crate::time::Instant;

use super::text;

/// The version of the JSON form. It is raised when a field changes its meaning or goes; new fields
/// may come at any time.
const VERSION: u32 = 1;

/// The time after which a lease that is due and is not worked on is overdue.
const OVERDUE: Duration = Duration::from_secs(120);

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
    pub(super) leases: Vec<LeaseReport>,
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
    /// The version that wrote the state file last.
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
}

/// The daemon's sandbox.
#[derive(Debug, Serialize)]
pub(super) struct SandboxReport {
    /// The version of Landlock.
    pub(super) landlock: Option<u32>,
    /// There is a system call filter.
    pub(super) seccomp: bool,
}

/// One lease.
#[derive(Debug, Serialize)]
pub(super) struct LeaseReport {
    pub(super) container_id: Option<String>,
    pub(super) container_name: Option<String>,
    pub(super) interface: String,
    /// The interface of the host's that the container's is made on.
    pub(super) parent: String,
    pub(super) namespace: String,
    pub(super) namespace_state: NamespaceState,
    pub(super) mac: String,
    pub(super) state: &'static str,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) prefix_length: Option<u8>,
    pub(super) routers: Vec<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    /// The station that the server's last answer came from.
    pub(super) server_mac: Option<String>,
    pub(super) acquired: Option<Moment>,
    /// T1.
    pub(super) renewal: Option<Moment>,
    /// T2.
    pub(super) rebinding: Option<Moment>,
    pub(super) expiry: Option<Moment>,
    /// The next time at which the daemon does something for it.
    pub(super) next_wake: Option<Moment>,
    /// The fault of this lease, in words.
    pub(super) trouble: Option<String>,
    pub(super) last_trouble: Option<TroubleReport>,
}

/// The last failure of work on a lease.
#[derive(Debug, Serialize)]
pub(super) struct TroubleReport {
    pub(super) at: Moment,
    pub(super) text: String,
}

/// A network namespace, as its path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NamespaceState {
    Alive,
    Gone,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moment {
    #[serde(serialize_with = "as_date")]
    pub(super) date: Duration,
    /// The time until then; negative in the past.
    pub(super) in_seconds: i64,
}

fn as_date<S: Serializer>(since_1970: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::date(*since_1970))
}

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) boot: Instant,
    pub(super) wall: Duration,
}

impl Clocks {
    pub(super) fn read() -> Self {
        Self {
            boot: rt::now(),
            wall: rt::wall_clock(),
        }
    }

    fn moment(self, at: Instant) -> Moment {
        let (ahead, behind) = (at - self.boot, self.boot - at);
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Moment {
            date: self.wall.saturating_add(ahead).saturating_sub(behind),
            in_seconds: seconds(ahead) - seconds(behind),
        }
    }

    /// Returns the moment of a date.
    fn dated(self, since_1970: Duration) -> Moment {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Moment {
            date: since_1970,
            in_seconds: seconds(since_1970).saturating_sub(seconds(self.wall)),
        }
    }
}

impl Report {
    /// Makes the report on what is in a state file, which is of a daemon with this process id where
    /// one runs.
    pub(super) fn new(
        peeked: &Peeked,
        (directory, pid): (&Path, Option<u32>),
        names: &HashMap<String, String>,
        clocks: Clocks,
    ) -> Self {
        let leases: Vec<_> = peeked
            .leases
            .iter()
            .map(|view| LeaseReport::new(view, names, clocks))
            .collect();
        let next = peeked.leases.iter().filter_map(|view| view.due).min();
        let mut daemon = DaemonReport::new(peeked, directory, clocks);
        daemon.pid = pid;
        daemon.awake_since = pid
            .and_then(|pid| awake_since(pid, peeked.daemon.as_ref()))
            .map(|at| clocks.moment(at));
        daemon.next_wake = next.map(|at| clocks.moment(at));
        let mut reasons = reasons_of_file(peeked);
        match (next, pid) {
            (Some(next), None) if clocks.boot - next > OVERDUE => reasons.push(format!(
                "a lease is due since {}, and no daemon runs",
                text::length(clocks.boot - next)
            )),
            (Some(_), None) => {
                if let Some(why) = &daemon.stays {
                    reasons.push(format!(
                        "no daemon runs, and nothing starts it for the next renewal: {why}"
                    ));
                }
            }
            (_, Some(_)) => {
                let all = leases.iter().zip(&peeked.leases);
                reasons.extend(all.filter_map(|(lease, view)| lease.overdue(view, clocks)));
            }
            (None, None) => {}
        }
        reasons.extend(leases.iter().filter_map(LeaseReport::unhealthy));
        Self {
            version: VERSION,
            date: text::date(clocks.wall),
            healthy: reasons.is_empty(),
            reasons,
            daemon,
            counters: peeked.counters.clone(),
            leases,
        }
    }
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
    /// Returns what the state file says of the daemon.
    fn new(peeked: &Peeked, directory: &Path, clocks: Clocks) -> Self {
        let state = peeked.daemon.as_ref();
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            program_version: env!("CARGO_PKG_VERSION"),
            directory: directory.display().to_string(),
            pid: None,
            awake_since: None,
            version: state.and_then(|state| known(&state.version)),
            unit: state.and_then(|state| known(&state.unit)),
            may_sleep: state.map(|state| state.stays.is_empty()),
            stays: state.and_then(|state| known(&state.stays)),
            timer: state
                .and_then(|state| state.timer_at)
                .map(|at| clocks.moment(at)),
            sandbox: state.map(|state| SandboxReport {
                landlock: (state.landlock > 0).then_some(state.landlock),
                seccomp: state.seccomp,
            }),
            instance: peeked
                .counters
                .as_ref()
                .map(|counters| format!("{:016x}", counters.instance)),
            counting_since: peeked
                .counters
                .as_ref()
                .map(|counters| clocks.dated(counters.since)),
            next_wake: None,
        }
    }
}

impl LeaseReport {
    fn new(view: &LeaseView<'_>, names: &HashMap<String, String>, clocks: Clocks) -> Self {
        let moment = |at: Instant| clocks.moment(at);
        let container_id = view.container_id();
        let container_name = container_id.as_ref().and_then(|id| names.get(id)).cloned();
        Self {
            container_name,
            container_id,
            interface: view.interface.to_string(),
            parent: view.parent.to_string(),
            namespace: view.namespace.to_string(),
            namespace_state: if view.is_gone() {
                NamespaceState::Gone
            } else {
                NamespaceState::Alive
            },
            mac: view.mac.to_string(),
            state: view.state,
            address: view.address,
            prefix_length: view.prefix_length,
            routers: view.routers(),
            server: view.server,
            server_mac: view.server_mac.as_ref().map(ToString::to_string),
            acquired: view.acquired_at.map(moment),
            renewal: view.t1.map(moment),
            rebinding: view.t2.map(moment),
            expiry: view.expires_at.map(moment),
            next_wake: view.due.map(moment),
            trouble: view.trouble(),
            last_trouble: view.last_trouble.as_ref().map(|trouble| TroubleReport {
                at: moment(trouble.at),
                text: trouble.text.clone(),
            }),
        }
    }

    /// Returns the reason why this lease makes the whole unhealthy.
    fn unhealthy(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        // What is of a container that is gone goes by itself.
        (self.namespace_state == NamespaceState::Alive)
            .then(|| format!("{}: {trouble}", self.place()))
    }

    /// Returns the reason why a daemon that runs should have worked on this lease by now. A call
    /// that is under way takes its time.
    fn overdue(&self, view: &LeaseView<'_>, clocks: Clocks) -> Option<String> {
        let late = clocks.boot - view.due?;
        let is_overdue = late > OVERDUE
            && self.namespace_state == NamespaceState::Alive
            && !matches!(self.state, INTENT | ENDING);
        is_overdue.then(|| {
            format!(
                "{}: due since {}, and the daemon does not work on it",
                self.place(),
                text::length(late)
            )
        })
    }

    /// Returns the container's interface and its container or namespace.
    pub(super) fn place(&self) -> String {
        let container = self.container_name.as_ref().unwrap_or(&self.namespace);
        format!("{} of {container}", self.interface)
    }

    /// Returns whether an operator means this lease by that word: a container's name, its id or the
    /// beginning of it, a MAC address, an IPv4 address, or a namespace.
    pub(super) fn is_meant_by(&self, word: &str) -> bool {
        let is_id = |id: &String| word.len() >= 4 && id.starts_with(word);
        let mac = Mac::parse(word).ok().map(|mac| mac.to_string());
        self.container_name.as_deref() == Some(word)
            || self.container_id.as_ref().is_some_and(is_id)
            || mac.is_some_and(|mac| mac == self.mac)
            || self.address.map(|address| address.to_string()).as_deref() == Some(word)
            || self.namespace == word
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
