//! The state file as another process reads it: nothing is written, moved or logged.

use std::io::{self, Read};
use std::path::Path;

use super::daemon::{DaemonState, StoredHead};
use super::{BOOT_ID, VERSION};
use crate::proxy::store::counters::Counters;
use crate::proxy::store::directory::Directory;
use crate::proxy::store::journal::RecordedDeaths;
use crate::proxy::store::record::{EntryValues, LeaseView};
use crate::proxy::store::scan::{Fault, Scanner, number, text};

/// The length of a lease in a state file, or a bit less.
const TYPICAL_LEASE: usize = 1024;

/// The content of a state file. Its text stays in memory until the process ends: that is a command,
/// which reads one file.
#[derive(Debug, Default)]
pub(crate) struct Peeked {
    /// The leases since this boot.
    pub(crate) leases: Vec<LeaseView<'static>>,
    /// The daemon that wrote the file, if in this boot.
    pub(crate) daemon: Option<DaemonState>,
    pub(crate) counters: Option<Counters>,
    /// Entries of an earlier boot.
    pub(crate) over: usize,
    /// Entries that make no sense.
    pub(crate) unusable: usize,
    /// The reason why the file could not be read to its end.
    pub(crate) trouble: Option<String>,
    /// The deaths of daemons at leases, of the journal.
    pub(crate) deaths: RecordedDeaths,
}

impl Peeked {
    /// Reads the state file beside `lease_file`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The directory or the file cannot be opened, another user may have written it, or it is of a
    /// newer version.
    pub(crate) fn read(lease_file: &Path) -> io::Result<Option<Self>> {
        let path = lease_file.with_extension("state");
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("."));
        let opened = Directory::at(parent).and_then(|directory| {
            let file = directory.read(name)?;
            Ok((directory, file))
        });
        let (directory, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.get_ref().metadata()?.len();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
        file.read_to_end(&mut bytes)?;
        let boot_id = std::fs::read_to_string(BOOT_ID)?;
        let mut peeked = Self::parse(bytes, boot_id.trim())?;
        // Without a journal that can be read there are none.
        let journal = lease_file.with_extension("work");
        peeked.deaths = directory
            .read(journal.file_name().unwrap_or_default())
            .and_then(RecordedDeaths::read)
            .unwrap_or_default();
        Ok(Some(peeked))
    }

    /// Returns how often the daemon has died at a lease.
    pub(crate) fn deaths_at(&self, lease: &LeaseView<'_>, is_running: bool) -> u32 {
        // The usual case.
        if self.deaths.is_empty() {
            return 0;
        }
        lease
            .key()
            .map_or(0, |key| self.deaths.of(&key, is_running))
    }

    /// Parses a file that is read in the boot of that id.
    pub(super) fn parse(bytes: Vec<u8>, boot_id: &str) -> io::Result<Self> {
        let bytes: &'static [u8] = bytes.leak();
        let readable = match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut file = FileReader::new(boot_id);
        file.peeked.leases.reserve(bytes.len() / TYPICAL_LEASE);
        let mut scanner = Scanner::new(readable);
        let read = file.read(&mut scanner).and_then(|()| scanner.end());
        if let Some(version) = file.version.filter(|version| *version > VERSION) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it is of version {version}, and this program knows {VERSION}"),
            ));
        }
        let mut peeked = file.peeked;
        peeked.trouble = match read {
            Err(Fault { at }) if at >= bytes.len() => Some("it is cut off".to_owned()),
            Err(Fault { at }) => Some(format!("it makes no sense from byte {at} on")),
            Ok(()) if file.version.is_none() => Some("it has no version".to_owned()),
            Ok(()) => None,
        };
        let (daemon, counters) = file.head.finish();
        // Its times are those of its boot.
        peeked.daemon = daemon.filter(|_| file.is_of_this_boot);
        peeked.counters = counters;
        Ok(peeked)
    }
}

/// A state file that is being read.
struct FileReader<'b> {
    boot_id: &'b str,
    version: Option<u64>,
    is_of_this_boot: bool,
    head: StoredHead,
    peeked: Peeked,
}

impl<'b> FileReader<'b> {
    fn new(boot_id: &'b str) -> Self {
        Self {
            boot_id,
            version: None,
            is_of_this_boot: false,
            head: StoredHead::default(),
            peeked: Peeked::default(),
        }
    }

    fn read(&mut self, scanner: &mut Scanner<'static>) -> Result<(), Fault> {
        let mut values = EntryValues::default();
        scanner.object(&mut |scanner, name| match name {
            "version" => {
                let fault = scanner.fault();
                let version = number(scanner.value()?).ok_or(fault)?;
                self.version = Some(version);
                // A newer form is not read any further.
                if version > VERSION {
                    Err(fault)
                } else {
                    Ok(())
                }
            }
            "boot_id" => {
                let boot_id = text(scanner.value()?);
                self.is_of_this_boot = boot_id.is_some_and(|boot_id| boot_id == self.boot_id);
                Ok(())
            }
            "daemon" => scanner.value().map(|daemon| self.head.read_daemon(daemon)),
            "counters" => scanner
                .value()
                .map(|counters| self.head.read_counters(counters)),
            // Not before the version is known.
            "leases" if self.version.is_none() => Err(scanner.fault()),
            "leases" => scanner.object(&mut |scanner, _| {
                scanner.array(&mut |scanner| {
                    values.read(scanner)?;
                    self.add(&values);
                    Ok(())
                })
            }),
            _ => scanner.value().map(drop),
        })
    }

    fn add(&mut self, entry: &EntryValues<'static>) {
        if !self.is_of_this_boot {
            self.peeked.over += 1;
        } else if let Some(lease) = LeaseView::parse(entry) {
            self.peeked.leases.push(lease);
        } else {
            self.peeked.unusable += 1;
        }
    }
}
