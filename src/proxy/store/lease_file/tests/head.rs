//! The part of the state file before the leases, and the format of the whole.

use super::*;
use crate::proxy::store::counters::Counter;
use crate::rpc::Code;

/// The daemon that writes the files of these tests.
pub(crate) fn daemon_state() -> DaemonState {
    DaemonState {
        version: "1.2.3".to_owned(),
        pid: 4711,
        awake_since: Instant::from_boot(Duration::from_millis(1_234_567)),
        unit: "smol-dhcp-proxy.service".to_owned(),
        stays: String::new(),
        timer_at: Some(Instant::from_boot(Duration::from_millis(2_345_678))),
        landlock: 6,
        seccomp: true,
    }
}

fn counters() -> Counters {
    let mut counters = Counters::new(0x0123_4567_89ab_cdef, Duration::from_secs(1_780_000_000));
    counters.count(Counter::Acquisition);
    counters.count(Counter::Call(Code::Aborted));
    counters.set_processor_time(Duration::from_micros(98_765));
    counters
}

/// A file that is written and read with the head of these tests.
pub(super) trait WholeFile {
    fn write<R>(&self, records: R) -> io::Result<()>
    where
        R: IntoIterator<Item = (StoredRecord, bool)> + Clone;
    fn find(&self) -> Found;
}

impl WholeFile for LeaseFile {
    fn write<R>(&self, records: R) -> io::Result<()>
    where
        R: IntoIterator<Item = (StoredRecord, bool)> + Clone,
    {
        let head = Head {
            daemon: &daemon_state(),
            counters: &counters(),
        };
        self.replace(&head, records)
    }

    fn find(&self) -> Found {
        let head = Head {
            daemon: &daemon_state(),
            counters: &counters(),
        };
        self.read(&head)
    }
}

/// The leases of a file that was written in the boot "the boot", and the digest of its copy.
fn leases_of(written: &str) -> (Vec<(Record, bool)>, u64) {
    let now = crate::time::Instant::from_boot(Duration::from_secs(2900));
    let mut leases = Vec::new();
    let mut each = |boot_id: &str, part: StatePart| {
        assert_eq!(boot_id, "the boot");
        let StatePart::Lease(entry) = part else {
            return;
        };
        let record = Record::parse(&entry, now).unwrap();
        assert_eq!(EncodedRecord::from(&record).decode(), record);
        leases.push((record, entry["asleep"] == json!(true)));
    };
    let digest = parse::state(written.as_bytes(), &mut each).unwrap();
    (leases, digest.unwrap())
}

fn written_again(leases: &[(Record, bool)], digest: u64) -> String {
    let directory = TestDirectory::new("format");
    let file = LeaseFile {
        boot_id: "the boot".to_owned(),
        ..directory.lease_file()
    };
    let records = leases
        .iter()
        .map(|(record, asleep)| (StoredRecord::from(record), *asleep));
    let head = Head {
        daemon: &daemon_state(),
        counters: &counters(),
    };
    let mut again = Vec::new();
    file.write_state(&mut again, (digest, &head), &mut records.clone())
        .unwrap();
    let mut copy = Digest::default();
    write_copy(&mut copy, &mut records.clone()).unwrap();
    assert_eq!(copy.0.finish(), digest);
    String::from_utf8(again).unwrap()
}

/// A state file of version 1 with a lease in each state: read and written again its leases have the
/// same bytes, so that an older and a newer daemon can alternate. An older one skips the daemon and
/// the counters, which stand before the leases.
#[test]
fn the_format_of_the_file_does_not_change() {
    let written = include_str!("../../../../../tests/corpus/state/version-1.json");
    let (leases, digest) = leases_of(written);
    assert_eq!(leases.len(), 10);
    let again = written_again(&leases, digest);
    let (before, rest) = again.split_once(r#""daemon":"#).unwrap();
    let (_, leases_again) = rest.split_once(r#""leases":"#).unwrap();
    assert_eq!(format!(r#"{before}"leases":{leases_again}"#), written);
    // The memory of each, and one of them byte for byte.
    let encoded: Vec<_> = leases
        .iter()
        .map(|(record, _)| EncodedRecord::from(record).bytes().to_owned())
        .collect();
    let lengths: Vec<_> = encoded.iter().map(Vec::len).collect();
    assert_eq!(lengths, [95, 502, 505, 526, 520, 521, 255, 348, 518, 245]);
    let bound: String = encoded[1]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = include_str!("../../../../../tests/corpus/state/bound.hex");
    assert_eq!(bound, expected.split_whitespace().collect::<String>());
}

/// The same with the daemon, its counters, and the last trouble of a lease.
#[test]
fn the_format_of_the_counters_does_not_change() {
    let written = include_str!("../../../../../tests/corpus/state/version-1-counters.json");
    let (leases, digest) = leases_of(written);
    assert_eq!(leases.len(), 1);
    assert_eq!(
        leases[0]
            .0
            .last_trouble
            .as_ref()
            .map(|trouble| &*trouble.text),
        Some("lost the lease of 10.0.0.4: refused by 10.0.0.1")
    );
    assert_eq!(written_again(&leases, digest), written);
}

#[test]
fn counters_go_on_and_what_is_damaged_begins_anew() {
    let directory = TestDirectory::new("counters");
    let file = directory.lease_file();
    assert_eq!(file.find().counters, None, "there was no file");
    let found = file.find();
    let mut expected = counters();
    expected.mark_saved();
    let as_stored = |counters: &Counters| serde_json::to_value(counters).unwrap();
    assert_eq!(
        found.counters.as_ref().map(as_stored),
        Some(as_stored(&expected))
    );
    assert_eq!(found.timer_at, daemon_state().timer_at);
    assert!(!found.is_outdated);
    let whole = fs::read_to_string(directory.file()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        fs::write(directory.file(), whole.replacen(from, to, 1)).unwrap();
        let found = file.find();
        assert!(!directory.aside().exists(), "{to}");
        found.counters
    };
    let renewals = |counters: Option<Counters>| as_stored(&counters.unwrap())["renewals"].clone();
    assert_eq!(renewals(with(r#""renewals":0"#, r#""renewals":7"#)), 7);
    assert_eq!(renewals(with(r#""renewals":0"#, r#""renewals":1e300"#)), 0);
    assert_eq!(renewals(with(r#""renewals":0,"#, "")), 0);
    assert_eq!(with("0123456789abcdef", "0123456789abcde"), None);
    assert_eq!(with("0123456789abcdef", "+123456789abcdef"), None);
    assert_eq!(with(r#""pid":4711"#, r#""pid":-1"#), None);
    assert_eq!(with(r#""daemon":{"#, r#""demon":{"#), None);
    // Of another boot: the counters go on, its times do not.
    let another = whole.replace(&file.boot_id, "another");
    fs::write(directory.file(), another).unwrap();
    let found = file.find();
    assert!(found.counters.is_some());
    assert_eq!(found.timer_at, None);
}
