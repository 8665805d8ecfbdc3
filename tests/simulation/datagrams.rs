//! What goes over the simulated wire: reads what clients say, writes what servers and stations say.
//! By hand, for speed, and without a line of the client's own codec; dhcproto looks over its
//! shoulder in `codec.rs`.

use smol_dhcp_proxy::dhcp::Transmit;
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;

pub const BROADCAST: Mac = Mac([0xff; 6]);
pub const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const DECLINE: u8 = 4;
pub const ACK: u8 = 5;
pub const NAK: u8 = 6;
pub const RELEASE: u8 = 7;

/// A message of a client, as far as servers and referees care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub message_type: u8,
    pub xid: u32,
    pub secs: u16,
    pub broadcast_flag: bool,
    pub ciaddr: Option<Ipv4Addr>,
    pub chaddr: Mac,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 80.
    pub rapid: bool,
    /// Option 55.
    pub wishes: bool,
    /// Option 57.
    pub size: bool,
    /// Options 12 and 81.
    pub names: u8,
    /// Option 56.
    pub words: bool,
    /// Option 61, summed up.
    pub client_id: u32,
    /// To one server from the leased address, as a datagram that the kernel routes.
    pub datagram: bool,
    pub to_mac: Mac,
    pub from_ip: Ipv4OrNone,
    pub to_ip: Ipv4OrNone,
}

/// An address whose absence is 0.0.0.0.
pub type Ipv4OrNone = Option<Ipv4Addr>;

/// An ARP packet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub reply: bool,
    pub from: Mac,
    pub from_ip: Ipv4Addr,
    pub to: Mac,
    pub wanted: Ipv4Addr,
}

/// What a client has handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Dhcp(Heard),
    Arp(Arp),
}

fn ip(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

fn some_ip(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(ip(bytes)).filter(|address| !address.is_unspecified())
}

fn mac(bytes: &[u8]) -> Mac {
    Mac(bytes[..6].try_into().expect("six bytes"))
}

fn short(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// Reads what a client has handed out; panics where it is not what a client may send.
pub fn read(transmit: Transmit, bytes: &[u8]) -> Said {
    let (payload, datagram, to_mac, from_ip, to_ip) = match transmit {
        Transmit::Datagram {
            source,
            destination,
        } => (bytes, true, BROADCAST, Some(source), Some(destination)),
        Transmit::Frame if short(&bytes[12..]) == 0x0806 => return Said::Arp(read_arp(bytes)),
        Transmit::Frame => {
            assert_eq!(short(&bytes[12..]), 0x0800, "neither ARP nor IPv4");
            let packet = &bytes[14..];
            assert_eq!((packet[0], packet[9]), (0x45, 17), "not UDP over IPv4");
            assert_eq!(sum(&packet[..20], 0), 0xffff, "IPv4 checksum");
            assert_eq!(
                usize::from(short(&packet[2..])),
                packet.len(),
                "IPv4 length"
            );
            assert_eq!(
                (short(&packet[20..]), short(&packet[22..])),
                (68, 67),
                "ports"
            );
            (
                &packet[28..],
                false,
                mac(bytes),
                some_ip(&packet[12..]),
                some_ip(&packet[16..]),
            )
        }
    };
    Said::Dhcp(Heard {
        datagram,
        to_mac,
        from_ip,
        to_ip,
        ..read_message(payload)
    })
}

fn read_arp(bytes: &[u8]) -> Arp {
    let arp = &bytes[14..];
    assert_eq!(arp[..6], [0, 1, 8, 0, 6, 4], "not Ethernet and IPv4");
    assert!(
        bytes.len() >= 42 && mac(&bytes[6..]) == mac(&arp[8..]),
        "a forged ARP packet"
    );
    let (from, from_ip) = (mac(&arp[8..]), ip(&arp[14..]));
    Arp {
        reply: short(&arp[6..]) == 2,
        from,
        from_ip,
        to: mac(bytes),
        wanted: ip(&arp[24..]),
    }
}

fn read_message(payload: &[u8]) -> Heard {
    assert!(
        (300..=1500).contains(&payload.len()),
        "{} bytes",
        payload.len()
    );
    assert_eq!(payload[..4], [1, 1, 6, 0], "not a request from Ethernet");
    assert_eq!(
        payload[16..28],
        [0; 12],
        "yiaddr, siaddr and giaddr are not the client's"
    );
    assert_eq!(payload[44..236], [0; 192], "sname and file");
    assert_eq!(payload[236..240], [99, 130, 83, 99], "magic");
    let mut heard = Heard {
        xid: u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]),
        secs: short(&payload[8..]),
        broadcast_flag: payload[10] & 0x80 != 0,
        ciaddr: some_ip(&payload[12..]),
        chaddr: mac(&payload[28..]),
        ..Heard::default()
    };
    let mut at = 240;
    while payload[at] != 255 {
        if payload[at] == 0 {
            at += 1;
            continue;
        }
        let (code, length) = (payload[at], usize::from(payload[at + 1]));
        let value = &payload[at + 2..][..length];
        match code {
            12 | 81 => heard.names += 1,
            50 => heard.requested = some_ip(value),
            53 => heard.message_type = value[0],
            54 => heard.server = some_ip(value),
            55 => heard.wishes = true,
            57 => heard.size = true,
            56 => heard.words = true,
            61 => {
                heard.client_id = value
                    .iter()
                    .fold(1, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte))
            }
            80 => heard.rapid = true,
            code => panic!("option {code} in a client's message"),
        }
        at += 2 + length;
    }
    assert!(heard.wishes || !heard.size, "option 57 goes with option 55");
    heard
}

/// A message of a server, honest or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub message_type: u8,
    pub xid: u32,
    pub chaddr: Mac,
    pub yiaddr: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
    pub lease: Option<u32>,
    pub t1: Option<u32>,
    pub t2: Option<u32>,
    /// Option 3, and option 1 with 24 bits beside it.
    pub router: Option<Ipv4Addr>,
    pub mtu: Option<u16>,
    pub rapid: bool,
    /// From an honest server, whose word counts.
    pub honest: bool,
}

impl Reply {
    /// The frame from `from` to `to_mac` and `to_ip`.
    pub fn write(&self, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
        let mut out = vec![0; 14 + 20 + 8 + 240];
        out.reserve(64);
        out[0..6].copy_from_slice(&to.0.0);
        out[6..12].copy_from_slice(&from.0.0);
        out[12..14].copy_from_slice(&[8, 0]);
        out[42..46].copy_from_slice(&[2, 1, 6, 0]);
        out[46..50].copy_from_slice(&self.xid.to_be_bytes());
        out[58..62].copy_from_slice(&self.yiaddr.unwrap_or(NOBODY).octets());
        out[70..76].copy_from_slice(&self.chaddr.0);
        out[278..282].copy_from_slice(&[99, 130, 83, 99]);
        let mut put = |code: u8, value: &[u8]| {
            out.extend([code, value.len() as u8]);
            out.extend(value);
        };
        put(53, &[self.message_type]);
        let mut put_some = |code, value: Option<u32>| {
            if let Some(value) = value {
                put(code, &value.to_be_bytes());
            }
        };
        put_some(54, self.server.map(u32::from));
        put_some(51, self.lease);
        put_some(58, self.t1);
        put_some(59, self.t2);
        put_some(1, self.router.map(|_| 0xffff_ff00));
        put_some(3, self.router.map(u32::from));
        if let Some(mtu) = self.mtu {
            put(26, &mtu.to_be_bytes());
        }
        if self.rapid {
            put(80, &[]);
        }
        out.push(255);
        out.resize(out.len().max(342), 0);
        headers(&mut out, from.1, to.1);
        out
    }
}

/// Fills in the headers of IPv4 and UDP.
fn headers(frame: &mut [u8], from: Ipv4Addr, to: Ipv4Addr) {
    let length = frame.len() as u16 - 14;
    let ip = &mut frame[14..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    (ip[8], ip[9]) = (64, 17);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let checksum = !sum(&ip[..20], 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip[20..24].copy_from_slice(&[0, 67, 0, 68]);
    ip[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    let pseudo = u32::from(sum(&ip[12..20], 17 + u32::from(length - 20)));
    let checksum = match !sum(&ip[20..], pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    ip[26..28].copy_from_slice(&checksum.to_be_bytes());
}

/// The ones' complement sum of RFC 1071, going on from `sum`.
pub fn sum(bytes: &[u8], sum: u32) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs = pairs
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum::<u32>();
    let mut sum = sum + pairs + rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Arp {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0; 42];
        out[0..6].copy_from_slice(&self.to.0);
        out[6..12].copy_from_slice(&self.from.0);
        out[12..20].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
        out[21] = if self.reply { 2 } else { 1 };
        out[22..28].copy_from_slice(&self.from.0);
        out[28..32].copy_from_slice(&self.from_ip.octets());
        if self.reply {
            out[32..38].copy_from_slice(&self.to.0);
        }
        out[38..42].copy_from_slice(&self.wanted.octets());
        out
    }
}
