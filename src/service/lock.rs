//! A lock file, held by one process until that releases it or ends.
//!
//! flock(2) needs only a descriptor: other users can lock every file or directory that they can
//! open. So the lock file is private to its owner, and any other file in its place is an error.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, openat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The most replacements of the file before it is locked. Each concurrent start, which creates and
/// removes the file, causes at most one.
const MAX_REPLACED: u32 = 1000;

/// The length of the first line in bytes, which holds the process id and ends with a line feed. The
/// bytes after it are free for the holder's own use, and stay when the lock is released.
///
/// ```
/// use std::os::unix::fs::FileExt;
/// use std::time::Duration;
/// use rustix::fs::CWD;
/// use smol_dhcp_proxy::service::lock::{HEADER, LockFile};
///
/// let path = std::env::temp_dir().join(format!("lock-header-{}", std::process::id()));
/// let lock = LockFile::acquire(CWD, &path, Duration::ZERO)?;
/// lock.file().write_all_at(b"state", HEADER)?;
/// drop(lock);
/// assert!(std::fs::read(&path)?.ends_with(b"\nstate"));
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const HEADER: u64 = 11;

/// A held lock. Its drop, or the end of the process, releases it; the file stays.
///
/// ```
/// use std::time::Duration;
/// use rustix::fs::CWD;
/// use smol_dhcp_proxy::service::lock::{LockError, LockFile};
///
/// let path = std::env::temp_dir().join(format!("lock-{}", std::process::id()));
/// let lock = LockFile::acquire(CWD, &path, Duration::ZERO)?;
/// assert!(lock.is_at(CWD, &path));
/// let second = LockFile::acquire(CWD, &path, Duration::ZERO);
/// assert!(matches!(second, Err(LockError::Held(Some(_)))));
/// drop(lock);
/// LockFile::acquire(CWD, &path, Duration::ZERO)?;
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LockFile {
    file: File,
    id: (u64, u64),
}

/// The reason for a failed lock.
///
/// ```
/// use smol_dhcp_proxy::service::lock::LockError;
///
/// assert_eq!(LockError::Held(None).to_string(), "another process holds it");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds the lock, and has written this process id into the file.
    Held(Option<u32>),
    /// The file must not be used as a lock.
    Unfit(String),
    /// A system call failed.
    Io(io::Error),
}

impl LockFile {
    /// Acquires the lock `name` in `directory` (`rustix::fs::CWD` for a path relative to the working
    /// directory), and creates the file if it is missing. While another process holds the lock, this
    /// retries until `timeout` and blocks the thread.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] at the timeout; [`LockError::Unfit`] for a link, a FIFO, or a file of
    /// another owner; [`LockError::Io`] with the error of the kernel.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rustix::fs::CWD;
    /// use smol_dhcp_proxy::service::lock::{LockError, LockFile};
    ///
    /// let directory = std::env::temp_dir(); // no regular file
    /// let error = LockFile::acquire(CWD, &directory, Duration::ZERO).unwrap_err();
    /// assert!(matches!(error, LockError::Unfit(_)));
    /// ```
    pub fn acquire(
        directory: impl AsFd,
        name: &Path,
        timeout: Duration,
    ) -> Result<Self, LockError> {
        let mut left = timeout;
        let mut replaced = 0;
        while replaced < MAX_REPLACED {
            let (file, stat) = open(directory.as_fd(), name)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let lock = Self {
                        file,
                        id: id(&stat),
                    };
                    // The last holder may have removed the file between open(2) and flock(2).
                    if lock.is_at(&directory, name) {
                        lock.write_process_id();
                        return Ok(lock);
                    }
                    replaced += 1;
                    continue;
                }
                Err(Errno::WOULDBLOCK) if left.is_zero() => {
                    return Err(LockError::Held(holder(&file)));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(LockError::Io(error.into())),
            }
            let pause = RETRY_INTERVAL.min(left);
            thread::sleep(pause);
            left -= pause;
        }
        Err(LockError::Unfit(
            "it is replaced faster than it can be locked".to_owned(),
        ))
    }

    /// Returns whether `name` in `directory` still is the locked file. A lock on a file that was
    /// replaced or removed excludes no other process.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use rustix::fs::CWD;
    /// # use smol_dhcp_proxy::service::lock::LockFile;
    /// let path = std::env::temp_dir().join(format!("lock-at-{}", std::process::id()));
    /// let lock = LockFile::acquire(CWD, &path, Duration::ZERO)?;
    /// std::fs::remove_file(&path)?;
    /// assert!(!lock.is_at(CWD, &path));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_at(&self, directory: impl AsFd, name: &Path) -> bool {
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| id(&stat) == self.id)
    }

    /// Returns the open file, which is read-only on a read-only or full file system. [`HEADER`] has
    /// an example.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes the process id into the file, for [`LockError::Held`] of other processes. The lock
    /// does not depend on it.
    fn write_process_id(&self) {
        let line = format!("{:<1$}\n", std::process::id(), HEADER as usize - 1);
        let _ = self.file.write_all_at(line.as_bytes(), 0);
    }
}

/// Opens the file and checks that it is a regular file of this user without another name.
fn open(directory: impl AsFd, name: &Path) -> Result<(File, Stat), LockError> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = |access| openat(&directory, name, flags | access, Mode::from_raw_mode(0o600));
    let opened = open(OFlags::RDWR | OFlags::CREATE).or_else(|error| match error {
        // On a full or read-only file system the file may exist already.
        Errno::ROFS | Errno::NOSPC | Errno::DQUOT => open(OFlags::RDONLY).map_err(|_| error),
        error => Err(error),
    });
    let unfit = |what: &str| Err(LockError::Unfit(what.to_owned()));
    let file = match opened {
        Ok(file) => file,
        Err(Errno::LOOP) => return unfit("it is a symbolic link"),
        Err(Errno::ISDIR) => return unfit("it is a directory"),
        Err(Errno::NXIO | Errno::NODEV) => return unfit("it is not a regular file"),
        Err(error) => return Err(LockError::Io(error.into())),
    };
    let stat = fstat(&file).map_err(|error| LockError::Io(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return unfit("it is not a regular file");
    }
    if stat.st_uid != geteuid().as_raw() {
        return unfit(&format!("it belongs to uid {}", stat.st_uid));
    }
    if stat.st_nlink > 1 {
        return unfit("it has another name as well");
    }
    if stat.st_mode & 0o077 != 0 {
        // Any user with access to it can lock it. If this fails, flock(2) fails as well.
        let _ = fchmod(&file, Mode::from_raw_mode(0o600));
    }
    Ok((file.into(), stat))
}

/// Reads the process id of the holder.
fn holder(file: &File) -> Option<u32> {
    let mut line = [0; HEADER as usize];
    file.read_exact_at(&mut line, 0).ok()?;
    str::from_utf8(&line).ok()?.trim().parse().ok()
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(None) => f.write_str("another process holds it"),
            Self::Held(Some(pid)) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
                Ok(name) => write!(f, "process {pid} ({}) holds it", name.trim_end()),
                Err(_) => {
                    write!(
                        f,
                        "another process holds it (it called itself {pid}, which is not visible from here)"
                    )
                }
            },
            Self::Unfit(why) => f.write_str(why),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Held(_) | Self::Unfit(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    fn take(path: &Path) -> Result<LockFile, LockError> {
        LockFile::acquire(CWD, path, Duration::ZERO)
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        (folder, path)
    }

    #[test]
    fn it_is_held_once_and_says_by_which_process() {
        let (_folder, path) = folder();
        let lock = take(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let error = take(&path).unwrap_err();
        assert!(
            matches!(error, LockError::Held(Some(pid)) if pid == std::process::id()),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("process {} (", std::process::id())),
            "{error}"
        );
        drop(lock);
        take(&path).unwrap();
    }

    #[test]
    fn what_follows_the_first_line_stays() {
        let (_folder, path) = folder();
        let lock = take(&path).unwrap();
        lock.file().write_all_at(b"journal", HEADER).unwrap();
        drop(lock);
        drop(take(&path).unwrap());
        assert_eq!(
            fs::read(&path).unwrap().split_off(HEADER as usize),
            b"journal"
        );
    }

    #[test]
    fn a_removed_lock_file_is_made_again_and_excludes_the_next_process() {
        let (_folder, path) = folder();
        let first = take(&path).unwrap();
        assert!(first.is_at(CWD, &path));
        fs::remove_file(&path).unwrap();
        assert!(!first.is_at(CWD, &path));
        let _second = take(&path).unwrap();
        assert!(matches!(take(&path), Err(LockError::Held(_))));
    }

    #[test]
    fn links_fifos_directories_and_files_of_other_users_are_refused_at_once() {
        let (folder, path) = folder();
        let put: [(&str, &dyn Fn()); 4] = [
            ("symbolic link", &|| {
                symlink(folder.path().join("target"), &path).unwrap()
            }),
            ("not a regular file", &|| {
                mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap()
            }),
            ("a directory", &|| fs::create_dir(&path).unwrap()),
            ("another name", &|| {
                fs::write(folder.path().join("precious"), "precious").unwrap();
                fs::hard_link(folder.path().join("precious"), &path).unwrap();
            }),
        ];
        for (words, put) in put {
            put();
            let error = take(&path).unwrap_err();
            assert!(
                matches!(&error, LockError::Unfit(why) if why.contains(words)),
                "{words}: {error}"
            );
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir(&path))
                .unwrap();
        }
        assert_eq!(
            fs::read(folder.path().join("precious")).unwrap(),
            b"precious"
        );
        assert!(!folder.path().join("target").exists());
        if geteuid().is_root() {
            fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            let error = take(&path).unwrap_err();
            assert!(
                matches!(&error, LockError::Unfit(why) if why.contains("uid 1")),
                "{error}"
            );
        }
    }

    #[test]
    fn the_mode_of_a_lock_file_is_narrowed() {
        let (_folder, path) = folder();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let _lock = take(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }

    #[test]
    fn a_wait_ends_when_the_holder_releases_the_lock() {
        let (_folder, path) = folder();
        let lock = take(&path).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| LockFile::acquire(CWD, &path, Duration::from_secs(30)));
            drop(lock);
            waiting.join().unwrap().unwrap();
        });
    }
}
