//! The report of `status`: the daemon, its leases, and their health.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::mac::Mac;
use crate::proxy::store::lease_file::Peeked;
use crate::proxy::store::record::Record;
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
    pub(super) leases: Vec<LeaseReport>,
}

/// The daemon.
#[derive(Debug, Serialize)]
pub(super) struct DaemonReport {
    /// The version of this program, which need not be the daemon's.
    program_version: &'static str,
    pub(super) directory: String,
    /// The process, where one runs.
    pub(super) pid: Option<u32>,
    /// The next time at which something is due.
    pub(super) next_wake: Option<Moment>,
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
}

/// A network namespace, as its path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NamespaceState {
    Alive,
    Gone,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moment {
    pub(super) date: String,
    /// The time until then; negative in the past.
    pub(super) in_seconds: i64,
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
            date: text::date(self.wall.saturating_add(ahead).saturating_sub(behind)),
            in_seconds: seconds(ahead) - seconds(behind),
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
            .map(|(record, _)| LeaseReport::new(record, names, clocks))
            .collect();
        let next = peeked
            .leases
            .iter()
            .filter_map(|(record, _)| record.due())
            .min();
        let mut reasons = Vec::new();
        if let Some(trouble) = &peeked.trouble {
            reasons.push(format!(
                "the state file cannot be read to its end: {trouble}"
            ));
        }
        if peeked.unusable > 0 {
            reasons.push(format!(
                "{} entries of the state file make no sense",
                peeked.unusable
            ));
        }
        if let Some(next) = next
            && pid.is_none()
            && clocks.boot - next > OVERDUE
        {
            reasons.push(format!(
                "a lease is due since {}, and no daemon runs",
                text::length(clocks.boot - next)
            ));
        }
        reasons.extend(leases.iter().filter_map(LeaseReport::unhealthy));
        Self {
            version: VERSION,
            date: text::date(clocks.wall),
            healthy: reasons.is_empty(),
            reasons,
            daemon: DaemonReport {
                program_version: env!("CARGO_PKG_VERSION"),
                directory: directory.display().to_string(),
                pid,
                next_wake: next.map(|at| clocks.moment(at)),
            },
            leases,
        }
    }
}

impl LeaseReport {
    fn new(record: &Record, names: &HashMap<String, String>, clocks: Clocks) -> Self {
        let lease = record.lease();
        let moment = |at: Instant| clocks.moment(at);
        let namespace = &record.key().netns;
        let container_id = record.container_id();
        Self {
            container_name: container_id.and_then(|id| names.get(id)).cloned(),
            container_id: container_id.map(str::to_owned),
            interface: record.request.container_interface.clone(),
            parent: record.request.host_interface.clone(),
            namespace: namespace.display().to_string(),
            namespace_state: if record.is_gone() {
                NamespaceState::Gone
            } else {
                NamespaceState::Alive
            },
            mac: record.key().mac.to_string(),
            state: record.state_name(),
            address: record.address(),
            prefix_length: lease.map(|lease| lease.prefix_len),
            routers: lease.map(|lease| lease.routers.clone()).unwrap_or_default(),
            server: lease.map(|lease| lease.server_id),
            server_mac: lease
                .and_then(|lease| lease.server_mac)
                .as_ref()
                .map(Mac::to_string),
            acquired: lease.map(|lease| moment(lease.acquired_at)),
            renewal: record.t1().map(moment),
            rebinding: record.t2().map(moment),
            expiry: record.expires_at().map(moment),
            next_wake: record.due().map(moment),
            trouble: record.trouble(),
        }
    }

    /// Returns the reason why this lease makes the whole unhealthy.
    fn unhealthy(&self) -> Option<String> {
        let trouble = self.trouble.as_ref()?;
        // What is of a container that is gone goes by itself.
        (self.namespace_state == NamespaceState::Alive)
            .then(|| format!("{}: {trouble}", self.place()))
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
    use std::os::unix::fs::MetadataExt;
    let inode = fs::symlink_metadata(lock).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 4711 00:1a:1523 0 EOF
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?.parse().ok()?);
        let file = words.next()?.rsplit(':').next()?;
        (kind == "FLOCK" && file == inode).then_some(pid)
    })
}
