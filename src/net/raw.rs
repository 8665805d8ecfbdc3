//! A packet socket that hears, on one interface, what a DHCP client must hear, and sends whole
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
use super::closing::ClosedAside;

/// An `AF_PACKET` socket for one interface (packet(7)). It never blocks: await its readiness
/// elsewhere.
#[derive(Debug)]
pub struct RawSocket {
    socket: ClosedAside,
    station: [u8; 6],
}

impl RawSocket {
    /// Opens a socket for an interface of the network namespace that this thread is in, whose DHCP
    /// client has the hardware address `station`.
    ///
    /// It hears unfragmented UDP over IPv4 to port 68 with a BOOTP reply to that station in it, and
    /// ARP once it is told [of which address](Self::hear_arp_of), addressed to this host or to
    /// several, on this network and no VLAN of it; never what this host sends.
    ///
    /// # Errors
    ///
    /// Returns `ENODEV` for an interface that does not exist, else the error of the system call. An
    /// interface that is down is no error: nothing is received there until it is up.
    pub fn open(index: u32, station: [u8; 6]) -> io::Result<Self> {
        let interface =
            link_address(index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // Without a protocol it hears nothing yet, so nothing is in its queue that is not past the
        // filter; and to bind it does not take the kernel the grace period that changing a socket
        // takes that hears already.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = ClosedAside::from(socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            flags,
            None,
        )?);
        SockRef::from(&*socket).attach_filter(&filter(station, None, ALL_FRAGMENTS))?;
        bind(socket.as_raw_fd(), &interface)?;
        Ok(Self { socket, station })
    }

    /// Hears ARP about this address from now on, from its owner or from stations that ask for it,
    /// and no other ARP. A network is full of ARP, and what the kernel throws away wakes nothing.
    ///
    /// # Errors
    ///
    /// Returns the error of setsockopt(2).
    pub fn hear_arp_of(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        SockRef::from(&*self.socket).attach_filter(&filter(self.station, address, ALL_FRAGMENTS))
    }

    /// Hears first fragments as well from now on, and no ARP: they cannot be read, and tell that a
    /// server sends fragments.
    ///
    /// # Errors
    ///
    /// Returns the error of setsockopt(2).
    pub fn hear_first_fragments(&self) -> io::Result<()> {
        SockRef::from(&*self.socket).attach_filter(&filter(self.station, None, LATER_FRAGMENTS))
    }

    /// Sends one Ethernet frame.
    ///
    /// # Errors
    ///
    /// Returns `ENETDOWN` or `ENXIO` where the interface is down or gone, and `EMSGSIZE` for a
    /// frame that is too long for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let send = || retry_on_intr(|| send(&*self.socket, frame, SendFlags::empty()));
        // The socket keeps one ENETDOWN of the past, until it is told.
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

    /// Takes one Ethernet frame off the queue, cut to the buffer's length.
    ///
    /// # Errors
    ///
    /// Returns `WouldBlock` where there is none, also where the interface is down or gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match retry_on_intr(|| recv(&*self.socket, &mut *buffer, RecvFlags::empty())) {
            // Told once for each time that the interface went down.
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

/// The station that an ARP frame is from, and the address that it says it has; none where it is no
/// ARP.
pub fn arp_sender(frame: &[u8]) -> Option<([u8; 6], Ipv4Addr)> {
    let at = ETHERTYPE as usize;
    if frame.get(at..at + 2)? != (libc::ETH_P_ARP as u16).to_be_bytes() {
        return None;
    }
    let (station, rest) = frame.get(ARP_SENDER as usize..)?.split_first_chunk()?;
    Some((*station, Ipv4Addr::from(*rest.first_chunk::<4>()?)))
}

/// Makes the address by which bind(2) knows an interface, for all protocols; none where no
/// interface can have that number.
///
/// The C library's own way to one, getifaddrs(3), asks the namespace for all its interfaces and
/// trusts the answers: twenty alternative names on one of them keep glibc busy for ever, and a
/// message of one byte has it abort the process.
#[expect(
    unsafe_code,
    reason = "no safe call makes a sockaddr_ll from the number of an interface"
)]
fn link_address(index: u32) -> Option<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        // Zero would be all interfaces.
        sll_ifindex: i32::try_from(index).ok().filter(|index| *index > 0)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).ok()?;
    // SAFETY: the pointer is to a whole sockaddr_ll that lives until the call returns, and `length`
    // is its length; the call copies it.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
}

/// Lets through what a DHCP client must hear.
///
/// Each jump gives the number of instructions to skip where the test holds and where it does not;
/// the last two instructions are the two ends. `fragments` are the bits of a packet that is no
/// use.
fn filter(station: [u8; 6], address: Option<Ipv4Addr>, fragments: u32) -> [SockFilter; 29] {
    // Without an address ARP goes straight to its no.
    let (address, arp) = address.map_or((0, 22), |address| (address.to_bits(), 17));
    let [a, b, c, d, e, f] = station;
    [
        // To another host (heard where the interface is promiscuous), or from this one: no.
        load_byte(packet(libc::SKF_AD_PKTTYPE)),
        jump(libc::BPF_JGE, libc::PACKET_OTHERHOST as u32, 26, 0),
        // The kernel takes a VLAN's tag off the frame before we see it. Number 0 is no VLAN, only a
        // priority.
        load_half(packet(libc::SKF_AD_VLAN_TAG)),
        jump(libc::BPF_JSET, 0x0fff, 24, 0),
        // ARP: see below. Neither that nor IPv4: no.
        load_half(ETHERTYPE),
        jump(libc::BPF_JEQ, libc::ETH_P_ARP as u32, arp, 0),
        jump(libc::BPF_JEQ, libc::ETH_P_IP as u32, 0, 21),
        // Not UDP: no.
        load_byte(IP + 9),
        jump(libc::BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 19),
        // A fragment, be it the first one, cannot be read alone: no.
        load_half(IP + 6),
        jump(libc::BPF_JSET, fragments, 17, 0),
        // The length of the IP header goes to the index register; two bytes behind that header is
        // the port.
        code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, IP),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, IP + 2),
        jump(libc::BPF_JEQ, CLIENT_PORT, 0, 14),
        // No reply of BOOTP, or neither to this station nor to none, as some servers write: no.
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
        // ARP of the address, whether it is the sender's or the one that is wanted: yes.
        load_word(ARP_SENDER + 6),
        jump(libc::BPF_JEQ, address, 2, 0),
        load_word(ARP_SENDER + 16),
        jump(libc::BPF_JEQ, address, 0, 1),
        bpf::ALL,
        bpf::NOTHING,
    ]
}

/// Bits of an IPv4 header (RFC 791 §3.1): the offset of a fragment, and with it the flag of one that
/// others follow.
const LATER_FRAGMENTS: u32 = 0x1fff;
const ALL_FRAGMENTS: u32 = 0x2000 | LATER_FRAGMENTS;

/// Offsets in a frame, in bytes.
const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
/// The DHCP message, where the IP header has no length.
const BOOTP: u32 = IP + 8;
/// The client's hardware address in it, and the operation at its beginning (RFC 2131 figure 1).
const CHADDR: u32 = 28;
const BOOT_REPLY: u32 = 2;
/// The station of an ARP's sender, and behind it its address, the station that is wanted, and its
/// address.
const ARP_SENDER: u32 = 22;
/// The DHCP client's port (RFC 2131 4.1).
const CLIENT_PORT: u32 = 68;

/// What the kernel knows of a packet beside its bytes is read at places below zero.
const fn packet(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_its_number_alone() {
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
        // All interfaces, and what the kernel would take for a number below zero.
        for index in [0, 1 << 31, u32::MAX] {
            assert!(link_address(index).is_none(), "{index}");
        }
    }
}
