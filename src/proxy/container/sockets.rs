//! The sockets of one exchange, open on a container's interface while an answer is awaited.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::event::epoll;

use crate::dhcp::{self, Transmit};
use crate::mac::Mac;
use crate::net::link::Link;
use crate::net::monitor::{LinkEvent, Monitor};
use crate::net::netns::Netns;
use crate::net::raw::RawSocket;
use crate::net::udp::Port;
use crate::proxy::error::CallError;
use crate::rt::{self, Watched};
use crate::time::Instant;

use super::claimants::Claimants;

/// The longest frame with a DHCP message: an Ethernet header and the usual MTU.
const MAX_FRAME: usize = 14 + 1500;

/// Returns whether a packet or UDP socket failed to send because the interface is down or gone.
pub(crate) fn is_link_away(error: &io::Error) -> bool {
    const AWAY: [i32; 4] = [libc::ENETDOWN, libc::ENXIO, libc::ENETUNREACH, libc::ENODEV];
    error
        .raw_os_error()
        .is_some_and(|errno| AWAY.contains(&errno))
}

/// The state of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Set down; the kernel has removed its routes.
    Down,
    /// Up, without a carrier.
    NoCarrier,
    /// Up, with a carrier.
    Ready,
}

impl LinkState {
    pub(super) fn new(up: bool, carrier: bool) -> Self {
        match (up, carrier) {
            (false, _) => Self::Down,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Ready,
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "the interface is down",
            Self::NoCarrier => "no carrier",
            Self::Ready => "the carrier is back",
        })
    }
}

/// Data from the sockets of an exchange.
#[derive(Debug)]
pub(crate) enum Received {
    Frame(Vec<u8>),
    /// The interface has changed to this state.
    Link(LinkState),
    /// The interface is gone, or news of it were lost.
    LinkInDoubt,
}

/// The sockets of one exchange, all in the container's network namespace.
#[derive(Debug)]
pub(crate) struct ExchangeSockets {
    receiver: Watched<Receiver>,
    /// The last state that was received.
    pub(crate) state: LinkState,
    /// UDP port 68, unless the container itself uses it.
    port: Option<Port>,
    /// The address whose ARP frames pass the filter.
    arp_filter: Option<Ipv4Addr>,
    pub(crate) claimants: Claimants,
    /// The last time at which the container was known to exist.
    pub(crate) opened: Instant,
    /// The longest IP packet that fits into a frame, in bytes.
    pub(crate) mtu: u32,
}

impl ExchangeSockets {
    pub(super) fn open(netns: &Netns, link: &Link, mac: Mac) -> Result<Self, CallError> {
        let (monitor, packets, port) = netns
            .enter(|| {
                (
                    Monitor::open(link.index),
                    RawSocket::open(link.index, mac.0),
                    Port::open(&link.name),
                )
            })
            .map_err(CallError::fault(
                "entering the container's network namespace",
            ))?;
        let receiver = packets.and_then(|packets| Watched::new(Receiver::new(packets, monitor?)?));
        let receiver = receiver.map_err(CallError::fault(format!("listening on {}", link.name)))?;
        let port = match port {
            Ok(port) => Some(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => {
                return Err(CallError::fault(format!(
                    "taking UDP port 68 on {}",
                    link.name
                ))(error));
            }
        };
        let state = LinkState::new(link.up, link.carrier);
        let (claimants, opened, mtu) = (Claimants::default(), rt::now(), link.mtu);
        Ok(Self {
            receiver,
            state,
            port,
            arp_filter: None,
            claimants,
            opened,
            mtu,
        })
    }

    /// Returns whether the container itself uses UDP port 68.
    pub(crate) fn is_port_taken(&self) -> bool {
        self.port.is_none()
    }

    /// Sends a message of the client. If the kernel cannot send the datagram, because the port is
    /// taken, it is sent in a frame to `peer`.
    pub(crate) fn send(
        &self,
        transmit: Transmit,
        bytes: &[u8],
        mac: Mac,
        peer: Option<Mac>,
    ) -> io::Result<()> {
        match (transmit, &self.port, peer) {
            (Transmit::Frame, ..) => self.receiver.get_ref().packets.send(bytes),
            (
                Transmit::Datagram {
                    source,
                    destination,
                },
                Some(port),
                _,
            ) => port.send(source, destination, bytes),
            (
                Transmit::Datagram {
                    source,
                    destination,
                },
                None,
                Some(peer),
            ) => self.receiver.get_ref().packets.send(&dhcp::frame(
                bytes,
                (mac, source),
                (peer, destination),
            )),
            (Transmit::Datagram { .. }, None, None) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// Restricts ARP to frames about `address`.
    pub(crate) fn set_arp_filter(&mut self, address: Option<Ipv4Addr>) -> io::Result<()> {
        if self.arp_filter != address {
            self.receiver.get_ref().packets.set_arp_filter(address)?;
            self.arp_filter = address;
        }
        Ok(())
    }

    /// Waits for a frame or a change of the interface.
    pub(crate) async fn receive(&self) -> io::Result<Received> {
        self.receiver.read_with(Receiver::receive).await
    }

    /// Returns a frame that has already arrived, if any.
    pub(crate) fn try_receive(&self) -> Option<Vec<u8>> {
        self.receiver.get_ref().frame().ok()
    }
}

/// The receiving sockets of an exchange, registered with the reactor as one descriptor.
#[derive(Debug)]
struct Receiver {
    packets: RawSocket,
    /// Reports when the interface goes down or loses its carrier.
    monitor: Monitor,
    /// An epoll(7) descriptor, readable when either is.
    epoll_fd: OwnedFd,
}

impl Receiver {
    fn new(packets: RawSocket, monitor: Monitor) -> io::Result<Self> {
        let epoll_fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for source in [packets.as_fd(), monitor.as_fd()] {
            epoll::add(
                &epoll_fd,
                source,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
        }
        Ok(Self {
            packets,
            monitor,
            epoll_fd,
        })
    }

    /// Changes first, because frames may never end. `WouldBlock` if there is neither.
    fn receive(&self) -> io::Result<Received> {
        match self.monitor.recv() {
            Ok(LinkEvent::State { up, carrier }) => Ok(Received::Link(LinkState::new(up, carrier))),
            Ok(LinkEvent::Removed | LinkEvent::Overrun) => Ok(Received::LinkInDoubt),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.frame().map(Received::Frame)
            }
            Err(error) => Err(error),
        }
    }

    fn frame(&self) -> io::Result<Vec<u8>> {
        let mut frame = [0; MAX_FRAME];
        let length = self.packets.recv(&mut frame)?;
        Ok(frame[..length].to_vec())
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll_fd.as_fd()
    }
}
