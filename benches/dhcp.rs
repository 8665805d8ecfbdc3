//! The DHCP client by itself, in memory: `cargo bench --bench dhcp` (`-- --quick`, or `-- --test`
//! for one run of each).
//!
//! | question | what is timed |
//! |---|---|
//! | `parse` | a frame of a real server, headers, checksums and options, up to where it turns out to be another exchange's |
//! | `emit` | a client from nothing to its first words, a DISCOVER in a frame |
//! | `exchange` | a client from its first words to its lease, the server's words being ready |
//! | `day` | 1,000 leases of an hour, a day long: 48,000 renewals, each with the simulation's server |
//!
//! `day/resting` is what the daemon does: between two renewals there is no client, only what has to
//! be remembered.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(unreachable_pub, reason = "nothing of a bench is public")]

#[expect(dead_code, reason = "what the simulation needs besides")]
#[path = "../tests/simulation/datagrams.rs"]
mod datagrams;
#[expect(dead_code, reason = "what the simulation needs besides")]
#[path = "../tests/simulation/honest_server.rs"]
mod honest_server;
#[expect(dead_code, reason = "what the fuzzer needs besides")]
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

/// The client of the recorded frames.
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
    // The same seed at the same time makes the same transaction: what a server has answered once
    // fits again.
    let mut said = Vec::new();
    let mut container = Container::new(5);
    container.converse(START, |frame| said.push(frame.to_vec()));
    assert_eq!(said.len(), 2, "an OFFER and an ACK");

    let mut out = Vec::new();
    criterion.bench_function("exchange", |bencher| {
        bencher.iter(|| {
            let mut client = container.another();
            for frame in &said {
                while client.poll_transmit(&mut out).is_some() {}
                client
                    .handle_packet(black_box(frame), START)
                    .expect("the answer to what was said");
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

/// So many containers, a second after each other, so that not all of them renew at once; all of
/// them at rest.
fn leases() -> Vec<Container> {
    let acquired = |n| {
        let mut container = Container::new(n);
        container.converse(START, |_| ());
        // What is left of the acquisition, such as listening for others who claim the address.
        while let Some(due) = container.due().filter(|due| *due < START + HOUR / 4) {
            container.work(due);
        }
        container
    };
    (0..LEASES).map(acquired).collect()
}

/// A day of all of them, in the order in which they fall due.
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
        renewals += leases[n].work(now);
        if resting {
            leases[n].rest();
        }
        queue.extend(entry(n, &leases[n]));
    }
    assert!(renewals >= u32::from(LEASES) * 46, "{renewals} renewals");
}

/// One lease: its client, or what is remembered of it, and a server that has an address for it
/// alone.
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

    /// A client as this one's was when it was new.
    fn another(&self) -> Client {
        Client::new(config(self.mac), SEED, START)
    }

    fn due(&self) -> Option<Instant> {
        self.client
            .as_ref()
            .map_or_else(Snapshot::due, Client::poll_timeout)
    }

    /// Does what is due, and tells how many renewals that was.
    fn work(&mut self, now: Instant) -> u32 {
        if let Err(rest) = &self.client {
            self.client = Ok(Client::resume(config(self.mac), rest.clone(), SEED, now));
        }
        if let Ok(client) = &mut self.client {
            client.handle_timeout(now);
        }
        self.converse(now, |_| ())
    }

    /// Says what there is to say, hears the answers, lets `witness` have them too, and counts the
    /// renewals.
    fn converse(&mut self, now: Instant, mut witness: impl FnMut(&[u8])) -> u32 {
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
                .expect("what was asked for");
            witness(&frame);
        }
        std::iter::from_fn(|| client.poll_event())
            .map(|event| u32::from(matches!(event, Event::Renewed(_))))
            .sum()
    }

    /// Lets go of the client, where nothing is in flight.
    fn rest(&mut self) {
        if let Some(rest) = self
            .client
            .as_ref()
            .ok()
            .filter(|client| !client.is_listening())
            .and_then(Client::suspend)
        {
            self.client = Err(rest);
        }
    }
}
