//! The network namespaces that paths lead to.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};

use crate::proxy::store::record::LeaseView;

use super::lease::NamespaceState;

/// The folder of the last path. Most namespaces are in one, and its path is walked once.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    folder: String,
    open: Option<OwnedFd>,
}

impl Namespaces {
    /// Returns whether the path of a lease's namespace still leads to it.
    pub(super) fn state(&mut self, lease: &LeaseView<'_>) -> NamespaceState {
        if self.is_alive(lease) || !lease.is_gone() {
            NamespaceState::Alive
        } else {
            NamespaceState::Gone
        }
    }

    /// Returns whether it is known to be; a fault of any kind is none.
    fn is_alive(&mut self, lease: &LeaseView<'_>) -> bool {
        let Some((folder, name)) = lease.namespace.rsplit_once('/') else {
            return false;
        };
        if folder.is_empty() || name.is_empty() {
            return false;
        }
        if folder != self.folder || self.open.is_none() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.open = openat(CWD, folder, flags, Mode::empty()).ok();
            folder.clone_into(&mut self.folder);
        }
        let found = self
            .open
            .as_ref()
            .and_then(|folder| statat(folder, name, AtFlags::empty()).ok());
        found.is_some_and(|found| (found.st_dev, found.st_ino) == lease.namespace_id)
    }
}
