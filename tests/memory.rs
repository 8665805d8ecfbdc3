//! The memory of a thousand leases in weeks of renewals: the same at their end as at their beginning.
//! There are four weeks, or `WEEKS`; `tests/run` has a year of them.
//!
//! One test in a program of its own, because it counts every allocation of the process.
#![cfg(feature = "proxy")]
#![expect(unreachable_pub, reason = "nothing of a test is public")]

#[expect(dead_code, reason = "what the simulation needs besides")]
#[path = "simulation/datagrams.rs"]
mod datagrams;
#[expect(dead_code, reason = "what the simulation needs besides")]
#[path = "simulation/honest_server.rs"]
mod honest_server;

use datagrams::{Said, read};
use honest_server::{Server, Terms};
use smol_dhcp_proxy::dhcp::{Client, Config, Event};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::io::Write;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LEASES: u32 = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes that are in use.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// One container: its client, and a server that has an address for it alone.
struct Container {
    mac: Mac,
    client: Client,
    server: Server,
    now: Instant,
    /// The bytes allocated by the server's side.
    foreign: usize,
}

impl Container {
    fn new(n: u32) -> Self {
        let [_, _, high, low] = n.to_be_bytes();
        let (mac, now) = (
            Mac([2, 0, 0, 0, high, low]),
            Instant::from_boot(Duration::from_secs(1000)),
        );
        let id = format!("\0container {n}").into_bytes();
        let terms = Terms {
            lease: DAY.as_secs() as u32,
            t1: None,
            t2: None,
            mtu: Some(1400),
        };
        let mut server = Server::new(0, 1, terms);
        server.rapid = n.is_multiple_of(2);
        Self {
            mac,
            client: Client::new(Config::new(mac, id), u64::from(n), now),
            server,
            now,
            foreign: 0,
        }
    }

    /// Says and hears what there is to be said and heard at this moment, and counts the renewals
    /// among it.
    fn converse(&mut self) -> u32 {
        let (mut buffer, mut renewals) = (Vec::new(), 0);
        while let Some(transmit) = self.client.poll_transmit(&mut buffer) {
            let Said::Dhcp(heard) = read(transmit, &buffer) else {
                continue;
            };
            let before = ALLOCATOR.stats().allocations;
            let reply = self.server.hear(&heard, self.now).expect("an answer");
            let to = (self.mac, reply.yiaddr.expect("an address"));
            let frame = reply.write((self.server.mac, self.server.address), to);
            self.foreign += ALLOCATOR.stats().allocations - before;
            self.client
                .handle_packet(&frame, self.now)
                .expect("what was asked for");
        }
        while let Some(event) = self.client.poll_event() {
            renewals += u32::from(matches!(event, Event::Renewed(_)));
            assert!(
                matches!(event, Event::Bound(_) | Event::Renewed(_)),
                "{event:?}"
            );
        }
        renewals
    }

    fn live_until(&mut self, end: Instant) -> u32 {
        let mut renewals = 0;
        while let Some(due) = self.client.poll_timeout().filter(|due| *due < end) {
            self.now = due;
            self.client.handle_timeout(due);
            renewals += self.converse();
        }
        renewals
    }
}

#[test]
fn a_thousand_leases_for_weeks() {
    let weeks = std::env::var("WEEKS").map_or(4, |weeks| weeks.parse().expect("a number of weeks"));
    let days = 7 * weeks;
    let before = live();
    let mut containers: Vec<_> = (0..LEASES).map(Container::new).collect();
    for container in &mut containers {
        container.converse();
        // Until nothing is left of the acquisition.
        container.live_until(Instant::from_boot(Duration::from_secs(2000)));
        assert!(container.client.lease().is_some());
    }
    containers
        .iter_mut()
        .for_each(|container| container.foreign = 0);
    let (start, allocations) = (live(), ALLOCATOR.stats().allocations);
    let end = Instant::from_boot(Duration::from_secs(2000) + DAY * days);
    let renewals: u32 = containers
        .iter_mut()
        .map(|container| container.live_until(end))
        .sum();
    let (finish, allocations) = (live(), ALLOCATOR.stats().allocations - allocations);

    let foreign: usize = containers.iter().map(|container| container.foreign).sum();
    let each = (allocations - foreign) as f64 / f64::from(renewals);
    let mut out = std::io::stdout();
    let each_lease = (start - before) / LEASES as usize;
    writeln!(
        out,
        "{LEASES} leases: {each_lease} bytes each with their servers"
    )
    .expect("a place to write to");
    writeln!(
        out,
        "{renewals} renewals in {days} days, {each:.1} allocations by the client in each"
    )
    .expect("the same");
    writeln!(out, "live bytes at the start {start}, at the end {finish}").expect("the same");
    assert!(
        renewals >= LEASES * 2 * (days - 1),
        "the leases were not renewed"
    );
    assert_eq!(start, finish, "memory grows, or shrinks");
}
