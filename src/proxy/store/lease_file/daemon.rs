//! The daemon's account of itself in the state file, for `status`.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::Value;

use crate::proxy::sandbox::Enforced;
use crate::proxy::store::counters::{Counter, Counters, WakeCause};
use crate::proxy::store::json::{fields, read_fields};
use crate::proxy::store::record::{instant, millis};
use crate::rt;
use crate::time::Instant;

/// The process that wrote the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonState {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) awake_since: Instant,
    /// The systemd unit that it runs in; empty for none that can be started again.
    pub(crate) unit: String,
    /// The reason why it does not exit while there are leases; empty where it does.
    pub(crate) stays: String,
    /// The time for which the timer was armed last.
    pub(crate) timer_at: Option<Instant>,
    /// The version of Landlock that is enforced; 0 for none.
    pub(crate) landlock: u32,
    /// A system call filter is enforced.
    pub(crate) seccomp: bool,
}

impl DaemonState {
    /// Returns the state of this process: in a unit that can be started again, if it is in one, and
    /// with the reason to stay, if there is one.
    pub(crate) fn new(unit: Option<&str>, stays: Option<&str>, enforced: Enforced) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            awake_since: rt::now(),
            unit: unit.unwrap_or_default().to_owned(),
            stays: stays.unwrap_or_default().to_owned(),
            timer_at: None,
            landlock: enforced.landlock,
            seccomp: enforced.seccomp,
        }
    }
}

/// Returns the counters of a new instance, with its start. They are used where the state file has
/// none.
pub(crate) fn new_counters(cause: WakeCause) -> Counters {
    let (now, mut bytes) = (rt::wall_clock(), [0; 8]);
    let instance = match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => u64::try_from(now.as_nanos()).unwrap_or(0),
    };
    let mut counters = Counters::new(instance, now);
    counters.count(Counter::Wake(cause));
    counters
}

/// The part of the file before the leases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) daemon: &'a DaemonState,
    pub(crate) counters: &'a Counters,
}

/// Returns the processor time of this process so far, in user and in system mode.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// The same as it is stored. Times are milliseconds on the boot clock, but for the date.
#[derive(Debug, Default, Serialize)]
pub(super) struct StoredDaemon {
    instance: String,
    counting_since: u64,
    version: String,
    pid: u32,
    awake_since: u64,
    unit: String,
    stays: String,
    timer_at: Option<u64>,
    landlock: u32,
    seccomp: bool,
}

impl From<&Head<'_>> for StoredDaemon {
    fn from(head: &Head<'_>) -> Self {
        let Head { daemon, counters } = *head;
        Self {
            instance: format!("{:016x}", counters.instance),
            counting_since: counters.since.as_secs(),
            version: daemon.version.clone(),
            pid: daemon.pid,
            awake_since: millis(daemon.awake_since).unwrap_or(0),
            unit: daemon.unit.clone(),
            stays: daemon.stays.clone(),
            timer_at: daemon.timer_at.and_then(millis),
            landlock: daemon.landlock,
            seccomp: daemon.seccomp,
        }
    }
}

impl StoredDaemon {
    /// Parses the object; `None` where a field has another type.
    fn parse(object: &Value) -> Option<Self> {
        let mut stored = Self::default();
        read_fields(
            object,
            &mut fields!(&mut stored => Self {
                instance, counting_since, version, pid, awake_since, unit, stays, timer_at, landlock, seccomp,
            }),
        )?;
        Some(stored)
    }
}

/// The objects `daemon` and `counters`, each parsed when it is read, from its text: trees of values
/// that are held while the leases are read would cost some pages for good.
#[derive(Debug, Default)]
pub(crate) struct StoredHead {
    daemon: Option<StoredDaemon>,
    counters: Option<Counters>,
}

impl StoredHead {
    pub(crate) fn read_daemon(&mut self, object: &str) {
        self.daemon = serde_json::from_str(object)
            .ok()
            .and_then(|object| StoredDaemon::parse(&object));
    }

    pub(crate) fn read_counters(&mut self, object: &str) {
        self.counters = Some(Counters::parse(object));
    }

    /// Returns the daemon, and the counters where its instance is known.
    pub(crate) fn finish(self) -> (Option<DaemonState>, Option<Counters>) {
        let Some(stored) = self.daemon else {
            return (None, None);
        };
        let is_instance =
            |text: &&String| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let instance = Some(&stored.instance)
            .filter(is_instance)
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        let since = Duration::from_secs(stored.counting_since);
        let counters = instance.map(|instance| {
            let none = || Counters::new(instance, since);
            self.counters
                .map_or_else(none, |counters| counters.of_instance(instance, since))
        });
        let daemon = DaemonState {
            version: stored.version,
            pid: stored.pid,
            awake_since: instant(stored.awake_since),
            unit: stored.unit,
            stays: stored.stays,
            timer_at: stored.timer_at.map(instant),
            landlock: stored.landlock,
            seccomp: stored.seccomp,
        };
        (Some(daemon), counters)
    }
}
