//! An innocent caller: it makes the same calls over and over again, and remembers how long the slowest answer took.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Call, Status};
use smol_dhcp_proxy::rt;

use super::Result;
use super::grpc::Channel;

/// The longest that an innocent caller may wait for an answer.
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
    pub slowest: Duration,
    failures: Vec<String>,
}

impl Prober {
    /// Makes `calls`, all of which are to succeed, one after the other and again, each on a connection of its own.
    pub fn start(socket: PathBuf, calls: Vec<Call>) -> Self {
        const PAUSE: Duration = Duration::from_millis(10);
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut answers = Answers::default();
            // The sender is dropped to end it; until then it is a pause.
            while stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Disconnected) {
                for call in &calls {
                    let (took, answer) = timed(&socket, call, PATIENCE);
                    answers.add(call, took, answer);
                }
            }
            answers
        });
        Self { stop: Some(stop), thread: Some(thread) }
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
    fn add(&mut self, call: &Call, took: Duration, answer: Result<(), Status>) {
        self.count += 1;
        self.slowest = self.slowest.max(took);
        if let Err(status) = answer {
            self.failures.push(format!("{} after {took:?}: {}", call.encode().0, words(status)));
        }
    }

    /// All that is wrong with them, for the caller `name`.
    pub fn faults(&self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.slowest > AT_MOST {
            faults.push(format!("{name}: the slowest answer took {:?}", self.slowest));
        }
        if let Some(first) = self.failures.first() {
            faults.push(format!("{name}: {} of {} calls failed, first {first}", self.failures.len(), self.count));
        }
        if self.count < 4 {
            faults.push(format!("{name}: no more than {} calls were answered", self.count));
        }
        faults
    }
}

/// Makes one call on a connection of its own. Returns how long it took, too.
pub fn timed(socket: &Path, call: &Call, patience: Duration) -> (Duration, Result<(), Status>) {
    let start = rt::now();
    let answer = Channel::connect(socket).and_then(|mut channel| {
        channel.set_patience(patience);
        channel.call(call)
    });
    (rt::now() - start, answer.map(drop))
}

/// A status as text.
pub fn words(status: Status) -> String {
    format!("{:?}: {}", status.code, status.message)
}
