//! A network namespace: opened by an untrusted path, and entered for the length of one call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::socket::GetSockOpt;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::opener;
use super::option::NetnsCookie;

/// The errors of [`Netns::open`]. Every text names the path.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path does not exist or is not accessible. The text is the system's own.
    #[error("{path}: {source}", path = .path.display())]
    Open {
        /// The path of the request.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The path names a file, a FIFO, a device, or the like.
    #[error("{path} is {what}, not a network namespace", path = .path.display())]
    NotANamespace {
        /// The path of the request.
        path: PathBuf,
        /// The kind of the file, such as `a FIFO`.
        what: &'static str,
    },
    /// The path names a mount, user or other namespace.
    #[error("{path} is another kind of namespace, not a network namespace", path = .path.display())]
    OtherKind {
        /// The path of the request.
        path: PathBuf,
    },
    /// This process must not enter the network namespace.
    #[error("cannot enter the network namespace {path}: {source}", path = .path.display())]
    Enter {
        /// The path of the request.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The identity of a network namespace, independent of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of the kernel's namespace file system.
    pub dev: u64,
    /// The inode number. The kernel reuses it for a new namespace as soon as the old one is gone.
    pub ino: u64,
    /// `SO_NETNS_COOKIE` (socket(7), Linux 5.14), which is unique until the next boot.
    pub cookie: Option<u64>,
}

/// An open network namespace, which exists at least as long as this handle.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Opens the network namespace at `path`, a bind mount or a link below /proc, and checks that
    /// it can be entered.
    ///
    /// The path comes from a client. So the file is opened for reading only after the kernel has
    /// identified it as a namespace: a FIFO would block the thread, and opening a device can have
    /// an effect.
    ///
    /// # Errors
    ///
    /// Returns [`NetnsError`], by the fault of the path or of the namespace.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open_error = |source| NetnsError::Open {
            path: path.into(),
            source,
        };
        // O_PATH resolves the path without opening the file (open(2)).
        let place = opener::find(path).map_err(os(&open_error))?;
        // Some targets have another width of the field.
        if fstatfs(&place).map_err(os(&open_error))?.f_type as i64 != NSFS_MAGIC {
            let mode = fstat(&place).map_err(os(&open_error))?.st_mode;
            return Err(NetnsError::NotANamespace {
                path: path.into(),
                what: describe(FileType::from_raw_mode(mode)),
            });
        }
        // The same file as before, even if the path has changed since.
        let link = format!("/proc/self/fd/{}", place.as_raw_fd());
        let fd = openat(CWD, link, NAMESPACE_FLAGS, Mode::empty()).map_err(os(&open_error))?;
        // readlink(2) does not tell the kind of a bind-mounted namespace. But setns(2) for a
        // network namespace fails with EINVAL for every other kind, and changes nothing then.
        let enter_error = |error: io::Error| match error.raw_os_error() {
            Some(libc::EINVAL) => NetnsError::OtherKind { path: path.into() },
            _ => NetnsError::Enter {
                path: path.into(),
                source: error,
            },
        };
        let cookie = run_inside(fd.as_fd(), cookie)
            .map_err(enter_error)?
            .map_err(enter_error)?;
        Self::identified(fd, cookie).map_err(open_error)
    }

    /// Returns the namespace of this thread.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn current() -> io::Result<Self> {
        Self::identified(open_current()?, cookie()?)
    }

    fn identified(fd: OwnedFd, cookie: Option<u64>) -> io::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self {
            fd,
            id: NetnsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
                cookie,
            },
        })
    }

    /// Returns the identity of the namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` with this thread inside the namespace, and returns to the thread's own namespace,
    /// even if `work` panics.
    ///
    /// `work` opens sockets and returns them. It must not start threads, which would stay in the
    /// namespace. If the return fails, the process aborts: its next system calls would act on the
    /// container's network.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread may not return to its own namespace or cannot enter the other
    /// one. `work` has not run then.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        run_inside(self.fd.as_fd(), work)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The magic number of the file system of namespaces (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

const NAMESPACE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

fn open_current() -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        "/proc/thread-self/ns/net",
        NAMESPACE_FLAGS,
        Mode::empty(),
    )?)
}

fn run_inside<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let own = OwnNamespace(open_current()?);
    // Entering the current namespace changes nothing, and fails if the return would fail (setns(2):
    // CAP_SYS_ADMIN in the user namespace that owns it).
    own.enter()?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
    let _return = ReturnOnDrop(&own);
    Ok(work())
}

/// The network namespace to return to.
struct OwnNamespace(OwnedFd);

impl OwnNamespace {
    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(
            self.0.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }
}

struct ReturnOnDrop<'a>(&'a OwnNamespace);

impl Drop for ReturnOnDrop<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.enter() {
            log::error!("cannot return to the daemon's own network namespace: {error}");
            std::process::abort();
        }
    }
}

/// Returns the cookie of this thread's namespace, or `None` if the kernel has no cookies. Every
/// other failure is an error: without its cookie, for example for want of descriptors, the namespace
/// would count as another one.
fn cookie() -> io::Result<Option<u64>> {
    let probe = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    match NetnsCookie.get(&probe) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(nix::errno::Errno::ENOPROTOOPT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn os(error: impl Fn(io::Error) -> NetnsError) -> impl FnOnce(rustix::io::Errno) -> NetnsError {
    move |errno| error(errno.into())
}

fn describe(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Symlink | FileType::Unknown => "a file of an unknown kind",
    }
}
