//! The sockets of one exchange: open on a container's interface while an answer is awaited.

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

/// The longest frame that a DHCP message for us comes in: Ethernet's header and its usual MTU.
const FRAME: usize = 14 + 1500;

/// Whether a failure to send says that the interface is down or gone, in the words of the packet
/// socket or of UDP.
pub(crate) fn is_link_away(error: &io::Error) -> bool {
    const AWAY: [i32; 4] = [libc::ENETDOWN, libc::ENXIO, libc::ENETUNREACH, libc::ENODEV];
    error
        .raw_os_error()
        .is_some_and(|errno| AWAY.contains(&errno))
}

/// Whether anything can be said on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It was set down, and the kernel took its routes away.
    Down,
    /// It is up, and nothing is at the other end.
    NoCarrier,
    /// It is in use.
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
            Self::Down => "the link is down",
            Self::NoCarrier => "there is no carrier",
            Self::Ready => "there is a carrier again",
        })
    }
}

/// What the sockets of an exchange receive.
#[derive(Debug)]
pub(crate) enum Received {
    /// An Ethernet frame.
    Frame(Vec<u8>),
    /// The interface is like this now.
    Link(LinkState),
    /// The interface has gone, or something has happened to it that was not told.
    LinkInDoubt,
}

/// The sockets of one exchange, all in the container's network namespace.
#[derive(Debug)]
pub(crate) struct ExchangeSockets {
    receiver: Watched<Receiver>,
    /// How the interface was, the last time that anything was heard of it.
    pub(crate) state: LinkState,
    /// UDP port 68, unless the container uses it itself.
    port: Option<Port>,
    /// Whose ARP is heard.
    arp_of: Option<Ipv4Addr>,
    pub(crate) claimants: Claimants,
    /// When the container was last seen to be there.
    pub(crate) opened: Instant,
    /// Bytes of IP packet that fit one frame.
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
            arp_of: None,
            claimants,
            opened,
            mtu,
        })
    }

    /// Whether the container uses the client's port itself.
    pub(crate) fn port_is_taken(&self) -> bool {
        self.port.is_none()
    }

    /// Sends what the client has put into `bytes`. `peer` is the station that a datagram goes to
    /// where the kernel cannot send it for us.
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

    /// Hears ARP about this address from now on, and no other.
    pub(crate) fn set_arp_filter(&mut self, address: Option<Ipv4Addr>) -> io::Result<()> {
        if self.arp_of != address {
            self.receiver.get_ref().packets.set_arp_filter(address)?;
            self.arp_of = address;
        }
        Ok(())
    }

    /// Waits for a frame, or for news of the interface.
    pub(crate) async fn hear(&self) -> io::Result<Received> {
        self.receiver.read_with(Receiver::hear).await
    }

    /// A frame that has arrived already, if there is one.
    pub(crate) fn arrived(&self) -> Option<Vec<u8>> {
        self.receiver.get_ref().frame().ok()
    }
}

/// The listening sockets of an exchange, as one descriptor to be watched: each more would cost a
/// again.
#[derive(Debug)]
struct Receiver {
    packets: RawSocket,
    /// Tells when the interface is set down or loses its carrier.
    monitor: Monitor,
    /// Readable when one of them is (epoll(7)).
    either: OwnedFd,
}

impl Receiver {
    fn new(packets: RawSocket, monitor: Monitor) -> io::Result<Self> {
        let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for source in [packets.as_fd(), monitor.as_fd()] {
            epoll::add(
                &either,
                source,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
        }
        Ok(Self {
            packets,
            monitor,
            either,
        })
    }

    /// News first, for there may always be another frame; `WouldBlock` where there is neither.
    fn hear(&self) -> io::Result<Received> {
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
        let mut frame = [0; FRAME];
        let length = self.packets.recv(&mut frame)?;
        Ok(frame[..length].to_vec())
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}
