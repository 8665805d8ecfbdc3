//! The parser for the answers of one exchange. Pure, so that a fuzzer can play the kernel.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{Emitable, NlaBuffer, NlasIterator, parse_i32, parse_u32};
use nix::libc;

use super::error::{NetlinkError, Result, invalid};

/// The length of a message header in bytes (netlink(7)).
pub(in crate::net) const HEADER: usize = size_of::<libc::nlmsghdr>();

/// The flags and the attribute of an extended acknowledgement (linux/netlink.h).
const NLM_F_CAPPED: i32 = 0x100;
const NLM_F_ACK_TLVS: i32 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The most entries in one exchange. A kernel without filters (before 4.20) sends every entry of the
/// namespace, and a container's namespace may have a million.
const MAX_ENTRIES: usize = 10_000;
/// The most bytes in one exchange. Each interface of a container may have 64 kB of alternative names.
const MAX_BYTES: usize = 4 << 20;
/// The most datagrams that one exchange skips, such as the late end of an earlier exchange.
const MAX_SKIPPED: usize = 64;

/// A parser for the datagrams that answer one request. It accepts any bytes, up to its limits.
#[derive(Debug)]
pub struct Reader {
    sequence: u32,
    entries: usize,
    bytes: usize,
    skipped: usize,
    table: DumpState,
    is_over: bool,
}

/// The state of an exchange after a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More datagrams follow.
    Unfinished,
    /// The exchange is over, and the request has succeeded.
    Done(DumpState),
}

/// The consistency of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpState {
    /// All entries are of the same moment.
    Consistent,
    /// The table changed meanwhile: entries may be missing or repeated (`NLM_F_DUMP_INTR`).
    Changed,
}

impl Reader {
    /// Returns a parser for the request with that sequence number.
    pub fn new(sequence: u32) -> Self {
        Self {
            sequence,
            entries: 0,
            bytes: 0,
            skipped: 0,
            table: DumpState::Consistent,
            is_over: false,
        }
    }

    /// Returns the sequence number of the request.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Returns whether the kernel has sent its last answer, a success or an error.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Counts a datagram that is not from the kernel.
    ///
    /// # Errors
    ///
    /// Returns an error if there were too many: the exchange ends.
    pub fn skip(&mut self) -> Result<()> {
        self.skipped += 1;
        if self.skipped > MAX_SKIPPED {
            Err(invalid("nothing but messages of others"))
        } else {
            Ok(())
        }
    }

    /// Parses a datagram of the kernel, and calls `entry` with the body of each message that belongs
    /// to the answer.
    ///
    /// # Errors
    ///
    /// The request failed, the datagram is malformed, a limit is exceeded, or `entry` failed. This
    /// must not be called after that.
    pub fn read(
        &mut self,
        datagram: &[u8],
        entry: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Progress> {
        self.bytes += datagram.len();
        if self.bytes > MAX_BYTES {
            return Err(NetlinkError::TooMany {
                what: "bytes of answer",
                most: MAX_BYTES,
            });
        }
        let before = self.entries;
        for message in Messages(datagram) {
            let message = message?;
            if message.sequence != self.sequence {
                continue;
            }
            if i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0 {
                self.table = DumpState::Changed;
            }
            match i32::from(message.kind) {
                libc::NLMSG_NOOP => {}
                libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                    self.is_over = true;
                    return acknowledged(&message).map(|()| Progress::Done(self.table));
                }
                _ => {
                    self.entries += 1;
                    if self.entries > MAX_ENTRIES {
                        return Err(NetlinkError::TooMany {
                            what: "entries",
                            most: MAX_ENTRIES,
                        });
                    }
                    entry(message.body)?;
                }
            }
        }
        if self.entries == before {
            self.skip()?;
        }
        Ok(Progress::Unfinished)
    }
}

/// A message: the header fields in use, and the body.
pub(in crate::net) struct Message<'a> {
    pub(in crate::net) kind: u16,
    flags: u16,
    sequence: u32,
    pub(in crate::net) body: &'a [u8],
}

/// An iterator over the messages in a datagram. A truncated message is an error, and the last item.
struct Messages<'a>(&'a [u8]);

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
        // Messages are aligned to four bytes (netlink(7), NLMSG_ALIGNTO). The last one may lack its
        // padding.
        self.0 = whole.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence,
            body,
        }))
    }
}

/// Parses the last message of an exchange: zero for success or a negative errno, and perhaps a text.
fn acknowledged(message: &Message<'_>) -> Result<()> {
    let Some((code, rest)) = message.body.split_at_checked(4) else {
        return Err(invalid("a cut acknowledgement"));
    };
    let errno = parse_i32(code)?.wrapping_neg();
    if errno == 0 {
        return Ok(());
    }
    let flags = i32::from(message.flags);
    // After the errno follows the header of the request, and also its body unless NLM_F_CAPPED is
    // set.
    let attributes = match (flags & NLM_F_ACK_TLVS != 0, flags & NLM_F_CAPPED != 0) {
        (true, true) => rest.get(HEADER..),
        (true, false) => {
            let request = parse_u32(rest.get(..4).unwrap_or_default())? as usize;
            request
                .checked_next_multiple_of(4)
                .and_then(|end| rest.get(end..))
        }
        (false, _) => None,
    };
    let explanation = attributes
        .into_iter()
        .flat_map(NlasIterator::new)
        .map_while(std::result::Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| text(&attribute));
    Err(NetlinkError::System {
        source: io::Error::from_raw_os_error(errno),
        explanation,
    })
}

/// Returns the attributes in the body of a message, after `header`.
pub(in crate::net) fn attributes<'a>(
    body: &'a [u8],
    header: &impl Emitable,
) -> NlasIterator<&'a [u8]> {
    NlasIterator::new(body.get(header.buffer_len()..).unwrap_or_default())
}

/// Returns the value of a string attribute, without a terminating zero.
pub(in crate::net) fn text(attribute: &NlaBuffer<&[u8]>) -> String {
    String::from_utf8_lossy(attribute.value())
        .trim_end_matches('\0')
        .to_owned()
}

/// Returns the value of an attribute with an IPv4 address.
pub(in crate::net) fn ipv4(attribute: &NlaBuffer<&[u8]>) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(attribute.value())
        .ok()
        .map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests;
