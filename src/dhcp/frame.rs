//! Ethernet, ARP, IPv4 and UDP around a DHCP message, in both directions. No received byte can
//! cause a panic.

use super::ignored::Ignored;
use crate::mac::Mac;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DHCP_CLIENT_PORT, DHCP_SERVER_PORT, EthernetAddress,
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, UdpPacket,
};
use std::net::Ipv4Addr;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// The length of the IP and UDP headers around a message.
pub(super) const HEADERS: u16 = (IPV4 + UDP) as u16;

/// The content of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    /// The payload of a UDP datagram to port 68, its sender on this link, and its source address.
    Dhcp {
        payload: &'a [u8],
        from: (Mac, Ipv4Addr),
        /// The UDP checksum is correct, or not filled in.
        is_intact: bool,
    },
    /// An ARP request or reply.
    Arp(Arp),
}

/// An ARP packet (RFC 826). A request, too, claims its sender's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) is_reply: bool,
    pub(super) sender: (Mac, Ipv4Addr),
    /// The address to resolve; in a reply, the station that asked.
    pub(super) target: (Mac, Ipv4Addr),
    /// Sent by Ethernet broadcast.
    pub(super) to_all: bool,
}

impl Arp {
    /// Makes the ARP probe of `mac` for `address`, with the sender address 0.0.0.0
    /// (RFC 2131 §4.4.1, RFC 5227 §2.1.1).
    pub(super) fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self::request((mac, Ipv4Addr::UNSPECIFIED), address)
    }

    /// Makes the announcement that `mac` has `address`, for the caches of its neighbours
    /// (RFC 5227 §2.3).
    pub(super) fn announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self::request((mac, address), address)
    }

    /// Makes the request for the station that has `wanted`.
    pub(super) fn request(sender: (Mac, Ipv4Addr), wanted: Ipv4Addr) -> Self {
        Self {
            is_reply: false,
            sender,
            target: (Mac::UNSPECIFIED, wanted),
            to_all: true,
        }
    }

    /// Returns whether it is an ARP probe (RFC 5227 §1.1).
    pub(super) fn is_probe(self) -> bool {
        !self.is_reply && self.sender.1.is_unspecified()
    }

    /// Returns whether the packet conflicts with our use of `address`: its sender has it, or probes
    /// for it.
    pub(super) fn conflicts_with(self, address: Ipv4Addr) -> bool {
        // A station that probes for an address will use it as soon as we do (RFC 5227 §2.1.1).
        // Deviation: a unicast probe is ignored, because some switches send one to each port to
        // track its devices.
        let is_probe = !self.is_reply
            && self.to_all
            && self.sender.1.is_unspecified()
            && self.target.1 == address;
        self.sender.1 == address || is_probe
    }

    /// Returns the packet as an Ethernet broadcast.
    pub(super) fn write(self) -> Vec<u8> {
        let representation = ArpRepr::EthernetIpv4 {
            operation: if self.is_reply {
                ArpOperation::Reply
            } else {
                ArpOperation::Request
            },
            source_hardware_addr: EthernetAddress(self.sender.0.0),
            source_protocol_addr: self.sender.1,
            target_hardware_addr: EthernetAddress(self.target.0.0),
            target_protocol_addr: self.target.1,
        };
        let mut buffer = vec![0; ETHERNET + representation.buffer_len()];
        let mut ethernet = ethernet(
            &mut buffer,
            self.sender.0,
            Mac::BROADCAST,
            EthernetProtocol::Arp,
        );
        representation.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        buffer
    }
}

/// Removes the headers of a frame that `mac` received.
///
/// The IPv4 destination is not checked: a server may send to an address that we do not have yet
/// (RFC 2131 §4.1), and `chaddr` names the client. Neither is the source port, because some relays
/// use another one.
pub(super) fn parse(frame: &[u8], mac: Mac) -> Result<Payload<'_>, Ignored> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Ignored::Malformed)?;
    if ![mac, Mac::BROADCAST].contains(&Mac(ethernet.dst_addr().0)) {
        return Err(Ignored::NotForUs);
    }
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => parse_ipv4(ethernet.payload(), Mac(ethernet.src_addr().0)),
        EthernetProtocol::Arp => parse_arp(
            ethernet.payload(),
            ethernet.dst_addr().0 == Mac::BROADCAST.0,
        ),
        EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => Err(Ignored::NotDhcp),
    }
}

fn parse_ipv4(packet: &[u8], from: Mac) -> Result<Payload<'_>, Ignored> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| Ignored::Malformed)?;
    if ip.version() != 4 {
        return Err(Ignored::Malformed);
    }
    if ip.next_header() != IpProtocol::Udp {
        return Err(Ignored::NotDhcp);
    }
    if !ip.verify_checksum() {
        return Err(Ignored::Checksum);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Err(Ignored::Fragment);
    }
    let udp = UdpPacket::new_checked(ip.payload()).map_err(|_| Ignored::Malformed)?;
    if udp.dst_port() != DHCP_CLIENT_PORT {
        return Err(Ignored::NotDhcp);
    }
    // Between interfaces of one host (veth, macvlan) the kernel leaves the checksum to a network
    // card, and there is none: the field contains the sum over the pseudo-header only. That is no
    // damage.
    let (source, destination) = (
        IpAddress::Ipv4(ip.src_addr()),
        IpAddress::Ipv4(ip.dst_addr()),
    );
    let is_intact = udp.verify_checksum(&source, &destination)
        || udp.verify_partial_checksum(&source, &destination);
    Ok(Payload::Dhcp {
        payload: udp.payload(),
        from: (from, ip.src_addr()),
        is_intact,
    })
}

/// Reads an ARP packet, sent to us or to all (RFC 5227 §1.2.1).
fn parse_arp<'a>(packet: &[u8], to_all: bool) -> Result<Payload<'a>, Ignored> {
    let packet = ArpPacket::new_checked(packet).map_err(|_| Ignored::Malformed)?;
    let ArpRepr::EthernetIpv4 {
        operation: operation @ (ArpOperation::Request | ArpOperation::Reply),
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).map_err(|_| Ignored::NotDhcp)?
    else {
        return Err(Ignored::NotDhcp);
    };
    Ok(Payload::Arp(Arp {
        is_reply: operation == ArpOperation::Reply,
        sender: (Mac(source_hardware_addr.0), source_protocol_addr),
        target: (Mac(target_hardware_addr.0), target_protocol_addr),
        to_all,
    }))
}

/// Makes an Ethernet frame of the payload of a [`Transmit::Datagram`](super::Transmit::Datagram),
/// from `source` (port 68) to `destination` (port 67: RFC 2131 §4.1), for use when UDP port 68 is
/// taken.
///
/// A payload that exceeds an IPv4 datagram is truncated. No message of the client is that long.
pub fn frame(payload: &[u8], source: (Mac, Ipv4Addr), destination: (Mac, Ipv4Addr)) -> Vec<u8> {
    let payload = &payload[..payload.len().min(usize::from(u16::MAX) - IPV4 - UDP)];
    let mut buffer = vec![0; ETHERNET + IPV4 + UDP + payload.len()];

    let mut ethernet = ethernet(&mut buffer, source.0, destination.0, EthernetProtocol::Ipv4);
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.set_version(4);
    ip.set_header_len(IPV4 as u8);
    ip.set_total_len((IPV4 + UDP + payload.len()) as u16);
    ip.set_dont_frag(true);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Udp);
    ip.set_src_addr(source.1);
    ip.set_dst_addr(destination.1);
    ip.fill_checksum();

    let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
    udp.set_src_port(DHCP_CLIENT_PORT);
    udp.set_dst_port(DHCP_SERVER_PORT);
    udp.set_len((UDP + payload.len()) as u16);
    udp.payload_mut().copy_from_slice(payload);
    udp.fill_checksum(&IpAddress::Ipv4(source.1), &IpAddress::Ipv4(destination.1));
    buffer
}

fn ethernet(
    buffer: &mut [u8],
    from: Mac,
    to: Mac,
    protocol: EthernetProtocol,
) -> EthernetFrame<&mut [u8]> {
    let mut ethernet = EthernetFrame::new_unchecked(buffer);
    ethernet.set_src_addr(EthernetAddress(from.0));
    ethernet.set_dst_addr(EthernetAddress(to.0));
    ethernet.set_ethertype(protocol);
    ethernet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const US: Mac = Mac([2, 0, 0, 0, 0, 5]);

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The other end reads what was written: the ports change places, and the checksum stays.
        #[test]
        fn a_written_frame_is_read(
            payload in vec(any::<u8>(), 0..1500),
            (from, source, destination) in any::<([u8; 6], [u8; 4], [u8; 4])>(),
        ) {
            let from = Mac(from);
            let mut bytes = frame(&payload, (from, source.into()), (US, destination.into()));
            prop_assert_eq!(parse(&bytes, US), Err(Ignored::NotDhcp), "it is addressed to a server");
            bytes[34..38].rotate_left(2);
            let from = (from, source.into());
            prop_assert_eq!(parse(&bytes, US), Ok(Payload::Dhcp { payload: &payload, from, is_intact: true }));
        }

        /// A flipped bit under a checksum is damage; in the source MAC it makes another station.
        #[test]
        fn a_flipped_bit_is_noticed(
            payload in vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut bytes = frame(&payload, (US, Ipv4Addr::LOCALHOST), (US, Ipv4Addr::LOCALHOST));
            bytes[34..38].rotate_left(2);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let is_in_source_mac = (6..12).contains(&at);
            let is_intact = match parse(&bytes, US) {
                Ok(Payload::Dhcp { is_intact, .. }) => is_intact,
                _ => false,
            };
            prop_assert_eq!(is_intact, is_in_source_mac);
        }

        #[test]
        fn arp_is_read_as_written(
            is_reply in any::<bool>(),
            sender in any::<([u8; 6], [u8; 4])>(),
            target in any::<([u8; 6], [u8; 4])>(),
        ) {
            let (sender, target) = ((Mac(sender.0), sender.1.into()), (Mac(target.0), target.1.into()));
            let arp = Arp { is_reply, sender, target, to_all: true };
            let bytes = arp.write();
            prop_assert_eq!(parse(&bytes, US), Ok(Payload::Arp(arp)));
        }
    }
}
