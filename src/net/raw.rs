//! A packet socket that hears, on one interface, what a DHCP client must hear, and sends whole Ethernet frames.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, socket_with};
use socket2::{SockFilter, SockRef};

/// An `AF_PACKET` socket for one interface (packet(7)). It never blocks: await its readiness elsewhere.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl RawSocket {
    /// Opens a socket for an interface of the network namespace that this thread is in.
    ///
    /// It hears ARP, and unfragmented UDP over IPv4 to port 68, addressed to this host or to several, on this
    /// network and no VLAN of it; never what this host sends.
    ///
    /// An interface that does not exist is `ENODEV`. One that is down is none: nothing is heard there until it is up.
    ///
    /// The filter ties the socket to its interface. bind(2) would as well, but to change a socket that hears already
    /// takes the kernel a grace period, some ten milliseconds; and safe code cannot bind one that does not hear yet,
    /// for it cannot name the protocol to be bound to.
    pub fn open(index: u32) -> io::Result<Self> {
        let interface = link_address(index)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?;
        let socket = Self { socket, interface };
        SockRef::from(&socket.socket).attach_filter(&filter(index))?;
        socket.forget()?;
        Ok(socket)
    }

    /// Throws away what arrived before the filter was in place.
    fn forget(&self) -> io::Result<()> {
        loop {
            match self.recv(&mut []) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one Ethernet frame. `ENETDOWN` and `ENXIO` say that the interface is down or gone, `EMSGSIZE` that the
    /// frame is too long for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// Takes one Ethernet frame off the queue, cut to the buffer's length; `WouldBlock` where there is none, which is
    /// also all that is heard of an interface that is down or gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
                Err(Errno::EINTR) => {}
                // It was past the filter's place when the filter came, and not in the queue yet when that was emptied.
                Ok((_, Some(from))) if from.ifindex() != self.interface.ifindex() => {}
                heard => return Ok(heard?.0),
            }
        }
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The station that an ARP frame is from, and the address that it says it has; none where it is no ARP.
pub fn arp_sender(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    let at = ETHERTYPE as usize;
    if frame.get(at..at + 2)? != (libc::ETH_P_ARP as u16).to_be_bytes() {
        return None;
    }
    let (station, rest) = frame.get(ARP_SENDER..)?.split_first_chunk()?;
    Some((*station, Ipv4Addr::from(*rest.first_chunk::<4>()?)))
}

/// The interface's address as the C library reports it, because safe code cannot make one from a number.
fn link_address(index: u32) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter_map(|interface| interface.address?.as_link_addr().copied())
        .find(|address| usize::try_from(index) == Ok(address.ifindex()))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// What the socket hears, for the kernel's classic BPF machine (linux/filter.h).
///
/// Each jump gives the number of instructions to skip where the test holds and where it does not; the last two
/// instructions are the two ends.
const fn filter(index: u32) -> [SockFilter; 18] {
    [
        // Another interface: no.
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, packet(libc::SKF_AD_IFINDEX)),
        jump(libc::BPF_JEQ, index, 0, 15),
        // To another host (heard where the interface is promiscuous), or from this one: no.
        load_byte(packet(libc::SKF_AD_PKTTYPE)),
        jump(libc::BPF_JGE, libc::PACKET_OTHERHOST as u32, 13, 0),
        // The kernel takes a VLAN's tag off the frame before we see it. Number 0 is no VLAN, only a priority.
        load_half(packet(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, 0x0fff, 11, 0),
        // ARP: yes. Neither that nor IPv4: no.
        load_half(ETHERTYPE),
        jump(libc::BPF_JEQ, libc::ETH_P_ARP as u32, 8, 0),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 0, 8),
        // Not UDP: no.
        load_byte(IP + 9),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 6),
        // A fragment, be it the first one, is nothing that anybody could read alone: no.
        load_half(IP + 6),
        jump(libc::BPF_JSET, 0x3fff, 4, 0),
        // The length of the IP header goes to the index register; two bytes behind that header is the port.
        code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, IP),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, IP + 2),
        jump(libc::BPF_JEQ, CLIENT_PORT, 0, 1),
        // Yes: all of the frame.
        code(libc::BPF_RET | libc::BPF_K, u32::MAX),
        // No: none of it.
        code(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

/// Offsets in a frame, in bytes.
const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
const ARP_SENDER: usize = 22;
/// The DHCP client's port (RFC 2131 4.1).
const CLIENT_PORT: u32 = 68;

const fn load_byte(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)
}

const fn load_half(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)
}

const fn jump(test: u32, value: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | test | libc::BPF_K) as u16, yes, no, value)
}

const fn code(operation: u32, value: u32) -> SockFilter {
    SockFilter::new(operation as u16, 0, 0, value)
}

/// What the kernel knows of a packet beside its bytes is read at places below zero.
const fn packet(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what) as u32
}
