//! The DHCP client by itself, in memory: `cargo bench --bench dhcp` (`-- --quick`, or `-- --test`
//! for one run of each).
//!
//! | question | what is timed |
//! |---|---|
//! | `parse` | the parser for a frame of a real server: headers, checksums, options, and the transaction id of another exchange |
//! | `emit` | a new client and its first frame, a DISCOVER |
//! | `exchange` | a client from its DISCOVER to its lease, with prepared answers |
//! | `day` | 1,000 leases of an hour for a day: 48,000 renewals, with the server of the simulation |
//!
//! `day/resting` is the way of the daemon: between two renewals there is no client, only a snapshot.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(unreachable_pub, reason = "nothing of a bench is public")]

#[expect(dead_code, reason = "the simulation uses the rest")]
#[path = "../tests/simulation/datagrams.rs"]
mod datagrams;
#[expect(dead_code, reason = "the simulation uses the rest")]
#[path = "../tests/simulation/honest_server.rs"]
mod honest_server;
#[expect(dead_code, reason = "the fuzzer uses the rest")]
#[path = "../tests/fuzz/recorded.rs"]
mod recorded;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use datagrams::{Said, read};
use honest_server::{Server, Terms};
use smol_dhcp_proxy::dhcp::{Client, Config, Event, Ignored, Snapshot};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;

const LEASES: u16 = 1000;
const HOUR: Duration = Duration::from_secs(3600);
const START: Instant = Instant::from_boot(Duration::from_secs(1000));

/// The hardware address in the recorded frames.
const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const SEED: u64 = 7;

criterion_group!(benches, parse, emit, exchange, day);
criterion_main!(benches);

fn config(mac: Mac) -> Config {
    Config::new(mac, b"\0container".to_vec())
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for name in ["dnsmasq-plain: ACK", "kea-full: ACK", "kea-long: ACK"] {
        let (_, frame) = recorded::ALL
            .iter()
            .find(|(recorded, _)| recorded == name)
            .expect("a recorded frame");
        let mut client = Client::new(config(MAC), SEED, START);
        client.poll_transmit(&mut Vec::new()).expect("a DISCOVER");
        assert_eq!(
            client.handle_packet(frame, START),
            Err(Ignored::OtherExchange),
            "{name} is read to its end"
        );
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| client.handle_packet(black_box(frame), START))
        });
    }
}

fn emit(criterion: &mut Criterion) {
    let mut out = Vec::new();
    criterion.bench_function("emit", |bencher| {
        bencher.iter(|| Client::new(config(MAC), SEED, START).poll_transmit(&mut out));
    });
}

fn exchange(criterion: &mut Criterion) {
    // The same seed at the same time has the same transaction id, so that recorded answers fit.
    let mut answers = Vec::new();
    let mut container = Container::new(5);
    container.exchange(START, |frame| answers.push(frame.to_vec()));
    assert_eq!(answers.len(), 2, "an OFFER and an ACK");

    let mut out = Vec::new();
    criterion.bench_function("exchange", |bencher| {
        bencher.iter(|| {
            let mut client = container.new_client();
            for frame in &answers {
                while client.poll_transmit(&mut out).is_some() {}
                client
                    .handle_packet(black_box(frame), START)
                    .expect("the answer to this message");
            }
            assert!(matches!(client.poll_event(), Some(Event::Bound(_))));
            client
        });
    });
}

fn day(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("day");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(u64::from(LEASES) * 48));
    group.bench_function("awake", |bencher| {
        bencher.iter_batched_ref(leases, |leases| live(leases, false), BatchSize::LargeInput)
    });
    group.bench_function("resting", |bencher| {
        bencher.iter_batched_ref(leases, |leases| live(leases, true), BatchSize::LargeInput)
    });
}

/// Returns containers with a lease and no exchange in flight.
fn leases() -> Vec<Container> {
    let acquired = |n| {
        let mut container = Container::new(n);
        container.exchange(START, |_| ());
        // The rest of the acquisition, such as the ARP announcements.
        while let Some(due) = container.due().filter(|due| *due < START + HOUR / 4) {
            container.run_due(due);
        }
        container
    };
    (0..LEASES).map(acquired).collect()
}

/// Simulates a day of all containers in the order of their deadlines.
fn live(leases: &mut [Container], resting: bool) {
    let end = START + 24 * HOUR;
    let entry = |n: usize, container: &Container| container.due().map(|due| Reverse((due, n)));
    let mut queue: BinaryHeap<_> = leases
        .iter()
        .enumerate()
        .filter_map(|(n, container)| entry(n, container))
        .collect();
    let mut renewals = 0;
    while let Some(Reverse((now, n))) = queue.pop().filter(|Reverse((due, _))| *due < end) {
        renewals += leases[n].run_due(now);
        if resting {
            leases[n].suspend();
        }
        queue.extend(entry(n, &leases[n]));
    }
    assert!(renewals >= u32::from(LEASES) * 46, "{renewals} renewals");
}

/// One lease: its client or its snapshot, and a server for this lease alone.
struct Container {
    mac: Mac,
    client: Result<Client, Snapshot>,
    server: Server,
    out: Vec<u8>,
}

impl Container {
    fn new(n: u16) -> Self {
        let [high, low] = n.to_be_bytes();
        let mac = Mac([2, 0, 0, 0, high, low]);
        let terms = Terms {
            lease: HOUR.as_secs() as u32,
            t1: None,
            t2: None,
            mtu: Some(1400),
        };
        let client = Ok(Client::new(config(mac), SEED, START));
        Self {
            mac,
            client,
            server: Server::new(0, 1, terms),
            out: Vec::new(),
        }
    }

    fn new_client(&self) -> Client {
        Client::new(config(self.mac), SEED, START)
    }

    fn due(&self) -> Option<Instant> {
        self.client
            .as_ref()
            .map_or_else(Snapshot::due, Client::poll_timeout)
    }

    /// Does the due work, and returns the number of renewals.
    fn run_due(&mut self, now: Instant) -> u32 {
        if let Err(snapshot) = &self.client {
            let (config, snapshot) = (config(self.mac), snapshot.clone());
            self.client = Ok(Client::resume(config, snapshot, SEED, now));
        }
        if let Ok(client) = &mut self.client {
            client.handle_timeout(now);
        }
        self.exchange(now, |_| ())
    }

    /// Sends all frames to the server and handles its answers, which `witness` gets too. Returns the
    /// number of renewals.
    fn exchange(&mut self, now: Instant, mut witness: impl FnMut(&[u8])) -> u32 {
        let Ok(client) = &mut self.client else {
            return 0;
        };
        while let Some(transmit) = client.poll_transmit(&mut self.out) {
            let Said::Dhcp(heard) = read(transmit, &self.out) else {
                continue;
            };
            let reply = self.server.hear(&heard, now).expect("an answer");
            let frame = reply.write(
                (self.server.mac, self.server.address),
                (self.mac, reply.yiaddr.expect("an address")),
            );
            client
                .handle_packet(&frame, now)
                .expect("the answer to this message");
            witness(&frame);
        }
        std::iter::from_fn(|| client.poll_event())
            .map(|event| u32::from(matches!(event, Event::Renewed(_))))
            .sum()
    }

    /// Replaces the client with its snapshot, if no exchange is in flight.
    fn suspend(&mut self) {
        if let Some(snapshot) = self
            .client
            .as_ref()
            .ok()
            .filter(|client| !client.is_listening())
            .and_then(Client::suspend)
        {
            self.client = Err(snapshot);
        }
    }
}
