//! The daemon's own confinement, from before the first call to its end: Landlock for files, seccomp
//! for system calls.
//!
//! It needs no mount namespace. One would hold on to the file systems of containers that are
//! mounted when the service starts, and would cost milliseconds at each start, by the number of
//! mounts of the host. systemctl and systemd-run inherit the confinement, so its rules are for
//! these two programs as well.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use crate::net::opener::{self, Starting};

mod calls;
mod filter;

/// The confinement that the command line asks for (`--sandbox`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As far as the kernel can; a refused system call fails with ENOSYS, as one that the kernel
    /// does not have.
    Auto,
    /// The same, and a refused system call ends the process with SIGSYS: for tests.
    Strict,
    /// None.
    Off,
}

/// The files that the confined process may use beside those that every program reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Directories below which it may read, make, write, replace and remove files and sockets.
    pub writable: &'a [&'a Path],
    /// Names of programs that it may run, looked up in `PATH`.
    pub programs: &'a [&'a str],
}

/// Confines the calling thread and all that it starts from then on, for good. Call it before the
/// first thread is started.
///
/// # Errors
///
/// The kernel has no system call filters, or refuses what it claims to have. Some of the
/// confinement may be in force then.
pub fn confine(mode: Mode, allowed: Allowed<'_>) -> io::Result<()> {
    if mode == Mode::Off {
        return Ok(());
    }
    let finding = calls::finding(mode)?;
    let opener = opener::start(move || calls::apply(&finding))?;
    if confine_files(allowed)? == RulesetStatus::NotEnforced {
        log::info!("the kernel has no Landlock: the sandbox restricts system calls, and no files");
    }
    calls::confine(mode, !allowed.programs.is_empty())?;
    opener.map_or(Ok(()), Starting::finish)
}

/// Returns the newest version of Landlock, up to the one that is used, that the kernel has and that
/// is on; `None` where there is none.
pub(crate) fn landlock_version() -> Option<u8> {
    let versions = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6];
    let has = |abi: &ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let with_files = ruleset.handle_access(AccessFs::from_all(*abi));
        with_files.and_then(Ruleset::create).is_ok()
    };
    (1..)
        .zip(&versions)
        .filter(|(_, abi)| has(abi))
        .last()
        .map(|(version, _)| version)
}

/// The version of Landlock whose rights are used; an older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// Directories of the root whose files are not read. In all others a network namespace may be
/// mounted, and Landlock takes that for a file.
const HIDDEN: [&str; 5] = ["boot", "dev", "home", "lost+found", "root"];

fn confine_files(allowed: Allowed<'_>) -> io::Result<RulesetStatus> {
    let failed = |error: RulesetError| io::Error::other(error);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|ruleset| ruleset.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let readable = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // What is found in the place of a file is moved aside, whatever it is: that takes the right to
    // make such a thing.
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
    // Input and output of programs that need none.
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
            // It needs no rule. Where it is missed later, that use of it fails and says so.
            Err(error) => log::debug!("no Landlock rule for {}: {error}", path.display()),
        }
    }
    Ok(ruleset.restrict_self().map_err(failed)?.ruleset)
}

/// Looks a program up in `PATH`, as execvp(3) does, and the dynamic loader of each that is found.
fn find(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or("/usr/bin:/bin".into());
    let programs = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file());
    programs
        .flat_map(|program| [loader(&program), Some(program)].into_iter().flatten())
        .collect()
}

/// Reads the path of the dynamic loader of an ELF program (elf(5), `PT_INTERP`), which execve(2)
/// opens for execution too.
fn loader(program: &Path) -> Option<PathBuf> {
    /// The program headers, and the path that one of them points to, come first in the file.
    const HEAD: u64 = 4096;
    const PT_INTERP: usize = 3;
    /// 64 bits, little endian: the processors that this program is built for.
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
        // The table of headers beyond all numbers.
        elf[32..40].fill(0xff);
        assert_eq!(loader(&file("far", &elf)), None);
        assert_eq!(loader(&file("script", b"#!/bin/sh\n")), None);
        assert_eq!(loader(folder.path()), None);
    }
}
