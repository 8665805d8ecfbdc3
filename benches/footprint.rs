//! The memory and processor time of leases, ours beside other programs: `cargo bench --bench
//! footprint` (`-- --quick`).
//!
//! | figure | measurement |
//! |---|---|
//! | size | bytes without symbols; crates |
//! | memory of leases | each program alone gets 1, 10, 100, 1,000 leases from the real dnsmasq, for containers with a macvlan in a namespace each, and is measured when it is idle |
//! | idle wakes | all programs after one call: context switches in 15 s |
//! | renewals | all programs with a few leases of 20 s and T1 at 5 s: processor time for each renewal that the server received, without udhcpc's script |
//!
//! The table is Markdown, for benches/README.md. The figures by leases go to
//! target/bench-results/footprint.csv, for benches/plots. The exit status is 1 if ours misses a
//! target.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its purpose"
)]
#![expect(unreachable_pub, reason = "nothing of a bench is public")]

#[path = "footprint/figures.rs"]
mod figures;
#[path = "footprint/holder.rs"]
mod holder;
mod subjects;

use std::fmt::Write;
use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dhcproto::v4::MessageType;
use figures::Usage;
use holder::{Holder, Program};
use subjects::lab::Result;
use subjects::lab::dhcp_server::{Server, Settings};
use subjects::lab::topology::{SERVER_LINK, Topology};
use subjects::{Extent, Subject, SubjectKind, Targets};

/// The bytes in a kB of /proc.
const KB: f64 = 1024.0;

fn main() -> ExitCode {
    subjects::main(&SubjectKind::ALL, run)
}

/// The numbers of leases, and the times of the measurements.
struct Workload {
    /// The numbers of leases for memory, in increasing order.
    leases: &'static [usize],
    idle: Duration,
    /// The time without a change before memory is read.
    steady: Duration,
    /// The number of leases for renewals, and their time.
    renewing: u16,
    renewals: Duration,
}

impl Workload {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Full => Self {
                leases: &[1, 10, 100, 1000],
                idle: Duration::from_secs(15),
                steady: Duration::from_secs(3),
                renewing: 30,
                renewals: Duration::from_secs(30),
            },
            Extent::Quick => Self {
                leases: &[1, 4],
                idle: Duration::from_secs(1),
                steady: Duration::ZERO,
                renewing: 1,
                renewals: Duration::from_secs(4),
            },
        }
    }
}

/// A program and its figures.
struct Row {
    program: Program,
    size: u64,
    crates: Option<usize>,
    /// Without a lease, and with each number of leases.
    usage: Vec<Usage>,
    /// Context switches while idle; `None` if there is no process without a lease.
    switches: Option<u64>,
    /// Processor time for each renewal; `None` if there was none.
    renewal: Option<Duration>,
}

impl Row {
    fn new(program: Program) -> Result<Self> {
        let size = subjects::stripped_size(program.path())?;
        let crates = match &program {
            Program::Proxy(subject) => figures::crates(subject.kind),
            Program::Cni(_) | Program::Udhcpc(_) => None,
        };
        Ok(Self {
            program,
            size,
            crates,
            usage: Vec::new(),
            switches: None,
            renewal: None,
        })
    }
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let workload = Workload::of(extent);
    let programs = subjects
        .iter()
        .cloned()
        .map(Program::Proxy)
        .chain(Program::others());
    let mut rows = programs.map(Row::new).collect::<Result<Vec<_>>>()?;
    for row in &mut rows {
        row.usage = usage(&row.program, &workload)?;
        eprintln!(
            "{}: measured with up to {} leases",
            row.program.name(),
            workload.leases[workload.leases.len() - 1]
        );
    }
    idle_and_renew(&mut rows, &workload)?;
    println!("{}", table(&rows, &workload));
    if extent == Extent::Full {
        fs::write(subjects::results("footprint.csv")?, csv(&rows, &workload))?;
    }
    Ok(check_targets(&rows, &workload))
}

/// Measures a program without a lease, and with each number of leases.
fn usage(program: &Program, workload: &Workload) -> Result<Vec<Usage>> {
    let leases = workload.leases;
    let topology = Topology::new(u16::try_from(leases[leases.len() - 1])?)?;
    // Leases of an hour: no renewal is due during the measurement.
    let _server = subjects::dnsmasq(&topology)?;
    let holder = Holder::start(program, &topology)?;
    let (mut all, mut have) = (vec![holder.usage(workload.steady)?], 0);
    for &most in leases {
        holder.lease(have, most)?;
        all.push(holder.usage(workload.steady)?);
        have = most;
    }
    Ok(all)
}

/// Measures all programs at the same time, each in its own network, first without a lease and then
/// with some.
fn idle_and_renew(rows: &mut [Row], workload: &Workload) -> Result {
    let networks = rows
        .iter()
        .map(|_| Topology::new(workload.renewing))
        .collect::<Result<Vec<_>>>()?;
    // dnsmasq has no lease shorter than two minutes, and T1 of udhcpc is always half of the lease.
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(20),
        t1: Some(seconds(5)),
        t2: Some(seconds(15)),
        ..Settings::default()
    };
    let start = |network: &Topology| Server::start(&network.server, SERVER_LINK, settings.clone());
    let servers = networks.iter().map(start).collect::<Result<Vec<_>>>()?;
    let pairs = rows.iter().zip(&networks);
    let holders = pairs
        .map(|(row, network)| Holder::start(&row.program, network))
        .collect::<Result<Vec<_>>>()?;
    let over = |holders: &[Holder<'_>]| -> Result<Vec<_>> {
        holders
            .iter()
            .map(|holder| holder.sum(|process| process.context_switches()))
            .collect()
    };

    // The rest of the first call's work, and its unused deadlines, take a moment.
    sleep(workload.idle.min(Duration::from_secs(3)));
    let before = over(&holders)?;
    sleep(workload.idle);
    let after = over(&holders)?;
    let idle: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before)
        .collect();

    for holder in &holders {
        holder.lease(0, workload.renewing.into())?;
    }
    let spent = || -> Result<Vec<_>> {
        let one = |(holder, server): (&Holder<'_>, _)| {
            Ok((holder.sum(figures::processor_time)?, renewals(server)))
        };
        holders.iter().zip(&servers).map(one).collect()
    };
    let before_renewals = spent()?;
    sleep(workload.renewals);
    let after_renewals = spent()?;

    for (row, ((before, idle), (start, end))) in rows.iter_mut().zip(
        before
            .iter()
            .zip(idle)
            .zip(before_renewals.iter().zip(after_renewals)),
    ) {
        // Zero before means that there is no process.
        row.switches = (*before > 0).then_some(idle);
        let renewals = u32::try_from(end.1.saturating_sub(start.1))?;
        row.renewal = (end.0 - start.0).checked_div(renewals);
    }
    Ok(())
}

/// Counts the renewals that a server has received: a REQUEST for a new lease has no `ciaddr`.
fn renewals(server: &Server) -> usize {
    let requests = server.heard_of(MessageType::Request);
    requests
        .iter()
        .filter(|heard| !heard.message.ciaddr().is_unspecified())
        .count()
}

/// The name of a figure, and its value.
type Figure = (&'static str, fn(&Usage) -> u64);

/// The figures of memory that grow with leases.
const GROWING: [Figure; 2] = [
    ("Pss, kB", |usage| usage.proportional),
    ("RssAnon, kB", |usage| usage.anonymous),
];
/// The other figures.
const OTHERS: [Figure; 4] = [
    ("Private_Dirty, kB", |usage| usage.dirty),
    ("Rss, kB", |usage| usage.resident),
    ("threads", |usage| usage.threads),
    ("descriptors", |usage| usage.descriptors),
];

/// Returns the table for benches/README.md.
fn table(rows: &[Row], workload: &Workload) -> String {
    let mut text = String::new();
    let mut line = |name: &str, cells: Vec<String>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    };
    let each = |cell: &dyn Fn(&Row) -> String| rows.iter().map(cell).collect::<Vec<_>>();
    let or_dash = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());

    line("", each(&|row| row.program.name().to_owned()));
    line("---", each(&|_| "---:".to_owned()));
    line(
        "stripped, kB of 1000",
        each(&|row| grouped(row.size / 1000)),
    );
    line(
        "crates",
        each(&|row| or_dash(row.crates.map(|crates| crates.to_string()))),
    );
    let last = workload.leases.len();
    for (name, figure) in GROWING.into_iter().chain(OTHERS) {
        for (place, leases) in [0].iter().chain(workload.leases).enumerate() {
            line(
                &format!("{name}, {}", count(*leases)),
                each(&|row| grouped(figure(&row.usage[place]))),
            );
        }
    }
    let (from, to) = (workload.leases[last - 2], workload.leases[last - 1]);
    for (name, figure) in GROWING.into_iter().chain(OTHERS.into_iter().rev().take(2)) {
        line(
            &format!(
                "{name} per lease, from {} to {}",
                grouped(from as u64),
                grouped(to as u64)
            ),
            each(&|row| format!("{:.2}", growth(row, workload, figure))),
        );
    }
    let name = format!("RssAnon, kB per lease, from idle to {}", grouped(to as u64));
    line(
        &name,
        each(&|row| format!("{:.2}", growth_from_idle(row, workload))),
    );
    line(
        &format!("context switches in {} s idle", workload.idle.as_secs()),
        each(&|row| or_dash(row.switches.map(|switches| switches.to_string()))),
    );
    line(
        "CPU per renewal, µs",
        each(&|row| {
            row.renewal.map_or_else(
                || "none renewed".to_owned(),
                |time| grouped(time.as_micros() as u64),
            )
        }),
    );
    text
}

fn count(leases: usize) -> String {
    match leases {
        0 => "idle".to_owned(),
        1 => "1 lease".to_owned(),
        _ => format!("{} leases", grouped(leases as u64)),
    }
}

/// Returns a number with thousands separators.
fn grouped(number: u64) -> String {
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1000),
    }
}

/// Returns the growth of a figure per lease, between the last two numbers of leases.
fn growth(row: &Row, workload: &Workload, figure: fn(&Usage) -> u64) -> f64 {
    let last = workload.leases.len();
    let leases = workload.leases[last - 1] - workload.leases[last - 2];
    (figure(&row.usage[last]) as f64 - figure(&row.usage[last - 1]) as f64) / leases as f64
}

/// Returns the growth of `RssAnon` per lease since idle, with the one-time costs of the first leases.
fn growth_from_idle(row: &Row, workload: &Workload) -> f64 {
    let last = workload.leases.len();
    (row.usage[last].anonymous as f64 - row.usage[0].anonymous as f64)
        / workload.leases[last - 1] as f64
}

fn csv(rows: &[Row], workload: &Workload) -> String {
    let mut text =
        "subject,leases,pss_kb,rss_anon_kb,private_dirty_kb,threads,descriptors\n".to_owned();
    for row in rows {
        for (leases, usage) in [0].iter().chain(workload.leases).zip(&row.usage) {
            let Usage {
                proportional,
                anonymous,
                dirty,
                threads,
                descriptors,
                ..
            } = usage;
            let name = row.program.name();
            let _ = writeln!(
                text,
                "{name},{leases},{proportional},{anonymous},{dirty},{threads},{descriptors}"
            );
        }
    }
    text
}

/// Compares ours with its targets. Returns whether all are met.
fn check_targets(rows: &[Row], workload: &Workload) -> bool {
    let mut targets = Targets::new();
    let of = |kind: SubjectKind| {
        rows.iter()
            .find(|row| matches!(&row.program, Program::Proxy(subject) if subject.kind == kind))
    };
    let last = workload.leases.len();
    if let Some(ours) = of(SubjectKind::Ours) {
        let anonymous: fn(&Usage) -> u64 = |usage| usage.anonymous;
        targets.at_most("kB stripped", ours.size as f64 / 1000.0, 900.0);
        targets.at_most(
            "MB Pss, idle",
            ours.usage[0].proportional as f64 * KB / 1e6,
            1.3,
        );
        targets.at_most("kB RssAnon, idle", ours.usage[0].anonymous as f64, 260.0);
        targets.at_most(
            "kB RssAnon per lease, among many",
            growth(ours, workload, anonymous),
            1.0,
        );
        targets.at_most(
            "kB RssAnon per lease, from idle",
            growth_from_idle(ours, workload),
            1.0,
        );
        let most = format!("MB RssAnon with {}", count(workload.leases[last - 1]));
        targets.at_most(&most, ours.usage[last].anonymous as f64 * KB / 1e6, 2.0);
        targets.at_most(
            "descriptors per lease",
            growth(ours, workload, |usage| usage.descriptors),
            0.0,
        );
        targets.at_most(
            "context switches, idle",
            ours.switches.unwrap_or_default() as f64,
            0.0,
        );
    }
    if let Some(row) = of(SubjectKind::Static) {
        targets.at_most(
            "MB Rss of the static build, idle",
            row.usage[0].resident as f64 * KB / 1e6,
            1.0,
        );
    }
    targets.met
}
