//! News of one interface: a rtnetlink socket that the kernel tells of every change, so that no
//! state has to be polled.

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

/// A `NETLINK_ROUTE` socket in the group of link changes (rtnetlink(7)). It never blocks: await its
/// readiness elsewhere.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
    index: u32,
}

/// A change of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The interface is there. Nothing in here need have changed, for not all that changes is in
    /// here.
    Is {
        /// Set up by its administrator.
        up: bool,
        /// Something is at the other end.
        carrier: bool,
    },
    /// It is not in its namespace any more.
    Gone,
    /// Some changes were lost: the interface has to be looked at.
    Missed,
}

/// Datagrams of no use that are thrown away in one call at most. Processes in the namespace may
/// send to the group as fast as they like.
const MOST_SKIPPED: usize = 16;
/// All that is read of a datagram, in bytes: the two headers. The name, up to 64 kB of alternative
/// names, and the rest are cut off.
const LENGTH: usize = HEADER + 16;

impl Monitor {
    /// Opens a socket for an interface of the network namespace that this thread is in, whether or
    /// not it exists.
    ///
    /// It tells what happens from now on. Ask for the state of the interface after this, lest a
    /// change in between be lost.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn open(index: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // Before it hears anything: what becomes of other interfaces wakes nothing here.
        SockRef::from(&socket).attach_filter(&filter(index))?;
        // In this order, for to connect gives it a port, with which bind(2) would have to agree.
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        to_kernel_only(&socket)?;
        Ok(Self { socket, index })
    }

    /// Returns the next piece of news.
    ///
    /// # Errors
    ///
    /// Returns `WouldBlock` where there is no news, or too much else in front of it for one call;
    /// else the error of the system call.
    pub fn recv(&self) -> io::Result<News> {
        let mut buffer = [0; LENGTH];
        for _ in 0..MOST_SKIPPED {
            match retry_on_intr(|| recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty())) {
                Ok((_, length, sender)) => {
                    let news = if is_from_kernel(sender) {
                        News::read(self.index, &buffer[..length])
                    } else {
                        None
                    };
                    if let Some(news) = news {
                        return Ok(news);
                    }
                }
                // The kernel had no room for more (netlink(7)).
                Err(Errno::NOBUFS) => return Ok(News::Missed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl News {
    /// Reads what the beginning of a datagram says of the interface `index`, if anything. The
    /// kernel sends each notification by itself.
    pub fn read(index: u32, datagram: &[u8]) -> Option<Self> {
        let (message, body) = datagram.split_at_checked(HEADER)?;
        let header = LinkHeader::parse(body).ok()?;
        // A bridge speaks of its ports under a family of its own; to leave one is not to be gone.
        if header.index != index || header.interface_family != Family::Unspec {
            return None;
        }
        match u16::from_ne_bytes([message[4], message[5]]) {
            message::NEW_LINK => Some(Self::Is {
                up: header.flags.contains(LinkFlags::Up),
                carrier: has_carrier(header.flags),
            }),
            message::DEL_LINK => Some(Self::Gone),
            _ => None,
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The group of link changes, as the bit that bind(2) wants.
const LINK_GROUP: u32 = 1 << (libc::RTNLGRP_LINK - 1);

/// Lets through what [`News::read`] reads, and nothing else.
///
/// A jump gives the number of instructions to skip where the test holds and where it does not. The
/// machine loads numbers in network byte order, and netlink has them in the host's.
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

/// Offsets in a datagram, in bytes: of the family and of the interface's number in the second
/// header (rtnetlink(7)).
const FAMILY: u32 = HEADER as u32;
const INDEX: u32 = HEADER as u32 + 4;
