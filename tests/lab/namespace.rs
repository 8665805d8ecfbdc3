//! A network namespace of our own, with a path by which another process can open it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::{Result, eventually, links, sandbox};

/// A network namespace, its loopback up. Dropping it removes it, unless it is in use elsewhere.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Makes a namespace; `name` is for people.
    pub fn new(name: &str) -> Result<Self> {
        let path = sandbox::folder(name)?.join("net");
        fs::write(&path, "")?;
        Ok(Self {
            file: make(&path)?,
            path,
        })
    }

    /// Deletes it, and makes another one under the same path.
    pub fn replace(&mut self) -> Result {
        umount2(&self.path, MntFlags::MNT_DETACH)?;
        self.file = make(&self.path)?;
        Ok(())
    }

    /// The path by which another process of the sandbox can open it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace, for links that are to move here.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        alone(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Starts a program inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| {
            command
                .spawn()
                .map_err(|error| format!("{command:?}: {error}").into())
        })
    }

    /// Waits until no packet socket is left here: the daemon listens for two more seconds after a
    /// lease.
    pub fn await_rest(&self) -> Result {
        eventually(
            "the packet sockets are closed",
            Duration::from_secs(5),
            || {
                let sockets =
                    self.run(|| Ok(fs::read_to_string("/proc/thread-self/net/packet")?))?;
                // The first line is a heading.
                Ok((sockets.lines().count() <= 1).then_some(()))
            },
        )
    }

    /// A counter of `/proc/net/snmp`, such as `("Icmp", "OutDestUnreachs")`.
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        let text = self.run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        // Two lines each: the names, then the numbers.
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
        let (names, values) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let column = names.split_whitespace().position(|column| column == name);
        let value = column.and_then(|column| values.split_whitespace().nth(column));
        Ok(value
            .ok_or_else(|| format!("no {name} in /proc/net/snmp"))?
            .parse()?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a namespace that can be opened at `path`, where there is a file.
fn make(path: &Path) -> Result<File> {
    // A thread that leaves for the new namespace and ends there; the descriptor and the mount keep
    // it alive.
    alone(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let current = "/proc/thread-self/ns/net";
        mount(
            Some(current),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        links::set_up("lo")?;
        Ok(File::open(current)?)
    })
}

/// Runs `work` on a thread of its own, so that no other thread enters its namespaces.
fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
