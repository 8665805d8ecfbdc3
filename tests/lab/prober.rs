//! An innocent caller: it makes the same calls over and over again, and remembers how long the
//! slowest answer took.
//!
//! Where more runs on a machine than it has processors, an answer also takes the time in which
//! caller or daemon are ready to run and others do. The kernel counts that, and the daemon is not
//! judged by it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Call, Status};
use smol_dhcp_proxy::rt;

use super::Result;
use super::daemon::Daemon;
use super::grpc::Channel;

/// The longest that an innocent caller may wait for an answer, but for the wait for a processor.
pub const AT_MOST: Duration = Duration::from_millis(500);
/// The longest that it does wait.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A caller on a thread of its own; dropped, it stops.
#[derive(Debug)]
pub struct Prober {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Answers>>,
}

/// The answers that it had.
#[derive(Debug, Default)]
pub struct Answers {
    pub count: u32,
    pub slowest: Took,
    failures: Vec<String>,
}

impl Prober {
    /// Makes `calls`, all of which are to succeed, one after the other and again, each on a
    /// connection of its own.
    pub fn start(daemon: &Daemon, socket: PathBuf, calls: Vec<Call>) -> Self {
        let daemon = daemon.id();
        const PAUSE: Duration = Duration::from_millis(10);
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut answers = Answers::default();
            // The sender is dropped to end it; until then it is a pause.
            while stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Disconnected) {
                for call in &calls {
                    let (took, answer) = timed(daemon, &socket, call, PATIENCE);
                    answers.add(call, took, answer);
                }
            }
            answers
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Ends it after the last of its calls.
    pub fn stop(mut self) -> Result<Answers> {
        self.end().ok_or_else(|| "a prober panicked".into())
    }

    fn end(&mut self) -> Option<Answers> {
        drop(self.stop.take());
        self.thread.take()?.join().ok()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Answers {
    fn add(&mut self, call: &Call, took: Took, answer: Result<(), Status>) {
        self.count += 1;
        if took.served() > self.slowest.served() {
            self.slowest = took;
        }
        if let Err(status) = answer {
            self.failures.push(format!(
                "{} after {took}: {}",
                call.encode().0,
                words(status)
            ));
        }
    }

    /// All that is wrong with them, for the caller `name`.
    pub fn faults(&self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.slowest.served() > AT_MOST {
            faults.push(format!("{name}: the slowest answer took {}", self.slowest));
        }
        if let Some(first) = self.failures.first() {
            faults.push(format!(
                "{name}: {} of {} calls failed, first {first}",
                self.failures.len(),
                self.count
            ));
        }
        if self.count < 4 {
            faults.push(format!(
                "{name}: no more than {} calls were answered",
                self.count
            ));
        }
        faults
    }
}

/// Statistics of the time to an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// From the connection to the answer.
    pub all: Duration,
    /// Of that, the time in which the caller or the daemon was ready and waited for a processor.
    pub waited: Duration,
}

impl Took {
    /// The part that the daemon is judged by.
    pub fn served(self) -> Duration {
        self.all.saturating_sub(self.waited)
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, waited } = self;
        write!(
            f,
            "{} ms ({} of them for a processor)",
            all.as_millis(),
            waited.as_millis()
        )
    }
}

/// Makes one call to the daemon with this process id, on a connection of its own.
pub fn timed(
    daemon: u32,
    socket: &Path,
    call: &Call,
    patience: Duration,
) -> (Took, Result<(), Status>) {
    let waited = || run_delay("/proc/thread-self") + run_delay(&format!("/proc/{daemon}"));
    let (start, before) = (rt::now(), waited());
    let answer = Channel::connect(socket).and_then(|mut channel| {
        channel.set_patience(patience);
        channel.call(call)
    });
    let all = rt::now() - start;
    (
        Took {
            all,
            waited: waited().saturating_sub(before),
        },
        answer.map(drop),
    )
}

/// Returns the time that a thread has been ready to run without running: the second number of its
/// schedstat, in nanoseconds (Linux, Documentation/scheduler/sched-stats). Zero if the kernel does
/// not count it.
fn run_delay(thread: &str) -> Duration {
    let text = fs::read_to_string(format!("{thread}/schedstat")).unwrap_or_default();
    let delay = text
        .split_whitespace()
        .nth(1)
        .and_then(|delay| delay.parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}

/// A status as text.
pub fn words(status: Status) -> String {
    format!("{:?}: {}", status.code, status.message)
}
