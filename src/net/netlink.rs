//! A rtnetlink socket for requests. It blocks until the answer, which the kernel has ready before
//! send(2) returns.

mod error;
mod reader;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader,
};
use nix::sys::socket::SetSockOpt;
use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, connect,
    recvfrom, send, socket_with,
};

use crate::rt;

use super::option::{ExplainErrors, FilterDumps, OmitRequest};

pub use error::{NetlinkError, Result};
pub use reader::{DumpState, Progress, Reader};

use error::invalid;
pub(super) use reader::{HEADER, attributes, ipv4, text};

/// Message types of rtnetlink(7).
pub mod message {
    use nix::libc;

    /// Creates or changes an interface.
    pub const NEW_LINK: u16 = libc::RTM_NEWLINK;
    /// Removes an interface.
    pub const DEL_LINK: u16 = libc::RTM_DELLINK;
    /// Requests interfaces.
    pub const GET_LINK: u16 = libc::RTM_GETLINK;
    /// Adds or changes an address.
    pub const NEW_ADDRESS: u16 = libc::RTM_NEWADDR;
    /// Removes an address.
    pub const DEL_ADDRESS: u16 = libc::RTM_DELADDR;
    /// Requests addresses.
    pub const GET_ADDRESS: u16 = libc::RTM_GETADDR;
    /// Adds a route.
    pub const NEW_ROUTE: u16 = libc::RTM_NEWROUTE;
    /// Removes a route.
    pub const DEL_ROUTE: u16 = libc::RTM_DELROUTE;
    /// Requests routes.
    pub const GET_ROUTE: u16 = libc::RTM_GETROUTE;
    /// Requests the number of a network namespace.
    pub const GET_NAMESPACE_ID: u16 = libc::RTM_GETNSID;
}

/// The body of a message: the header of its kind, and attributes.
///
/// The complete messages of netlink-packet-route would add code for every attribute of rtnetlink.
#[derive(Clone, Debug)]
pub(super) struct Body<H> {
    pub(super) header: H,
    attributes: Vec<DefaultNla>,
}

impl<H: Emitable> Body<H> {
    pub(super) fn new(header: H) -> Self {
        Self {
            header,
            attributes: Vec::new(),
        }
    }

    /// Adds an attribute.
    pub(super) fn push(&mut self, kind: u16, value: &[u8]) {
        self.attributes.push(DefaultNla::new(kind, value.to_vec()));
    }
}

impl<H: Emitable> Emitable for Body<H> {
    fn buffer_len(&self) -> usize {
        self.header.buffer_len() + self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(self.header.buffer_len());
        self.header.emit(header);
        self.attributes.as_slice().emit(attributes);
    }
}

/// Two `NETLINK_ROUTE` sockets, connected to the kernel, so that no datagram of a process reaches
/// them. They belong to the namespace in which they were opened, wherever they are used.
#[derive(Debug)]
pub struct Netlink {
    requests: OwnedFd,
    /// A separate socket for dumps, because a dump that is too long is not read to its end. The
    /// kernel still sends the rest, whose length the owner of the namespace decides, and the socket
    /// takes no other dump request.
    dumps: OwnedFd,
    /// A dump was not read to its end.
    is_dump_unfinished: Cell<bool>,
    sequence: Cell<u32>,
}

/// The timeout for the answers to a request. The kernel has the first one ready before send(2)
/// returns. That call may itself take long, because it waits for all other changes of interfaces and
/// routes on the host. Except on an overloaded machine, the limits of the reader end an exchange much
/// earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest datagram in bytes. An interface takes some 800 bytes, and up to 64 kB more for its
/// alternative names.
const MAX_DATAGRAM: usize = 256 * 1024;
/// The most dumps of a table that changes during each of them.
const DUMP_ATTEMPTS: usize = 4;

impl Netlink {
    /// Opens the sockets in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn open() -> io::Result<Self> {
        Self::open_protocol(None)
    }

    /// Opens sockets of another protocol of netlink(7) than `NETLINK_ROUTE`.
    pub(super) fn open_protocol(protocol: Option<Protocol>) -> io::Result<Self> {
        let (requests, dumps) = (connected(protocol)?, connected(protocol)?);
        // Linux before 4.20 lacks this option and sends all entries of a table. The callers skip
        // the others.
        let _ = FilterDumps.set(&dumps, &true);
        Ok(Self {
            requests,
            dumps,
            is_dump_unfinished: Cell::new(false),
            sequence: Cell::new(0),
        })
    }

    /// Sends one message and waits for the kernel's acknowledgement. Returns the bodies of its other
    /// answers, usually none.
    ///
    /// `flags` are added to `NLM_F_REQUEST | NLM_F_ACK` (netlink(7)).
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or an error for a malformed or late answer.
    pub fn request(
        &self,
        message_type: u16,
        flags: u16,
        body: &impl Emitable,
    ) -> Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        exchange(
            &self.requests,
            message_type,
            flags,
            body,
            &mut self.reader(),
            &mut |answer| {
                answers.push(answer.to_vec());
                Ok(())
            },
        )?;
        Ok(answers)
    }

    /// Dumps a table. Returns the body of each entry's message.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or an error for a malformed or late answer.
    pub fn dump(&self, message_type: u16, body: &impl Emitable) -> Result<Vec<Vec<u8>>> {
        self.read_table(message_type, body, ("entries", usize::MAX), |entry| {
            Ok(Some(entry.to_vec()))
        })
    }

    /// Dumps a table, and returns the results of `read` for its entries.
    ///
    /// # Errors
    ///
    /// Returns [`NetlinkError::TooMany`] for more than `most` results, or for a table that is too
    /// long to be read.
    pub(super) fn read_table<T>(
        &self,
        message_type: u16,
        body: &impl Emitable,
        (what, most): (&'static str, usize),
        read: impl Fn(&[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut entries = Vec::new();
            let table = self.dump_once(message_type, body, &mut |entry| {
                entries.extend(read(entry)?);
                if entries.len() > most {
                    Err(NetlinkError::TooMany { what, most })
                } else {
                    Ok(())
                }
            })?;
            if table == DumpState::Consistent {
                return Ok(entries);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the table changed whenever it was read",
        )
        .into())
    }

    /// Dumps a table once, and calls `entry` with each entry until it fails.
    pub(super) fn dump_once(
        &self,
        message_type: u16,
        body: &impl Emitable,
        entry: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<DumpState> {
        if self.is_dump_unfinished.get() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a table is half read").into());
        }
        let mut reader = self.reader();
        let table = exchange(
            &self.dumps,
            message_type,
            NLM_F_DUMP,
            body,
            &mut reader,
            entry,
        );
        self.is_dump_unfinished.set(!reader.is_over());
        table
    }

    /// Returns a reader for the next sequence number.
    fn reader(&self) -> Reader {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        Reader::new(self.sequence.get())
    }
}

/// Sends a request, and passes the kernel's answers to `reader` until the last one.
fn exchange(
    socket: &OwnedFd,
    kind: u16,
    flags: u16,
    body: &impl Emitable,
    reader: &mut Reader,
    entry: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<DumpState> {
    let mut header = NetlinkHeader::default();
    header.length =
        u32::try_from(HEADER + body.buffer_len()).map_err(|_| invalid("a message of over 4 GB"))?;
    header.message_type = kind;
    header.flags = flags | NLM_F_REQUEST | NLM_F_ACK;
    header.sequence_number = reader.sequence();
    let mut bytes = vec![0; HEADER + body.buffer_len()];
    header.emit(&mut bytes[..HEADER]);
    body.emit(&mut bytes[HEADER..]);
    retry_on_intr(|| send(socket, &bytes, SendFlags::empty()))?;
    let deadline = rt::now() + ANSWER_TIMEOUT;
    loop {
        if !receive(socket, &mut bytes)? {
            reader.skip()?;
        } else if let Progress::Done(table) = reader.read(&bytes, entry)? {
            return Ok(table);
        }
        if rt::now() >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
}

/// Opens a socket to which only the kernel can send.
fn connected(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    to_kernel_only(&socket)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    // Both options only improve errors, and older kernels lack them.
    let _ = (
        ExplainErrors.set(&socket, &true),
        OmitRequest.set(&socket, &true),
    );
    Ok(socket)
}

/// Connects a netlink socket to the kernel: a process in the namespace cannot send to its port, and
/// so cannot fill its queue. Datagrams to a multicast group still arrive, so each receiver has to
/// check the sender.
pub(super) fn to_kernel_only(socket: &OwnedFd) -> io::Result<()> {
    Ok(connect(socket, &SocketAddrNetlink::new(KERNEL, 0))?)
}

/// Receives the next complete datagram. Returns whether it is from the kernel.
fn receive(socket: &OwnedFd, datagram: &mut Vec<u8>) -> Result<bool> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length, _) = retry_on_intr(|| recvfrom(socket, &mut [0; 0], peek))?;
    if length > MAX_DATAGRAM {
        return Err(NetlinkError::TooMany {
            what: "bytes in one answer",
            most: MAX_DATAGRAM,
        });
    }
    datagram.resize(length, 0);
    let (_, _, sender) = retry_on_intr(|| recvfrom(socket, &mut datagram[..], RecvFlags::empty()))?;
    Ok(is_from_kernel(sender))
}

impl AsFd for Netlink {
    /// Returns the socket for requests, not the one for dumps.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.requests.as_fd()
    }
}

/// The kernel's netlink port.
const KERNEL: u32 = 0;

/// Returns whether a datagram is from the kernel. Processes can send to a multicast group too.
pub(super) fn is_from_kernel(sender: Option<SocketAddrAny>) -> bool {
    let port =
        sender.map(|sender| SocketAddrNetlink::try_from(sender).map(|address| address.pid()));
    matches!(port, Some(Ok(KERNEL)))
}
