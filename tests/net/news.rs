//! The monitor tells what becomes of its interface, and of no other.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol_dhcp_proxy::net::monitor::{LinkEvent, Monitor};
use smol_dhcp_proxy::net::netns::Netns;

use super::lab::namespace::Namespace;
use super::lab::packets::Mac;
use super::lab::{Result, eventually};

trials![
    it_tells_of_carrier_state_and_end,
    it_tells_that_it_missed_something,
    other_interfaces_do_not_wake_it,
];

const SOON: Duration = Duration::from_secs(5);

/// A host with `eth0` and a macvlan of it in a container, watched there.
fn watched() -> Result<(Namespace, Namespace, Namespace, Monitor)> {
    let (host, wire, container) = (
        Namespace::new("host")?,
        Namespace::new("wire")?,
        Namespace::new("container")?,
    );
    host.veth("eth0", &wire, "peer")?;
    host.macvlan("eth0", &container, "mv0", Mac([2, 0, 0, 0, 0, 7]))?;
    let index = container.link("mv0")?.index;
    let monitor = Netns::open(container.path())?.enter(|| Monitor::open(index))??;
    Ok((host, wire, container, monitor))
}

/// Returns the next change it reports, if any.
fn next(monitor: &Monitor) -> Result<Option<LinkEvent>> {
    match monitor.recv() {
        Ok(news) => Ok(Some(news)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads on until it tells of a link of which `wanted` is so.
fn await_link(monitor: &Monitor, what: &str, wanted: LinkEvent) -> Result {
    eventually(what, SOON, || {
        while let Some(news) = next(monitor)? {
            match news {
                news if news == wanted => return Ok(Some(())),
                LinkEvent::State { .. } => {}
                other => return Err(format!("{other:?} before {what}").into()),
            }
        }
        Ok(None)
    })
}

const READY: LinkEvent = LinkEvent::State {
    up: true,
    carrier: true,
};
const NO_CARRIER: LinkEvent = LinkEvent::State {
    up: true,
    carrier: false,
};
const DOWN: LinkEvent = LinkEvent::State {
    up: false,
    carrier: false,
};

fn it_tells_of_carrier_state_and_end() -> Result {
    let (_host, wire, container, monitor) = watched()?;
    assert_eq!(
        next(&monitor)?,
        None,
        "nothing has happened since it was opened"
    );
    wire.set_state("peer", false)?;
    await_link(&monitor, "no carrier", NO_CARRIER)?;
    wire.set_state("peer", true)?;
    await_link(&monitor, "a carrier", READY)?;

    container.set_state("mv0", false)?;
    await_link(&monitor, "down", DOWN)?;
    container.set_state("mv0", true)?;
    await_link(&monitor, "up", READY)?;

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
                Some(LinkEvent::State { .. }) => {}
                other => return Ok(other),
            }
        }
    })?;
    assert_eq!(last, LinkEvent::Removed);
    Ok(())
}

fn it_tells_that_it_missed_something() -> Result {
    let (_host, _wire, container, monitor) = watched()?;
    // More changes than its queue holds.
    let changes = 2000;
    for change in 0..changes {
        container.set_mtu("mv0", 1400 + change % 2)?;
    }
    let mut told = 0;
    let missed = loop {
        match next(&monitor)? {
            Some(LinkEvent::State { .. }) => told += 1,
            other => break other,
        }
    };
    assert_eq!(
        missed,
        Some(LinkEvent::Overrun),
        "told {told} of {changes} changes"
    );
    // From then on it tells again.
    while next(&monitor)?.is_some() {}
    container.set_state("mv0", false)?;
    await_link(&monitor, "down", DOWN)
}

/// The kernel queues no event of another interface: there is not even room taken that a change of
/// its own would miss.
fn other_interfaces_do_not_wake_it() -> Result {
    let (_host, _wire, container, monitor) = watched()?;
    let elsewhere = Namespace::new("elsewhere")?;
    container.veth("other", &elsewhere, "peer")?;
    // More changes than its queue would hold.
    for change in 0..2000 {
        container.set_mtu("other", 1400 + change % 2)?;
    }
    // The kernel may still have had something to say of the interface itself.
    let mut told = 0;
    while let Some(news) = next(&monitor)? {
        told += 1;
        assert!(
            matches!(news, LinkEvent::State { up: true, .. }) && told < 5,
            "{news:?} after {told}"
        );
    }
    let mut events = [PollFd::new(&monitor, PollFlags::IN)];
    assert_eq!(
        poll(&mut events, Some(&Timespec::default()))?,
        0,
        "the queue is empty"
    );
    container.set_state("mv0", false)?;
    await_link(&monitor, "down", DOWN)
}
