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

use super::closing::ClosedAside;

/// An `AF_PACKET` socket for one interface (packet(7)). It never blocks: await its readiness elsewhere.
#[derive(Debug)]
pub struct RawSocket {
    socket: ClosedAside,
    interface: LinkAddr,
    index: u32,
}

impl RawSocket {
    /// Opens a socket for an interface of the network namespace that this thread is in.
    ///
    /// It hears unfragmented UDP over IPv4 to port 68, and ARP once it is told [of whom](Self::hear_arp_of), addressed to
    /// this host or to several, on this network and no VLAN of it; never what this host sends.
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
        SockRef::from(&socket).attach_filter(&filter(index, None))?;
        // Throws away what arrived before the filter was in place.
        loop {
            match recv(&socket, &interface, &mut []) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                thrown => thrown?,
            };
        }
        Ok(Self { socket: socket.into(), interface, index })
    }

    /// Hears ARP about this address from now on, by whoever has it or asks for it, and no other. A network is full of ARP,
    /// and what the kernel throws away wakes nobody.
    pub fn hear_arp_of(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        SockRef::from(&*self.socket).attach_filter(&filter(self.index, address))
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
        recv(&self.socket, &self.interface, buffer)
    }
}

fn recv(socket: &OwnedFd, interface: &LinkAddr, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer) {
            Err(Errno::EINTR) => {}
            // It was past the filter's place when the filter came, and not in the queue yet when that was emptied.
            Ok((_, Some(from))) if from.ifindex() != interface.ifindex() => {}
            heard => return Ok(heard?.0),
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
    let (station, rest) = frame.get(ARP_SENDER as usize..)?.split_first_chunk()?;
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
fn filter(index: u32, address: Option<Ipv4Addr>) -> [SockFilter; 22] {
    // Without an address ARP goes straight to its no.
    let (address, arp) = address.map_or((0, 13), |address| (address.to_bits(), 8));
    [
        // Another interface: no.
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, packet(libc::SKF_AD_IFINDEX)),
        jump(libc::BPF_JEQ, index, 0, 19),
        // To another host (heard where the interface is promiscuous), or from this one: no.
        load_byte(packet(libc::SKF_AD_PKTTYPE)),
        jump(libc::BPF_JGE, libc::PACKET_OTHERHOST as u32, 17, 0),
        // The kernel takes a VLAN's tag off the frame before we see it. Number 0 is no VLAN, only a priority.
        load_half(packet(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, 0x0fff, 15, 0),
        // ARP: see below. Neither that nor IPv4: no.
        load_half(ETHERTYPE),
        jump(libc::BPF_JEQ, libc::ETH_P_ARP as u32, arp, 0),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 0, 12),
        // Not UDP: no.
        load_byte(IP + 9),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 10),
        // A fragment, be it the first one, is nothing that anybody could read alone: no.
        load_half(IP + 6),
        jump(libc::BPF_JSET, 0x3fff, 8, 0),
        // The length of the IP header goes to the index register; two bytes behind that header is the port.
        code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, IP),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, IP + 2),
        jump(libc::BPF_JEQ, CLIENT_PORT, 4, 5),
        // ARP of the address, whether it is the sender's or the one that is wanted: yes.
        load_word(ARP_SENDER + 6),
        jump(libc::BPF_JEQ, address, 2, 0),
        load_word(ARP_SENDER + 16),
        jump(libc::BPF_JEQ, address, 0, 1),
        // Yes: all of the frame.
        code(libc::BPF_RET | libc::BPF_K, u32::MAX),
        // No: none of it.
        code(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

/// Offsets in a frame, in bytes.
const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
/// The station of an ARP's sender, and behind it its address, the station that is wanted, and its address.
const ARP_SENDER: u32 = 22;
/// The DHCP client's port (RFC 2131 4.1).
const CLIENT_PORT: u32 = 68;

const fn load_byte(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)
}

const fn load_half(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)
}

const fn load_word(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
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
