//! The lease file: netavark's shape, replaced as a whole, valid JSON at every instant.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use prost::Message;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::rpc::wire::Lease;

/// The file that tells Podman's users which leases there are.
#[derive(Debug)]
pub(super) struct LeaseFile {
    path: PathBuf,
    /// Beside the file, for rename(2) is atomic within one file system; always the same name, so that a
    /// crash leaves at most one behind, and the next write takes it over.
    temporary: PathBuf,
    /// What earlier instances wrote, as they wrote it, by MAC. It may be all that is known of leases that are still on
    /// their links, so it stays until somebody sets up or tears down the same container.
    earlier: RefCell<BTreeMap<String, Vec<Value>>>,
}

/// One lease as the file has it: netavark's fields, and what is ours beside them.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    /// The lease as the caller of Setup got it.
    #[serde(flatten)]
    pub(super) lease: &'a Packed,
    /// The container's network namespace.
    pub(super) ns_path: &'a Path,
    /// The container's interface.
    pub(super) container_iface: &'a str,
}

/// A lease in its wire form: a seventh of the memory, for what is kept as long as the container and seldom read.
#[derive(Debug)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    pub(super) fn unpack(&self) -> Lease {
        Lease::decode(&*self.0).expect("these bytes were a lease")
    }
}

impl From<&Lease> for Packed {
    fn from(lease: &Lease) -> Self {
        Self(lease.encode_to_vec().into())
    }
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.unpack().serialize(serializer)
    }
}

impl LeaseFile {
    /// Reads what is there, or makes an empty file where there is none. A file that cannot be read or made is logged, and
    /// no reason not to serve.
    pub(super) fn open(path: &Path) -> Self {
        let mut temporary = OsString::from(path);
        temporary.push(".new");
        let file = Self { path: path.to_owned(), temporary: temporary.into(), earlier: RefCell::default() };
        let read = || -> io::Result<BTreeMap<String, Vec<Value>>> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        match read() {
            Ok(earlier) => *file.earlier.borrow_mut() = earlier,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| file.replace([]));
                if let Err(error) = made {
                    log::error!("cannot create the lease file {}: {error}", path.display());
                }
            }
            Err(error) => log::warn!("cannot read the lease file {}: {error}", path.display()),
        }
        file
    }

    /// Forgets the leases of earlier instances that are `over`, judged by their MAC and network namespace. Tells whether
    /// there were any; the file shows it from the next [`replace`](Self::replace) on.
    pub(super) fn forget(&self, over: impl Fn(&str, Option<&Path>) -> bool) -> bool {
        let mut earlier = self.earlier.borrow_mut();
        let count = |earlier: &BTreeMap<_, Vec<_>>| earlier.values().map(Vec::len).sum::<usize>();
        let before = count(&earlier);
        for (mac, leases) in &mut *earlier {
            leases.retain(|lease| !over(mac, lease.get("ns_path").and_then(Value::as_str).map(Path::new)));
        }
        earlier.retain(|_, leases| !leases.is_empty());
        count(&earlier) < before
    }

    /// Replaces the file: whoever reads it sees all of the old content or all of the new.
    pub(super) fn replace<'a>(&self, leases: impl IntoIterator<Item = Entry<'a>>) -> io::Result<()> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Any<'a> {
            Ours(Entry<'a>),
            Earlier(&'a Value),
        }
        let earlier = self.earlier.borrow();
        let mut by_mac: BTreeMap<Cow<'_, str>, Vec<Any<'_>>> = BTreeMap::new();
        for (mac, leases) in &*earlier {
            by_mac.entry(mac.into()).or_default().extend(leases.iter().map(Any::Earlier));
        }
        for entry in leases {
            by_mac.entry(entry.lease.unpack().mac_address.into()).or_default().push(Any::Ours(entry));
        }
        self.replace_with(&by_mac).inspect_err(|_| {
            // Half a file helps nobody, least of all on a full disk.
            let _ = fs::remove_file(&self.temporary);
        })
    }

    fn replace_with(&self, content: &impl Serialize) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.temporary)?;
        // The mode above counts only for a file that was not there.
        file.set_permissions(Permissions::from_mode(0o600))?;
        let mut writer = BufWriter::with_capacity(4096, &file);
        serde_json::to_writer(&mut writer, content)?;
        writer.flush()?;
        file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        // The new name has to survive a power cut as well (fsync(2)).
        let directory = self.path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("smol-dhcp-proxy-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("nv-proxy.lease")
        }

        fn json(&self) -> Value {
            serde_json::from_slice(&fs::read(self.file()).unwrap()).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn lease(mac: &str, address: &str) -> Packed {
        let lease = Lease { mac_address: mac.into(), yiaddr: address.into(), lease_time: 120, ..Lease::default() };
        Packed::from(&lease)
    }

    fn entry<'a>(lease: &'a Packed, netns: &'a str) -> Entry<'a> {
        Entry { lease, ns_path: Path::new(netns), container_iface: "eth0" }
    }

    #[test]
    fn a_new_file_is_an_empty_object_that_only_its_owner_reads() {
        let directory = Directory::new("new");
        LeaseFile::open(&directory.file());
        assert_eq!(directory.json(), serde_json::json!({}));
        assert_eq!(fs::metadata(directory.file()).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_earlier_instances_wrote_stays_until_it_is_over() {
        let directory = Directory::new("there");
        let netavarks = r#"{"aa:bb:cc:dd:ee:ff":[{"yiaddr":"10.0.0.5"}],"a0:00:00:00:00:01":[{"ns_path":"/x"}]}"#;
        fs::write(directory.file(), netavarks).unwrap();
        let file = LeaseFile::open(&directory.file());
        let lease = lease("aa:bb:cc:dd:ee:ff", "10.0.0.6");
        file.replace([entry(&lease, "/run/netns/a")]).unwrap();
        let yiaddr = |index: usize| directory.json()["aa:bb:cc:dd:ee:ff"][index]["yiaddr"].clone();
        assert_eq!((yiaddr(0), yiaddr(1)), ("10.0.0.5".into(), "10.0.0.6".into()));
        assert!(!file.forget(|_, netns| netns == Some(Path::new("/y"))));
        assert!(file.forget(|mac, netns| mac == "a0:00:00:00:00:01" && netns == Some(Path::new("/x"))));
        assert!(file.forget(|mac, netns| mac == "aa:bb:cc:dd:ee:ff" && netns.is_none()));
        file.replace([]).unwrap();
        assert_eq!(directory.json(), serde_json::json!({}));
    }

    #[test]
    fn garbage_is_no_reason_not_to_start() {
        let directory = Directory::new("garbage");
        fs::write(directory.file(), "\0\0{").unwrap();
        LeaseFile::open(&directory.file()).replace([]).unwrap();
        assert_eq!(directory.json(), serde_json::json!({}));
    }

    #[test]
    fn the_shape_is_the_peers_with_one_object_for_each_netns() {
        let directory = Directory::new("shape");
        let file = LeaseFile::open(&directory.file());
        let (a, b) = (lease("aa:bb:cc:dd:ee:ff", "10.0.0.5"), lease("aa:bb:cc:dd:ee:ff", "10.0.0.6"));
        file.replace([entry(&a, "/run/netns/a"), entry(&b, "/run/netns/b")]).unwrap();
        let json = directory.json();
        let objects = json["aa:bb:cc:dd:ee:ff"].as_array().unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!((&objects[0]["yiaddr"], &objects[0]["ns_path"]), (&"10.0.0.5".into(), &"/run/netns/a".into()));
        for key in [
            "t1",
            "t2",
            "lease_time",
            "mtu",
            "domain_name",
            "mac_address",
            "is_v6",
            "siaddr",
            "yiaddr",
            "srv_id",
            "subnet_mask",
            "broadcast_addr",
            "dns_servers",
            "gateways",
            "ntp_servers",
            "host_name",
        ] {
            assert!(!objects[1][key].is_null(), "{key} is missing");
        }
        assert!(!directory.file().with_extension("lease.new").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_as_it_was() {
        let directory = Directory::new("failed");
        let file = LeaseFile::open(&directory.file());
        // A directory where the temporary file should be: no write can succeed, root or not.
        fs::create_dir(directory.file().with_extension("lease.new")).unwrap();
        let lease = lease("aa:bb:cc:dd:ee:ff", "10.0.0.5");
        assert!(file.replace([entry(&lease, "/run/netns/a")]).is_err());
        assert_eq!(directory.json(), serde_json::json!({}));
    }
}
