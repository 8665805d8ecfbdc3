//! The daemon as systemd would start it: this process holds the listening socket and hands it over
//! as descriptor 3.

use std::fs::{self, File};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::namespace::Namespace;
use super::{Result, eventually, program, sandbox};

/// The listening socket and how to start what serves it, as a pair of unit files would say. The
/// socket stays open from one instance to the next.
#[derive(Debug)]
pub struct Unit {
    listener: UnixListener,
    program: PathBuf,
    folder: PathBuf,
    /// The lease file.
    leases: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    manager: Manager,
}

impl Unit {
    /// A socket in a folder of its own, served by `program` with `arguments`; `--dir` is added
    /// behind them.
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Result<Self> {
        let folder = sandbox::folder("run")?;
        sandbox::keep_evidence(folder.join("log"));
        // Behind: the first argument may be a sub-command, as it is for netavark.
        let mut all: Vec<_> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        all.extend(["--dir".to_owned(), folder.display().to_string()]);
        let notify = folder.join("notify");
        Ok(Self {
            // Blocking, as systemd hands it over.
            listener: UnixListener::bind(folder.join("nv-proxy.sock"))?,
            program: program.into(),
            environment: vec![
                ("RUST_LOG".to_owned(), "debug".to_owned()),
                // A system call that the daemon's filter lacks ends it.
                ("SMOL_DHCP_PROXY_SANDBOX".to_owned(), "strict".to_owned()),
                ("NOTIFY_SOCKET".to_owned(), notify.display().to_string()),
            ],
            manager: Manager::listen(&notify)?,
            leases: folder.clone(),
            folder,
            arguments: all,
        })
    }

    /// Sets a variable of the daemon's environment.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the lease file in a folder of its own.
    pub fn with_leases_in(self, folder: &Path) -> Self {
        // The variable wins over --dir, and the socket is handed over.
        let with = self.set("NETAVARK_PROXY_RUN_DIR_ENV", &folder.display().to_string());
        Self {
            leases: folder.to_owned(),
            ..with
        }
    }

    /// Returns the path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("nv-proxy.sock")
    }

    /// The copy of the leases in netavark's shape.
    pub fn lease_file(&self) -> PathBuf {
        self.leases.join("nv-proxy.lease")
    }

    /// The file that the daemon goes on from.
    pub fn state_file(&self) -> PathBuf {
        self.leases.join("nv-proxy.state")
    }

    /// All that the instances have logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("log")).unwrap_or_default())
    }

    /// Returns what the daemon has told the service manager since the last call, one line each.
    pub fn notifications(&self) -> Vec<String> {
        std::mem::take(
            &mut *self
                .manager
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Waits until the daemon has told the service manager `line`; what it told before that is
    /// forgotten.
    pub fn await_notification(&self, line: &str) -> Result {
        eventually(line, Duration::from_secs(5), || {
            Ok(self
                .notifications()
                .iter()
                .any(|told| told == line)
                .then_some(()))
        })
    }

    /// The leases in the state file.
    pub fn leases(&self) -> Result<serde_json::Value> {
        Ok(self.state()?["leases"].take())
    }

    /// The leases in the copy.
    pub fn copy(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(self.lease_file())?)?)
    }

    /// Writes a state file with other leases in it.
    pub fn forge_leases(&self, leases: &serde_json::Value) -> Result {
        // In the order in which the daemon writes it.
        let boot_id = &self.state()?["boot_id"];
        Ok(fs::write(
            self.state_file(),
            format!(r#"{{"version":1,"boot_id":{boot_id},"leases":{leases}}}"#),
        )?)
    }

    fn state(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(self.state_file())?)?)
    }

    /// Waits for a connection, as systemd does before it starts the service. The connection stays
    /// in the queue.
    pub fn await_connection(&self, within: Duration) -> Result {
        let timeout = Timespec {
            tv_sec: i64::try_from(within.as_secs())?,
            tv_nsec: within.subsec_nanos().into(),
        };
        match poll(
            &mut [PollFd::new(&self.listener, PollFlags::IN)],
            Some(&timeout),
        )? {
            0 => Err(format!("nobody connected within {within:?}").into()),
            _ => Ok(()),
        }
    }

    /// Starts an instance in `namespace`.
    pub fn start(&self, namespace: &Namespace) -> Result<Daemon> {
        self.start_by(Command::new("/bin/sh"), namespace)
    }

    /// Starts the daemon as if the machine had been suspended for so many seconds: in a time
    /// namespace with CLOCK_BOOTTIME ahead. Returns the process of unshare(1), which ends with the
    /// daemon.
    pub fn start_after_suspension(&self, seconds: u32, namespace: &Namespace) -> Result<Daemon> {
        let mut command = Command::new(program::need("unshare", "util-linux")?);
        command.args([
            "--time",
            "--boottime",
            &seconds.to_string(),
            "--fork",
            "--kill-child",
            "/bin/sh",
        ]);
        self.start_by(command, namespace)
    }

    /// Starts an instance by a command that ends in a shell.
    fn start_by(&self, mut command: Command, namespace: &Namespace) -> Result<Daemon> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        command
            // The socket comes in as standard input and becomes descriptor 3; `$$` is the daemon's
            // own id after exec.
            .args([
                "-c",
                r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#,
            ])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(self.listener.try_clone()?)))
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Daemon {
            child: namespace.spawn(&mut command)?,
        })
    }

    /// Starts an instance and waits until it says that it accepts.
    pub fn start_ready(&self, namespace: &Namespace) -> Result<Daemon> {
        let mut daemon = self.start(namespace)?;
        eventually("the daemon says READY=1", Duration::from_secs(5), || {
            if let Some(status) = daemon.child.try_wait()? {
                return Err(format!("the daemon left with {status}:\n{}", self.log()?).into());
            }
            Ok(self
                .notifications()
                .iter()
                .any(|line| line == "READY=1")
                .then_some(()))
        })?;
        Ok(daemon)
    }
}

/// The ear of the service manager: it reads at once, as systemd does, for the queue of such a
/// socket is short.
#[derive(Debug)]
struct Manager {
    lines: Arc<Mutex<Vec<String>>>,
    socket: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let (socket, lines) = (UnixDatagram::bind(path)?, Arc::new(Mutex::new(Vec::new())));
        let (ear, heard) = (socket.try_clone()?, Arc::clone(&lines));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Nothing is what a socket hears that has been shut down.
            while let Ok(length @ 1..) = ear.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..length]);
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(message.lines().map(str::to_owned));
            }
        });
        Ok(Self {
            lines,
            socket,
            thread: Some(thread),
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A running instance; dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl From<Child> for Daemon {
    fn from(child: Child) -> Self {
        Self { child }
    }
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the number of open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(self.proc("fd"))?.count())
    }

    /// Returns descriptions of the open descriptors.
    pub fn descriptor_names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.proc("fd"))?;
        let mut names: Vec<String> = entries
            .map(|entry| {
                let entry = entry?;
                let target = fs::read_link(entry.path()).unwrap_or_default();
                Ok(format!(
                    "{} {}",
                    entry.file_name().display(),
                    target.display()
                ))
            })
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    /// Returns descriptions of the open descriptors once they stay the same: a client gets its
    /// answer before the daemon has closed the connection.
    pub fn settled_descriptors(&self) -> Result<Vec<String>> {
        let mut last = self.descriptor_names()?;
        eventually(
            "the daemon's descriptors stay the same",
            Duration::from_secs(5),
            || {
                std::thread::sleep(Duration::from_millis(50));
                let before = std::mem::replace(&mut last, self.descriptor_names()?);
                Ok((before == last).then(|| last.clone()))
            },
        )
    }

    /// Waits until it has `expected` open and nothing else. That they stay the same for a moment is
    /// not enough where the daemon has first to be told, by a connection that ends, and the machine
    /// is busy.
    pub fn await_descriptors(&self, expected: &[String]) -> Result {
        let mut names = Vec::new();
        eventually(
            "the daemon's descriptors are as before",
            Duration::from_secs(5),
            || {
                names = self.descriptor_names()?;
                Ok((names == expected).then_some(()))
            },
        )
        .map_err(|error| format!("{error}: {names:?}, not {expected:?}").into())
    }

    /// A number of /proc/PID/status, such as `Threads` or `RssAnon` (in kB).
    pub fn status(&self, name: &str) -> Result<u64> {
        number(&fs::read_to_string(self.proc("status"))?, name)
    }

    /// A number of /proc/PID/smaps_rollup, such as `Pss` or `Private_Dirty`, in kB
    /// (proc_pid_smaps(5)).
    pub fn memory(&self, name: &str) -> Result<u64> {
        number(&fs::read_to_string(self.proc("smaps_rollup"))?, name)
    }

    /// The processor time that it has used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        // In hundredths of a second on every architecture that Linux tells of (proc_pid_stat(5)).
        // The name in front may have spaces and ends with the last parenthesis.
        let stat = fs::read_to_string(self.proc("stat"))?;
        let (_, numbers) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
        let times = numbers
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>);
        Ok(Duration::from_millis(
            10 * times.sum::<std::result::Result<u64, _>>()?,
        ))
    }

    /// The context switches of all its threads so far.
    pub fn context_switches(&self) -> Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(self.proc("task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            sum += number(&status, "voluntary_ctxt_switches")?
                + number(&status, "nonvoluntary_ctxt_switches")?;
        }
        Ok(sum)
    }

    /// The state flags of a descriptor as /proc/PID/fdinfo shows them.
    pub fn descriptor_flags(&self, descriptor: u32) -> Result<u32> {
        let text = fs::read_to_string(self.proc("fdinfo").join(descriptor.to_string()))?;
        let flags = text
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .ok_or("fdinfo without flags")?;
        Ok(u32::from_str_radix(flags.trim(), 8)?)
    }

    /// Returns whether the process still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it leaves by itself.
    pub fn await_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        eventually("the daemon leaves", within, || Ok(self.child.try_wait()?))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn crash(mut self) -> Result {
        self.kill()
    }

    /// Kills the daemon, which stays in its place.
    pub fn kill(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(file)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(status: &str, name: &str) -> Result<u64> {
    let mut lines = status
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = lines.next().and_then(|line| line.split_whitespace().next());
    Ok(value
        .ok_or_else(|| format!("no {name} among its figures in /proc"))?
        .parse()?)
}
