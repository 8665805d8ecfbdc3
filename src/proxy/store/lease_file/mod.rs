//! The state file: all leases, replaced as a whole and read once, at the start; and a copy in
//! netavark's format.
//!
//! | file | written by | read to |
//! |---|---|---|
//! | `nv-proxy.state` | this daemon only | resume its leases |
//! | `nv-proxy.lease` | this daemon, as a copy; netavark's proxy, which truncates it at its start; older versions | adopt the leases of the others |
//!
//! The state file begins with the daemon's account of itself and its counters, which older daemons
//! skip. A change that an older daemon would misread raises the version of the state file. A daemon that
//! finds a newer version keeps that file as `nv-proxy.state.unused` and adopts the leases in the
//! copy, as it does with netavark's.

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
use crate::proxy::store::counters::Counters;
use crate::proxy::store::directory::{Directory, StateDirectory};
use crate::proxy::store::record::{EncodedRecord, FormerLease, Record, StoredRecord};

mod daemon;
mod parse;
mod peek;

pub(crate) use daemon::{DaemonState, Head, new_counters, processor_time};
pub(crate) use peek::Peeked;

use daemon::{StoredDaemon, StoredHead};
use parse::StatePart;

/// Identifies the boot (proc_sys_kernel(5)): instants on the boot clock are valid in it only.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const VERSION: u64 = 1;

/// The most leases of netavark's proxy that are adopted.
const MAX_FOREIGN: usize = 1000;

/// The state file and its copy.
#[derive(Debug)]
pub(crate) struct LeaseFile {
    directory: Rc<StateDirectory>,
    name: OsString,
    copy: OsString,
    boot_id: String,
    /// The digest of the copy's content; `None` if unknown.
    copy_digest: Cell<Option<u64>>,
    /// The copy is another program's, and is not replaced yet.
    is_copy_protected: Cell<bool>,
    /// Set once a failure to write the copy has been logged.
    warned: Cell<bool>,
}

/// A lease in the state file.
#[derive(Debug, Serialize)]
struct LeaseEntry {
    #[serde(flatten)]
    record: StoredRecord,
    /// The link is known to match the record: only a process that exited in good order can tell.
    asleep: bool,
}

/// A lease in the copy: netavark's fields, and the namespace, which marks it as this daemon's.
#[derive(Debug, Serialize)]
struct CopyEntry {
    #[serde(flatten)]
    lease: NetavarkLease,
    ns_path: String,
}

/// The content of the files.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Leases since this boot, and whether each was left in good order.
    pub(crate) leases: Vec<(EncodedRecord, bool)>,
    /// Leases of earlier boots and of other programs, for the address history.
    pub(crate) ended: Vec<FormerLease>,
    /// Leases of netavark's proxy, to be adopted. The copy is not replaced until
    /// [`LeaseFile::unprotect_copy`].
    pub(crate) foreign: Vec<NetavarkLease>,
    /// The counters of the file, and the time for which its daemon armed the timer.
    pub(crate) counters: Option<Counters>,
    pub(crate) timer_at: Option<Instant>,
    /// The files differ from this, and have to be written.
    pub(crate) is_outdated: bool,
    /// Entries that cannot be used.
    unusable: usize,
}

impl LeaseFile {
    /// Returns the copy of that name in `directory`, and the state file beside it, without opening
    /// them.
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
            copy_digest: Cell::default(),
            is_copy_protected: Cell::default(),
            warned: Cell::default(),
        }
    }

    /// Returns the boot id; empty if unknown.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Reads the files, or creates ones without leases, with this head. The daemon serves even if that fails: a file with
    /// unusable content is kept under another name, which is logged.
    pub(crate) fn read(&self, head: &Head<'_>) -> Found {
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
        // Both files are missing if the directory was removed.
        if matches!(state, Err(None))
            && !directory.has(&self.copy)
            && let Some(refuge) = self.directory.refuge()
        {
            state = self.read_state(&refuge, &mut found);
            found.is_outdated = true;
        }
        let is_new = matches!(state, Err(None));
        let is_complete = state.is_ok();
        found.is_outdated |= !is_complete;
        let has_copy = self.read_copy(&directory, state.ok().flatten(), is_complete, &mut found);
        if is_new
            && !has_copy
            && let Err(error) = self.replace(head, [])
        {
            log::error!(
                "cannot create the state file {}: {error}",
                self.path(&self.name)
            );
        }
        found
    }

    /// Reads the state file. Returns the digest of the copy that belongs to it; the error is `None`
    /// if there is no file.
    fn read_state(
        &self,
        directory: &Directory,
        found: &mut Found,
    ) -> Result<Option<u64>, Option<String>> {
        let (now, mut copy, mut head) = (rt::now(), None, StoredHead::default());
        let mut is_of_this_boot = false;
        let trouble = match directory.read(&self.name) {
            Ok(file) => {
                let mut each = |boot_id: &str, part: StatePart| match part {
                    StatePart::Daemon(daemon) => {
                        is_of_this_boot = boot_id == self.boot_id;
                        head.read_daemon(daemon.get());
                    }
                    StatePart::Counters(counters) => head.read_counters(counters.get()),
                    StatePart::Lease(entry) => self.add(&entry, Some(boot_id), now, found),
                };
                let parsed = parse::state(BufReader::with_capacity(4096, file), &mut each);
                parsed
                    .map(|digest| copy = digest)
                    .err()
                    .map(|error| error.to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
            Err(error) => Some(error.to_string()),
        };
        let (daemon, counters) = head.finish();
        found.counters = counters;
        let daemon = daemon.filter(|_| is_of_this_boot);
        found.timer_at = daemon.and_then(|daemon| daemon.timer_at);
        let unusable = std::mem::take(&mut found.unusable);
        let why = trouble
            .or_else(|| (unusable > 0).then(|| format!("{unusable} of its entries are unusable")));
        match why {
            None => Ok(copy),
            Some(why) => {
                self.set_aside(directory, &self.name, &why);
                Err(Some(why))
            }
        }
    }

    /// Reads the copy, unless this program wrote it. Returns whether there is one.
    fn read_copy(
        &self,
        directory: &Directory,
        expected: Option<u64>,
        is_state_complete: bool,
        found: &mut Found,
    ) -> bool {
        let (now, mut older) = (rt::now(), Found::default());
        let trouble = match self.digest_of_copy(directory) {
            Ok(digest) if expected == Some(digest) => {
                self.copy_digest.set(expected);
                return true;
            }
            Ok(_) => {
                let mut each = |entry: Value| {
                    // Written by an older version, which had its state in this file, after the
                    // state file was written.
                    if entry.get("state").is_some() {
                        let boot_id = entry.get("boot_id").and_then(Value::as_str);
                        self.add(&entry, boot_id, now, &mut older);
                    // Skipped is an outdated copy, with leases that are in the state file or have
                    // ended.
                    } else if !(is_state_complete && entry.get("ns_path").is_some()) {
                        add_foreign(&entry, &mut older);
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
        found.is_outdated = true;
        let (unusable, foreign) = (older.unusable, older.foreign.len());
        if trouble.is_some() || unusable + foreign > 0 {
            let why = match (trouble, unusable) {
                (Some(trouble), _) => trouble,
                (None, 0) => format!("{foreign} of its leases are from netavark's proxy"),
                (None, _) => format!("{unusable} of its entries are unusable"),
            };
            self.set_aside(directory, &self.copy, &why);
        }
        if !older.leases.is_empty() {
            found.leases = older.leases;
        }
        found.ended.append(&mut older.ended);
        self.is_copy_protected.set(foreign > 0);
        found.foreign = older.foreign;
        true
    }

    fn digest_of_copy(&self, directory: &Directory) -> io::Result<u64> {
        let mut digest = Digest::default();
        io::copy(&mut directory.read(&self.copy)?, &mut digest)?;
        Ok(digest.0.finish())
    }

    /// Adds a full record to `found`.
    fn add(&self, entry: &Value, boot_id: Option<&str>, now: Instant, found: &mut Found) {
        let Some(stored) = StoredRecord::parse(entry) else {
            found.unusable += 1;
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
            // After a reboot, entries of an earlier boot are expected.
            let is_expected = boot_id.is_some_and(|boot_id| boot_id != self.boot_id);
            found.unusable += usize::from(!is_expected);
            found.is_outdated = true;
            found.ended.extend(former);
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

    /// Allows the next write to replace the copy.
    pub(crate) fn unprotect_copy(&self) {
        self.is_copy_protected.set(false);
    }

    /// Replaces the state file and flushes it, to survive a power cut; then the copy, if its
    /// content changes. Each record comes with whether it is dormant; records of one MAC are
    /// adjacent.
    pub(crate) fn replace<R>(&self, head: &Head<'_>, records: R) -> io::Result<()>
    where
        R: IntoIterator<Item = (StoredRecord, bool)> + Clone,
    {
        let mut digest = Digest::default();
        write_copy(&mut digest, &mut records.clone().into_iter())?;
        let digest = digest.0.finish();
        let directory = self.directory.open()?;
        directory.replace(&self.name, true, |file| {
            buffered(file, |writer| {
                self.write_state(writer, (digest, head), &mut records.clone().into_iter())
            })
        })?;
        self.directory.link_to_refuge(&directory, &self.name);
        if !self.is_copy_protected.get() && self.copy_digest.get() != Some(digest) {
            // Not flushed: only what another program wrote is read from it.
            let written = directory.replace(&self.copy, false, |file| {
                buffered(file, |writer| write_copy(writer, &mut records.into_iter()))
            });
            self.copy_digest.set(written.is_ok().then_some(digest));
            if let Err(error) = written
                && !self.warned.replace(true)
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
        (digest, head): (u64, &Head<'_>),
        records: &mut dyn Iterator<Item = (StoredRecord, bool)>,
    ) -> io::Result<()> {
        let boot_id = serde_json::to_string(&self.boot_id)?;
        // In this order: a reader needs the version and the boot before the first lease.
        write!(
            to,
            r#"{{"version":{VERSION},"boot_id":{boot_id},"copy":"{digest:016x}","daemon":"#
        )?;
        serde_json::to_writer(&mut to, &StoredDaemon::from(head))?;
        to.write_all(br#","counters":"#)?;
        serde_json::to_writer(&mut to, head.counters)?;
        to.write_all(br#","leases":"#)?;
        write_leases(&mut to, records, |record, asleep| LeaseEntry {
            record,
            asleep,
        })?;
        to.write_all(b"}")
    }
}

/// Adds a lease of netavark's proxy to `found`.
fn add_foreign(entry: &Value, found: &mut Found) {
    let stored = StoredRecord::parse(entry);
    let former = stored.as_ref().and_then(StoredRecord::former_lease);
    match stored.zip(former) {
        Some((stored, former)) if found.foreign.len() < MAX_FOREIGN => {
            found.ended.push(former);
            found.foreign.push(stored.lease);
        }
        _ => found.unusable += 1,
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
        |StoredRecord { lease, ns_path, .. }, _| CopyEntry { lease, ns_path },
    )?)
}

/// Writes the records of one MAC at a time: a thousand at once are megabytes, which the heap does
/// not return to the system.
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
        // In the first record's notation, whatever the case of the others.
        let (text, mac_of_first) = (first.0.lease.mac_address.clone(), mac(&first.0));
        let mut entries = vec![entry(first)];
        entries.extend(
            iter::from_fn(|| records.next_if(|(next, _)| mac(next) == mac_of_first)).map(entry),
        );
        object.serialize_entry(&text, &entries)?;
    }
    object.end()
}

/// A digest of a file's content.
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
pub(crate) mod tests;
