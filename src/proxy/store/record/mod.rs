//! A lease as it is remembered while nothing is to be done for it: in the table, and in the state
//! file.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use serde::{Serialize, Serializer};

use crate::dhcp::{self, Phase, Plainness, Snapshot};
use crate::net::link::Address;
use crate::rpc::wire::Lease;
use crate::time::Instant;

use crate::mac::Mac;
use crate::proxy::call::reply::reply;
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::{Applied, StoredApplied, StoredRoute};
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::key::{ContainerNames, DhcpServer, LeaseKey};

mod parse;
mod reason;
mod recall;

/// How soon is tried again what failed for want of something: twice as late each time, up to
/// [`SELDOM`].
const RETRY: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(3600);

/// All that it takes to go on with a lease, in netavark's fields and in ours. Instants are
/// milliseconds on the boot clock, and none stands for never.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct Record {
    /// The lease as the caller of Setup got it; one without an address where there is none.
    #[prost(message, required, tag = "1")]
    #[serde(flatten)]
    pub(crate) lease: Lease,
    /// The state of RFC 2131 figure 5 that it rests in, INTENT before there is one, or ENDING.
    #[prost(string, tag = "2")]
    pub(crate) state: String,

    // The container.
    /// Its network namespace, by name and by what tells it from another of that name.
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
    /// What the caller of Setup called the container.
    #[prost(string, tag = "11")]
    caller_host_name: String,
    #[prost(string, tag = "12")]
    caller_domain: String,

    // The lease, as far as netavark's fields do not say it.
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
    /// When what was not answered is said again.
    #[prost(uint64, optional, tag = "20")]
    next_at: Option<u64>,
    /// Since when a lease is looked for.
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
    /// How plain its messages are (`Plainness`), from 0 on.
    #[prost(uint32, tag = "35")]
    plainness: u32,
    /// Option 57 in bytes; 0 where it is not known.
    #[prost(uint32, tag = "34")]
    message_size: u32,

    // The link.
    #[prost(message, required, tag = "26")]
    on_link: StoredApplied,
    /// When the link is looked at again that was not as it should be, and how often that was so.
    #[prost(uint64, optional, tag = "27")]
    look_at: Option<u64>,
    #[prost(uint32, tag = "28")]
    looks: u32,

    /// When the client wants to be woken, all considered.
    #[prost(uint64, optional, tag = "29")]
    due_at: Option<u64>,
    /// When it was found that its server does not answer.
    #[prost(uint64, optional, tag = "30")]
    silent_since: Option<u64>,
    /// Something was due, and could not be said for want of a carrier.
    #[prost(bool, tag = "31")]
    unsaid: bool,

    /// When what failed is tried again, and how often in a row it has failed.
    #[prost(uint64, optional, tag = "32")]
    retry_at: Option<u64>,
    #[prost(uint32, tag = "33")]
    retries: u32,
}

/// What a record is about, where it makes sense.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) request: Request,
    pub(crate) site: ContainerInterface,
    pub(crate) settings: Applied,
    /// Whether the link has to be looked at, and how often that was so.
    pub(crate) looks: Option<u32>,
    /// Something was due, and could not be said for want of a carrier.
    pub(crate) unsaid: bool,
    /// Option 57, as far as it is known.
    pub(crate) message_size: Option<u16>,
    pub(crate) state: State,
}

/// How far a lease has got.
#[derive(Debug)]
pub(crate) enum State {
    /// A Setup was under way.
    Intent,
    /// A Teardown was under way.
    Ending(Snapshot),
    /// It was at rest.
    Dormant(Snapshot),
}

const INTENT: &str = "INTENT";
const ENDING: &str = "ENDING";
const BOUND: &str = "BOUND";
const RENEWING: &str = "RENEWING";
const REBINDING: &str = "REBINDING";
const INIT: &str = "INIT";

impl Record {
    /// That a container is about to get a lease.
    pub(crate) fn intent(request: &Request, site: &ContainerInterface) -> Self {
        let lease = Lease {
            mac_address: request.mac_text.clone(),
            ..Lease::default()
        };
        let host_name = request.host_name.as_deref();
        Self {
            lease,
            state: INTENT.to_owned(),
            due_at: Some(0),
            ..Self::about(request, site, (&request.client_id, host_name))
        }
    }

    /// A lease that another program got, of an interface which has had its address since `since`:
    /// to be renewed at once. `None` where it makes no sense.
    ///
    /// That program may have renewed it without a note. One that would be in rebinding by now, or
    /// over, is taken to be at T2: the servers are asked by broadcast, and without an answer it
    /// ends after the rest of its time.
    pub(crate) fn adopted(
        lease: Lease,
        (request, site): (&Request, &ContainerInterface),
        settings: &Applied,
        (since, now): (Instant, Instant),
    ) -> Option<Self> {
        let found = Self {
            state: BOUND.to_owned(),
            acquired_at: millis(since)?,
            lease,
            ..Self::default()
        };
        // Its timers may make no sense.
        let found = found.within_reason(now).dhcp_lease()?;
        let rebind_at = found.acquired_at + found.t2;
        let phase = if found.lease_time.is_none() {
            let never = Instant::from_boot(Duration::MAX);
            Phase::Bound {
                lease: found,
                renew_at: now,
                rebind_at: never,
            }
        } else if now < rebind_at {
            Phase::Bound {
                lease: found,
                renew_at: now,
                rebind_at,
            }
        } else {
            let lease = dhcp::Lease {
                acquired_at: Instant::from_boot(now.since_boot().saturating_sub(found.t2)),
                ..found
            };
            Phase::Rebinding {
                lease,
                renew_at: now,
                rebind_at: now,
                next: now,
            }
        };
        // Its server is known to answer netavark's messages.
        let plainness = Plainness::LikeNetavark;
        let rest = Snapshot {
            phase,
            failures: 0,
            plainness,
            whole_at: Instant::from_boot(Duration::ZERO),
        };
        let config = dhcp::Config {
            host_name: request.host_name.clone(),
            ..dhcp::Config::new(request.key.mac, request.client_id.clone())
        };
        Some(Self::resting(
            (request, site),
            &config,
            &rest,
            settings,
            None,
        ))
    }

    /// A lease at rest. `look` is when to look at its link again, how often that was so, and
    /// whether there is something unsaid.
    pub(crate) fn resting(
        (request, site): (&Request, &ContainerInterface),
        config: &dhcp::Config,
        rest: &Snapshot,
        settings: &Applied,
        look: Option<(Instant, u32, bool)>,
    ) -> Self {
        let blank = Lease {
            mac_address: request.mac_text.clone(),
            ..Lease::default()
        };
        let mut record = Self {
            lease: rest.lease().map_or(blank, |lease| reply(request, lease)),
            setbacks: rest.failures,
            plainness: rest.plainness as u32,
            whole_at: millis(rest.whole_at).unwrap_or(0),
            message_size: config.max_message_size.into(),
            due_at: rest.due().and_then(millis),
            on_link: settings.remember(),
            look_at: look.and_then(|(at, ..)| millis(at)),
            looks: look.map_or(0, |(_, looks, _)| looks),
            unsaid: look.is_some_and(|(.., unsaid)| unsaid),
            ..Self::about(
                request,
                site,
                (&config.client_id, config.host_name.as_deref()),
            )
        };
        let (state, times, next) = match &rest.phase {
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            } => (BOUND, Some((lease, renew_at, rebind_at)), None),
            Phase::Renewing {
                lease,
                renew_at,
                rebind_at,
                next,
            } => (RENEWING, Some((lease, renew_at, rebind_at)), Some(*next)),
            Phase::Rebinding {
                lease,
                renew_at,
                rebind_at,
                next,
            } => (REBINDING, Some((lease, renew_at, rebind_at)), Some(*next)),
            Phase::Init {
                at,
                since,
                wanted,
                pace,
            } => {
                record.since = millis(*since).unwrap_or(0);
                record.wanted = text(*wanted);
                record.pace = *pace;
                (INIT, None, Some(*at))
            }
        };
        record.state = state.to_owned();
        record.next_at = next.and_then(millis);
        if let Some((lease, renew_at, rebind_at)) = times {
            record.renew_at = millis(*renew_at);
            record.rebind_at = millis(*rebind_at);
            record.acquired_at = millis(lease.acquired_at).unwrap_or(0);
            record.server_mac = text(lease.server_mac);
            record.server_domain = lease.domain_name.clone().unwrap_or_default();
            record.search.clone_from(&lease.search);
            record.routes = lease.routes.iter().map(StoredRoute::from).collect();
        }
        record
    }

    fn about(
        request: &Request,
        site: &ContainerInterface,
        (client_id, host_name): (&[u8], Option<&str>),
    ) -> Self {
        Self {
            ns_path: request.key.netns.display().to_string(),
            ns_cookie: site.netns.cookie,
            ns_dev: site.netns.dev,
            ns_ino: site.netns.ino,
            container_iface: request.container_interface.clone(),
            container_ifindex: site.index,
            host_iface: request.host_interface.clone(),
            client_id: client_id.to_vec(),
            caller_host_name: host_name.unwrap_or_default().to_owned(),
            caller_domain: request.domain_name.clone(),
            ..Self::default()
        }
    }

    /// The same, about to be given back. What has no lease stays as it is.
    pub(crate) fn ending(mut self) -> Self {
        if self.state != INTENT {
            // The rest of it says what there is to be given back, and does not depend on the state
            // it was in.
            self.next_at = None;
            self.due_at = Some(0);
            self.state = ENDING.to_owned();
            (self.retry_at, self.retries) = (None, 0);
        }
        self
    }

    /// The same after a failure at `now`: to be tried again, each time later than the last.
    pub(crate) fn with_retry(mut self, now: Instant) -> Self {
        let delay = RETRY.saturating_mul(1 << self.retries.min(16)).min(SELDOM);
        // A fault that lasts a while must not cost the lease.
        let rest = self.remaining(now).filter(|rest| !rest.is_zero());
        let delay = rest.map_or(delay, |rest| delay.min(rest / 4).max(RETRY));
        self.retries = self.retries.saturating_add(1);
        self.put_off_until(now + delay)
    }

    /// The same, for which nothing is done before `until`.
    pub(crate) fn put_off_until(mut self, until: Instant) -> Self {
        self.retry_at = millis(until);
        self
    }

    /// Returns whether a failure of its work waits for another try.
    pub(crate) fn is_retry(&self) -> bool {
        self.retry_at.is_some()
    }

    /// How long it lasts from `now` on if nothing is done for it; `None` where that is for ever.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.expires_at().map(|end| instant(end) - now)
    }

    /// Whether a Teardown of it was under way.
    pub(crate) fn is_ending(&self) -> bool {
        self.state == ENDING
    }

    /// T1.
    pub(crate) fn t1(&self) -> Option<Instant> {
        self.renew_at.map(instant)
    }

    /// The server that its lease is from.
    pub(crate) fn server(&self) -> Option<DhcpServer> {
        let (address, station) = (
            self.lease.srv_id.parse().ok()?,
            Mac::parse(&self.server_mac).ok(),
        );
        Some(DhcpServer {
            network: self.host_iface.clone(),
            address,
            station,
        })
    }

    /// Whether it is in use and nothing is to be done for it but to renew it.
    pub(crate) fn is_bound(&self) -> bool {
        self.state == BOUND && self.look_at.is_none()
    }

    /// Whether its server was asked for more time, and did not answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        [RENEWING, REBINDING].contains(&&*self.state) && self.look_at.is_none()
    }

    /// Since when its server does not answer, as far as this lease has found.
    pub(crate) fn silence(&self) -> Option<Instant> {
        self.silent_since.map(instant)
    }

    /// The same, whose server was found at `now` not to answer.
    pub(crate) fn with_silence(mut self, now: Instant) -> Self {
        self.silent_since = millis(now);
        self
    }

    /// The same, put off until a time that is not too late for a first REQUEST: half of the time
    /// until T2 is left.
    pub(crate) fn put_off(mut self, until: Instant) -> Option<Self> {
        let (renew_at, rebind_at) = (self.renew_at?, self.rebind_at?);
        self.due_at = Some(
            millis(until)?
                .max(renew_at)
                .min(renew_at + rebind_at.saturating_sub(renew_at) / 2),
        );
        Some(self)
    }

    /// What the lease belongs to, where that is said.
    pub(crate) fn key(&self) -> Option<LeaseKey> {
        let mac = Mac::parse(&self.lease.mac_address).ok()?;
        (!self.ns_path.is_empty()).then(|| LeaseKey {
            mac,
            netns: Path::new(&self.ns_path).into(),
            interface: self.container_iface.as_str().into(),
        })
    }

    /// The names that the container goes by.
    pub(crate) fn who(&self) -> Option<ContainerNames<'_>> {
        let mac = Mac::parse(&self.lease.mac_address).ok()?;
        Some(ContainerNames {
            network: &self.host_iface,
            client_id: &self.client_id,
            mac,
        })
    }

    /// The address that the container has, or had last.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.lease
            .yiaddr
            .parse()
            .or_else(|_| self.wanted.parse())
            .ok()
    }

    /// Whether the path leads to another network namespace now, or to none, as far as that can be
    /// seen from outside. It may be so all the same where this is false, for inode numbers are used
    /// again.
    pub(crate) fn is_gone(&self) -> bool {
        match fs::metadata(&self.ns_path) {
            Ok(there) => (there.dev(), there.ino()) != (self.ns_dev, self.ns_ino),
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        }
    }

    /// Whether it is the same interface in the same namespace, with the lease's address on it.
    pub(crate) fn still_fits(&self) -> bool {
        let expected = self.on_link.address.clone();
        let Some(Remembered { request, site, .. }) = self.clone().recall() else {
            return false;
        };
        let Ok(netlink) = site.check(&request) else {
            return false;
        };
        let is_it = |there: &Address| format!("{}/{}", there.address, there.prefix) == expected;
        expected.is_empty()
            || netlink
                .addresses(site.index)
                .is_ok_and(|there| there.iter().any(is_it))
    }

    /// The same, with a link that is to be looked at now.
    pub(crate) fn with_look(mut self) -> Self {
        self.look_at.get_or_insert(0);
        self
    }

    /// The container's interface and its namespace, for the log.
    pub(crate) fn place(&self) -> String {
        format!("{} in {}", self.container_iface, self.ns_path)
    }

    /// When there is something to be done; none where that is never.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let Some(retry_at) = self.retry_at {
            return Some(instant(retry_at));
        }
        // What cannot be said is not said any sooner.
        let clients = self.due_at.filter(|_| !self.unsaid);
        clients
            .into_iter()
            .chain(self.look_at)
            .chain(self.expires_at())
            .min()
            .map(instant)
    }

    /// From when on it may be renewed together with others: a tenth of T1 before its time (RFC 2131
    /// 4.4.5).
    pub(crate) fn may_renew_from(&self) -> Option<Instant> {
        let renew_at = self
            .renew_at
            .filter(|_| self.state == BOUND && !self.is_retry())?;
        Some(instant(
            renew_at.saturating_sub(u64::from(self.lease.t1) * 100),
        ))
    }

    /// The end of the time in which it is due: T2, where it is T1 that comes next.
    pub(crate) fn too_late(&self) -> Option<Instant> {
        match &*self.state {
            BOUND | RENEWING => self.rebind_at.map(instant),
            _ => self.expires_at().map(instant),
        }
    }

    fn expires_at(&self) -> Option<u64> {
        let is_finite = self.lease.lease_time != u32::MAX && !self.lease.yiaddr.is_empty();
        is_finite.then(|| {
            self.acquired_at
                .saturating_add(u64::from(self.lease.lease_time) * 1000)
        })
    }
}

/// A record in its wire form: a fraction of the memory, for what is kept as long as the container
/// and seldom looked at.
#[derive(Clone, Debug)]
pub(crate) struct EncodedRecord(Box<[u8]>);

impl EncodedRecord {
    pub(crate) fn unpack(&self) -> Record {
        Record::decode(&*self.0).expect("these bytes were a record")
    }
}

impl From<&Record> for EncodedRecord {
    fn from(record: &Record) -> Self {
        Self(record.encode_to_vec().into())
    }
}

fn millis(at: Instant) -> Option<u64> {
    // Nothing in a file is to last longer than this, and everything that comes from one can be
    // added to.
    u64::try_from(at.since_boot().as_millis())
        .ok()
        .filter(|&millis| millis <= FAR)
}

/// Some thousand years.
const FAR: u64 = 1 << 45;

fn instant(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millis.min(FAR)))
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Bytes as hexadecimal digits.
fn as_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(
        &bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    )
}

#[cfg(test)]
pub(crate) mod tests;
