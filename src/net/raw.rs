//! A packet socket that receives the frames for a DHCP client on one interface, and sends whole
//! Ethernet frames.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{LinkAddr, SockaddrLike, bind};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use socket2::{SockFilter, SockRef};

use super::bpf::{self, code, jump, load_byte, load_half, load_word};
use super::closing::DeferredClose;

/// An `AF_PACKET` socket for one interface (packet(7)). It never blocks: await its readiness
/// elsewhere.
#[derive(Debug)]
pub struct RawSocket {
    socket: DeferredClose,
    station: [u8; 6],
}

impl RawSocket {
    /// Opens a socket for the interface `index` of this thread's network namespace. The DHCP client
    /// has the hardware address `station`.
    ///
    /// The socket receives unfragmented UDP over IPv4 to port 68 with a BOOTP reply for that
    /// station, and ARP for the address of [`set_arp_filter`](Self::set_arp_filter). Frames may be
    /// unicast, multicast or broadcast, but without a VLAN tag, and not sent by this host.
    ///
    /// # Errors
    ///
    /// Returns `ENODEV` for a missing interface, otherwise the error of the system call. An
    /// interface that is down is not an error: it receives nothing until it is up.
    pub fn open(index: u32, station: [u8; 6]) -> io::Result<Self> {
        let interface =
            link_address(index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // Without a protocol the socket receives nothing before bind(2), so no frame in its queue
        // has bypassed the filter. And bind(2) does not have to wait for the kernel's grace period,
        // as it does for a socket that receives already.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = DeferredClose::from(socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            flags,
            None,
        )?);
        SockRef::from(&*socket).attach_filter(&filter(station, None, ALL_FRAGMENTS))?;
        bind(socket.as_raw_fd(), &interface)?;
        Ok(Self { socket, station })
    }

    /// Sets the filter for ARP: from now on the socket receives ARP with this sender or target
    /// address, and no other ARP. Networks carry much ARP, and a frame that the kernel drops wakes
    /// no task.
    ///
    /// # Errors
    ///
    /// Returns the error of setsockopt(2).
    pub fn set_arp_filter(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        SockRef::from(&*self.socket).attach_filter(&filter(self.station, address, ALL_FRAGMENTS))
    }

    /// Receives first fragments, too, from now on, and no ARP. They cannot be read, and tell that a
    /// server sends fragments.
    ///
    /// # Errors
    ///
    /// Returns the error of setsockopt(2).
    pub fn accept_first_fragments(&self) -> io::Result<()> {
        SockRef::from(&*self.socket).attach_filter(&filter(self.station, None, LATER_FRAGMENTS))
    }

    /// Sends one Ethernet frame.
    ///
    /// # Errors
    ///
    /// Returns `ENETDOWN` or `ENXIO` if the interface is down or gone, and `EMSGSIZE` for a frame
    /// above its MTU.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let send = || retry_on_intr(|| send(&*self.socket, frame, SendFlags::empty()));
        // The first ENETDOWN may be of the past: the socket reports it once.
        Ok(send()
            .or_else(|errno| {
                if errno == Errno::NETDOWN {
                    send()
                } else {
                    Err(errno)
                }
            })
            .map(drop)?)
    }

    /// Receives one Ethernet frame, truncated to the length of the buffer.
    ///
    /// # Errors
    ///
    /// Returns `WouldBlock` if there is none, even if the interface is down or gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match retry_on_intr(|| recv(&*self.socket, &mut *buffer, RecvFlags::empty())) {
            // Reported once each time that the interface goes down.
            Err(Errno::NETDOWN) => Err(io::ErrorKind::WouldBlock.into()),
            received => Ok(received?.0),
        }
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the sender's hardware address and IPv4 address of an ARP frame, or `None` for any other
/// frame.
pub fn arp_sender(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    let at = ETHERTYPE as usize;
    if frame.get(at..at + 2)? != (libc::ETH_P_ARP as u16).to_be_bytes() {
        return None;
    }
    let (station, rest) = frame.get(ARP_SENDER as usize..)?.split_first_chunk()?;
    Some((*station, Ipv4Addr::from(*rest.first_chunk::<4>()?)))
}

/// Returns the address of an interface for bind(2), for all protocols, or `None` for an invalid
/// index.
///
/// getifaddrs(3) of the C library is no alternative: it queries all interfaces of the namespace and
/// trusts the answers. Twenty alternative names of one interface make glibc loop for ever, and a
/// message of one byte makes it abort the process.
#[expect(
    unsafe_code,
    reason = "no safe function makes a sockaddr_ll from an interface index"
)]
fn link_address(index: u32) -> Option<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        // Zero would mean all interfaces.
        sll_ifindex: i32::try_from(index).ok().filter(|index| *index > 0)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).ok()?;
    // SAFETY: the pointer is to a complete sockaddr_ll that is valid until the call returns, and
    // `length` is its length. The call copies it.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
}

/// Returns a filter that accepts the frames for a DHCP client.
///
/// Each [`jump`] has the numbers of instructions to skip. The last two instructions accept and drop.
/// A packet with one of the bits `fragments` is dropped.
fn filter(station: [u8; 6], address: Option<Ipv4Addr>, fragments: u32) -> [SockFilter; 29] {
    // Without an address all ARP is dropped.
    let (address, arp) = address.map_or((0, 22), |address| (address.to_bits(), 17));
    let [a, b, c, d, e, f] = station;
    [
        // Drop: to another host (in promiscuous mode), or from this host.
        load_byte(packet(libc::SKF_AD_PKTTYPE)),
        jump(libc::BPF_JGE, libc::PACKET_OTHERHOST as u32, 26, 0),
        // Drop: a VLAN tag, which the kernel has removed from the frame. VLAN 0 is only a priority.
        load_half(packet(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, 0x0fff, 24, 0),
        // ARP continues below. Drop: neither ARP nor IPv4.
        load_half(ETHERTYPE),
        jump(libc::BPF_JEQ, libc::ETH_P_ARP as u32, arp, 0),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 0, 21),
        // Drop: not UDP.
        load_byte(IP + 9),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 19),
        // Drop: a fragment, even the first one.
        load_half(IP + 6),
        jump(libc::BPF_JSET, fragments, 17, 0),
        // Drop: another destination port. The length of the IP header goes to the index register;
        // the port is two bytes after that header.
        code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, IP),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, IP + 2),
        jump(libc::BPF_JEQ, CLIENT_PORT, 0, 14),
        // Drop: not a BOOTP reply, or for another station. Some servers send an all-zero station.
        code(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, BOOTP),
        jump(libc::BPF_JEQ, BOOT_REPLY, 0, 12),
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, BOOTP + CHADDR),
        jump(libc::BPF_JEQ, u32::from_be_bytes([a, b, c, d]), 1, 0),
        jump(libc::BPF_JEQ, 0, 2, 9),
        code(
            libc::BPF_LD | libc::BPF_H | libc::BPF_IND,
            BOOTP + CHADDR + 4,
        ),
        jump(libc::BPF_JEQ, u32::from_be_bytes([0, 0, e, f]), 6, 7),
        code(
            libc::BPF_LD | libc::BPF_H | libc::BPF_IND,
            BOOTP + CHADDR + 4,
        ),
        jump(libc::BPF_JEQ, 0, 4, 5),
        // Accept: ARP with the address as its sender or its target.
        load_word(ARP_SENDER + 6),
        jump(libc::BPF_JEQ, address, 2, 0),
        load_word(ARP_SENDER + 16),
        jump(libc::BPF_JEQ, address, 0, 1),
        bpf::ALL,
        bpf::NOTHING,
    ]
}

/// Bits of an IPv4 header (RFC 791 §3.1): the offset of a fragment, and with it the flag that
/// others follow.
const LATER_FRAGMENTS: u32 = 0x1fff;
const ALL_FRAGMENTS: u32 = 0x2000 | LATER_FRAGMENTS;

/// Offsets in a frame, in bytes.
const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
/// The DHCP message, less the length of the IP header.
const BOOTP: u32 = IP + 8;
/// `chaddr` in the message, and the value of `op` at its beginning (RFC 2131 figure 1).
const CHADDR: u32 = 28;
const BOOT_REPLY: u32 = 2;
/// The sender's hardware address of an ARP packet. The sender's IPv4 address, the target's hardware
/// address and the target's IPv4 address follow.
const ARP_SENDER: u32 = 22;
/// The DHCP client's port (RFC 2131 §4.1).
const CLIENT_PORT: u32 = 68;

/// Returns the negative offset at which a filter reads the kernel's metadata of a packet.
const fn packet(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_addressed_by_its_index_alone() {
        let address = link_address(0x0102_0304).unwrap();
        assert_eq!(
            (address.ifindex(), address.protocol()),
            (0x0102_0304, (libc::ETH_P_ALL as u16).to_be())
        );
        assert_eq!(
            address.family().map(|family| family as i32),
            Some(libc::AF_PACKET)
        );
        assert_eq!(
            (
                address.hatype(),
                address.pkttype(),
                address.halen(),
                address.addr()
            ),
            (0, 0, 0, Some([0; 6]))
        );
        assert_eq!(
            link_address(i32::MAX as u32).unwrap().ifindex(),
            i32::MAX as usize
        );
        // All interfaces, and indexes that are negative for the kernel.
        for index in [0, 1 << 31, u32::MAX] {
            assert!(link_address(index).is_none(), "{index}");
        }
    }
}
