//! Events of leases for the program of `--on-change`.
//!
//! systemd starts the program, outside of the sandbox and without a shell, with the lease in its
//! environment. No lease waits for it: events are queued, at most one start is under way, a token
//! bucket limits their rate, and a fixed pool of unit names limits the programs that run. A full queue
//! drops renewals first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event as Notification;
use futures_lite::future::or;

use crate::dhcp::{Lease, LossReason};
use crate::proxy::call::request::Request;
use crate::proxy::store::counters::{Counter, EventOutcome};
use crate::proxy::store::record::Record;
use crate::rate::RateLimit;
use crate::rt;
use crate::service::{Idle, TransientProgram, Wakeup};
use crate::time::Instant;

use super::{Session, SessionContext};

/// The most events that wait: those of some hundred leases while systemd is slow.
const MAX_QUEUED: usize = 1024;
/// Starts without a pause, and the interval of later ones: those of renewals and releases, so that
/// the events of many leases do not pile up. Each costs systemd some milliseconds.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(34);
/// The most programs that run at the same time. Each has one of as many unit names.
const MAX_UNITS: u64 = 64;
/// The names that are tried for one start. A few programs that hang must not cost others theirs.
const NAME_TRIES: u64 = 3;
/// The properties of the unit: the time that the program has, after which systemd ends it, and, as
/// for the timer, that neither `systemctl isolate` stops it nor the shutdown of the system forbids
/// it. Leases are released at a shutdown, too.
const PROPERTIES: [&str; 3] = [
    "RuntimeMaxSec=300",
    "IgnoreOnIsolate=yes",
    "DefaultDependencies=no",
];
/// The time for which a process that is stopped waits until no event waits.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest value in bytes, and the most addresses or names of a list.
const MAX_VALUE: usize = 1000;
const MAX_LISTED: usize = 16;

/// A change of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseEvent<'a> {
    /// A container has a lease, where it had none.
    Bound,
    /// The lease was extended, with the same settings.
    Renewed,
    /// The lease was extended with other settings; the address before.
    Changed(Ipv4Addr),
    /// The lease ended, and the address is off the link.
    Lost(&'a LossReason),
    /// The container or its interface is gone. The lease is left to expire.
    Gone,
    /// The lease was given back.
    Released,
    /// The lease is off the link, but its server could not be told. It is left to expire.
    Unreleased,
    /// The lease was left to the same client, which asks for it anew.
    Replaced,
}

impl LeaseEvent<'_> {
    /// Returns the event's name, and the reason of a loss.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Bound => ("bound", ""),
            Self::Renewed => ("renewed", ""),
            Self::Changed(_) => ("changed", ""),
            Self::Lost(LossReason::Expired) => ("lost", "expired"),
            Self::Lost(LossReason::Refused { .. }) => ("lost", "refused"),
            Self::Lost(LossReason::Conflict { .. }) => ("lost", "conflict"),
            Self::Gone => ("lost", "gone"),
            Self::Replaced => ("lost", "replaced"),
            Self::Unreleased => ("lost", "unreleased"),
            Self::Released => ("released", ""),
        }
    }
}

/// The container of a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventSubject<'a> {
    pub(crate) request: &'a Request,
    /// Option 61 and option 12, which a session has in its client.
    pub(crate) client_id: &'a [u8],
    pub(crate) host_name: Option<&'a str>,
}

/// An event that waits for its start of the program.
#[derive(Debug, PartialEq, Eq)]
struct QueuedEvent {
    description: String,
    environment: Vec<(&'static str, String)>,
    is_renewal: bool,
}

impl QueuedEvent {
    fn new(
        event: LeaseEvent<'_>,
        subject: EventSubject<'_>,
        lease: &Lease,
        (now, since_1970, sequence): (Instant, Duration, u64),
    ) -> Self {
        let request = subject.request;
        let (name, reason) = event.words();
        let date = |at: Instant| since_1970.saturating_add(at - now).saturating_sub(now - at);
        let old_address = match event {
            LeaseEvent::Changed(old) => old.to_string(),
            _ => String::new(),
        };
        let optional = |value: Option<String>| value.unwrap_or_default();
        let environment = vec![
            ("SMOL_DHCP_PROXY_EVENT", name.to_owned()),
            ("SMOL_DHCP_PROXY_REASON", reason.to_owned()),
            ("SMOL_DHCP_PROXY_SEQUENCE", sequence.to_string()),
            (
                "SMOL_DHCP_PROXY_CONTAINER_ID",
                optional(container_id(subject.client_id)),
            ),
            (
                "SMOL_DHCP_PROXY_HOST_NAME",
                clean(subject.host_name.unwrap_or_default()),
            ),
            (
                "SMOL_DHCP_PROXY_INTERFACE",
                clean(&request.container_interface),
            ),
            ("SMOL_DHCP_PROXY_PARENT", clean(&request.host_interface)),
            (
                "SMOL_DHCP_PROXY_NAMESPACE",
                clean(&request.key.netns.to_string_lossy()),
            ),
            ("SMOL_DHCP_PROXY_MAC", request.key.mac.to_string()),
            ("SMOL_DHCP_PROXY_ADDRESS", lease.address.to_string()),
            ("SMOL_DHCP_PROXY_OLD_ADDRESS", old_address),
            (
                "SMOL_DHCP_PROXY_PREFIX_LENGTH",
                lease.prefix_len.to_string(),
            ),
            ("SMOL_DHCP_PROXY_ROUTERS", list(&lease.routers)),
            ("SMOL_DHCP_PROXY_DNS", list(&lease.dns_servers)),
            ("SMOL_DHCP_PROXY_NTP", list(&lease.ntp_servers)),
            (
                "SMOL_DHCP_PROXY_DOMAIN",
                clean(lease.domain_name.as_deref().unwrap_or_default()),
            ),
            ("SMOL_DHCP_PROXY_SEARCH", list(&lease.search)),
            (
                "SMOL_DHCP_PROXY_MTU",
                optional(lease.mtu.map(|mtu| mtu.to_string())),
            ),
            ("SMOL_DHCP_PROXY_SERVER", lease.server_id.to_string()),
            (
                "SMOL_DHCP_PROXY_SERVER_MAC",
                optional(lease.server_mac.map(|mac| mac.to_string())),
            ),
            (
                "SMOL_DHCP_PROXY_EXPIRY",
                optional(lease.expires_at().map(|at| date(at).as_secs().to_string())),
            ),
        ];
        Self {
            description: format!(
                "{name} {} of {}",
                lease.address,
                clean(&request.container_interface)
            ),
            environment,
            is_renewal: event == LeaseEvent::Renewed,
        }
    }
}

/// Returns Podman's id of the container, where the client identifier is made of it.
fn container_id(client_id: &[u8]) -> Option<String> {
    let id = client_id.strip_prefix(b"\0")?;
    let is_id = id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit);
    is_id.then(|| String::from_utf8_lossy(id).into_owned())
}

/// Returns a text without control characters, which systemd refuses, and cut to [`MAX_VALUE`].
fn clean(text: &str) -> String {
    let end = (0..=MAX_VALUE.min(text.len())).rfind(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].replace(char::is_control, "?")
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items
        .iter()
        .take(MAX_LISTED)
        .map(ToString::to_string)
        .collect();
    clean(&items.join(" "))
}

/// The next step of the task that starts the program.
#[derive(Debug, PartialEq, Eq)]
enum EventStep {
    Start(QueuedEvent),
    Wait(Duration),
    Done,
}

/// The events that wait.
#[derive(Debug)]
struct EventQueue {
    waiting: VecDeque<QueuedEvent>,
    rate: RateLimit,
}

impl EventQueue {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            rate: RateLimit::new(BURST, INTERVAL),
        }
    }

    /// Adds an event. Returns whether one had to be dropped for it: the oldest renewal, else itself.
    fn push(&mut self, event: QueuedEvent) -> bool {
        let is_full = self.waiting.len() >= MAX_QUEUED;
        if is_full {
            match self.waiting.iter().position(|waiting| waiting.is_renewal) {
                Some(place) => drop(self.waiting.remove(place)),
                None => return true,
            }
        }
        self.waiting.push_back(event);
        is_full
    }

    fn next(&mut self, now: Instant) -> EventStep {
        if self.waiting.is_empty() {
            // A queue that was long once takes no memory for ever.
            self.waiting = VecDeque::new();
            return EventStep::Done;
        }
        let pause = self.rate.available_at(1) - now;
        if !pause.is_zero() {
            return EventStep::Wait(pause);
        }
        self.rate.take(now);
        self.waiting
            .pop_front()
            .map_or(EventStep::Done, EventStep::Start)
    }
}

/// The program of `--on-change`, and the events for it.
#[derive(Debug)]
pub(crate) struct EventProgram {
    program: PathBuf,
    systemd: Wakeup,
    idle: Idle,
    queue: RefCell<EventQueue>,
    /// The number of the last event.
    sequence: Cell<u64>,
    /// The unit name of the next start.
    next_name: Cell<u64>,
    /// A task starts the program for what is in the queue.
    is_running: Cell<bool>,
    /// systemd was asked to start it, and has not answered yet.
    is_starting: Cell<bool>,
    done: Notification,
    is_drop_logged: Cell<bool>,
    is_overrun_logged: Cell<bool>,
}

impl EventProgram {
    /// Returns the reason why `program` cannot be executed. That may change at any time, so it is no
    /// reason not to serve.
    pub(crate) fn fault(program: &Path) -> Option<String> {
        match std::fs::metadata(program) {
            Ok(file) if !file.is_file() => Some("it is not a file".to_owned()),
            Ok(file) if file.mode() & 0o111 == 0 => Some("it is not executable".to_owned()),
            Ok(_) => None,
            // systemd has capabilities that the daemon lacks.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Has `systemd` start `program`, which keeps the process from leaving for as long as events
    /// wait.
    pub(crate) fn new(program: &Path, systemd: Wakeup, idle: Idle) -> Rc<Self> {
        Rc::new(Self {
            program: program.to_owned(),
            systemd,
            idle,
            queue: RefCell::new(EventQueue::new()),
            sequence: Cell::default(),
            next_name: Cell::new(since_boot(rt::now())),
            is_running: Cell::default(),
            is_starting: Cell::default(),
            done: Notification::new(),
            is_drop_logged: Cell::default(),
            is_overrun_logged: Cell::default(),
        })
    }

    async fn run(self: Rc<Self>, context: Rc<SessionContext>) {
        let _activity = self.idle.activity();
        loop {
            let step = self.queue.borrow_mut().next(rt::now());
            match step {
                EventStep::Start(event) => self.start(&event, &context).await,
                EventStep::Wait(pause) => rt::sleep(pause).await,
                EventStep::Done => break,
            }
        }
        self.is_running.set(false);
        self.done.notify(usize::MAX);
    }

    async fn start(&self, event: &QueuedEvent, context: &SessionContext) {
        let (program, what) = (self.program.display(), &event.description);
        self.is_starting.set(true);
        let started = self.try_start(event).await;
        self.is_starting.set(false);
        let outcome = match started {
            Ok(()) => EventOutcome::Started,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !self.is_overrun_logged.replace(true) {
                    log::warn!(
                        "{MAX_UNITS} runs of {program} have not ended: dropping events; the counters \
                         say how many"
                    );
                }
                EventOutcome::Dropped
            }
            Err(error) => {
                log::warn!("cannot start {program} for {what:?}: {error}");
                EventOutcome::Failed
            }
        };
        context.count(Counter::Event(outcome));
    }

    /// Has systemd start the program under a name that no other run of it has.
    async fn try_start(&self, event: &QueuedEvent) -> io::Result<()> {
        if let Some(fault) = Self::fault(&self.program) {
            return Err(io::Error::other(fault));
        }
        with_free_name(&self.next_name, async |name| {
            let start = TransientProgram {
                name: &format!("change-{name}"),
                description: &event.description,
                program: &self.program,
                environment: &event.environment,
                properties: &PROPERTIES,
            };
            self.systemd.start_program(&start).await
        })
        .await
    }
}

/// Calls `start` with the next numbers below [`MAX_UNITS`], until one is free or [`NAME_TRIES`] were
/// not.
async fn with_free_name(
    next: &Cell<u64>,
    start: impl AsyncFn(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut started = Ok(());
    for _ in 0..NAME_TRIES {
        let number = next.replace(next.get().wrapping_add(1));
        started = start(number % MAX_UNITS).await;
        let is_taken = |error: &io::Error| error.kind() == ErrorKind::AlreadyExists;
        if !started.as_ref().is_err_and(is_taken) {
            break;
        }
    }
    started
}

/// Returns the number of an event after that of `last`: nanoseconds since the boot, or more where
/// the clock has not advanced. So it grows across processes as well.
fn sequence_after(last: u64, now: Instant) -> u64 {
    since_boot(now).max(last + 1)
}

/// Returns the time since the boot in nanoseconds, which fit for 584 years.
fn since_boot(now: Instant) -> u64 {
    u64::try_from(now.since_boot().as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Session {
    /// Passes an event to the program of `--on-change`.
    pub(super) fn emit(&self, event: LeaseEvent<'_>, lease: &Lease) {
        let config = self.client.config();
        let subject = EventSubject {
            request: &self.request,
            client_id: &config.client_id,
            host_name: config.host_name.as_deref(),
        };
        self.context.emit(event, subject, lease);
    }
}

impl SessionContext {
    /// Passes to the program of `--on-change` that a container without a session is gone.
    pub(crate) fn emit_gone(self: &Rc<Self>, record: &Record) {
        let subject = EventSubject {
            request: &record.request,
            client_id: &record.request.client_id,
            host_name: record.request.host_name.as_deref(),
        };
        if let Some(lease) = record.lease() {
            self.emit(LeaseEvent::Gone, subject, lease);
        }
    }

    /// Passes an event to the program of `--on-change`, if there is one. Does not wait for it.
    pub(crate) fn emit(
        self: &Rc<Self>,
        event: LeaseEvent<'_>,
        subject: EventSubject<'_>,
        lease: &Lease,
    ) {
        let Some(events) = &self.events else {
            return;
        };
        let now = rt::now();
        let sequence = sequence_after(events.sequence.get(), now);
        events.sequence.set(sequence);
        let times = (now, rt::wall_clock(), sequence);
        let event = QueuedEvent::new(event, subject, lease, times);
        if events.queue.borrow_mut().push(event) {
            self.count(Counter::Event(EventOutcome::Dropped));
            if !events.is_drop_logged.replace(true) {
                let program = events.program.display();
                log::warn!(
                    "{MAX_QUEUED} events wait for {program}: dropping renewals, then later events; \
                     the counters say how many"
                );
            }
        }
        if !events.is_running.replace(true) {
            let task = Rc::clone(events).run(Rc::clone(self));
            self.runtime.spawn(task).detach();
        }
    }

    /// Waits until no event waits, for some seconds at most: the process is being stopped.
    pub(crate) async fn drain_events(&self) {
        let Some(events) = &self.events else {
            return;
        };
        let all = async {
            while events.is_running.get() {
                let done = events.done.listen();
                if events.is_running.get() {
                    done.await;
                }
            }
        };
        or(all, rt::sleep(DRAIN_TIMEOUT)).await;
        let waiting = events.queue.borrow_mut().waiting.split_off(0).len();
        // The last one may still be started by systemd: that remains unknown.
        let left = waiting + usize::from(events.is_starting.get());
        for _ in 0..left {
            self.count(Counter::Event(EventOutcome::Dropped));
        }
        if left > 0 {
            let program = events.program.display();
            log::warn!("{program} is not started for {left} events: the daemon is being stopped");
        }
    }
}

#[cfg(test)]
mod tests;
