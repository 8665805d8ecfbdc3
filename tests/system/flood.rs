//! One container, or a station of its network, makes as much noise as it can: the daemon keeps its
//! time for the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netns::Netns;
use smol_dhcp_proxy::rt;

use crate::lab::Result;
use crate::lab::daemon::Unit;
use crate::lab::packets::Tap;
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER_LINK, Topology};
use crate::{program, tell};

trials![
    replies_to_the_container,
    replies_to_other_stations,
    changes_of_the_link,
];

/// The time for which a Setup waits for an offer, in seconds; there is no server.
const PATIENCE: &str = "4";
/// The part of it that is flooded.
const FLOODED: Duration = Duration::from_secs(3);

/// A daemon on the host of a network with one container, which tells of each frame that it reads.
fn talkative_stage() -> Result<Stage> {
    let unit = Unit::new(program(), &["-t", PATIENCE])?;
    let unit = unit.set("RUST_LOG", "debug,smol_dhcp_proxy::proxy::session=trace");
    let topology = Topology::new(1)?;
    Ok(Stage {
        daemon: unit.start_ready(&topology.host)?,
        unit,
        topology,
    })
}

/// Counts the lines of the log with `words` in them.
fn logged(stage: &Stage, words: &str) -> Result<usize> {
    Ok(stage
        .unit
        .log()?
        .lines()
        .filter(|line| line.contains(words))
        .count())
}

/// Runs `noise` over and over while a Setup waits, and checks that the daemon leaves most of a
/// processor to others.
fn flood(stage: &Stage, noise: impl FnMut() -> Result + Send) -> Result {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(stage.daemon.id())?))?;
    let used = || Ok::<_, nix::errno::Errno>(Duration::from(clock.now()?));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let caller = scope.spawn(|| stage.setup(0));
        let noise = scope.spawn(|| {
            let mut noise = noise;
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                noise()?;
                times += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times)
        });
        let (start, before) = (rt::now(), used()?);
        // What is measured is this time itself.
        thread::sleep(FLOODED);
        let share = (used()? - before).as_secs_f64() / (rt::now() - start).as_secs_f64();
        let waited = rt::now();
        let answer = caller.join().map_err(|_| "the caller panicked")?;
        over.store(true, Ordering::Relaxed);
        let times = noise.join().map_err(|_| "the noise panicked")??;
        let late = rt::now() - waited;
        tell(&format!(
            "{times} times the noise, {:.1} % of a processor",
            share * 100.0
        ));
        let refused = answer.err().ok_or("a lease without a server")?.to_string();
        assert!(
            refused.contains("no DHCPOFFER") || refused.contains("carrier"),
            "{refused}"
        );
        assert!(
            late < Duration::from_secs(3),
            "the Setup was answered {late:?} after it should have been"
        );
        assert!(times > 2000, "{times} times is no flood");
        assert!(share < 0.3, "{share} of a processor");
        Ok(())
    })
}

/// A BOOTP reply to a station, of an exchange that there is not.
fn reply(to: [u8; 6], station: [u8; 6]) -> Vec<u8> {
    let mut packet = [0; 20 + 8 + 240];
    packet[..4].copy_from_slice(&[0x45, 0, 1, 12]);
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[21] = 67;
    packet[23] = 68;
    packet[28..31].copy_from_slice(&[2, 1, 6]);
    packet[56..62].copy_from_slice(&station);
    [&to[..], &[2, 0, 0, 0, 0, 99], &[8, 0], &packet].concat()
}

/// Floods the container with replies to a station, by default itself, and returns how many the
/// daemon read.
fn flood_of_replies(station: Option<[u8; 6]>) -> Result<usize> {
    let stage = talkative_stage()?;
    let mac = stage.topology.containers[0].mac.0;
    let tap = stage.topology.server.run(|| Tap::open(SERVER_LINK))?;
    let frame = reply(mac, station.unwrap_or(mac));
    flood(&stage, || {
        // A full queue is no reason to stop.
        let _ = tap.send(&frame);
        Ok(())
    })?;
    logged(&stage, "ignored a frame")
}

/// The session reads a hundred, and two hundred more in each second, whatever comes.
fn replies_to_the_container() -> Result {
    let read = flood_of_replies(None)?;
    assert!((100..1200).contains(&read), "{read} frames were read");
    Ok(())
}

/// The kernel throws them away.
fn replies_to_other_stations() -> Result {
    assert_eq!(flood_of_replies(Some([2, 0, 0, 0, 0, 98]))?, 0);
    Ok(())
}

/// More than the queue of the news holds, so that the link is in doubt again and again.
fn changes_of_the_link() -> Result {
    let stage = talkative_stage()?;
    let container = &stage.topology.containers[0];
    let netlink = Netns::open(container.namespace.path())?.enter(Netlink::open)??;
    let index = container.namespace.link(LINK)?.index;
    let mut mtu = 1400;
    flood(&stage, move || {
        mtu ^= 1;
        Ok(netlink.set_mtu(index, mtu)?)
    })?;
    // At once, and after 100, 200, 400, 800 and 1600 ms.
    let opened = logged(&stage, "opened its sockets")?;
    assert!((2..8).contains(&opened), "they were opened {opened} times");
    Ok(())
}
