//! The result of a check, in the form of its JSON.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;

use crate::dhcp::{
    Delivery, DiscoverForm, Discovery, Offer, OfferingServer, ReplyFault, StaticRoute,
};
use crate::mac::Mac;
use crate::operator::diagnosis::Diagnosis;
use crate::operator::text;
use crate::rt;
use crate::time::Instant;

use super::interface::InterfaceReport;
use super::search::EndedSearch;

/// The version of the JSON form. It is raised when a field changes its meaning or goes; new fields
/// may come at any time.
const VERSION: u32 = 1;

/// The whole result.
#[derive(Debug, Serialize)]
pub(super) struct CheckReport {
    version: u32,
    date: String,
    /// A server offers an address without a problem.
    pub(super) healthy: bool,
    pub(super) interface: InterfaceReport,
    /// `None` if the interface cannot send.
    pub(super) search: Option<SearchReport>,
    pub(super) findings: Vec<Diagnosis>,
}

/// The findings, and the verdict.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) findings: Vec<Diagnosis>,
    /// A server offers an address without a problem.
    pub(super) healthy: bool,
    /// The verdict can be found out from here.
    pub(super) is_known: bool,
}

/// The search.
#[derive(Debug, Default, Serialize)]
pub(super) struct SearchReport {
    pub(super) milliseconds: u64,
    pub(super) discovers: usize,
    /// More replies or servers came than a check reads, and the search has ended early.
    pub(super) flooded: bool,
    /// Replies that cannot be used: fragments, and malformed ones.
    pub(super) fragments: u32,
    pub(super) fragments_from: Option<String>,
    pub(super) malformed: u32,
    /// The same and all others by reason.
    pub(super) ignored: Vec<IgnoredReport>,
    /// The address that was probed by ARP without having been offered.
    pub(super) random_address: Option<Ipv4Addr>,
    /// Stations that answer ARP for that address, and for an offered one.
    pub(super) proxy_arp: Vec<String>,
    pub(super) servers: Vec<ServerReport>,
}

/// Replies that cannot be used for one reason.
#[derive(Debug, Serialize)]
pub(super) struct IgnoredReport {
    /// `fragment`, `malformed`, `no-message-type`, `nak`, `other-type`, `no-server`.
    pub(super) reason: &'static str,
    pub(super) count: u32,
    /// The station of the first one.
    pub(super) station: String,
}

/// A server.
#[derive(Debug, Serialize)]
pub(super) struct ServerReport {
    /// The server identifier or, without one, the source address.
    pub(super) server: Ipv4Addr,
    pub(super) has_identifier: bool,
    pub(super) mac: String,
    pub(super) source: Ipv4Addr,
    /// The time of its first reply.
    pub(super) microseconds: u64,
    /// The DISCOVERs that it answers: `full`, `broadcast`, `like-netavark`, `bare`.
    pub(super) answers: Vec<&'static str>,
    /// The way of its replies: `unicast`, `broadcast`.
    pub(super) delivery: Option<&'static str>,
    /// The same where the broadcast flag was set.
    pub(super) flagged_delivery: Option<&'static str>,
    pub(super) replies: u32,
    pub(super) wrong_checksums: u32,
    /// DHCPACKs, which no REQUEST asked for.
    pub(super) acks: u32,
    pub(super) offer: Option<OfferReport>,
    /// An address of a later offer, if it is another one.
    pub(super) other_address: Option<Ipv4Addr>,
    /// The station that has the offered address.
    pub(super) in_use_by: Option<String>,
    /// Other stations had the time to claim the offered address.
    pub(super) probed: bool,
    /// It leaves full DISCOVERs without an answer that came after its first reply.
    #[serde(skip)]
    pub(super) ignores_full: bool,
}

/// An offer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OfferReport {
    pub(super) address: Ipv4Addr,
    pub(super) prefix_length: u8,
    pub(super) has_mask: bool,
    pub(super) routers: Vec<Ipv4Addr>,
    pub(super) routes: Vec<String>,
    pub(super) dns_servers: Vec<Ipv4Addr>,
    pub(super) domain: Option<String>,
    pub(super) search: Vec<String>,
    pub(super) ntp_servers: Vec<Ipv4Addr>,
    pub(super) mtu: Option<u16>,
    /// `None` is for ever.
    pub(super) lease_seconds: Option<u64>,
    pub(super) has_lease_time: bool,
    pub(super) t1_seconds: Option<u64>,
    pub(super) t2_seconds: Option<u64>,
    /// Values that the daemon does not use.
    pub(super) unusable: Vec<String>,
}

impl CheckReport {
    /// Makes the report of a check and its judgement.
    pub(super) fn new(
        interface: InterfaceReport,
        search: Option<SearchReport>,
        judgement: Judgement,
    ) -> Self {
        Self {
            version: VERSION,
            date: text::date(rt::wall_clock()),
            healthy: judgement.healthy,
            interface,
            search,
            findings: judgement.findings,
        }
    }
}

impl From<EndedSearch> for SearchReport {
    fn from(
        EndedSearch {
            discovery,
            took,
            ended,
        }: EndedSearch,
    ) -> Self {
        let ignored = discovery.ignored().iter().map(IgnoredReport::from);
        let ignored: Vec<_> = ignored.collect();
        let of = |reason| ignored.iter().find(|it| it.reason == reason);
        let (fragments, malformed) = (of(FRAGMENT), of(MALFORMED));
        let servers = discovery.servers().iter();
        Self {
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            discovers: discovery.discovers(),
            flooded: discovery.is_flooded(),
            fragments: fragments.map_or(0, |it| it.count),
            fragments_from: fragments.map(|it| it.station.clone()),
            malformed: malformed.map_or(0, |it| it.count),
            random_address: discovery.random_address(),
            proxy_arp: strings(&discovery.proxy_arp_stations()),
            servers: servers
                .map(|server| ServerReport::new(&discovery, server, ended))
                .collect(),
            ignored,
        }
    }
}

impl From<(ReplyFault, u32, Mac)> for IgnoredReport {
    fn from((fault, count, station): (ReplyFault, u32, Mac)) -> Self {
        const NAK: u8 = 6;
        Self {
            reason: match fault {
                ReplyFault::Fragment => FRAGMENT,
                ReplyFault::Malformed => MALFORMED,
                ReplyFault::NoMessageType => NO_MESSAGE_TYPE,
                ReplyFault::OtherType(NAK) => REFUSED,
                ReplyFault::OtherType(_) => OTHER_TYPE,
                ReplyFault::NoServer => NO_SERVER,
            },
            count,
            station: station.to_string(),
        }
    }
}

/// The names of the reasons why replies cannot be used.
pub(super) const FRAGMENT: &str = "fragment";
pub(super) const MALFORMED: &str = "malformed";
pub(super) const NO_MESSAGE_TYPE: &str = "no-message-type";
pub(super) const REFUSED: &str = "nak";
pub(super) const OTHER_TYPE: &str = "other-type";
pub(super) const NO_SERVER: &str = "no-server";

impl ServerReport {
    fn new(discovery: &Discovery, server: &OfferingServer, ended: Instant) -> Self {
        let names = [
            (DiscoverForm::Full, FULL),
            (DiscoverForm::Broadcast, BROADCAST),
            (DiscoverForm::LikeNetavark, LIKE_NETAVARK),
            (DiscoverForm::Bare, BARE),
        ];
        let answers = names.iter().filter(|(form, _)| server.has_answered(*form));
        let delivery = |way: Option<Delivery>| {
            way.map(|way| match way {
                Delivery::Unicast => UNICAST,
                Delivery::Broadcast => BROADCAST,
            })
        };
        Self {
            server: server.id,
            has_identifier: server.has_id,
            mac: server.mac.to_string(),
            source: server.source,
            microseconds: u64::try_from(server.took.as_micros()).unwrap_or(u64::MAX),
            answers: answers.map(|(_, name)| *name).collect(),
            delivery: delivery(server.unflagged),
            flagged_delivery: delivery(server.flagged),
            replies: server.replies,
            wrong_checksums: server.damaged,
            acks: server.acks,
            offer: server.offer.as_ref().map(OfferReport::new),
            other_address: server.other_address,
            in_use_by: discovery.owner(server).as_ref().map(Mac::to_string),
            probed: discovery.is_offer_probed(server, ended),
            ignores_full: discovery.is_full_ignored_by(server, ended),
        }
    }

    /// Returns whether it answers a DISCOVER of the name `form`.
    pub(super) fn has_answered(&self, form: &str) -> bool {
        self.answers.contains(&form)
    }
}

/// The names of the forms of a DISCOVER, and of the ways of a reply.
pub(super) const FULL: &str = "full";
pub(super) const BROADCAST: &str = "broadcast";
pub(super) const LIKE_NETAVARK: &str = "like-netavark";
const BARE: &str = "bare";
pub(super) const UNICAST: &str = "unicast";

impl OfferReport {
    fn new(offer: &Offer) -> Self {
        let lease = &offer.lease;
        let timer = |time: Duration| lease.lease_time.map(|_| time.as_secs());
        Self {
            address: lease.address,
            prefix_length: lease.prefix_len,
            has_mask: offer.has_mask,
            routers: lease.routers.clone(),
            routes: lease.routes.iter().map(route).collect(),
            dns_servers: lease.dns_servers.clone(),
            domain: lease.domain_name.clone(),
            search: lease.search.clone(),
            ntp_servers: lease.ntp_servers.clone(),
            mtu: lease.mtu,
            lease_seconds: lease.lease_time.map(|time| time.as_secs()),
            has_lease_time: offer.has_lease_time,
            t1_seconds: timer(lease.t1),
            t2_seconds: timer(lease.t2),
            unusable: strings(&offer.unusable),
        }
    }
}

fn route(route: &StaticRoute) -> String {
    let (destination, length) = (route.destination, route.prefix_len);
    match route.gateway {
        Some(gateway) => format!("{destination}/{length} via {gateway}"),
        None => format!("{destination}/{length} on the link"),
    }
}

/// Returns the texts of a list.
pub(super) fn strings(items: &[impl fmt::Display]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
