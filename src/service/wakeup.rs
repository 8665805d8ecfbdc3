//! A transient timer of systemd that starts this service again, so that no process has to wait.
//!
//! It is armed by systemd's own programs, systemctl and systemd-run: they need no D-Bus connection
//! of the service, and every host with systemd has them.

mod cgroup;
mod jobs;
mod program;
mod transient;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use self::cgroup::unit_in;
use self::jobs::{all_stop, job};
use self::program::{ProgramOutput, output};
pub use self::transient::TransientProgram;
use super::Socket;
use super::activation::NAMELESS;
use crate::rt;
use futures_lite::future::{or, zip};

/// The properties of the timer.
///
/// The accuracy is the longest delay by which systemd may combine wakes; its default is a minute.
/// `systemctl isolate` does not stop the timer, as it does not stop the scopes of containers, and
/// the timer requires no target that isolate stops.
const PROPERTIES: [&str; 3] = [
    "AccuracySec=100ms",
    "IgnoreOnIsolate=yes",
    "DefaultDependencies=no",
];

/// The interval at which systemctl starts a timer that systemd-run has not started yet: systemd-run
/// has no option for a job that must not wait.
const START_RETRY: Duration = Duration::from_millis(100);

/// The time in which the other jobs of the same `systemctl stop` are queued.
const STOP_JOBS_DELAY: Duration = Duration::from_millis(200);

/// The exit status of systemctl for a unit that is not loaded (systemctl(1)).
const NOT_LOADED: i32 = 5;

const SERVICE: &str = ".service";

/// The transient timer of the unit that this process runs in: `x.timer` for `x.service`.
///
/// [`arm`](Self::arm) creates it, it disappears when it has elapsed, and it is never on disk. No
/// other unit is changed. `examples/wakeup.rs` is a complete service with a timer.
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Service, Socket, Wakeup};
///
/// let mut service = Service::on(Vec::<Socket>::new()).idle_timeout(Duration::ZERO).open()?;
/// match Wakeup::find(service.sockets()) {
///     Ok(wakeup) => {
///         println!("{} is started by {}", wakeup.unit(), wakeup.timer());
///         service = service.before_exit(move || {
///             let wakeup = wakeup.clone();
///             async move {
///                 if let Err(error) = wakeup.arm(Duration::from_secs(3600), None).await {
///                     eprintln!("no wake in an hour: {error}");
///                 }
///             }
///         });
///     }
///     Err(reason) => eprintln!("systemd cannot wake this process: {reason}"),
/// }
/// service.run(|_| async {})?;
/// # Ok::<(), smol_dhcp_proxy::service::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Wakeup {
    unit: String,
    /// The unit belongs to a user's manager, not to the system's.
    user: bool,
    /// The socket units that start the service. Unset until systemd is asked, if a descriptor has
    /// another name than its unit.
    sockets: OnceCell<Vec<String>>,
}

/// The reason for which systemd cannot wake this process. The text continues a sentence:
///
/// ```
/// use smol_dhcp_proxy::service::NoWakeup;
///
/// let text = format!("the process cannot be woken: {}", NoWakeup::NoManager);
/// assert_eq!(text, "the process cannot be woken: systemd did not start it");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoWakeup {
    /// The process was not started by systemd 248 or later.
    NoManager,
    /// The process is a child of a process that systemd started, such as a shell.
    NotMain,
    /// The control group does not belong to a service.
    NoUnit,
    /// The listening socket does not belong to a socket unit, so systemd would not start the
    /// service for the next connection.
    NoSocket,
}

impl fmt::Display for NoWakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoManager => "systemd did not start it",
            Self::NotMain => "systemd did not start it, but one of its ancestors",
            Self::NoUnit => "it does not run in a systemd service",
            Self::NoSocket => "its socket is not from a systemd socket unit",
        })
    }
}

impl std::error::Error for NoWakeup {}

impl Wakeup {
    /// The programs in `PATH` that the methods run. A process that confines itself has to allow
    /// them.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::Wakeup;
    ///
    /// assert_eq!(Wakeup::PROGRAMS, ["systemctl", "systemd-run"]);
    /// ```
    pub const PROGRAMS: [&str; 2] = ["systemctl", "systemd-run"];

    /// Finds the unit of this process, which must be the unit's main process, and the socket units
    /// of `sockets`.
    ///
    /// # Errors
    ///
    /// [`NoWakeup`] with the reason.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::Wakeup;
    ///
    /// assert!(Wakeup::find(&[]).is_err());
    /// ```
    pub fn find(sockets: &[Socket]) -> Result<Self, NoWakeup> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let names = sockets
            .iter()
            .filter(|socket| socket.is_activated())
            .map(Socket::name);
        Self::parse(
            std::process::id(),
            |name| env::var_os(name),
            &cgroups,
            &names.collect::<Vec<_>>(),
        )
    }

    fn parse(
        pid: u32,
        variable: impl Fn(&str) -> Option<OsString>,
        cgroups: &str,
        names: &[&str],
    ) -> Result<Self, NoWakeup> {
        // A child inherits both variables. The process id tells it from the main process.
        let (Some(started), Some(_)) = (variable("SYSTEMD_EXEC_PID"), variable("INVOCATION_ID"))
        else {
            return Err(NoWakeup::NoManager);
        };
        if started != *pid.to_string() {
            return Err(NoWakeup::NotMain);
        }
        let (unit, of_a_user) = unit_in(cgroups).ok_or(NoWakeup::NoUnit)?;
        // systemd names a descriptor after its socket unit, unless FileDescriptorName= sets another
        // name. Other programs that hand over sockets, such as systemd-socket-activate, give no
        // name.
        let named: Vec<_> = names
            .iter()
            .filter(|name| name.ends_with(".socket"))
            .map(ToString::to_string)
            .collect();
        if names.iter().all(|&name| name == NAMELESS) {
            return Err(NoWakeup::NoSocket);
        }
        let sockets = if named.len() == names.len() {
            OnceCell::from(named)
        } else {
            OnceCell::new()
        };
        Ok(Self {
            unit,
            user: of_a_user || variable("MANAGERPID").is_some(),
            sockets,
        })
    }

    /// Returns whether a timer started this process; always false before systemd 252.
    ///
    /// Until systemd reloads its units, this may still be true at later starts, which other units
    /// caused. So it is a reason not to wait for connections, but not a reason to refuse those in
    /// the backlog.
    ///
    /// ```
    /// assert!(!smol_dhcp_proxy::service::Wakeup::woken_by_timer());
    /// ```
    pub fn woken_by_timer() -> bool {
        env::var_os("TRIGGER_UNIT").is_some_and(|unit| unit.as_encoded_bytes().ends_with(b".timer"))
            && env::var_os("SYSTEMD_EXEC_PID")
                .is_some_and(|pid| pid == *std::process::id().to_string())
    }

    /// Returns the name of the unit, such as `echo.service`.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Wakeup;
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     assert!(wakeup.unit().ends_with(".service"));
    /// }
    /// ```
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Returns the name of the timer, such as `echo.timer`. `systemctl list-timers` shows the time
    /// of the next wake.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Wakeup;
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     assert!(wakeup.timer().ends_with(".timer"));
    /// }
    /// ```
    pub fn timer(&self) -> String {
        format!("{}.timer", self.stem())
    }

    fn stem(&self) -> &str {
        self.unit.trim_end_matches(SERVICE)
    }

    /// Returns the units that an administrator has to stop to end the service for good: the timer,
    /// the known socket units, and the service.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Wakeup;
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     println!("to stop it: systemctl stop {}", wakeup.units_to_stop().join(" "));
    /// }
    /// ```
    pub fn units_to_stop(&self) -> Vec<String> {
        let sockets = self.sockets.get().cloned().unwrap_or_default();
        [vec![self.timer()], sockets, vec![self.unit.clone()]].concat()
    }

    /// Arms the timer: systemd starts the unit `delay` from now, and again after `fallback`, a
    /// longer delay, in case the first start fails. This replaces the previous times.
    ///
    /// Each start is late by up to a tenth of a second, or by one more second if the machine was
    /// suspended or systemd reloaded its units (`daemon-reload`) in between. A suspended machine is
    /// not woken. A start is early if the wall clock was set forward, and may come twice within a
    /// second. So the service has to arm or [`disarm`](Self::disarm) the timer before each exit.
    ///
    /// A timer that elapses while the service runs starts nothing. A service that arms it for a
    /// near time has to check once more for due work before it exits. If it does not exit, it has
    /// to arm the timer again later.
    ///
    /// # Errors
    ///
    /// No socket unit starts this unit, or systemd refuses, with its message. The timer is not
    /// armed then.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{rt, service::Wakeup};
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     let (delay, fallback) = (Duration::from_secs(60), Duration::from_secs(300));
    ///     let armed = rt::block_on(async move |_| wakeup.arm(delay, Some(fallback)).await);
    ///     assert!(armed.is_ok());
    /// }
    /// ```
    pub async fn arm(&self, delay: Duration, fallback: Option<Duration>) -> io::Result<()> {
        self.sockets().await?;
        self.disarm().await?;
        let now = rt::wall_clock();
        let mut command = self.program("systemd-run");
        command.args(["--quiet", "--no-ask-password", "--unit", &self.unit]);
        command.args(
            PROPERTIES
                .iter()
                .flat_map(|property| ["--timer-property", property]),
        );
        for delay in [Some(delay), fallback].into_iter().flatten() {
            // --on-active stands still during a suspend and starts again at a daemon-reload;
            // --on-calendar follows the wall clock. Each covers the fault of the other, and an
            // early start is harmless.
            command.arg(format!(
                "--on-active={}ms",
                rounded_up(delay, Duration::from_millis(1))
            ));
            command.arg(format!(
                "--on-calendar=@{}",
                rounded_up(now.saturating_add(delay), Duration::from_secs(1))
            ));
        }
        let retry = async {
            loop {
                rt::sleep(START_RETRY).await;
                // Fails if it is too early or not needed.
                let _ = self.run_timer_job("start").await;
            }
        };
        or(output(command), retry).await?.expect_success().map(drop)
    }

    /// Cancels the timer, if it is armed.
    ///
    /// # Errors
    ///
    /// systemd refuses, with its message.
    ///
    /// ```
    /// # use smol_dhcp_proxy::{rt, service::Wakeup};
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     assert!(rt::block_on(async move |_| wakeup.disarm().await).is_ok());
    /// }
    /// ```
    pub async fn disarm(&self) -> io::Result<()> {
        let answer = self.run_timer_job("stop").await?;
        if answer.status.code() == Some(NOT_LOADED) {
            Ok(())
        } else {
            answer.expect_success().map(drop)
        }
    }

    /// Returns whether more than this service is being stopped: the system, the user's manager, or
    /// the socket units. Returns false if systemd does not answer.
    ///
    /// After SIGTERM this decides whether to [`arm`](Self::arm) the timer for the next start.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{rt, service::Wakeup};
    /// async fn after_sigterm(wakeup: &Wakeup) -> std::io::Result<()> {
    ///     if !wakeup.is_being_stopped().await {
    ///         wakeup.arm(Duration::from_secs(3600), None).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # if let Ok(wakeup) = Wakeup::find(&[]) {
    /// #     assert!(rt::block_on(async move |_| after_sigterm(&wakeup).await).is_ok());
    /// # }
    /// ```
    pub async fn is_being_stopped(&self) -> bool {
        if self.are_stop_jobs_queued().await {
            return true;
        }
        // One `systemctl stop` of several units queues their jobs one after the other, and the job
        // of this service may be the first.
        rt::sleep(STOP_JOBS_DELAY).await;
        self.are_stop_jobs_queued().await
    }

    async fn are_stop_jobs_queued(&self) -> bool {
        let query = async {
            let sockets = self.sockets().await?;
            let mut jobs = self.program("systemctl");
            jobs.args(["list-jobs", "--no-legend", "--plain"]);
            let mut states = self.program("systemctl");
            states
                .args(["show", "--property=Id,ActiveState"])
                .args(sockets);
            let (jobs, states) = zip(output(jobs), output(states)).await;
            Ok(all_stop(
                sockets,
                &jobs?.expect_success()?,
                &states?.expect_success()?,
            ))
        };
        query.await.unwrap_or_else(|error: io::Error| {
            log::debug!("cannot ask systemd for its jobs: {error}");
            false
        })
    }

    /// Returns whether systemd restarts this service, so that it starts again as soon as it has
    /// ended. Returns false if systemd does not answer.
    ///
    /// ```
    /// # use smol_dhcp_proxy::{rt, service::Wakeup};
    /// if let Ok(wakeup) = Wakeup::find(&[]) {
    ///     let restarts = rt::block_on(async move |_| wakeup.is_being_restarted().await);
    ///     println!("the next start follows at once: {restarts}");
    /// }
    /// ```
    pub async fn is_being_restarted(&self) -> bool {
        let mut jobs = self.program("systemctl");
        jobs.args(["list-jobs", "--no-legend", "--plain"]);
        match output(jobs).await.and_then(ProgramOutput::expect_success) {
            Ok(jobs) => job(&jobs, &self.unit) == Some("restart"),
            Err(error) => {
                log::debug!("cannot ask systemd for its jobs: {error}");
                false
            }
        }
    }

    /// Starts or stops the timer without waiting for other jobs.
    ///
    /// systemd orders a timer before its service. While the service is being stopped, a job of the
    /// timer would wait for the end of this process.
    async fn run_timer_job(&self, verb: &str) -> io::Result<ProgramOutput> {
        let mut command = self.program("systemctl");
        command.args([
            "--no-ask-password",
            "--job-mode=ignore-dependencies",
            verb,
            &self.timer(),
        ]);
        output(command).await
    }

    /// Returns the socket units that start this unit.
    async fn sockets(&self) -> io::Result<&[String]> {
        if let Some(sockets) = self.sockets.get() {
            return Ok(sockets);
        }
        let mut command = self.program("systemctl");
        command.args(["show", "--property=TriggeredBy", "--value", &self.unit]);
        let triggers = output(command).await?.expect_success()?;
        let sockets: Vec<_> = triggers
            .split_whitespace()
            .filter(|unit| unit.ends_with(".socket"))
            .map(str::to_owned)
            .collect();
        if sockets.is_empty() {
            return Err(io::Error::other(format!(
                "no socket unit starts {}",
                self.unit
            )));
        }
        Ok(self.sockets.get_or_init(|| sockets))
    }

    /// Prepares one of systemd's programs, with the part of the environment that it needs.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env_clear().env("LANG", "C").env(
            "PATH",
            env::var_os("PATH").unwrap_or("/usr/bin:/bin".into()),
        );
        if self.user {
            for variable in ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] {
                command.envs(env::var_os(variable).map(|value| (variable, value)));
            }
            command.arg("--user");
        }
        command
    }
}

/// Returns `time` in units of `unit`, rounded up.
fn rounded_up(time: Duration, unit: Duration) -> u128 {
    time.as_nanos().div_ceil(unit.as_nanos())
}

#[cfg(test)]
mod tests;
