//! What a run will be: who is there, and which troubles come when. All of it from the seed.

use super::chance::Chance;
use super::honest_server::{Dislike, Server, Terms};
use super::hostile_server::{STYLES, Style};
use smol_dhcp_proxy::dhcp::{Config, Probe};
use smol_dhcp_proxy::mac::Mac;
use std::time::Duration;

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

pub const HOUR: Duration = secs(3600);
pub const DAY: Duration = secs(24 * 3600);
/// The end of every run, without troubles.
pub const CALM: Duration = secs(5 * 3600);

/// What may go wrong for a while.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Of a thousand frames this many get lost.
    Loss(u64),
    /// Of a thousand frames this many come twice, are damaged, or come up to a minute late.
    Mess {
        twice: u64,
        damaged: u64,
        late: u64,
    },
    /// A server is not there.
    Down(usize),
    /// A server loses its memory.
    Forgets(usize),
    /// A server's network gets another number.
    Renumbers(usize),
    /// A server refuses whatever it has offered.
    Refuses(usize),
    Hostile(Style),
    /// Chance says anything at any moment, and nature is no kinder; perhaps while no server is
    /// there.
    Needles {
        alone: bool,
    },
    /// A client's interface has no carrier.
    NoCarrier(usize),
    /// The first addresses of every pool are somebody's, who says so after this while.
    Owner(Duration),
    /// A station answers ARP for every address, after this while: the first server's, or another
    /// one.
    ProxyArp {
        is_server: bool,
        delay: Duration,
    },
    /// The machine sleeps.
    Sleep,
    /// The machine sleeps until T2 of a client, finds no server, and chance says anything.
    Oversleeps(usize),
    /// The daemon starts anew, and goes on with the lease in its file.
    Restart(usize),
    /// The same, and at once the container is removed. The file does not say where the server is.
    Leaves(usize),
    /// A container is removed, and made again later.
    Recreate(usize),
    /// A client asks for its address of earlier times again and again, because the carrier
    /// flickers; nobody hears it, and chance says anything.
    Flickers(usize),
    /// A server gives leases of another length.
    Terms(usize, u32),
}

/// How a client comes into the world.
#[derive(Clone, Debug)]
pub struct Beginning {
    pub config: Config,
    /// Whether its socket hears more than it needs.
    pub hears_all: bool,
    /// It had an address in earlier times.
    pub reboots: bool,
    /// Its owner lets it go whenever it can.
    pub rests: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub length: Duration,
    pub servers: Vec<Server>,
    pub clients: Vec<Beginning>,
    /// Of each frame on the way.
    pub delay: (Duration, Duration),
    /// Of a thousand frames, always.
    pub loss: u64,
    /// How late the clients' timers are, at most.
    pub lag: Duration,
    /// Beginning, end, and what.
    pub troubles: Vec<(Duration, Duration, Trouble)>,
}

impl Plan {
    pub fn new(chance: &mut Chance) -> Self {
        let length = secs(chance.between(7 * 86_400, 9 * 86_400));
        let servers = if chance.percent(30) { 2 } else { 1 };
        let clients = chance.pick(&[1, 1, 1, 1, 1, 1, 1, 1, 2, 3]);
        let delay = chance.pick(&[
            (50, 300),
            (200, 5000),
            (200, 5000),
            (1000, 150_000),
            (300_000, 700_000),
        ]);
        let lag = chance.pick(&[0, 0, 0, 0, 20, 300]);
        let terms = terms(chance);
        let mut plan = Self {
            length,
            servers: (0..servers)
                .map(|which| server(which, terms, chance))
                .collect(),
            clients: (0..clients).map(|which| client(which, chance)).collect(),
            delay: (micros(delay.0), micros(delay.1)),
            loss: chance.pick(&[0, 0, 0, 50, 250]),
            lag: micros(lag * 1000),
            troubles: Vec::new(),
        };
        for _ in 0..chance.pick(&[0, 1, 1, 2, 3, 4, 6]) {
            let trouble = plan.trouble(chance);
            let end = (length - CALM).as_secs();
            // Trouble comes at any time, and likes beginnings.
            let begin = if chance.percent(40) {
                chance.time(Duration::ZERO, secs(20))
            } else {
                secs(chance.below(end))
            };
            let long = match trouble {
                Trouble::Hostile(_) | Trouble::Refuses(_) => chance.magnitude(secs(20), HOUR * 3),
                Trouble::Forgets(_) | Trouble::Renumbers(_) => secs(1),
                Trouble::Restart(_) | Trouble::Leaves(_) | Trouble::Recreate(_) => secs(1),
                Trouble::NoCarrier(_) => chance.magnitude(micros(1000), DAY),
                Trouble::Flickers(_) => chance.magnitude(secs(2), secs(300)),
                Trouble::Oversleeps(_) => chance.magnitude(DAY, DAY * 4),
                Trouble::Sleep => chance.magnitude(secs(1), DAY * 3),
                _ => chance.magnitude(secs(5), DAY),
            };
            plan.troubles
                .push((begin, (begin + long).min(length - CALM), trouble));
        }
        plan
    }

    fn trouble(&self, chance: &mut Chance) -> Trouble {
        let server = chance.below(self.servers.len() as u64) as usize;
        let client = chance.below(self.clients.len() as u64) as usize;
        match chance.below(26) {
            0..=1 => Trouble::Loss(chance.between(100, 1001)),
            2..=3 => {
                let mut some = |of| chance.pick(&[0, of, of / 4]);
                Trouble::Mess {
                    twice: some(500),
                    damaged: some(400),
                    late: some(300),
                }
            }
            4..=5 => Trouble::Down(server),
            6 => Trouble::Forgets(server),
            7 => Trouble::Renumbers(server),
            8 => Trouble::Refuses(server),
            9..=10 => Trouble::Hostile(chance.pick(&STYLES)),
            11..=12 => Trouble::Needles {
                alone: chance.percent(50),
            },
            13..=14 => Trouble::NoCarrier(client),
            15 => Trouble::Owner(chance.magnitude(micros(100), secs(3))),
            16 => Trouble::Sleep,
            17 => Trouble::Restart(client),
            18 => Trouble::Leaves(client),
            19 => Trouble::Recreate(client),
            20..=21 => Trouble::Flickers(client),
            22 => Trouble::Oversleeps(client),
            23..=24 => Trouble::ProxyArp {
                is_server: chance.percent(50),
                delay: chance.magnitude(micros(100), secs(3)),
            },
            _ => Trouble::Terms(server, chance.pick(&[300, 3600, 20_000, 172_800])),
        }
    }
}

/// Mostly leases as they are in the field; short ones cost a run's time, and are rare.
fn terms(chance: &mut Chance) -> Terms {
    let lease = match chance.below(1000) {
        0..30 => u32::MAX,
        30..36 => chance.between(60, 300) as u32,
        36..80 => chance.between(300, 3600) as u32,
        80..280 => chance.between(3600, 6 * 3600) as u32,
        _ => chance.between(6 * 3600, 4 * 86_400) as u32,
    };
    let part = |of: u64| Some((u64::from(lease) * of / 100) as u32);
    let (t1, t2) = match chance.below(6) {
        0 => (part(40), part(80)),
        1 => (part(25), None),
        2 => (None, part(60)),
        3 => (Some(0), Some(0)),
        _ => (None, None),
    };
    Terms {
        lease,
        t1,
        t2,
        mtu: chance.percent(30).then_some(1400),
    }
}

fn server(which: u8, terms: Terms, chance: &mut Chance) -> Server {
    let mut server = Server::new(which, 16, terms);
    server.authoritative = chance.percent(70);
    server.forgiving = chance.percent(40);
    server.rapid = chance.percent(30);
    let dislikes = [
        Dislike::RapidCommit,
        Dislike::RequestedAddress,
        Dislike::MessageSize,
        Dislike::ClientId,
    ];
    server.dislikes = chance.percent(20).then(|| chance.pick(&dislikes));
    server
}

fn client(which: u8, chance: &mut Chance) -> Beginning {
    let mac = Mac([2, 0, 0, 0, 0, 0x10 + which]);
    let mut config = Config::new(
        mac,
        if chance.percent(80) {
            vec![0, b'c', which]
        } else {
            Vec::new()
        },
    );
    config.deadline = chance.percent(50).then_some(secs(45));
    config.broadcast = chance.percent(20);
    config.host_name = chance.percent(30).then(|| "c1".to_owned());
    config.fqdn = chance.percent(10).then(|| "c1.example.org".to_owned());
    config.probe = match chance.below(20) {
        0..=12 => Probe::WithRequest,
        13 => Probe::Off,
        _ => Probe::Before(chance.between(1, 4) as u8),
    };
    config.requested = chance
        .percent(40)
        .then(|| [10, 0, 0, 10 + chance.below(4) as u8].into());
    Beginning {
        reboots: config.requested.is_some() && chance.percent(60),
        hears_all: chance.percent(30),
        rests: chance.percent(60),
        config,
    }
}
