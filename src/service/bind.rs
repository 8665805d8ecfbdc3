//! Manual mode: a listening socket where nobody hands one over.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Error, Socket};

/// What a socket address holds (unix(7): `sun_path` has 108 bytes, and the last one ends the string).
pub(super) const LONGEST_PATH: usize = 107;

/// The owner and its group may connect.
const MODE: Mode = Mode::from_raw_mode(0o660);

/// The kernel cuts it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How often and in what steps to wait for another start that is at work in the same directory: it takes microseconds.
const LOCK_TRIES: u32 = 100;
const LOCK_STEP: Duration = Duration::from_millis(10);

/// A socket in the file system, unlinked when this is dropped, unless somebody else has put another in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

/// Listens on `path`, in mode 0660, and makes its directory where there is none. The file is removed with the [`Socket`].
///
/// A socket that a dead process left behind is replaced, and nothing else ever is: not a living one,
/// not a file of another kind. Starts that run at the same time are serialised by a lock on the directory.
///
/// # Errors
///
/// [`Error::InUse`], [`Error::NotASocket`], [`Error::PathTooLong`], or [`Error::Io`] with what was tried.
pub fn bind(path: &Path) -> Result<Socket, Error> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(Error::PathTooLong(path.to_owned()));
    }
    let failed = |doing: &str| {
        let doing = format!("cannot {doing} {}", path.display());
        move |error: Errno| Error::io(doing, error)
    };
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(failed("listen on"))?;
    let _lock = lock_directory(path)?;
    remove_stale(path, &address)?;

    let listener = new_socket(SocketFlags::CLOEXEC).map_err(failed("make a socket for"))?;
    // bind(2) gives the file the mode of the socket, less the umask, so that it never is wider than this;
    // and nobody can connect before listen(2), so that it may be widened to this until then.
    rustix::fs::fchmod(&listener, MODE).map_err(failed("set the mode of a socket for"))?;
    rustix::net::bind(&listener, &address).map_err(|error| match error {
        Errno::ADDRINUSE => Error::InUse(path.to_owned()),
        error => failed("bind")(error),
    })?;
    let stat = rustix::fs::lstat(path).map_err(failed("look at"))?;
    let file = SocketFile { path: path.to_owned(), id: (stat.st_dev, stat.st_ino) };
    rustix::fs::chmod(path, MODE).map_err(failed("set the mode of"))?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed("listen on"))?;
    Ok(Socket { name: String::new(), file: Some(file), listener: UnixListener::from(listener) })
}

/// Holds other starts off until the descriptor is closed. flock(2) on the directory leaves no lock file behind.
fn lock_directory(path: &Path) -> Result<impl Sized, Error> {
    let directory = match path.parent() {
        None => return Err(Error::NotASocket(path.to_owned())),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let doing = |what: &str| format!("cannot {what} the directory {}", directory.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|e| Error::io(doing("create"), e))?;
    let lock = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(doing("open"), e))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(LOCK_STEP),
            Err(error) => return Err(Error::io(doing("lock"), error)),
        }
    }
    Err(Error::io(doing("lock"), Errno::WOULDBLOCK))
}

/// Removes the socket at `path` if nobody listens on it, which is known only from a connection that was refused.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let probing = |error: Errno| Error::io(format!("cannot find out who listens on {}", path.display()), error);
    match rustix::fs::lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        Ok(_) => return Err(Error::NotASocket(path.to_owned())),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(probing(error)),
    }
    let probe = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(probing)?;
    match rustix::net::connect(&probe, address) {
        // The second is a full backlog, the third a socket of another type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Error::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            log::info!("replacing {}, on which nobody listens", path.display());
            rustix::fs::unlink(path).map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))
        }
        Err(error) => Err(probing(error)),
    }
}

fn new_socket(flags: SocketFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn unlink_if_ours(&self) -> io::Result<()> {
        match rustix::fs::lstat(&self.path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.id => Ok(rustix::fs::unlink(&self.path)?),
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = self.unlink_if_ours() {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
