//! The directory of the daemon's files: locked for the life of the process, and trusted only if no
//! other user can write to it.
//!
//! Every file in it is opened without following links and checked by its descriptor. rename(2),
//! which replaces files, follows no link either. A FIFO does not block.

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Take};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Stat, fstat, fstatfs, linkat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::proxy::error::Locked;
use crate::service::lock::{LockError, LockFile};

use super::file;

/// A previous instance that is exiting has released the lock by then.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that are read of a file: a state file of that length has some thirty thousand
/// leases.
const MAX_FILE_LEN: u64 = 32 << 20;

/// The directory and the lock that keeps other instances out of it.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// A directory that remains if this one is removed.
    refuge: Option<PathBuf>,
    lock_name: OsString,
    /// `None` if it cannot be locked. Opening the directory locks it again if the file was removed.
    lock: RefCell<Option<LockFile>>,
    has_logged_distrust: Cell<bool>,
    has_logged_refuge: Cell<bool>,
}

/// The open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// The reason not to trust its content.
    distrust: Option<String>,
}

impl StateDirectory {
    /// Locks the file at `lock`, and creates its directory if there is none. If the file system
    /// cannot lock, the daemon runs without, as it does without a state file. `refuge` is a
    /// directory of the same file system that outlives this one.
    pub(crate) fn lock(lock: &Path, refuge: Option<PathBuf>) -> Result<Rc<Self>, Locked> {
        let path = match lock.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = Self {
            path: path.to_owned(),
            refuge,
            lock_name: lock.file_name().unwrap_or_default().to_owned(),
            lock: RefCell::default(),
            has_logged_distrust: Cell::default(),
            has_logged_refuge: Cell::default(),
        };
        let taken = match directory.open_or_create().map(drop) {
            Ok(()) => LockFile::acquire(CWD, lock, LOCK_TIMEOUT),
            Err(error) => Err(LockError::Io(error)),
        };
        match taken {
            Ok(taken) => *directory.lock.borrow_mut() = Some(taken),
            Err(LockError::Io(error)) => {
                log::warn!(
                    "cannot lock {}: {error}; a second instance is not detected",
                    lock.display()
                );
            }
            // In a directory that other users can write to, one of them may have created the file
            // to keep the daemon from starting.
            Err(LockError::Unfit(why)) if directory.distrust().is_some() => {
                log::warn!(
                    "not using {}: {why}; a second instance is not detected",
                    lock.display()
                );
            }
            Err(why) => {
                return Err(Locked {
                    lock: lock.to_owned(),
                    why,
                });
            }
        }
        Ok(Rc::new(directory))
    }

    /// Returns the path of a file in it, for the log.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the reason not to trust the content of the directory, if it can be opened and there
    /// is a reason.
    pub(crate) fn distrust(&self) -> Option<String> {
        let reason = self.open().ok()?.distrust?;
        Some(format!("the directory {} {reason}", self.path.display()))
    }

    /// Opens the directory. If it or the lock file was removed, creates and locks it again. If the
    /// sandbox forbids that, opens the refuge: Landlock's rules go by the directory, not by its
    /// path.
    pub(crate) fn open(&self) -> io::Result<Directory> {
        let opened = self
            .open_or_create()
            .and_then(|(fd, created)| self.renew_lock(&fd, created).map(|()| fd));
        let fd = match opened {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let Some(refuge) = self.refuge() else {
                    return Err(self.creation_error(error));
                };
                self.log_refuge(&error);
                return Ok(refuge);
            }
            opened => opened?,
        };
        let directory = Directory::new(fd, &self.path)?;
        if let Some(why) = &directory.distrust
            && !self.has_logged_distrust.replace(true)
        {
            log::warn!(
                "the directory {} {why}; ignoring the files in it",
                self.path.display()
            );
        }
        Ok(directory)
    }

    /// Reads a file as text, with U+FFFD for invalid UTF-8. A missing file is empty.
    pub(crate) fn read_text(&self, name: &OsStr) -> io::Result<String> {
        let mut bytes = Vec::new();
        match self.open()?.read(name) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn creation_error(&self, error: io::Error) -> io::Error {
        if self.lock.borrow().is_none() {
            return error;
        }
        let path = self.path.display();
        io::Error::other(format!(
            "the directory {path} was removed, and the sandbox allows no new one"
        ))
    }

    /// Opens the directory that outlives this one, if any.
    pub(crate) fn refuge(&self) -> Option<Directory> {
        let refuge = self.refuge.as_ref()?;
        let opened = openat(
            CWD,
            refuge,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let opened = opened
            .map_err(io::Error::from)
            .and_then(|fd| Directory::new(fd, refuge));
        opened
            .inspect_err(|error| log::debug!("cannot open {}: {error}", refuge.display()))
            .ok()
    }

    fn log_refuge(&self, error: &io::Error) {
        if !self.has_logged_refuge.replace(true) {
            let refuge = self.refuge.as_deref().unwrap_or(Path::new("")).display();
            log::warn!(
                "cannot use {}: {error}; keeping the leases in {refuge}",
                self.path.display()
            );
        }
    }

    /// Links a file of `directory` into the refuge as well, if possible.
    pub(crate) fn link_to_refuge(&self, directory: &Directory, name: &OsStr) {
        // Another user with write access may have replaced the file by now.
        let is_safe =
            |refuge: &Directory| refuge.path != directory.path && directory.distrust.is_none();
        let Some(refuge) = self.refuge().filter(is_safe) else {
            return;
        };
        let _ = unlinkat(&refuge.fd, name, AtFlags::empty());
        if let Err(error) = linkat(&directory.fd, name, &refuge.fd, name, AtFlags::empty()) {
            log::debug!(
                "cannot link {} in the runtime directory: {error}",
                directory.path_of(name).display()
            );
        }
    }

    /// Returns the directory and whether it was created.
    fn open_or_create(&self) -> io::Result<(OwnedFd, bool)> {
        let open = || {
            openat(
                CWD,
                &self.path,
                OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        match open() {
            Err(Errno::NOENT) => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(&self.path)?;
                Ok((open()?, true))
            }
            opened => Ok((opened?, false)),
        }
    }

    fn renew_lock(&self, fd: &OwnedFd, created: bool) -> io::Result<()> {
        let mut lock = self.lock.borrow_mut();
        let name = Path::new(&self.lock_name);
        if lock.as_ref().is_some_and(|lock| lock.is_at(fd, name)) {
            return Ok(());
        }
        match (LockFile::acquire(fd, name, Duration::ZERO), lock.is_some()) {
            (Ok(taken), had_one) => {
                if had_one {
                    let what = if created { "directory" } else { "lock file in" };
                    log::warn!(
                        "the {what} {} was removed; making it again",
                        self.path.display()
                    );
                }
                *lock = Some(taken);
                Ok(())
            }
            // Already logged.
            (Err(LockError::Io(_)), false) => Ok(()),
            (Err(LockError::Io(error)), true) => Err(error),
            (Err(why), _) => Err(io::Error::other(
                Locked {
                    lock: self.path_of(&self.lock_name),
                    why,
                }
                .to_string(),
            )),
        }
    }
}

impl Directory {
    fn new(fd: OwnedFd, path: &Path) -> io::Result<Self> {
        let distrust = distrust_of_directory(&fstat(&fd)?);
        Ok(Self {
            fd,
            path: path.to_owned(),
            distrust,
        })
    }

    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// Returns whether `name` exists.
    pub(crate) fn has(&self, name: &OsStr) -> bool {
        !matches!(
            statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW),
            Err(Errno::NOENT)
        )
    }

    /// Opens a file for reading. A file that another user may have written is an error.
    pub(crate) fn read(&self, name: &OsStr) -> io::Result<Take<File>> {
        let file = file::open(&self.fd, name, OFlags::RDONLY)?;
        if let Some(why) = &self.distrust {
            return Err(io::Error::other(format!("its directory {why}")));
        }
        let metadata = file.metadata()?;
        if metadata.len() > MAX_FILE_LEN {
            return Err(io::Error::other("it is too long"));
        }
        Ok(file.take(MAX_FILE_LEN))
    }

    /// Opens a file for appending, and creates it if there is none. A file with a second name is an
    /// error: a hard link can be made without permission to write to the file.
    pub(crate) fn append(&self, name: &OsStr) -> io::Result<File> {
        self.open_own(name, OFlags::WRONLY | OFlags::APPEND)
    }

    /// Opens a file for reading and for writing in place, like [`Directory::append`]. In a
    /// directory that is not trusted, that is an error.
    pub(crate) fn update(&self, name: &OsStr) -> io::Result<File> {
        match &self.distrust {
            Some(why) => Err(io::Error::other(format!("its directory {why}"))),
            None => self.open_own(name, OFlags::RDWR),
        }
    }

    fn open_own(&self, name: &OsStr, access: OFlags) -> io::Result<File> {
        let file = file::open(&self.fd, name, access | OFlags::CREATE)?;
        if fstat(&file)?.st_nlink > 1 {
            return Err(io::Error::other("it has another name as well"));
        }
        Ok(file)
    }

    /// Replaces a file with what `write` writes: a reader finds all of the old content or all of
    /// the new. With `durable` that holds after a power cut, too.
    pub(crate) fn replace(
        &self,
        name: &OsStr,
        durable: bool,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        file::replace(&self.fd, name, durable && !self.is_in_memory(), write)
    }

    /// Returns whether the directory is on a tmpfs such as `/run`, where nothing survives a power
    /// cut.
    fn is_in_memory(&self) -> bool {
        /// `TMPFS_MAGIC` (statfs(2)).
        const TMPFS: i128 = 0x0102_1994;
        fstatfs(&self.fd).is_ok_and(|statfs| i128::from(statfs.f_type) == TMPFS)
    }

    /// Gives a file another name, which is returned. The old name remains if that is possible.
    pub(crate) fn move_aside(&self, name: &OsStr) -> io::Result<OsString> {
        let aside = file::with_suffix(name, ".unused");
        match unlinkat(&self.fd, &aside, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(_) => unlinkat(&self.fd, &aside, AtFlags::REMOVEDIR)?,
        }
        linkat(&self.fd, name, &self.fd, &aside, AtFlags::empty())
            .or_else(|_| renameat(&self.fd, name, &self.fd, &aside))?;
        Ok(aside)
    }
}

/// A directory with the sticky bit is safe: only its owner renames or removes a file in it.
fn distrust_of_directory(stat: &Stat) -> Option<String> {
    const STICKY: u32 = 0o1000;
    let (mode, uid) = (stat.st_mode & 0o7777, stat.st_uid);
    if !file::is_trusted(uid) {
        return Some(format!("belongs to uid {uid}"));
    }
    (mode & 0o022 != 0 && mode & STICKY == 0)
        .then(|| format!("may be written by others (mode {mode:04o})"))
}
