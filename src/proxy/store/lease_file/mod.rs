//! The daemon's own file of all leases, replaced as a whole and read once, at the start; and a copy
//! in netavark's shape.
//!
//! | file | written by | read for |
//! |---|---|---|
//! | `nv-proxy.state` | this daemon alone | going on with the leases |
//! | `nv-proxy.lease` | this daemon, as a copy; netavark's proxy, which truncates it at its start; older versions | taking over what the others left in it |
//!
//! The state file has a version. It is raised by a change that an older daemon would misread. A
//! daemon that finds a file of a newer version keeps it as `nv-proxy.state.unused` and adopts the
//! leases in the copy, as it does with netavark's.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, BufReader, BufWriter, Write};
use std::iter;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use siphasher::sip::SipHasher24;

use crate::rpc::NetavarkLease;
use crate::rt;
use crate::time::Instant;

use crate::mac::Mac;
use crate::proxy::store::directory::{Directory, StateDirectory};
use crate::proxy::store::record::{EncodedRecord, FormerLease, Record, StoredRecord};

mod parse;

/// Identifies the boot (proc_sys_kernel(5)): an instant on the boot clock means nothing without it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The version of the state file.
const VERSION: u64 = 1;

/// The most leases of netavark's proxy that are adopted.
const FOREIGN: usize = 1000;

/// The two files.
#[derive(Debug)]
pub(crate) struct LeaseFile {
    directory: Rc<StateDirectory>,
    name: OsString,
    copy: OsString,
    boot_id: String,
    /// The digest of what the copy says; `None` where that is not known.
    copied: Cell<Option<u64>>,
    /// The copy is still as another program left it, and is not replaced yet.
    is_copy_held: Cell<bool>,
    /// A failure to write the copy was logged.
    told: Cell<bool>,
}

/// One lease in the state file.
#[derive(Debug, Serialize)]
struct LeaseEntry {
    #[serde(flatten)]
    record: StoredRecord,
    /// The link is known to be as the record says: only a process that leaves in good order can
    /// tell.
    asleep: bool,
}

/// One lease in the copy: netavark's fields, and the namespace, by which it is known for ours.
#[derive(Debug, Serialize)]
struct Copied {
    #[serde(flatten)]
    lease: NetavarkLease,
    ns_path: String,
}

/// The leases that the files have.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Leases since this boot, and whether they were left in good order.
    pub(crate) leases: Vec<(EncodedRecord, bool)>,
    /// Leases of earlier boots and of other programs: their addresses are remembered.
    pub(crate) over: Vec<FormerLease>,
    /// Leases of netavark's proxy, to be adopted. The copy stays as it is until
    /// [`LeaseFile::release_copy`].
    pub(crate) foreign: Vec<NetavarkLease>,
    /// There is more, or less, in the files than this.
    pub(crate) is_other: bool,
    /// Entries that are of no use.
    unused: usize,
}

impl LeaseFile {
    /// The copy of that name in `directory`, and the state file beside it. Neither is touched yet.
    pub(crate) fn new(directory: &Rc<StateDirectory>, copy: impl Into<OsString>) -> Self {
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_else(|error| {
            log::warn!(
                "cannot read {BOOT_ID}: {error}; treating all leases as from an earlier boot"
            );
            String::new()
        });
        let copy = copy.into();
        Self {
            directory: Rc::clone(directory),
            name: Path::new(&copy).with_extension("state").into(),
            copy,
            boot_id: boot_id.trim().to_owned(),
            copied: Cell::default(),
            is_copy_held: Cell::default(),
            told: Cell::default(),
        }
    }

    /// Returns the id of this boot; empty where it is not known.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Reads the files, or makes empty ones where there are none. Nothing in them, nor that they
    /// cannot be read or made, is a reason not to serve: what is of no use is kept under another
    /// name, which is logged.
    pub(crate) fn read(&self) -> Found {
        let mut found = Found::default();
        let directory = match self.directory.open() {
            Ok(directory) => directory,
            Err(error) => {
                log::error!(
                    "cannot create the state file {}: {error}",
                    self.path(&self.name)
                );
                return found;
            }
        };
        let mut state = self.read_state(&directory, &mut found);
        // Both files are missing where the directory was removed.
        if matches!(state, Err(None))
            && !directory.has(&self.copy)
            && let Some(refuge) = self.directory.refuge()
        {
            state = self.read_state(&refuge, &mut found);
            found.is_other = true;
        }
        let is_new = matches!(state, Err(None));
        let is_whole = state.is_ok();
        found.is_other |= !is_whole;
        let has_copy = self.read_copy(&directory, state.ok().flatten(), is_whole, &mut found);
        if is_new
            && !has_copy
            && let Err(error) = self.replace([])
        {
            log::error!(
                "cannot create the state file {}: {error}",
                self.path(&self.name)
            );
        }
        found
    }

    /// Reads the state file. Returns the digest of the copy that belongs to it; the error is `None`
    /// where there is no file.
    fn read_state(
        &self,
        directory: &Directory,
        found: &mut Found,
    ) -> Result<Option<u64>, Option<String>> {
        let (now, mut copy) = (rt::now(), None);
        let trouble = match directory.read(&self.name) {
            Ok(file) => {
                let mut each =
                    |boot_id: &str, entry: Value| self.sort(&entry, Some(boot_id), now, found);
                let parsed = parse::state(BufReader::with_capacity(4096, file), &mut each);
                parsed
                    .map(|digest| copy = digest)
                    .err()
                    .map(|error| error.to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
            Err(error) => Some(error.to_string()),
        };
        let unused = std::mem::take(&mut found.unused);
        let why = trouble
            .or_else(|| (unused > 0).then(|| format!("{unused} of its entries are unusable")));
        match why {
            None => Ok(copy),
            Some(why) => {
                self.set_aside(directory, &self.name, &why);
                Err(Some(why))
            }
        }
    }

    /// Reads the copy, unless it is as this program left it. Returns whether there is one.
    fn read_copy(
        &self,
        directory: &Directory,
        expected: Option<u64>,
        is_own_whole: bool,
        found: &mut Found,
    ) -> bool {
        let (now, mut older) = (rt::now(), Found::default());
        let trouble = match self.digest_of_copy(directory) {
            Ok(digest) if expected == Some(digest) => {
                self.copied.set(expected);
                return true;
            }
            Ok(_) => {
                let mut each = |entry: Value| {
                    // Only versions that had their state in this file wrote such an entry, after
                    // ours was written.
                    if entry.get("state").is_some() {
                        let boot_id = entry.get("boot_id").and_then(Value::as_str);
                        self.sort(&entry, boot_id, now, &mut older);
                    // A copy that was not written any more, of leases that are in the state file or
                    // are over.
                    } else if !(is_own_whole && entry.get("ns_path").is_some()) {
                        sort_foreign(&entry, &mut older);
                    }
                };
                let file = directory
                    .read(&self.copy)
                    .map_err(|error| error.to_string());
                let mut parsed =
                    |file| parse::copy(BufReader::with_capacity(4096, file), &mut each);
                file.and_then(|file| parsed(file).map_err(|error| error.to_string()))
                    .err()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => Some(error.to_string()),
        };
        found.is_other = true;
        let (unused, foreign) = (older.unused, older.foreign.len());
        if trouble.is_some() || unused + foreign > 0 {
            let why = match (trouble, unused) {
                (Some(trouble), _) => trouble,
                (None, 0) => format!("{foreign} of its leases are from netavark's proxy"),
                (None, _) => format!("{unused} of its entries are unusable"),
            };
            self.set_aside(directory, &self.copy, &why);
        }
        if !older.leases.is_empty() {
            found.leases = older.leases;
        }
        found.over.append(&mut older.over);
        self.is_copy_held.set(foreign > 0);
        found.foreign = older.foreign;
        true
    }

    fn digest_of_copy(&self, directory: &Directory) -> io::Result<u64> {
        let mut digest = Digest::default();
        io::copy(&mut directory.read(&self.copy)?, &mut digest)?;
        Ok(digest.0.finish())
    }

    /// Puts a full record where it belongs.
    fn sort(&self, entry: &Value, boot_id: Option<&str>, now: Instant, found: &mut Found) {
        let Some(stored) = StoredRecord::parse(entry) else {
            found.unused += 1;
            return;
        };
        let is_of_this_boot = boot_id == Some(&*self.boot_id) && !self.boot_id.is_empty();
        let former = stored.former_lease();
        let record = is_of_this_boot
            .then(|| Record::from_file(stored, now))
            .flatten();
        if let Some(record) = record {
            let is_asleep = entry.get("asleep") == Some(&Value::Bool(true));
            found.leases.push((EncodedRecord::from(&record), is_asleep));
        } else {
            // An entry of an earlier boot is what a reboot leaves.
            let is_expected = boot_id.is_some_and(|boot_id| boot_id != self.boot_id);
            found.unused += usize::from(!is_expected);
            found.is_other = true;
            found.over.extend(former);
        }
    }

    fn set_aside(&self, directory: &Directory, name: &OsString, why: &str) {
        let path = directory.path_of(name).display().to_string();
        match directory.move_aside(name) {
            Ok(aside) => {
                log::warn!(
                    "{path}: {why}; keeping it as {}",
                    directory.path_of(&aside).display()
                )
            }
            Err(error) => log::error!("{path}: {why}; cannot keep a copy: {error}"),
        }
    }

    fn path(&self, name: &OsString) -> String {
        self.directory.path_of(name).display().to_string()
    }

    /// Lets the next write replace the copy.
    pub(crate) fn release_copy(&self) {
        self.is_copy_held.set(false);
    }

    /// Replaces the state file, and flushes it where it is to survive a power cut; then the copy,
    /// where it says something else by then. With each record comes whether it is asleep; those of
    /// one MAC come one after the other.
    pub(crate) fn replace<R>(&self, records: R) -> io::Result<()>
    where
        R: IntoIterator<Item = (StoredRecord, bool)> + Clone,
    {
        let mut digest = Digest::default();
        write_copy(&mut digest, &mut records.clone().into_iter())?;
        let digest = digest.0.finish();
        let directory = self.directory.open()?;
        directory.replace(&self.name, true, |file| {
            buffered(file, |writer| {
                self.write_state(writer, digest, &mut records.clone().into_iter())
            })
        })?;
        self.directory.keep(&directory, &self.name);
        if !self.is_copy_held.get() && self.copied.get() != Some(digest) {
            // Not flushed: nothing is recovered from it but what another program wrote.
            let copied = directory.replace(&self.copy, false, |file| {
                buffered(file, |writer| write_copy(writer, &mut records.into_iter()))
            });
            self.copied.set(copied.is_ok().then_some(digest));
            if let Err(error) = copied
                && !self.told.replace(true)
            {
                log::warn!(
                    "cannot write {}: {error}; its readers do not see the last change",
                    self.path(&self.copy)
                );
            }
        }
        Ok(())
    }

    fn write_state(
        &self,
        mut to: impl Write,
        digest: u64,
        records: &mut dyn Iterator<Item = (StoredRecord, bool)>,
    ) -> io::Result<()> {
        let boot_id = serde_json::to_string(&self.boot_id)?;
        // In this order: a reader knows the version and the boot before the first lease.
        write!(
            to,
            r#"{{"version":{VERSION},"boot_id":{boot_id},"copy":"{digest:016x}","leases":"#
        )?;
        write_leases(&mut to, records, |record, asleep| LeaseEntry {
            record,
            asleep,
        })?;
        to.write_all(b"}")
    }
}

/// Takes a lease of netavark's proxy.
fn sort_foreign(entry: &Value, found: &mut Found) {
    let stored = StoredRecord::parse(entry);
    let former = stored.as_ref().and_then(StoredRecord::former_lease);
    match stored.zip(former) {
        Some((stored, former)) if found.foreign.len() < FOREIGN => {
            found.over.push(former);
            found.foreign.push(stored.lease);
        }
        _ => found.unused += 1,
    }
}

fn buffered(
    file: &File,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(4096, file);
    write(&mut writer)?;
    writer.flush()
}

fn write_copy(
    to: impl Write,
    records: &mut dyn Iterator<Item = (StoredRecord, bool)>,
) -> io::Result<()> {
    Ok(write_leases(
        to,
        records,
        |StoredRecord { lease, ns_path, .. }, _| Copied { lease, ns_path },
    )?)
}

/// Writes the records of one MAC at a time: a thousand at once are megabytes, which the heap does
/// not give back.
fn write_leases<E: Serialize>(
    to: impl Write,
    records: &mut dyn Iterator<Item = (StoredRecord, bool)>,
    entry: impl Fn(StoredRecord, bool) -> E,
) -> serde_json::Result<()> {
    let mac = |record: &StoredRecord| Mac::parse(&record.lease.mac_address).ok();
    let entry = |(record, asleep)| entry(record, asleep);
    let mut serializer = serde_json::Serializer::new(to);
    let mut object = serializer.serialize_map(None)?;
    let mut records = records.peekable();
    while let Some(first) = records.next() {
        // As the first one of them wrote it, whatever case the others use.
        let (text, mac_of_first) = (first.0.lease.mac_address.clone(), mac(&first.0));
        let mut entries = vec![entry(first)];
        entries.extend(
            iter::from_fn(|| records.next_if(|(next, _)| mac(next) == mac_of_first)).map(entry),
        );
        object.serialize_entry(&text, &entries)?;
    }
    object.end()
}

/// Identifies the content of a file.
#[derive(Default)]
struct Digest(SipHasher24);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
