//! A rtnetlink socket that receives the kernel's notifications of one interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_route::AddressFamily as Family;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use nix::libc;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use socket2::{SockFilter, SockRef};

use super::bpf::{self, jump, load_byte, load_half, load_word};
use super::link::has_carrier;
use super::netlink::{HEADER, is_from_kernel, message, to_kernel_only};

/// A `NETLINK_ROUTE` socket in the multicast group of link changes (rtnetlink(7)). It never blocks:
/// await its readiness elsewhere.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
    index: u32,
}

/// A change of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The state of the interface. It may be the same as before, because the kernel also sends
    /// changes of other properties.
    State {
        /// Administratively up.
        up: bool,
        /// The interface has a carrier.
        carrier: bool,
    },
    /// The interface was deleted or moved to another namespace.
    Removed,
    /// Notifications were lost: read the state of the interface.
    Overrun,
}

/// The most datagrams that one call skips. Processes in the namespace may send to the group at any
/// rate.
const MAX_SKIPPED: usize = 16;
/// The part of a datagram that is read, in bytes: the two headers. The attributes, with up to 64 kB
/// of alternative names, are cut off.
const LENGTH: usize = HEADER + 16;

impl Monitor {
    /// Opens a socket for the interface `index` of this thread's network namespace. The interface
    /// need not exist.
    ///
    /// The socket receives later changes only. Read the state of the interface after this call, so
    /// that no change in between is lost.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn open(index: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // Before bind(2), so that no notification of another interface is received.
        SockRef::from(&socket).attach_filter(&filter(index))?;
        // bind(2) comes first: connect(2) assigns a port, which bind(2) would have to repeat.
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        to_kernel_only(&socket)?;
        Ok(Self { socket, index })
    }

    /// Returns the next change.
    ///
    /// # Errors
    ///
    /// Returns `WouldBlock` if there is none, or if too many other datagrams precede it; otherwise
    /// the error of the system call.
    pub fn recv(&self) -> io::Result<LinkEvent> {
        let mut buffer = [0; LENGTH];
        for _ in 0..MAX_SKIPPED {
            match retry_on_intr(|| recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty())) {
                Ok((_, length, sender)) => {
                    let news = if is_from_kernel(sender) {
                        LinkEvent::parse(self.index, &buffer[..length])
                    } else {
                        None
                    };
                    if let Some(news) = news {
                        return Ok(news);
                    }
                }
                // The receive buffer was full (netlink(7)).
                Err(Errno::NOBUFS) => return Ok(LinkEvent::Overrun),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl LinkEvent {
    /// Parses the beginning of a datagram. Returns `None` if it is not about the interface `index`.
    /// The kernel sends one notification in each datagram.
    pub fn parse(index: u32, datagram: &[u8]) -> Option<Self> {
        let (message, body) = datagram.split_at_checked(HEADER)?;
        let header = LinkHeader::parse(body).ok()?;
        // Messages of a bridge about its ports have another family: a port that leaves the bridge
        // still exists.
        if header.index != index || header.interface_family != Family::Unspec {
            return None;
        }
        match u16::from_ne_bytes([message[4], message[5]]) {
            message::NEW_LINK => Some(Self::State {
                up: header.flags.contains(LinkFlags::Up),
                carrier: has_carrier(header.flags),
            }),
            message::DEL_LINK => Some(Self::Removed),
            _ => None,
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The multicast group of link changes, as a bit for bind(2).
const LINK_GROUP: u32 = 1 << (libc::RTNLGRP_LINK - 1);

/// Returns a filter that accepts only the messages that [`LinkEvent::parse`] parses.
///
/// The BPF machine loads numbers in network byte order, and netlink has them in host byte order.
fn filter(index: u32) -> [SockFilter; 9] {
    [
        load_half(4),
        jump(libc::BPF_JEQ, message::NEW_LINK.to_be().into(), 1, 0),
        jump(libc::BPF_JEQ, message::DEL_LINK.to_be().into(), 0, 5),
        load_byte(FAMILY),
        jump(libc::BPF_JEQ, libc::AF_UNSPEC as u32, 0, 3),
        load_word(INDEX),
        jump(libc::BPF_JEQ, index.to_be(), 0, 1),
        bpf::ALL,
        bpf::NOTHING,
    ]
}

/// Offsets of the family and of the interface index in a datagram, in bytes (rtnetlink(7)).
const FAMILY: u32 = HEADER as u32;
const INDEX: u32 = HEADER as u32 + 4;
