//! Many callers at once while the daemon is killed every now and then: nothing is lost, and nothing
//! is left behind.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use crate::lab::chance::Chance;
use crate::lab::daemon::{Daemon, Unit};
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::load::{Done, Member, Place};
use crate::lab::namespace::Namespace;
use crate::lab::stage::Stage;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually};
use crate::stage;

trials![killed_again_and_again,];

/// The time within which automatic reactions have to happen.
const SOON: Duration = Duration::from_secs(5);

/// Twenty containers come and go while the daemon is killed every now and then: for MINUTES, or for
/// half of one.
fn killed_again_and_again() -> Result {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse().expect("a number"));
    let seed = match number("SEED") {
        Some(seed) => seed,
        None => rt::now().since_boot().as_millis() as u64,
    };
    let time = number("MINUTES").map_or(Duration::from_secs(30), |minutes| {
        Duration::from_secs(60 * minutes)
    });
    storm(seed, time).map_err(|error| {
        format!("{error}\nSEED={seed} does the same once more, but for the timing").into()
    })
}

const MEMBERS: usize = 20;
const CALLERS: usize = 4;
const T1: Duration = Duration::from_secs(10);
const RUNS_OUT: Duration = Duration::from_secs(30);

fn storm(seed: u64, time: Duration) -> Result {
    let Stage {
        mut daemon,
        unit,
        topology,
    } = stage(0, &[])?;
    let settings = Settings {
        lease: RUNS_OUT,
        t1: Some(T1),
        t2: Some(2 * T1),
        ..Settings::default()
    };
    let server = Server::start(&topology.server, SERVER_LINK, settings)?;
    let place = Place {
        host: &topology.host,
        server: &server,
        socket: unit.socket(),
    };
    let mut members = (0..MEMBERS)
        .map(|number| Member::new(&place, number))
        .collect::<Result<Vec<_>>>()?;
    // Once through everything, so that what is made on first use has been made.
    members[0]
        .setup(&place)
        .and_then(|()| members[0].teardown(&place))
        .map_err(|status| status.message)?;
    let descriptors = daemon.settled_descriptors()?.len();

    let over = AtomicBool::new(false);
    let (kills, reads, called) = std::thread::scope(|scope| {
        let callers = members
            .chunks_mut(MEMBERS / CALLERS)
            .zip(1..)
            .map(|(part, number)| {
                let (mut chance, place, unit, over) =
                    (Chance::new(seed + number), &place, &unit, &over);
                let mut call = move || -> Result {
                    while !over.load(Ordering::Relaxed) {
                        let one = usize::try_from(chance.below(part.len() as u64))?;
                        let acted = part[one].act(place, &mut chance);
                        acted.map_err(|error| {
                            format!("{error}\n{}", told(unit, &part[one]).unwrap_or_default())
                        })?;
                        std::thread::sleep(chance.time(Duration::ZERO, Duration::from_millis(50)));
                    }
                    Ok(())
                };
                // One fault is enough.
                scope.spawn(move || call().inspect_err(|_| over.store(true, Ordering::Relaxed)))
            });
        let callers: Vec<_> = callers.collect();
        let reader = scope.spawn(|| {
            read_again_and_again(&unit, &over).inspect_err(|_| over.store(true, Ordering::Relaxed))
        });
        let kills = kill_every_now_and_then(
            &mut daemon,
            &unit,
            &topology.host,
            Chance::new(seed),
            time,
            &over,
        );
        over.store(true, Ordering::Relaxed);
        let called = callers
            .into_iter()
            .map(|caller| caller.join().map_err(|_| "a panic of a caller")?);
        let called: Result = called.collect();
        let reads = reader
            .join()
            .unwrap_or_else(|_| Err("a panic of the reader".into()));
        (kills, reads, called)
    });
    called?;
    let (kills, reads) = (kills?, reads?);
    let renewals = server
        .heard_of(MessageType::Request)
        .iter()
        .filter(|heard| !heard.message.ciaddr().is_unspecified())
        .count();
    let done = sum(&members);
    crate::tell(&format!(
        "SEED={seed}: {kills} kills, {renewals} renewals, the file read {reads} times; {done}"
    ));
    let end = rt::now();

    nothing_is_lost(&place, &members, end)?;
    nothing_is_left_behind(&place, &unit, &members, end)?;

    // And nothing holds what is gone.
    for member in &mut members {
        member.teardown(&place).map_err(|status| status.message)?;
    }
    drop(members);
    eventually("all namespaces are gone", SOON, || {
        let links = topology.host.links()?;
        Ok((!links.iter().any(|link| link.name.starts_with('c'))).then_some(()))
    })?;
    assert_eq!(unit.leases()?, serde_json::json!({}));
    eventually("no descriptor is left open", SOON, || {
        Ok((daemon.descriptors()? <= descriptors).then_some(()))
    })
}

/// Checks that every granted lease is there, and renewed in time.
fn nothing_is_lost(place: &Place<'_>, members: &[Member], end: Instant) -> Result {
    for member in members {
        if let Some(lease) = &member.lease {
            member.check(place, lease)?;
            let address: Ipv4Addr = lease.yiaddr.parse()?;
            eventually(
                &format!("{address} is renewed"),
                T1 + Duration::from_secs(3),
                || {
                    let requests = place.server.heard_of(MessageType::Request);
                    Ok(requests
                        .iter()
                        .any(|heard| heard.at > end && heard.message.ciaddr() == address)
                        .then_some(()))
                },
            )?;
            member.check(place, lease)?;
        }
    }
    Ok(())
}

/// Checks that nothing else is there: not in the file, not on a link, and on the server no longer
/// than it may be.
fn nothing_is_left_behind(
    place: &Place<'_>,
    unit: &Unit,
    members: &[Member],
    end: Instant,
) -> Result {
    let mut expected: Vec<_> = members.iter().filter_map(named).collect();
    expected.sort();
    eventually(
        &format!("the file has the leases of those who have one, {expected:?}"),
        T1,
        || {
            let leases = unit.leases()?;
            let entries = leases.as_object().ok_or("no object")?.iter();
            let all = entries.flat_map(|(mac, leases)| {
                leases
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(move |lease| (mac, lease))
            });
            let mut there: Vec<_> = all
                .map(|(mac, lease)| {
                    (
                        mac.to_lowercase(),
                        lease["yiaddr"].as_str().unwrap_or_default().to_owned(),
                    )
                })
                .collect();
            there.sort();
            Ok((there == expected).then_some(()))
        },
    )?;
    for member in members.iter().filter(|member| member.lease.is_none()) {
        if let Some(address) = member.container.address()? {
            let (name, story, told) = (member.name(), member.story(), told(unit, member)?);
            return Err(format!("{address:?} without a lease: {name}\n{story}\n{told}").into());
        }
    }
    let mut held = Vec::new();
    eventually(
        "the server has only what is somebody's",
        (RUNS_OUT + Duration::from_secs(1)) - (rt::now() - end),
        || {
            held = place
                .server
                .clients()
                .into_iter()
                .map(|client| client.to_string())
                .collect();
            Ok(held
                .iter()
                .all(|client| expected.iter().any(|(mac, _)| mac == client))
                .then_some(()))
        },
    )
    .map_err(|error| format!("{error}: it has {held:?}, and there are {expected:?}").into())
}

/// Plays systemd to a daemon that crashes, until it is `over`.
fn kill_every_now_and_then(
    daemon: &mut Daemon,
    unit: &Unit,
    host: &Namespace,
    mut chance: Chance,
    time: Duration,
    over: &AtomicBool,
) -> Result<u32> {
    let end = rt::now() + time;
    let mut kills = 0;
    while rt::now() < end && !over.load(Ordering::Relaxed) {
        std::thread::sleep(chance.time(Duration::ZERO, Duration::from_millis(1200)));
        daemon.kill()?;
        kills += 1;
        // Some do not get as far as to be ready.
        while chance.percent(30) {
            *daemon = unit.start(host)?;
            std::thread::sleep(
                chance.magnitude(Duration::from_micros(500), Duration::from_millis(50)),
            );
            daemon.kill()?;
            kills += 1;
        }
        unit.notifications();
        *daemon = unit.start_ready(host)?;
    }
    Ok(kills)
}

/// Returns the daemons' log lines of a container.
fn told(unit: &Unit, member: &Member) -> Result<String> {
    let path = member.container.namespace.path().display().to_string();
    let log = unit.log()?;
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&path) || line.contains("serving"))
        .collect();
    Ok(lines[lines.len().saturating_sub(20)..].join("\n"))
}

/// Reads the state file and its copy all the time, until it is `over`: they are whole at every
/// instant, and their owner's alone.
fn read_again_and_again(unit: &Unit, over: &AtomicBool) -> Result<u32> {
    let mut reads = 0;
    while !over.load(Ordering::Relaxed) {
        for (file, leases) in [
            (unit.state_file(), unit.leases()),
            (unit.lease_file(), unit.copy()),
        ] {
            let (path, mode) = (
                file.display(),
                fs::metadata(&file)?.permissions().mode() & 0o7777,
            );
            let leases =
                leases.map_err(|error| format!("{path}, read for the {reads}th time: {error}"))?;
            if mode != 0o600 || !leases.is_object() {
                return Err(format!("{path} is of mode {mode:o} and says {leases}").into());
            }
        }
        reads += 1;
        std::thread::sleep(Duration::from_micros(300));
    }
    Ok(reads)
}

/// Returns the lease that a container's caller knows, by its names in the file.
fn named(member: &Member) -> Option<(String, String)> {
    Some((
        member.container.mac.to_string(),
        member.lease.as_ref()?.yiaddr.clone(),
    ))
}

fn sum(members: &[Member]) -> String {
    let all = members
        .iter()
        .map(|member| member.done)
        .fold(Done::default(), |sum, done| Done {
            setups: sum.setups + done.setups,
            teardowns: sum.teardowns + done.teardowns,
            thrown_away: sum.thrown_away + done.thrown_away,
            broken: sum.broken + done.broken,
        });
    format!("{all:?}")
}
