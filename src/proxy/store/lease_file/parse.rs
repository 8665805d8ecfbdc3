//! Reads the files one lease at a time: a thousand at once are megabytes of JSON, which the heap
//! does not return to the system.

use std::fmt;
use std::io::BufRead;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Result, Value};

use super::VERSION;

/// A part of a state file.
pub(crate) enum StatePart {
    /// The daemon's account of itself.
    Daemon(Box<RawValue>),
    Counters(Box<RawValue>),
    Lease(Value),
}

/// Parses a state file, and calls `each` with the boot id and every part before the first syntax
/// error. Returns the digest of the copy that belongs to it.
pub(crate) fn state(
    file: impl BufRead,
    each: &mut dyn FnMut(&str, StatePart),
) -> Result<Option<u64>> {
    struct LeasesSeed<'a>(&'a mut dyn FnMut(&str, StatePart));

    impl<'de> Visitor<'de> for LeasesSeed<'_> {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with a version, the id of a boot, and leases")
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let (mut version, mut boot_id, mut copy) = (None, String::new(), None);
            while let Some(key) = map.next_key::<String>()? {
                match &*key {
                    "version" => {
                        let found: u64 = map.next_value()?;
                        if found > VERSION {
                            let newer = format!(
                                "it is of version {found}, and this program knows {VERSION}"
                            );
                            return Err(A::Error::custom(newer));
                        }
                        version = Some(found);
                    }
                    "boot_id" => boot_id = map.next_value()?,
                    "copy" => copy = u64::from_str_radix(&map.next_value::<String>()?, 16).ok(),
                    "leases" if version.is_none() => {
                        return Err(A::Error::missing_field("version"));
                    }
                    "leases" => map.next_value_seed(Entries(&mut |entry| {
                        (self.0)(&boot_id, StatePart::Lease(entry));
                    }))?,
                    "daemon" => (self.0)(&boot_id, StatePart::Daemon(map.next_value()?)),
                    "counters" => (self.0)(&boot_id, StatePart::Counters(map.next_value()?)),
                    _ => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            version
                .map(|_| copy)
                .ok_or_else(|| A::Error::missing_field("version"))
        }
    }

    let mut json = serde_json::Deserializer::from_reader(file);
    let copy = json.deserialize_map(LeasesSeed(each))?;
    json.end()?;
    Ok(copy)
}

/// Parses a file in netavark's format, and calls `each` with every entry before the first syntax
/// error.
///
/// netavark's proxy truncates its file and writes on at its old offset, so zero bytes may precede
/// the leases. Before its first lease the file is empty.
pub(crate) fn copy(mut file: impl BufRead, each: &mut dyn FnMut(Value)) -> Result<()> {
    loop {
        let bytes = file.fill_buf().map_err(serde_json::Error::custom)?;
        let (zeros, length) = (
            bytes.iter().take_while(|byte| **byte == 0).count(),
            bytes.len(),
        );
        file.consume(zeros);
        match (zeros, length) {
            (_, 0) => return Ok(()),
            (zeros, length) if zeros < length => break,
            _ => {}
        }
    }
    let mut json = serde_json::Deserializer::from_reader(file);
    Entries(each).deserialize(&mut json)?;
    json.end()
}

/// An object with an array of leases per MAC.
struct Entries<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an array of leases for each MAC address")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((_, leases)) = map.next_entry::<String, Vec<Value>>()? {
            leases.into_iter().for_each(&mut *self.0);
        }
        Ok(())
    }
}
