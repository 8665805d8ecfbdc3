//! The search on the sockets of an interface.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dhcp::{Discovery, DiscoverySettings};
use crate::mac::Mac;
use crate::net::monitor::{LinkEvent, Monitor};
use crate::net::raw::{self, RawSocket};
use crate::operator::arguments::Failure;
use crate::rt;
use crate::time::Instant;

use super::interface::InterfaceReport;
use super::namespace::{InspectedNamespace, cannot};
use super::progress::ProgressLine;

/// The longest time to wait for a carrier: network cards take that long after they are set up.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// The frames of one socket that are read before timers and other sockets have their turn.
const MOST_AT_ONCE: usize = 64;
/// The longest frame that is read, as by the daemon: an Ethernet header and the usual MTU.
const MAX_FRAME: usize = 14 + 1500;

/// The sockets of a search.
struct SearchSockets {
    /// DHCP replies.
    packets: RawSocket,
    /// Changes of the interface.
    monitor: Monitor,
    /// For each probed address the ARP packets about it: a socket hears those of one.
    arp: Vec<(Ipv4Addr, RawSocket)>,
}

/// A search that has ended.
#[derive(Debug)]
pub(super) struct EndedSearch {
    pub(super) discovery: Discovery,
    pub(super) took: Duration,
    pub(super) ended: Instant,
}

/// Searches on an interface; `None` if it cannot send. The state of the interface is that of the
/// end afterwards.
///
/// # Errors
///
/// Returns a failure if the interface is removed meanwhile.
pub(super) fn run(
    namespace: &InspectedNamespace,
    interface: &mut InterfaceReport,
    timeout: Duration,
    mut progress: ProgressLine,
) -> Result<Option<EndedSearch>, Failure> {
    let Some(mac) = interface.station.filter(|_| interface.can_send()) else {
        return Ok(None);
    };
    let index = interface.index;
    let monitor = namespace
        .run(|| Monitor::open(index))
        .map_err(|error| listening(interface, &error))?;
    await_carrier(namespace, interface, (&monitor, timeout), &mut progress)?;
    if !interface.is_working() {
        return Ok(None);
    }
    let packets = namespace
        .run(|| RawSocket::open(index, mac.0))
        .and_then(|packets| packets.accept_first_fragments().map(|()| packets))
        .map_err(|error| listening(interface, &error))?;
    let mut sockets = SearchSockets {
        packets,
        monitor,
        arp: Vec::new(),
    };
    let began = rt::now();
    let settings = DiscoverySettings {
        mac,
        mtu: interface.mtu,
        timeout,
        own_stations: interface.own_stations.clone(),
        own_addresses: interface.station_addresses(),
    };
    let mut discovery = Discovery::new(settings, seed()?, began);
    while !discovery.is_over(rt::now()) {
        sockets.hear_probed(namespace, interface, &discovery)?;
        sockets.send(namespace, &mut discovery, interface)?;
        if !interface.is_working() {
            // The carrier may return.
            let left = began + timeout - rt::now();
            let wait = (&sockets.monitor, left);
            await_carrier(namespace, interface, wait, &mut progress)?;
            if !interface.is_working() {
                break;
            }
        }
        progress.show(rt::now(), || shown(interface, &discovery, began, timeout));
        let until = discovery.poll_timeout();
        let until = progress.due().map_or(until, |due| until.min(due));
        let ready = sockets
            .wait(until)
            .map_err(|error| listening(interface, &error))?;
        if ready {
            sockets.read(namespace, interface, &mut discovery)?;
        }
        discovery.handle_timeout(rt::now());
    }
    let ended = rt::now();
    Ok(Some(EndedSearch {
        discovery,
        took: ended - began,
        ended,
    }))
}

/// Reads the state of the interface, and waits until it has a carrier, for a bounded time.
fn await_carrier(
    namespace: &InspectedNamespace,
    interface: &mut InterfaceReport,
    (monitor, timeout): (&Monitor, Duration),
    progress: &mut ProgressLine,
) -> Result<(), Failure> {
    // It may have changed before there was a monitor.
    look(namespace, interface)?;
    let until = rt::now() + timeout.min(CARRIER_TIMEOUT);
    while interface.up && !interface.carrier && rt::now() < until {
        progress.show(rt::now(), || {
            format!("{}: waiting for a carrier", interface.name)
        });
        let turn = progress.due().map_or(until, |due| until.min(due));
        let mut fds = [PollFd::new(monitor, PollFlags::IN)];
        if wait_for(&mut fds, turn).map_err(|error| listening(interface, &error))? {
            handle_link_event(namespace, interface, monitor)?;
        }
    }
    if !interface.up {
        // An interface that is removed goes down first.
        look(namespace, interface)?;
    }
    Ok(())
}

/// Reads a change of the interface.
fn handle_link_event(
    namespace: &InspectedNamespace,
    interface: &mut InterfaceReport,
    monitor: &Monitor,
) -> Result<(), Failure> {
    match monitor.recv() {
        Ok(LinkEvent::State { up, carrier }) => (interface.up, interface.carrier) = (up, carrier),
        Ok(LinkEvent::Removed) => return Err(removed(interface)),
        Ok(LinkEvent::Overrun) => look(namespace, interface)?,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(listening(interface, &error)),
    }
    Ok(())
}

/// Reads the state of the interface from the kernel.
fn look(namespace: &InspectedNamespace, interface: &mut InterfaceReport) -> Result<(), Failure> {
    let link = namespace
        .netlink()?
        .link_by_index(interface.index)
        .map_err(|error| listening(interface, &error.into_io()))?;
    let link = link.ok_or_else(|| removed(interface))?;
    (interface.up, interface.carrier, interface.mtu) = (link.up, link.carrier, link.mtu);
    Ok(())
}

fn removed(interface: &InterfaceReport) -> Failure {
    Failure::Unknown(format!(
        "{} was removed during the check, or moved to another network namespace",
        interface.name
    ))
}

impl SearchSockets {
    /// Opens a socket for each address that is newly probed.
    fn hear_probed(
        &mut self,
        namespace: &InspectedNamespace,
        interface: &InterfaceReport,
        discovery: &Discovery,
    ) -> Result<(), Failure> {
        for address in discovery.probed_addresses().skip(self.arp.len()) {
            let open = || {
                // The station is left out: this socket receives ARP alone.
                let socket = RawSocket::open(interface.index, Mac::UNSPECIFIED.0)?;
                socket.set_arp_filter(Some(address))?;
                Ok(socket)
            };
            let socket = namespace
                .run(open)
                .map_err(|error| listening(interface, &error))?;
            self.arp.push((address, socket));
        }
        Ok(())
    }

    /// Sends the frames that are ready. A lost frame is sent again later.
    fn send(
        &self,
        namespace: &InspectedNamespace,
        discovery: &mut Discovery,
        interface: &mut InterfaceReport,
    ) -> Result<(), Failure> {
        while let Some(frame) = discovery.poll_transmit() {
            let Err(error) = self.packets.send(&frame) else {
                continue;
            };
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => {}
                // The interface is down or gone, or its MTU has become too small.
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EMSGSIZE) => {
                    look(namespace, interface)?;
                }
                _ => return Err(cannot(&format!("send on {}", interface.name), &error)),
            }
        }
        Ok(())
    }

    /// Waits until a socket is readable. Returns whether one is, or seems so.
    fn wait(&self, until: Instant) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.packets.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN),
        ];
        let arp = self.arp.iter();
        fds.extend(arp.map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        wait_for(&mut fds, until)
    }

    /// Reads the sockets.
    fn read(
        &self,
        namespace: &InspectedNamespace,
        interface: &mut InterfaceReport,
        discovery: &mut Discovery,
    ) -> Result<(), Failure> {
        handle_link_event(namespace, interface, &self.monitor)?;
        let arp = self.arp.iter().map(|(_, socket)| (socket, true));
        let mut buffer = [0; MAX_FRAME];
        for (socket, is_arp) in [(&self.packets, false)].into_iter().chain(arp) {
            for _ in 0..MOST_AT_ONCE {
                let length = match socket.recv(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(listening(interface, &error)),
                };
                let frame = &buffer[..length];
                // A DHCP reply to no station comes to all sockets.
                if raw::arp_sender(frame).is_some() == is_arp {
                    // The search counts what it ignores.
                    let _ = discovery.handle_packet(frame, rt::now());
                }
            }
        }
        Ok(())
    }
}

fn wait_for(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    let time = Timespec::try_from(until - rt::now()).map_err(io::Error::other)?;
    match poll(fds, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn listening(interface: &InterfaceReport, error: &io::Error) -> Failure {
    if error.raw_os_error() == Some(libc::ENODEV) {
        return removed(interface);
    }
    cannot(&format!("listen on {}", interface.name), error)
}

/// Returns a random seed for transaction ids and the random address.
fn seed() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| cannot("get random numbers", &errno.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn shown(
    interface: &InterfaceReport,
    discovery: &Discovery,
    began: Instant,
    timeout: Duration,
) -> String {
    format!(
        "{}: {} s of at most {} s, DISCOVERs: {}, servers: {}",
        interface.name,
        (rt::now() - began).as_secs(),
        timeout.as_secs().max(1),
        discovery.discovers(),
        discovery.servers().len()
    )
}
