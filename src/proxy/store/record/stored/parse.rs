//! Parses a stored record from an entry of the state file. By hand: the code that serde derives for
//! it is ten times as large.

use serde_json::Value;

use super::StoredRecord;
use crate::proxy::container::applied::{StoredApplied, StoredRoute};
use crate::rpc::wire::NetavarkLease;

/// The most items of a list: more than a DHCP message has room for.
const MAX_ITEMS: usize = 1024;

/// The fields of a struct with their names. A missing one is a compile error.
macro_rules! fields {
    ($of:expr => $type:ident { $($field:ident),+ $(,)? } $(and $other:ident)?) => {{
        let $type { $($field,)+ $($other: _)? } = $of;
        [$((stringify!($field), $field as &mut dyn Field)),+]
    }};
}

impl StoredRecord {
    /// Parses an object with the daemon's fields and netavark's, the latter all or none. A missing
    /// field gets its default, an unknown one is skipped. `None` if a field has another type.
    pub(crate) fn parse(entry: &Value) -> Option<Self> {
        let mut record = Self::default();
        read(
            entry,
            &mut fields!(&mut record => Self {
            state, ns_path, ns_cookie, ns_dev, ns_ino, container_iface, container_ifindex, host_iface, client_id,
            caller_host_name, caller_domain, acquired_at, server_mac, server_domain, search, routes, renew_at, rebind_at,
            next_at, since, wanted, pace, setbacks, whole_at, plainness, message_size, on_link, look_at, looks, due_at, silent_since, unsaid,
            retry_at, retries,
        } and lease),
        )?;
        let mut lease = NetavarkLease::default();
        let netavarks = read(
            entry,
            &mut fields!(&mut lease => NetavarkLease {
                t1, t2, lease_time, mtu, domain_name, mac_address, is_v6, siaddr, yiaddr, srv_id, subnet_mask, broadcast_addr,
                dns_servers, gateways, ntp_servers, host_name,
            }),
        );
        Some(Self {
            lease: netavarks.map_or_else(NetavarkLease::default, |()| lease),
            ..record
        })
    }
}

fn read(object: &Value, fields: &mut [(&str, &mut dyn Field)]) -> Option<()> {
    let object = object.as_object()?;
    fields.iter_mut().try_for_each(|(name, field)| {
        object
            .get(*name)
            .map_or(Some(()), |value| field.read(value))
    })
}

/// A value that is read from JSON. A trait object, so that one loop reads fields of all types.
trait Field {
    /// Returns `None` if the value has another type.
    fn read(&mut self, value: &Value) -> Option<()>;
}

impl Field for bool {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_bool().map(|value| *self = value)
    }
}

impl Field for u32 {
    fn read(&mut self, value: &Value) -> Option<()> {
        value
            .as_u64()
            .and_then(|value| value.try_into().ok())
            .map(|value| *self = value)
    }
}

impl Field for u64 {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_u64().map(|value| *self = value)
    }
}

impl Field for String {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_str().map(|value| *self = value.to_owned())
    }
}

impl<T: Field + Default> Field for Option<T> {
    fn read(&mut self, value: &Value) -> Option<()> {
        if value.is_null() {
            Some(())
        } else {
            self.insert(T::default()).read(value)
        }
    }
}

impl<T: Field + Default> Field for Vec<T> {
    fn read(&mut self, value: &Value) -> Option<()> {
        let values = value
            .as_array()
            .filter(|values| values.len() <= MAX_ITEMS)?
            .iter();
        *self = values
            .map(|value| {
                let mut item = T::default();
                item.read(value).map(|()| item)
            })
            .collect::<Option<_>>()?;
        Some(())
    }
}

/// Pairs of hexadecimal digits.
impl Field for Vec<u8> {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_str()?.as_bytes().chunks(2).try_for_each(|pair| {
            let digits = str::from_utf8(pair)
                .ok()
                .filter(|digits| digits.len() == 2 && !digits.contains('+'))?;
            self.push(u8::from_str_radix(digits, 16).ok()?);
            Some(())
        })
    }
}

impl Field for StoredApplied {
    fn read(&mut self, value: &Value) -> Option<()> {
        read(
            value,
            &mut fields!(self => StoredApplied { address, routes, mtu_before, mtu, refused_mtu, refused_routes, place }),
        )
    }
}

impl Field for StoredRoute {
    fn read(&mut self, value: &Value) -> Option<()> {
        read(value, &mut fields!(self => StoredRoute { to, via, metric }))
    }
}
