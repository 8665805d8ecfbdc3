//! Compares a record with the kernel: the namespace, the interface and its address.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Record;

impl Record {
    /// Returns whether the path leads to another network namespace or to none, as far as its inode
    /// tells. False is not conclusive: inode numbers are reused.
    pub(crate) fn is_gone(&self) -> bool {
        let netns = &self.interface.netns;
        is_other_namespace(&self.request.key.netns, (netns.dev, netns.ino))
    }

    /// Returns whether it is the same interface in the same namespace, with the lease's address.
    pub(crate) fn matches_link(&self) -> bool {
        let Ok(netlink) = self.interface.check(&self.request) else {
            return false;
        };
        self.applied.address().is_none_or(|expected| {
            netlink
                .addresses(self.interface.index)
                .is_ok_and(|there| there.iter().any(|it| (it.address, it.prefix) == expected))
        })
    }
}

/// Returns whether a path leads to another file than the one of that device and inode, or to none.
pub(super) fn is_other_namespace(path: &Path, id: (u64, u64)) -> bool {
    match fs::metadata(path) {
        Ok(there) => (there.dev(), there.ino()) != id,
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}
