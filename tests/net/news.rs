//! The monitor tells what becomes of its interface, and of no other.

use std::io::ErrorKind;
use std::time::Duration;

use smol_dhcp_proxy::net::link::Link;
use smol_dhcp_proxy::net::monitor::{Monitor, News};
use smol_dhcp_proxy::net::netns::Netns;

use super::NamedTrial;
use super::lab::namespace::Namespace;
use super::lab::wire::Mac;
use super::lab::{Result, eventually};

pub(super) const TRIALS: &[NamedTrial] = &[
    ("monitor::it_tells_of_carrier_state_and_end", carrier_state_and_end),
    ("monitor::it_tells_that_it_missed_something", it_missed_something),
];

const SOON: Duration = Duration::from_secs(5);

/// A host with `eth0` and a macvlan of it in a container, watched there.
fn watched() -> Result<(Namespace, Namespace, Namespace, Monitor)> {
    let (host, wire, container) = (Namespace::new("host")?, Namespace::new("wire")?, Namespace::new("container")?);
    host.veth("eth0", &wire, "peer")?;
    host.macvlan("eth0", &container, "mv0", Mac([2, 0, 0, 0, 0, 7]))?;
    let index = container.link("mv0")?.index;
    let monitor = Netns::open(container.path())?.enter(|| Monitor::open(index))??;
    Ok((host, wire, container, monitor))
}

/// What it tells next, if anything.
fn next(monitor: &Monitor) -> Result<Option<News>> {
    match monitor.recv() {
        Ok(news) => Ok(Some(news)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads on until it tells of a link of which `wanted` is so.
fn await_link(monitor: &Monitor, what: &str, wanted: impl Fn(&Link) -> bool) -> Result<Link> {
    eventually(what, SOON, || {
        while let Some(news) = next(monitor)? {
            match news {
                News::Is(link) if wanted(&link) => return Ok(Some(link)),
                News::Is(_) => {}
                other => return Err(format!("{other:?} before {what}").into()),
            }
        }
        Ok(None)
    })
}

fn carrier_state_and_end() -> Result {
    let (_host, wire, container, monitor) = watched()?;
    assert_eq!(next(&monitor)?, None, "nothing has happened since it was opened");
    wire.set_state("peer", false)?;
    await_link(&monitor, "no carrier", |link| link.up && !link.carrier)?;
    wire.set_state("peer", true)?;
    let link = await_link(&monitor, "a carrier", |link| link.up && link.carrier)?;
    assert_eq!((link.name.as_str(), link.mac), ("mv0", Some([2, 0, 0, 0, 0, 7])));

    container.set_state("mv0", false)?;
    await_link(&monitor, "down", |link| !link.up)?;
    container.set_state("mv0", true)?;
    await_link(&monitor, "up", |link| link.up && link.carrier)?;

    // What happens to others is not told.
    while next(&monitor)?.is_some() {}
    let elsewhere = Namespace::new("elsewhere")?;
    container.veth("other", &elsewhere, "peer")?;
    container.set_state("other", false)?;
    container.delete_link("other")?;
    assert_eq!(next(&monitor)?, None);

    container.delete_link("mv0")?;
    let last = eventually("its end", SOON, || {
        loop {
            match next(&monitor)? {
                Some(News::Is(_)) => {}
                other => return Ok(other),
            }
        }
    })?;
    assert_eq!(last, News::Gone);
    Ok(())
}

fn it_missed_something() -> Result {
    let (_host, _wire, container, monitor) = watched()?;
    // More changes than its queue holds.
    let changes = 2000;
    for change in 0..changes {
        container.set_mtu("mv0", 1400 + change % 2)?;
    }
    let mut told = 0;
    let missed = loop {
        match next(&monitor)? {
            Some(News::Is(_)) => told += 1,
            other => break other,
        }
    };
    assert_eq!(missed, Some(News::Missed), "told {told} of {changes} changes");
    // From then on it tells again.
    while next(&monitor)?.is_some() {}
    container.set_mtu("mv0", 1300)?;
    await_link(&monitor, "an MTU of 1300", |link| link.mtu == 1300).map(drop)
}
