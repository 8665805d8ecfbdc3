//! Adopts the listening sockets that systemd opened for this process (sd_listen_fds(3)).

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, io};

use rustix::fs::FileType;
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::{AnyListener, Error, Socket};

/// The first inherited descriptor; the others follow without a gap.
const FIRST: RawFd = 3;

/// The name of a descriptor that was given none (sd_listen_fds_with_names(3)).
pub(super) const NAMELESS: &str = "unknown";

/// Adopts the sockets that systemd handed to this process, in order. Returns an empty list if the
/// environment names none: a manual start.
///
/// Each descriptor must be a listening stream socket, Unix or TCP, and becomes close-on-exec. Call
/// this before the process opens descriptors of its own, and once: a second call fails if the first
/// one found sockets. The environment stays unchanged, because only a single-threaded program can
/// change it safely; LISTEN_PID keeps child processes from adopting the same numbers.
///
/// # Errors
///
/// [`Error::Environment`] for a malformed variable; [`Error::Descriptor`] for a descriptor of
/// another kind, which stays open because it has another owner; [`Error::Taken`] at the second call.
///
/// ```
/// use smol_dhcp_proxy::service::activation;
///
/// // A shell hands over no sockets.
/// assert!(activation::listen_fds()?.is_empty());
/// # Ok::<(), smol_dhcp_proxy::service::Error>(())
/// ```
pub fn listen_fds() -> Result<Vec<Socket>, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);

    let inherited = parse(std::process::id(), own_pidfd_id, |name| env::var_os(name))?;
    let Some(inherited) = inherited else {
        return Ok(Vec::new());
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::Taken);
    }
    let mut names = inherited.names.into_iter();
    (FIRST..FIRST + inherited.count)
        .map(|fd| {
            let listener = adopt(fd)?;
            let name = names.next().unwrap_or_else(|| NAMELESS.to_owned());
            Ok(Socket::activated(name, listener))
        })
        .collect()
}

/// The descriptors that the environment assigns to this process.
#[derive(Debug, PartialEq, Eq)]
struct Inherited {
    count: RawFd,
    /// Either `count` names or none.
    names: Vec<String>,
}

/// Parses the variables of the protocol. Returns `None` if they are not for the process `pid`.
fn parse(
    pid: u32,
    own_pidfd_id: impl FnOnce() -> Option<u64>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Inherited>, Error> {
    let text = |name, expected| match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(value)) => Err(Error::Environment {
            variable: name,
            value: value.to_string_lossy().into_owned(),
            expected,
        }),
    };
    let number = |name, expected| {
        let Some(value) = text(name, expected)? else {
            return Ok(None);
        };
        match value.parse::<u64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Environment {
                variable: name,
                value,
                expected,
            }),
        }
    };

    match number("LISTEN_PID", "a process id")? {
        None => return Ok(None),
        Some(for_pid) if for_pid == u64::from(pid) => {}
        Some(for_pid) => {
            log::debug!(
                "ignoring the inherited sockets: they are for process {for_pid}, and this is {pid}"
            );
            return Ok(None);
        }
    }
    // The kernel reuses process ids, but not pidfd ids. Where it has no pidfd ids, the process id
    // decides.
    if let Some(for_id) = number("LISTEN_PIDFDID", "the inode number of a pidfd")?
        && let Some(own_id) = own_pidfd_id()
        && for_id != own_id
    {
        log::debug!(
            "ignoring the inherited sockets: they are for pidfd {for_id}, and this is {own_id}"
        );
        return Ok(None);
    }

    let Some(count) = number("LISTEN_FDS", "a number of descriptors")?.filter(|&count| count > 0)
    else {
        return Ok(None);
    };
    let count = RawFd::try_from(count)
        .ok()
        .filter(|count| count.checked_add(FIRST).is_some())
        .ok_or_else(|| Error::Environment {
            variable: "LISTEN_FDS",
            value: count.to_string(),
            expected: "a number of descriptors",
        })?;
    let Some(value) = text("LISTEN_FDNAMES", "names separated by colons")? else {
        return Ok(Some(Inherited {
            count,
            names: Vec::new(),
        }));
    };
    let names: Vec<_> = value.split(':').map(str::to_owned).collect();
    if RawFd::try_from(names.len()) == Ok(count) {
        return Ok(Some(Inherited { count, names }));
    }
    Err(Error::Environment {
        variable: "LISTEN_FDNAMES",
        value,
        expected: "as many names as LISTEN_FDS says",
    })
}

/// Returns the inode number of this process in pidfs, unique since boot; `None` before Linux 6.9.
fn own_pidfd_id() -> Option<u64> {
    /// `PID_FS_MAGIC` of linux/magic.h. On older kernels all pidfds share one inode.
    const PIDFS: u64 = 0x5049_4446;

    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let kind = rustix::fs::fstatfs(&pidfd).ok()?.f_type;
    (u64::try_from(kind) == Ok(PIDFS))
        .then(|| rustix::fs::fstat(&pidfd).ok().map(|stat| stat.st_ino))?
}

/// Takes ownership of the inherited descriptor `number`.
fn adopt(number: RawFd) -> Result<AnyListener, Error> {
    #[expect(
        unsafe_code,
        reason = "an inherited descriptor is known only by its number"
    )]
    // SAFETY: LISTEN_PID says that `number` was opened for this process, and `listen_fds` calls
    // this once for each number. A descriptor that fails the check, such as a number that is not
    // open, is forgotten instead of closed.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };

    let checked = check(fd.as_fd()).and_then(|family| {
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(family)
    });
    let is = match checked {
        Ok(Family::Unix) => return Ok(AnyListener::Unix(UnixListener::from(fd))),
        Ok(Family::Internet) => return Ok(AnyListener::Tcp(TcpListener::from(fd))),
        Err(error) => error.to_string(),
    };
    let _ = fd.into_raw_fd();
    Err(Error::Descriptor { fd: number, is })
}

/// The families of stream sockets that a service accepts connections from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Unix,
    Internet,
}

/// Returns the family of a listening stream socket. For any other descriptor the text of the error
/// is its kind.
fn check(fd: BorrowedFd<'_>) -> io::Result<Family> {
    let kind = match rustix::fs::fstat(fd) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::BADF) => return Err(io::Error::other("not open")),
        Err(error) => return Err(error.into()),
    };
    if kind != FileType::Socket {
        return Err(io::Error::other(match kind {
            FileType::RegularFile => "a regular file",
            FileType::Directory => "a directory",
            FileType::Fifo => "a pipe",
            FileType::CharacterDevice => "a character device",
            _ => "not a socket",
        }));
    }
    let (family, is_of_another_type) = match sockopt::socket_domain(fd)? {
        AddressFamily::UNIX => (Family::Unix, "a Unix socket of another type"),
        AddressFamily::INET | AddressFamily::INET6 => (
            Family::Internet,
            "an Internet socket of another type than TCP",
        ),
        _ => return Err(io::Error::other("a socket of another family")),
    };
    if sockopt::socket_type(fd)? != SocketType::STREAM {
        return Err(io::Error::other(is_of_another_type));
    }
    if !sockopt::socket_acceptconn(fd)? {
        return Err(io::Error::other(
            "a stream socket that does not listen (Accept=yes in the socket unit hands over connections)",
        ));
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

    use super::*;

    const PID: u32 = 4711;

    /// Parses `variables` for process 4711 with the pidfd id 99.
    fn read(variables: &[(&str, &str)]) -> Result<Option<(RawFd, Vec<String>)>, String> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        };
        parse(PID, || Some(99), variable)
            .map(|found| found.map(|h| (h.count, h.names)))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn without_inherited_sockets_the_start_is_manual() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("LISTEN_FDS", "1")]), Ok(None));
        assert_eq!(read(&[("LISTEN_PID", "4711")]), Ok(None));
        assert_eq!(
            read(&[("LISTEN_PID", "4711"), ("LISTEN_FDS", "0")]),
            Ok(None)
        );
    }

    #[test]
    fn descriptors_come_with_their_names() {
        let unnamed = [("LISTEN_PID", "4711"), ("LISTEN_FDS", "2")];
        assert_eq!(read(&unnamed), Ok(Some((2, vec![]))));
        let named = [
            ("LISTEN_PID", "4711"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "one:"),
        ];
        assert_eq!(read(&named), Ok(Some((2, vec!["one".into(), "".into()]))));
    }

    #[test]
    fn sockets_for_another_process_are_ignored() {
        assert_eq!(
            read(&[("LISTEN_PID", "4712"), ("LISTEN_FDS", "1")]),
            Ok(None)
        );
        assert_eq!(
            read(&[("LISTEN_PID", "4712"), ("LISTEN_FDS", "garbage")]),
            Ok(None)
        );
        let fds = [("LISTEN_PID", "4711"), ("LISTEN_FDS", "1")];
        assert_eq!(read(&[fds[0], fds[1], ("LISTEN_PIDFDID", "98")]), Ok(None));
        assert_eq!(
            read(&[fds[0], fds[1], ("LISTEN_PIDFDID", "99")]),
            Ok(Some((1, vec![])))
        );
        // On a kernel without pidfd ids, the process id decides.
        let unknown = parse(
            PID,
            || None,
            |name| match name {
                "LISTEN_PID" => Some("4711".into()),
                _ => Some("1".into()),
            },
        );
        assert_eq!(
            unknown.unwrap(),
            Some(Inherited {
                count: 1,
                names: vec!["1".into()]
            })
        );
    }

    #[test]
    fn a_malformed_variable_is_named_in_the_error() {
        use std::os::unix::ffi::OsStringExt;

        let pid = ("LISTEN_PID", "4711");
        let error = |variables: &[(&str, &str)]| read(variables).unwrap_err();
        assert_eq!(
            error(&[("LISTEN_PID", "me")]),
            r#"LISTEN_PID is "me", expected a process id"#
        );
        assert_eq!(
            error(&[pid, ("LISTEN_FDS", "-1")]),
            r#"LISTEN_FDS is "-1", expected a number of descriptors"#
        );
        assert!(error(&[pid, ("LISTEN_FDS", "")]).contains("LISTEN_FDS"));
        assert!(error(&[pid, ("LISTEN_FDS", "2147483645")]).contains("LISTEN_FDS"));
        assert!(error(&[pid, ("LISTEN_FDS", "99999999999999999999")]).contains("LISTEN_FDS"));
        assert!(error(&[pid, ("LISTEN_PIDFDID", "x")]).contains("LISTEN_PIDFDID"));
        assert!(
            error(&[pid, ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "a:b")])
                .contains("LISTEN_FDNAMES")
        );
        let binary = parse(PID, || None, |_| Some(OsString::from_vec(vec![0xff])));
        assert!(matches!(
            binary,
            Err(Error::Environment {
                variable: "LISTEN_PID",
                ..
            })
        ));
    }

    #[test]
    fn the_pidfd_id_of_a_process_is_stable() {
        assert_eq!(own_pidfd_id(), own_pidfd_id());
    }

    #[test]
    fn only_listening_stream_sockets_pass() {
        let is = |fd: BorrowedFd<'_>| check(fd).map_err(|error| error.to_string());
        let why = |fd: BorrowedFd<'_>| is(fd).unwrap_err();
        let name = format!("activation-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let unix = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(is(unix.as_fd()), Ok(Family::Unix));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // The second fails on a machine without IPv6.
            if let Ok(tcp) = TcpListener::bind(address) {
                assert_eq!(is(tcp.as_fd()), Ok(Family::Internet));
            }
        }
        assert!(why(UnixStream::pair().unwrap().0.as_fd()).contains("does not listen"));
        let datagram = UnixDatagram::unbound().unwrap();
        assert!(why(datagram.as_fd()).contains("a Unix socket of another type"));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(why(udp.as_fd()).contains("an Internet socket of another type"));
        let netlink = rustix::net::socket(AddressFamily::NETLINK, SocketType::DGRAM, None).unwrap();
        assert!(why(netlink.as_fd()).contains("another family"));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(why(null.as_fd()).contains("character device"));
        assert!(why(std::io::pipe().unwrap().0.as_fd()).contains("pipe"));
    }
}
