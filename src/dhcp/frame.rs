//! Ethernet, ARP, IPv4 and UDP around a DHCP message, in both directions; nothing here can panic on
//! what a network sends.

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
/// The headers of IP and UDP around a message.
pub(super) const HEADERS: u16 = (IPV4 + UDP) as u16;

/// What a frame turned out to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    /// The payload of a UDP datagram to port 68, the station that put it on this link, and the
    /// address it is from.
    Dhcp {
        payload: &'a [u8],
        from: (Mac, Ipv4Addr),
        /// The UDP checksum is right, or was left out.
        is_intact: bool,
    },
    /// An ARP request or reply.
    Arp(Arp),
}

/// An ARP packet (RFC 826). Whether it asks or answers, its sender claims the sender's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) is_reply: bool,
    pub(super) sender: (Mac, Ipv4Addr),
    /// The address whose station is wanted; in a reply, the station that is told.
    pub(super) target: (Mac, Ipv4Addr),
    /// Sent to all on the link, and not to us alone.
    pub(super) to_all: bool,
}

impl Arp {
    /// Makes the request of `mac`, which has no address yet, for any station that has `address`
    /// (RFC 2131 §4.4.1, RFC 5227 §2.1.1).
    pub(super) fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self::request((mac, Ipv4Addr::UNSPECIFIED), address)
    }

    /// The news that `mac` has `address` from now on, for the caches of its neighbours (RFC 5227
    /// §2.3).
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

    /// Returns whether the packet is about the use of `address`: its sender has it, or probes for
    /// it.
    pub(super) fn conflicts_with(self, address: Ipv4Addr) -> bool {
        // A station that probes for an address that is not in use yet would use it as soon as we do
        // (RFC 5227 §2.1.1). Some switches ask each port by unicast after the addresses behind it,
        // which is no such probe.
        let is_probe = !self.is_reply
            && self.to_all
            && self.sender.1.is_unspecified()
            && self.target.1 == address;
        self.sender.1 == address || is_probe
    }

    /// As a frame to all on the link.
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

/// Takes off the headers of a frame that `mac` has heard.
///
/// The IPv4 destination is not looked at: a server may send to an address that we do not have yet
/// (RFC 2131 §4.1); whose reply it is, the message itself says. Nor is the source port: relays take
/// liberties with it.
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
    // card that is not there: the field then still holds the bare sum over the pseudo-header. That
    // is no damage; anything else is.
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

/// Reads an ARP packet, be it sent to us or to all (RFC 5227 §1.2.1).
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

/// Wraps the payload of a [`Transmit::Datagram`](super::Transmit::Datagram) into an Ethernet frame
/// from `source` (port 68) to `destination` (port 67: RFC 2131 §4.1), for where the kernel cannot
/// send it because its port 68 is taken.
///
/// What exceeds an IPv4 datagram is cut off; a DHCP client's messages never do.
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

        /// What is wrapped is unwrapped again, at the other end: a frame's ports change places, and
        /// its sum stays.
        #[test]
        fn what_is_wrapped_is_opened(
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

        /// One flipped bit anywhere under a checksum is damage, and one in the Ethernet header
        /// is of another station.
        #[test]
        fn no_single_bit_is_lost(
            payload in vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut bytes = frame(&payload, (US, Ipv4Addr::LOCALHOST), (US, Ipv4Addr::LOCALHOST));
            bytes[34..38].rotate_left(2);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let from_somebody_else = (6..12).contains(&at);
            let is_intact = match parse(&bytes, US) {
                Ok(Payload::Dhcp { is_intact, .. }) => is_intact,
                _ => false,
            };
            prop_assert_eq!(is_intact, from_somebody_else);
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
