//! Files that are checked by their descriptor before use, and replaced as a whole. Symbolic links
//! are not followed, and a FIFO does not block.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::geteuid;

const FLAGS: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// Opens a regular file below `directory` for `access`.
///
/// # Errors
///
/// The file is not a regular file, or a user other than root and the process's own may have written
/// it.
pub(crate) fn open(directory: impl AsFd, path: impl Arg, access: OFlags) -> io::Result<File> {
    let opened = openat(directory, path, FLAGS | access, PRIVATE);
    let file = opened.map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a symbolic link"),
        error => error.into(),
    })?;
    match distrust(&fstat(&file)?) {
        Some(why) => Err(io::Error::other(why)),
        None => Ok(file.into()),
    }
}

/// Creates or replaces a file by rename(2): a reader finds the old file or the new one, and so does
/// the next process after a crash. With `durable` that holds after a power cut, too.
pub(super) fn replace(
    directory: impl AsFd,
    name: &OsStr,
    durable: bool,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    // Always the same name, so that a crash leaves at most one behind, which the next write
    // replaces.
    let temporary = with_suffix(name, ".new");
    let remove = || unlinkat(&directory, &temporary, AtFlags::empty());
    let replace = || {
        let new = FLAGS | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = File::from(openat(&directory, &temporary, new, PRIVATE)?);
        write(&file)?;
        if durable {
            file.sync_all()?;
        }
        renameat(&directory, &temporary, &directory, name)?;
        if durable {
            // The new name has to survive a power cut as well (fsync(2)).
            fsync(&directory)?;
        }
        Ok(())
    };
    let _ = remove();
    replace().inspect_err(|_| {
        // Half a file is useless, and takes space on a full disk.
        let _ = remove();
    })
}

/// Returns why the content of a file is not trusted; `None` if it is.
fn distrust(stat: &Stat) -> Option<String> {
    let (mode, uid) = (stat.st_mode & 0o7777, stat.st_uid);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Some("it is not a regular file".to_owned());
    }
    if !is_trusted(uid) {
        return Some(format!("it belongs to uid {uid}"));
    }
    (mode & 0o022 != 0).then(|| format!("it may be written by others (mode {mode:04o})"))
}

/// Returns whether files of a user are trusted: root may do anything anyway.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Returns `name` with `suffix` appended.
pub(super) fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut with_suffix = name.to_owned();
    with_suffix.push(suffix);
    with_suffix
}
