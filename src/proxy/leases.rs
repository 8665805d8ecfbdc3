//! The lease file: netavark's shape, replaced as a whole, valid JSON at every instant, and read once, at the start.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::iter;
use std::rc::Rc;

use serde::Serialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::rt;

use super::record::{Packed, Record};
use super::request::Mac;
use super::state::StateDirectory;

/// What tells one boot of a machine from the next (proc_sys_kernel(5)): an instant on the boot clock means nothing
/// without it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file that tells Podman's users which leases there are, and the next instance how to go on with them.
#[derive(Debug)]
pub(super) struct LeaseFile {
    directory: Rc<StateDirectory>,
    name: OsString,
    boot_id: String,
}

/// One lease as the file has it: netavark's fields, and what is ours beside them.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    record: Record,
    boot_id: &'a str,
    /// Whether the link is known to be as the record says: only who leaves in good order can tell.
    asleep: bool,
}

/// What a file said.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Leases since this boot, and whether they were left in good order.
    pub(super) leases: Vec<(Packed, bool)>,
    /// Leases of earlier boots, and of others who wrote such a file: all that is left of them are their addresses.
    pub(super) over: Vec<Packed>,
    /// There is more, or less, in the file than this.
    pub(super) is_other: bool,
}

impl LeaseFile {
    /// The file of that name in `directory`, which is not touched yet.
    pub(super) fn new(directory: &Rc<StateDirectory>, name: impl Into<OsString>) -> Self {
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_else(|error| {
            log::warn!("cannot read {BOOT_ID}: {error}; leases cannot be told from those of before the last boot");
            String::new()
        });
        Self { directory: Rc::clone(directory), name: name.into(), boot_id: boot_id.trim().to_owned() }
    }

    /// Reads what is there, or makes an empty file where there is none. Nothing in it, nor that it cannot be read or
    /// made, is a reason not to serve: what is of no use is moved aside, and the log says where to.
    pub(super) fn read(&self) -> Found {
        let path = self.directory.path_of(&self.name);
        let path = path.display();
        let mut found = Found::default();
        let (mut unused, now) = (0, rt::now());
        let mut sort = |entry: Value| {
            let Some(record) = Record::parse(&entry, now) else {
                unused += 1;
                return;
            };
            let packed = Packed::from(&record);
            let boot_id = entry.get("boot_id").and_then(Value::as_str);
            if boot_id == Some(&*self.boot_id) && !self.boot_id.is_empty() && record.recall().is_some() {
                found.leases.push((packed, entry.get("asleep") == Some(&Value::Bool(true))));
            } else {
                // What was before the last boot is no riddle.
                unused += usize::from(boot_id.is_none_or(|boot_id| boot_id == self.boot_id));
                found.over.push(packed);
            }
        };
        let directory = match self.directory.open() {
            Ok(directory) => directory,
            Err(error) => {
                log::error!("cannot create the lease file {path}: {error}");
                return Found::default();
            }
        };
        let trouble = match directory.read(&self.name) {
            Ok(file) => entries(BufReader::with_capacity(4096, file), &mut sort).err().map(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Err(error) = self.replace([]) {
                    log::error!("cannot create the lease file {path}: {error}");
                }
                return Found::default();
            }
            Err(error) => Some(error.to_string()),
        };
        found.is_other = trouble.is_some() || unused > 0;
        if found.is_other {
            let why = trouble.unwrap_or_else(|| format!("{unused} of its entries cannot be continued"));
            match directory.move_aside(&self.name) {
                Ok(aside) => {
                    let aside = self.directory.path_of(&aside);
                    log::warn!("the lease file {path}: {why}; as it was it is now {}", aside.display());
                }
                Err(error) => log::error!("the lease file {path}: {why}; nor can it be moved aside: {error}"),
            }
        }
        found
    }

    /// Replaces the file, and flushes it where it is to survive a power cut. With each record comes whether it is asleep;
    /// those of one MAC come one after the other.
    pub(super) fn replace(&self, records: impl IntoIterator<Item = (Record, bool)>) -> io::Result<()> {
        let records: &mut dyn Iterator<Item = _> = &mut records.into_iter();
        self.directory.open()?.replace(&self.name, true, |file| {
            let mut writer = BufWriter::with_capacity(4096, file);
            self.write(&mut writer, records)?;
            writer.flush()
        })
    }

    /// Writes the records of one MAC at a time: a thousand at once are megabytes, which the heap does not give back.
    fn write(&self, to: impl Write, records: &mut dyn Iterator<Item = (Record, bool)>) -> serde_json::Result<()> {
        let mac = |record: &Record| Mac::parse(&record.lease.mac_address).ok();
        let entry = |(record, asleep)| Entry { record, boot_id: &self.boot_id, asleep };
        let mut serializer = serde_json::Serializer::new(to);
        let mut object = serializer.serialize_map(None)?;
        let mut records = records.peekable();
        while let Some(first) = records.next() {
            // As the first one of them wrote it, whatever case the others use.
            let (text, mac_of_first) = (first.0.lease.mac_address.clone(), mac(&first.0));
            let mut entries = vec![entry(first)];
            entries.extend(iter::from_fn(|| records.next_if(|(next, _)| mac(next) == mac_of_first)).map(entry));
            object.serialize_entry(&text, &entries)?;
        }
        object.end()
    }
}

/// Hands `each` entry of a file over, up to where it stops making sense. One at a time: as JSON a thousand of them are
/// megabytes, which the heap does not give back.
fn entries(file: impl Read, each: &mut dyn FnMut(Value)) -> serde_json::Result<()> {
    struct Entries<'a>(&'a mut dyn FnMut(Value));

    impl<'de> Visitor<'de> for Entries<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with an array of leases for each MAC address")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some((_, leases)) = map.next_entry::<String, Vec<Value>>()? {
                leases.into_iter().for_each(&mut *self.0);
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_reader(file);
    json.deserialize_map(Entries(each))?;
    json.end()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::dhcp::{self, Phase};
    use crate::proxy::record::tests::record as record_of;
    use crate::proxy::words::tests::lease as plain;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("smol-dhcp-proxy-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn lease_file(&self) -> LeaseFile {
            LeaseFile::new(&StateDirectory::lock(&self.0.join("nv-proxy.lock")).unwrap(), "nv-proxy.lease")
        }

        fn file(&self) -> PathBuf {
            self.0.join("nv-proxy.lease")
        }

        fn aside(&self) -> PathBuf {
            self.0.join("nv-proxy.lease.unused")
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

    /// A lease of an hour.
    fn record() -> Record {
        let lease = dhcp::Lease {
            lease_time: Some(Duration::from_secs(3600)),
            t1: Duration::from_secs(1800),
            t2: Duration::from_secs(3150),
            ..plain()
        };
        let (renew_at, rebind_at) = (lease.acquired_at + lease.t1, lease.acquired_at + lease.t2);
        record_of(Phase::Bound { lease, renew_at, rebind_at })
    }

    #[test]
    fn a_new_file_is_an_empty_object_that_only_its_owner_reads() {
        let directory = Directory::new("new");
        let found = directory.lease_file().read();
        assert!(found.leases.is_empty() && found.over.is_empty());
        assert_eq!(directory.json(), json!({}));
        assert_eq!(fs::metadata(directory.file()).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = Directory::new("again");
        let file = directory.lease_file();
        file.replace([(record(), true), (record().ending(), false)]).unwrap();
        let found = file.read();
        let leases: Vec<_> = found.leases.iter().map(|(lease, asleep)| (lease.unpack(), *asleep)).collect();
        assert_eq!(leases, [(record(), true), (record().ending(), false)]);
        assert!(found.over.is_empty() && !directory.aside().exists());
    }

    #[test]
    fn the_shape_is_the_peers_with_one_object_for_each_netns() {
        let directory = Directory::new("shape");
        let file = directory.lease_file();
        file.replace([(record(), false), (record(), false)]).unwrap();
        let json = directory.json();
        let objects = json[&record().lease.mac_address].as_array().unwrap();
        assert_eq!(objects.len(), 2);
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
        assert_eq!((&objects[0]["state"], &objects[0]["asleep"]), (&json!("BOUND"), &json!(false)));
        assert!(!directory.file().with_extension("lease.new").exists());
    }

    #[test]
    fn leases_of_before_the_last_boot_leave_their_addresses() {
        let directory = Directory::new("boot");
        let file = directory.lease_file();
        file.replace([(record(), true)]).unwrap();
        let text = fs::read_to_string(directory.file()).unwrap().replace(&file.boot_id, "another");
        fs::write(directory.file(), text).unwrap();
        let found = file.read();
        assert_eq!((found.leases.len(), found.over.len()), (0, 1));
        assert_eq!(found.over[0].unpack().address(), Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert!(!directory.aside().exists(), "that was to be expected");
    }

    #[test]
    fn netavarks_file_leaves_its_addresses_and_is_kept_aside() {
        let directory = Directory::new("netavark");
        let netavarks = r#"{"aa:bb:cc:dd:ee:ff":[{"mac_address":"aa:bb:cc:dd:ee:ff","yiaddr":"10.0.0.5"}]}"#;
        fs::write(directory.file(), netavarks).unwrap();
        let found = directory.lease_file().read();
        assert!(found.leases.is_empty());
        assert_eq!(found.over[0].unpack().address(), Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(found.over[0].unpack().who().map(|who| who.mac), Some(Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff])));
        assert_eq!(fs::read_to_string(directory.aside()).unwrap(), netavarks);
    }

    #[test]
    fn what_was_cut_off_is_used_as_far_as_it_goes() {
        let directory = Directory::new("cut");
        let file = directory.lease_file();
        let mut other = record();
        other.lease.mac_address = "02:00:00:00:00:02".to_owned();
        file.replace([(record(), true), (other, true)]).unwrap();
        let bytes = fs::read(directory.file()).unwrap();
        let first_ends = bytes.windows(3).position(|bytes| bytes == b"}],").unwrap() + 2;
        for length in 0..bytes.len() {
            fs::write(directory.file(), &bytes[..length]).unwrap();
            let found = file.read();
            assert!(found.leases.len() <= 2 && found.over.is_empty());
            assert_eq!(!found.leases.is_empty(), length >= first_ends, "{length}");
            assert_eq!(fs::read(directory.aside()).unwrap(), &bytes[..length]);
        }
    }

    #[test]
    fn bytes_that_were_swapped_cost_what_comes_from_there_on() {
        let directory = Directory::new("swapped");
        let file = directory.lease_file();
        let mut other = record();
        other.lease.mac_address = "02:00:00:00:00:02".to_owned();
        file.replace([(record(), true), (other, true)]).unwrap();
        let bytes = fs::read(directory.file()).unwrap();
        let first_ends = bytes.windows(3).position(|bytes| bytes == b"}],").unwrap() + 2;
        for at in 1..bytes.len() {
            let mut swapped = bytes.clone();
            swapped.swap(at - 1, at);
            fs::write(directory.file(), &swapped).unwrap();
            let leases = file.read().leases;
            assert!(at <= first_ends || leases.first().is_some_and(|(first, _)| first.unpack() == record()), "{at}");
            // As it would go on in the table.
            let leases = leases.into_iter().map(|(packed, _)| packed.unpack());
            assert!(leases.map(|record| (record.due(), record.recall())).all(|(_, remembered)| remembered.is_some()));
        }
    }

    #[test]
    fn nothing_that_is_there_is_a_reason_not_to_start() {
        let directory = Directory::new("garbage");
        let file = directory.lease_file();
        for garbage in ["", "\0\0{", "[]", "7", r#"{"x":7}"#, r#"{"x":[7]}"#, r#"{"x":[{}]} more"#] {
            fs::write(directory.file(), garbage).unwrap();
            assert!(file.read().leases.is_empty());
            assert_eq!(fs::read_to_string(directory.aside()).unwrap(), garbage);
            file.replace([]).unwrap();
            assert_eq!(directory.json(), json!({}));
        }
        // Of what is no file, nothing is read at all.
        fs::remove_file(directory.file()).unwrap();
        fs::create_dir(directory.file()).unwrap();
        assert!(file.read().leases.is_empty());
        assert!(directory.aside().is_dir());
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, directory.file(), kind, mode, 0).unwrap();
        assert!(file.read().leases.is_empty());
        file.replace([]).unwrap();
        assert_eq!(directory.json(), json!({}));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_as_it_was() {
        let directory = Directory::new("failed");
        let file = directory.lease_file();
        file.replace([]).unwrap();
        // A directory where the temporary file should be: no write can succeed, root or not.
        fs::create_dir(directory.file().with_extension("lease.new")).unwrap();
        assert!(file.replace([(record(), false)]).is_err());
        assert_eq!(directory.json(), json!({}));
    }
}
