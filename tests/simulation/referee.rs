//! Watches one client, and fails the run as soon as it breaks a rule. Knows of the client only what
//! can be seen from outside.

use super::datagrams::*;
use super::manners::{Manners, is_contest};
use smol_dhcp_proxy::dhcp::{Client, Config, Event, Ignored, Lease, LossReason};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

mod messages;

const HOUR: Duration = Duration::from_secs(3600);
/// The most messages within any hour, but for those of renewals that were answered, so far apart
/// from each other.
const MOST: usize = 150;
const APART: Duration = Duration::from_secs(5);
/// Who has said this much within an hour may have to wait for the next message, this long.
const MUCH: usize = 50;
const CAP_WAIT: Duration = Duration::from_secs(41);
/// T1 and T2 may come this much early.
const FUZZ: Duration = Duration::from_secs(1);
/// Who asks before T1 and hears nothing asks again after this long at the latest.
const SELDOM: Duration = Duration::from_secs(330);
const A_MINUTE: Duration = Duration::from_secs(60);
/// How long an offer may lie while a better one is hoped for.
const OFFER_RESTS: Duration = Duration::from_millis(100);

/// What is being done to the client.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    Start,
    Timeout,
    /// A server's message, whole; anything else that is no ARP has `None`.
    Frame(Option<Reply>),
    Arp(Arp),
    Carrier(bool),
    Release,
}

/// An address in use, as the events tell it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub address: Ipv4Addr,
    pub server: Ipv4Addr,
    pub honest: bool,
    pub since: Instant,
    pub acquired_at: Instant,
    renew_at: Option<Instant>,
    rebind_at: Option<Instant>,
    pub expires_at: Option<Instant>,
}

/// One xid, and when it was first used for what.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    xid: u32,
    discover: Option<Instant>,
    request: Option<Instant>,
    /// Whom the REQUEST was for.
    server: Option<Ipv4Addr>,
    /// What it was for.
    requested: Option<Ipv4Addr>,
}

/// The part of an xid that all messages of a round have in common: the rest tells how plain a
/// message is.
fn round(xid: u32) -> u32 {
    xid & !3
}

#[derive(Debug)]
pub struct Referee {
    mac: Mac,
    broadcast: bool,
    manners: Manners,
    client_id: Option<u32>,
    born: Instant,
    /// How late the driver is, at most.
    lag: Duration,
    pub in_use: Option<Used>,
    pub over: bool,
    pub carrier: bool,
    carrier_since: Instant,
    pub awake_since: Instant,
    unbound_since: Instant,
    asked_at: Instant,
    /// The carrier was away: what the server thinks of the lease is to be asked, be it T1 or not.
    may_have_moved: bool,
    offer_since: Option<Instant>,
    exchange: Option<Exchange>,
    /// The whole xid of the last message that asked for something.
    last_xid: u32,
    /// The xid of an exchange that has come to its end.
    stale: Option<u32>,
    offers: VecDeque<(u32, Ipv4Addr, Ipv4Addr)>,
    claims: VecDeque<(Ipv4Addr, Mac)>,
    ack: Option<Reply>,
    sent: VecDeque<Instant>,
    /// The most messages that any hour has seen.
    pub busiest: usize,
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    list.truncate(31);
    list.push_front(item);
}

impl Referee {
    pub fn new(
        config: &Config,
        lease: Option<(&Lease, bool)>,
        lag: Duration,
        now: Instant,
    ) -> Self {
        Self {
            mac: config.mac,
            broadcast: config.broadcast,
            manners: Manners::new(config),
            client_id: None,
            born: now,
            lag,
            in_use: lease.map(|(lease, honest)| used(lease, honest, now)),
            over: false,
            carrier: true,
            carrier_since: now,
            awake_since: now,
            unbound_since: now,
            asked_at: Instant::from_boot(Duration::ZERO),
            may_have_moved: false,
            offer_since: None,
            exchange: None,
            last_xid: 0,
            stale: None,
            offers: VecDeque::new(),
            claims: VecDeque::new(),
            ack: None,
            sent: VecDeque::new(),
            busiest: 0,
        }
    }

    /// The xid of the last message that asked for something.
    pub fn xid(&self) -> u32 {
        self.exchange.map_or(0, |_| self.last_xid)
    }

    /// How long it has been without an address although it could have asked for one.
    pub fn searching_for(&self, now: Instant) -> Duration {
        match self.in_use.is_some() || self.over || !self.carrier {
            true => Duration::ZERO,
            false => {
                now - self
                    .unbound_since
                    .max(self.carrier_since)
                    .max(self.awake_since)
            }
        }
    }

    /// One step: what was done to the client, and all that came of it. `before` is its state before
    /// that.
    pub fn judge(
        &mut self,
        (input, before, was_listening): (Input, &'static str, bool),
        result: Result<(), Ignored>,
        (said, events): (&[Said], &[Event]),
        client: &Client,
        now: Instant,
    ) {
        if let Input::Carrier(present) = input {
            if present && !self.carrier {
                self.carrier_since = now;
                self.may_have_moved = self.in_use.is_some();
            }
            self.carrier = present;
        }
        self.judge_deafness(input, before, result.is_ok());
        let input = match input {
            Input::Frame(Some(reply)) => Input::Frame(Some(Reply {
                xid: round(reply.xid),
                ..reply
            })),
            input => input,
        };
        self.hear(input, before, result.is_ok(), now);
        assert!(
            said.len() <= 8 && events.len() <= 5,
            "{} things said, {} events at once",
            said.len(),
            events.len()
        );
        assert!(
            said.is_empty() || self.carrier,
            "{:?} without a carrier",
            said[0]
        );
        assert!(
            (said.is_empty() && events.is_empty()) || !self.over,
            "{said:?} {events:?} from a stopped client"
        );
        if let Err(why) = &result {
            assert!(
                said.is_empty() && events.is_empty() && client.state() == before,
                "{why:?} changed something"
            );
        }

        let held = self.in_use;
        for event in events {
            self.judge_event(event, input, before, said, now);
        }
        for said in said {
            match said {
                Said::Dhcp(heard) => {
                    if matches!(heard.message_type, DISCOVER | REQUEST) {
                        self.last_xid = heard.xid;
                    }
                    self.judge_message(
                        &Heard {
                            xid: round(heard.xid),
                            ..*heard
                        },
                        held,
                        now,
                    );
                }
                Said::Arp(arp) => self.judge_arp(arp, held),
            }
        }
        if let Input::Arp(arp) = input
            && let Some(held) = held.filter(|held| held.address == arp.from_ip)
            && matches!(before, "BOUND" | "RENEWING" | "REBINDING")
        {
            self.manners.judge_conflict(
                (arp.from, held.address, was_listening),
                (said, events),
                now,
            );
        } else {
            assert!(!events.iter().any(is_contest), "contested by {input:?}");
        }
        self.manners
            .judge((input, before, self.carrier), (said, events), client, now);
        self.judge_rest(input, client, now);
    }

    /// The client is let go, and its exchange with it.
    pub fn rests(&mut self) {
        self.manners.rests();
        self.stale = self
            .exchange
            .take()
            .map(|exchange| exchange.xid)
            .or(self.stale);
        self.offer_since = None;
    }

    /// Another one goes on, perhaps too late, perhaps with a renewal that could have waited, and
    /// sees for itself whether there is a carrier.
    pub fn wakes(&mut self, carrier: bool, is_late: bool, renews_early: bool, now: Instant) {
        if is_late {
            self.awake_since = self.awake_since.max(now);
        }
        if carrier && !self.carrier {
            // It came back unseen, so the next question comes when it would have come without one.
            (self.carrier, self.asked_at) = (true, now);
        }
        self.may_have_moved |= renews_early;
    }

    fn hear(&mut self, input: Input, before: &str, accepted: bool, now: Instant) {
        match input {
            Input::Arp(arp) => {
                // A probe says that its sender is about to use the address (RFC 5227 §2.1.1).
                let claimed = if arp.from_ip.is_unspecified() {
                    arp.wanted
                } else {
                    arp.from_ip
                };
                remember(&mut self.claims, (claimed, arp.from));
            }
            Input::Frame(Some(reply)) if reply.message_type == OFFER && before == "SELECTING" => {
                if let Some(address) = reply.yiaddr {
                    remember(
                        &mut self.offers,
                        (reply.xid, reply.server.unwrap_or(NOBODY), address),
                    );
                }
                if accepted {
                    self.offer_since.get_or_insert(now);
                }
            }
            Input::Frame(Some(reply)) if reply.message_type == ACK && accepted => {
                self.ack = Some(reply)
            }
            Input::Frame(Some(reply)) if reply.message_type == NAK && accepted => {
                self.stale = Some(reply.xid);
                // One in no name is judged by its station, which is not known here.
                let Some(server) = reply.server else { return };
                let asked = match before {
                    "REQUESTING" => self.exchange.and_then(|exchange| exchange.server),
                    "RENEWING" => self.in_use.map(|held| held.server),
                    _ => None,
                };
                assert!(
                    asked.is_none_or(|asked| asked == server),
                    "a NAK of {server} was accepted in {before}"
                );
            }
            Input::Frame(Some(reply)) => {
                let answers = matches!(reply.message_type, OFFER | ACK | NAK);
                assert!(
                    answers || !accepted,
                    "message type {} was accepted",
                    reply.message_type
                );
            }
            Input::Frame(None) => assert!(!accepted, "garbage was accepted"),
            Input::Start | Input::Timeout | Input::Carrier(_) | Input::Release => {}
        }
    }

    /// What a client has asked an honest server for, and gets in time, it takes.
    fn judge_deafness(&self, input: Input, before: &str, accepted: bool) {
        let Input::Frame(Some(
            reply @ Reply {
                message_type: ACK,
                honest: true,
                ..
            },
        )) = input
        else {
            return;
        };
        let Some(exchange) = self.exchange.filter(|_| self.last_xid == reply.xid) else {
            return;
        };
        let asked = match before {
            "REQUESTING" => reply.server == exchange.server,
            "REBOOTING" | "RENEWING" | "REBINDING" => true,
            _ => false,
        };
        // A lease of a minute may be over before it is here.
        let lasts = reply.lease.is_some_and(|lease| lease > 120);
        assert!(
            !asked || !lasts || accepted,
            "an honest ACK is ignored in {before}"
        );
    }

    fn judge_event(
        &mut self,
        event: &Event,
        input: Input,
        before: &str,
        said: &[Said],
        now: Instant,
    ) {
        let held = self.in_use;
        match event {
            Event::Bound(lease) => {
                assert!(held.is_none(), "Bound with a lease in use");
                self.judge_lease(lease, input, before, now);
            }
            Event::Renewed(lease) => {
                let held = held.expect("Renewed without a lease in use");
                assert_eq!(held.address, lease.address, "Renewed with another address");
                self.judge_lease(lease, input, before, now);
                self.forgive_renewal(&held);
            }
            Event::Changed { old, new } => {
                let held = held.expect("Changed without a lease in use");
                assert_eq!(held.address, old.address, "Changed from another address");
                self.judge_lease(new, input, before, now);
                self.forgive_renewal(&held);
            }
            Event::Lost { old, why } => {
                let held = held.expect("Lost without a lease in use");
                assert_eq!(held.address, old.address, "Lost another address");
                match (why, input) {
                    (LossReason::Expired, _) => {
                        assert!(
                            held.expires_at.is_some_and(|expiry| expiry <= now),
                            "Expired before its time"
                        );
                    }
                    (
                        LossReason::Refused { server, .. },
                        Input::Frame(Some(Reply {
                            message_type: NAK,
                            server: by,
                            ..
                        })),
                    ) => {
                        assert!(
                            by.is_none_or(|by| by == *server),
                            "the wrong server is said to have refused"
                        );
                    }
                    (LossReason::Refused { .. }, input) => panic!("refused by {input:?}"),
                    (LossReason::Conflict { by }, _) => {
                        assert!(
                            self.claims.contains(&(old.address, *by)),
                            "a conflict that nobody made"
                        );
                        let declined = |said: &Said| {
                            matches!(said, Said::Dhcp(heard)
                                if heard.message_type == DECLINE && heard.requested == Some(old.address))
                        };
                        let fresh = self.manners.is_on_probation();
                        assert!(
                            said.iter().any(declined) == (fresh && self.carrier),
                            "DECLINE is for new addresses"
                        );
                    }
                }
                (self.in_use, self.unbound_since) = (None, now);
                self.stale = self.exchange.map(|exchange| exchange.xid);
            }
            Event::Declined { address, by, .. } => {
                assert!(held.is_none(), "Declined with a lease in use");
                assert!(
                    self.claims.contains(&(*address, *by)),
                    "a conflict that nobody made"
                );
            }
            Event::Unusable { values, .. } => {
                let was_said =
                    matches!(input, Input::Frame(Some(reply)) if reply.message_type == ACK);
                assert!(
                    was_said && !values.is_empty(),
                    "{values:?} is unusable, and was not said"
                );
            }
            Event::NoLeaseTime { .. } => {
                let was_said = matches!(
                    input,
                    Input::Frame(Some(Reply {
                        message_type: ACK,
                        lease: None | Some(0),
                        ..
                    }))
                );
                assert!(was_said, "a lease time was said");
            }
            // The manners judge when these may come.
            Event::ProxyArp { address, by } => {
                assert!(
                    self.claims.contains(&(*address, *by)),
                    "proxy ARP that was not"
                );
            }
            Event::Contested { address, by } => {
                assert_eq!(
                    held.map(|held| held.address),
                    Some(*address),
                    "not the address in use"
                );
                assert!(
                    self.claims.contains(&(*address, *by)),
                    "a conflict that nobody made"
                );
            }
            Event::GaveUp(_) => {
                assert!(held.is_none(), "GaveUp with a lease in use");
                self.over = true;
            }
            Event::Released => (self.in_use, self.over) = (None, true),
        }
    }

    /// The lease is what the last ACK says, no longer, and by somebody who was asked.
    fn judge_lease(&mut self, lease: &Lease, input: Input, before: &str, now: Instant) {
        let ack = self.ack.expect("a lease without an ACK");
        let exchange = self.exchange.expect("a lease that nobody asked for");
        assert_eq!(ack.xid, exchange.xid, "an ACK to another exchange");
        assert_eq!(
            Some(lease.address),
            ack.yiaddr,
            "not the acknowledged address"
        );
        let is_its_own = ack.server.is_none_or(|server| server == lease.server_id);
        // A server that answers its own renewal by another name is still found by the old one.
        let held = self.in_use.as_ref().filter(|_| before == "RENEWING");
        let is_the_old_one = held.is_some_and(|held| held.server == lease.server_id);
        assert!(
            is_its_own || is_the_old_one,
            "not the server that acknowledged"
        );
        let time = match ack.lease.filter(|seconds| *seconds > 0) {
            Some(seconds) => (seconds != u32::MAX).then_some(Duration::from_secs(seconds.into())),
            None => lease.lease_time, // An hour, or what was said before.
        };
        assert_eq!(lease.lease_time, time, "not the time that was granted");
        assert!(
            lease.expires_at().is_none_or(|expiry| now < expiry),
            "a lease that is over already"
        );
        if before == "REQUESTING" {
            let is_asked = ack.server.is_none()
                || exchange.server == ack.server
                || exchange.requested == ack.yiaddr;
            assert!(is_asked, "an ACK of a server that was not asked");
        }
        assert!(
            before != "SELECTING" || ack.rapid,
            "an ACK to a DISCOVER, not rapid"
        );
        if let (Some(time), Some(t1), Some(t2)) = (time, ack.t1, ack.t2) {
            let [t1, t2] = [t1, t2].map(|t| Duration::from_secs(t.into()));
            let sane = t1 >= APART.min(time / 64) && t1 < t2 && t2 < time;
            assert!(
                !sane || (lease.t1, lease.t2) == (t1, t2),
                "T1 and T2 are not the server's"
            );
            assert!(
                lease.t1 >= APART.min(time / 64) && lease.t1 < lease.t2 && lease.t2 < time,
                "T1 and T2 make no sense"
            );
        }
        // RFC 2131 §4.4.1: from when the answered message was sent, and the first of several is the
        // careful choice.
        let asked = if ack.rapid && exchange.request.is_none() {
            exchange.discover
        } else {
            exchange.request
        };
        let asked = asked.expect("an answer to something");
        assert!(
            lease.acquired_at <= asked,
            "the lease counts from {:?}, asked at {asked:?}",
            lease.acquired_at
        );
        assert!(
            self.may_have_moved || asked - lease.acquired_at <= CAP_WAIT,
            "the lease counts from long before it was asked for"
        );
        assert!(
            lease.routers.len() + lease.routes.len() + lease.dns_servers.len() <= 2,
            "more than was said"
        );
        // Somebody has lied where an answer to the DISCOVER is taken for one to a REQUEST.
        let honest = ack.honest && !(ack.rapid && before == "REQUESTING");
        (self.in_use, self.may_have_moved) = (
            Some(used(lease, honest, now)),
            matches!(input, Input::Carrier(_)),
        );
        self.stale = Some(exchange.xid);
    }

    /// Of a renewal that was answered, and came some time after the lease before, one message does
    /// not count.
    fn forgive_renewal(&mut self, before: &Used) {
        if self
            .in_use
            .is_some_and(|used| used.acquired_at - before.acquired_at >= APART)
        {
            self.sent.pop_back();
        }
    }

    /// An ARP probe is for what we are about to use, an announcement for what we use (RFC 5227 §2.1,
    /// §2.3).
    fn judge_arp(&self, arp: &Arp, held: Option<Used>) {
        let ours = |address| {
            [held, self.in_use]
                .iter()
                .flatten()
                .any(|used| used.address == address)
        };
        assert!(
            !arp.reply && arp.to == BROADCAST && arp.from == self.mac,
            "{arp:?}"
        );
        assert!(
            arp.from_ip.is_unspecified() || ours(arp.from_ip),
            "ARP from an address that is not ours: {arp:?}"
        );
    }

    fn judge_rest(&mut self, input: Input, client: &Client, now: Instant) {
        let due = client.poll_timeout();
        if matches!(input, Input::Timeout | Input::Start) {
            assert!(
                due.is_none_or(|due| due > now),
                "the deadline does not go away in {}",
                client.state()
            );
        }
        assert!(
            due.is_none_or(|due| due >= now),
            "a deadline in the past in {}",
            client.state()
        );
        assert!(
            !self.over || due.is_none(),
            "a stopped client waits for something"
        );
        assert_eq!(
            client.state() == "STOPPED",
            self.over,
            "a client says that it has stopped, and only then"
        );
        if client.state() != "SELECTING" {
            self.offer_since = None;
        }
        let quiet = self.carrier && self.sent.len() < MUCH;
        if let Some(since) = self.offer_since.filter(|_| quiet) {
            let by = since.max(self.awake_since).max(self.carrier_since) + OFFER_RESTS + self.lag;
            assert!(now <= by, "an OFFER is left lying");
        }
        let known = client
            .lease()
            .map(|lease| (lease.address, lease.acquired_at));
        let used = self.in_use.map(|used| (used.address, used.acquired_at));
        assert_eq!(
            known, used,
            "the lease in use is another one than the events say"
        );
        // On its way out it asks for nothing, and is gone in a moment.
        let Some(used) = self.in_use.filter(|_| client.state() != "RELEASING") else {
            return;
        };
        let Some(expiry) = used.expires_at else {
            let asks_again = due.is_some_and(|due| due <= now + SELDOM + CAP_WAIT);
            assert!(
                asks_again || !self.carrier || !self.may_have_moved,
                "asked once, and then never again"
            );
            return;
        };
        assert!(now < expiry, "an address in use after its time");
        assert!(
            due.is_some_and(|due| due <= expiry),
            "nobody watches over the expiry in {}",
            client.state()
        );
        assert!(
            !self.carrier || now <= self.speaks_by(used, now),
            "silent in {} although the lease wants renewal",
            client.state()
        );
    }

    /// When the next REQUEST is due that asks for more time: at T1, again after half of what is
    /// left but not before a minute has gone by, or a quarter of a short time, at T2, and when the
    /// carrier is back.
    fn speaks_by(&self, used: Used, now: Instant) -> Instant {
        let (Some(renew), Some(rebind), Some(expiry)) =
            (used.renew_at, used.rebind_at, used.expires_at)
        else {
            return now;
        };
        let asked = self.asked_at;
        let least = |time: Duration| (time / 4).clamp(Duration::from_secs(2), A_MINUTE) + FUZZ;
        let by = if self.may_have_moved && asked < self.carrier_since {
            self.carrier_since
        } else if asked + FUZZ < renew && !self.may_have_moved {
            renew
        } else if asked + FUZZ < rebind {
            let half = ((rebind - asked) / 2).max(least(rebind - renew));
            rebind.min(
                asked
                    + if asked + FUZZ < renew {
                        half.min(SELDOM)
                    } else {
                        half
                    },
            )
        } else {
            asked + ((expiry - asked) / 2).max(least(expiry - rebind))
        };
        let cap = if self.sent.len() >= MUCH {
            CAP_WAIT
        } else {
            Duration::ZERO
        };
        by.max(used.since).max(self.awake_since) + self.lag + cap
    }
}

fn used(lease: &Lease, honest: bool, now: Instant) -> Used {
    Used {
        address: lease.address,
        server: lease.server_id,
        honest,
        since: now,
        acquired_at: lease.acquired_at,
        renew_at: lease.renew_at(),
        rebind_at: lease.rebind_at(),
        expires_at: lease.expires_at(),
    }
}
