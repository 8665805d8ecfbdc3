//! A listening socket of this process, for a start without systemd.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::LONGEST_PATH;
use super::lock::{LockError, LockFile};
use super::socket_file::SocketFile;
use super::{Error, Socket};

/// The mode of the socket file: owner and group may connect.
const MODE: Mode = Mode::from_raw_mode(0o660);

/// The length of the backlog, which the kernel lowers to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The longest wait for a concurrent start on the same path, which takes microseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Creates a listening Unix socket at `path` with mode 0660, and its directory if that is missing.
/// The file is removed when the [`Socket`] is dropped.
///
/// A stale socket, left by a dead process, is replaced. A socket in use and a file of another kind
/// are not. Concurrent starts are serialised by a lock file beside the socket (`path` with `.lock`
/// appended), which is removed afterwards.
///
/// # Errors
///
/// [`Error::InUse`], [`Error::NotASocket`], [`Error::PathTooLong`], or [`Error::Io`] with the
/// operation that failed.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use smol_dhcp_proxy::service;
///
/// let path = std::env::temp_dir().join(format!("bind-{}.sock", std::process::id()));
/// let socket = service::bind(&path)?;
/// UnixStream::connect(&path)?;
/// drop(socket);
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn bind(path: &Path) -> Result<Socket, Error> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(Error::PathTooLong(path.to_owned()));
    }
    let failed = |doing: &str| {
        let doing = format!("cannot {doing} {}", path.display());
        move |error: Errno| Error::io(doing, error)
    };
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(failed("listen on"))?;
    make_directory(path)?;
    let _lock = StartLock::acquire(path)?;
    remove_stale(path, &address)?;

    let listener = new_socket(SocketFlags::CLOEXEC).map_err(failed("make a socket for"))?;
    // bind(2) creates the file with the mode of the socket, less the umask: it is never wider than
    // MODE. The chmod(2) below undoes the umask. No client can connect before listen(2).
    rustix::fs::fchmod(&listener, MODE).map_err(failed("set the mode of a socket for"))?;
    rustix::net::bind(&listener, &address).map_err(|error| match error {
        Errno::ADDRINUSE => Error::InUse(path.to_owned()),
        error => failed("bind")(error),
    })?;
    let file = SocketFile::new(path).map_err(failed("look at"))?;
    rustix::fs::chmod(path, MODE).map_err(failed("set the mode of"))?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed("listen on"))?;
    Ok(Socket::bound(file, UnixListener::from(listener)))
}

/// Creates the directory of the socket `path` if it is missing, as [`bind`] does. For programs that
/// confine themselves to this directory before they bind.
///
/// # Errors
///
/// [`Error::NotASocket`] for a path without a file name, or [`Error::Io`].
///
/// ```
/// let directory = std::env::temp_dir().join(format!("directory-{}", std::process::id()));
/// smol_dhcp_proxy::service::make_directory(&directory.join("socket"))?;
/// assert!(directory.is_dir());
/// # std::fs::remove_dir(directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn make_directory(path: &Path) -> Result<(), Error> {
    let Some(directory) = path.parent() else {
        return Err(Error::NotASocket(path.to_owned()));
    };
    if directory.as_os_str().is_empty() {
        return Ok(());
    }
    let doing = format!("cannot create the directory {}", directory.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| Error::io(doing, error))
}

/// A lock against concurrent starts on the same path, released on drop. The file is removed while
/// it is locked; a concurrent [`LockFile::acquire`] detects that.
struct StartLock {
    path: PathBuf,
    lock: LockFile,
}

impl StartLock {
    fn acquire(socket: &Path) -> Result<Self, Error> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |error| match error {
            LockError::Io(error) => Error::io(format!("cannot lock {}", path.display()), error),
            error => Error::io(
                format!("cannot lock {}", path.display()),
                io::Error::other(error),
            ),
        };
        let lock = LockFile::acquire(CWD, &path, LOCK_TIMEOUT).map_err(failed)?;
        Ok(Self { lock, path })
    }
}

impl Drop for StartLock {
    fn drop(&mut self) {
        if self.lock.is_at(CWD, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket at `path` if no process listens on it. Only a refused connection proves that.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let probing = |error: Errno| {
        Error::io(
            format!(
                "cannot find out whether a process listens on {}",
                path.display()
            ),
            error,
        )
    };
    match rustix::fs::lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        Ok(_) => return Err(Error::NotASocket(path.to_owned())),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(probing(error)),
    }
    let probe = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(probing)?;
    match rustix::net::connect(&probe, address) {
        // EAGAIN means a full backlog, EPROTOTYPE a socket of another type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Error::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            log::info!("replacing {}, on which no process listens", path.display());
            rustix::fs::unlink(path)
                .map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))
        }
        Err(error) => Err(probing(error)),
    }
}

fn new_socket(flags: SocketFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory that is removed at the end of the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "bind-test-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::SeqCst)
            );
            Self(std::env::temp_dir().join(name))
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }

        /// Creates a socket file without a process, as kill -9 leaves it.
        fn stale(&self) -> PathBuf {
            fs::create_dir_all(&self.0).unwrap();
            drop(UnixListener::bind(self.socket()).unwrap());
            self.socket()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn makes_its_directory_and_removes_the_socket_at_the_end() {
        let scratch = Scratch::new();
        let path = scratch.0.join("some/where/socket");
        let socket = bind(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_mode_of_the_file_is_that_of_the_socket_from_the_first_moment() {
        // `bind` relies on this: between bind(2) and chmod(2) the mode is never wider.
        let scratch = Scratch::new();
        fs::create_dir_all(&scratch.0).unwrap();
        let socket = new_socket(SocketFlags::CLOEXEC).unwrap();
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(scratch.socket()).unwrap()).unwrap();
        assert_eq!(
            fs::metadata(scratch.socket()).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let scratch = Scratch::new();
        let path = scratch.stale();
        let _socket = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_in_use_is_not_replaced() {
        let scratch = Scratch::new();
        let _first = bind(&scratch.socket()).unwrap();
        let second = bind(&scratch.socket()).unwrap_err();
        assert!(
            matches!(&second, Error::InUse(path) if *path == scratch.socket()),
            "{second}"
        );
        UnixStream::connect(scratch.socket()).unwrap();
    }

    #[test]
    fn a_file_of_another_kind_is_not_replaced() {
        let scratch = Scratch::new();
        fs::create_dir_all(&scratch.0).unwrap();
        fs::write(scratch.socket(), "precious").unwrap();
        assert!(matches!(bind(&scratch.socket()), Err(Error::NotASocket(_))));
        assert_eq!(fs::read(scratch.socket()).unwrap(), b"precious");
        // A symbolic link is not followed.
        let link = scratch.0.join("link");
        std::os::unix::fs::symlink(scratch.socket(), &link).unwrap();
        assert!(matches!(bind(&link), Err(Error::NotASocket(_))));
    }

    #[test]
    fn a_file_of_another_process_is_not_unlinked() {
        let scratch = Scratch::new();
        let socket = bind(&scratch.socket()).unwrap();
        fs::remove_file(scratch.socket()).unwrap();
        let other = UnixListener::bind(scratch.socket()).unwrap();
        drop(socket);
        UnixStream::connect(scratch.socket()).unwrap();
        drop(other);
    }

    #[test]
    fn an_invalid_path_is_named_in_the_error() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(LONGEST_PATH)));
        let error = bind(&long).unwrap_err().to_string();
        assert!(
            error.contains("112 bytes") && error.contains("107"),
            "{error}"
        );
        assert!(matches!(bind(Path::new("/")), Err(Error::NotASocket(_))));
        assert!(matches!(
            bind(Path::new("/dev/null/socket")),
            Err(Error::Io { .. })
        ));
        assert!(bind(Path::new("")).is_err());
        assert!(bind(Path::new("nul\0byte")).is_err());
    }

    #[test]
    fn a_locked_directory_delays_no_start_and_no_lock_file_is_left() {
        let scratch = Scratch::new();
        fs::create_dir_all(&scratch.0).unwrap();
        // Every user with read access to a directory can lock it.
        let directory = fs::File::open(&scratch.0).unwrap();
        rustix::fs::flock(
            &directory,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        )
        .unwrap();
        let socket = bind(&scratch.socket()).unwrap();
        let names: Vec<_> = fs::read_dir(&scratch.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["socket"]);
        drop(socket);
    }

    #[test]
    fn a_lock_file_left_by_a_crash_is_used_and_a_link_in_its_place_is_not() {
        let scratch = Scratch::new();
        fs::create_dir_all(&scratch.0).unwrap();
        let lock = scratch.0.join("socket.lock");
        fs::write(&lock, "4711      \n").unwrap();
        drop(bind(&scratch.socket()).unwrap());
        assert!(!lock.exists());
        std::os::unix::fs::symlink(scratch.0.join("target"), &lock).unwrap();
        let error = bind(&scratch.socket()).unwrap_err().to_string();
        assert!(
            error.contains("socket.lock") && error.contains("symbolic link"),
            "{error}"
        );
        assert!(!scratch.0.join("target").exists());
    }

    #[test]
    fn one_of_many_simultaneous_starts_wins_and_keeps_its_socket() {
        let scratch = Scratch::new();
        for _ in 0..50 {
            let path = scratch.stale();
            let start = std::sync::Barrier::new(4);
            let sockets: Vec<_> = std::thread::scope(|scope| {
                let racer = || {
                    start.wait();
                    bind(&path)
                };
                let racers: Vec<_> = (0..4).map(|_| scope.spawn(racer)).collect();
                racers
                    .into_iter()
                    .map(|racer| racer.join().unwrap())
                    .collect()
            });
            let losers = sockets
                .iter()
                .filter(|result| matches!(result, Err(Error::InUse(_))))
                .count();
            assert_eq!(losers, 3, "{sockets:?}");
            UnixStream::connect(&path).expect("the winner's socket has the path");
        }
    }
}
