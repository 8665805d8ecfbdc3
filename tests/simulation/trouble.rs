//! What goes wrong in a world, and how it ends.

use super::datagrams::*;
use super::honest_server::Server;
use super::hostile_server;
use super::referee::Input;
use super::scenario::*;
use super::world::{GATEWAY, Happening, START, STRANGER, World};
use smol_dhcp_proxy::dhcp::{Ignored, Lease};
use smol_dhcp_proxy::time::Instant;
use std::time::Duration;

impl World {
    pub fn begin(&mut self, n: usize) {
        let (_, end, trouble) = self.plan.troubles[n];
        self.trace(|_| format!("begins: {trouble:?}"));
        self.troubles += 1;
        let asleep = self.now < self.asleep_until;
        match trouble {
            Trouble::Restart(_) | Trouble::Leaves(_) | Trouble::Recreate(_) if asleep => {}
            Trouble::Loss(loss) => self.loss = loss,
            Trouble::Mess {
                twice,
                damaged,
                late,
            } => self.mess = (twice, damaged, late),
            Trouble::Down(which) => self.servers[which].up = false,
            Trouble::Forgets(which) => {
                self.servers[which].forget(self.now);
                self.trustworthy = false;
            }
            Trouble::Renumbers(which) => self.servers[which].renumber(self.now),
            Trouble::Refuses(which) => self.servers[which].refuses = true,
            Trouble::Hostile(style) => (self.hostile, self.trustworthy) = (Some(style), false),
            Trouble::Needles { alone } => {
                self.begin_needles();
                self.servers
                    .iter_mut()
                    .filter(|_| alone)
                    .for_each(|server| server.up = false);
            }
            Trouble::NoCarrier(who) => self.happen(Happening::Carrier { who, back: false }),
            Trouble::Owner(delay) => self.owner = Some(delay),
            Trouble::ProxyArp { is_server, delay } => {
                self.proxy_arp = Some((
                    if is_server {
                        self.servers[0].mac
                    } else {
                        GATEWAY
                    },
                    delay,
                ));
            }
            Trouble::Sleep => self.sleep(START + end),
            Trouble::Oversleeps(who) => {
                self.begin_needles();
                self.servers.iter_mut().for_each(|server| server.up = false);
                let rebind_at = self.hosts[who].client.lease().and_then(Lease::rebind_at);
                if let Some(at) = rebind_at.filter(|at| *at < START + end) {
                    self.sleep(at);
                }
            }
            Trouble::Restart(who) => {
                let knows_server = self.chance.percent(50);
                self.restart(who, knows_server);
            }
            Trouble::Leaves(who) => {
                self.restart(who, false);
                self.release(who);
            }
            Trouble::Recreate(who) => self.release(who),
            Trouble::Flickers(who) => self.flicker(who),
            Trouble::Terms(which, lease) => {
                (self.servers[which].terms.t1, self.servers[which].terms.t2) = (None, None);
                self.servers[which].terms.lease = lease;
                self.trustworthy = false;
            }
        }
    }

    pub fn end(&mut self, n: usize) {
        let (.., trouble) = self.plan.troubles[n];
        self.trace(|_| format!("ends: {trouble:?}"));
        self.troubles -= 1;
        self.fair_since = self.now;
        match trouble {
            Trouble::Loss(_) => self.loss = self.plan.loss,
            Trouble::Mess { .. } => self.mess = (0, 0, 0),
            Trouble::Down(which) => self.servers[which].up = true,
            Trouble::Refuses(which) => self.servers[which].refuses = false,
            Trouble::Hostile(_) => self.hostile = None,
            Trouble::Needles { .. } | Trouble::Oversleeps(_) => {
                self.needles -= 1;
                self.servers.iter_mut().for_each(|server| server.up = true);
            }
            Trouble::Flickers(_) => {
                (self.flickers, self.loss) = (self.flickers - 1, self.plan.loss)
            }
            Trouble::NoCarrier(who) => self.happen(Happening::Carrier { who, back: true }),
            Trouble::Owner(_) => self.owner = None,
            Trouble::ProxyArp { .. } => self.proxy_arp = None,
            Trouble::Terms(which, _) => {
                self.servers[which].terms = self.plan.servers[which].terms;
                // A shorter lease whose ACK was lost is all that it knows of.
                self.servers[which].remembers_since = self.now;
            }
            Trouble::Sleep | Trouble::Forgets(_) | Trouble::Renumbers(_) | Trouble::Restart(_) => {}
            Trouble::Leaves(_) | Trouble::Recreate(_) => {}
        }
    }

    /// The daemon starts anew, and goes on with the lease that it finds in its file.
    fn restart(&mut self, who: usize, knows_server: bool) {
        self.wake(who);
        let host = &self.hosts[who];
        let Some(mut lease) = host
            .client
            .lease()
            .cloned()
            .filter(|_| host.referee.in_use.is_some())
        else {
            return;
        };
        if !knows_server {
            lease.server_mac = None; // A file of another make.
        }
        let honest = host.referee.in_use.is_some_and(|used| used.honest);
        self.resume(who, lease, honest);
    }

    /// A machine that has just booted, at a port that cannot make up its mind.
    fn flicker(&mut self, who: usize) {
        (self.flickers, self.loss, self.trustworthy) = (self.flickers + 1, 1000, false);
        if self.now < self.asleep_until || self.hosts[who].cut != 0 {
            return;
        }
        self.release(who);
        self.bear(who, true);
        let mut at = self.now;
        for _ in 0..self.chance.between(40, 100) {
            at = at + self.chance.magnitude(micros(100), micros(100_000));
            self.schedule(at, Happening::Carrier { who, back: false });
            at = at + micros(50);
            self.schedule(at, Happening::Carrier { who, back: true });
        }
    }

    fn begin_needles(&mut self) {
        (self.needles, self.trustworthy) = (self.needles + 1, false);
        for who in 0..self.hosts.len() {
            self.thread_needles(who, self.hosts[who].client.state());
        }
    }

    fn sleep(&mut self, until: Instant) {
        self.asleep_until = self.asleep_until.max(until);
        for host in &mut self.hosts {
            host.referee.awake_since = self.asleep_until;
        }
    }

    /// Things will befall this client soon, the sooner and the more of them the shorter its state
    /// may last.
    pub fn thread_needles(&mut self, who: usize, state: &str) {
        let (number, longest) = match state {
            "RELEASING" => (24, micros(200_000)),
            "INIT" => (6, secs(2)),
            "PROBING" => (3, secs(2)),
            "SELECTING" | "REQUESTING" => (2, secs(2)),
            "INIT-REBOOT" => (4, secs(40)),
            "REBOOTING" => (4, secs(3)),
            "REBINDING" => (60, HOUR),
            "BOUND" => (1, HOUR * 6),
            _ => (2, HOUR),
        };
        let life = self.hosts[who].life;
        for _ in 0..number {
            let wait = self.chance.magnitude(micros(10), longest);
            self.schedule(self.now + wait, Happening::Needle { who, life });
        }
    }

    pub fn needle(&mut self, who: usize) {
        if self.hosts[who].resting.is_some() {
            if self.chance.percent(50) {
                return;
            }
            self.wake(who);
        }
        let (hears, state) = (
            self.hosts[who].referee.carrier,
            self.hosts[who].client.state(),
        );
        match self.chance.below(14) {
            0..=8 | 12 if !hears => {}
            0..=7 => self.say_anything(who),
            8 => self.claim(who),
            9 => {
                let longest = if state == "RELEASING" {
                    micros(20_000)
                } else {
                    secs(60)
                };
                let back = self.now + self.chance.magnitude(micros(10), longest);
                self.happen(Happening::Carrier { who, back: false });
                self.schedule(back, Happening::Carrier { who, back: true });
            }
            10 => self.release(who),
            11 => {
                // Called too early, a client does nothing.
                let client = &mut self.hosts[who].client;
                if client.poll_timeout().is_none_or(|due| due > self.now) {
                    let before = (client.state(), client.poll_timeout());
                    client.handle_timeout(self.now);
                    assert_eq!(
                        (client.state(), client.poll_timeout()),
                        before,
                        "not yet due"
                    );
                    self.step(who, Input::Frame(None), |_, _| Err(Ignored::NotDhcp));
                }
            }
            12 => {
                let length = self.chance.below(700) as usize;
                let mut frame: Vec<u8> = (0..length).map(|_| self.chance.next() as u8).collect();
                if let Some(to) = frame.get_mut(..14) {
                    to[..6].copy_from_slice(&self.hosts[who].config.mac.0);
                    to[12..].copy_from_slice(&[8, 0]);
                }
                self.deliver(who, &frame, Input::Frame(None));
            }
            _ => {
                let knows_server = self.chance.percent(30);
                self.restart(who, knows_server);
                if self.chance.percent(50) {
                    self.release(who);
                }
            }
        }
    }

    /// A message of any type, with the right xid.
    fn say_anything(&mut self, who: usize) {
        let host = &self.hosts[who];
        let (xid, mac, names) = (host.referee.xid(), host.config.mac, self.names());
        let message_type = self.chance.between(1, 9) as u8;
        let mut reply = hostile_server::anything(message_type, xid, mac, &names, &mut self.chance);
        if self.chance.percent(50) {
            let used = self.hosts[who].referee.in_use;
            reply.yiaddr = Some(used.map_or(self.hosts[who].about, |used| used.address));
            reply.server = used.map_or(reply.server, |used| Some(used.server));
        }
        let frame = reply.write(
            (hostile_server::MAC, hostile_server::ADDRESS),
            (mac, reply.yiaddr.unwrap_or(NOBODY)),
        );
        self.deliver(who, &frame, Input::Frame(Some(reply)));
    }

    /// A stranger has the address that all this is about.
    fn claim(&mut self, who: usize) {
        let host = &self.hosts[who];
        let reply = self.chance.percent(50);
        let to = if reply { host.config.mac } else { BROADCAST };
        let address = host.referee.in_use.map_or(host.about, |used| used.address);
        let arp = Arp {
            reply,
            from: STRANGER,
            from_ip: address,
            to,
            wanted: address,
        };
        if !address.is_unspecified() {
            self.hosts[who].about = address;
            self.deliver(who, &arp.write(), Input::Arp(arp));
        }
    }

    /// All is well by now, and in the end everything is given back.
    pub fn finale(&mut self) {
        let now = self.now;
        let mut given_back = Vec::new();
        for who in 0..self.hosts.len() {
            self.hosts[who].rests = false;
            self.wake(who);
            let host = &self.hosts[who];
            let Some(used) = host.referee.in_use else {
                assert!(
                    host.referee.over || host.referee.searching_for(now) < secs(60),
                    "no lease in the end"
                );
                continue;
            };
            let leased = |server: &Server| {
                server.address == used.server && server.remembers_since < used.acquired_at
            };
            if let Some(server) = self.servers.iter().position(leased).filter(|_| used.honest) {
                let theirs = self.servers[server].lease_of(host.config.mac, now);
                let (address, until) = theirs.expect("the server knows nothing of the lease");
                let longer =
                    until.is_none_or(|until| used.expires_at.is_some_and(|expiry| expiry <= until));
                assert!(
                    longer && address == used.address,
                    "the server knows of another lease: {address} {until:?}"
                );
                given_back.push((server, who));
            }
            self.release(who);
        }
        self.run_until(now + Duration::from_millis(950));
        for (server, who) in given_back {
            let host = &self.hosts[who];
            assert!(host.referee.over, "released, and still not stopped");
            let theirs = self.servers[server].lease_of(host.config.mac, self.now);
            assert!(
                theirs.is_none(),
                "the server did not hear that the lease is free"
            );
        }
        for who in 0..self.hosts.len() {
            for _ in 0..4 {
                self.say_anything(who);
                self.claim(who);
            }
            self.cut(who, false);
            self.cut(who, true);
        }
    }
}
