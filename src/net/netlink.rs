//! A rtnetlink socket that asks and waits for the answer: the kernel has it ready before `send`
//! returns.

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
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, connect, recvfrom,
    send, socket_with,
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
    /// Asks for interfaces.
    pub const GET_LINK: u16 = libc::RTM_GETLINK;
    /// Adds or changes an address.
    pub const NEW_ADDRESS: u16 = libc::RTM_NEWADDR;
    /// Removes an address.
    pub const DEL_ADDRESS: u16 = libc::RTM_DELADDR;
    /// Asks for addresses.
    pub const GET_ADDRESS: u16 = libc::RTM_GETADDR;
    /// Adds a route.
    pub const NEW_ROUTE: u16 = libc::RTM_NEWROUTE;
    /// Removes a route.
    pub const DEL_ROUTE: u16 = libc::RTM_DELROUTE;
    /// Asks for routes.
    pub const GET_ROUTE: u16 = libc::RTM_GETROUTE;
}

/// A message's body: what all of its kind begin with, and attributes behind that.
///
/// netlink-packet-route has whole messages as well, but these bring every attribute that rtnetlink
/// knows.
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

/// Two `NETLINK_ROUTE` sockets, connected to the kernel: nothing that a process sends to them
/// arrives. They speak of the namespace that they were opened in, wherever they are used.
#[derive(Debug)]
pub struct Netlink {
    requests: OwnedFd,
    /// Apart from the other, for a table that is too long is left half read. The kernel sends the
    /// rest to its socket all the same, as much as the owner of the namespace has put there, and
    /// that socket takes no other request for a table.
    dumps: OwnedFd,
    /// A table was left half read.
    is_cut: Cell<bool>,
    sequence: Cell<u32>,
}

/// The longest time for the answers to a request. The kernel has the first one ready before `send`
/// returns, which may itself take long: it waits there for all other changes to interfaces and
/// routes of the host. The bounds of the reader end an exchange long before this on any but a
/// starved machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest datagram, in bytes. An interface takes some 800 bytes, and up to 64 kB more for its
/// alternative names.
const LONGEST: usize = 256 * 1024;
/// A dump during which the table changed is asked for again, this often.
const DUMP_ATTEMPTS: usize = 4;

impl Netlink {
    /// Opens the sockets in the network namespace that this thread is in.
    ///
    /// # Errors
    ///
    /// Returns the error of the system call that failed.
    pub fn open() -> io::Result<Self> {
        let (requests, dumps) = (connected()?, connected()?);
        // Linux before 4.20 does not know this, and sends all entries of a table, of which the
        // others are skipped.
        let _ = FilterDumps.set(&dumps, &true);
        Ok(Self {
            requests,
            dumps,
            is_cut: Cell::new(false),
            sequence: Cell::new(0),
        })
    }

    /// Sends one message and waits until the kernel has done it. Returns the bodies of what the
    /// kernel answers beside that, mostly none.
    ///
    /// `flags` are added to `NLM_F_REQUEST | NLM_F_ACK` (netlink(7)).
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or that an answer is malformed or late.
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

    /// Asks for a whole table. Every entry comes as the bytes of its message, header cut off.
    ///
    /// # Errors
    ///
    /// Returns the kernel's error, or that an answer is malformed or late.
    pub fn dump(&self, message_type: u16, body: &impl Emitable) -> Result<Vec<Vec<u8>>> {
        self.read_table(message_type, body, ("entries", usize::MAX), |entry| {
            Ok(Some(entry.to_vec()))
        })
    }

    /// Asks for a table, and keeps what `read` makes of its entries.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::TooMany`] where more than `most` entries would be kept, or the table is too long to
    /// be read at all.
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
            if table == DumpState::Stood {
                return Ok(entries);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the table changed whenever it was read",
        )
        .into())
    }

    /// Asks for a table once, and calls `entry` with each entry until it fails.
    pub(super) fn dump_once(
        &self,
        message_type: u16,
        body: &impl Emitable,
        entry: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<DumpState> {
        if self.is_cut.get() {
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
        self.is_cut.set(!reader.is_over());
        table
    }

    /// Takes the next sequence number.
    fn reader(&self) -> Reader {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        Reader::new(self.sequence.get())
    }
}

/// Sends a request, and gives the kernel's answers to `reader` until the last.
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
    let deadline = rt::now() + PATIENCE;
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

/// Opens a socket that only the kernel can send to.
fn connected() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    to_kernel_only(&socket)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    // Both are for better errors only, and older kernels have neither.
    let _ = (
        ExplainErrors.set(&socket, &true),
        OmitRequest.set(&socket, &true),
    );
    Ok(socket)
}

/// Connects a netlink socket to the kernel: what others in the namespace send to its port is
/// refused on their side, and does not fill its queue. What they send to a group still arrives, so
/// each sender has to be looked at, too.
pub(super) fn to_kernel_only(socket: &OwnedFd) -> io::Result<()> {
    Ok(connect(socket, &SocketAddrNetlink::new(KERNEL, 0))?)
}

/// Takes the next datagram off the queue, whole. Returns whether it is the kernel's.
fn receive(socket: &OwnedFd, datagram: &mut Vec<u8>) -> Result<bool> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length, _) = retry_on_intr(|| recvfrom(socket, &mut [0; 0], peek))?;
    if length > LONGEST {
        return Err(NetlinkError::TooMany {
            what: "bytes in one answer",
            most: LONGEST,
        });
    }
    datagram.resize(length, 0);
    let (_, _, sender) = retry_on_intr(|| recvfrom(socket, &mut datagram[..], RecvFlags::empty()))?;
    Ok(is_from_kernel(sender))
}

impl AsFd for Netlink {
    /// Returns the socket for all but tables.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.requests.as_fd()
    }
}

/// The port of the kernel.
const KERNEL: u32 = 0;

/// Returns whether a datagram is from the kernel, and not from a process that may send to a group.
pub(super) fn is_from_kernel(sender: Option<SocketAddrAny>) -> bool {
    let port =
        sender.map(|sender| SocketAddrNetlink::try_from(sender).map(|address| address.pid()));
    matches!(port, Some(Ok(KERNEL)))
}
