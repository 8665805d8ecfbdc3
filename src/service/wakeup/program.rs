//! Runs systemd's programs, and reads their output.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use signal_hook::consts::SIGTERM;

use crate::rt;

/// The timeout of one of systemd's programs. They take milliseconds, except while the machine boots.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(10);

/// The most runs of a program that SIGTERM ends. systemd sends SIGTERM to the main process first and
/// then to the other processes of the service (systemd.kill(5)). By then they may include the first
/// program that the main process starts because of the signal.
const MAX_RUNS: usize = 3;

/// The result of a program.
pub(super) struct ProgramOutput {
    program: String,
    pub(super) status: ExitStatus,
    output: String,
}

impl ProgramOutput {
    /// Returns the output of a successful run. A failure becomes an error with the first line of
    /// the output.
    pub(super) fn expect_success(self) -> io::Result<String> {
        if self.status.success() {
            return Ok(self.output);
        }
        let Self {
            program,
            status,
            output,
        } = self;
        Err(io::Error::other(match output.lines().next() {
            Some(line) => format!("{program}: {line}"),
            None => format!("{program}: {status}"),
        }))
    }
}

/// Runs a program to its end.
pub(super) async fn output(mut command: Command) -> io::Result<ProgramOutput> {
    let program = command.get_program().to_string_lossy().into_owned();
    for _ in 0..MAX_RUNS {
        let (status, output) = rt::run(&mut command, PROGRAM_TIMEOUT)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        if status.signal() != Some(SIGTERM) {
            return Ok(ProgramOutput {
                program,
                status,
                output: String::from_utf8_lossy(&output).into_owned(),
            });
        }
    }
    Err(io::Error::other(format!("{program}: ended by SIGTERM")))
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    #[test]
    fn a_failure_has_the_first_line_of_the_output() {
        rt::block_on(async move |_| {
            let shell = |script: &str| {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                output(command)
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
            let missing = output(Command::new("/nonexistent")).await.err().unwrap();
            assert!(
                missing.to_string().starts_with("/nonexistent: "),
                "{missing}"
            );
        });
    }

    #[test]
    fn a_program_that_sigterm_ends_is_started_again() {
        let path = env::temp_dir().join(format!("wakeup-test-{}", std::process::id()));
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(r#"test -e "$0" && echo second || { touch "$0"; kill -TERM $$; }"#)
            .arg(&path);
        let answer = rt::block_on(async move |_| output(command).await).unwrap();
        assert_eq!(answer.expect_success().unwrap(), "second\n");
        fs::remove_file(path).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "kill -TERM $$"]);
        let error = rt::block_on(async move |_| output(command).await)
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "sh: ended by SIGTERM");
    }
}
