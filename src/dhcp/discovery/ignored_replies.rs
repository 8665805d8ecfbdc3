//! Replies to a search that cannot be used: a server is there, and what it sends is the trouble.

use crate::dhcp::ignored::Ignored;
use crate::mac::Mac;

/// The reason why a reply cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyFault {
    /// A fragment of an IPv4 packet.
    Fragment,
    /// Truncated, no DHCP message, or with a wrong IPv4 checksum.
    Malformed,
    /// Without option 53, as of a BOOTP server.
    NoMessageType,
    /// Another type than DHCPOFFER, such as a DHCPNAK.
    OtherType(u8),
    /// Neither a server identifier nor a source address.
    NoServer,
}

/// The numbers of replies that cannot be used by reason, and the station of the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IgnoredReplies(Vec<(ReplyFault, u32, Mac)>);

impl IgnoredReplies {
    /// Returns the reasons, the first one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ReplyFault, u32, Mac)> {
        self.0.iter().copied()
    }

    /// Counts a frame without a DHCP message.
    pub(super) fn count_frame(&mut self, frame: &[u8], why: &Ignored) {
        const SOURCE: std::ops::Range<usize> = 6..12;
        const IPV4: [u8; 2] = [8, 0];
        let fault = match why {
            Ignored::Fragment => ReplyFault::Fragment,
            Ignored::Malformed | Ignored::Checksum => ReplyFault::Malformed,
            Ignored::NotForUs
            | Ignored::NotDhcp
            | Ignored::OtherClient
            | Ignored::OtherExchange
            | Ignored::OtherServer(_)
            | Ignored::Unexpected { .. }
            | Ignored::Incomplete(_) => return,
        };
        let source = frame.get(SOURCE).and_then(|bytes| bytes.try_into().ok());
        if let Some(source) = source
            && frame[SOURCE.end..].starts_with(&IPV4)
        {
            self.count(fault, Mac(source));
        }
    }

    /// Counts a message that answers a DISCOVER.
    pub(super) fn count_message(&mut self, from: Mac, why: &Ignored) {
        let fault = match why {
            Ignored::Malformed => ReplyFault::Malformed,
            Ignored::Incomplete(super::SERVER_IDENTIFIER) => ReplyFault::NoServer,
            Ignored::Incomplete(_) => ReplyFault::NoMessageType,
            Ignored::Unexpected { message_type, .. } => ReplyFault::OtherType(*message_type),
            Ignored::NotForUs
            | Ignored::NotDhcp
            | Ignored::Fragment
            | Ignored::Checksum
            | Ignored::OtherClient
            | Ignored::OtherExchange
            | Ignored::OtherServer(_) => return,
        };
        self.count(fault, from);
    }

    fn count(&mut self, fault: ReplyFault, station: Mac) {
        let mut counted = self.0.iter_mut();
        match counted.find(|(known, ..)| *known == fault) {
            Some((_, count, _)) => *count += 1,
            None => self.0.push((fault, 1, station)),
        }
    }
}
