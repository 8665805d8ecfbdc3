//! A network namespace as a whole: all addresses, and its number for another namespace.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{Emitable, parse_i32};

use super::link::Address;
use super::netlink::{Body, Netlink, Result, attributes, message};

impl Netlink {
    /// Returns the IPv4 addresses of all interfaces, at most 1,000, with the interface indexes.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or [`TooMany`](super::netlink::NetlinkError::TooMany).
    pub fn all_addresses(&self) -> Result<Vec<(u32, Address)>> {
        self.read_addresses(0, "addresses in the network namespace")
    }

    /// Returns the number by which the socket's namespace knows `other`, an open network namespace;
    /// `None` if it has none. It is that of [`Link::parent_namespace`](super::link::Link).
    ///
    /// # Errors
    ///
    /// Returns the kernel's error.
    pub fn namespace_id(&self, other: BorrowedFd<'_>) -> Result<Option<i32>> {
        let mut message = Body::new(GeneralHeader);
        message.push(NETNSA_FD, &other.as_raw_fd().to_ne_bytes());
        let answers = self.request(message::GET_NAMESPACE_ID, 0, &message)?;
        let Some(answer) = answers.first() else {
            return Ok(None);
        };
        for attribute in attributes(answer, &GeneralHeader) {
            let attribute = attribute?;
            if attribute.kind() == NETNSA_NSID {
                // A negative number: it has none.
                return Ok(Some(parse_i32(attribute.value())?).filter(|id| *id >= 0));
            }
        }
        Ok(None)
    }
}

/// Attributes of the message (linux/net_namespace.h).
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// A `struct rtgenmsg`: one byte, the address family, which is unspecified here, and padding.
struct GeneralHeader;

impl Emitable for GeneralHeader {
    fn buffer_len(&self) -> usize {
        size_of::<u32>()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}
