//! The processes that hold sockets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::rt;
use crate::time::Instant;

use super::text::printable;

/// The longest time for the descriptors of all processes. A container may have any number of both.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);
/// The descriptors that are read of one process, so that one does not take the time of all others.
const MOST_DESCRIPTORS: usize = 10_000;

/// The processes that hold sockets, as far as this process may see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SocketHolders {
    /// Names and ids by the inode of the socket.
    names: BTreeMap<u64, Vec<String>>,
    /// Not all descriptors were read.
    pub(super) is_cut: bool,
}

impl SocketHolders {
    /// Finds the holders of the sockets with these inodes.
    pub(super) fn find(inodes: impl IntoIterator<Item = u64>) -> Self {
        Self::find_in("/proc".as_ref(), inodes, rt::now() + SEARCH_TIMEOUT)
    }

    fn find_in(proc: &Path, inodes: impl IntoIterator<Item = u64>, until: Instant) -> Self {
        let link = |inode| (format!("socket:[{inode}]").into(), inode);
        let wanted: BTreeMap<OsString, u64> = inodes.into_iter().map(link).collect();
        let mut holders = Self::default();
        if wanted.is_empty() {
            return holders;
        }
        for process in fs::read_dir(proc).into_iter().flatten().flatten() {
            let folder = process.path();
            let held = holders.held_by(&folder.join("fd"), &wanted, until);
            if !held.is_empty()
                && let Ok(name) = fs::read(folder.join("comm"))
            {
                let name = printable(String::from_utf8_lossy(&name).trim_end());
                let name = format!("{name} ({})", process.file_name().display());
                for inode in held {
                    holders.names.entry(inode).or_default().push(name.clone());
                }
            }
            if rt::now() >= until {
                holders.is_cut = true;
                break;
            }
        }
        holders
    }

    /// Returns the wanted sockets among the descriptors of one process.
    fn held_by(
        &mut self,
        descriptors: &Path,
        wanted: &BTreeMap<OsString, u64>,
        until: Instant,
    ) -> Vec<u64> {
        let mut held = Vec::new();
        let descriptors = fs::read_dir(descriptors).into_iter().flatten().flatten();
        for (count, descriptor) in descriptors.enumerate() {
            if count >= MOST_DESCRIPTORS || rt::now() >= until {
                self.is_cut = true;
                break;
            }
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if let Some(inode) = wanted.get(target.as_os_str())
                && !held.contains(inode)
            {
                held.push(*inode);
            }
        }
        held
    }

    /// Returns the names and ids of the processes that hold one of these sockets, each once.
    pub(super) fn of(&self, inodes: impl IntoIterator<Item = u64>) -> Vec<String> {
        let names = inodes
            .into_iter()
            .filter_map(|inode| self.names.get(&inode));
        let mut names: Vec<_> = names.flatten().cloned().collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Returns the names and ids of the processes that have the socket of that inode, as far as this
/// process may see.
pub(super) fn holders(inode: u64) -> Vec<String> {
    SocketHolders::find([inode]).of([inode])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Makes a process with descriptors of these targets.
    fn process(proc: &Path, id: u32, name: &[u8], targets: &[&str]) {
        let descriptors = proc.join(id.to_string()).join("fd");
        fs::create_dir_all(&descriptors).unwrap();
        fs::write(proc.join(id.to_string()).join("comm"), name).unwrap();
        for (number, target) in targets.iter().enumerate() {
            symlink(target, descriptors.join(number.to_string())).unwrap();
        }
    }

    fn soon() -> Instant {
        rt::now() + Duration::from_secs(60)
    }

    #[test]
    fn holders_are_found_for_all_sockets_at_once() {
        let proc = tempfile::tempdir().unwrap();
        let both = ["/dev/null", "socket:[12]", "socket:[11]", "socket:[12]"];
        process(proc.path(), 7, b"dnsmasq\n", &both);
        process(
            proc.path(),
            8,
            b"\xff\x1b[31m\n",
            &["socket:[12]", "socket:[120]"],
        );
        fs::write(proc.path().join("uptime"), "1").unwrap();
        let found = SocketHolders::find_in(proc.path(), [11, 12, 13], soon());
        assert_eq!(found.of([11]), ["dnsmasq (7)"]);
        assert_eq!(found.of([12, 11]), ["dnsmasq (7)", "\u{fffd}?[31m (8)"]);
        assert_eq!(found.of([13, 120]), [""; 0]);
        assert!(!found.is_cut);
    }

    #[test]
    fn a_process_with_many_descriptors_does_not_hide_the_others() {
        let proc = tempfile::tempdir().unwrap();
        let many = vec!["/dev/null"; MOST_DESCRIPTORS + 1];
        process(proc.path(), 7, b"hostile\n", &many);
        process(proc.path(), 8, b"dnsmasq\n", &["socket:[11]"]);
        let found = SocketHolders::find_in(proc.path(), [11], soon());
        assert_eq!(
            (found.of([11]), found.is_cut),
            (vec!["dnsmasq (8)".to_owned()], true)
        );
        // Without time nothing is read, and that is told.
        let found = SocketHolders::find_in(proc.path(), [11], rt::now());
        assert_eq!((found.of([11]), found.is_cut), (vec![], true));
        // Without a socket there is nothing to look for.
        let found = SocketHolders::find_in(proc.path(), [], rt::now());
        assert_eq!(found, SocketHolders::default());
    }
}
