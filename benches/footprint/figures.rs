//! What a program and its processes cost: memory, threads, descriptors, time of the processor,
//! crates.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::subjects::Kin;
use crate::subjects::lab::Result;
use crate::subjects::lab::daemon::Daemon;

/// What processes hold at one moment, together; memory in kB of 1024 bytes, as /proc has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Pages of their own, and their part of those that they share (`Pss` in proc_pid_smaps(5)).
    pub proportional: u64,
    /// What they have allocated and written to: heap, stacks (`RssAnon` in proc_pid_status(5)).
    pub anonymous: u64,
    /// The same and what the loader has written to (`Private_Dirty`).
    pub dirty: u64,
    /// All pages that are there, shared or not (`Rss`).
    pub resident: u64,
    pub threads: u64,
    pub descriptors: u64,
}

impl Held {
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

/// The time that all threads of a process have had of the processor, those that have ended too.
pub fn processor_time(process: &Daemon) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process.id())?))?;
    Ok(clock.now()?.into())
}

/// The crates that are compiled for a program, itself and macros among them; nothing where there is
/// no cargo, or the sources are not there.
pub fn crates(kin: Kin) -> Option<usize> {
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
    match kin {
        Kin::Ours | Kin::Static => {}
        // The package still names what the twin does without.
        Kin::Twin => {
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
        Kin::Netavark => {
            command.current_dir(netavark_source()?);
        }
    }
    let said = command.output().ok().filter(|said| said.status.success())?;
    let text = String::from_utf8(said.stdout).ok()?;
    let mut crates: Vec<_> = text.lines().collect();
    crates.sort_unstable();
    crates.dedup();
    Some(crates.len())
}

/// Where cargo has unpacked it.
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
