//! Podman's files: the container that a network namespace belongs to.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_lite::future::yield_now;
use rustix::fs::{CWD, OFlags};
use serde_json::Value;

use crate::proxy::call::request::OPTION_MAX;
use crate::proxy::store::file;
use crate::rt;
use crate::time::Instant;

/// The directories of containers/storage for root: with `transient_store`, and without.
const STORES: [&str; 2] = ["/run/containers/storage", "/var/lib/containers/storage"];
/// The most containers that are read.
const MAX_CONTAINERS: usize = 4096;
/// In bytes. Podman's configurations have about ten thousand.
const MAX_CONFIG_SIZE: u64 = 256 * 1024;
/// In hexadecimal digits.
const ID_LENGTH: usize = 64;

/// A container with a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) host_name: Option<String>,
}

/// Finds the containers of the network namespaces `paths`; stops at `end`. A namespace that two
/// configurations name is left out, because only one of them has the lease.
pub(crate) async fn containers_of(paths: &[Rc<Path>], end: Instant) -> HashMap<PathBuf, Container> {
    let mut found: HashMap<PathBuf, Vec<Container>> = HashMap::new();
    if !paths.is_empty() {
        for (id, config) in STORES
            .iter()
            .flat_map(|store| configurations(Path::new(store)))
            .take(MAX_CONTAINERS)
        {
            yield_now().await;
            if rt::now() >= end {
                break;
            }
            match read(&config, paths) {
                Ok(Some((path, host_name))) => found
                    .entry(path)
                    .or_default()
                    .push(Container { id, host_name }),
                Ok(None) => {}
                Err(error) => log::debug!("cannot read {}: {error}; skipping it", config.display()),
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(path, mut of)| Some((path, of.pop().filter(|_| of.is_empty())?)))
        .collect()
}

/// Lists the configurations of a store with their containers' ids. The directory that has them is
/// named after the storage driver.
fn configurations(store: &Path) -> Vec<(String, PathBuf)> {
    let list = |folder: &Path| {
        let names = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .take(MAX_CONTAINERS)
            .flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>()
    };
    let is_id = |name: &String| {
        name.len() == ID_LENGTH && name.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let folders = list(store)
        .into_iter()
        .filter(|name| name.ends_with("-containers"));
    let in_folder = |folder: PathBuf| {
        let ids = list(&folder).into_iter().filter(is_id);
        ids.map(move |id| (id.clone(), folder.join(id).join("userdata/config.json")))
    };
    folders
        .flat_map(|name| in_folder(store.join(name)))
        .take(MAX_CONTAINERS)
        .collect()
}

/// Reads an OCI configuration. Returns its network namespace, if that is one of `paths`, and its
/// host name.
fn read(config: &Path, paths: &[Rc<Path>]) -> io::Result<Option<(PathBuf, Option<String>)>> {
    let file = match file::open(CWD, config, OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(MAX_CONFIG_SIZE).read_to_string(&mut text)?;
    // Most configurations name other namespaces, and need not be parsed.
    let Some(path) = paths
        .iter()
        .find(|path| path.to_str().is_some_and(|path| text.contains(path)))
    else {
        return Ok(None);
    };
    let config: Value = serde_json::from_str(&text)?;
    let namespaces = config["linux"]["namespaces"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let is_its = namespaces.iter().any(|namespace| {
        namespace["type"] == "network" && namespace["path"].as_str().map(Path::new) == Some(path)
    });
    let host_name = config["hostname"]
        .as_str()
        .filter(|name| (1..=OPTION_MAX).contains(&name.len()));
    Ok(is_its.then(|| (path.to_path_buf(), host_name.map(str::to_owned))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration of Podman 4.3, shortened.
    fn config(path: &str) -> String {
        format!(
            r#"{{"ociVersion":"1.0.2-dev","hostname":"web","linux":{{"namespaces":[{{"type":"pid"}},
            {{"type":"network","path":"{path}"}},{{"type":"mount"}}]}}}}"#
        )
    }

    fn put(store: &Path, id: &str, text: &str) -> PathBuf {
        let folder = store.join("overlay-containers").join(id).join("userdata");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), text).unwrap();
        folder.join("config.json")
    }

    #[test]
    fn a_container_is_known_by_the_namespace_that_its_configuration_names() {
        let folder = tempfile::tempdir().unwrap();
        let (store, one, other) = (folder.path(), "1".repeat(ID_LENGTH), "2".repeat(ID_LENGTH));
        let path: Rc<Path> = Path::new("/run/netns/netns-1").into();
        let ours = put(store, &one, &config("/run/netns/netns-1"));
        let longer = put(store, &other, &config("/run/netns/netns-12"));
        put(store, "not-an-id", &config("/run/netns/netns-1"));
        let mut listed = configurations(store);
        listed.sort();
        assert_eq!(listed, [(one, ours.clone()), (other, longer.clone())]);
        let found = read(&ours, &[Rc::clone(&path)]).unwrap();
        assert_eq!(found, Some((path.to_path_buf(), Some("web".to_owned()))));
        assert_eq!(
            read(&longer, &[Rc::clone(&path)]).unwrap(),
            None,
            "the one is the beginning of the other"
        );
        assert_eq!(read(&store.join("none"), &[path]).unwrap(), None);
    }

    #[test]
    fn a_configuration_that_others_may_write_or_that_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let paths: [Rc<Path>; 1] = [Path::new("/run/netns/a").into()];
        let file = put(
            folder.path(),
            &"1".repeat(ID_LENGTH),
            &config("/run/netns/a"),
        );
        assert!(read(&file, &paths).unwrap().is_some());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&file, mode).unwrap();
        assert!(read(&file, &paths).is_err());
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("elsewhere", &file).unwrap();
        assert!(read(&file, &paths).is_err());
        fs::remove_file(&file).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(CWD, &file, kind, mode, 0).unwrap();
        assert!(read(&file, &paths).is_err());
        fs::remove_file(&file).unwrap();
        fs::write(&file, "/run/netns/a {").unwrap();
        assert!(read(&file, &paths).is_err());
    }
}
