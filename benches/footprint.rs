//! The memory and time that leases take, ours beside the others: `cargo bench --bench footprint`
//! (`-- --quick`).
//!
//! | question | how it is answered |
//! |---|---|
//! | what is there | bytes without symbols; crates |
//! | what do leases hold | each by itself gets 1, 10, 100, 1,000 leases from the real dnsmasq, for containers with a macvlan in a namespace each, and is looked at when it is at rest |
//! | does it sleep | all of them, asked once and left alone: context switches in 15 s |
//! | what does a renewal cost | all of them with a few leases of 20 s, T1 at 5 s: time of the processor by renewal that the server heard; udhcpc's does not count its script |
//!
//! The tables are Markdown, for benches/README.md; the figures over leases go to
//! target/bench-results/footprint.csv, for benches/plots. The exit code is 1 where ours misses what
//! was promised.

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
use figures::Held;
use holder::{Holder, Program};
use subjects::lab::Result;
use subjects::lab::dhcp_server::{Server, Settings};
use subjects::lab::topology::{SERVER_LINK, Topology};
use subjects::{Extent, Kin, Promises, Subject};

/// Bytes in the kB of /proc.
const KB: f64 = 1024.0;

fn main() -> ExitCode {
    subjects::main(&[Kin::Ours, Kin::Static, Kin::Twin, Kin::Netavark], run)
}

/// How much of it is measured.
struct Scale {
    /// How many leases there are, one figure after the other.
    leases: &'static [usize],
    idle: Duration,
    /// How long nothing changes before memory is looked at.
    steady: Duration,
    /// With how many leases renewals are measured, and for how long.
    renewing: u16,
    renewals: Duration,
}

impl Scale {
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

/// One program and what was found out about it.
struct Row {
    program: Program,
    size: u64,
    crates: Option<usize>,
    /// Before the first lease, and with as many as the scale says.
    held: Vec<Held>,
    /// While nothing happens; nothing where there is no process without a lease.
    switches: Option<u64>,
    /// Of the processor, by renewal; nothing where there was none.
    renewal: Option<Duration>,
}

impl Row {
    fn new(program: Program) -> Result<Self> {
        let size = subjects::stripped_size(program.path())?;
        let crates = match &program {
            Program::Proxy(subject) => figures::crates(subject.kin),
            Program::Cni(_) | Program::Udhcpc(_) => None,
        };
        Ok(Self {
            program,
            size,
            crates,
            held: Vec::new(),
            switches: None,
            renewal: None,
        })
    }
}

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let scale = Scale::of(extent);
    let programs = subjects
        .iter()
        .cloned()
        .map(Program::Proxy)
        .chain(Program::others());
    let mut rows = programs.map(Row::new).collect::<Result<Vec<_>>>()?;
    for row in &mut rows {
        row.held = held(&row.program, &scale)?;
        eprintln!(
            "{}: looked at with up to {} leases",
            row.program.name(),
            scale.leases[scale.leases.len() - 1]
        );
    }
    rest_and_renew(&mut rows, &scale)?;
    println!("{}", table(&rows, &scale));
    if extent == Extent::Full {
        fs::write(subjects::results("footprint.csv")?, csv(&rows, &scale))?;
    }
    Ok(promises(&rows, &scale))
}

/// What a program holds before the first lease and with so many, one figure after the other.
fn held(program: &Program, scale: &Scale) -> Result<Vec<Held>> {
    let leases = scale.leases;
    let topology = Topology::new(u16::try_from(leases[leases.len() - 1])?)?;
    // Leases of an hour: nothing is renewed while we look.
    let _server = subjects::dnsmasq(&topology)?;
    let holder = Holder::start(program, &topology)?;
    let (mut all, mut have) = (vec![holder.held(scale.steady)?], 0);
    for &most in leases {
        holder.lease(have, most)?;
        all.push(holder.held(scale.steady)?);
        have = most;
    }
    Ok(all)
}

/// All of them beside each other, each in a network of its own, first without a lease and then with
/// some.
fn rest_and_renew(rows: &mut [Row], scale: &Scale) -> Result {
    let networks = rows
        .iter()
        .map(|_| Topology::new(scale.renewing))
        .collect::<Result<Vec<_>>>()?;
    // dnsmasq gives no lease of less than two minutes, and udhcpc knows no T1 but half of the
    // lease.
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

    // What the first call left to do, and the deadlines that it set and did not need, take a
    // moment.
    sleep(scale.idle.min(Duration::from_secs(3)));
    let before = over(&holders)?;
    sleep(scale.idle);
    let after = over(&holders)?;
    let idle: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before)
        .collect();

    for holder in &holders {
        holder.lease(0, scale.renewing.into())?;
    }
    let spent = || -> Result<Vec<_>> {
        let one = |(holder, server): (&Holder<'_>, _)| {
            Ok((holder.sum(figures::processor_time)?, renewals(server)))
        };
        holders.iter().zip(&servers).map(one).collect()
    };
    let before_renewals = spent()?;
    sleep(scale.renewals);
    let after_renewals = spent()?;

    for (row, ((before, idle), (start, end))) in rows.iter_mut().zip(
        before
            .iter()
            .zip(idle)
            .zip(before_renewals.iter().zip(after_renewals)),
    ) {
        // Without a process there are no switches.
        row.switches = (*before > 0).then_some(idle);
        let renewals = u32::try_from(end.1.saturating_sub(start.1))?;
        row.renewal = (end.0 - start.0).checked_div(renewals);
    }
    Ok(())
}

/// How many renewals a server has heard: who asks for a new lease has no address yet.
fn renewals(server: &Server) -> usize {
    let requests = server.heard_of(MessageType::Request);
    requests
        .iter()
        .filter(|heard| !heard.message.ciaddr().is_unspecified())
        .count()
}

/// A name, and how to find the figure among those of one moment.
type Figure = (&'static str, fn(&Held) -> u64);

/// Those that are told for each number of leases,
const GROWING: [Figure; 2] = [
    ("Pss, kB", |held| held.proportional),
    ("RssAnon, kB", |held| held.anonymous),
];
/// and those for none and for the most.
const OTHERS: [Figure; 4] = [
    ("Private_Dirty, kB", |held| held.dirty),
    ("Rss, kB", |held| held.resident),
    ("threads", |held| held.threads),
    ("descriptors", |held| held.descriptors),
];

/// A table for benches/README.md.
fn table(rows: &[Row], scale: &Scale) -> String {
    let mut text = String::new();
    let mut line = |name: &str, cells: Vec<String>| {
        // Nothing can go wrong when writing to a string.
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
    let last = scale.leases.len();
    for (name, figure) in GROWING {
        for (place, leases) in [0].iter().chain(scale.leases).enumerate() {
            line(
                &format!("{name}, {}", count(*leases)),
                each(&|row| grouped(figure(&row.held[place]))),
            );
        }
    }
    for (name, figure) in OTHERS {
        for (place, leases) in [0].iter().chain(scale.leases).enumerate() {
            line(
                &format!("{name}, {}", count(*leases)),
                each(&|row| grouped(figure(&row.held[place]))),
            );
        }
    }
    let (from, to) = (scale.leases[last - 2], scale.leases[last - 1]);
    for (name, figure) in GROWING.into_iter().chain(OTHERS.into_iter().rev().take(2)) {
        line(
            &format!(
                "{name} by lease, from {} to {}",
                grouped(from as u64),
                grouped(to as u64)
            ),
            each(&|row| format!("{:.2}", growth(row, scale, figure))),
        );
    }
    let name = format!("RssAnon, kB by lease, from idle to {}", grouped(to as u64));
    line(
        &name,
        each(&|row| format!("{:.2}", growth_from_idle(row, scale))),
    );
    line(
        &format!("context switches in {} s idle", scale.idle.as_secs()),
        each(&|row| or_dash(row.switches.map(|switches| switches.to_string()))),
    );
    line(
        "CPU by renewal, µs",
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

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1000),
    }
}

/// By how much a figure grows with each lease, between the last two looks.
fn growth(row: &Row, scale: &Scale, figure: fn(&Held) -> u64) -> f64 {
    let last = scale.leases.len();
    let leases = scale.leases[last - 1] - scale.leases[last - 2];
    (figure(&row.held[last]) as f64 - figure(&row.held[last - 1]) as f64) / leases as f64
}

/// By how much `RssAnon` grows with each lease, all that the first ones need once among it.
fn growth_from_idle(row: &Row, scale: &Scale) -> f64 {
    let last = scale.leases.len();
    (row.held[last].anonymous as f64 - row.held[0].anonymous as f64) / scale.leases[last - 1] as f64
}

fn csv(rows: &[Row], scale: &Scale) -> String {
    let mut text =
        "subject,leases,pss_kb,rss_anon_kb,private_dirty_kb,threads,descriptors\n".to_owned();
    for row in rows {
        for (leases, held) in [0].iter().chain(scale.leases).zip(&row.held) {
            let Held {
                proportional,
                anonymous,
                dirty,
                threads,
                descriptors,
                ..
            } = held;
            let name = row.program.name();
            let _ = writeln!(
                text,
                "{name},{leases},{proportional},{anonymous},{dirty},{threads},{descriptors}"
            );
        }
    }
    text
}

/// What was promised of ours, and whether it was kept.
fn promises(rows: &[Row], scale: &Scale) -> bool {
    let mut promises = Promises::new();
    let of = |kin: Kin| {
        rows.iter()
            .find(|row| matches!(&row.program, Program::Proxy(subject) if subject.kin == kin))
    };
    let last = scale.leases.len();
    if let Some(ours) = of(Kin::Ours) {
        let anonymous: fn(&Held) -> u64 = |held| held.anonymous;
        promises.at_most("kB stripped", ours.size as f64 / 1000.0, 900.0);
        promises.at_most(
            "MB Pss, idle",
            ours.held[0].proportional as f64 * KB / 1e6,
            1.3,
        );
        promises.at_most("kB RssAnon, idle", ours.held[0].anonymous as f64, 260.0);
        promises.at_most(
            "kB RssAnon by lease, among many",
            growth(ours, scale, anonymous),
            1.0,
        );
        promises.at_most(
            "kB RssAnon by lease, from idle",
            growth_from_idle(ours, scale),
            1.0,
        );
        let most = format!("MB RssAnon with {}", count(scale.leases[last - 1]));
        promises.at_most(&most, ours.held[last].anonymous as f64 * KB / 1e6, 2.0);
        promises.at_most(
            "descriptors by lease",
            growth(ours, scale, |held| held.descriptors),
            0.0,
        );
        promises.at_most(
            "context switches, idle",
            ours.switches.unwrap_or_default() as f64,
            0.0,
        );
    }
    if let Some(row) = of(Kin::Static) {
        promises.at_most(
            "MB Rss of the static one, idle",
            row.held[0].resident as f64 * KB / 1e6,
            1.0,
        );
    }
    promises.kept
}
