//! The state file as another process reads it: nothing is written, moved or logged.

use std::io::{self, BufReader};
use std::path::Path;

use serde_json::Value;

use super::{BOOT_ID, parse};
use crate::proxy::store::directory::Directory;
use crate::proxy::store::record::{Record, StoredRecord};
use crate::time::Instant;

/// The content of a state file.
#[derive(Debug, Default)]
pub(crate) struct Peeked {
    /// The leases since this boot, and whether each was left in good order.
    pub(crate) leases: Vec<(Record, bool)>,
    /// Entries of an earlier boot.
    pub(crate) over: usize,
    /// Entries that make no sense.
    pub(crate) unusable: usize,
    /// The reason why the file could not be read to its end.
    pub(crate) trouble: Option<String>,
}

impl Peeked {
    /// Reads the state file beside `lease_file`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The directory or the file cannot be opened, or another user may have written it.
    pub(crate) fn read(lease_file: &Path, now: Instant) -> io::Result<Option<Self>> {
        let path = lease_file.with_extension("state");
        let name = path.file_name().unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("."));
        let file = match Directory::at(parent).and_then(|directory| directory.read(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let this_boot = std::fs::read_to_string(BOOT_ID)?;
        let mut peeked = Self::default();
        let mut each =
            |boot_id: &str, entry: Value| peeked.sort(&entry, boot_id == this_boot.trim(), now);
        let parsed = parse::state(BufReader::with_capacity(64 * 1024, file), &mut each);
        peeked.trouble = parsed.err().map(|error| error.to_string());
        Ok(Some(peeked))
    }

    fn sort(&mut self, entry: &Value, is_of_this_boot: bool, now: Instant) {
        if !is_of_this_boot {
            self.over += 1;
            return;
        }
        let record = StoredRecord::parse(entry).and_then(|stored| Record::from_file(stored, now));
        match record {
            Some(record) => {
                let is_asleep = entry.get("asleep") == Some(&Value::Bool(true));
                self.leases.push((record, is_asleep));
            }
            None => self.unusable += 1,
        }
    }
}
