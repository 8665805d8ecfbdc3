//! The part of the referee that knows how one behaves in ARP (RFC 5227): ask before, announce
//! twice, give way.

use super::datagrams::*;
use super::referee::Input;
use smol_dhcp_proxy::dhcp::{Client, Config, Event, LossReason, Probe};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// From the first announcement to the second.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a claim counts: one to an address that was asked for, and one to an address in use.
const DEFENCE: Duration = Duration::from_secs(10);
/// How long a router has to answer.
const ANSWER: Duration = Duration::from_millis(200);

/// Another station, and when it claimed an address.
type Claim = (Mac, Instant);

#[derive(Debug)]
pub struct Manners {
    mac: Mac,
    probe: Probe,
    /// When a new address has to be announced for the second time.
    announce_at: Option<Instant>,
    /// The xid and the address of the last REQUEST for a new address, and which other station
    /// claimed it when.
    asked: Option<(u32, Ipv4Addr, Option<Claim>)>,
    defence: Option<Defence>,
    /// Stations that answer for every address, by the client's own word.
    proxies: Vec<Mac>,
    /// Stations that have cost the client an address, or might have.
    rivals: Vec<(Mac, Ipv4Addr)>,
}

/// A claim to an address in use that was answered by an announcement.
#[derive(Clone, Copy, Debug)]
struct Defence {
    by: Mac,
    address: Ipv4Addr,
    since: Instant,
    /// Whether the claim was asked for once more.
    was_asked: bool,
}

impl Manners {
    pub fn new(config: &Config) -> Self {
        Self {
            mac: config.mac,
            probe: config.probe,
            announce_at: None,
            asked: None,
            defence: None,
            proxies: config.proxy_arp.clone(),
            rivals: Vec::new(),
        }
    }

    pub fn judge(
        &mut self,
        (input, before, carrier): (Input, &str, bool),
        (said, events): (&[Said], &[Event]),
        client: &Client,
        now: Instant,
    ) {
        self.judge_proxies(input, events);
        self.hear(input, before, now);
        for now_said in said {
            let Said::Dhcp(Heard {
                message_type,
                xid,
                requested,
                ciaddr,
                ..
            }) = now_said
            else {
                continue;
            };
            if *message_type != REQUEST {
                self.asked = None;
            } else if let Some(address) = requested {
                self.asked = self
                    .asked
                    .filter(|(known, ..)| known == xid)
                    .or(Some((*xid, *address, None)));
                let probed = asks(said, *address) || self.probe != Probe::WithRequest;
                assert!(probed, "a REQUEST without a probe");
            } else if let Some(address) = ciaddr.filter(|_| before == "BOUND") {
                assert!(
                    asks(said, address) || self.probe == Probe::Off,
                    "a renewal without a probe"
                );
            }
        }

        let announced = client
            .lease()
            .is_some_and(|lease| announces(said, lease.address));
        if self.announce_at.is_some_and(|at| at <= now) {
            let still = client.state() == "BOUND" && carrier && events.is_empty();
            assert!(announced || !still, "the second announcement is missing");
            self.announce_at = None;
        }
        // A remark about a station is no change of the lease.
        for event in events
            .iter()
            .filter(|event| !matches!(event, Event::ProxyArp { .. }))
        {
            self.announce_at = None;
            let fresh = match event {
                Event::Bound(lease) => lease.address,
                Event::Changed { old, new } if old.address != new.address => new.address,
                _ => continue,
            };
            let counts = |taken: Option<Claim>| {
                taken
                    .is_some_and(|(by, taken)| now < taken + DEFENCE && !self.proxies.contains(&by))
            };
            let taken = self
                .asked
                .take()
                .is_some_and(|(_, address, taken)| counts(taken) && address == fresh);
            assert!(
                !taken || before == "SELECTING",
                "{fresh} is used, although somebody else has it"
            );
            // What is given back at once is not announced, nor what was settled just before the
            // carrier came back.
            if carrier
                && !matches!(input, Input::Carrier(_))
                && events.last() != Some(&Event::Released)
            {
                assert!(announces(said, fresh), "a new address is not announced");
                self.announce_at = Some(now + AGAIN);
            }
        }
        if client.state() != "BOUND" || !carrier {
            self.announce_at = None;
        }
        self.judge_defence(carrier, said, client, now);
        if let Some(at) = self.announce_at {
            assert!(
                client.poll_timeout().is_some_and(|due| due <= at),
                "nobody thinks of the second announcement"
            );
            assert!(client.is_listening(), "deaf before the second announcement");
        }
    }

    /// A client that is let go announces nothing any more, and defends nothing.
    pub fn rests(&mut self) {
        (self.announce_at, self.defence) = (None, None);
    }

    /// Returns whether a new address waits for its second announcement: until then a claim is
    /// believed at once.
    pub fn is_on_probation(&self) -> bool {
        self.announce_at.is_some()
    }

    /// A claim of `by` to the `address` in use (RFC 5227 §2.4 (b)): answered once in ten seconds,
    /// and believed where the same station repeats it.
    pub fn judge_conflict(
        &mut self,
        (by, address, was_listening): (Mac, Ipv4Addr, bool),
        (said, events): (&[Said], &[Event]),
        now: Instant,
    ) {
        let told = |event: &Event| matches!(event, Event::ProxyArp { by: them, .. } if *them == by);
        let is_proxy = self.proxies.contains(&by) || events.iter().any(told);
        let lost = |event: &Event| matches!(event, Event::Lost { why: LossReason::Conflict { by: them }, .. } if *them == by);
        let outcome = (
            events.iter().any(lost),
            events.iter().any(is_contest),
            announces(said, address),
        );
        let (gives_way, defends, overlooks) = (
            (true, false, false),
            (false, true, true),
            (false, false, false),
        );
        let concerns = was_listening && self.probe != Probe::Off && by != self.mac;
        let expected = match self.defence.filter(|defence| now < defence.since + DEFENCE) {
            _ if !concerns || is_proxy => overlooks,
            _ if self.is_on_probation() => gives_way,
            // The router may be asked first whether it is its station.
            Some(defence)
                if defence.by == by && now < defence.since + ANSWER && outcome == overlooks =>
            {
                overlooks
            }
            Some(defence) if defence.by == by => gives_way,
            Some(_) => overlooks,
            None => {
                self.defence = Some(Defence {
                    by,
                    address,
                    since: now,
                    was_asked: false,
                });
                defends
            }
        };
        assert_eq!(
            outcome, expected,
            "given up, contested, announced after a claim of {by:?} to {address}"
        );
    }

    /// A station is taken to answer for every address if it is a DHCP server's, has claimed another
    /// address before, or answers for the router.
    fn judge_proxies(&mut self, input: Input, events: &[Event]) {
        for event in events {
            match event {
                Event::ProxyArp { address, by } => {
                    let is_server =
                        by.0[..5] == [2, 0, 0, 1, 0] || *by == super::hostile_server::MAC;
                    let is_rival = self
                        .rivals
                        .iter()
                        .any(|known| known.0 == *by && known.1 != *address);
                    let answers_for_router = matches!(input, Input::Arp(arp) if arp.from == *by && arp.from_ip != *address);
                    assert!(
                        is_server || is_rival || answers_for_router,
                        "{by:?} is believed to answer for every address"
                    );
                    self.defence = self.defence.filter(|defence| defence.by != *by);
                    self.proxies.push(*by);
                }
                Event::Declined { address, by, .. } | Event::Contested { address, by } => {
                    self.rivals.push((*by, *address));
                }
                Event::Lost {
                    old,
                    why: LossReason::Conflict { by },
                } => self.rivals.push((*by, old.address)),
                _ => {}
            }
        }
    }

    /// While an address is defended the client listens, and asks once for the claim to be repeated.
    fn judge_defence(&mut self, carrier: bool, said: &[Said], client: &Client, now: Instant) {
        let in_use = client
            .lease()
            .filter(|_| client.state() != "RELEASING")
            .map(|lease| lease.address);
        self.defence = self
            .defence
            .filter(|defence| in_use == Some(defence.address) && now < defence.since + DEFENCE);
        let Some(defence) = &mut self.defence else {
            return;
        };
        let ask_at = defence.since + AGAIN;
        if carrier && ask_at <= now && !defence.was_asked {
            assert!(
                asks(said, defence.address),
                "the claim is not asked for again"
            );
            defence.was_asked = true;
        }
        let due = if defence.was_asked || !carrier {
            defence.since + DEFENCE
        } else {
            ask_at
        };
        let by = client.poll_timeout();
        assert!(
            by.is_some_and(|by| by <= due.max(now)),
            "{defence:?} is forgotten: {by:?}"
        );
        assert!(client.is_listening(), "deaf to what is defended against");
    }

    /// Remembers a claim of another station to the address that was asked for.
    fn hear(&mut self, input: Input, before: &str, now: Instant) {
        let Input::Arp(arp) = input else { return };
        let claimed = if arp.from_ip.is_unspecified() && !arp.reply {
            arp.wanted
        } else {
            arp.from_ip
        };
        let asking = matches!(before, "REQUESTING" | "REBOOTING")
            && self.probe != Probe::Off
            && arp.from != self.mac;
        if let Some((_, address, taken)) = &mut self.asked
            && asking
            && *address == claimed
        {
            *taken = Some((arp.from, now)).filter(|(by, _)| !self.proxies.contains(by));
        }
    }
}

/// Returns whether an event says that a claim to the address in use was answered.
pub fn is_contest(event: &Event) -> bool {
    matches!(event, Event::Contested { .. })
}

fn asks(said: &[Said], address: Ipv4Addr) -> bool {
    said.iter().any(
        |said| matches!(said, Said::Arp(arp) if arp.wanted == address && arp.from_ip == NOBODY),
    )
}

fn announces(said: &[Said], address: Ipv4Addr) -> bool {
    said.iter().any(
        |said| matches!(said, Said::Arp(arp) if (arp.from_ip, arp.wanted) == (address, address)),
    )
}
