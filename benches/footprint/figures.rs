//! The figures of a program and its processes: memory, threads, descriptors, processor time, crates.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::subjects::SubjectKind;
use crate::subjects::lab::Result;
use crate::subjects::lab::daemon::Daemon;

/// The sums over some processes at one moment; memory in kB of 1024 bytes, as in /proc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Private pages, and the proportional share of shared ones (`Pss` in proc_pid_smaps(5)).
    pub proportional: u64,
    /// Heap and stacks as far as written to (`RssAnon` in proc_pid_status(5)).
    pub anonymous: u64,
    /// The same, and pages that the loader has written to (`Private_Dirty`).
    pub dirty: u64,
    /// All resident pages, shared or not (`Rss`).
    pub resident: u64,
    pub threads: u64,
    pub descriptors: u64,
}

impl Usage {
    pub fn of(processes: &[Daemon]) -> Result<Self> {
        let mut sum = Self::default();
        for process in processes {
            sum.proportional += process.memory("Pss")?;
            sum.anonymous += process.status("RssAnon")?;
            sum.dirty += process.memory("Private_Dirty")?;
            sum.resident += process.memory("Rss")?;
            sum.threads += process.status("Threads")?;
            sum.descriptors += u64::try_from(process.descriptors()?)?;
        }
        Ok(sum)
    }
}

/// Returns the processor time of all threads of a process, including ended ones.
pub fn processor_time(process: &Daemon) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process.id())?))?;
    Ok(clock.now()?.into())
}

/// Counts the crates that are compiled for a program, with its own and with macros. Returns `None`
/// without cargo or without the sources.
pub fn crates(kind: SubjectKind) -> Option<usize> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "tree",
        "--offline",
        "--locked",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    match kind {
        SubjectKind::Ours | SubjectKind::Static => {}
        // The twin uses neither, but the package depends on both.
        SubjectKind::Twin => {
            command.args([
                "--features",
                "tokio-twin",
                "--prune",
                "smol",
                "--prune",
                "async-io",
                "--prune",
                "async-net",
            ]);
        }
        SubjectKind::Netavark => {
            command.current_dir(netavark_source()?);
        }
    }
    let output = command.output().ok()?;
    let output = Some(output).filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut crates: Vec<_> = text.lines().collect();
    crates.sort_unstable();
    crates.dedup();
    Some(crates.len())
}

/// Returns the folder to which cargo has unpacked netavark.
fn netavark_source() -> Option<PathBuf> {
    let home = || Some(Path::new(&env::var_os("HOME")?).join(".cargo"));
    let sources = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)?
        .join("registry/src");
    let registries = fs::read_dir(sources)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()));
    registries
        .map(|registry| registry.join("netavark-2.1.0"))
        .find(|folder| folder.is_dir())
}
