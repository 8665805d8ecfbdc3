//! The virtual network, its clock, and the machine that the clients live on.

use super::chance::Chance;
use super::coverage::*;
use super::datagrams::*;
use super::honest_server::Server;
use super::hostile_server::Style;
use super::referee::{Input, Referee, Used};
use super::scenario::*;
use smol_dhcp_proxy::dhcp::{Client, Config, Event, Lease, Phase, Plainness, Snapshot};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The moment that all runs count from; not zero, so that nothing passes by accident.
pub const START: Instant = Instant::from_boot(secs(1000));
const NEVER_COMES: Instant = Instant::from_boot(Duration::MAX);
/// The station that answers ARP for every address, where it is not a server's.
pub const GATEWAY: Mac = Mac([2, 0, 0, 8, 8, 8]);

/// The station that has an address which is not to be had.
pub fn owner(address: Ipv4Addr) -> Mac {
    let [_, network, _, host] = address.octets();
    Mac([2, 0, 0, 9, network, host])
}

pub const STRANGER: Mac = Mac([2, 0, 0, 7, 7, 7]);

#[derive(Debug)]
pub enum Happening {
    ToClient {
        who: usize,
        frame: Vec<u8>,
        input: Input,
    },
    ToServer {
        which: usize,
        heard: Heard,
    },
    Begin(usize),
    End(usize),
    Born {
        who: usize,
        life: u32,
    },
    Needle {
        who: usize,
        life: u32,
    },
    Carrier {
        who: usize,
        back: bool,
    },
}

pub struct Scheduled {
    at: Instant,
    number: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as a heap wants it; at one moment, whoever was there first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (Reverse(self.at), Reverse(self.number)).cmp(&(Reverse(other.at), Reverse(other.number)))
    }
}

/// One client, and what drives it.
pub struct Host {
    pub config: Config,
    pub client: Client,
    pub referee: Referee,
    pub hears_all: bool,
    /// Counts the clients that this one was.
    pub life: u32,
    /// How many reasons there are for its interface to have no carrier.
    pub cut: i32,
    /// What is left of the client while there is none, and when there will be one again. Who still
    /// asks `client` then asks what is not there any more.
    pub resting: Option<(Snapshot, Instant)>,
    pub rests: bool,
    /// The address that the last message was about.
    pub about: Ipv4Addr,
    pub last_address: Option<Ipv4Addr>,
}

pub struct World {
    pub plan: Plan,
    pub chance: Chance,
    pub trace: bool,
    pub now: Instant,
    pub number: u64,
    pub queue: BinaryHeap<Scheduled>,
    pub hosts: Vec<Host>,
    pub servers: Vec<Server>,
    pub loss: u64,
    pub mess: (u64, u64, u64),
    pub hostile: Option<Style>,
    pub needles: u32,
    pub flickers: u32,
    pub owner: Option<Duration>,
    pub proxy_arp: Option<(Mac, Duration)>,
    pub asleep_until: Instant,
    /// How many troubles there are.
    pub troubles: u32,
    pub fair_since: Instant,
    /// When the last RELEASE or DECLINE arrives.
    pub farewell_at: Instant,
    /// Nothing has happened that could give an address to two clients.
    pub trustworthy: bool,
    pub coverage: Coverage,
    pub buffer: Vec<u8>,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::new(&mut chance);
        let mut world = Self {
            trace,
            now: START,
            number: 0,
            queue: BinaryHeap::new(),
            hosts: Vec::new(),
            servers: plan.servers.clone(),
            loss: plan.loss,
            mess: (0, 0, 0),
            hostile: None,
            needles: 0,
            flickers: 0,
            owner: None,
            proxy_arp: None,
            asleep_until: START,
            troubles: 0,
            fair_since: START,
            farewell_at: START,
            trustworthy: true,
            coverage: Coverage::default(),
            buffer: Vec::new(),
            chance,
            plan,
        };
        world.trace(|world| format!("{:#?}", world.plan));
        for n in 0..world.plan.troubles.len() {
            let (begin, end, _) = world.plan.troubles[n];
            world.schedule(START + begin, Happening::Begin(n));
            world.schedule(START + end, Happening::End(n));
        }
        for Beginning {
            config,
            hears_all,
            reboots,
            rests,
        } in world.plan.clients.clone()
        {
            let seed = world.chance.next();
            let client = match config.requested.filter(|_| reboots) {
                Some(address) => Client::reboot(config.clone(), address, seed, world.now),
                None => Client::new(config.clone(), seed, world.now),
            };
            let referee = Referee::new(&config, None, world.plan.lag, world.now);
            let (about, last_address) = (NOBODY, config.requested);
            world.hosts.push(Host {
                config,
                client,
                referee,
                hears_all,
                life: 0,
                cut: 0,
                resting: None,
                rests,
                about,
                last_address,
            });
        }
        world
    }

    /// Lives through it all.
    pub fn run(&mut self) {
        for who in 0..self.hosts.len() {
            self.step(who, Input::Start, |_, _| Ok(()));
        }
        let end = START + self.plan.length;
        self.run_until(START + (self.plan.length - HOUR));
        self.loss = 0;
        self.run_until(end);
        self.finale();
        for host in &self.hosts {
            self.coverage.busiest = self.coverage.busiest.max(host.referee.busiest);
        }
    }

    pub fn run_until(&mut self, end: Instant) {
        loop {
            let wakes = |host: &Host| {
                let timer = || host.client.poll_timeout().map(|due| due + self.plan.lag);
                let at = host
                    .resting
                    .as_ref()
                    .map_or_else(timer, |(_, at)| Some(*at));
                at.map(|at| at.max(self.asleep_until))
            };
            let timer = (0..self.hosts.len())
                .filter_map(|who| Some((wakes(&self.hosts[who])?, who)))
                .min();
            let event = self.queue.peek().map(|next| next.at);
            let timer = timer.filter(|(at, _)| event.is_none_or(|event| *at <= event));
            match (timer, event) {
                (Some((at, who)), _) if at < end => {
                    self.now = self.now.max(at);
                    self.fire(who);
                }
                (None, Some(at)) if at < end => {
                    self.now = at;
                    let next = self.queue.pop().expect("it has been seen");
                    self.happen(next.what);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub fn schedule(&mut self, at: Instant, what: Happening) {
        self.number += 1;
        self.queue.push(Scheduled {
            at,
            number: self.number,
            what,
        });
    }

    pub fn trace(&self, line: impl FnOnce(&Self) -> String) {
        if self.trace {
            println!("{:>14.6} {}", (self.now - START).as_secs_f64(), line(self));
        }
    }

    pub fn happen(&mut self, what: Happening) {
        let asleep = self.now < self.asleep_until;
        match what {
            Happening::ToServer { which, heard } => self.serve(which, &heard),
            Happening::Begin(n) => self.begin(n),
            Happening::End(n) => self.end(n),
            Happening::ToClient { .. } if asleep => {}
            what if asleep => self.schedule(self.asleep_until, what),
            Happening::ToClient { who, frame, input } => {
                let host = &self.hosts[who];
                let hears =
                    host.resting.is_none() && (host.hears_all || host.client.is_listening());
                if host.referee.carrier && hears {
                    self.deliver(who, &frame, input);
                }
            }
            Happening::Born { who, life } if self.hosts[who].life == life => {
                let reboots = self.chance.percent(60);
                self.bear(who, reboots);
            }
            Happening::Needle { who, life }
                if self.needles + self.flickers > 0 && self.hosts[who].life == life =>
            {
                self.needle(who)
            }
            Happening::Born { .. } | Happening::Needle { .. } => {}
            Happening::Carrier { who, back } => self.cut(who, back),
        }
    }
}

/// The clients.
impl World {
    fn fire(&mut self, who: usize) {
        if self.hosts[who].resting.is_some() {
            self.wake(who);
            return self.perhaps_rest(who);
        }
        let state = self.hosts[who].client.state();
        self.coverage.count(state, TIMEOUT);
        self.step(who, Input::Timeout, |client, now| {
            client.handle_timeout(now);
            Ok(())
        });
    }

    pub fn deliver(&mut self, who: usize, frame: &[u8], input: Input) {
        if self.hosts[who]
            .client
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.fire(who); // Time first, as the daemon has it.
            if self.hosts[who].resting.is_some() {
                return;
            }
        }
        let host = &self.hosts[who];
        let event = match input {
            Input::Frame(Some(reply)) if reply.xid == host.referee.xid() => {
                Some(usize::from(reply.message_type) - 1)
            }
            Input::Arp(arp) if arp.from_ip == host.about && arp.from != host.config.mac => {
                Some(CONFLICT)
            }
            _ => None,
        };
        if let Some(event) = event {
            self.coverage.count(host.client.state(), event);
        }
        self.step(who, input, |client, now| client.handle_packet(frame, now));
    }

    /// Does something to a client, sees to all that comes of it, and lets the referee judge.
    pub fn step(
        &mut self,
        who: usize,
        input: Input,
        act: impl FnOnce(&mut Client, Instant) -> Result<(), smol_dhcp_proxy::dhcp::Ignored>,
    ) {
        let (now, host) = (self.now, &mut self.hosts[who]);
        let (before, listening) = (host.client.state(), host.client.is_listening());
        let result = act(&mut host.client, now);
        let (mut said, mut events) = (Vec::new(), Vec::new());
        while let Some(transmit) = host.client.poll_transmit(&mut self.buffer) {
            assert!(self.buffer.len() <= 1000, "{} bytes", self.buffer.len());
            said.push(read(transmit, &self.buffer));
        }
        while let Some(event) = host.client.poll_event() {
            events.push(event);
        }
        if self.trace {
            let after = host.client.state();
            println!(
                "{:>14.6} client {who}: {before} -> {after} by {input:?}: {result:?}",
                (now - START).as_secs_f64()
            );
            said.iter().for_each(|said| println!("{:17}{said:?}", ""));
            events
                .iter()
                .for_each(|event| println!("{:17}{event:?}", ""));
        }
        host.referee.judge(
            (input, before, listening),
            result,
            (&said, &events),
            &host.client,
            now,
        );
        for said in &said {
            match said {
                Said::Dhcp(heard) => {
                    self.coverage.messages += 1;
                    self.hosts[who].about = heard
                        .requested
                        .or(heard.ciaddr)
                        .unwrap_or(self.hosts[who].about);
                    self.send(heard);
                }
                Said::Arp(arp) => self.ask_all(who, arp),
            }
        }
        for event in &events {
            self.note(who, event);
        }
        let state = self.hosts[who].client.state();
        let flickers = self.flickers > 0 && state == "INIT-REBOOT";
        if (self.needles > 0 || flickers) && (state != before || self.chance.percent(10)) {
            self.thread_needles(who, state);
        }
        self.judge_all(who);
        self.perhaps_rest(who);
    }

    /// The owner lets the client go: most of the time when nothing is in flight, now and then at
    /// any moment.
    fn perhaps_rest(&mut self, who: usize) {
        let host = &self.hosts[who];
        let likely = if host.client.is_listening() { 2 } else { 70 };
        if !host.rests || !self.chance.percent(likely) {
            return;
        }
        let Some(rest) = self.hosts[who].client.suspend() else {
            return;
        };
        let (now, lag) = (self.now, self.plan.lag);
        let at = match (rest.due(), self.chance.below(20)) {
            // There is no carrier, or nothing ever to be done: it is for the owner to say when it
            // looks again.
            (None, _) => now + self.chance.magnitude(secs(1), DAY * 2),
            (Some(due), _) if due <= now => now + self.chance.magnitude(secs(1), HOUR),
            (Some(due), 0..=2) => now + self.chance.magnitude(micros(1), due - now),
            (Some(due), 3..=4) => due + self.chance.magnitude(secs(1), DAY),
            (Some(due), _) => due + lag,
        };
        self.trace(|_| {
            format!(
                "client {who} rests until {:.6}: {rest:?}",
                (at - START).as_secs_f64()
            )
        });
        let host = &mut self.hosts[who];
        if rest.due().is_none_or(|due| due > now) {
            let resumed = Client::resume(host.config.clone(), rest.clone(), 0, now);
            assert_eq!(
                resumed.suspend().as_ref(),
                Some(&rest),
                "it is not the same any more"
            );
            assert_eq!(
                resumed.poll_timeout(),
                rest.due(),
                "the owner would come at another time"
            );
        }
        // A DISCOVER needs more of the allowance than the REQUEST of INIT-REBOOT.
        let asks = host.client.is_listening()
            || host.client.state() == "INIT-REBOOT"
            || !host.referee.carrier;
        assert!(
            asks || host.client.poll_timeout() == rest.due(),
            "it would have gone on at another time"
        );
        self.coverage.count(host.client.state(), REST);
        host.referee.rests();
        host.resting = Some((rest, at));
    }

    /// Another client goes on where the last one has rested, and stays for what it is needed for.
    pub fn wake(&mut self, who: usize) {
        let (now, lag, seed) = (self.now, self.plan.lag, self.chance.next());
        let Some((mut rest, _)) = self.hosts[who].resting.take() else {
            return;
        };
        let early = rest.clone();
        if self.chance.percent(20) && nearly_due(&rest, now) {
            rest.renew_now(now);
        }
        let host = &mut self.hosts[who];
        let is_late = rest.due().is_some_and(|due| due + lag < now);
        host.referee
            .wakes(host.cut <= 0, is_late, early != rest, now);
        host.client = Client::resume(host.config.clone(), rest, seed, now);
        let rests = std::mem::take(&mut host.rests);
        self.after_birth(who);
        self.hosts[who].rests = rests;
    }

    fn note(&mut self, who: usize, event: &Event) {
        let host = &mut self.hosts[who];
        match event {
            Event::Bound(lease) | Event::Changed { new: lease, .. } => {
                // The daemon remembers with a lease how its server knows it.
                host.config
                    .client_id
                    .clone_from(&host.client.config().client_id);
                host.config.plainness = host.client.plainness();
                host.last_address = Some(lease.address);
                self.coverage.acquired += 1;
            }
            Event::Renewed(_) => self.coverage.renewed += 1,
            Event::Lost { .. } => self.coverage.lost += 1,
            Event::ProxyArp { .. } => host
                .config
                .proxy_arp
                .clone_from(&host.client.config().proxy_arp),
            Event::Declined { .. }
            | Event::Unusable { .. }
            | Event::Contested { .. }
            | Event::NoLeaseTime { .. } => {}
            Event::GaveUp(_) | Event::Released => {
                self.coverage.gave_up += u64::from(matches!(event, Event::GaveUp(_)));
                let longest = if self.troubles == 0 {
                    secs(60)
                } else {
                    secs(1800)
                };
                let wait = self.chance.magnitude(secs(1), longest);
                let life = host.life;
                self.schedule(self.now + wait, Happening::Born { who, life });
            }
        }
    }

    /// What concerns more than one client.
    fn judge_all(&self, who: usize) {
        let host = &self.hosts[who];
        let searching = host
            .referee
            .searching_for(self.now)
            .min(self.now - self.fair_since);
        // Every five minutes and a half it asks, and three of five times it gets what it asks for.
        // A server that dislikes a part of the message hears only every other one, or every fifth.
        let is_picky = self.servers.iter().any(|server| server.dislikes.is_some());
        let patience = if self.loss == 0 && !is_picky {
            secs(20 * 60)
        } else {
            HOUR * 4
        };
        assert!(
            self.troubles > 0 || searching <= patience,
            "no lease, with all being fair for {searching:?}"
        );
        if let Some(used) = host.referee.in_use.filter(|_| self.trustworthy) {
            // The kernel takes the address from who rests for too long.
            let lasts = |theirs: &Used| theirs.expires_at.is_none_or(|expiry| self.now < expiry);
            let theirs = |other: &Host| other.referee.in_use.filter(lasts);
            let same =
                |other: &&Host| theirs(other).is_some_and(|theirs| theirs.address == used.address);
            assert_eq!(
                self.hosts.iter().filter(same).count(),
                1,
                "{} is two clients'",
                used.address
            );
        }
    }

    /// The next client of this host: one that knows nothing, or one that had an address.
    pub fn bear(&mut self, who: usize, reboots: bool) {
        self.coverage.busiest = self.coverage.busiest.max(self.hosts[who].referee.busiest);
        let (now, seed) = (self.now, self.chance.next());
        let host = &mut self.hosts[who];
        host.life += 1;
        host.resting = None;
        host.config.requested = host.last_address;
        host.referee = Referee::new(&host.config, None, self.plan.lag, now);
        host.client = match host.last_address.filter(|_| reboots) {
            Some(address) => Client::reboot(host.config.clone(), address, seed, now),
            None => Client::new(host.config.clone(), seed, now),
        };
        self.after_birth(who);
    }

    /// The daemon was started anew, and has a lease in its file.
    pub fn resume(&mut self, who: usize, lease: Lease, honest: bool) {
        let (now, seed) = (self.now, self.chance.next());
        self.coverage.busiest = self.coverage.busiest.max(self.hosts[who].referee.busiest);
        let host = &mut self.hosts[who];
        host.life += 1;
        host.referee = Referee::new(&host.config, Some((&lease, honest)), self.plan.lag, now);
        let (renew_at, rebind_at) = (
            lease.renew_at().unwrap_or(NEVER_COMES),
            lease.rebind_at().unwrap_or(NEVER_COMES),
        );
        let phase = Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        };
        let rest = Snapshot {
            phase,
            failures: 0,
            plainness: Plainness::Full,
            rate_full_at: now,
        };
        host.client = Client::resume(host.config.clone(), rest, seed, now);
        self.after_birth(who);
    }

    fn after_birth(&mut self, who: usize) {
        if self.hosts[who].cut > 0 {
            // The daemon looks at the link before it lets the client speak.
            self.hosts[who].client.handle_carrier(false, self.now);
            self.step(who, Input::Carrier(false), |_, _| Ok(()));
        } else {
            self.step(who, Input::Start, |_, _| Ok(()));
        }
    }

    /// The carrier goes, or comes back once all reasons for its absence have gone.
    pub fn cut(&mut self, who: usize, back: bool) {
        let host = &mut self.hosts[who];
        host.cut = if back { host.cut - 1 } else { host.cut + 1 };
        let present = host.cut <= 0; // Asleep, the end may be heard before the beginning.
        if present == host.referee.carrier || host.resting.is_some() {
            return;
        }
        self.coverage.count(
            host.client.state(),
            if present { CARRIER } else { NO_CARRIER },
        );
        self.step(who, Input::Carrier(present), |client, now| {
            client.handle_carrier(present, now);
            Ok(())
        });
    }

    pub fn release(&mut self, who: usize) {
        self.wake(who);
        self.step(who, Input::Release, |client, now| {
            client.release(now);
            Ok(())
        });
    }
}

/// Whether nine tenths of the time until T1 have gone by.
fn nearly_due(rest: &Snapshot, now: Instant) -> bool {
    let lease = rest.lease().filter(|lease| lease.lease_time.is_some());
    lease.is_some_and(|lease| lease.acquired_at + lease.t1 * 9 / 10 <= now)
}
