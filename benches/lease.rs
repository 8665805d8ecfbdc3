//! The time of a lease: `cargo bench --bench lease` (`-- --quick`).
//!
//! From Setup to its reply, and from Teardown to its reply once the lease is idle: one at a time,
//! then 30 and 300 at once, with the real dnsmasq, which answers at once with `--no-ping`. All
//! daemons run on one host in release builds, with the limit of open files of this bench. The exit
//! status is 1 if ours misses a target.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use smol_dhcp_proxy::rpc::Call;
use smol_dhcp_proxy::rt;

use subjects::lab::daemon::{Daemon, Unit};
use subjects::lab::topology::{LINK, Topology};
use subjects::lab::{Result, grpc};
use subjects::{
    Extent, Subject, SubjectKind, Targets, answered, dnsmasq, median, sorted, timed, unknown,
};

/// The targets for the medians of our calls, one at a time, as multiples of netavark's.
const MAX_SETUP: f64 = 1.0 / 20.0;
const MAX_TEARDOWN: f64 = 1.0 / 5.0;

fn main() -> ExitCode {
    subjects::main(
        &[SubjectKind::Ours, SubjectKind::Twin, SubjectKind::Netavark],
        run,
    )
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let (alone, crowds): (usize, &[usize]) = if extent == Extent::Full {
        (30, &[30, 300])
    } else {
        (4, &[4])
    };
    let most = crowds
        .iter()
        .copied()
        .fold(alone * subjects.len(), usize::max);
    let topology = Topology::new(u16::try_from(most)?)?;
    let _server = dnsmasq(&topology)?;
    let daemons = subjects
        .iter()
        .map(|subject| Running::start(subject, &topology))
        .collect::<Result<_>>()?;
    let lab = Lab {
        daemons,
        topology: &topology,
    };
    let mut targets = Targets::new();

    println!(
        "              calls   median ms      p90 ms  all of them ms  failed  ours / it: median"
    );
    let [setups, teardowns] = lab.one_at_a_time(alone)?;
    lab.print("Setup, one at a time", &setups);
    lab.print("Teardown, one at a time", &teardowns);
    for &crowd in crowds {
        let [setups, teardowns] = lab.at_once(crowd)?;
        lab.print(&format!("Setup, {crowd} at once"), &setups);
        lab.print(&format!("Teardown, {crowd} at once"), &teardowns);
        targets.at_most(
            &format!("failed of {crowd} Setups at once"),
            setups[0].failures.len() as f64,
            0.0,
        );
    }
    let netavark = subjects
        .iter()
        .position(|subject| subject.kind == SubjectKind::Netavark);
    for (call, rounds, most) in [
        ("Setup", &setups, MAX_SETUP),
        ("Teardown", &teardowns, MAX_TEARDOWN),
    ] {
        let what = format!("of netavark's time, {call}");
        match netavark {
            Some(netavark) => targets.at_most(
                &what,
                median(&rounds[0].times) / median(&rounds[netavark].times),
                most,
            ),
            None => targets.not_measured(&what),
        }
    }
    Ok(targets.met)
}

/// A network, and the daemons on its host.
struct Lab<'a> {
    daemons: Vec<Running<'a>>,
    topology: &'a Topology,
}

impl Lab<'_> {
    /// Measures Setups and Teardowns of that many containers for each daemon, in turns.
    fn one_at_a_time(&self, calls: usize) -> Result<[Vec<Round>; 2]> {
        let mut all = [self.no_rounds(), self.no_rounds()];
        for (rounds, kind) in all.iter_mut().zip([Kind::Setup, Kind::Teardown]) {
            for turn in 0..calls {
                for place in 0..self.daemons.len() {
                    // The order changes in each turn.
                    let number = (place + turn) % self.daemons.len();
                    // Each daemon has its own containers, because all leases exist at the same time.
                    let container = number * calls + turn;
                    rounds[number].add(self.daemons[number].call(
                        kind,
                        self.topology,
                        container..container + 1,
                    )?);
                }
            }
            self.await_rest()?;
        }
        self.remove_addresses()?;
        Ok(all)
    }

    /// Measures Setups of that many containers at once, and then Teardowns, once for each daemon and
    /// each turn.
    fn at_once(&self, calls: usize) -> Result<[Vec<Round>; 2]> {
        let mut all = [self.no_rounds(), self.no_rounds()];
        for turn in 0..self.daemons.len() {
            for place in 0..self.daemons.len() {
                // In its turn, each daemon is the first on a new network.
                let number = (place + turn) % self.daemons.len();
                for (rounds, kind) in all.iter_mut().zip([Kind::Setup, Kind::Teardown]) {
                    rounds[number].add(self.daemons[number].call(kind, self.topology, 0..calls)?);
                    self.await_rest()?;
                }
                self.remove_addresses()?;
            }
        }
        Ok(all)
    }

    fn no_rounds(&self) -> Vec<Round> {
        self.daemons.iter().map(|_| Round::default()).collect()
    }

    fn await_rest(&self) -> Result {
        self.topology
            .containers
            .iter()
            .try_for_each(|container| container.namespace.await_rest())
    }

    /// Removes the addresses that netavark's proxy leaves. Podman would remove the interface.
    fn remove_addresses(&self) -> Result {
        for container in &self.topology.containers {
            for address in container.namespace.addresses()? {
                container
                    .namespace
                    .remove_address(LINK, address.address, address.prefix)?;
            }
        }
        Ok(())
    }

    fn print(&self, what: &str, rounds: &[Round]) {
        println!("{what}");
        let ours = if rounds[0].times.is_empty() {
            f64::NAN
        } else {
            median(&rounds[0].times)
        };
        for (
            daemon,
            Round {
                times,
                wall,
                failures,
            },
        ) in self.daemons.iter().zip(rounds)
        {
            if times.is_empty() {
                continue;
            }
            let (all, wall) = (sorted(times), wall.as_secs_f64() * 1000.0);
            let (median, p90) = (median(times), all[all.len() * 9 / 10]);
            let (calls, failed) = (times.len() + failures.len(), failures.len());
            println!(
                "  {:10} {calls:6} {median:11.2} {p90:11.2} {wall:15.0} {failed:7} {:18.3}",
                daemon.subject.name,
                ours / median
            );
            if let Some(failure) = failures.first() {
                println!("    the first failure: {failure}");
            }
        }
    }
}

/// A daemon for the whole network.
struct Running<'a> {
    subject: &'a Subject,
    unit: Unit,
    _daemon: Daemon,
}

#[derive(Clone, Copy)]
enum Kind {
    Setup,
    Teardown,
}

impl<'a> Running<'a> {
    fn start(subject: &'a Subject, topology: &Topology) -> Result<Self> {
        let unit = subject.unit(&[])?;
        let daemon = unit.start(&topology.host)?;
        answered(grpc::call(&unit.socket(), &unknown(topology)))?;
        Ok(Self {
            subject,
            unit,
            _daemon: daemon,
        })
    }

    /// Calls for each container of a range, all at once.
    fn call(&self, kind: Kind, topology: &Topology, containers: Range<usize>) -> Result<Round> {
        let start = &Barrier::new(containers.len() + 1);
        thread::scope(|scope| {
            let one = |container: usize| {
                let config = topology.containers[container].config();
                scope.spawn(move || {
                    let call = match kind {
                        Kind::Setup => Call::Setup(config),
                        Kind::Teardown => Call::Teardown(config),
                    };
                    start.wait();
                    timed(|| answered(grpc::call(&self.unit.socket(), &call)).map(drop))
                })
            };
            let callers: Vec<_> = containers.map(one).collect();
            start.wait();
            let began = rt::now();
            let mut round = Round::default();
            for caller in callers {
                match caller.join().map_err(|_| "a panic of a caller")? {
                    Ok(time) => round.times.push(time),
                    Err(error) => round.failures.push(error.to_string()),
                }
            }
            round.wall = rt::now() - began;
            Ok(round)
        })
    }
}

/// The results of some calls.
#[derive(Default)]
struct Round {
    times: Vec<Duration>,
    /// From the first call to the last answer.
    wall: Duration,
    failures: Vec<String>,
}

impl Round {
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.wall += other.wall;
        self.failures.extend(other.failures);
    }
}
