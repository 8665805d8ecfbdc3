//! Turns any bytes into frames or calls for a client that is watched at every step: what the fuzzer
//! runs for minutes and the plain tests for seconds.

use super::watch::Watched;
use smol_dhcp_proxy::dhcp::{self, Config, Lease, Phase, Plainness, Probe, Snapshot};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const BROADCAST: Mac = Mac([0xff; 6]);
const ADDRESSES: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 0, 0, 5),
    Ipv4Addr::new(10, 0, 0, 6),
    Ipv4Addr::new(192, 168, 7, 9),
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::BROADCAST,
];
const SERVERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::UNSPECIFIED,
];
const TIMES: [u32; 12] = [
    3600,
    0,
    1,
    2,
    3,
    7,
    59,
    120,
    600,
    86_400,
    u32::MAX - 1,
    u32::MAX,
];
const NEVER: Instant = Instant::from_boot(Duration::MAX);
/// Ends every input, however long it is.
const MOST_CALLS: usize = 300;

/// How the bytes after the first three of [`packet`]'s input become a frame.
pub const AS_FRAME: u8 = 0;
/// They are the payload of a good UDP datagram.
pub const AS_PAYLOAD: u8 = 1;
/// As before, and what makes the payload a reply to this very client is repaired.
pub const AS_REPLY: u8 = 2;
/// They come after a good Ethernet header as ARP.
pub const AS_ARP: u8 = 3;

/// One frame, heard in a chosen state; then time passes, and the frame is heard again and again.
///
/// The first byte chooses the client, the second the state, the third what the rest is.
pub fn packet(data: &[u8]) {
    let [choice, state, form, rest @ ..] = data else {
        return;
    };
    let mut client = Watched::new(config(*choice), (*choice).into(), start_of_time());
    lead_to(&mut client, *state);
    let frame = match form % 4 {
        AS_FRAME => rest.to_vec(),
        AS_ARP => [&BROADCAST.0[..], &STRANGER.0, &[8, 6], rest].concat(),
        AS_PAYLOAD => from_server(rest, SERVER_MAC),
        _ => {
            let mut payload = rest.to_vec();
            payload.resize(rest.len().max(HEADER), 0);
            payload[..8].copy_from_slice(&header(client.xid())[..8]);
            payload[28..44].copy_from_slice(&header(0)[28..44]);
            payload[236..HEADER].copy_from_slice(&MAGIC);
            from_server(&payload, SERVER_MAC)
        }
    };
    client.hears(&frame);
    for _ in 0..12 {
        let Some(due) = client.due() else { break };
        client.wakes(due);
        client.hears(&frame);
    }
    client.releases();
    client.hears(&frame);
}

/// Any calls in any order, with a clock that stands still, walks or leaps, but never turns back.
pub fn operations(data: &[u8]) {
    let mut bytes = Bytes(data);
    let config = config(bytes.byte());
    let seed = bytes.short().into();
    let mut client = Watched::new(config, seed, start_of_time());
    lead_to(&mut client, bytes.byte());
    for _ in 0..MOST_CALLS {
        if bytes.is_empty() {
            break;
        }
        call(&mut client, &mut bytes);
    }
}

/// One call, as the next bytes say.
fn call(client: &mut Watched, bytes: &mut Bytes<'_>) {
    // Of a client that has stopped there is not much to see, though not nothing.
    if client.is_stopped() && bytes.byte() < 0xe0 {
        return restart(client, bytes);
    }
    match bytes.byte() % 24 {
        0..=2 => client.wakes(client.due().unwrap_or(client.now())),
        3 => client.wakes(client.now() + Duration::from_millis(bytes.short().into())),
        4 => client.wakes(client.now() + Duration::from_secs(bytes.short().into())),
        5 => client.wakes(client.now() + Duration::from_secs(u64::from(bytes.short()) << 20)),
        6 | 7 => {
            let lease = client.last_lease().filter(|_| client.is_leased());
            let times = lease.map(|lease| {
                [
                    lease.renew_at(),
                    lease.rebind_at(),
                    lease.rebind_at(),
                    lease.expires_at(),
                ]
            });
            let then = times
                .and_then(|times| bytes.pick(&times))
                .unwrap_or(client.now());
            client.wakes(then.max(client.now()));
        }
        8 | 9 => client.hears_again(),
        10 => {
            let payload = reply(client, bytes);
            let mut frame = from_server(&payload, bytes.pick(&[SERVER_MAC, STRANGER, MAC]));
            for _ in 0..bytes.byte() % 8 {
                let at = usize::from(bytes.short()) % frame.len();
                frame[at] = bytes.byte();
            }
            frame.truncate(
                frame
                    .len()
                    .saturating_sub(bytes.byte().saturating_sub(0xc0).into()),
            );
            client.hears(&frame);
        }
        11 => {
            let frame = arp(client, bytes);
            client.hears(&frame);
        }
        12 => client.carrier(bytes.byte() % 2 == 1),
        13 if bytes.byte() < 0x20 => client.releases(),
        13 => {
            let length = usize::from(bytes.byte() % 64);
            let frame = bytes.take(length).to_vec();
            client.hears(&frame);
        }
        14 => restart(client, bytes),
        15 => {
            let kinds = [bytes.pick(&[2, 5]), bytes.pick(&[6, 6, 5])];
            if bytes.byte() < 0xe0 {
                storm(client, kinds, 10);
            } else {
                // It takes its time, so it is the last thing that happens.
                storm(client, kinds, 200);
                *bytes = Bytes(&[]);
            }
        }
        23 => rest(client, bytes),
        16.. => {
            let payload = reply(client, bytes);
            client.hears(&from_server(&payload, SERVER_MAC));
        }
    }
}

/// A server that leases for a moment, or takes back what it gave, as fast as the client asks.
fn storm(client: &mut Watched, kinds: [u8; 2], rounds: u32) {
    for _ in 0..rounds {
        client.wakes(client.due().unwrap_or(client.now()));
        for message_type in kinds {
            let reply = Reply {
                message_type,
                times: [3, 0, 0],
                ..Reply::default()
            };
            client.hears(&reply.frame(client.xid()));
        }
    }
}

/// The process ends and starts again, with or without its lease file.
fn restart(client: &mut Watched, bytes: &mut Bytes<'_>) {
    let config = config(bytes.byte());
    let (seed, now) = (bytes.short().into(), client.now());
    *client = match (bytes.byte() % 4, client.last_lease().cloned()) {
        (0, _) | (_, None) => Watched::new(config, seed, now),
        (1, Some(lease)) => Watched::reboot(config, lease.address, seed, now),
        (2, Some(lease)) => Watched::resume(
            config,
            bound_with(Lease {
                server_mac: None,
                ..lease
            }),
            seed,
            now,
        ),
        (_, Some(lease)) => Watched::resume(config, bound_with(lease), seed, now),
    };
}

/// The client rests, for no time or until later; or another one goes on with what a file says that
/// nobody has written.
fn rest(client: &mut Watched, bytes: &mut Bytes<'_>) {
    let now = client.now();
    match bytes.byte() % 5 {
        0 => client.rests(now),
        1 => client.rests(client.due().unwrap_or(now)),
        2 => client.rests(now + Duration::from_secs(bytes.short().into())),
        3 => client.rests(now + Duration::from_secs(u64::from(bytes.short()) << 20)),
        _ => {
            let lease = client.last_lease().cloned().unwrap_or_else(a_lease);
            let rest = any_rest(lease, now, bytes);
            *client = Watched::resume(config(bytes.byte()), rest, bytes.short().into(), now);
        }
    }
}

fn any_rest(mut lease: Lease, now: Instant, bytes: &mut Bytes<'_>) -> Snapshot {
    let times = [lease.renew_at(), lease.rebind_at(), lease.expires_at()];
    let ends = [Instant::from_boot(Duration::ZERO), NEVER, now];
    let instant = |bytes: &mut Bytes<'_>| match bytes.byte() % 8 {
        choice @ 0..=2 => ends[usize::from(choice)],
        choice @ 3..=5 => times[usize::from(choice - 3)].unwrap_or(NEVER),
        6 => now + Duration::from_millis(bytes.short().into()),
        _ => Instant::from_boot(
            now.since_boot()
                .saturating_sub(Duration::from_secs(bytes.short().into())),
        ),
    };
    let [renew_at, rebind_at, next, rate_full_at] = [(); 4].map(|()| instant(bytes));
    if bytes.byte().is_multiple_of(2) {
        lease.acquired_at = instant(bytes);
        let mut time = || Duration::from_secs(bytes.pick(&TIMES).into());
        (lease.t1, lease.t2, lease.lease_time) = (time(), time(), Some(time()));
        lease.lease_time = lease.lease_time.filter(|_| !bytes.byte().is_multiple_of(4));
    }
    let (pace, setbacks) = (bytes.pick(&TIMES), bytes.pick(&TIMES));
    let phase = match bytes.byte() % 4 {
        0 => Phase::Bound {
            lease,
            renew_at,
            rebind_at,
        },
        1 => Phase::Renewing {
            lease,
            renew_at,
            rebind_at,
            next,
        },
        2 => Phase::Rebinding {
            lease,
            renew_at,
            rebind_at,
            next,
        },
        _ => {
            let wanted = bytes.byte().is_multiple_of(2).then_some(lease.address);
            Phase::Init {
                at: next,
                since: renew_at,
                wanted,
                pace,
            }
        }
    };
    let plainness = Plainness::ALL[setbacks as usize % Plainness::ALL.len()];
    Snapshot {
        phase,
        failures: setbacks,
        plainness,
        rate_full_at,
    }
    .clamped(now)
}

/// For a client that has never had one.
fn a_lease() -> Lease {
    let mut client = Watched::new(config(0), 0, start_of_time());
    lead_to(&mut client, 3);
    client
        .last_lease()
        .cloned()
        .expect("a client that is led to BOUND has a lease")
}

/// What is left of a client that had this lease and did nothing yet.
fn bound_with(lease: Lease) -> Snapshot {
    let (renew_at, rebind_at) = (
        lease.renew_at().unwrap_or(NEVER),
        lease.rebind_at().unwrap_or(NEVER),
    );
    let phase = Phase::Bound {
        lease,
        renew_at,
        rebind_at,
    };
    Snapshot {
        phase,
        failures: 0,
        plainness: Plainness::Full,
        rate_full_at: start_of_time(),
    }
}

pub fn start_of_time() -> Instant {
    Instant::from_boot(Duration::from_secs(1000))
}

pub fn config(choice: u8) -> Config {
    let bit = |n: u8| choice & (1 << n) != 0;
    Config {
        deadline: bit(0).then_some(Duration::from_secs(45)),
        host_name: bit(1).then(|| "web".to_owned()),
        fqdn: bit(2).then(|| "web.lab.example".to_owned()),
        broadcast: bit(3),
        requested: bit(4).then_some(ADDRESSES[1]),
        probe: [
            Probe::WithRequest,
            Probe::Off,
            Probe::Before(1),
            Probe::Before(3),
        ][usize::from(choice >> 5 & 3)],
        fuzz: bit(7),
        ..Config::new(MAC, b"\0container"[..usize::from(choice % 11)].to_vec())
    }
}

/// The states that [`lead_to`] knows the way to, by its number; the last one without a carrier.
pub const STATES: [&str; 8] = [
    "SELECTING",
    "REQUESTING",
    "REBOOTING",
    "BOUND",
    "RENEWING",
    "REBINDING",
    "RELEASING",
    "BOUND",
];

/// Walks a client that has just begun to one of its states.
pub fn lead_to(client: &mut Watched, state: u8) {
    let good = |message_type| Reply {
        message_type,
        ..Reply::default()
    };
    let offered = |client: &mut Watched| {
        client.hears(&good(2).frame(client.xid()));
        // Another server might offer what the client would rather have.
        client.wakes(client.now() + Duration::from_millis(150));
    };
    let bound = |client: &mut Watched| {
        offered(client);
        client.hears(&good(5).frame(client.xid()));
        // What is announced or probed first is over by then.
        (0..5).for_each(|_| client.wakes(client.now() + Duration::from_secs(3)));
    };
    match state % 8 {
        0 => {}
        1 => offered(client),
        2 => *client = Watched::reboot(client.config().clone(), ADDRESSES[0], 1, start_of_time()),
        3 => bound(client),
        4 => {
            bound(client);
            client.wakes(start_of_time() + Duration::from_secs(1830));
        }
        5 => {
            bound(client);
            client.wakes(start_of_time() + Duration::from_secs(3200));
        }
        6 => {
            bound(client);
            if let Some(lease) = client.last_lease().cloned() {
                let (config, now) = (client.config().clone(), client.now());
                *client = Watched::resume(
                    config,
                    bound_with(Lease {
                        server_mac: None,
                        ..lease
                    }),
                    1,
                    now,
                );
                client.releases();
            }
        }
        _ => {
            bound(client);
            client.carrier(false);
        }
    }
}

/// A reply of a server, as the next bytes say: mostly one that the client can use.
fn reply(client: &Watched, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let apt = if client.state() == "SELECTING" { 2 } else { 5 };
    let message_type = bytes.pick(&[
        apt, apt, apt, apt, apt, apt, apt, apt, 2, 5, 6, 6, 6, 6, 4, 99,
    ]);
    let mut reply = Reply {
        message_type,
        ..Reply::default()
    };
    let mut xid = client.xid();
    let unusual = match bytes.byte() {
        0..0xa0 => 0,
        0xa0..0xf0 => 1 << (bytes.byte() % 8),
        0xf0.. => bytes.byte(),
    };
    if unusual == 0xff {
        xid = client.earlier_xid();
    }
    let unusually = |bit: u8| unusual & (1 << bit) != 0;
    if unusually(0) {
        reply.address = bytes.pick(&ADDRESSES);
    }
    if unusually(1) {
        reply.server = bytes.pick(&SERVERS);
    }
    if unusually(2) {
        reply.times = [bytes.pick(&TIMES), bytes.pick(&TIMES), bytes.pick(&TIMES)];
    }
    if unusually(3) {
        reply.more.extend([80, 0]);
    }
    if unusually(4) {
        reply
            .more
            .extend([26, 2, 5, bytes.byte(), 6, 4, 10, 0, 0, bytes.byte()]);
    }
    if unusually(5) {
        reply.more.extend([&[56, 6][..], b"no\x07way"].concat());
    }
    let mut payload = reply.payload(xid);
    if unusually(6) {
        let length = usize::from(bytes.byte() % 32);
        payload.pop();
        payload.extend(bytes.take(length));
    }
    if unusually(7) {
        let option = HEADER + usize::from(bytes.byte());
        if let Some(byte) = payload.get_mut(option) {
            *byte = bytes.byte();
        }
    }
    payload
}

/// What a station says by ARP: an address of its choice is its own, or whose is it?
fn arp(client: &Watched, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ours = client
        .last_lease()
        .map_or(ADDRESSES[0], |lease| lease.address);
    let from = bytes.pick(&[STRANGER, SERVER_MAC, MAC, Mac::UNSPECIFIED]);
    let sender = bytes.pick(&[ours, SERVERS[0], ADDRESSES[1], Ipv4Addr::UNSPECIFIED]);
    let target = bytes.pick(&[ours, SERVERS[0], ADDRESSES[1], Ipv4Addr::UNSPECIFIED]);
    let [to, target_mac] = bytes.pick(&[
        [MAC, MAC],
        [BROADCAST, Mac::UNSPECIFIED],
        [BROADCAST, MAC],
        [STRANGER, STRANGER],
    ]);
    let operation = bytes.pick(&[2, 1, 2, 1, 3]);
    let head = [&to.0[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [
        &head[..],
        &from.0,
        &sender.octets(),
        &target_mac.0,
        &target.octets(),
    ]
    .concat()
}

/// A frame from a server's port 67 to our port 68. Ports that change places leave the checksum as
/// it is.
fn from_server(payload: &[u8], from: Mac) -> Vec<u8> {
    let mut frame = dhcp::frame(payload, (from, SERVERS[0]), (MAC, ADDRESSES[0]));
    frame[34..38].rotate_left(2);
    frame
}

const HEADER: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// The fixed fields of a reply to us, as far as no test changes them.
fn header(xid: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&[2, 1, 6, 0]);
    header[4..8].copy_from_slice(&xid.to_be_bytes());
    header[28..34].copy_from_slice(&MAC.0);
    header[236..].copy_from_slice(&MAGIC);
    header
}

/// A good reply, unless its maker decides otherwise.
struct Reply {
    message_type: u8,
    address: Ipv4Addr,
    server: Ipv4Addr,
    /// Options 51, 58, 59; a zero T1 or T2 is left out.
    times: [u32; 3],
    more: Vec<u8>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            message_type: 5,
            address: ADDRESSES[0],
            server: SERVERS[0],
            times: [3600, 0, 0],
            more: Vec::new(),
        }
    }
}

impl Reply {
    fn payload(&self, xid: u32) -> Vec<u8> {
        let mut payload = header(xid).to_vec();
        payload[16..20].copy_from_slice(&self.address.octets());
        payload.extend([53, 1, self.message_type, 54, 4]);
        payload.extend(self.server.octets());
        if self.message_type != 6 {
            payload.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1]);
            let times = [51, 58, 59]
                .into_iter()
                .zip(self.times)
                .filter(|(code, time)| *code == 51 || *time > 0);
            times.for_each(|(code, time)| {
                payload.extend([&[code, 4][..], &time.to_be_bytes()].concat())
            });
        }
        payload.extend(&self.more);
        payload.push(255);
        payload
    }

    fn frame(&self, xid: u32) -> Vec<u8> {
        from_server(&self.payload(xid), SERVER_MAC)
    }
}

/// Bytes as choices; when they are used up, all that follow are zero.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
