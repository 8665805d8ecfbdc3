//! A program of others that serves DHCP in a namespace: started, killed, started again, and ended
//! with its value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::namespace::Namespace;
use super::{Result, Skip, eventually, sandbox};

/// A running program; dropped, it is killed.
#[derive(Debug)]
pub struct Program<'a> {
    namespace: &'a Namespace,
    command: Command,
    child: Child,
    log: PathBuf,
    ready: &'static str,
}

impl<'a> Program<'a> {
    /// Starts `command` in `namespace` and waits until it has said `ready` and holds the port of
    /// DHCP servers. What it says goes to a log in `folder`.
    pub fn start(
        namespace: &'a Namespace,
        mut command: Command,
        folder: &Path,
        ready: &'static str,
    ) -> Result<Self> {
        let log = folder.join("log");
        sandbox::keep_evidence(log.clone());
        let child = spawn(namespace, &mut command, &log)?;
        let mut program = Self {
            namespace,
            command,
            child,
            log,
            ready,
        };
        program.await_start(1)?;
        Ok(program)
    }

    fn await_start(&mut self, times: usize) -> Result {
        eventually("the DHCP server listens", Duration::from_secs(10), || {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!(
                    "{:?} left with {status}: {}",
                    self.command.get_program(),
                    self.log()?
                )
                .into());
            }
            // The first lines of /proc/net/udp: "sl  local_address ...", then "0: 0100580A:0043
            // ...".
            let ports = self
                .namespace
                .run(|| Ok(fs::read_to_string("/proc/thread-self/net/udp")?))?;
            Ok((self.count(self.ready)? >= times && ports.contains(":0043 ")).then_some(()))
        })
    }

    /// Kills it. Its files stay.
    pub fn stop(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`Program::stop`].
    pub fn start_again(&mut self) -> Result {
        let times = self.count(self.ready)?;
        self.child = spawn(self.namespace, &mut self.command, &self.log)?;
        self.await_start(times + 1)
    }

    /// All that it has said.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Returns how often `words` is in its log.
    pub fn count(&self, words: &str) -> Result<usize> {
        Ok(self.log()?.matches(words).count())
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(namespace: &Namespace, command: &mut Command, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    namespace.spawn(
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )
}

/// A program by its name, in PATH or where root's programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Returns the path of a program that a trial requires; skips the trial if it is missing, and names
/// the Debian package.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| {
        Skip::Lacking(format!("{program} is not installed (Debian: {package})")).into()
    })
}
