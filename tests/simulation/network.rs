//! What becomes of frames between the clients and everybody else on the link.

use super::datagrams::*;
use super::hostile_server;
use super::referee::Input;
use super::scenario::*;
use super::world::{Happening, World, owner};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

impl World {
    /// When a frame arrives, if it does: perhaps not at all, perhaps twice.
    fn arrivals(&mut self) -> [Option<Instant>; 2] {
        let once = |world: &mut Self| {
            let (low, high) = world.plan.delay;
            let delay = world.chance.time(low, high);
            let late = world.chance.per_mille(world.mess.2);
            let late = if late {
                world.chance.magnitude(micros(1000), secs(60))
            } else {
                Duration::ZERO
            };
            world.now + delay + late
        };
        if self.chance.per_mille(self.loss) {
            return [None, None];
        }
        let first = once(self);
        let second = self.chance.per_mille(self.mess.0).then(|| once(self));
        [Some(first), second]
    }

    /// A client's message is on the wire.
    pub fn send(&mut self, heard: &Heard) {
        let farewell = matches!(heard.message_type, RELEASE | DECLINE);
        for which in 0..self.servers.len() {
            let address = self.servers[which].address;
            if heard
                .to_ip
                .is_some_and(|to| !to.is_broadcast() && to != address)
            {
                continue;
            }
            for at in self.arrivals().into_iter().flatten() {
                // A farewell that something later overtakes would end the next lease: no server can
                // tell.
                let at = if farewell {
                    self.now + self.plan.delay.1
                } else {
                    at.max(self.farewell_at)
                };
                self.farewell_at = if farewell { at } else { self.farewell_at };
                // A damaged message is one that no server reads.
                if !self.chance.per_mille(self.mess.1) {
                    self.schedule(
                        at,
                        Happening::ToServer {
                            which,
                            heard: *heard,
                        },
                    );
                }
            }
        }
        if let Some(style) = self.hostile {
            let names = self.names();
            let reply = hostile_server::mischief(style, heard, &names, &mut self.chance);
            if let Some(reply) = reply {
                let frame = reply.write(
                    (hostile_server::MAC, hostile_server::ADDRESS),
                    (heard.chaddr, reply.yiaddr.unwrap_or(NOBODY)),
                );
                let delay = self.chance.magnitude(micros(20), micros(5000));
                self.put_on_wire(
                    heard.chaddr,
                    &frame,
                    Input::Frame(Some(reply)),
                    self.now + delay,
                );
            }
        }
    }

    pub fn names(&self) -> Vec<Ipv4Addr> {
        self.servers
            .iter()
            .map(|server| server.address)
            .chain([hostile_server::ADDRESS])
            .collect()
    }

    pub fn serve(&mut self, which: usize, heard: &Heard) {
        let server = &mut self.servers[which];
        if !server.up {
            return;
        }
        let Some(reply) = server.hear(heard, self.now) else {
            return;
        };
        let from = (server.mac, server.address);
        self.trace(|_| format!("server {which} heard {heard:?}, says {reply:?}"));
        // RFC 2131 §4.1.
        let to = match (reply.yiaddr, heard.ciaddr) {
            (_, Some(ciaddr)) => (heard.chaddr, ciaddr),
            (Some(yiaddr), None) if !heard.broadcast_flag => (heard.chaddr, yiaddr),
            _ => (BROADCAST, Ipv4Addr::BROADCAST),
        };
        let frame = reply.write(from, to);
        for at in self.arrivals().into_iter().flatten() {
            self.put_on_wire(to.0, &frame, Input::Frame(Some(reply)), at);
        }
    }

    /// Brings a frame to whom it concerns, or to all.
    pub fn put_on_wire(&mut self, to: Mac, frame: &[u8], input: Input, at: Instant) {
        for who in 0..self.hosts.len() {
            let mac = self.hosts[who].config.mac;
            if to != BROADCAST && to != mac {
                continue;
            }
            let mut frame = frame.to_vec();
            let foreign = matches!(input, Input::Frame(Some(reply)) if reply.chaddr != mac);
            // ARP has no checksum of its own: damage to it is for Ethernet's to find.
            let damaged = matches!(input, Input::Frame(_))
                && self.chance.per_mille(self.mess.1)
                && self.damage(&mut frame);
            let input = if foreign || damaged {
                Input::Frame(None)
            } else {
                input
            };
            self.schedule(at, Happening::ToClient { who, frame, input });
        }
    }

    /// One byte is another, or the end is missing. Neither the sender's MAC, which the Ethernet
    /// checksum protects where there is one, nor UDP's length and checksum: an unfilled checksum is
    /// believed, and one frame in 65,536 looks as if it had one. False where it does so already.
    fn damage(&mut self, frame: &mut Vec<u8>) -> bool {
        let pseudo_header = 17 + frame.len() as u32 - 34;
        if sum(&frame[26..34], pseudo_header).to_be_bytes() == frame[40..42] {
            return false;
        }
        if self.chance.percent(20) {
            frame.truncate(self.chance.below(frame.len() as u64) as usize);
            return true;
        }
        let at = self.chance.below(frame.len() as u64) as usize;
        let is_spared =
            (6..12).contains(&at) || (38..42).contains(&at) || differs_anyway(frame, at);
        let at = if is_spared { 12 } else { at };
        frame[at] ^= self.chance.between(1, 256) as u8;
        true
    }

    /// An ARP packet of a client goes to all: servers, other clients and what else has an address
    /// answers.
    pub fn ask_all(&mut self, who: usize, arp: &Arp) {
        let (now, asker) = (self.now, self.hosts[who].config.mac);
        let mut answers = Vec::new();
        for server in self
            .servers
            .iter()
            .filter(|server| server.up && server.address == arp.wanted)
        {
            answers.push((server.mac, micros(200)));
        }
        for host in &self.hosts {
            let has_it = host
                .referee
                .in_use
                .is_some_and(|used| used.address == arp.wanted);
            if has_it
                && host.config.mac != asker
                && host.referee.carrier
                && now >= self.asleep_until
            {
                answers.push((host.config.mac, micros(200))); // The kernel does that.
            }
        }
        let taken = self
            .servers
            .iter()
            .any(|server| (0..3).any(|n| server.host(n) == arp.wanted));
        if let Some(delay) = self.owner.filter(|_| taken) {
            answers.push((owner(arp.wanted), delay));
        }
        if let Some((station, delay)) = self.proxy_arp.filter(|_| arp.from_ip != arp.wanted) {
            answers.push((station, delay));
        }
        for (from, delay) in answers {
            let answer = Arp {
                reply: true,
                from,
                from_ip: arp.wanted,
                to: asker,
                wanted: arp.from_ip,
            };
            if !self.chance.per_mille(self.loss) {
                self.put_on_wire(asker, &answer.write(), Input::Arp(answer), now + delay);
            }
        }
        for other in 0..self.hosts.len() {
            if other != who && !self.chance.per_mille(self.loss) {
                let what = Happening::ToClient {
                    who: other,
                    frame: arp.write(),
                    input: Input::Arp(*arp),
                };
                self.schedule(now + micros(100), what);
            }
        }
    }
}

/// Returns whether a byte is of `secs`, the message type, T1 or T2: a client that compares damaged
/// replies leaves them out.
fn differs_anyway(frame: &[u8], at: usize) -> bool {
    let in_value = |head: &[u8], length: usize| {
        let found = frame.windows(head.len()).position(|bytes| bytes == head);
        found.is_some_and(|start| (start + head.len()..start + head.len() + length).contains(&at))
    };
    (50..52).contains(&at)
        || in_value(&[53, 1], 1)
        || in_value(&[58, 4], 4)
        || in_value(&[59, 4], 4)
}
