//! A reply that can be changed to the byte: its fields, its options in their order, and the packet
//! around it.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smoltcp::wire::{IpAddress, Ipv4Packet, UdpPacket};

use super::super::packets::Mac;
use super::Request;

/// The second octets of the addresses that are given out: before the network is renumbered and
/// after that.
pub const NETWORK: u8 = 88;
pub const OTHER_NETWORK: u8 = 77;

/// The UDP checksum of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Filled,
    /// Zero, for none (RFC 768).
    Absent,
    /// A value that no such datagram has.
    Wrong,
    /// The sum over the pseudo-header alone, as the kernel leaves it to a network card.
    Partial,
}

/// An answer of the server.
#[derive(Clone, Debug)]
pub struct Reply {
    pub kind: MessageType,
    pub htype: u8,
    pub hlen: u8,
    pub flags: u16,
    pub ciaddr: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub chaddr: [u8; 16],
    pub sname: [u8; 64],
    pub file: [u8; 128],
    xid: u32,
    /// Codes and values in the order in which they are written.
    options: Vec<(u8, Vec<u8>)>,
    /// Written behind the last option: END.
    pub end: Vec<u8>,
    /// The message is padded to this length, in bytes.
    pub shortest: usize,

    pub from: Mac,
    pub to: Mac,
    pub source: (Ipv4Addr, u16),
    pub destination: Ipv4Addr,
    pub checksum: Checksum,
    /// The options of the IPv4 header, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// Bytes behind the IPv4 packet.
    pub trailer: usize,
    /// The priority and the number of a VLAN; number 0 is none (IEEE 802.1Q 9.6).
    pub tag: Option<u16>,
    /// Splits the packet into fragments of that many bytes.
    pub fragment: Option<usize>,

    pub after: Duration,
    /// 0 for no answer at all.
    pub copies: usize,
}

impl Reply {
    pub(super) fn new(
        request: &Request,
        kind: MessageType,
        yiaddr: Ipv4Addr,
        server: (Mac, Ipv4Addr),
    ) -> Self {
        let message = &request.message;
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&request.client.0);
        let ciaddr = if kind == MessageType::Ack {
            message.ciaddr()
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        // RFC 2131 §4.1.
        let is_broadcast = kind == MessageType::Nak || message.flags().broadcast();
        let (to, destination) = if is_broadcast {
            (Mac::BROADCAST, Ipv4Addr::BROADCAST)
        } else {
            (request.client, yiaddr)
        };
        let mut reply = Self {
            kind,
            htype: 1,
            hlen: 6,
            flags: message.flags().into(),
            ciaddr,
            yiaddr,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            sname: [0; 64],
            file: [0; 128],
            xid: message.xid(),
            options: Vec::new(),
            end: vec![255],
            shortest: 300,
            from: server.0,
            to,
            source: (server.1, 67),
            destination,
            checksum: Checksum::Filled,
            ip_options: Vec::new(),
            trailer: 0,
            tag: None,
            fragment: None,
            after: Duration::ZERO,
            copies: 1,
        };
        reply.options = honest(kind, server.1, request.renumbered);
        reply
    }

    /// Gives an option this value alone.
    pub fn set(&mut self, code: u8, value: &[u8]) {
        match self.options.iter().position(|(there, _)| *there == code) {
            Some(at) => {
                self.without(&[code]);
                self.options.insert(at, (code, value.to_vec()));
            }
            None => self.add(code, value),
        }
    }

    /// Gives an option of one number of 32 bits this value alone.
    pub fn set_long(&mut self, code: u8, value: u32) {
        self.set(code, &value.to_be_bytes());
    }

    /// Leaves options out.
    pub fn without(&mut self, codes: &[u8]) {
        self.options.retain(|(code, _)| !codes.contains(code));
    }

    /// Leaves all options out but these.
    pub fn keep(&mut self, codes: &[u8]) {
        self.options.retain(|(code, _)| codes.contains(code));
    }

    /// Adds an instance of an option, behind all the others.
    pub fn add(&mut self, code: u8, value: &[u8]) {
        self.options.push((code, value.to_vec()));
    }

    /// Adds an instance of an option, before all the others.
    pub fn add_before(&mut self, code: u8, value: &[u8]) {
        self.options.insert(0, (code, value.to_vec()));
    }

    /// Repeats these options behind all the others.
    pub fn repeat(&mut self, codes: &[u8]) {
        let again: Vec<_> = self
            .options
            .iter()
            .filter(|(code, _)| codes.contains(code))
            .cloned()
            .collect();
        self.options.extend(again);
    }

    /// Repeats every option.
    pub fn repeat_all(&mut self) {
        self.options.extend_from_within(..);
    }

    /// Splits an option in two, the second part behind all other options (RFC 3396).
    pub fn halve(&mut self, code: u8) {
        let Some((_, value)) = self.options.iter_mut().find(|(there, _)| *there == code) else {
            return;
        };
        let second = value.split_off(value.len() / 2);
        self.add(code, &second);
    }

    /// Moves options into the `file` field (RFC 2132 §9.3).
    pub fn overload(&mut self, codes: &[u8]) {
        let (moved, kept) = std::mem::take(&mut self.options)
            .into_iter()
            .partition(|(code, _)| codes.contains(code));
        self.options = kept;
        self.add(52, &[1]);
        let bytes = written(&moved, &[255]);
        self.file[..bytes.len()].copy_from_slice(&bytes);
    }

    /// Returns whether it brings the settings of a lease.
    pub fn is_ack(&self) -> bool {
        self.kind == MessageType::Ack
    }

    /// Makes a NAK of it, sent to all stations.
    pub fn refuse(&mut self) {
        self.kind = MessageType::Nak;
        (self.yiaddr, self.ciaddr) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        (self.to, self.destination) = (Mac::BROADCAST, Ipv4Addr::BROADCAST);
        self.keep(&[53, 54]);
        self.set(53, &[MessageType::Nak.into()]);
    }

    pub(super) fn to_frames(&self) -> Vec<Vec<u8>> {
        let datagram = self.datagram();
        let size = self.fragment.unwrap_or(datagram.len());
        let mut frames = Vec::new();
        for (number, part) in datagram.chunks(size).enumerate() {
            let at = number * size;
            frames.push(self.frame(part, at, at + part.len() < datagram.len()));
        }
        frames
    }

    fn message(&self) -> Vec<u8> {
        let mut bytes = vec![2, self.htype, self.hlen, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.chaddr);
        bytes.extend(self.sname);
        bytes.extend(self.file);
        bytes.extend([0x63, 0x82, 0x53, 0x63]);
        bytes.extend(written(&self.options, &self.end));
        bytes.resize(bytes.len().max(self.shortest), 0);
        bytes
    }

    fn datagram(&self) -> Vec<u8> {
        let message = self.message();
        let mut bytes = vec![0; 8];
        bytes.extend(&message);
        let length = bytes.len();
        let mut datagram = UdpPacket::new_unchecked(&mut bytes[..]);
        datagram.set_src_port(self.source.1);
        datagram.set_dst_port(68);
        datagram.set_len(u16::try_from(length).expect("a datagram"));
        let (source, destination) = (
            IpAddress::Ipv4(self.source.0),
            IpAddress::Ipv4(self.destination),
        );
        match self.checksum {
            Checksum::Filled => datagram.fill_checksum(&source, &destination),
            Checksum::Absent => datagram.set_checksum(0),
            Checksum::Wrong => {
                datagram.fill_checksum(&source, &destination);
                datagram.set_checksum(datagram.checksum() ^ 0x5500);
            }
            Checksum::Partial => {
                let words = [self.source.0.octets(), self.destination.octets()].concat();
                let sum = words
                    .chunks(2)
                    .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                    .sum::<u32>();
                let sum = sum + 17 + u32::try_from(length).expect("a datagram");
                datagram.set_checksum(((sum & 0xffff) + (sum >> 16)) as u16);
            }
        }
        bytes
    }

    fn frame(&self, part: &[u8], at: usize, is_followed: bool) -> Vec<u8> {
        let header = 20 + self.ip_options.len();
        let mut ip = vec![0; header];
        ip[20..].copy_from_slice(&self.ip_options);
        let mut packet = Ipv4Packet::new_unchecked(&mut ip[..]);
        packet.set_version(4);
        packet.set_header_len(u8::try_from(header).expect("at most 60"));
        packet.set_total_len(u16::try_from(header + part.len()).expect("a packet"));
        packet.set_ident(7);
        packet.set_more_frags(is_followed);
        packet.set_frag_offset(u16::try_from(at).expect("a packet"));
        packet.set_hop_limit(64);
        packet.set_next_header(smoltcp::wire::IpProtocol::Udp);
        packet.set_src_addr(self.source.0);
        packet.set_dst_addr(self.destination);
        packet.fill_checksum();
        let tag = self
            .tag
            .map(|tag| [[0x81, 0], tag.to_be_bytes()].concat())
            .unwrap_or_default();
        [
            &self.to.0[..],
            &self.from.0,
            &tag,
            &[8, 0],
            &ip,
            part,
            &vec![0; self.trailer],
        ]
        .concat()
    }
}

/// Returns the options of an honest server.
fn honest(kind: MessageType, server: Ipv4Addr, renumbered: bool) -> Vec<(u8, Vec<u8>)> {
    let mut options = vec![(53, vec![kind.into()]), (54, server.octets().to_vec())];
    if kind == MessageType::Nak {
        return options;
    }
    let router = [10, if renumbered { OTHER_NETWORK } else { NETWORK }, 0, 1];
    options.extend([
        (51, 3600_u32.to_be_bytes().to_vec()),
        (1, vec![255, 255, 0, 0]),
        (3, router.to_vec()),
        (6, server.octets().to_vec()),
        (15, b"lab.example".to_vec()),
    ]);
    options
}

fn written(options: &[(u8, Vec<u8>)], end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (code, value) in options {
        bytes.extend([*code, u8::try_from(value.len()).expect("at most 255 bytes")]);
        bytes.extend(value);
    }
    bytes.extend(end);
    bytes
}
