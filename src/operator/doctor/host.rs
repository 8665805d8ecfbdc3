//! The directory and its files, the kernel, and the clock.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Diagnosis;
use crate::net::netns::Netns;
use crate::proxy::sandbox;
use crate::proxy::store::directory::Directory;
use crate::proxy::store::lease_file::Peeked;
use crate::rt;

/// The earliest date that can be right, 2025-01-01: a clock without a battery starts in 1970.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

pub(super) fn findings(directory: &Path, lease_file: &Path) -> Vec<Diagnosis> {
    vec![
        folder(directory),
        leases(lease_file),
        kernel(),
        cookies(),
        landlock(),
        clock(rt::wall_clock()),
    ]
}

fn folder(directory: &Path) -> Diagnosis {
    let path = directory.display();
    match Directory::at(directory) {
        Err(error) => Diagnosis::problem(
            "directory",
            format!("{path}: {error}"),
            format!("make it as root: install -d -m 755 {path}"),
        ),
        Ok(opened) => match opened.distrust() {
            Some(why) => Diagnosis::problem(
                "directory",
                format!("{path} {why}: no file in it is believed, and leases end with the process"),
                format!("chown root {path} && chmod 755 {path}"),
            ),
            None => Diagnosis::good("directory", path.to_string()),
        },
    }
}

fn leases(lease_file: &Path) -> Diagnosis {
    match Peeked::read(lease_file) {
        Ok(None) => Diagnosis::note(
            "state file",
            "there is none: no daemon has run here since it was made",
        ),
        Ok(Some(Peeked {
            trouble: Some(why), ..
        })) => Diagnosis::problem(
            "state file",
            format!("it cannot be read to its end: {why}"),
            "start the daemon: it keeps the file as nv-proxy.state.unused and goes on with what it can read",
        ),
        Ok(Some(peeked)) => {
            Diagnosis::good("state file", format!("{} leases", peeked.leases.len()))
        }
        Err(error) => Diagnosis::problem("state file", error.to_string(), "run doctor as root"),
    }
}

fn kernel() -> Diagnosis {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Diagnosis::good("kernel", release.trim())
}

fn cookies() -> Diagnosis {
    match Netns::current() {
        Ok(netns) if netns.id().cookie.is_some() => {
            Diagnosis::good("namespaces", "the kernel tells them apart by cookie")
        }
        Ok(_) => Diagnosis::note(
            "namespaces",
            "the kernel has no SO_NETNS_COOKIE (Linux 5.14): they are told apart by inode, which is used again",
        ),
        Err(error) => Diagnosis::problem("namespaces", error.to_string(), "run doctor as root"),
    }
}

fn landlock() -> Diagnosis {
    match sandbox::landlock_version() {
        Some(version) => Diagnosis::good("sandbox", format!("Landlock {version}, and system call filters")),
        None => Diagnosis::note(
            "sandbox",
            "Landlock is off or not in this kernel: the sandbox restricts system calls, and no files",
        )
        .with_advice("Linux 5.13 has it; lsm= on the kernel command line has to name it"),
    }
}

fn clock(since_1970: Duration) -> Diagnosis {
    if since_1970 < EARLIEST {
        Diagnosis::note(
            "clock",
            "the date is wrong; leases do not depend on it, but timers by the date do",
        )
    } else {
        Diagnosis::good("clock", super::super::text::date(since_1970))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::diagnosis::Severity;

    #[test]
    fn a_date_before_the_program_was_written_is_noted() {
        assert_eq!(clock(Duration::ZERO).verdict, Severity::Note);
        assert_eq!(clock(EARLIEST).verdict, Severity::Good);
    }

    #[test]
    fn a_directory_that_others_may_write_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(super::folder(folder.path()).verdict, Severity::Good);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), mode).unwrap();
        assert_eq!(super::folder(folder.path()).verdict, Severity::Problem);
        assert_eq!(
            super::folder(Path::new("/nonexistent")).verdict,
            Severity::Problem
        );
    }

    #[test]
    fn a_damaged_state_file_is_a_problem_and_a_missing_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let lease_file = folder.path().join("nv-proxy.lease");
        assert_eq!(leases(&lease_file).verdict, Severity::Note);
        fs::write(folder.path().join("nv-proxy.state"), "{").unwrap();
        assert_eq!(leases(&lease_file).verdict, Severity::Problem);
    }
}
