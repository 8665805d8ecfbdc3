//! News of one interface: a rtnetlink socket that the kernel tells of every change, so that nobody has to look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_route::AddressFamily as Family;
use netlink_packet_route::link::LinkHeader;
use nix::libc;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

use super::link::Link;
use super::netlink::{BUFFER, Messages, Result, is_from_kernel, message};

/// A `NETLINK_ROUTE` socket in the group of link changes (rtnetlink(7)). It never blocks: await its readiness elsewhere.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
    index: u32,
}

/// What has become of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is like this now; perhaps as it was before, for not all that changes is in here.
    Is(Link),
    /// It is not in its namespace any more.
    Gone,
    /// Something has happened that could not be told: look for yourself.
    Missed,
}

impl Monitor {
    /// Opens a socket for an interface of the network namespace that this thread is in, whether or not it exists.
    ///
    /// It tells what happens from now on. How things stand is to be asked after this, lest something happen in between.
    pub fn open(index: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        Ok(Self { socket, index })
    }

    /// The next piece of news; `WouldBlock` where there is none.
    pub fn recv(&self) -> io::Result<News> {
        let mut buffer = [0; BUFFER];
        loop {
            let (_, length, sender) = match retry_on_intr(|| recvfrom(&self.socket, &mut buffer[..], RecvFlags::TRUNC))
            {
                // The kernel had no room for more (netlink(7)).
                Err(Errno::NOBUFS) => return Ok(News::Missed),
                heard => heard?,
            };
            if !is_from_kernel(sender) {
                continue;
            }
            let news = buffer.get(..length).map_or(Ok(Some(News::Missed)), |datagram| self.read(datagram));
            if let Some(news) = news.unwrap_or(Some(News::Missed)) {
                return Ok(news);
            }
        }
    }

    /// What a datagram says of our interface, if anything. The kernel sends each notification by itself.
    fn read(&self, datagram: &[u8]) -> Result<Option<News>> {
        let Some(message) = Messages(datagram).next().transpose()? else { return Ok(None) };
        let header = LinkHeader::parse(message.body)?;
        // A bridge speaks of its ports under a family of its own; to leave one is not to be gone.
        if header.index != self.index || header.interface_family != Family::Unspec {
            return Ok(None);
        }
        match message.kind {
            message::NEW_LINK => Ok(Some(News::Is(Link::parse(message.body)?))),
            message::DEL_LINK => Ok(Some(News::Gone)),
            _ => Ok(None),
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
