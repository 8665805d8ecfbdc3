//! The DHCP client's UDP port: held while an exchange runs, sent from, never read.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::bpf;

/// The client's port (RFC 2131 4.1).
const CLIENT: u16 = 68;
/// The server's port.
const SERVER: u16 = 67;

/// UDP port 68 on one interface, whatever its addresses.
///
/// With a leased address on the link and no socket on the port, the kernel answers a server's unicast
/// ACK with "port unreachable". The answers themselves are read from the packet socket, so a filter
/// drops all that arrives here before it is queued: nothing wakes the owner, and nothing piles up.
#[derive(Debug)]
pub struct Port(Socket);

impl Port {
    /// Takes the port on an interface of the network namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// Returns `AddrInUse` where another socket has the port, such as that of a DHCP client in the
    /// container. The port is not shared: of two sockets on one port a datagram reaches only one.
    pub fn open(interface: &str) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::UDP))?;
        socket.attach_filter(&[bpf::NOTHING])?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        // Bound to the leased address instead, it would not stand in for what is sent to all.
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT).into())?;
        Ok(Self(socket))
    }

    /// Sends one datagram to the server's port, from an address that must be one of the
    /// interface's, by the kernel's routes and neighbours.
    ///
    /// The neighbour may have to be asked for first, so success means that it is on its way, no
    /// more. A destination that no route of the interface covers is taken to be on the link.
    ///
    /// # Errors
    ///
    /// Returns the error of sendmsg(2): `EINVAL` for a source that is not an address of the
    /// interface.
    pub fn send(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(source.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrIn::from(SocketAddrV4::new(destination, SERVER));
        let (data, control) = (
            [IoSlice::new(payload)],
            [ControlMessage::Ipv4PacketInfo(&info)],
        );
        loop {
            match sendmsg(
                self.0.as_raw_fd(),
                &data,
                &control,
                MsgFlags::empty(),
                Some(&to),
            ) {
                Err(nix::errno::Errno::EINTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
