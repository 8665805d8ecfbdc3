//! A simulation of a day: thousands of leases, servers that go away and come back, and a process
//! that exits and is started again.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

const LEASES: u16 = 2000;
const SERVERS: usize = 3;

/// A lease, as its server and its record have it.
#[derive(Clone, Debug)]
struct SimulatedLease {
    times: Times,
    t2: u64,
    length: u64,
    server: usize,
    /// When its renewal got no answer.
    silent_since: Option<u64>,
}

impl SimulatedLease {
    fn new(now: u64, length: u64, number: usize) -> Self {
        let times = Times {
            server: Some(server(number as u8)),
            ..bound(now, length)
        };
        Self {
            times,
            t2: now + length / 8 * 7,
            length,
            server: number,
            silent_since: None,
        }
    }
}

struct World {
    plan: Plan,
    leases: Vec<SimulatedLease>,
    /// Work in progress: its end, and the lease.
    work: Vec<(u64, u16)>,
    /// In seconds.
    outages: [Range<u64>; SERVERS],
    now: u64,
    starts: u32,
    requests: u32,
    requests_in_vain: u32,
    deferrals: u32,
    /// Seconds without a process.
    asleep: u64,
}

fn number_of(key: &LeaseKey) -> usize {
    usize::from(u16::from_be_bytes([key.mac.0[4], key.mac.0[5]]))
}

impl World {
    fn is_up(&self, server: usize) -> bool {
        !self.outages[server].contains(&self.now)
    }

    fn insert(&mut self, key: &LeaseKey) {
        let times = self.leases[number_of(key)].times.clone();
        self.plan.insert(key, &times, 0, at(self.now));
    }

    /// Finishes the work that is due by now.
    fn finish(&mut self) {
        let now = self.now;
        let is_over = |(end, _): &(u64, u16)| *end <= now;
        let (over, under_way) = std::mem::take(&mut self.work)
            .into_iter()
            .partition(is_over);
        self.work = under_way;
        for (_, number) in over {
            self.requests += 1;
            let server_number = self.leases[usize::from(number)].server;
            if self.is_up(server_number) {
                self.renew(usize::from(number));
            } else {
                self.find_silence(number);
            }
            self.insert(&key(number));
        }
    }

    fn renew(&mut self, number: usize) {
        let (
            now,
            SimulatedLease {
                length, server: of, ..
            },
        ) = (self.now, self.leases[number].clone());
        self.leases[number] = SimulatedLease::new(now, length, of);
        for key in self.plan.mark_responsive(&server(of as u8), at(now)) {
            let times = &mut self.leases[number_of(&key)].times;
            assert!(times.due > times.t1, "it had been put off");
            times.due = times.t1;
            self.insert(&key);
        }
    }

    fn find_silence(&mut self, number: u16) {
        let now = self.now;
        self.requests_in_vain += 1;
        let lease = &mut self.leases[usize::from(number)];
        lease.times = Times {
            is_bound: false,
            is_unanswered: true,
            may_renew_from: None,
            due: Some(at(now + (lease.t2.saturating_sub(now) / 2).max(60))),
            ..lease.times.clone()
        };
        lease.silent_since = Some(now);
        let server = server(lease.server as u8);
        self.plan
            .mark_unresponsive(&server, key(number).mac, at(now), at(now));
    }

    /// Does all that the plan hands out. Returns its last action.
    fn drain(&mut self) -> Action {
        let now = at(self.now);
        for _ in 0..2 * u32::from(LEASES) {
            match self.plan.poll(now) {
                Action::Wake { key, turn } => {
                    let lease = &self.leases[number_of(&key)];
                    let from = lease.times.may_renew_from.or(lease.times.due);
                    assert!(from.is_some_and(|from| from <= now), "too early: {lease:?}");
                    assert!(turn >= now && turn - now < Duration::from_secs(120));
                    let takes = if self.is_up(lease.server) { 1 } else { 11 };
                    let end = self.now + (turn - now).as_secs() + takes;
                    self.work.push((end, number_of(&key) as u16));
                }
                Action::Defer { key, until } => {
                    let times = &mut self.leases[number_of(&key)].times;
                    let (t1, t2) = (times.t1.unwrap(), times.deadline.unwrap());
                    assert!(until > now && until <= t1 + (t2 - t1) / 2, "{times:?}");
                    times.due = Some(until);
                    self.deferrals += 1;
                    self.insert(&key);
                }
                end => return end,
            }
        }
        panic!("it does not come to an end");
    }

    /// Starts a process that restores all leases.
    fn start(&mut self) {
        self.starts += 1;
        self.plan = Plan::new(Duration::from_secs(5));
        self.plan.set_can_sleep(true);
        for number in 0..LEASES {
            let lease = &self.leases[usize::from(number)];
            if let Some(since) = lease.silent_since {
                let (server, mac) = (server(lease.server as u8), key(number).mac);
                self.plan
                    .mark_unresponsive(&server, mac, at(since), at(self.now));
            }
            self.insert(&key(number));
        }
    }

    /// Advances to the next event.
    fn step(&mut self) {
        self.finish();
        let said = self.drain();
        let next = match said {
            Action::SleepUntil {
                at: until,
                fallback,
            } => {
                assert!(self.work.is_empty(), "asleep while it works");
                let until = until.expect("leases have an end");
                assert!(until - at(self.now) > MIN_TIMER_LEAD);
                assert!(fallback.is_none_or(|fallback| fallback > until));
                self.asleep += (until - at(self.now)).as_secs();
                Some((until - at(0)).as_secs())
            }
            _ => {
                let work = self.work.iter().map(|(end, _)| *end);
                let due = self.plan.poll_timeout().map(|due| (due - at(0)).as_secs());
                work.chain(due).min()
            }
        };
        self.now = next.expect("something comes next").max(self.now + 1);
        if let Action::SleepUntil { .. } = said {
            self.start();
        }
    }
}

fn run(lengths: &[u64], outages: [Range<u64>; SERVERS], end: u64) -> World {
    let lease = |number: u16| {
        let length = lengths[usize::from(number) % lengths.len()];
        SimulatedLease::new(u64::from(number), length, usize::from(number) % SERVERS)
    };
    let mut world = World {
        plan: Plan::new(Duration::ZERO),
        leases: (0..LEASES).map(lease).collect(),
        work: Vec::new(),
        outages,
        now: 0,
        starts: 0,
        requests: 0,
        requests_in_vain: 0,
        deferrals: 0,
        asleep: 0,
    };
    world.start();
    while world.now < end {
        world.step();
    }
    world
}

#[test]
fn two_thousand_leases_for_a_day_start_few_processes() {
    let world = run(&[HOUR, 2 * HOUR, 12 * HOUR], [0..0, 0..0, 0..0], 24 * HOUR);
    // Without batches a renewal would be due every few seconds, and the process could not exit.
    let (starts, asleep) = (world.starts, world.asleep);
    assert!(
        starts < 500 && asleep > 24 * HOUR * 9 / 10,
        "{starts} starts, asleep for {asleep} s"
    );
    let requests = world.requests;
    assert!(requests < 90_000, "{requests} requests");
    assert_eq!(world.requests_in_vain, 0);
}

#[test]
fn an_outage_costs_few_requests_and_no_lease() {
    // Short leases, so that several batches fall into one hold-off.
    let world = run(&[600], [250..450, 0..0, 0..0], 600);
    let (in_vain, deferrals) = (world.requests_in_vain, world.deferrals);
    assert!(
        (2..55).contains(&in_vain) && deferrals > 20,
        "{in_vain} requests in vain, {deferrals} put off"
    );
    for lease in &world.leases {
        assert!(lease.times.is_bound && lease.t2 > world.now, "{lease:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 6,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_it_comes_to_an_end_and_keeps_its_promises(
        lengths in proptest::collection::vec(600_u64..100_000, 1..6),
        starts in proptest::array::uniform3(0_u64..8000),
        outages in proptest::array::uniform3(0_u64..5000),
    ) {
        let outage = |number: usize| starts[number]..starts[number] + outages[number];
        run(&lengths, std::array::from_fn(outage), 10_000);
    }
}
