//! The DHCP client's UDP port, bound during an exchange. It sends, and never receives.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::bpf;

/// The client's port (RFC 2131 §4.1).
const CLIENT: u16 = 68;
/// The server's port.
const SERVER: u16 = 67;

/// UDP port 68 on one interface, for all its addresses.
///
/// Without a socket on the port, the kernel answers a server's unicast ACK to the leased address with
/// "port unreachable". The packet socket receives the answers, so a filter drops every datagram
/// before it is queued here: no task wakes, and no memory is used.
#[derive(Debug)]
pub struct Port(Socket);

impl Port {
    /// Binds the port on an interface of this thread's network namespace.
    ///
    /// # Errors
    ///
    /// Returns `AddrInUse` if another socket has the port, such as that of a DHCP client in the
    /// container. The port is not shared: a datagram would reach only one of the sockets.
    pub fn open(interface: &str) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::UDP))?;
        socket.attach_filter(&[bpf::NOTHING])?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        // A socket on the leased address would not cover broadcasts.
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT).into())?;
        Ok(Self(socket))
    }

    /// Sends one datagram to the server's port by the kernel's routes and neighbours. `source` must
    /// be an address of the interface.
    ///
    /// Success means that the datagram is queued: the kernel may have to resolve the neighbour
    /// first. A destination without a route of the interface counts as on-link.
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
