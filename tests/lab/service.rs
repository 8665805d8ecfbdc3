//! A service as a real process, and a test in the part of systemd: it hands sockets over, and is
//! told what goes on.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part of it"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an error ends, and says where"
)]

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Longer than anything here takes on the slowest machine; reached only by a fault.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the path of an example: in the folder that `EXAMPLES` names, or beside the folder of
/// this test's own executable.
pub fn example(name: &str) -> PathBuf {
    let folder = env::var_os("EXAMPLES").map(PathBuf::from);
    let beside = || {
        let tests = env::current_exe().unwrap();
        tests.ancestors().nth(2).unwrap().join("examples")
    };
    let example = folder.unwrap_or_else(beside).join(name);
    assert!(
        example.exists(),
        "{} is missing: cargo build --examples",
        example.display()
    );
    example
}

/// Returns a command that runs this test program as another process: only the test `name`, which
/// acts if the environment says so and does nothing else.
pub fn this_program(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A directory that goes with the test, and in it a socket that plays the service manager's.
pub struct Lab {
    pub directory: PathBuf,
    pub manager: UnixDatagram,
}

impl Lab {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "activation-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::SeqCst)
        );
        let directory = env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let manager = UnixDatagram::bind(directory.join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, manager }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("socket")
    }

    pub fn listener(&self) -> UnixListener {
        UnixListener::bind(self.path()).unwrap()
    }

    /// The next message to the service manager.
    pub fn hears(&self) -> String {
        let mut buffer = [0; 256];
        let length = self
            .manager
            .recv(&mut buffer)
            .expect("a message to the service manager");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Starts the daemon in manual mode and waits until it is ready.
    pub fn manual(&self, idle: &str) -> Daemon {
        let daemon = Daemon::start(self.command(idle));
        assert_eq!(self.hears(), "READY=1");
        daemon
    }

    /// The daemon as a manual start would have it.
    pub fn command(&self, idle: &str) -> Command {
        let mut command = Command::new(example("echo"));
        command
            .arg(self.path())
            .arg(idle)
            .env("NOTIFY_SOCKET", self.directory.join("notify"))
            .stderr(Stdio::piped());
        command
    }

    /// Starts the daemon with `first` as its descriptor 3, as systemd would, and waits until it is
    /// ready.
    pub fn activated(&self, first: impl AsFd, idle: &str) -> Daemon {
        let daemon = Daemon::start(self.handed(first, idle, "LISTEN_PID=$$ LISTEN_FDS=1"));
        assert_eq!(self.hears(), "READY=1");
        daemon
    }

    /// The daemon with `first` as its descriptor 3, and with `variables` as the shell sets them.
    pub fn handed(&self, first: impl AsFd, idle: &str, variables: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!(r#"{variables} exec "$0" "$@" 3<&0 0</dev/null"#))
            .arg(example("echo"));
        command
            .arg(self.path())
            .arg(idle)
            .env("NOTIFY_SOCKET", self.directory.join("notify"));
        command
            .stdin(first.as_fd().try_clone_to_owned().unwrap())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A process that ends with the test at the latest.
pub struct Daemon(pub Child);

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the end, and returns how it was and what went to stderr.
    pub fn ends(mut self) -> (ExitStatus, String) {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        assert!(readable(&pidfd, PATIENCE), "the daemon does not end");
        let mut errors = String::new();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .unwrap();
        (self.0.wait().unwrap(), errors)
    }

    pub fn ends_well(self) {
        let (status, errors) = self.ends();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    }

    pub fn ends_with_error(self, expected: &str) {
        let (status, errors) = self.ends();
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        assert!(
            errors.contains(expected),
            "{errors:?} should say {expected:?}"
        );
    }

    /// A file of its folder in /proc.
    pub fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    /// Returns how often its threads were scheduled.
    pub fn context_switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let status = |task: io::Result<fs::DirEntry>| {
            fs::read_to_string(task.unwrap().path().join("status")).unwrap()
        };
        tasks
            .map(|task| field(&status(task), "voluntary_ctxt_switches:"))
            .sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number from a file of /proc.
pub fn field(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

/// The flags of an open descriptor (proc(5)).
pub fn flags(fdinfo: &str) -> u64 {
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    u64::from_str_radix(flags.trim(), 8).unwrap()
}

pub fn readable(fd: &impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// One conversation: connect, say it, hear it, hang up.
pub fn talk(path: &Path, text: &[u8]) -> io::Result<()> {
    finish(UnixStream::connect(path)?, text)
}

pub fn finish(mut stream: UnixStream, text: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, text);
    Ok(())
}
