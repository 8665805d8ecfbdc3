//! Containers' names, from Podman's own files.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, OFlags};
use serde_json::Value;

use crate::proxy::store::file;
use crate::proxy::store::podman::STORES;

/// The longest list of containers that is read, in bytes: that of some ten thousand.
const LONGEST: u64 = 16 << 20;

/// Returns the first name of each container of root's, by its id, as far as Podman's files say.
pub(super) fn names() -> HashMap<String, String> {
    let mut names = HashMap::new();
    for store in STORES {
        for driver in ["overlay", "vfs", "btrfs", "zfs"] {
            let list = Path::new(store).join(format!("{driver}-containers/containers.json"));
            read(&list, &mut names);
        }
    }
    names
}

/// Reads one list. A list that is not there, or makes no sense, has no names.
fn read(list: &Path, names: &mut HashMap<String, String>) -> Option<()> {
    let file = file::open(CWD, list, OFlags::RDONLY).ok()?;
    let list: Value = serde_json::from_reader(file.take(LONGEST)).ok()?;
    for container in list.as_array()? {
        if let (Some(id), Some(name)) = (container["id"].as_str(), container["names"][0].as_str()) {
            names.insert(id.to_owned(), name.to_owned());
        }
    }
    Some(())
}
