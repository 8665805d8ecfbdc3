//! Changes of a namespace's default route, as the kernel reports them.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use smol_dhcp_proxy::net::netlink::message::{DEL_ROUTE, NEW_ROUTE};

use super::Result;
use super::namespace::Namespace;

/// A change of a default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new, or has taken the place of another one.
    Set,
    Removed,
}

/// A socket in the group of changes of IPv4 routes (rtnetlink(7)).
#[derive(Debug)]
pub struct RouteNews(OwnedFd);

impl RouteNews {
    /// Hears what happens in `namespace` from now on.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        const IPV4_ROUTES: u32 = 1 << 6; // RTNLGRP_IPV4_ROUTE is the seventh.
        namespace.run(|| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, IPV4_ROUTES))?;
            Ok(Self(socket))
        })
    }

    /// Returns the changes since the last call, oldest first.
    pub fn take(&self) -> Result<Vec<Change>> {
        let (mut buffer, mut changes) = ([0; 4096], Vec::new());
        loop {
            let length = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(changes),
                Err(errno) => return Err(errno.into()),
            };
            // A header of 16 bytes with the type at 4; then the family, and the length of the
            // destination's prefix.
            let message = buffer[..length].get(..18).ok_or("a short message")?;
            match u16::from_ne_bytes([message[4], message[5]]) {
                NEW_ROUTE if message[17] == 0 => changes.push(Change::Set),
                DEL_ROUTE if message[17] == 0 => changes.push(Change::Removed),
                _ => {}
            }
        }
    }
}
