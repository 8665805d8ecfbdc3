//! A search, its clock, and the messages on both sides.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{ArpOperation, ArpPacket, EthernetFrame, Ipv4Packet, UdpPacket};

use crate::dhcp::discovery::{Discovery, DiscoverySettings};
use crate::dhcp::frame::{self, Arp};
use crate::dhcp::ignored::Ignored;
use crate::dhcp::option;
use crate::mac::Mac;
use crate::time::Instant;

pub(super) const US: Mac = Mac([2, 0, 0, 0, 0, 5]);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(super) const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub(super) const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

/// A search and the frames that it has sent.
pub(super) struct Talk {
    pub(super) discovery: Discovery,
    pub(super) now: Instant,
    pub(super) discovers: Vec<Vec<u8>>,
    pub(super) probed: Vec<Ipv4Addr>,
}

/// A reply of a server, in parts.
#[derive(Clone)]
pub(super) struct Offered {
    pub(super) kind: u8,
    pub(super) id: Option<Ipv4Addr>,
    pub(super) source: Ipv4Addr,
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
    pub(super) to: Mac,
    pub(super) is_intact: bool,
    /// Changes the payload before its headers are added.
    pub(super) change: fn(&mut Vec<u8>),
    pub(super) more: Vec<(u8, Vec<u8>)>,
}

pub(super) fn offer(address: Ipv4Addr) -> Offered {
    Offered {
        kind: 2,
        id: Some(SERVER),
        source: SERVER,
        mac: SERVER_MAC,
        address,
        to: US,
        is_intact: true,
        change: |_| (),
        more: vec![
            (option::SUBNET_MASK, vec![255, 255, 255, 0]),
            (option::LEASE_TIME, 3600_u32.to_be_bytes().to_vec()),
        ],
    }
}

/// The offer of another server.
pub(super) fn other_offer(number: u8) -> Offered {
    let id = Ipv4Addr::new(10, 0, 0, number);
    Offered {
        id: Some(id),
        source: id,
        mac: Mac([2, 0, 0, 0, 1, number]),
        ..offer(Ipv4Addr::new(10, 0, 0, 100 + number))
    }
}

impl Offered {
    pub(super) fn frame(&self, xid: u32) -> Vec<u8> {
        let mut payload = vec![0; 240];
        payload[..3].copy_from_slice(&[2, 1, 6]);
        payload[4..8].copy_from_slice(&xid.to_be_bytes());
        payload[16..20].copy_from_slice(&self.address.octets());
        payload[28..34].copy_from_slice(&US.0);
        payload[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        if self.kind != 0 {
            option::put(&mut payload, option::MESSAGE_TYPE, &[self.kind]);
        }
        if let Some(id) = self.id {
            option::put(&mut payload, option::SERVER_ID, &id.octets());
        }
        for (code, value) in &self.more {
            option::put(&mut payload, *code, value);
        }
        payload.push(option::END);
        (self.change)(&mut payload);
        let mut frame = frame::frame(
            &payload,
            (self.mac, self.source),
            (self.to, Ipv4Addr::BROADCAST),
        );
        // The ports change places, and the checksum stays.
        frame[34..38].rotate_left(2);
        if !self.is_intact {
            frame[40] ^= 0x55;
        }
        frame
    }
}

/// The ARP reply of a station that says that it has `address`.
pub(super) fn claim(address: Ipv4Addr, by: Mac) -> Vec<u8> {
    let arp = Arp {
        is_reply: true,
        sender: (by, address),
        target: (US, Ipv4Addr::UNSPECIFIED),
        to_all: false,
    };
    arp.write()
}

impl Talk {
    pub(super) fn with(timeout: u64, change: impl FnOnce(&mut DiscoverySettings)) -> Self {
        let mut settings = DiscoverySettings {
            mac: US,
            mtu: 1500,
            timeout: Duration::from_secs(timeout),
            own_stations: Vec::new(),
            own_addresses: Vec::new(),
        };
        change(&mut settings);
        let now = Instant::from_boot(Duration::from_secs(100));
        let mut talk = Self {
            discovery: Discovery::new(settings, 7, now),
            now,
            discovers: Vec::new(),
            probed: Vec::new(),
        };
        talk.drain();
        talk
    }

    pub(super) fn start() -> Self {
        Self::with(10, |_| ())
    }

    pub(super) fn drain(&mut self) {
        while let Some(frame) = self.discovery.poll_transmit() {
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            assert_eq!(ethernet.src_addr().0, US.0);
            assert_eq!(ethernet.dst_addr().0, Mac::BROADCAST.0);
            if let Ok(arp) = ArpPacket::new_checked(ethernet.payload())
                && arp.operation() == ArpOperation::Request
                && arp.hardware_len() == 6
            {
                assert_eq!(arp.source_protocol_addr(), [0; 4], "a probe");
                let wanted: [u8; 4] = arp.target_protocol_addr().try_into().unwrap();
                assert!(
                    self.discovery
                        .probed_addresses()
                        .any(|address| address == Ipv4Addr::from(wanted))
                );
                self.probed.push(wanted.into());
            } else {
                let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
                let payload = UdpPacket::new_checked(ip.payload())
                    .unwrap()
                    .payload()
                    .to_vec();
                assert_eq!(ip.src_addr(), Ipv4Addr::UNSPECIFIED);
                assert_eq!(
                    self.options_of(&payload).byte(option::MESSAGE_TYPE),
                    Some(1)
                );
                self.discovers.push(payload);
            }
        }
    }

    pub(super) fn options_of(&self, payload: &[u8]) -> option::Options {
        option::Options::collect(&payload[240..], &[], &[])
    }

    /// Lets the time pass until so many milliseconds after the beginning.
    pub(super) fn at(&mut self, millis: u64) -> &mut Self {
        let until = Instant::from_boot(Duration::from_millis(100_000 + millis));
        while self.discovery.poll_timeout() <= until && !self.discovery.is_over(self.now) {
            self.now = self.discovery.poll_timeout().max(self.now);
            self.discovery.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
        self
    }

    /// Has the server answer the DISCOVER of that number, the first being 1.
    pub(super) fn answers(&mut self, discover: usize, reply: &Offered) -> Result<(), Ignored> {
        let xid = u32::from_be_bytes(self.discovers[discover - 1][4..8].try_into().unwrap());
        let heard = self.discovery.handle_packet(&reply.frame(xid), self.now);
        self.drain();
        heard
    }

    pub(super) fn hears(&mut self, frame: &[u8]) -> Result<(), Ignored> {
        let heard = self.discovery.handle_packet(frame, self.now);
        self.drain();
        heard
    }

    /// The milliseconds after which the search has ended.
    pub(super) fn ends(&mut self) -> u64 {
        while !self.discovery.is_over(self.now) {
            self.now = self.discovery.poll_timeout();
            self.discovery.handle_timeout(self.now);
            self.drain();
        }
        u64::try_from(self.now.since_boot().as_millis()).unwrap() - 100_000
    }

    pub(super) fn has(&self, discover: usize, code: u8) -> bool {
        self.options_of(&self.discovers[discover - 1])
            .contains(code)
    }

    pub(super) fn is_flagged(&self, discover: usize) -> bool {
        self.discovers[discover - 1][10] & 0x80 != 0
    }
}
