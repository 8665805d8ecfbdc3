//! Has systemd start this service again at a given time, so that it need not wait for that time
//! itself.
//!
//! What is used are systemd's own programs, systemctl and systemd-run: they need no bus, and they
//! are there wherever systemd is.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;
use std::{env, fs};

use futures_lite::future::{or, zip};
use signal_hook::consts::SIGTERM;

use super::Socket;
use super::activation::NAMELESS;
use crate::rt;

/// How long one of systemd's programs may take; some milliseconds are usual, and a busy boot is
/// not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The properties of the timer.
///
/// It may elapse so much later than asked for, for systemd to wake for several at once; its own
/// choice would be a minute. It outlives `systemctl isolate`, as the scopes of containers do:
/// isolate leaves it alone, and it requires no target that isolate stops.
const PROPERTIES: [&str; 3] = [
    "AccuracySec=100ms",
    "IgnoreOnIsolate=yes",
    "DefaultDependencies=no",
];

/// When a timer that has not started by then is made to, with systemctl: systemd-run knows no way
/// to say that a job must not wait.
const HURRY: Duration = Duration::from_millis(100);

/// The time within which the other jobs of one `systemctl stop` are queued.
const LATER_JOBS: Duration = Duration::from_millis(200);

/// How often a program is started that SIGTERM ends. systemd sends it to our process first and then
/// to all others of the service (systemd.kill(5)), which by then may include the first program that
/// we start because of it.
const TRIES: usize = 3;

/// What systemctl exits with where a unit is not there (systemctl(1)).
const NOT_LOADED: i32 = 5;

/// The timer of the unit that this process runs in: `x.timer` for `x.service`.
///
/// It is a transient one: made by [`arm`](Self::arm), gone when it has elapsed, and never on disk.
/// No other unit is touched.
#[derive(Clone, Debug)]
pub struct Wakeup {
    unit: String,
    /// It is a unit of a user's manager, not of the system's.
    user: bool,
    /// The socket units that start it; empty until systemd is asked where their names were changed.
    sockets: OnceCell<Vec<String>>,
}

/// Why systemd cannot wake this process. The text begins in the middle of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoWakeup {
    /// There is no systemd, or it is older than version 248, or it has nothing to do with this
    /// process.
    NoManager,
    /// This process is not what systemd started: a child of it, say, or of a shell.
    NotMain,
    /// The control group is not a service's.
    NoUnit,
    /// Nobody would start it for the next caller: the listening socket is not one of a socket unit.
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
    /// The programs that it runs, found in `PATH`.
    pub const PROGRAMS: [&str; 2] = ["systemctl", "systemd-run"];

    /// Finds the unit whose main process this is, and which `sockets` belong to.
    ///
    /// # Errors
    ///
    /// There is none, and [`NoWakeup`] says why.
    pub fn find(sockets: &[Socket]) -> Result<Self, NoWakeup> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let names = sockets
            .iter()
            .filter(|socket| socket.file.is_none())
            .map(|socket| socket.name.as_str());
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
        // Children inherit both variables, and the number in one of them tells that they are not
        // meant.
        let (Some(started), Some(_)) = (variable("SYSTEMD_EXEC_PID"), variable("INVOCATION_ID"))
        else {
            return Err(NoWakeup::NoManager);
        };
        if started != *pid.to_string() {
            return Err(NoWakeup::NotMain);
        }
        let (unit, of_a_user) = unit_in(cgroups).ok_or(NoWakeup::NoUnit)?;
        // systemd names a descriptor after its socket unit, where that does not say otherwise
        // (FileDescriptorName=). Others who hand sockets over, systemd-socket-activate for one,
        // leave the name away.
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

    /// Was it a timer that started this process? systemd says so since version 252; before, nobody
    /// knows.
    ///
    /// It says so again at later starts that were not the timer's doing, until it reads its units
    /// anew. So this is a reason not to wait for callers, and none not to serve those who are
    /// there.
    pub fn woken_by_timer() -> bool {
        env::var_os("TRIGGER_UNIT").is_some_and(|unit| unit.as_encoded_bytes().ends_with(b".timer"))
            && env::var_os("SYSTEMD_EXEC_PID")
                .is_some_and(|pid| pid == *std::process::id().to_string())
    }

    /// The unit's name, such as `echo.service`.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The timer's name, such as `echo.timer`: where `systemctl list-timers` shows the next wake.
    pub fn timer(&self) -> String {
        format!("{}.timer", self.unit.trim_end_matches(SERVICE))
    }

    /// All that has to be stopped for the service to stay away: the timer, the sockets that are
    /// known to start it, and it.
    pub fn everything(&self) -> Vec<String> {
        let sockets = self.sockets.get().cloned().unwrap_or_default();
        [vec![self.timer()], sockets, vec![self.unit.clone()]].concat()
    }

    /// Has the unit started `delay` from now, and once more at `fallback`, a later delay, in case
    /// that the first start fails. Replaces what was armed before.
    ///
    /// Each is late by up to a tenth of a second, or a second more when the machine slept or
    /// systemd read its units anew (`daemon-reload`) in between; a machine that sleeps is not
    /// woken. It may also be early, when the clock on the wall was set forward, and it may come
    /// twice within a second: a service that is back has to arm or [`disarm`](Self::disarm) it
    /// before it leaves again. A timer that elapses while the service still runs starts nothing:
    /// whoever arms it for something near looks again at what is due before it leaves, and whoever
    /// stays after all arms it later.
    ///
    /// # Errors
    ///
    /// No socket unit starts this unit, or systemd refuses, in its own words. Then nothing is armed
    /// any more.
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
            // The first stands still while the machine sleeps, and begins anew at a daemon-reload;
            // the second moves with the clock on the wall. Each makes up for the other, and to be
            // started too early does no harm.
            command.arg(format!(
                "--on-active={}ms",
                up(delay, Duration::from_millis(1))
            ));
            command.arg(format!(
                "--on-calendar=@{}",
                up(now.saturating_add(delay), Duration::from_secs(1))
            ));
        }
        let hurry = async {
            loop {
                rt::sleep(HURRY).await;
                // In vain where it came too early or was not needed.
                let _ = self.now("start").await;
            }
        };
        or(said(command), hurry).await?.expect_success().map(drop)
    }

    /// Takes back what was armed. To have nothing armed is fine.
    ///
    /// # Errors
    ///
    /// systemd refuses, in its own words.
    pub async fn disarm(&self) -> io::Result<()> {
        let answer = self.now("stop").await?;
        if answer.status.code() == Some(NOT_LOADED) {
            Ok(())
        } else {
            answer.expect_success().map(drop)
        }
    }

    /// Whether more is being stopped than this service: the system, the user's manager, or the
    /// sockets that start it.
    ///
    /// For a service that was asked to leave, and wonders whether it is welcome back. Where systemd
    /// does not answer, it is.
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
            let (jobs, states) = zip(said(jobs), said(states)).await;
            Ok(all_stop(
                sockets,
                &jobs?.expect_success()?,
                &states?.expect_success()?,
            ))
        };
        asked.await.unwrap_or_else(|error: io::Error| {
            log::debug!("systemd does not say what is being stopped: {error}");
            false
        })
    }

    /// Returns whether systemd starts this service again as soon as it has ended: the job that
    /// stops it is a restart.
    pub async fn is_being_restarted(&self) -> bool {
        let mut jobs = self.program("systemctl");
        jobs.args(["list-jobs", "--no-legend", "--plain"]);
        match said(jobs).await.and_then(Answer::expect_success) {
            Ok(jobs) => job(&jobs, &self.unit) == Some("restart"),
            Err(error) => {
                log::debug!("systemd does not say whether it restarts the service: {error}");
                false
            }
        }
    }

    /// Starts or stops the timer, whatever it would have to wait for.
    ///
    /// A timer is started before its service and stopped after it. While the service itself is
    /// being stopped, either would wait for this very process to end.
    async fn now(&self, verb: &str) -> io::Result<Answer> {
        let mut command = self.program("systemctl");
        command.args([
            "--no-ask-password",
            "--job-mode=ignore-dependencies",
            verb,
            &self.timer(),
        ]);
        said(command).await
    }

    /// The socket units that start this unit.
    async fn sockets(&self) -> io::Result<&[String]> {
        if let Some(sockets) = self.sockets.get() {
            return Ok(sockets);
        }
        let mut command = self.program("systemctl");
        command.args(["show", "--property=TriggeredBy", "--value", &self.unit]);
        let triggers = said(command).await?.expect_success()?;
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

    /// One of systemd's programs, to be run without anything that it does not need.
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

/// What a program answered.
struct Answer {
    program: String,
    status: ExitStatus,
    said: String,
}

impl Answer {
    /// What it said, where it succeeded.
    fn expect_success(self) -> io::Result<String> {
        if self.status.success() {
            return Ok(self.said);
        }
        let Self {
            program,
            status,
            said,
        } = self;
        Err(io::Error::other(match said.lines().next() {
            Some(line) => format!("{program}: {line}"),
            None => format!("{program}: {status}"),
        }))
    }
}

/// Runs a program to its end.
async fn said(mut command: Command) -> io::Result<Answer> {
    let program = command.get_program().to_string_lossy().into_owned();
    for _ in 0..TRIES {
        let (status, said) = rt::run(&mut command, PATIENCE)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        if status.signal() != Some(SIGTERM) {
            return Ok(Answer {
                program,
                status,
                said: String::from_utf8_lossy(&said).into_owned(),
            });
        }
    }
    Err(io::Error::other(format!("{program}: ended by SIGTERM")))
}

const SERVICE: &str = ".service";

/// The service that a process with this /proc/self/cgroup runs in, and whether a user's manager is
/// above it.
///
/// systemd puts each unit into a control group of its own, named after it; what the service makes
/// below is its own affair.
fn unit_in(cgroups: &str) -> Option<(String, bool)> {
    // Version 2 of control groups, or the hierarchy that systemd keeps beside version 1
    // (cgroups(7)).
    let paths = |marker| {
        cgroups
            .lines()
            .filter_map(move |line| line.split_once(marker))
            .map(|(_, path)| path)
    };
    paths("0::")
        .chain(paths(":name=systemd:"))
        .find_map(|path| {
            let mut above: Vec<_> = path.split('/').collect();
            let at = above
                .iter()
                .rposition(|name| name.len() > SERVICE.len() && name.ends_with(SERVICE))?;
            let name = above[at];
            above.truncate(at);
            let of_a_user = above
                .iter()
                .any(|name| name.starts_with("user@") && name.ends_with(SERVICE));
            // What could be mistaken for one of the kernel's own files has an underscore in front.
            Some((name.strip_prefix('_').unwrap_or(name).to_owned(), of_a_user))
        })
}

/// Returns the type of a unit's job, by the lines of `systemctl list-jobs` ("1 x.socket stop
/// running").
fn job<'a>(jobs: &'a str, unit: &str) -> Option<&'a str> {
    let mut lines = jobs.lines().map(|line| line.split_whitespace().skip(1));
    lines.find_map(|mut words| (words.next() == Some(unit)).then(|| words.next()).flatten())
}

/// Is everything stopped that could start us, now or soon? From the lines of `systemctl list-jobs`
/// and the properties of the sockets, one after another.
fn all_stop(sockets: &[String], jobs: &str, states: &str) -> bool {
    let job = |unit: &str| job(jobs, unit);
    let is_down = |unit: &String| {
        let mut properties = states
            .split("\n\n")
            .map(|properties| properties.lines().collect::<Vec<_>>());
        let properties = properties
            .find(|lines| lines.contains(&&*format!("Id={unit}")))
            .unwrap_or_default();
        ["inactive", "failed", "deactivating"]
            .iter()
            .any(|state| properties.contains(&&*format!("ActiveState={state}")))
    };
    let stops = |socket: &String| job(socket).map_or_else(|| is_down(socket), |job| job == "stop");
    job("shutdown.target") == Some("start") || sockets.iter().all(stops)
}

/// How many `unit`s there are in `time`, the last one perhaps not whole.
fn up(time: Duration, unit: Duration) -> u128 {
    time.as_nanos().div_ceil(unit.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 4711;
    const OURS: (&str, &str) = ("SYSTEMD_EXEC_PID", "4711");
    const INVOCATION: (&str, &str) = ("INVOCATION_ID", "0123456789abcdef0123456789abcdef");

    /// What `parse` finds for process 4711: the unit, whether it is a user's, and the socket units
    /// as far as known.
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
    fn whoever_cannot_be_woken_is_told_why() {
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
    fn the_unit_is_the_last_service_in_the_path_of_the_control_group() {
        let unit = |cgroups: &str| unit_in(cgroups);
        let system = |name: &str| Some((name.to_owned(), false));
        let of_a_user = |name: &str| Some((name.to_owned(), true));
        assert_eq!(
            unit("0::/system.slice/echo.service"),
            system("echo.service")
        );
        assert_eq!(
            unit("0::/system.slice/echo.service/payload/x"),
            system("echo.service")
        );
        assert_eq!(
            unit("0::/system.slice/system-echo.slice/echo@a-b\\x2d.service"),
            system("echo@a-b\\x2d.service")
        );
        assert_eq!(unit("0::/../echo.service"), system("echo.service"));
        assert_eq!(unit("0::/system.slice/_cpu.service"), system("cpu.service"));
        assert_eq!(
            unit("0::/system.slice/__echo.service"),
            system("_echo.service")
        );
        let path = "/user.slice/user-7.slice/user@7.service";
        assert_eq!(
            unit(&format!("0::{path}/app.slice/echo.service")),
            of_a_user("echo.service")
        );
        assert_eq!(
            unit(&format!("0::{path}/init.scope")),
            system("user@7.service")
        );
        for none in [
            "0::/",
            "0::/.service",
            "0::/a.services/b",
            "1:cpu:/echo.service",
            "nonsense",
            "",
        ] {
            assert_eq!(unit(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_hierarchy_of_systemd_counts_where_version_2_says_nothing() {
        let hybrid = "12:cpu,cpuacct:/a.service\n1:name=systemd:/system.slice/echo.service\n0::/\n";
        assert_eq!(unit_in(hybrid), Some(("echo.service".into(), false)));
    }

    #[test]
    fn all_stops_when_the_sockets_or_the_system_do() {
        let sockets = ["a.socket".to_owned(), "b.socket".to_owned()];
        let up = "Id=a.socket\nActiveState=active\n\nId=b.socket\nActiveState=active\n";
        let one_down = "Id=a.socket\nActiveState=inactive\n\nId=b.socket\nActiveState=active\n";
        let down = "Id=b.socket\nActiveState=deactivating\n\nId=a.socket\nActiveState=failed\n";
        let all = |jobs, states| all_stop(&sockets, jobs, states);
        assert!(!all("", up));
        assert!(!all("", one_down), "one is enough to start us");
        assert!(all("", down));
        assert!(!all("", ""), "nothing is known of them");
        assert!(!all("garbage\n\n1\n", up));
        assert!(!all("7 a.service stop running\n", up));
        assert!(!all("7 a.socket stop waiting\n", up));
        assert!(all(
            "7 a.socket stop waiting\n8 b.socket  stop waiting\n",
            up
        ));
        assert!(all("7 b.socket stop waiting\n", one_down));
        assert!(
            !all(
                "7 a.socket restart running\n8 b.socket start waiting\n",
                down
            ),
            "they will be back"
        );
        assert!(all("9 shutdown.target start waiting\n", up));
        assert!(!all("9 shutdown.target stop waiting\n", up));
    }

    #[test]
    fn the_job_of_a_unit_is_found_by_its_whole_name() {
        let jobs =
            "7 a.service restart running\n8 a.service.d stop waiting\n9 b.socket  start waiting\n";
        assert_eq!(
            ["a.service", "b.socket", "b", ".service"].map(|unit| job(jobs, unit)),
            [Some("restart"), Some("start"), None, None]
        );
        assert_eq!(job("No jobs running.\n7\n8 a.service\n", "a.service"), None);
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

    #[test]
    fn a_failure_says_what_the_program_said_first() {
        rt::block_on(async move |_| {
            let shell = |script: &str| {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                said(command)
            };
            let failure = async |script| {
                shell(script)
                    .await
                    .unwrap()
                    .expect_success()
                    .unwrap_err()
                    .to_string()
            };
            assert_eq!(failure("echo no >&2; echo more; false").await, "sh: no");
            assert_eq!(failure("exit 3").await, "sh: exit status: 3");
            assert_eq!(
                shell("echo yes").await.unwrap().expect_success().unwrap(),
                "yes\n"
            );
            let missing = said(Command::new("/nonexistent")).await.err().unwrap();
            assert!(
                missing.to_string().starts_with("/nonexistent: "),
                "{missing}"
            );
        });
    }

    #[test]
    fn a_program_that_a_signal_for_us_has_hit_is_started_again() {
        let path = env::temp_dir().join(format!("wakeup-test-{}", std::process::id()));
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(r#"test -e "$0" && echo second || { touch "$0"; kill -TERM $$; }"#)
            .arg(&path);
        let answer = rt::block_on(async move |_| said(command).await).unwrap();
        assert_eq!(answer.expect_success().unwrap(), "second\n");
        fs::remove_file(path).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "kill -TERM $$"]);
        let error = rt::block_on(async move |_| said(command).await)
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "sh: ended by SIGTERM");
    }
}
