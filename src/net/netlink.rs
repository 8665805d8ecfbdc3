//! A rtnetlink socket that asks and waits for the answer: the kernel has it ready before `send` returns.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NlaBuffer, NlasIterator,
    parse_i32, parse_u32,
};
use nix::libc;
use nix::sys::socket::SetSockOpt;
use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, recvfrom, send, socket_with,
};

use super::option::{ExplainErrors, OmitRequest};

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

/// Why a request failed: the system's error, and the kernel's own words where it had any.
#[derive(Debug, thiserror::Error)]
#[error("{source}{words}", words = .explanation.as_ref().map(|words| format!(": {words}")).unwrap_or_default())]
pub struct Error {
    source: io::Error,
    explanation: Option<String>,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// As the system's error, where nothing but its errno or its text is wanted.
    pub fn into_io(self) -> io::Error {
        if self.explanation.is_none() { self.source } else { io::Error::new(self.source.kind(), self.to_string()) }
    }

    /// What the kernel said beside the errno (netlink's extended acknowledgement).
    pub fn explanation(&self) -> Option<&str> {
        self.explanation.as_deref()
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self { source, explanation: None }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string()).into()
    }
}

/// A message's body: what all of its kind begin with, and attributes behind that.
///
/// netlink-packet-route has whole messages as well, but these bring every attribute that rtnetlink knows.
#[derive(Clone, Debug)]
pub(super) struct Body<H> {
    pub(super) header: H,
    attributes: Vec<DefaultNla>,
}

impl<H: Emitable> Body<H> {
    pub(super) fn new(header: H) -> Self {
        Self { header, attributes: Vec::new() }
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

/// The attributes in a message's body, of which `header` was read.
pub(super) fn attributes<'a>(body: &'a [u8], header: &impl Emitable) -> NlasIterator<&'a [u8]> {
    NlasIterator::new(body.get(header.buffer_len()..).unwrap_or_default())
}

/// A `NETLINK_ROUTE` socket. It speaks of the namespace it was opened in, wherever it is used.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

/// The longest wait for an answer that the kernel should have had ready.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer. The kernel cuts a dump into pieces no longer than this; an interface takes some 1.5 kB.
pub(super) const BUFFER: usize = 8 * 1024;
/// A dump during which the table changed is asked for again, this often.
const DUMP_ATTEMPTS: usize = 4;

const HEADER: usize = size_of::<libc::nlmsghdr>();

impl Netlink {
    /// Opens a socket in the network namespace that this thread is in.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        // Both are for better errors only, and older kernels have neither.
        let _ = (ExplainErrors.set(&socket, &true), OmitRequest.set(&socket, &true));
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends one message and waits until the kernel has done it. What it answers beside that is returned, mostly nothing.
    ///
    /// `flags` are added to `NLM_F_REQUEST | NLM_F_ACK` (netlink(7)).
    pub fn request(&self, message_type: u16, flags: u16, body: &impl Emitable) -> Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        self.exchange(message_type, flags | NLM_F_ACK, body, &mut answers)?;
        Ok(answers)
    }

    /// Asks for a whole table; every entry comes as the bytes of its message, header cut off.
    pub fn dump(&self, message_type: u16, body: &impl Emitable) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut answers = Vec::new();
            if self.exchange(message_type, NLM_F_DUMP | NLM_F_ACK, body, &mut answers)? == Table::Stood {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the table changed whenever it was read").into())
    }

    fn exchange(&self, kind: u16, flags: u16, body: &impl Emitable, answers: &mut Vec<Vec<u8>>) -> Result<Table> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(HEADER + body.buffer_len()).map_err(|_| invalid("a message of over 4 GB"))?;
        header.message_type = kind;
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = sequence;
        let mut request = vec![0; HEADER + body.buffer_len()];
        header.emit(&mut request[..HEADER]);
        body.emit(&mut request[HEADER..]);
        retry_on_intr(|| send(&self.socket, &request, SendFlags::empty()))?;

        let mut buffer = [0; BUFFER];
        let mut table = Table::Stood;
        loop {
            let (_, length, sender) = retry_on_intr(|| recvfrom(&self.socket, &mut buffer[..], RecvFlags::TRUNC))?;
            if !is_from_kernel(sender) {
                continue;
            }
            let datagram = buffer.get(..length).ok_or_else(|| invalid("an answer longer than the buffer"))?;
            for message in Messages(datagram) {
                let message = message?;
                if message.sequence != sequence {
                    // The late end of an exchange that was given up.
                    continue;
                }
                if i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0 {
                    table = Table::Changed;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_NOOP => {}
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => return acknowledged(&message).map(|()| table),
                    _ => answers.push(message.body.to_vec()),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Port 0 is the kernel. Others in the namespace can send here as well, and are not listened to.
pub(super) fn is_from_kernel(sender: Option<SocketAddrAny>) -> bool {
    let port = sender.map(|sender| SocketAddrNetlink::try_from(sender).map(|address| address.pid()));
    matches!(port, Some(Ok(0)))
}

/// Whether a table stood still while it was read.
#[derive(PartialEq)]
enum Table {
    Stood,
    Changed,
}

/// One message: what its header says, and the rest.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages in one datagram; what is cut short is an error, and the last item.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let whole = std::mem::take(&mut self.0);
        let Some((header, _)) = whole.split_at_checked(HEADER) else {
            return Some(Err(invalid("a cut header")));
        };
        let (length, sequence) = match (parse_u32(&header[0..4]), parse_u32(&header[8..12])) {
            (Ok(length), Ok(sequence)) => (length as usize, sequence),
            (Err(error), _) | (_, Err(error)) => return Some(Err(error.into())),
        };
        let Some(body) = whole.get(HEADER..length) else {
            return Some(Err(invalid("a cut message")));
        };
        // Messages begin at multiples of four (netlink(7), NLMSG_ALIGNTO); the last need not be padded.
        self.0 = whole.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence,
            body,
        }))
    }
}

/// The end of an exchange: zero is success, a negative number an errno, with words behind it if the kernel has any.
fn acknowledged(message: &Message<'_>) -> Result<()> {
    let Some((code, rest)) = message.body.split_at_checked(4) else {
        return Err(invalid("a cut acknowledgement"));
    };
    let errno = parse_i32(code)?.wrapping_neg();
    if errno == 0 {
        return Ok(());
    }
    let flags = i32::from(message.flags);
    // After the errno comes the header of the request, and its body too unless the kernel says that it is cut off.
    let words = match (flags & NLM_F_ACK_TLVS != 0, flags & NLM_F_CAPPED != 0) {
        (true, true) => rest.get(HEADER..),
        (true, false) => rest.get((parse_u32(rest.get(..4).unwrap_or_default())? as usize).next_multiple_of(4)..),
        (false, _) => None,
    };
    let explanation = words
        .into_iter()
        .flat_map(NlasIterator::new)
        .map_while(std::result::Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|words| text(&words));
    Err(Error { source: io::Error::from_raw_os_error(errno), explanation })
}

/// Flags and attribute of an extended acknowledgement (linux/netlink.h).
const NLM_F_CAPPED: i32 = 0x100;
const NLM_F_ACK_TLVS: i32 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A string attribute, with or without its terminating zero.
pub(super) fn text(attribute: &NlaBuffer<&[u8]>) -> String {
    String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned()
}

/// An attribute that is an IPv4 address.
pub(super) fn ipv4(attribute: &NlaBuffer<&[u8]>) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(attribute.value()).ok().map(Ipv4Addr::from)
}

fn invalid(what: &str) -> Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink: {what}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that begins with its true length.
    fn message(kind: i32, flags: i32, body: &[u8]) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.length = (HEADER + body.len()) as u32;
        header.message_type = kind as u16;
        header.flags = flags as u16;
        header.sequence_number = 7;
        let mut message = vec![0; HEADER];
        header.emit(&mut message);
        message.extend(body);
        message
    }

    #[test]
    fn a_datagram_is_cut_into_messages_and_a_cut_one_ends_it() {
        let two = [message(16, 0, &[1, 2, 3]), vec![0], message(16, 0, &[4])].concat();
        let bodies: Vec<_> = Messages(&two).map(|message| message.map(|message| message.body.to_vec())).collect();
        assert!(matches!(&bodies[..], [Ok(one), Ok(two)] if one[..] == [1, 2, 3] && two[..] == [4]));
        for length in (1..two.len() - 1).filter(|length| ![19, 20].contains(length)) {
            assert!(Messages(&two[..length]).last().is_some_and(|last| last.is_err()), "{length}");
        }
        // Lengths that would never get on.
        for length in [0_u32, 15, u32::MAX] {
            let mut broken = message(16, 0, &[]);
            broken[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Messages(&broken).filter(|message| message.is_err()).count(), 1, "{length}");
        }
    }

    #[test]
    fn an_acknowledgement_tells_errno_and_words_wherever_they_stand() {
        let errno = (-libc::EINVAL).to_ne_bytes();
        let words = [&[10, 0, 1, 0][..], b"no\0w?\0\0\0"].concat();
        let request = message(16, 0, &[9; 6]);
        let capped = [&errno[..], &request[..HEADER], &words].concat();
        let whole = [&errno[..], &request, &[0, 0], &words].concat();
        for (flags, body) in [(NLM_F_ACK_TLVS | NLM_F_CAPPED, &capped), (NLM_F_ACK_TLVS, &whole)] {
            let datagram = message(libc::NLMSG_ERROR, flags, body);
            for message in Messages(&datagram).flatten() {
                let error = acknowledged(&message).expect_err("an errno");
                assert_eq!((error.errno(), error.explanation()), (Some(libc::EINVAL), Some("no\0w?")));
            }
            // However short it is cut, it is an error and no more.
            for length in 0..body.len() {
                let datagram = message(libc::NLMSG_ERROR, flags, &body[..length]);
                assert!(Messages(&datagram).flatten().all(|message| acknowledged(&message).is_err()), "{length}");
            }
        }
        let datagram = message(libc::NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
        assert!(Messages(&datagram).flatten().all(|message| acknowledged(&message).is_ok()));
    }
}
