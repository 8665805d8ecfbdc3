//! What a daemon holds while nothing happens, ours beside the others: `cargo bench --bench footprint` (`-- --quick`).
//!
//! Each serves containers with a macvlan each in their own namespaces, and the real dnsmasq with `--no-ping` at the
//! other end of the host's parent link. The exit code is 1 where ours misses what was promised.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::process::ExitCode;

use subjects::lab::Result;
use subjects::lab::daemon::Daemon;
use subjects::{Extent, Kin, Promises, Subject, dnsmasq};

/// The most kilobytes (of 1000 bytes) that our stripped binary may have.
const MOST_KILOBYTES: f64 = 1300.0;

fn main() -> ExitCode {
    subjects::main(&[Kin::Ours, Kin::Static, Kin::Twin, Kin::Netavark], run)
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let leases = if extent == Extent::Full { 30 } else { 4 };
    let mut promises = Promises::new();
    for subject in subjects {
        let stage = subject.stage(leases, &[])?;
        let _server = dnsmasq(&stage.topology)?;
        let size = subject.stripped_size()? as f64 / 1000.0;
        let idle = Memory::of(&stage.daemon)?;
        for container in 0..leases.into() {
            stage.setup(container)?;
        }
        // What is open for a moment after a lease is not what it costs to keep.
        for container in &stage.topology.containers {
            container.namespace.await_rest()?;
        }
        let leased = Memory::of(&stage.daemon)?;
        println!("{:10} {size:8.0} kB\n  idle       {idle:?}\n  {leases:3} leases {leased:?}", subject.name);
        if subject.kin == Kin::Ours {
            promises.at_most("kB stripped", size, MOST_KILOBYTES);
        }
        for container in 0..leases.into() {
            stage.teardown(container)?;
        }
    }
    Ok(promises.kept)
}

/// What a process holds at one moment; memory in kB of 1024 bytes.
#[derive(Debug)]
#[expect(dead_code, reason = "printed as it is")]
struct Memory {
    pss: u64,
    anonymous: u64,
    threads: u64,
    descriptors: usize,
}

impl Memory {
    fn of(daemon: &Daemon) -> Result<Self> {
        let descriptors = daemon.settled_descriptors()?.len();
        Ok(Self {
            pss: daemon.proportional_memory()?,
            anonymous: daemon.status("RssAnon")?,
            threads: daemon.status("Threads")?,
            descriptors,
        })
    }
}
