//! What a client keeps in mind while it asks: the exchange under way, and the search that it is
//! part of.

use super::acquire_error::AcquireError;
use super::message::ClientMessage;
use super::plainness::Plainness;
use crate::time::Instant;
use smoltcp::wire::DhcpMessageType;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One thing said under one xid, as often as it takes (RFC 2131 §4.1 leaves it to us whether the xid
/// changes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// But for the bits that tell how plain a message is.
    xid: u32,
    /// The kinds of plainness that messages went out with, as a set.
    sent_plainness: u8,
    /// When it was first said; a lease counts from here (RFC 2131 §4.4.1).
    pub(super) since: Instant,
    /// What the last message had in its `secs` field.
    pub(super) secs: u16,
    pub(super) sent: u32,
    /// How often the same was sent in exchanges before this one.
    sent_before: u32,
    /// When to say it again, or to stop saying it.
    pub(super) next: Instant,
}

impl Exchange {
    pub(super) fn new(xid: u32, now: Instant) -> Self {
        Self {
            xid,
            sent_plainness: 0,
            since: now,
            secs: 1,
            sent: 0,
            sent_before: 0,
            next: now,
        }
    }

    /// Makes the exchange that repeats this unanswered one.
    pub(super) fn restarted(self, xid: u32, now: Instant) -> Self {
        Self {
            sent_before: self.sent_before.saturating_add(self.sent),
            ..Self::new(xid, now)
        }
    }

    /// Makes an exchange that another client began, under an xid that is not known: of its progress
    /// only the time of the next message is left.
    ///
    /// How often the message was sent is not known either. The next one is as plain as it gets: a
    /// client is suspended after each REQUEST of a renewal, and the second would be the last to get
    /// plainer.
    pub(super) fn resumed(xid: u32, next: Instant) -> Self {
        Self {
            sent: 1,
            sent_before: 1,
            next,
            ..Self::new(xid, Instant::from_boot(Duration::ZERO))
        }
    }

    /// Counts one more message, in an effort that began at `began`, and sets the time for the next.
    pub(super) fn count_sent(&mut self, began: Instant, now: Instant, next: Instant) {
        self.sent = self.sent.saturating_add(1);
        // At least 1, which RFC 2131 table 5 leaves to us: some servers and relays hold back while
        // it is 0, waiting for others to serve the client.
        self.secs = u16::try_from((now - began).as_secs())
            .unwrap_or(u16::MAX)
            .max(1);
        self.next = next;
    }

    /// The same with another thing said in it: a REQUEST has the `secs` of its DISCOVER (RFC 2131
    /// §3.1 (3)) and its xid (RFC 2131 §4.4.1), and what it leads to counts from now on.
    pub(super) fn into_request(self, now: Instant) -> Self {
        Self {
            since: now,
            sent_plainness: 0,
            sent: 0,
            sent_before: 0,
            ..self
        }
    }

    /// Returns the next message, after [`Exchange::count_sent`].
    ///
    /// A retransmitted REQUEST has no options that netavark's does not have: a relay or a server
    /// may drop one for them alone. Its xid stays that of the OFFER (RFC 2131 §4.4.1). The parameter
    /// request list stays that of the DISCOVER, as RFC 2131 §3.5 wants it, until the third REQUEST:
    /// that one is as short as netavark's.
    pub(super) fn message(
        &mut self,
        message_type: DhcpMessageType,
        plainness: Plainness,
    ) -> ClientMessage {
        self.sent_plainness |= plainness.bit();
        let message = ClientMessage::new(message_type, plainness.encode(self.xid), self.secs);
        let at_least = plainness.max(Plainness::LikeNetavark);
        match (message_type, self.sent_before.saturating_add(self.sent)) {
            (DhcpMessageType::Request, 2) => ClientMessage {
                plainness: at_least,
                ..message
            },
            (DhcpMessageType::Request, 3..) => ClientMessage {
                plainness: at_least,
                parameter_list: at_least,
                ..message
            },
            _ => message,
        }
    }

    /// Returns whether a reply with this xid answers one of the messages.
    pub(super) fn is_answered_by(&self, xid: u32) -> bool {
        let plainness = Plainness::from_xid(xid);
        plainness.encode(self.xid) == xid && self.sent_plainness & plainness.bit() != 0
    }
}

/// The search for a lease, over all of its rounds from DISCOVER to ACK.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) since: Instant,
    /// When the caller stops waiting for the first lease; `None` without a waiting caller.
    pub(super) deadline: Option<Instant>,
    /// The requested address (option 50).
    pub(super) wanted: Option<Ipv4Addr>,
    pub(super) discovers: u32,
    /// DISCOVERs since the carrier was last there: they are sent ever more seldom.
    pub(super) pace: u32,
    /// DISCOVERs since the last OFFER: they get ever plainer.
    pub(super) unanswered: u32,
    /// How the last round ended, where it got as far as an OFFER.
    pub(super) last_error: Option<AcquireError>,
    /// The OFFERs that no lease can come of: the last one's server and its fault, and how many
    /// there were.
    pub(super) unusable_offers: Option<(Ipv4Addr, &'static str, u32)>,
}

impl Search {
    pub(super) fn new(since: Instant, wanted: Option<Ipv4Addr>) -> Self {
        Self {
            since,
            deadline: None,
            wanted,
            discovers: 0,
            pace: 0,
            unanswered: 0,
            last_error: None,
            unusable_offers: None,
        }
    }
}
