//! Has systemd start this service again at a given time, so that the process need not wait for it.
//!
//! By systemd's own programs, systemctl and systemd-run: they need no bus, and are there wherever
//! systemd is.

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
/// The accuracy is the time by which it may be late, so that systemd can combine wakes; the default
/// is a minute. The timer outlives `systemctl isolate`, as the scopes of containers do: isolate
/// leaves it alone, and it requires no target that isolate stops.
const PROPERTIES: [&str; 3] = [
    "AccuracySec=100ms",
    "IgnoreOnIsolate=yes",
    "DefaultDependencies=no",
];

/// The time after which a timer that has not started is started by systemctl: systemd-run has no
/// option for a job that must not wait.
const START_RETRY: Duration = Duration::from_millis(100);

/// The time within which the other jobs of one `systemctl stop` are queued.
const LATER_JOBS: Duration = Duration::from_millis(200);

/// The exit status of systemctl for a unit that is not loaded (systemctl(1)).
const NOT_LOADED: i32 = 5;

const SERVICE: &str = ".service";

/// The timer of the unit that this process runs in: `x.timer` for `x.service`.
///
/// It is a transient timer: made by [`arm`](Self::arm), gone when it has elapsed, and never on disk.
/// No other unit is touched. `examples/wakeup.rs` is a whole service with one.
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Service, Socket, Wakeup};
///
/// let mut service = Service::on(Vec::<Socket>::new()).idle_timeout(Duration::ZERO).open()?;
/// match Wakeup::find(service.sockets()) {
///     Ok(wakeup) => {
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
    /// The socket units that start it; unset until systemd is asked where descriptors are renamed.
    sockets: OnceCell<Vec<String>>,
}

/// The reason why systemd cannot wake this process. The text continues a sentence:
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
    /// No systemd of version 248 or later has started this process.
    NoManager,
    /// systemd started another process, such as a shell, of which this one is a child.
    NotMain,
    /// The control group is not a service's.
    NoUnit,
    /// The listening socket is not one of a socket unit: systemd would not start the service for the
    /// next connection.
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
    /// The programs that it runs, found in `PATH`, for a process that confines itself.
    pub const PROGRAMS: [&str; 2] = ["systemctl", "systemd-run"];

    /// Finds the unit whose main process this is, and which `sockets` belong to.
    ///
    /// # Errors
    ///
    /// [`NoWakeup`] with the reason where there is none.
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
        // Children inherit both variables; the process id in one tells them from the main process.
        let (Some(started), Some(_)) = (variable("SYSTEMD_EXEC_PID"), variable("INVOCATION_ID"))
        else {
            return Err(NoWakeup::NoManager);
        };
        if started != *pid.to_string() {
            return Err(NoWakeup::NotMain);
        }
        let (unit, of_a_user) = unit_in(cgroups).ok_or(NoWakeup::NoUnit)?;
        // systemd names a descriptor after its socket unit, unless FileDescriptorName= says
        // otherwise. Other programs that hand sockets over, such as systemd-socket-activate, give
        // no name.
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
    /// systemd may say so at later starts as well, which other units caused, until it reads its
    /// units anew. So this is a reason not to wait for connections, but none to refuse those that
    /// are there.
    ///
    /// ```
    /// assert!(!smol_dhcp_proxy::service::Wakeup::woken_by_timer());
    /// ```
    pub fn woken_by_timer() -> bool {
        env::var_os("TRIGGER_UNIT").is_some_and(|unit| unit.as_encoded_bytes().ends_with(b".timer"))
            && env::var_os("SYSTEMD_EXEC_PID")
                .is_some_and(|pid| pid == *std::process::id().to_string())
    }

    /// Returns the unit's name, such as `echo.service`.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Returns the timer's name, such as `echo.timer`, under which `systemctl list-timers` shows the
    /// next wake.
    pub fn timer(&self) -> String {
        format!("{}.timer", self.stem())
    }

    fn stem(&self) -> &str {
        self.unit.trim_end_matches(SERVICE)
    }

    /// Returns the units to stop for the service to stay away: the timer, the sockets that are known
    /// to start it, and the service.
    pub fn units_to_stop(&self) -> Vec<String> {
        let sockets = self.sockets.get().cloned().unwrap_or_default();
        [vec![self.timer()], sockets, vec![self.unit.clone()]].concat()
    }

    /// Has the unit started `delay` from now, and again after `fallback`, a longer delay, in case
    /// the first start fails. Replaces what was armed before.
    ///
    /// Each start is late by up to a tenth of a second, or a second more when the machine was
    /// suspended or systemd read its units anew (`daemon-reload`) in between; a suspended machine is
    /// not woken. A start may be early, when the wall clock was set forward, and may come twice
    /// within a second: the service has to arm or [`disarm`](Self::disarm) the timer each time
    /// before it leaves. A timer that elapses while the service runs starts nothing: a service that
    /// arms it for a near time has to look again at what is due before it leaves; if it stays after
    /// all, it has to arm it later.
    ///
    /// # Errors
    ///
    /// No socket unit starts this unit, or systemd refuses, with its message. Nothing is armed
    /// then.
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
            // The first stands still during suspend, and begins anew at a daemon-reload; the second
            // moves with the wall clock. Each makes up for the other, and an early start does no
            // harm.
            command.arg(format!(
                "--on-active={}ms",
                up(delay, Duration::from_millis(1))
            ));
            command.arg(format!(
                "--on-calendar=@{}",
                up(now.saturating_add(delay), Duration::from_secs(1))
            ));
        }
        let retry = async {
            loop {
                rt::sleep(START_RETRY).await;
                // Fails where it comes too early or is not needed.
                let _ = self.now("start").await;
            }
        };
        or(output(command), retry).await?.expect_success().map(drop)
    }

    /// Cancels what was armed, if anything was.
    ///
    /// # Errors
    ///
    /// systemd refuses, with its message.
    pub async fn disarm(&self) -> io::Result<()> {
        let answer = self.now("stop").await?;
        if answer.status.code() == Some(NOT_LOADED) {
            Ok(())
        } else {
            answer.expect_success().map(drop)
        }
    }

    /// Returns whether more is being stopped than this service: the system, the user's manager, or
    /// the sockets that start it. Returns false where systemd does not answer.
    ///
    /// After SIGTERM it decides whether to [`arm`](Self::arm) the timer for the next start.
    pub async fn is_being_stopped(&self) -> bool {
        if self.are_stop_jobs_queued().await {
            return true;
        }
        // One `systemctl stop` with several units queues one job after the other, and this
        // service's may have been first.
        rt::sleep(LATER_JOBS).await;
        self.are_stop_jobs_queued().await
    }

    async fn are_stop_jobs_queued(&self) -> bool {
        let asked = async {
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
        asked.await.unwrap_or_else(|error: io::Error| {
            log::debug!("cannot ask systemd for its jobs: {error}");
            false
        })
    }

    /// Returns whether systemd starts this service again as soon as it has ended: its job is a
    /// restart.
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

    /// Starts or stops the timer without the jobs that this would wait for.
    ///
    /// A timer is started before its service and stopped after it. While the service is being
    /// stopped, either would wait for this process to end.
    async fn now(&self, verb: &str) -> io::Result<ProgramOutput> {
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

    /// Prepares one of systemd's programs, with no more of the environment than it needs.
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

/// Returns `time` in `unit`s, rounded up.
fn up(time: Duration, unit: Duration) -> u128 {
    time.as_nanos().div_ceil(unit.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;
    const OURS: (&str, &str) = ("SYSTEMD_EXEC_PID", "4711");
    const INVOCATION: (&str, &str) = ("INVOCATION_ID", "0123456789abcdef0123456789abcdef");

    /// Parses for process 4711: the unit, whether it is a user's, and the socket units as far as
    /// known.
    fn found(
        variables: &[(&str, &str)],
        cgroups: &str,
        names: &[&str],
    ) -> Result<(String, bool, Option<Vec<String>>), NoWakeup> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        };
        Wakeup::parse(PID, variable, cgroups, names)
            .map(|found| (found.unit, found.user, found.sockets.into_inner()))
    }

    #[test]
    fn the_main_process_of_a_unit_with_a_socket_can_be_woken() {
        let cgroups = "0::/system.slice/echo.service\n";
        let named = found(
            &[OURS, INVOCATION],
            cgroups,
            &["echo.socket", "more.socket"],
        )
        .unwrap();
        assert_eq!(
            named,
            (
                "echo.service".into(),
                false,
                Some(vec!["echo.socket".into(), "more.socket".into()])
            )
        );
        let renamed = found(&[OURS, INVOCATION], cgroups, &["echo.socket", "control"]).unwrap();
        assert_eq!(
            renamed,
            ("echo.service".into(), false, None),
            "systemd has to be asked"
        );
        let of_a_user = found(
            &[OURS, INVOCATION, ("MANAGERPID", "700")],
            cgroups,
            &["echo.socket"],
        )
        .unwrap();
        assert!(of_a_user.1);
    }

    #[test]
    fn without_a_wakeup_the_reason_is_told() {
        let (cgroups, names) = (
            "0::/system.slice/echo.service\n",
            ["echo.socket"].as_slice(),
        );
        let why = |variables: &[_], cgroups, names| found(variables, cgroups, names).unwrap_err();
        assert_eq!(why(&[], cgroups, names), NoWakeup::NoManager);
        assert_eq!(why(&[INVOCATION], cgroups, names), NoWakeup::NoManager);
        assert_eq!(why(&[OURS], cgroups, names), NoWakeup::NoManager);
        for other in ["4712", "04711", "", "me"] {
            assert_eq!(
                why(&[("SYSTEMD_EXEC_PID", other), INVOCATION], cgroups, names),
                NoWakeup::NotMain
            );
        }
        assert_eq!(
            why(
                &[OURS, INVOCATION],
                "0::/user.slice/session-1.scope\n",
                names
            ),
            NoWakeup::NoUnit
        );
        assert_eq!(why(&[OURS, INVOCATION], "", names), NoWakeup::NoUnit);
        assert_eq!(why(&[OURS, INVOCATION], cgroups, &[]), NoWakeup::NoSocket);
        assert_eq!(
            why(&[OURS, INVOCATION], cgroups, &[NAMELESS]),
            NoWakeup::NoSocket
        );
    }

    #[test]
    fn times_are_rounded_up() {
        let second = Duration::from_secs(1);
        assert_eq!(
            [Duration::ZERO, Duration::from_nanos(1), second].map(|time| up(time, second)),
            [0, 1, 1]
        );
        assert_eq!(up(Duration::from_micros(1500), Duration::from_millis(1)), 2);
        assert_eq!(up(Duration::MAX, second), u128::from(u64::MAX) + 1);
    }
}
