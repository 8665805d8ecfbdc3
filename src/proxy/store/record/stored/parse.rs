//! Parses a stored record from an entry of the state file.

use serde_json::Value;

use super::{StoredRecord, StoredTrouble};
use crate::proxy::container::applied::{StoredApplied, StoredRoute};
use crate::proxy::store::json::{Field, fields, read_fields};
use crate::rpc::wire::NetavarkLease;

impl StoredRecord {
    /// Parses an object with the daemon's fields and netavark's, the latter all or none. A missing
    /// field gets its default, an unknown one is skipped. `None` if a field has another type.
    pub(crate) fn parse(entry: &Value) -> Option<Self> {
        let mut record = Self::default();
        read_fields(
            entry,
            &mut fields!(&mut record => Self {
            state, ns_path, ns_cookie, ns_dev, ns_ino, container_iface, container_ifindex, host_iface, client_id,
            caller_host_name, caller_domain, acquired_at, server_mac, server_domain, search, routes, renew_at, rebind_at,
            next_at, since, wanted, pace, setbacks, whole_at, plainness, message_size, on_link, look_at, looks, due_at, silent_since, unsaid,
            retry_at, retries, last_trouble,
        } and lease),
        )?;
        let mut lease = NetavarkLease::default();
        let netavarks = read_fields(
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

impl Field for StoredApplied {
    fn read(&mut self, value: &Value) -> Option<()> {
        read_fields(
            value,
            &mut fields!(self => StoredApplied { address, routes, mtu_before, mtu, refused_mtu, refused_routes, place }),
        )
    }
}

impl Field for StoredTrouble {
    fn read(&mut self, value: &Value) -> Option<()> {
        read_fields(value, &mut fields!(self => StoredTrouble { at, text }))
    }
}

impl Field for StoredRoute {
    fn read(&mut self, value: &Value) -> Option<()> {
        read_fields(value, &mut fields!(self => StoredRoute { to, via, metric }))
    }
}
