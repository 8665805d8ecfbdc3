//! The stored form of a record: protobuf in the table, JSON in the state file. [`From`] and
//! [`StoredRecord::into_record`] are the only conversions.

use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;

use prost::Message;
use serde::{Serialize, Serializer};

use super::number::{instant, millis};
use super::phase::{StoredLease, StoredPhase};
use super::trouble::{LeaseTrouble, StoredTrouble};
use super::{LinkCheck, Record, RecordState, Retry, deferral};
use crate::dhcp::{Plainness, Snapshot};
use crate::mac::Mac;
use crate::net::netns::NetnsId;
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::{StoredApplied, StoredRoute};
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::key::{ContainerNames, LeaseKey};
use crate::rpc::wire::NetavarkLease;

mod parse;

/// Names of states that are not phases.
pub(crate) const INTENT: &str = "INTENT";
pub(crate) const ENDING: &str = "ENDING";

/// A [`Record`] in netavark's fields and additional ones. Times are milliseconds on the boot clock;
/// `None` is never.
///
/// The names and the order of the fields are the state file's format, which older and newer daemons
/// read: a field may be added, and none changes its name, tag or meaning.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredRecord {
    /// The lease as Setup answered it; without an address if there is none.
    #[prost(message, required, tag = "1")]
    #[serde(flatten)]
    pub(crate) lease: NetavarkLease,
    /// The state of RFC 2131 figure 5, INTENT before the first, or ENDING.
    #[prost(string, tag = "2")]
    state: String,

    // The container.
    /// Its network namespace, by path and by what distinguishes it from an earlier one there.
    #[prost(string, tag = "3")]
    pub(crate) ns_path: String,
    #[prost(uint64, optional, tag = "4")]
    ns_cookie: Option<u64>,
    #[prost(uint64, tag = "5")]
    ns_dev: u64,
    #[prost(uint64, tag = "6")]
    ns_ino: u64,
    #[prost(string, tag = "7")]
    container_iface: String,
    #[prost(uint32, tag = "8")]
    container_ifindex: u32,
    #[prost(string, tag = "9")]
    host_iface: String,
    /// Option 61.
    #[prost(bytes = "vec", tag = "10")]
    #[serde(serialize_with = "as_hex")]
    client_id: Vec<u8>,
    /// Option 12.
    #[prost(string, tag = "11")]
    caller_host_name: String,
    #[prost(string, tag = "12")]
    caller_domain: String,

    // The lease, as far as netavark's fields lack it.
    #[prost(uint64, tag = "13")]
    acquired_at: u64,
    #[prost(string, tag = "14")]
    server_mac: String,
    #[prost(string, tag = "15")]
    server_domain: String,
    #[prost(string, repeated, tag = "16")]
    search: Vec<String>,
    #[prost(message, repeated, tag = "17")]
    routes: Vec<StoredRoute>,

    // The client.
    #[prost(uint64, optional, tag = "18")]
    renew_at: Option<u64>,
    #[prost(uint64, optional, tag = "19")]
    rebind_at: Option<u64>,
    /// The next retransmission.
    #[prost(uint64, optional, tag = "20")]
    next_at: Option<u64>,
    /// The beginning of the acquisition.
    #[prost(uint64, tag = "21")]
    since: u64,
    #[prost(string, tag = "22")]
    wanted: String,
    #[prost(uint32, tag = "23")]
    pace: u32,
    #[prost(uint32, tag = "24")]
    setbacks: u32,
    #[prost(uint64, tag = "25")]
    whole_at: u64,
    /// `Plainness` as a number.
    #[prost(uint32, tag = "35")]
    plainness: u32,
    /// Option 57 in bytes; 0 if unknown.
    #[prost(uint32, tag = "34")]
    message_size: u32,

    // The link.
    #[prost(message, required, tag = "26")]
    on_link: StoredApplied,
    /// The next check of the link, and the checks in a row that found it changed.
    #[prost(uint64, optional, tag = "27")]
    look_at: Option<u64>,
    #[prost(uint32, tag = "28")]
    looks: u32,

    /// The time at which the client is due, after deferral.
    #[prost(uint64, optional, tag = "29")]
    due_at: Option<u64>,
    /// The time at which the server was found not to answer.
    #[prost(uint64, optional, tag = "30")]
    silent_since: Option<u64>,
    /// A message is due, but there is no carrier.
    #[prost(bool, tag = "31")]
    unsaid: bool,

    /// The next retry, and failures in a row.
    #[prost(uint64, optional, tag = "32")]
    retry_at: Option<u64>,
    #[prost(uint32, tag = "33")]
    retries: u32,

    #[prost(message, optional, tag = "36")]
    #[serde(skip_serializing_if = "Option::is_none")]
    last_trouble: Option<StoredTrouble>,
}

/// A record as protobuf, which takes a fraction of the memory: it is kept as long as the container,
/// and seldom read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncodedRecord(Box<[u8]>);

/// The address of an ended lease, and the names of its container.
#[derive(Debug)]
pub(crate) struct FormerLease {
    network: String,
    client_id: Vec<u8>,
    mac: Mac,
    pub(crate) address: Ipv4Addr,
}

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> Self {
        let Record {
            request,
            interface,
            applied,
            message_size,
            state,
            link_check,
            retry,
            last_trouble,
        } = record;
        let Request {
            key,
            ns_path: _,
            mac_text,
            host_interface,
            container_interface,
            client_id,
            host_name,
            domain_name,
        } = request;
        let ContainerInterface { netns, index } = interface;
        let NetnsId { dev, ino, cookie } = *netns;
        let (state, snapshot, unresponsive_since) = match state {
            RecordState::Intent => (Some(INTENT), None, None),
            // The deferral is part of `due_at`.
            RecordState::Held {
                snapshot,
                deferred_until: _,
                unresponsive_since,
            } => (None, Some(snapshot), *unresponsive_since),
            RecordState::Ending {
                snapshot,
                unresponsive_since,
            } => (Some(ENDING), Some(snapshot), *unresponsive_since),
        };
        let (phase_name, phase) = snapshot
            .map(|snapshot| StoredPhase::new(&snapshot.phase, request))
            .unwrap_or_default();
        let lease = phase.lease.unwrap_or_else(|| StoredLease::none(mac_text));
        Self {
            lease: lease.reply,
            state: state.unwrap_or(phase_name).to_owned(),
            ns_path: key.netns.display().to_string(),
            ns_cookie: cookie,
            ns_dev: dev,
            ns_ino: ino,
            container_iface: container_interface.clone(),
            container_ifindex: *index,
            host_iface: host_interface.clone(),
            client_id: client_id.clone(),
            caller_host_name: host_name.clone().unwrap_or_default(),
            caller_domain: domain_name.clone(),
            acquired_at: lease.acquired_at,
            server_mac: lease.server_mac,
            server_domain: lease.server_domain,
            search: lease.search,
            routes: lease.routes,
            renew_at: phase.renew_at,
            rebind_at: phase.rebind_at,
            next_at: phase.next_at,
            since: phase.since,
            wanted: phase.wanted,
            pace: phase.pace,
            setbacks: snapshot.map_or(0, |snapshot| snapshot.failures),
            whole_at: snapshot.map_or(0, |snapshot| millis(snapshot.rate_full_at).unwrap_or(0)),
            plainness: snapshot.map_or(0, |snapshot| snapshot.plainness as u32),
            message_size: message_size.map_or(0, u32::from),
            on_link: applied.into(),
            look_at: link_check.and_then(|link_check| millis(link_check.at)),
            looks: link_check.map_or(0, |link_check| link_check.count),
            due_at: record.client_due().and_then(millis),
            silent_since: unresponsive_since.and_then(millis),
            unsaid: link_check.is_some_and(|link_check| link_check.is_send_pending),
            retry_at: retry.and_then(|retry| millis(retry.at)),
            retries: retry.map_or(0, |retry| retry.failures),
            last_trouble: last_trouble.as_ref().map(StoredTrouble::from),
        }
    }
}

impl StoredRecord {
    /// Returns the record. `None` if a text is malformed or the state unknown; its numbers are
    /// unchecked, see [`Record::clamped`].
    pub(super) fn into_record(self) -> Option<Record> {
        let Self {
            lease,
            state,
            ns_path,
            ns_cookie,
            ns_dev,
            ns_ino,
            container_iface,
            container_ifindex,
            host_iface,
            client_id,
            caller_host_name,
            caller_domain,
            acquired_at,
            server_mac,
            server_domain,
            search,
            routes,
            renew_at,
            rebind_at,
            next_at,
            since,
            wanted,
            pace,
            setbacks,
            whole_at,
            plainness,
            message_size,
            on_link,
            look_at,
            looks,
            due_at,
            silent_since,
            unsaid,
            retry_at,
            retries,
            last_trouble,
        } = self;
        let mac_text = lease.mac_address.clone();
        let applied = on_link.parse(container_ifindex, lease.yiaddr.parse().ok())?;
        let phase = StoredPhase {
            lease: Some(StoredLease {
                reply: lease,
                acquired_at,
                server_mac,
                server_domain,
                search,
                routes,
            }),
            renew_at,
            rebind_at,
            next_at,
            since,
            wanted,
            pace,
        };
        let counters = (setbacks, plainness, whole_at);
        Some(Record {
            request: request(
                (mac_text, &ns_path),
                (host_iface, container_iface),
                (client_id, caller_host_name, caller_domain),
            )?,
            interface: ContainerInterface {
                netns: NetnsId {
                    dev: ns_dev,
                    ino: ns_ino,
                    cookie: ns_cookie,
                },
                index: container_ifindex,
            },
            applied,
            message_size: message_size.try_into().ok().filter(|&size| size > 0),
            state: parse_state(&state, phase, counters, (due_at, silent_since))?,
            link_check: parse_look(look_at, looks, unsaid),
            retry: parse_retry(retry_at, retries),
            last_trouble: last_trouble.map(LeaseTrouble::from),
        })
    }

    /// Returns the entry for the address history; `None` without an address or a MAC.
    pub(crate) fn former_lease(&self) -> Option<FormerLease> {
        Some(FormerLease {
            network: self.host_iface.clone(),
            client_id: self.client_id.clone(),
            mac: Mac::parse(&self.lease.mac_address).ok()?,
            address: self
                .lease
                .yiaddr
                .parse()
                .or_else(|_| self.wanted.parse())
                .ok()?,
        })
    }
}

fn parse_state(
    name: &str,
    phase: StoredPhase,
    (failures, plainness, whole_at): (u32, u32, u64),
    (due_at, unresponsive_since): (Option<u64>, Option<u64>),
) -> Option<RecordState> {
    let unresponsive_since = unresponsive_since.map(instant);
    let snapshot = |phase| Snapshot {
        phase,
        failures,
        // Another program wrote an unknown value.
        plainness: Plainness::ALL
            .get(plainness as usize)
            .copied()
            .unwrap_or_default(),
        rate_full_at: instant(whole_at),
    };
    Some(match name {
        INTENT => RecordState::Intent,
        ENDING => RecordState::Ending {
            snapshot: snapshot(phase.parse_ending()?),
            unresponsive_since,
        },
        name => {
            let snapshot = snapshot(phase.parse(name)?);
            RecordState::Held {
                deferred_until: due_at.and_then(|at| deferral(&snapshot, instant(at))),
                snapshot,
                unresponsive_since,
            }
        }
    })
}

fn parse_look(at: Option<u64>, count: u32, unsaid: bool) -> Option<LinkCheck> {
    // A pending message is sent after a check.
    let at = at.or(unsaid.then_some(0)).map(instant)?;
    Some(LinkCheck {
        at,
        count,
        is_send_pending: unsaid,
    })
}

fn parse_retry(at: Option<u64>, failures: u32) -> Option<Retry> {
    let at = at.map(instant)?;
    Some(Retry { at, failures })
}

/// Restores the request of a Setup; `None` without a MAC or a namespace.
fn request(
    (mac_text, ns_path): (String, &str),
    (host_interface, container_interface): (String, String),
    (client_id, host_name, domain_name): (Vec<u8>, String, String),
) -> Option<Request> {
    let mac = Mac::parse(&mac_text).ok()?;
    let netns: Rc<Path> = (!ns_path.is_empty()).then(|| Path::new(ns_path).into())?;
    Some(Request {
        key: LeaseKey {
            mac,
            netns: Rc::clone(&netns),
            interface: container_interface.as_str().into(),
        },
        ns_path: netns,
        mac_text,
        host_interface,
        container_interface,
        client_id,
        host_name: (!host_name.is_empty()).then_some(host_name),
        domain_name,
    })
}

impl EncodedRecord {
    /// Decodes the record.
    pub(crate) fn decode(&self) -> Record {
        let record = self.stored().into_record();
        record.expect("only records are encoded, and their texts are well-formed")
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Decodes the stored form, which suffices for the state file.
    pub(crate) fn stored(&self) -> StoredRecord {
        StoredRecord::decode(&*self.0).expect("only stored records are encoded")
    }
}

impl From<&Record> for EncodedRecord {
    fn from(record: &Record) -> Self {
        Self(StoredRecord::from(record).encode_to_vec().into())
    }
}

impl FormerLease {
    /// Returns the container's names.
    pub(crate) fn names(&self) -> ContainerNames<'_> {
        ContainerNames {
            network: &self.network,
            client_id: &self.client_id,
            mac: self.mac,
        }
    }
}

/// Serializes bytes as hexadecimal digits.
fn as_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(
        &bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    )
}
