//! Other programs, run to their end without ever blocking the thread.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_lite::future::or;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Watched, sleep};

/// The most that is kept of a program's output.
pub(super) const OUTPUT_LIMIT: usize = 64 * 1024;

/// How long a program that was killed may take to end before it is left to be reaped later.
const END: Duration = Duration::from_secs(1);

thread_local! {
    /// Programs that were killed and had not ended then.
    static LEFT: RefCell<Vec<Child>> = RefCell::default();
}

/// Runs a program to its end, with nothing to read; returns its exit status, and its output on
/// stdout and stderr.
///
/// # Errors
///
/// It could not be started, or took longer than `bound`. Then, and when this future is dropped, it
/// is killed; one that does not end at once is reaped by a later call.
pub async fn run(command: &mut Command, bound: Duration) -> io::Result<(ExitStatus, Vec<u8>)> {
    reap();
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let started = Running::start(command);
    // As long as the command keeps our ends of the pipe there is no end of file.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = started?;
    let reader = Watched::new(reader)?;
    let work = async {
        let (mut output, mut buffer) = (Vec::new(), [0; 1024]);
        loop {
            let length = reader.read_with(|mut pipe| pipe.read(&mut buffer)).await?;
            if length == 0 {
                break;
            }
            output.extend_from_slice(&buffer[..length.min(OUTPUT_LIMIT - output.len())]);
        }
        // One that closes its output may live on.
        Ok((running.ended().await?, output))
    };
    let late = async {
        sleep(bound).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let ran = or(work, late).await;
    if ran.is_err() {
        running.kill();
        or(async { drop(running.ended().await) }, sleep(END)).await;
    }
    ran
}

/// A program that does not outlive its owner.
struct Running {
    /// `None` only when it has been left to be reaped later.
    child: Option<Child>,
    /// A pidfd: readable once the program has ended.
    end: Option<Watched<OwnedFd>>,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let mut running = Self {
            child: Some(child),
            end: None,
        };
        // Should this fail, the program is killed.
        running.end = Some(Watched::new(pidfd_open(pid, PidfdFlags::empty())?)?);
        Ok(running)
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Does nothing to one that has been reaped.
            let _ = child.kill();
        }
    }

    /// Waits until the program has ended, and reaps it.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let (Some(child), Some(end)) = (&mut self.child, &self.end) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        loop {
            match child.try_wait()? {
                Some(status) => return Ok(status),
                None => end.readable().await?,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        LEFT.with_borrow_mut(|left| left.extend(self.child.take()));
        reap();
    }
}

/// Reaps those that were left and have ended by now.
fn reap() {
    LEFT.with_borrow_mut(|left| left.retain_mut(|child| matches!(child.try_wait(), Ok(None))));
}
