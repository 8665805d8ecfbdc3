//! Stations that answer ARP for addresses that are not theirs.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use super::super::packets::{Mac, arp_request};

/// An ARP request of a client.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub from: Mac,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    pub wanted: Ipv4Addr,
    /// The station of the DHCP server.
    pub server: Mac,
}

impl Question {
    pub(super) fn parse(frame: &[u8], server: Mac) -> Option<Self> {
        arp_request(frame).map(|(from, sender, wanted)| Self {
            from,
            sender,
            wanted,
            server,
        })
    }

    /// Returns whether it asks for the sender's own address, as an announcement does.
    pub fn is_announcement(&self) -> bool {
        self.sender == self.wanted
    }

    /// Returns whether it is a probe.
    pub fn is_probe(&self) -> bool {
        self.sender.is_unspecified()
    }

    /// Answers that `by` has the address.
    pub fn claimed_by(&self, by: Mac) -> Claim {
        Claim {
            by,
            after: Duration::ZERO,
            is_probe: false,
        }
    }

    /// Has a switch that tracks its devices ask the client alone whether it has the address that it
    /// probes.
    pub fn tracked_by(&self, by: Mac) -> Claim {
        Claim {
            is_probe: true,
            ..self.claimed_by(by)
        }
    }
}

/// An answer to a [`Question`].
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub by: Mac,
    pub after: Duration,
    is_probe: bool,
}

impl Claim {
    /// Sends it so much later.
    pub fn after(self, milliseconds: u64) -> Self {
        Self {
            after: Duration::from_millis(milliseconds),
            ..self
        }
    }

    pub(super) fn to_frame(self, question: &Question) -> Vec<u8> {
        let (operation, address) = match self.is_probe {
            true => (ArpOperation::Request, Ipv4Addr::UNSPECIFIED),
            false => (ArpOperation::Reply, question.wanted),
        };
        let (to, target) = match self.is_probe {
            true => (EthernetAddress(question.from.0), question.wanted),
            false => (EthernetAddress(question.from.0), question.sender),
        };
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.by.0),
            source_protocol_addr: address,
            target_hardware_addr: if self.is_probe {
                EthernetAddress([0; 6])
            } else {
                to
            },
            target_protocol_addr: target,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.by.0),
            dst_addr: to,
            ethertype: EthernetProtocol::Arp,
        };
        let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        bytes
    }
}
