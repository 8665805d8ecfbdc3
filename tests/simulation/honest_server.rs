//! An honest DHCP server (RFC 2131 §4.3), with the habits that honest ones differ in.

use super::datagrams::*;
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an offer is kept for the client that it was made to.
const OFFERED: Duration = Duration::from_secs(60);
/// How long an address that was declined rests.
const DECLINED: Duration = Duration::from_secs(600);

/// What a lease says.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Seconds; `u32::MAX` for ever.
    pub lease: u32,
    pub t1: Option<u32>,
    pub t2: Option<u32>,
    pub mtu: Option<u16>,
}

/// What a picky server does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dislike {
    /// Option 80.
    RapidCommit,
    /// Option 50 in a DISCOVER.
    RequestedAddress,
    /// Option 57.
    MessageSize,
    /// Option 61.
    ClientId,
}

/// Who has which address, and until when.
#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Mac,
    address: Ipv4Addr,
    /// `None` for ever.
    until: Option<Instant>,
    offered: bool,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub address: Ipv4Addr,
    pub mac: Mac,
    pub terms: Terms,
    /// Whether it hears anything at all.
    pub up: bool,
    /// Refuses leases that it does not know, where others would be silent.
    pub authoritative: bool,
    /// Takes a client's word for a lease that it has forgotten, where it is free.
    pub forgiving: bool,
    /// Answers a DISCOVER that wants it with an ACK (RFC 4039).
    pub rapid: bool,
    /// Offers, and then refuses every REQUEST.
    pub refuses: bool,
    /// Does not answer a message with this in it.
    pub dislikes: Option<Dislike>,
    /// The third byte of its network: another one with each renumbering.
    network: u8,
    hosts: u8,
    /// Since when it remembers what it does.
    pub remembers_since: Instant,
    entries: Vec<Entry>,
    declined: Vec<(Ipv4Addr, Instant)>,
}

impl Server {
    /// Number `which` (0 or 1) on its link; each has networks of its own.
    pub fn new(which: u8, hosts: u8, terms: Terms) -> Self {
        Self {
            address: Ipv4Addr::new(10, which, 0, 1),
            mac: Mac([2, 0, 0, 1, 0, which]),
            terms,
            up: true,
            authoritative: true,
            forgiving: false,
            rapid: false,
            refuses: false,
            dislikes: None,
            network: 0,
            hosts,
            remembers_since: Instant::from_boot(Duration::ZERO),
            entries: Vec::new(),
            declined: Vec::new(),
        }
    }

    /// The server has lost its memory.
    pub fn forget(&mut self, now: Instant) {
        self.entries.clear();
        self.remembers_since = now;
    }

    /// All leases are of the past: the network has another number now, one that it never had
    /// before.
    pub fn renumber(&mut self, now: Instant) {
        self.network = self.network.wrapping_add(1);
        self.forget(now);
    }

    /// The `n`-th address that it may give to somebody.
    pub fn host(&self, n: u8) -> Ipv4Addr {
        let [ten, which, ..] = self.address.octets();
        Ipv4Addr::new(ten, which, self.network, 10 + n % self.hosts)
    }

    /// Whether `address` is `mac`'s at `now`, and until when (`None` for ever).
    pub fn lease_of(&self, mac: Mac, now: Instant) -> Option<(Ipv4Addr, Option<Instant>)> {
        self.entry(mac, now)
            .filter(|entry| !entry.offered)
            .map(|entry| (entry.address, entry.until))
    }

    fn entry(&self, mac: Mac, now: Instant) -> Option<Entry> {
        self.entries
            .iter()
            .find(|entry| entry.mac == mac && entry.until.is_none_or(|until| until > now))
            .copied()
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        (0..self.hosts).any(|n| self.host(n) == address)
    }

    fn is_free(&self, address: Ipv4Addr, mac: Mac, now: Instant) -> bool {
        let taken = |entry: &Entry| {
            entry.address == address
                && entry.mac != mac
                && entry.until.is_none_or(|until| until > now)
        };
        let resting =
            |(declined, until): &(Ipv4Addr, Instant)| *declined == address && *until > now;
        !self.entries.iter().any(taken) && !self.declined.iter().any(resting)
    }

    /// What it answers to what it has heard.
    pub fn hear(&mut self, heard: &Heard, now: Instant) -> Option<Reply> {
        let is_disliked = match self.dislikes {
            Some(Dislike::RapidCommit) => heard.rapid,
            Some(Dislike::RequestedAddress) => {
                heard.message_type == DISCOVER && heard.requested.is_some()
            }
            Some(Dislike::MessageSize) => heard.size,
            Some(Dislike::ClientId) => heard.client_id != 0,
            None => false,
        };
        if is_disliked {
            return None;
        }
        let known = self.entry(heard.chaddr, now);
        match heard.message_type {
            DISCOVER => {
                let wanted = heard.requested.filter(|wanted| self.is_ours(*wanted));
                let address = known.map(|known| known.address).or(wanted);
                let address = address.filter(|address| self.is_free(*address, heard.chaddr, now));
                let any = || {
                    (0..self.hosts)
                        .map(|n| self.host(n))
                        .find(|host| self.is_free(*host, heard.chaddr, now))
                };
                let address = address.or_else(any)?;
                if self.rapid && heard.rapid {
                    return Some(Reply {
                        rapid: true,
                        ..self.grant(heard, address, now)
                    });
                }
                if known.is_none_or(|known| known.offered || known.address != address) {
                    self.enter(Entry {
                        mac: heard.chaddr,
                        address,
                        until: Some(now + OFFERED),
                        offered: true,
                    });
                }
                Some(self.reply(OFFER, heard, Some(address)))
            }
            REQUEST => {
                let ours = heard.server == Some(self.address);
                if heard.server.is_some() && !ours {
                    // Another server's offer was taken.
                    self.entries
                        .retain(|entry| entry.mac != heard.chaddr || !entry.offered);
                    return None;
                }
                let address = heard.ciaddr.or(heard.requested)?;
                let known_here = known.is_some_and(|known| known.address == address);
                let free_here = self.is_ours(address) && self.is_free(address, heard.chaddr, now);
                if self.refuses {
                    Some(self.reply(NAK, heard, None))
                } else if known_here || (self.forgiving && known.is_none() && free_here && !ours) {
                    Some(self.grant(heard, address, now))
                } else if ours || known.is_some() || self.authoritative {
                    Some(self.reply(NAK, heard, None))
                } else {
                    None // Perhaps it is another server's.
                }
            }
            DECLINE if heard.server == Some(self.address) => {
                self.entries.retain(|entry| {
                    entry.mac != heard.chaddr || Some(entry.address) != heard.requested
                });
                self.declined.truncate(4);
                self.declined.insert(0, (heard.requested?, now + DECLINED));
                None
            }
            RELEASE if heard.server == Some(self.address) => {
                self.entries.retain(|entry| {
                    entry.mac != heard.chaddr || Some(entry.address) != heard.ciaddr
                });
                None
            }
            _ => None,
        }
    }

    fn enter(&mut self, entry: Entry) {
        self.entries
            .retain(|other| other.mac != entry.mac && other.address != entry.address);
        self.entries.push(entry);
    }

    fn grant(&mut self, heard: &Heard, address: Ipv4Addr, now: Instant) -> Reply {
        let time = Duration::from_secs(self.terms.lease.into());
        let until = (self.terms.lease != u32::MAX).then_some(now + time);
        self.enter(Entry {
            mac: heard.chaddr,
            address,
            until,
            offered: false,
        });
        self.reply(ACK, heard, Some(address))
    }

    fn reply(&self, message_type: u8, heard: &Heard, yiaddr: Option<Ipv4Addr>) -> Reply {
        let Terms { lease, t1, t2, mtu } = self.terms;
        let reply = Reply {
            message_type,
            xid: heard.xid,
            chaddr: heard.chaddr,
            server: Some(self.address),
            honest: true,
            ..Reply::default()
        };
        match message_type {
            NAK => reply,
            _ => Reply {
                yiaddr,
                lease: Some(lease),
                t1,
                t2,
                mtu,
                router: Some(self.address),
                ..reply
            },
        }
    }
}
