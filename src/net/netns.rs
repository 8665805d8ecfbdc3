//! A network namespace: opened with suspicion, entered for a moment, always left again.

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

/// What [`Netns::open`] found wrong with a path. Every text names the path.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path leads nowhere, or not for us; the text is the system's own.
    #[error("{path}: {source}", path = .path.display())]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// It is a file, a FIFO, a device, or the like.
    #[error("{path} is {what}, not a network namespace", path = .path.display())]
    NotANamespace {
        /// The path as it was given.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// It is a mount, user or other namespace.
    #[error("{path} is another kind of namespace, not a network namespace", path = .path.display())]
    OtherKind {
        /// The path as it was given.
        path: PathBuf,
    },
    /// It is a network namespace that this process may not enter.
    #[error("cannot enter the network namespace {path}: {source}", path = .path.display())]
    Enter {
        /// The path as it was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Which network namespace it is, whatever path led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of the kernel's namespace file system.
    pub dev: u64,
    /// The inode number; the kernel gives it to a new namespace as soon as the old one is gone.
    pub ino: u64,
    /// `SO_NETNS_COOKIE` (socket(7), Linux 5.14), which is never given twice before the next boot.
    pub cookie: Option<u64>,
}

/// An open network namespace. It lives at least as long as this does.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Opens the network namespace at `path`, a bind mount or a link below /proc, and proves that
    /// it can be entered.
    ///
    /// The path comes from a caller, so nothing is opened for reading before the kernel has said
    /// that it is a namespace: a FIFO would hang the thread, and a device might act on being
    /// opened.
    ///
    /// # Errors
    ///
    /// Returns [`NetnsError`], by what is wrong with the path or with the namespace.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open_error = |source| NetnsError::Open {
            path: path.into(),
            source,
        };
        // With O_PATH the file itself is not opened, only its place found (open(2)).
        let place = opener::find(path).map_err(os(&open_error))?;
        // The cast is for targets where the field has another width.
        if fstatfs(&place).map_err(os(&open_error))?.f_type as i64 != NSFS_MAGIC {
            let mode = fstat(&place).map_err(os(&open_error))?.st_mode;
            return Err(NetnsError::NotANamespace {
                path: path.into(),
                what: describe(FileType::from_raw_mode(mode)),
            });
        }
        // The very file that was looked at, even where the path leads elsewhere by now.
        let link = format!("/proc/self/fd/{}", place.as_raw_fd());
        let fd = openat(CWD, link, NAMESPACE_FLAGS, Mode::empty()).map_err(os(&open_error))?;
        // A bind-mounted namespace does not tell its kind by readlink(2), but setns(2) does: told
        // to expect a network namespace, it refuses every other with EINVAL before it changes
        // anything.
        let enter_error = |error: io::Error| match error.raw_os_error() {
            Some(libc::EINVAL) => NetnsError::OtherKind { path: path.into() },
            _ => NetnsError::Enter {
                path: path.into(),
                source: error,
            },
        };
        let cookie = visit(fd.as_fd(), cookie)
            .map_err(enter_error)?
            .map_err(enter_error)?;
        Self::identified(fd, cookie).map_err(open_error)
    }

    /// Returns the namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn current() -> io::Result<Self> {
        Self::identified(here()?, cookie()?)
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

    /// Which namespace it is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` with this thread inside the namespace, and comes back, also where `work` panics.
    ///
    /// `work` opens sockets and returns them; it must not start threads, which would stay behind.
    /// When the way back is barred from the start, it is an error and nothing has happened; when it
    /// fails afterwards, the process is in another network namespace with no way to tell which of its
    /// next acts go there, and aborts.
    ///
    /// # Errors
    ///
    /// Returns an error where the way back is barred from the start or the namespace cannot be
    /// entered; `work` has not run then.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        visit(self.fd.as_fd(), work)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The file system that namespaces are files of (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

const NAMESPACE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

fn here() -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        "/proc/thread-self/ns/net",
        NAMESPACE_FLAGS,
        Mode::empty(),
    )?)
}

fn visit<T>(there: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let home = Home(here()?);
    // Going where we are changes nothing, and shows whether we shall be let in again (setns(2):
    // CAP_SYS_ADMIN in the user namespace that owns it).
    home.go()?;
    move_into_link_name_space(there, Some(LinkNameSpaceType::Network))?;
    let _return = Return(&home);
    Ok(work())
}

struct Home(OwnedFd);

impl Home {
    fn go(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(
            self.0.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }
}

/// Goes home when it is dropped.
struct Return<'a>(&'a Home);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.go() {
            log::error!("cannot return to the daemon's own network namespace: {error}");
            std::process::abort();
        }
    }
}

/// The cookie of the namespace that this thread is in, where the kernel knows of cookies. That it
/// does not is the only failure to be overlooked: a namespace whose cookie could not be read, for
/// want of descriptors say, would look like another one.
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
