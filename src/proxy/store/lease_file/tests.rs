//! The state file and its copy, read and written.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::dhcp::{self, Phase};
use crate::proxy::call::reply::tests::plain;
use crate::proxy::store::record::tests::{record as record_of, with_mac};

mod head;

pub(crate) use head::daemon_state;

use head::WholeFile;

struct TestDirectory(PathBuf, Rc<StateDirectory>);

impl TestDirectory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("smol-dhcp-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let state = StateDirectory::lock(&path.join("nv-proxy.lock"), None).unwrap();
        Self(path, state)
    }

    /// The files as the next process opens them.
    fn lease_file(&self) -> LeaseFile {
        LeaseFile::new(&self.1, "nv-proxy.lease")
    }

    fn file(&self) -> PathBuf {
        self.0.join("nv-proxy.state")
    }

    fn copy(&self) -> PathBuf {
        self.0.join("nv-proxy.lease")
    }

    fn aside(&self) -> PathBuf {
        self.0.join("nv-proxy.state.unused")
    }

    fn copy_aside(&self) -> PathBuf {
        self.0.join("nv-proxy.lease.unused")
    }

    fn leases(&self) -> Value {
        json_of(&self.file())["leases"].clone()
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A lease of one hour.
fn record() -> Record {
    let lease = dhcp::Lease {
        lease_time: Some(Duration::from_secs(3600)),
        t1: Duration::from_secs(1800),
        t2: Duration::from_secs(3150),
        ..plain()
    };
    let (renew_at, rebind_at) = (lease.acquired_at + lease.t1, lease.acquired_at + lease.t2);
    record_of(Phase::Bound {
        lease,
        renew_at,
        rebind_at,
    })
}

/// Records as [`LeaseFile::replace`] takes them.
fn stored<const N: usize>(records: [(Record, bool); N]) -> [(StoredRecord, bool); N] {
    records.map(|(record, asleep)| (StoredRecord::from(&record), asleep))
}

#[test]
fn new_files_have_no_leases_and_only_their_owner_reads_them() {
    let directory = TestDirectory::new("new");
    let found = directory.lease_file().find();
    assert!(found.leases.is_empty() && found.ended.is_empty());
    assert_eq!(
        (directory.leases(), json_of(&directory.copy())),
        (json!({}), json!({}))
    );
    for file in [directory.file(), directory.copy()] {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o600);
    }
}

#[test]
fn what_is_written_is_read_again() {
    let directory = TestDirectory::new("again");
    let file = directory.lease_file();
    file.write(stored([(record(), true), (record().ending(), false)]))
        .unwrap();
    let found = file.find();
    let leases: Vec<_> = found
        .leases
        .iter()
        .map(|(lease, asleep)| (lease.decode(), *asleep))
        .collect();
    assert_eq!(leases, [(record(), true), (record().ending(), false)]);
    assert!(found.ended.is_empty() && !directory.aside().exists());
}

#[test]
fn the_copy_has_netavarks_shape_with_one_object_for_each_netns() {
    let directory = TestDirectory::new("shape");
    directory
        .lease_file()
        .write(stored([(record(), false), (record(), false)]))
        .unwrap();
    let mac = &record().request.mac_text;
    let (copy, state) = (json_of(&directory.copy()), directory.leases());
    let objects = copy[mac].as_array().unwrap();
    assert_eq!(objects.len(), 2);
    let mut keys: Vec<&str> = objects[1]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    let netavarks = "broadcast_addr dns_servers domain_name gateways host_name is_v6 lease_time mac_address mtu ns_path \
                     ntp_servers siaddr srv_id subnet_mask t1 t2 yiaddr";
    assert_eq!(keys.join(" "), netavarks);
    assert_eq!(
        (&state[mac][0]["state"], &state[mac][0]["asleep"]),
        (&json!("BOUND"), &json!(false))
    );
    assert_eq!(state[mac][1]["yiaddr"], objects[1]["yiaddr"]);
    assert!(!directory.file().with_extension("state.new").exists());
}

#[test]
fn the_copy_is_written_only_where_it_changes() {
    let directory = TestDirectory::new("copy");
    let file = directory.lease_file();
    let version = |path: PathBuf| fs::metadata(path).unwrap().ino();
    file.write(stored([(record(), false)])).unwrap();
    let before = (version(directory.file()), version(directory.copy()));
    // As after a renewal.
    let renewed = record().with_retry(rt::now());
    file.write(stored([(renewed.clone(), true)])).unwrap();
    assert_ne!(version(directory.file()), before.0);
    assert_eq!(version(directory.copy()), before.1);
    // Nor by the next process.
    let next = directory.lease_file();
    assert_eq!(next.find().leases.len(), 1);
    next.write(stored([(renewed, false)])).unwrap();
    assert_eq!(version(directory.copy()), before.1);
    next.write([]).unwrap();
    assert_eq!(json_of(&directory.copy()), json!({}));
}

#[test]
fn leases_go_on_after_netavark_has_emptied_or_rewritten_its_file() {
    let directory = TestDirectory::new("truncated");
    let file = directory.lease_file();
    file.write(stored([(record(), true)])).unwrap();
    let before = fs::read(directory.copy()).unwrap();
    for netavarks in ["", "\0\0\0", "{}", "\0\0\0\0{}"] {
        fs::write(directory.copy(), netavarks).unwrap();
        let next = directory.lease_file();
        let found = next.find();
        assert_eq!(
            (found.leases.len(), found.foreign.len(), found.is_outdated),
            (1, 0, true),
            "{netavarks:?}"
        );
        assert!(!directory.copy_aside().exists(), "{netavarks:?}");
        next.write(stored([(record(), true)])).unwrap();
        assert_eq!(fs::read(directory.copy()).unwrap(), before, "{netavarks:?}");
    }
    // netavark's proxy has served another container.
    let zeros = "\0".repeat(10_000);
    let other =
        r#"{"02:00:00:00:00:02":[{"mac_address":"02:00:00:00:00:02","yiaddr":"10.0.0.6"}]}"#;
    fs::write(directory.copy(), zeros + other).unwrap();
    let found = directory.lease_file().find();
    assert_eq!((found.leases.len(), found.foreign.len()), (1, 1));
    assert_eq!(
        (&*found.foreign[0].yiaddr, &*found.foreign[0].mac_address),
        ("10.0.0.6", "02:00:00:00:00:02")
    );
}

#[test]
fn the_file_of_an_older_version_is_taken_over() {
    let directory = TestDirectory::new("older");
    let file = directory.lease_file();
    let mut entry = serde_json::to_value(StoredRecord::from(&record())).unwrap();
    entry["boot_id"] = json!(file.boot_id);
    entry["asleep"] = json!(true);
    let older = json!({ record().request.mac_text: [entry] });
    // With a state file from before a downgrade, or without.
    for is_again in [false, true] {
        fs::write(directory.copy(), older.to_string()).unwrap();
        let found = directory.lease_file().find();
        let leases: Vec<_> = found
            .leases
            .iter()
            .map(|(lease, asleep)| (lease.decode(), *asleep))
            .collect();
        assert_eq!(leases, [(record(), true)], "{is_again}");
        assert!(
            found.is_outdated && found.foreign.is_empty() && !directory.copy_aside().exists(),
            "{is_again}"
        );
        file.write([]).unwrap();
    }
}

#[test]
fn the_file_of_a_newer_version_is_kept_and_its_leases_are_to_be_adopted() {
    let directory = TestDirectory::new("newer");
    directory
        .lease_file()
        .write(stored([(record(), true)]))
        .unwrap();
    let newer = fs::read_to_string(directory.file())
        .unwrap()
        .replace(r#""version":1"#, r#""version":2"#);
    fs::write(directory.file(), &newer).unwrap();
    let found = directory.lease_file().find();
    assert!(found.leases.is_empty());
    assert_eq!(found.foreign, [record().reply().unwrap()]);
    assert_eq!(fs::read_to_string(directory.aside()).unwrap(), newer);
}

#[test]
fn leases_of_before_the_last_boot_leave_their_addresses() {
    let directory = TestDirectory::new("boot");
    let file = directory.lease_file();
    file.write(stored([(record(), true)])).unwrap();
    let text = fs::read_to_string(directory.file())
        .unwrap()
        .replace(&file.boot_id, "another");
    fs::write(directory.file(), text).unwrap();
    let found = file.find();
    assert_eq!((found.leases.len(), found.ended.len()), (0, 1));
    assert_eq!(found.ended[0].address, Ipv4Addr::new(10, 0, 0, 5));
    assert!(!directory.aside().exists(), "that was to be expected");
}

#[test]
fn netavarks_file_is_kept_until_its_leases_are_adopted() {
    let directory = TestDirectory::new("netavark");
    let netavarks =
        r#"{"aa:bb:cc:dd:ee:ff":[{"mac_address":"aa:bb:cc:dd:ee:ff","yiaddr":"10.0.0.5"}]}"#;
    fs::write(directory.copy(), netavarks).unwrap();
    let file = directory.lease_file();
    let found = file.find();
    assert!(found.leases.is_empty());
    assert_eq!(found.foreign[0].yiaddr, "10.0.0.5");
    assert_eq!(found.ended[0].address, Ipv4Addr::new(10, 0, 0, 5));
    assert_eq!(
        found.ended[0].names().mac,
        Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff])
    );
    assert_eq!(
        fs::read_to_string(directory.copy_aside()).unwrap(),
        netavarks
    );
    file.write(stored([(record(), false)])).unwrap();
    assert_eq!(
        fs::read_to_string(directory.copy()).unwrap(),
        netavarks,
        "a crash is followed by another try"
    );
    file.unprotect_copy();
    file.write(stored([(record(), false)])).unwrap();
    assert_eq!(
        json_of(&directory.copy())[&record().request.mac_text][0]["yiaddr"],
        "10.0.0.5"
    );
}

#[test]
fn what_was_cut_off_is_used_as_far_as_it_goes() {
    let directory = TestDirectory::new("cut");
    let file = directory.lease_file();
    let other = with_mac(record(), [2, 0, 0, 0, 0, 2]);
    file.write(stored([(record(), true), (other, true)]))
        .unwrap();
    // Nothing else is found.
    fs::remove_file(directory.copy()).unwrap();
    let bytes = fs::read(directory.file()).unwrap();
    let first_ends = bytes.windows(3).position(|bytes| bytes == b"}],").unwrap() + 2;
    for length in 0..bytes.len() {
        fs::write(directory.file(), &bytes[..length]).unwrap();
        let found = file.find();
        assert!(found.leases.len() <= 2 && found.ended.is_empty());
        assert_eq!(!found.leases.is_empty(), length >= first_ends, "{length}");
        assert_eq!(fs::read(directory.aside()).unwrap(), &bytes[..length]);
    }
}

#[test]
fn bytes_that_were_swapped_cost_what_comes_from_there_on() {
    let directory = TestDirectory::new("swapped");
    let file = directory.lease_file();
    let other = with_mac(record(), [2, 0, 0, 0, 0, 2]);
    file.write(stored([(record(), true), (other, true)]))
        .unwrap();
    // Nothing else is found.
    fs::remove_file(directory.copy()).unwrap();
    let bytes = fs::read(directory.file()).unwrap();
    let first_ends = bytes.windows(3).position(|bytes| bytes == b"}],").unwrap() + 2;
    for at in 1..bytes.len() {
        let mut swapped = bytes.clone();
        swapped.swap(at - 1, at);
        fs::write(directory.file(), &swapped).unwrap();
        let leases = file.find().leases;
        assert!(
            at <= first_ends
                || leases
                    .first()
                    .is_some_and(|(first, _)| first.decode() == record()),
            "{at}"
        );
        // As the table resumes it.
        for (packed, _) in leases {
            let record = packed.decode();
            assert!(record.due().is_some(), "{record:?}");
        }
    }
}

#[test]
fn nothing_that_is_there_is_a_reason_not_to_start() {
    let directory = TestDirectory::new("garbage");
    let file = directory.lease_file();
    for garbage in [
        "",
        "\0\0{",
        "[]",
        "7",
        r#"{"x":7}"#,
        r#"{"x":[7]}"#,
        r#"{"x":[{}]} more"#,
    ] {
        fs::write(directory.file(), garbage).unwrap();
        assert!(file.find().leases.is_empty());
        assert_eq!(fs::read_to_string(directory.aside()).unwrap(), garbage);
        file.write([]).unwrap();
        assert_eq!(directory.leases(), json!({}));
    }
    // Nothing is read from what is not a file.
    fs::remove_file(directory.file()).unwrap();
    fs::create_dir(directory.file()).unwrap();
    assert!(file.find().leases.is_empty());
    assert!(directory.aside().is_dir());
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, directory.file(), kind, mode, 0).unwrap();
    assert!(file.find().leases.is_empty());
    file.write([]).unwrap();
    assert_eq!(directory.leases(), json!({}));
}

#[test]
fn a_failed_write_leaves_the_old_file_as_it_was() {
    let directory = TestDirectory::new("failed");
    let file = directory.lease_file();
    file.write([]).unwrap();
    // A directory in the place of the temporary file: no write succeeds, even for root.
    fs::create_dir(directory.file().with_extension("state.new")).unwrap();
    assert!(file.write(stored([(record(), false)])).is_err());
    assert_eq!(directory.leases(), json!({}));
}

/// A directory that does not exist yet, and its refuge.
fn with_refuge() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (path, refuge) = (folder.path().join("podman"), folder.path().join("refuge"));
    fs::create_dir(&refuge).unwrap();
    (folder, path, refuge)
}

/// The files in `path`, as the next process opens them.
fn files_in(path: &Path, refuge: &Path) -> LeaseFile {
    let directory =
        StateDirectory::lock(&path.join("nv-proxy.lock"), Some(refuge.to_owned())).unwrap();
    LeaseFile::new(&directory, "nv-proxy.lease")
}

#[test]
fn leases_outlive_the_directory() {
    let (_folder, path, refuge) = with_refuge();
    let file = files_in(&path, &refuge);
    file.write(stored([(record(), true)])).unwrap();
    let links = |path: &Path| fs::metadata(path).unwrap().nlink();
    assert_eq!(links(&refuge.join("nv-proxy.state")), 2);
    // Each write replaces the one before.
    file.write(stored([(record(), false)])).unwrap();
    assert_eq!(links(&path.join("nv-proxy.state")), 2);
    drop(file);
    fs::remove_dir_all(&path).unwrap();
    let found = files_in(&path, &refuge).find();
    assert!(
        found.leases.len() == 1 && found.is_outdated,
        "it is to be written where it belongs"
    );
}

/// A lease that ended does not come back from the second name, nor does a deleted one.
#[test]
fn leases_that_ended_or_were_forgotten_do_not_come_back() {
    let (_folder, path, refuge) = with_refuge();
    let file = files_in(&path, &refuge);
    file.write(stored([(record(), true)])).unwrap();
    fs::remove_file(path.join("nv-proxy.state")).unwrap();
    drop(file);
    assert!(
        files_in(&path, &refuge).find().leases.is_empty(),
        "the copy is there"
    );

    let file = files_in(&path, &refuge);
    file.write(stored([(record(), true)])).unwrap();
    file.write([]).unwrap();
    drop(file);
    fs::remove_dir_all(&path).unwrap();
    assert!(files_in(&path, &refuge).find().leases.is_empty());
}

#[test]
fn a_file_where_others_can_write_gets_no_second_name() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path, refuge) = with_refuge();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    files_in(&path, &refuge)
        .write(stored([(record(), true)]))
        .unwrap();
    assert!(path.join("nv-proxy.state").exists() && !refuge.join("nv-proxy.state").exists());
}
