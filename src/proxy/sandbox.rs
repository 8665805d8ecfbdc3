//! The process's own sandbox, in force before the first call: Landlock for files, seccomp for
//! system calls.
//!
//! A mount namespace is not used. It would keep file systems of containers mounted that exist when
//! the service starts, and would cost milliseconds per start on a host with many mounts. systemctl
//! and systemd-run inherit the sandbox, so its rules allow for both.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use crate::net::opener::{self, Starting};

mod calls;
mod filter;

/// The sandbox that `--sandbox` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As much as the kernel supports; a refused system call fails with ENOSYS.
    Auto,
    /// The same, but a refused system call kills the process with SIGSYS: for tests.
    Strict,
    /// No sandbox.
    Off,
}

/// The files that the process may use beside those readable for every program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Directories in which it may read, create, write, replace and remove files and sockets.
    pub writable: &'a [&'a Path],
    /// Programs that it may execute, looked up in `PATH`.
    pub programs: &'a [&'a str],
}

/// The parts of the sandbox that are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// The version of Landlock; 0 for none.
    pub landlock: u32,
    /// There is a system call filter.
    pub seccomp: bool,
}

/// Confines the calling thread and everything that it starts later, irrevocably. To be called
/// before the first thread is started.
///
/// # Errors
///
/// The kernel has no seccomp filters, or rejects a supported feature. Part of the sandbox may be in
/// force then.
pub fn confine(mode: Mode, allowed: Allowed<'_>) -> io::Result<Enforced> {
    if mode == Mode::Off {
        return Ok(Enforced::default());
    }
    let opener_filter = calls::opener_filter(mode)?;
    let opener = opener::start(move || calls::apply(&opener_filter))?;
    let landlock = confine_files(allowed)?;
    if landlock == 0 {
        log::info!("the kernel has no Landlock: the sandbox restricts system calls, and no files");
    }
    calls::confine(mode, !allowed.programs.is_empty())?;
    opener.map_or(Ok(()), Starting::finish)?;
    Ok(Enforced {
        landlock,
        seccomp: true,
    })
}

/// Returns the parts of the sandbox that [`confine`] can enforce here. A thread of its own tries them,
/// and ends; this one is not confined.
///
/// # Errors
///
/// The thread cannot be started, or a part fails for another reason than that the kernel lacks it.
pub(crate) fn supported() -> io::Result<Enforced> {
    let trial = || -> io::Result<Enforced> {
        Ok(Enforced {
            landlock: confine_files(Allowed::default())?,
            seccomp: calls::confine(Mode::Auto, false).is_ok(),
        })
    };
    let thread = thread::Builder::new().spawn(trial)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the trial of the sandbox failed")))
}

/// The Landlock version; an older kernel enforces the rights that it knows.
const LANDLOCK: ABI = ABI::V6;

/// Directories of `/` that are not readable. All others are, because a network namespace may be
/// mounted in any of them, and Landlock treats it as a file.
const HIDDEN: [&str; 5] = ["boot", "dev", "home", "lost+found", "root"];

/// Returns the version of Landlock that is in force; 0 for none.
fn confine_files(allowed: Allowed<'_>) -> io::Result<u32> {
    let failed = |error: RulesetError| io::Error::other(error);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|ruleset| ruleset.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let readable = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // A file of any type in the place of a state file is moved aside, which takes the right to
    // create that type.
    let writable = readable
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeSock | MakeDir | MakeFifo | MakeSym | Refer
        });
    let executable = make_bitflags!(AccessFs::{Execute | ReadFile});
    let directories = allowed
        .writable
        .iter()
        .map(|path| (path.to_path_buf(), writable));
    let programs = allowed
        .programs
        .iter()
        .flat_map(|name| find(name))
        .map(|path| (path, executable));
    // For child processes without input or output.
    let null = (
        PathBuf::from("/dev/null"),
        make_bitflags!(AccessFs::{ReadFile | WriteFile}),
    );
    let root = fs::read_dir("/")?.collect::<io::Result<Vec<_>>>()?;
    let shown = root
        .iter()
        .filter(|entry| !HIDDEN.iter().any(|&name| entry.file_name() == name));
    let others = shown.map(|entry| (entry.path(), readable));
    for (path, access) in directories.chain(programs).chain(others).chain([null]) {
        match PathFd::new(&path) {
            Ok(file) => {
                ruleset = ruleset
                    .add_rule(PathBeneath::new(file, access))
                    .map_err(failed)?
            }
            // No rule is needed. If the file is used later, that fails with an error of its own.
            Err(error) => log::debug!("no Landlock rule for {}: {error}", path.display()),
        }
    }
    let status = ruleset.restrict_self().map_err(failed)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi.min(LANDLOCK) as u32,
        (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => 0,
    })
}

/// Looks up a program in `PATH` as execvp(3) does. Returns its path and that of its dynamic loader.
fn find(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or("/usr/bin:/bin".into());
    let programs = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file());
    programs
        .flat_map(|program| [loader(&program), Some(program)].into_iter().flatten())
        .collect()
}

/// Returns the dynamic loader of an ELF program (elf(5), `PT_INTERP`), which execve(2) executes as
/// well.
fn loader(program: &Path) -> Option<PathBuf> {
    /// The part of the file that has the program headers and the loader's path.
    const HEAD: u64 = 4096;
    const PT_INTERP: usize = 3;
    /// 64 bits, little endian, as on all supported processors.
    const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    let mut head = Vec::new();
    File::open(program)
        .ok()?
        .take(HEAD)
        .read_to_end(&mut head)
        .ok()?;
    let bytes = |at: usize, length: usize| head.get(at..at.checked_add(length)?);
    let number = |at, length| {
        let mut number = [0; 8];
        number[..length].copy_from_slice(bytes(at, length)?);
        usize::try_from(u64::from_le_bytes(number)).ok()
    };
    if bytes(0, MAGIC.len())? != MAGIC {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let header = (0..count)
        .map_while(|index| table.checked_add(index * size))
        .find(|&header| number(header, 4) == Some(PT_INTERP))?;
    let path = bytes(number(header + 8, 8)?, number(header + 32, 8)?)?;
    fs::canonicalize(OsStr::from_bytes(path.strip_suffix(b"\0")?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_supported_is_tried_by_another_thread() {
        let folder = tempfile::tempdir().unwrap();
        let tried = supported().unwrap();
        // This thread is as before: Landlock would forbid that.
        fs::write(folder.path().join("file"), "").unwrap();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("\nSeccomp:\t0\n"), "{status}");
        // The versions 3 and 4 have the same rights to files, and so have 5 and 6: each is as the
        // kernel says.
        let enforced = thread::spawn(|| {
            let rights = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1));
            rights.and_then(Ruleset::create)?.restrict_self()
        });
        let expected = match enforced.join().unwrap().map(|status| status.landlock) {
            Ok(LandlockStatus::Available { effective_abi, .. }) => effective_abi as u32,
            _ => 0,
        };
        assert_eq!(tried.landlock, expected.min(6));
    }

    #[test]
    fn the_loader_of_a_program_is_found_and_a_file_without_one_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf.extend([3, 0, 0, 0, 5, 0, 0, 0]);
        elf.extend(120_u64.to_le_bytes());
        elf.extend([0; 16]);
        elf.extend(4_u64.to_le_bytes());
        elf.extend([0; 16]);
        elf.extend(b"/..\0");
        assert_eq!(loader(&file("elf", &elf)), Some(PathBuf::from("/")));
        for length in 0..elf.len() {
            assert_eq!(loader(&file("short", &elf[..length])), None, "{length}");
        }
        // A header table out of range.
        elf[32..40].fill(0xff);
        assert_eq!(loader(&file("far", &elf)), None);
        assert_eq!(loader(&file("script", b"#!/bin/sh\n")), None);
        assert_eq!(loader(folder.path()), None);
    }
}
