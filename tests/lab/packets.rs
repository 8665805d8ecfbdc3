//! Frames on a link, seen and sent through a packet socket: what the server and the forwarder are
//! made of.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind,
    recvfrom, send, socket,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::Result;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let parts = text.split(':').map(|part| u8::from_str_radix(part, 16));
        let bytes: Vec<u8> = parts
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| "not a MAC")?;
        bytes.try_into().map(Self).map_err(|_| "not a MAC")
    }
}

/// A packet socket on one link of the namespace that it was opened in: it hears every frame,
/// foreign ones too.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    pub mac: Mac,
}

impl Tap {
    /// Opens a tap on the link `name` of the current namespace.
    pub fn open(name: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            flags,
            SockProtocol::EthAll,
        )?;
        // getifaddrs(3) is the safe way to a sockaddr_ll; its protocol of 0 keeps the one of the
        // socket (packet(7)).
        let address = getifaddrs()?
            .filter(|link| link.interface_name == name)
            .find_map(|link| link.address?.as_link_addr().copied())
            .ok_or_else(|| format!("no link {name}"))?;
        bind(socket.as_raw_fd(), &address)?;
        let tap = Self {
            socket,
            mac: Mac(address.addr().unwrap_or_default()),
        };
        // What came in between the two calls may be from any link.
        while tap.receive()?.is_some() {}
        Ok(tap)
    }

    /// The next frame that others sent, if one waits.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        const OUTGOING: u8 = 4; // PACKET_OUTGOING: sent by this machine.
        let mut frame = vec![0; 1 << 16];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((_, Some(from))) if from.family().is_some() && from.pkttype() == OUTGOING => {}
                Ok((length, _)) => {
                    frame.truncate(length);
                    return Ok(Some(frame));
                }
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                // The link went down; it may come up again.
                Err(nix::errno::Errno::ENETDOWN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The frame in which `by` answers `to` by ARP that it has `address`. A broadcast would come to a
/// macvlan later than what is sent to it alone: the kernel hands those on in the background.
pub fn arp_claim(by: Mac, address: Ipv4Addr, to: Mac) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(by.0),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress(to.0),
        target_protocol_addr: Ipv4Addr::UNSPECIFIED,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(by.0),
        dst_addr: EthernetAddress(to.0),
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Returns the sender of an ARP request and the requested address; `None` for other frames.
pub fn arp_question(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    arp_request(frame).map(|(from, _, wanted)| (from, wanted))
}

/// The station and the address that an ARP request comes from, and the address that it asks for, if
/// a frame is one. In an announcement both addresses are the same.
pub fn arp_request(frame: &[u8]) -> Option<(Mac, Ipv4Addr, Ipv4Addr)> {
    let frame = EthernetFrame::new_checked(frame)
        .ok()
        .filter(|frame| frame.ethertype() == EthernetProtocol::Arp)?;
    match ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } => Some((
            Mac(source_hardware_addr.0),
            source_protocol_addr,
            target_protocol_addr,
        )),
        _ => None,
    }
}

/// A UDP datagram with the addresses of its frame.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: Mac,
    pub to: Mac,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Parses a frame; `None` without UDP over IPv4. The UDP checksum is ignored: a veth does not
    /// compute it.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        if frame.ethertype() != EthernetProtocol::Ipv4 || packet.next_header() != IpProtocol::Udp {
            return None;
        }
        let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
        Some(Self {
            from: Mac(frame.src_addr().0),
            to: Mac(frame.dst_addr().0),
            source: SocketAddrV4::new(packet.src_addr(), datagram.src_port()),
            destination: SocketAddrV4::new(packet.dst_addr(), datagram.dst_port()),
            payload: datagram.payload().to_vec(),
        })
    }

    /// Writes the frame, every checksum filled.
    pub fn to_frame(&self) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.from.0),
            dst_addr: EthernetAddress(self.to.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        let udp = UdpRepr {
            src_port: self.source.port(),
            dst_port: self.destination.port(),
        };
        let (source, destination): (Ipv4Addr, Ipv4Addr) =
            (*self.source.ip(), *self.destination.ip());
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + self.payload.len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
        let mut out = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.emit(&mut out);
        let mut packet = Ipv4Packet::new_unchecked(out.payload_mut());
        ip.emit(&mut packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        udp.emit(
            &mut datagram,
            &source.into(),
            &destination.into(),
            self.payload.len(),
            |payload| payload.copy_from_slice(&self.payload),
            &checksums,
        );
        frame
    }
}

/// Fills the UDP checksum that the sender left to a network card that it does not have.
pub fn fill_udp_checksum(frame: &mut [u8]) {
    let Ok(mut frame) = EthernetFrame::new_checked(frame) else {
        return;
    };
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return;
    }
    let Ok(mut packet) = Ipv4Packet::new_checked(frame.payload_mut()) else {
        return;
    };
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if packet.next_header() == IpProtocol::Udp
        && !packet.more_frags()
        && packet.frag_offset() == 0
        && let Ok(mut datagram) = UdpPacket::new_checked(packet.payload_mut())
    {
        datagram.fill_checksum(&source.into(), &destination.into());
    }
}
