//! The messages of the client, read with dhcproto, an independent implementation of the RFCs.

use super::*;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder};
use smol_dhcp_proxy::dhcp::Transmit;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Ipv4Packet, UdpPacket,
};

/// The fields of a client's message that tests compare. [`Said::read`] checks the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    what: String,
    ciaddr: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    path: Path,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Path {
    /// A frame to a station, and the addresses in it.
    Frame {
        to: Mac,
        from_ip: Ipv4Addr,
        to_ip: Ipv4Addr,
    },
    /// A datagram for a UDP socket.
    Datagram { from_ip: Ipv4Addr, to_ip: Ipv4Addr },
}

fn said(
    what: &str,
    ciaddr: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
) -> Said {
    let path = Path::Frame {
        to: BROADCAST_MAC,
        from_ip: ciaddr,
        to_ip: Ipv4Addr::BROADCAST,
    };
    Said {
        what: what.to_owned(),
        ciaddr,
        requested,
        server,
        path,
    }
}

pub fn discover() -> Said {
    said("Discover", UNSPECIFIED, None, None)
}

/// The REQUEST for the offer of `ip`.
pub fn request(ip: Ipv4Addr) -> Said {
    said("Request", UNSPECIFIED, Some(ip), Some(SERVER))
}

/// The REQUEST of INIT-REBOOT.
pub fn reboot_request(ip: Ipv4Addr) -> Said {
    said("Request", UNSPECIFIED, Some(ip), None)
}

pub fn renew(ip: Ipv4Addr) -> Said {
    Said {
        path: Path::Datagram {
            from_ip: ip,
            to_ip: SERVER,
        },
        ..rebind(ip)
    }
}

pub fn rebind(ip: Ipv4Addr) -> Said {
    said("Request", ip, None, None)
}

pub fn goodbye(ip: Ipv4Addr) -> Said {
    let path = Path::Frame {
        to: SERVER_MAC,
        from_ip: ip,
        to_ip: SERVER,
    };
    Said {
        path,
        ..said("Release", ip, None, Some(SERVER))
    }
}

/// The DECLINE of an address that another station uses.
pub fn decline(ip: Ipv4Addr) -> Said {
    said("Decline", UNSPECIFIED, Some(ip), Some(SERVER))
}

/// The ARP request of `IP` for `ip`.
pub fn who_has(ip: Ipv4Addr) -> Said {
    said(&format!("who has {ip}"), IP, None, None)
}

/// The ARP probe for `ip`.
pub fn probe(ip: Ipv4Addr) -> Said {
    said(&format!("who has {ip}"), UNSPECIFIED, None, None)
}

/// The ARP announcement of `ip`.
pub fn announcement(ip: Ipv4Addr) -> Said {
    said(&format!("who has {ip}"), ip, None, None)
}

impl Said {
    /// Returns whether it is an ARP probe or announcement, which only some tests compare.
    pub fn is_claim(&self) -> bool {
        self.what
            .strip_prefix("who has ")
            .is_some_and(|ip| self.ciaddr == UNSPECIFIED || self.ciaddr.to_string() == ip)
    }

    pub fn wanting(self, ip: Ipv4Addr) -> Self {
        Self {
            requested: Some(ip),
            ..self
        }
    }

    pub fn to(mut self, server: Ipv4Addr) -> Self {
        self.server = Some(server);
        match &mut self.path {
            Path::Frame { to_ip, .. } | Path::Datagram { to_ip, .. } => *to_ip = server,
        }
        self
    }

    /// Reads a message of the client, and checks the rules for all messages (RFC 2131 table 5).
    pub fn read(transmit: Transmit, bytes: &[u8]) -> (Self, Option<Message>) {
        let (payload, path) = match transmit {
            Transmit::Datagram {
                source,
                destination,
            } => (
                bytes.to_vec(),
                Path::Datagram {
                    from_ip: source,
                    to_ip: destination,
                },
            ),
            Transmit::Frame => {
                let frame = EthernetFrame::new_checked(bytes).unwrap();
                assert_eq!(frame.src_addr().0, MAC.0);
                if frame.ethertype() == EthernetProtocol::Arp {
                    return (Self::read_arp(&frame), None);
                }
                let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
                assert!(ip.verify_checksum() && ip.version() == 4);
                let udp = UdpPacket::new_checked(ip.payload()).unwrap();
                assert_eq!((udp.src_port(), udp.dst_port()), (68, 67));
                assert!(
                    udp.checksum() != 0
                        && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into())
                );
                let to = Mac(frame.dst_addr().0);
                (
                    udp.payload().to_vec(),
                    Path::Frame {
                        to,
                        from_ip: ip.src_addr(),
                        to_ip: ip.dst_addr(),
                    },
                )
            }
        };
        assert!(payload.len() >= 300, "BOOTP relays drop short messages");
        let message = Message::decode(&mut Decoder::new(&payload)).unwrap();
        let what = message.opts().msg_type().unwrap();
        assert_eq!(message.opcode(), Opcode::BootRequest);
        assert_eq!(message.chaddr(), MAC.0);
        assert_eq!(
            (message.yiaddr(), message.siaddr(), message.giaddr()),
            (UNSPECIFIED, UNSPECIFIED, UNSPECIFIED)
        );
        let id = message.opts().get(OptionCode::ClientIdentifier);
        // The last bits of the xid encode the plainness.
        let is_bare = message.xid() & 3 == 3;
        assert_eq!(
            id,
            Some(&DhcpOption::ClientIdentifier(CLIENT_ID.to_vec())).filter(|_| !is_bare)
        );
        assert_eq!(
            message.secs() == 0,
            matches!(what, MessageType::Release | MessageType::Decline)
        );

        let requested =
            message
                .opts()
                .get(OptionCode::RequestedIpAddress)
                .map(|option| match option {
                    DhcpOption::RequestedIpAddress(ip) => *ip,
                    other => panic!("{other:?}"),
                });
        let server = message
            .opts()
            .get(OptionCode::ServerIdentifier)
            .map(|option| match option {
                DhcpOption::ServerIdentifier(ip) => *ip,
                other => panic!("{other:?}"),
            });
        let said = Self {
            what: format!("{what:?}"),
            ciaddr: message.ciaddr(),
            requested,
            server,
            path,
        };
        (said, Some(message))
    }

    fn read_arp(frame: &EthernetFrame<&[u8]>) -> Self {
        let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = arp
        else {
            panic!("{arp:?}")
        };
        assert_eq!(
            (operation, source_hardware_addr.0),
            (ArpOperation::Request, MAC.0)
        );
        assert_eq!(frame.dst_addr().0, BROADCAST_MAC.0);
        said(
            &format!("who has {target_protocol_addr}"),
            source_protocol_addr,
            None,
            None,
        )
    }
}
