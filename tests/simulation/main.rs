//! Simulated weeks of clients, servers and troubles on a virtual network, by the hundred thousand.
//!
//! `cargo test --test simulation` lives through 2,000 of them, and `tests/run` through a hundred
//! thousand (`RUNS=100000`, with an optimized library). `SEED=7` tells all that happens in the run
//! of that number.
#![cfg(feature = "proxy")]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "nothing of a test is public, and it may talk and fail"
)]

mod chance;
mod codec;
mod coverage;
mod datagrams;
mod deaf;
mod honest_server;
mod hostile_server;
mod manners;
mod network;
mod referee;
mod scenario;
mod spread;
mod trouble;
mod world;

use coverage::Coverage;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use world::World;

/// Runs unless `RUNS` says otherwise.
const RUNS: u64 = 2000;
/// How often each thing happens in each state, in so many runs.
const OFTEN: u64 = 1000;
const RUNS_FOR_COVERAGE: u64 = 100_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

#[test]
fn weeks() {
    if let Some(seed) = number("SEED") {
        return World::new(seed, true).run();
    }
    let runs = number("RUNS").unwrap_or(RUNS);
    let coverage = live_through(runs);
    // Not by println!, which cargo keeps to itself while the test passes.
    let mut out = std::io::stdout();
    writeln!(out, "{}", coverage.table()).unwrap();
    writeln!(
        out,
        "{runs} runs: {} leases acquired, {} renewals, {} leases lost, {} clients gave up; {} messages, at most {} in an hour",
        coverage.acquired, coverage.renewed, coverage.lost, coverage.gave_up, coverage.messages, coverage.busiest
    )
    .unwrap();
    if runs >= RUNS_FOR_COVERAGE {
        assert_eq!(
            coverage.rarer_than(OFTEN),
            [],
            "pairs of state and event that are too rare"
        );
    }
}

/// All runs from 0 on, on all processors.
fn live_through(runs: u64) -> Coverage {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Coverage::default());
    let worker = || {
        let mut coverage = Coverage::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= runs {
                break;
            }
            let run = || {
                let mut world = World::new(seed, false);
                world.run();
                world.coverage
            };
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(counted) => coverage.add(&counted),
                Err(_) => {
                    failed.store(true, Ordering::Relaxed);
                    panic!(
                        "run {seed} failed: SEED={seed} cargo test --test simulation tells what happens in it"
                    );
                }
            }
        }
        total.lock().unwrap().add(&coverage);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(worker);
        }
    });
    total.into_inner().unwrap()
}
