//! The file of a socket that this process bound.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A socket in the file system. It is unlinked on drop, unless another file has its path by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    /// Takes the file of a socket that was just bound.
    pub(super) fn new(path: &Path) -> rustix::io::Result<Self> {
        let stat = rustix::fs::lstat(path)?;
        Ok(Self {
            path: path.to_owned(),
            id: (stat.st_dev, stat.st_ino),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn unlink_if_ours(&self) -> io::Result<()> {
        match rustix::fs::lstat(&self.path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.id => {
                Ok(rustix::fs::unlink(&self.path)?)
            }
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
