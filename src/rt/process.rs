//! Child processes, run to their end without blocking the thread.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures_lite::future::or;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Watched, sleep};

/// The most that is kept of a program's output.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// The time for a killed program to end; one that takes longer is reaped later.
const END: Duration = Duration::from_secs(1);

thread_local! {
    /// Killed programs that have not been reaped yet.
    static LEFT: RefCell<Vec<Child>> = RefCell::default();
}

/// Runs a program to its end with an empty standard input; returns its exit status, and its output on
/// stdout and stderr.
///
/// # Errors
///
/// The program cannot be started, or takes longer than `bound`. In the second case, and when this
/// future is dropped, it is killed; where it does not end at once, a later call reaps it.
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
        // A program that has closed its output may still run.
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
    /// `None` from the drop on, when `LEFT` has it.
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
        // If this fails, the drop kills the program.
        running.end = Some(Watched::new(pidfd_open(pid, PidfdFlags::empty())?)?);
        Ok(running)
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Without effect on a child that has been reaped.
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

/// Reaps the programs in `LEFT` that have ended by now.
fn reap() {
    LEFT.with_borrow_mut(|left| left.retain_mut(|child| matches!(child.try_wait(), Ok(None))));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::{block_on, now};
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_runs_to_its_end_and_all_that_it_says_is_heard() {
        block_on(async move |_| {
            let (status, said) = run(
                &mut shell("read x; echo out; echo err >&2; exit 7"),
                PATIENCE,
            )
            .await
            .unwrap();
            assert_eq!(
                (status.code(), said.as_slice()),
                (Some(7), b"out\nerr\n".as_slice())
            );
            let (status, said) = run(&mut shell("head -c 1000000 /dev/zero"), PATIENCE)
                .await
                .unwrap();
            assert_eq!((status.code(), said.len()), (Some(0), OUTPUT_LIMIT));
            assert_eq!(
                run(&mut Command::new("/nonexistent"), PATIENCE)
                    .await
                    .unwrap_err()
                    .kind(),
                io::ErrorKind::NotFound
            );
        });
    }

    #[test]
    fn a_program_is_killed_and_reaped_when_its_time_is_up_or_nobody_waits() {
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
                drop(run(&mut script(&path), PATIENCE).await)
            })
            .await;
            let pid = std::fs::read_to_string(&path).unwrap();
            // Reaped by a later call at the latest: the drop waits for nothing.
            let start = now();
            while !gone(&pid) {
                assert!(now() - start < PATIENCE, "{pid} is still there");
                run(&mut shell(":"), PATIENCE).await.unwrap();
            }
            std::fs::remove_file(&path).unwrap();
        });
    }

    #[test]
    fn a_program_that_closes_its_output_and_lives_on_holds_up_nothing() {
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
                PATIENCE,
            )
            .await
            .unwrap();
            assert_eq!(
                (status.code(), output.as_slice()),
                (Some(7), b"out\n".as_slice())
            );
            assert!(
                turns.get() >= 5,
                "{} turns for others in 300 ms",
                turns.get()
            );
            let start = now();
            let error = run(&mut shell("exec >&- 2>&-; exec sleep 1000"), 10 * STEP)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(now() - start < PATIENCE / 2);
        });
    }
}
