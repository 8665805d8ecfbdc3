//! The answers of one exchange, read from its datagrams; pure, so that a fuzzer can stand in for
//! the kernel.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{Emitable, NlaBuffer, NlasIterator, parse_i32, parse_u32};
use nix::libc;

use super::error::{NetlinkError, Result, invalid};

/// The length of a message's header (netlink(7)), in bytes.
pub(in crate::net) const HEADER: usize = size_of::<libc::nlmsghdr>();

/// Flags and attribute of an extended acknowledgement (linux/netlink.h).
const NLM_F_CAPPED: i32 = 0x100;
const NLM_F_ACK_TLVS: i32 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Entries that are looked at in one exchange at most. Kernels that filter nothing for us (before
/// 4.20) send every entry of the namespace, and in a container's namespace there may be a million.
const MOST_ENTRIES: usize = 10_000;
/// Bytes that are read in one exchange at most: a container's interfaces may have 64 kB of
/// alternative names each.
const MOST_BYTES: usize = 4 << 20;
/// Datagrams of no use, such as the late end of an earlier exchange, that are skipped in one
/// exchange at most.
const MOST_SKIPPED: usize = 64;

/// A reader of the datagrams that answer one request. It takes any bytes, and never more than its
/// bounds allow.
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
    /// The kernel has more to say.
    Unfinished,
    /// The exchange is over, and the request has succeeded.
    Done(DumpState),
}

/// Tells whether a table stood still while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpState {
    /// The entries are those of one moment.
    Stood,
    /// Some entries may be missing, or be told twice (`NLM_F_DUMP_INTR`).
    Changed,
}

impl Reader {
    /// Makes a reader for the request of that sequence number.
    pub fn new(sequence: u32) -> Self {
        Self {
            sequence,
            entries: 0,
            bytes: 0,
            skipped: 0,
            table: DumpState::Stood,
            is_over: false,
        }
    }

    /// Returns the sequence number of the request.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Returns whether the kernel has said its last word on the request, be it success or failure.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Counts a datagram that is not from the kernel.
    ///
    /// # Errors
    ///
    /// The exchange is given up, for there were too many.
    pub fn skip(&mut self) -> Result<()> {
        self.skipped += 1;
        if self.skipped > MOST_SKIPPED {
            Err(invalid("nothing but messages of others"))
        } else {
            Ok(())
        }
    }

    /// Reads a datagram of the kernel, and calls `entry` with the body of each message that is part
    /// of the answer.
    ///
    /// # Errors
    ///
    /// The request failed, the datagram makes no sense, there is too much of it all, or `entry`
    /// wants no more. Nothing may be read after that.
    pub fn read(
        &mut self,
        datagram: &[u8],
        entry: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Progress> {
        self.bytes += datagram.len();
        if self.bytes > MOST_BYTES {
            return Err(NetlinkError::TooMany {
                what: "bytes of answer",
                most: MOST_BYTES,
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
                    if self.entries > MOST_ENTRIES {
                        return Err(NetlinkError::TooMany {
                            what: "entries",
                            most: MOST_ENTRIES,
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

/// One message: the fields of its header that are used, and its body.
pub(in crate::net) struct Message<'a> {
    pub(in crate::net) kind: u16,
    flags: u16,
    sequence: u32,
    pub(in crate::net) body: &'a [u8],
}

/// The messages in one datagram; one that is cut short is an error, and the last item.
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
        // Messages begin at multiples of four (netlink(7), NLMSG_ALIGNTO); the last need not be
        // padded.
        self.0 = whole.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence,
            body,
        }))
    }
}

/// Reads the end of an exchange: zero is success, a negative number an errno, with words behind it
/// if the kernel has any.
fn acknowledged(message: &Message<'_>) -> Result<()> {
    let Some((code, rest)) = message.body.split_at_checked(4) else {
        return Err(invalid("a cut acknowledgement"));
    };
    let errno = parse_i32(code)?.wrapping_neg();
    if errno == 0 {
        return Ok(());
    }
    let flags = i32::from(message.flags);
    // After the errno comes the header of the request, and its body too unless the kernel says that
    // it is cut off.
    let words = match (flags & NLM_F_ACK_TLVS != 0, flags & NLM_F_CAPPED != 0) {
        (true, true) => rest.get(HEADER..),
        (true, false) => {
            let request = parse_u32(rest.get(..4).unwrap_or_default())? as usize;
            request
                .checked_next_multiple_of(4)
                .and_then(|end| rest.get(end..))
        }
        (false, _) => None,
    };
    let explanation = words
        .into_iter()
        .flat_map(NlasIterator::new)
        .map_while(std::result::Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|words| text(&words));
    Err(NetlinkError::System {
        source: io::Error::from_raw_os_error(errno),
        explanation,
    })
}

/// The attributes in a message's body, of which `header` was read.
pub(in crate::net) fn attributes<'a>(
    body: &'a [u8],
    header: &impl Emitable,
) -> NlasIterator<&'a [u8]> {
    NlasIterator::new(body.get(header.buffer_len()..).unwrap_or_default())
}

/// Reads a string attribute, with or without its terminating zero.
pub(in crate::net) fn text(attribute: &NlaBuffer<&[u8]>) -> String {
    String::from_utf8_lossy(attribute.value())
        .trim_end_matches('\0')
        .to_owned()
}

/// Reads an attribute that is an IPv4 address.
pub(in crate::net) fn ipv4(attribute: &NlaBuffer<&[u8]>) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(attribute.value())
        .ok()
        .map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests;
