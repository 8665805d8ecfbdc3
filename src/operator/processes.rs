//! The processes that hold a socket.

use std::fs;

use super::text::printable;

/// Returns the names and ids of the processes that have the socket of that inode, as far as this
/// process may see.
pub(super) fn holders(inode: u64) -> Vec<String> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names: Vec<_> = processes
        .filter(|process| {
            let files = fs::read_dir(process.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
            targets.any(|target| target.as_os_str() == &*link)
        })
        .filter_map(|process| {
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            Some(format!(
                "{} ({})",
                printable(name.trim_end()),
                process.file_name().display()
            ))
        })
        .collect();
    names.sort();
    names
}
