//! The kernel and the clock.

use std::time::Duration;
use std::{fs, io};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use super::{Diagnosis, failed, with_permission};
use crate::net::netns::Netns;
use crate::operator::text::date;
use crate::proxy::sandbox::{self, Enforced};
use crate::rt;

/// The earliest date that can be right, 2025-01-01: a clock without a battery starts in 1970.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

pub(super) fn findings() -> Vec<Diagnosis> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let packets = socket(AddressFamily::PACKET, SocketType::DGRAM, None);
    vec![
        kernel(release.trim(), packets.err()),
        namespaces(),
        sandbox(sandbox::supported()),
        clock(rt::wall_clock()),
    ]
}

/// Judges the kernel by its release, and by the error for a packet socket, without which there is no
/// DHCP before there is an address.
fn kernel(release: &str, no_packets: Option<Errno>) -> Diagnosis {
    const SUBJECT: &str = "kernel";
    match no_packets {
        None => Diagnosis::good(SUBJECT, format!("Linux {release}, with packet sockets")),
        Some(Errno::AFNOSUPPORT) => Diagnosis::problem(
            SUBJECT,
            format!("Linux {release} has no packet sockets"),
            "use a kernel with CONFIG_PACKET",
        ),
        Some(error) => failed(
            SUBJECT,
            format!("Linux {release}, packet socket"),
            &io::Error::from(error),
            "look for the reason in the kernel's log, with dmesg",
        ),
    }
}

fn namespaces() -> Diagnosis {
    const SUBJECT: &str = "namespaces";
    match Netns::current() {
        Ok(netns) if netns.id().cookie.is_some() => {
            Diagnosis::good(SUBJECT, "the kernel tells them apart by cookie")
        }
        Ok(_) => Diagnosis::note(
            SUBJECT,
            "the kernel has no SO_NETNS_COOKIE (Linux 5.14): they are told apart by inode, which is used again",
        ),
        Err(error) => failed(
            SUBJECT,
            "this network namespace",
            &error,
            "mount /proc, and use a kernel with CONFIG_NET_NS",
        ),
    }
}

/// Judges the parts of the sandbox that a trial has enforced.
fn sandbox(supported: io::Result<Enforced>) -> Diagnosis {
    const SUBJECT: &str = "sandbox";
    match supported {
        Err(error) => Diagnosis::unknown(
            SUBJECT,
            format!("it cannot be tried: {error}"),
            with_permission(),
        ),
        Ok(Enforced {
            landlock,
            seccomp: true,
        }) if landlock > 0 => Diagnosis::good(
            SUBJECT,
            format!("Landlock {landlock} and a system call filter"),
        ),
        Ok(Enforced { seccomp: true, .. }) => Diagnosis::note(
            SUBJECT,
            "a system call filter; Landlock is off or not in this kernel, so it restricts no files",
        )
        .with_advice("Linux 5.13 has it; lsm= on the kernel command line has to name it"),
        Ok(Enforced { seccomp: false, .. }) => Diagnosis::note(
            SUBJECT,
            "the kernel has no system call filters, so the daemon runs without a sandbox",
        )
        .with_advice("use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn clock(since_1970: Duration) -> Diagnosis {
    if since_1970 < EARLIEST {
        Diagnosis::note(
            "clock",
            format!(
                "{} is wrong; leases do not depend on the date, but timers by the date do",
                date(since_1970)
            ),
        )
    } else {
        Diagnosis::good("clock", date(since_1970))
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
    fn a_kernel_without_packet_sockets_is_a_problem_and_want_of_permission_is_none() {
        assert_eq!(kernel("6.1", None).verdict, Severity::Good);
        let of_errno = |errno| kernel("6.1", Some(errno)).verdict;
        assert_eq!(of_errno(Errno::AFNOSUPPORT), Severity::Problem);
        assert_eq!(of_errno(Errno::PERM), Severity::Unknown);
        assert_eq!(of_errno(Errno::NOMEM), Severity::Problem);
    }

    #[test]
    fn the_sandbox_is_told_as_it_was_tried() {
        let tried = |landlock, seccomp| sandbox(Ok(Enforced { landlock, seccomp }));
        assert_eq!(tried(4, true).text, "Landlock 4 and a system call filter");
        assert_eq!(tried(4, true).verdict, Severity::Good);
        assert_eq!(tried(0, true).verdict, Severity::Note);
        assert_eq!(tried(4, false).verdict, Severity::Note);
        let failed = sandbox(Err(io::ErrorKind::Other.into()));
        assert_eq!(failed.verdict, Severity::Unknown);
    }
}
