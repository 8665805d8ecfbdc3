//! Child processes, awaited without blocking the thread.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_lite::future::or;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Watched, sleep};

/// The limit of a program's output in bytes; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// The longest wait for a killed program to end. A slower one is reaped by a later call.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// Killed programs that have not been reaped yet.
    static UNREAPED: RefCell<Vec<Child>> = RefCell::default();
}

/// Runs a program to its end with an empty standard input. Returns its exit status and its output,
/// stdout and stderr together.
///
/// # Errors
///
/// The program cannot be started, or takes longer than `bound`. In the second case, and when this
/// future is dropped, the program is killed. If it does not end at once, a later call reaps it.
pub async fn run(command: &mut Command, bound: Duration) -> io::Result<(ExitStatus, Vec<u8>)> {
    reap();
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let started = Running::start(command);
    // As long as `command` keeps the writing ends of the pipe, there is no end of file.
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
        // The program may have closed its output and still run.
        Ok((running.ended().await?, output))
    };
    let late = async {
        sleep(bound).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let ran = or(work, late).await;
    if ran.is_err() {
        running.kill();
        or(async { drop(running.ended().await) }, sleep(KILL_TIMEOUT)).await;
    }
    ran
}

/// A program that is killed on drop.
struct Running {
    /// `None` from the drop on, when `UNREAPED` has it.
    child: Option<Child>,
    /// The pidfd, which is readable once the program has ended.
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
        // If this fails, the drop of `running` kills the program.
        running.end = Some(Watched::new(pidfd_open(pid, PidfdFlags::empty())?)?);
        Ok(running)
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Has no effect on a child that has been reaped.
            let _ = child.kill();
        }
    }

    /// Waits for the end of the program, and reaps it.
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
        UNREAPED.with_borrow_mut(|children| children.extend(self.child.take()));
        reap();
    }
}

/// Reaps the programs in `UNREAPED` that have ended by now.
fn reap() {
    UNREAPED.with_borrow_mut(|children| {
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::{block_on, now};
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    /// Longer than any program of these tests takes.
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_runs_to_its_end_and_all_its_output_is_read() {
        block_on(async move |_| {
            let (status, output) = run(
                &mut shell("read x; echo out; echo err >&2; exit 7"),
                TIMEOUT,
            )
            .await
            .unwrap();
            assert_eq!(
                (status.code(), output.as_slice()),
                (Some(7), b"out\nerr\n".as_slice())
            );
            let (status, output) = run(&mut shell("head -c 1000000 /dev/zero"), TIMEOUT)
                .await
                .unwrap();
            assert_eq!((status.code(), output.len()), (Some(0), OUTPUT_LIMIT));
            assert_eq!(
                run(&mut Command::new("/nonexistent"), TIMEOUT)
                    .await
                    .unwrap_err()
                    .kind(),
                io::ErrorKind::NotFound
            );
        });
    }

    #[test]
    fn a_program_is_killed_and_reaped_at_the_timeout_and_when_its_future_is_dropped() {
        let gone = |pid: &str| !std::path::Path::new("/proc").join(pid.trim()).exists();
        let script = |path: &std::path::Path| {
            shell(&format!("echo $$ > {}; exec sleep 1000", path.display()))
        };
        block_on(async move |_| {
            let path = std::env::temp_dir().join(format!("rt-test-{}", std::process::id()));
            let error = run(&mut script(&path), Duration::from_millis(500))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(gone(&std::fs::read_to_string(&path).unwrap()));

            std::fs::remove_file(&path).unwrap();
            let written = async {
                while !std::fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n')) {
                    sleep(STEP).await;
                }
            };
            or(written, async {
                drop(run(&mut script(&path), TIMEOUT).await)
            })
            .await;
            let pid = std::fs::read_to_string(&path).unwrap();
            // The drop does not wait; a later call reaps the program at the latest.
            let start = now();
            while !gone(&pid) {
                assert!(now() - start < TIMEOUT, "{pid} is still there");
                run(&mut shell(":"), TIMEOUT).await.unwrap();
            }
            std::fs::remove_file(&path).unwrap();
        });
    }

    #[test]
    fn a_program_that_closes_its_output_and_runs_on_does_not_block_the_thread() {
        block_on(async move |runtime| {
            let turns = Rc::new(Cell::new(0));
            let counting = Rc::clone(&turns);
            let _ticking = runtime.spawn(async move {
                loop {
                    sleep(STEP).await;
                    counting.set(counting.get() + 1);
                }
            });
            let (status, output) = run(
                &mut shell("echo out; exec >&- 2>&-; sleep 0.3; exit 7"),
                TIMEOUT,
            )
            .await
            .unwrap();
            assert_eq!(
                (status.code(), output.as_slice()),
                (Some(7), b"out\n".as_slice())
            );
            assert!(
                turns.get() >= 5,
                "{} turns of another task in 300 ms",
                turns.get()
            );
            let start = now();
            let error = run(&mut shell("exec >&- 2>&-; exec sleep 1000"), 10 * STEP)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(now() - start < TIMEOUT / 2);
        });
    }
}
