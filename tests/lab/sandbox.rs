//! The sandbox around a whole test process: namespaces in which it may do as it likes, and a
//! scratch folder that vanishes.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::Result;

static SCRATCH: OnceLock<PathBuf> = OnceLock::new();

/// Namespaces of our own, entered for good. Dropping it removes the scratch folder.
#[derive(Debug)]
pub struct Sandbox {
    scratch: PathBuf,
}

impl Sandbox {
    /// Enters a mount and a network namespace, and as an unprivileged user a user namespace around
    /// them.
    ///
    /// To be called before the process has a second thread: unshare(2) refuses a user namespace to
    /// a multithreaded process, and other threads would stay outside.
    pub fn enter() -> Result<Self> {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let network = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        // Root in a container may lack the capability, and is then an ordinary user.
        if !uid.is_root() || unshare(network).is_err() {
            unshare(network | CloneFlags::CLONE_NEWUSER)
                .map_err(|error| forbidden("unshare", error))?;
            // An ordinary user may map its group only after giving up setgroups
            // (user_namespaces(7)).
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
                .map_err(|error| forbidden("uid_map", error))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
                .map_err(|error| forbidden("gid_map", error))?;
        }
        // Nothing that is mounted here shall be seen outside. Slave, not private: what the host
        // unmounts goes here too.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_SLAVE,
            None::<&str>,
        )
        .map_err(|error| forbidden("mount", error))?;
        let scratch =
            std::env::temp_dir().join(format!("smol-dhcp-proxy-lab.{}", std::process::id()));
        fs::create_dir(&scratch)?;
        let sandbox = Self {
            scratch: scratch.clone(),
        };
        mount(
            Some("tmpfs"),
            &scratch,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .map_err(|error| forbidden("mount tmpfs", error))?;
        SCRATCH
            .set(scratch)
            .map_err(|_| "the sandbox is entered once")?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = umount2(&self.scratch, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.scratch);
    }
}

/// The scratch folder: a tmpfs that only this process and its children see, and that ends with
/// them.
pub fn scratch() -> &'static Path {
    SCRATCH
        .get()
        .expect("main enters the sandbox before anything else")
}

/// A new, empty folder in the scratch folder, its name beginning with `name`.
pub fn folder(name: &str) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = scratch().join(format!("{name}.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path)?;
    Ok(path)
}

thread_local! {
    static EVIDENCE: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// Remembers a log that tells, should what this thread does now go wrong, why.
pub fn keep_evidence(log: PathBuf) {
    EVIDENCE.with_borrow_mut(|logs| logs.push(log));
}

/// The ends of the logs that this thread kept since the last call.
pub fn take_evidence() -> String {
    let mut text = String::new();
    for log in EVIDENCE.take() {
        let Ok(all) = fs::read_to_string(&log) else {
            continue;
        };
        let lines: Vec<&str> = all.lines().collect();
        text += &format!("the end of {}:\n", log.display());
        for line in &lines[lines.len().saturating_sub(60)..] {
            text += &format!("    {line}\n");
        }
    }
    text
}

fn forbidden(call: &str, error: impl std::fmt::Display) -> String {
    format!(
        "this machine does not let this user make network namespaces ({call}: {error}). Run it as root, or allow user \
         namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns); in a container, start that one with --privileged"
    )
}
