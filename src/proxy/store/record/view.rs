//! An entry of the state file as `status` shows it: read in place, without a [`Record`](super::Record)
//! of it.
//!
//! A record is decoded for work on its lease, and takes some microseconds; to show a thousand leases
//! is quicker than that. A test compares the two, field by field.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::check::is_other_namespace;
use super::clamp::MAX_COUNT;
use super::number::instant;
use super::phase::{BOUND, INIT, REBINDING, RENEWING};
use super::stored::{ENDING, INTENT};
use super::trouble::{Condition, LeaseTrouble};
use crate::mac::Mac;
use crate::proxy::store::scan::{Fault, Scanner, number, text};
use crate::time::Instant;

/// The names of fields, and the same as the beginnings of members behind others.
macro_rules! named {
    ($($name:literal,)+) => {
        const FIELDS: [&str; COUNT] = [$($name),+];
        static MEMBERS: [&str; COUNT] = [$(concat!(",\"", $name, "\":")),+];
    };
}

const COUNT: usize = 52;

// In the order in which they are written. In another order they are found as well, and later.
named!(
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
    "state",
    "ns_path",
    "ns_cookie",
    "ns_dev",
    "ns_ino",
    "container_iface",
    "container_ifindex",
    "host_iface",
    "client_id",
    "caller_host_name",
    "caller_domain",
    "acquired_at",
    "server_mac",
    "server_domain",
    "search",
    "routes",
    "renew_at",
    "rebind_at",
    "next_at",
    "since",
    "wanted",
    "pace",
    "setbacks",
    "whole_at",
    "plainness",
    "message_size",
    "on_link",
    "look_at",
    "looks",
    "due_at",
    "silent_since",
    "unsaid",
    "retry_at",
    "retries",
    "last_trouble",
    "asleep",
);

/// Returns the place of a field, at compile time.
macro_rules! place {
    ($name:literal) => {
        const { place_of($name) }
    };
}

const fn place_of(name: &str) -> usize {
    let mut place = 0;
    while !is_equal(FIELDS[place].as_bytes(), name.as_bytes()) {
        place += 1;
    }
    place
}

const fn is_equal(one: &[u8], other: &[u8]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([first, one @ ..], [second, other @ ..]) if *first == *second => is_equal(one, other),
        _ => false,
    }
}

/// The states of a lease, in the order of its life.
pub(crate) const STATES: [&str; 6] = [INTENT, BOUND, RENEWING, REBINDING, INIT, ENDING];

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseView<'a> {
    /// One of [`STATES`].
    pub(crate) state: &'static str,
    pub(crate) interface: Cow<'a, str>,
    pub(crate) parent: Cow<'a, str>,
    pub(crate) namespace: Cow<'a, str>,
    namespace_id: (u64, u64),
    pub(crate) mac: Cow<'a, str>,
    /// Option 61 in hexadecimal digits.
    client_id: &'a str,
    /// The present or last address.
    pub(crate) address: Option<Ipv4Addr>,
    /// `None` without a lease, as all fields from here on.
    pub(crate) prefix_length: Option<u8>,
    routers: &'a str,
    pub(crate) server: Option<Ipv4Addr>,
    pub(crate) server_mac: Option<Cow<'a, str>>,
    pub(crate) acquired_at: Option<Instant>,
    pub(crate) t1: Option<Instant>,
    pub(crate) t2: Option<Instant>,
    pub(crate) expires_at: Option<Instant>,
    /// The next time at which the daemon does something for it.
    pub(crate) due: Option<Instant>,
    condition: Condition,
    pub(crate) last_trouble: Option<LeaseTrouble>,
}

impl<'a> LeaseView<'a> {
    /// Returns the lease of an entry, `None` where it makes no sense. Fields that are not shown are
    /// not looked at.
    pub(crate) fn parse(values: &EntryValues<'a>) -> Option<Self> {
        let state = values.text(place!("state"))?;
        let state = *STATES.iter().find(|known| **known == state)?;
        let address = values.address(place!("yiaddr"))?;
        let namespace = values.text(place!("ns_path"))?;
        let mac = canonical_mac(values.text(place!("mac_address"))?)?;
        let has_lease = match state {
            INTENT | INIT => false,
            ENDING => address.is_some(),
            _ => true,
        };
        if namespace.is_empty() || (has_lease && address.is_none()) {
            return None;
        }
        let millis = |place| values.number(place).map(|millis| millis.map(instant));
        let mask = if has_lease {
            Some(values.address(place!("subnet_mask"))??.to_bits())
        } else {
            None
        };
        let acquired_at = millis(place!("acquired_at"))?.unwrap_or(instant(0));
        let expires_at = match values.number(place!("lease_time"))? {
            Some(seconds) if has_lease && seconds < u64::from(u32::MAX) => {
                Some(acquired_at + Duration::from_secs(seconds))
            }
            _ => None,
        };
        let is_send_pending = values.is_set(place!("unsaid"))?;
        let failures = values.number(place!("retries"))?.unwrap_or(0);
        let failures = u32::try_from(failures).unwrap_or(MAX_COUNT).min(MAX_COUNT);
        let retry_at = millis(place!("retry_at"))?;
        let look_at = millis(place!("look_at"))?.or(is_send_pending.then_some(instant(0)));
        let due_at = millis(place!("due_at"))?.filter(|_| !is_send_pending);
        let of_lease = |at: Option<Instant>| at.filter(|_| has_lease);
        Some(Self {
            state,
            interface: values.text(place!("container_iface"))?,
            parent: values.text(place!("host_iface"))?,
            namespace,
            namespace_id: (
                values.number(place!("ns_dev"))?.unwrap_or(0),
                values.number(place!("ns_ino"))?.unwrap_or(0),
            ),
            mac,
            client_id: values.get(place!("client_id")),
            address: match state {
                INTENT => None,
                _ if has_lease => address,
                _ => values.text(place!("wanted"))?.parse().ok(),
            },
            prefix_length: mask.and_then(|mask| u8::try_from(mask.leading_ones()).ok()),
            routers: if has_lease {
                values.get(place!("gateways"))
            } else {
                ""
            },
            server: if has_lease {
                values.address(place!("srv_id"))?
            } else {
                None
            },
            server_mac: canonical_mac(values.text(place!("server_mac"))?).filter(|_| has_lease),
            acquired_at: has_lease.then_some(acquired_at),
            t1: of_lease(millis(place!("renew_at"))?),
            t2: of_lease(millis(place!("rebind_at"))?),
            expires_at,
            due: retry_at.or_else(|| [due_at, look_at, expires_at].into_iter().flatten().min()),
            condition: Condition {
                state,
                failures: retry_at.map_or(0, |_| failures),
                is_send_pending,
            },
            last_trouble: LeaseTrouble::read(values.get(place!("last_trouble"))),
        })
    }

    /// Returns what is wrong with the lease, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.condition.trouble()
    }

    /// Returns whether the path of the namespace leads to another one, or to none.
    pub(crate) fn is_gone(&self) -> bool {
        is_other_namespace(Path::new(&*self.namespace), self.namespace_id)
    }

    /// Returns Podman's id of the container, where the client identifier is made of it.
    pub(crate) fn container_id(&self) -> Option<String> {
        let digits = self.client_id.strip_prefix("\"00")?.strip_suffix('"')?;
        let mut id = [0; CONTAINER_ID];
        if digits.len() != 2 * id.len() {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = DIGITS[usize::from(pair[0])] << 4 | DIGITS[usize::from(pair[1])];
        }
        let is_id = id.iter().all(|byte| DIGITS[usize::from(*byte)] < 16);
        is_id.then(|| String::from_utf8_lossy(&id).into_owned())
    }

    /// Returns the routers, as far as they make sense.
    pub(crate) fn routers(&self) -> Vec<Ipv4Addr> {
        let mut routers = Vec::new();
        let _ = Scanner::new(self.routers).array(&mut |scanner| {
            routers.extend(scanner.string()?.parse::<Ipv4Addr>());
            Ok(())
        });
        routers
    }
}

/// The length of a container's id, in hexadecimal digits.
const CONTAINER_ID: usize = 64;

/// The values of hexadecimal digits in lower case; 255 for other bytes.
static DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// The values of an entry's fields as they are written; empty where there is none.
#[derive(Debug)]
pub(crate) struct EntryValues<'a>([&'a str; COUNT]);

impl Default for EntryValues<'_> {
    fn default() -> Self {
        Self([""; COUNT])
    }
}

impl<'a> EntryValues<'a> {
    /// Reads an entry in the place of the one before.
    pub(crate) fn read(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Fault> {
        let start = scanner.place();
        self.0.fill("");
        if self.read_in_order(scanner).is_some() {
            return Ok(());
        }
        scanner.go_back(start);
        self.0.fill("");
        scanner.object(&mut |scanner, name| {
            let value = scanner.value()?;
            if let Some(place) = FIELDS.iter().position(|field| *field == name) {
                self.0[place] = value;
            }
            Ok(())
        })
    }

    /// Reads an entry as this program writes it, without a search for names. Fields may be missing,
    /// but the first.
    fn read_in_order(&mut self, scanner: &mut Scanner<'a>) -> Option<()> {
        let mut is_first = true;
        for (value, member) in self.0.iter_mut().zip(&MEMBERS) {
            let is_next = if is_first {
                scanner.skip_text("{") && scanner.skip_text(&member[1..])
            } else {
                scanner.skip_text(member)
            };
            if is_next {
                *value = scanner.value().ok()?;
            } else if is_first {
                return None;
            }
            is_first = false;
        }
        scanner.skip_text("}").then_some(())
    }

    fn get(&self, place: usize) -> &'a str {
        self.0[place]
    }

    /// Returns a text, empty where there is none; `None` where it is no text.
    fn text(&self, place: usize) -> Option<Cow<'a, str>> {
        match self.get(place) {
            "" => Some(Cow::Borrowed("")),
            value => text(value),
        }
    }

    /// Returns an address, `Some(None)` where the text is empty.
    fn address(&self, place: usize) -> Option<Option<Ipv4Addr>> {
        match &*self.text(place)? {
            "" => Some(None),
            address => address.parse().ok().map(Some),
        }
    }

    /// Returns a number, `Some(None)` where it is missing or null.
    fn number(&self, place: usize) -> Option<Option<u64>> {
        match self.get(place) {
            "" | "null" => Some(None),
            value => number(value).map(Some),
        }
    }

    fn is_set(&self, place: usize) -> Option<bool> {
        match self.get(place) {
            "" | "false" => Some(false),
            "true" => Some(true),
            _ => None,
        }
    }
}

/// Returns a MAC in lower case, with colons; `None` where it is none.
fn canonical_mac(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let is_canonical = |(place, byte): (usize, u8)| match place % 3 {
        2 => byte == b':',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    if text.len() == 17 && text.bytes().enumerate().all(is_canonical) {
        return Some(text);
    }
    Mac::parse(&text)
        .ok()
        .map(|mac| Cow::Owned(mac.to_string()))
}

#[cfg(test)]
impl LeaseView<'static> {
    /// Returns the view of what a record is stored as.
    pub(crate) fn of(record: &super::Record) -> Self {
        let entry = serde_json::to_string(&super::StoredRecord::from(record)).unwrap();
        let mut values = EntryValues::default();
        values.read(&mut Scanner::new(entry.leak())).unwrap();
        LeaseView::parse(&values).unwrap()
    }
}

#[cfg(test)]
mod tests;
