//! Replies of servers, written with dhcproto, and their frames.

use super::*;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, Encoder};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress,
    IpProtocol, Ipv4Packet, UdpPacket,
};

/// A server's message, in reply to the client's last one.
#[derive(Clone, Debug)]
pub struct Answer {
    message: Message,
    pub late: bool,
    edit_payload: Option<fn(&mut Vec<u8>)>,
    edit_frame: Option<fn(&mut Vec<u8>)>,
}

fn answer(message_type: MessageType, options: &[DhcpOption]) -> Answer {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootReply).set_chaddr(&MAC.0);
    let answer = Answer {
        message,
        late: false,
        edit_payload: None,
        edit_frame: None,
    };
    let answer = answer
        .with(DhcpOption::MessageType(message_type))
        .with(DhcpOption::ServerIdentifier(SERVER));
    options.iter().cloned().fold(answer, Answer::with)
}

pub fn lease_options(time: Duration) -> [DhcpOption; 3] {
    [
        DhcpOption::AddressLeaseTime(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![SERVER]),
    ]
}

pub fn offer(ip: Ipv4Addr) -> Answer {
    answer(MessageType::Offer, &lease_options(hours(1))).of(ip)
}

/// An offer without settings.
pub fn bare_offer(ip: Ipv4Addr) -> Answer {
    offer(ip)
        .without(OptionCode::SubnetMask)
        .without(OptionCode::Router)
}

pub fn ack(ip: Ipv4Addr, time: Duration) -> Answer {
    answer(MessageType::Ack, &lease_options(time)).of(ip)
}

pub fn nak() -> Answer {
    answer(MessageType::Nak, &[])
}

impl Answer {
    pub fn of(mut self, ip: Ipv4Addr) -> Self {
        self.message.set_yiaddr(ip);
        self
    }

    pub fn from(self, server: Ipv4Addr) -> Self {
        self.with(DhcpOption::ServerIdentifier(server))
    }

    pub fn with(mut self, option: DhcpOption) -> Self {
        self.message.opts_mut().insert(option);
        self
    }

    pub fn without(mut self, code: OptionCode) -> Self {
        self.message.opts_mut().remove(code);
        self
    }

    /// Replies to the transaction before the last one.
    pub fn late(self) -> Self {
        Self { late: true, ..self }
    }

    pub fn message(mut self, edit: impl FnOnce(&mut Message)) -> Self {
        edit(&mut self.message);
        self
    }

    pub fn payload(self, edit: fn(&mut Vec<u8>)) -> Self {
        Self {
            edit_payload: Some(edit),
            ..self
        }
    }

    pub fn frame(self, edit: fn(&mut Vec<u8>)) -> Self {
        Self {
            edit_frame: Some(edit),
            ..self
        }
    }

    pub fn payload_for(&self, xid: u32) -> Vec<u8> {
        let mut message = self.message.clone();
        message.set_xid(xid);
        let mut payload = Vec::new();
        message.encode(&mut Encoder::new(&mut payload)).unwrap();
        self.edit_payload.inspect(|edit| edit(&mut payload));
        payload
    }

    pub fn write(&self, xid: u32) -> Vec<u8> {
        let mut frame = server_frame(&self.payload_for(xid), SERVER, self.message.yiaddr());
        self.edit_frame.inspect(|edit| edit(&mut frame));
        frame
    }
}

/// A frame from the server's port 67 to the client's port 68.
pub fn server_frame(payload: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; 14 + 20 + 8 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_src_addr(EthernetAddress(SERVER_MAC.0));
    frame.set_dst_addr(EthernetAddress(MAC.0));
    frame.set_ethertype(EthernetProtocol::Ipv4);
    let mut ip = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(28 + payload.len() as u16);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Udp);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    ip.fill_checksum();
    let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
    udp.set_src_port(67);
    udp.set_dst_port(68);
    udp.set_len(8 + payload.len() as u16);
    udp.payload_mut().copy_from_slice(payload);
    udp.fill_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to));
    bytes
}

/// Returns the ARP reply of `at`, which has `address`.
pub fn arp_reply(address: Ipv4Addr, at: Mac) -> Vec<u8> {
    arp(ArpOperation::Reply, (at, address), (MAC, IP))
}

/// Returns the same reply, addressed to another station.
pub fn arp_reply_to_another(address: Ipv4Addr, at: Mac) -> Vec<u8> {
    arp(
        ArpOperation::Reply,
        (at, address),
        (Mac([2, 0, 0, 0, 0, 0x33]), UNSPECIFIED),
    )
}

/// Returns the ARP probe of `at` for an address.
pub fn arp_probe(address: Ipv4Addr, at: Mac) -> Vec<u8> {
    let mut frame = arp_probe_by_unicast(address, at);
    frame[..6].copy_from_slice(&BROADCAST_MAC.0);
    frame
}

/// Returns the same probe as a unicast to the client.
pub fn arp_probe_by_unicast(address: Ipv4Addr, at: Mac) -> Vec<u8> {
    arp(
        ArpOperation::Request,
        (at, UNSPECIFIED),
        (Mac::UNSPECIFIED, address),
    )
}

fn arp(operation: ArpOperation, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let packet = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    };
    let mut bytes = vec![0; 14 + 28];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_src_addr(EthernetAddress(sender.0.0));
    frame.set_dst_addr(EthernetAddress(MAC.0));
    frame.set_ethertype(EthernetProtocol::Arp);
    packet.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}
