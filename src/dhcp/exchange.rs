//! The exchange under way, and the search that it belongs to.

use super::acquire_error::AcquireError;
use super::message::ClientMessage;
use super::plainness::Plainness;
use crate::time::Instant;
use smoltcp::wire::DhcpMessageType;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One message and its retransmissions under one xid (RFC 2131 §4.1 leaves it to the client whether
/// a retransmission has a new xid).
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// Without the bits that encode the plainness.
    xid: u32,
    /// The set of the plainness of all messages sent.
    sent_plainness: u8,
    /// The time of the first message, from which a lease counts (RFC 2131 §4.4.1).
    pub(super) since: Instant,
    /// The `secs` field of the last message.
    pub(super) secs: u16,
    pub(super) sent: u32,
    /// The number of messages in the exchanges that this one repeats.
    sent_before: u32,
    /// The time of the next retransmission, or of the end.
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

    /// Makes the exchange of a resumed client, of which only the time of the next message is known.
    ///
    /// The number of messages is unknown, so the next one is the plainest: a client is suspended
    /// after each REQUEST of a renewal, so the count would never get beyond the second one.
    pub(super) fn resumed(xid: u32, next: Instant) -> Self {
        Self {
            sent: 1,
            sent_before: 1,
            next,
            ..Self::new(xid, Instant::from_boot(Duration::ZERO))
        }
    }

    /// Counts a message of a search or renewal that began at `began`, and sets the time of the
    /// next.
    pub(super) fn count_sent(&mut self, began: Instant, now: Instant, next: Instant) {
        self.sent = self.sent.saturating_add(1);
        // RFC 2131 table 5 allows any value. It is at least 1, because some servers and relays do
        // not answer while it is 0, and leave the client to others.
        self.secs = u16::try_from((now - began).as_secs())
            .unwrap_or(u16::MAX)
            .max(1);
        self.next = next;
    }

    /// Makes the exchange of the REQUEST after a DISCOVER: with the same `secs` (RFC 2131 §3.1 (3))
    /// and xid (RFC 2131 §4.4.1). The lease counts from now on.
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
    /// A retransmitted REQUEST has only options that netavark sends, because a relay or a server
    /// may drop one for the others. Its xid stays that of the OFFER (RFC 2131 §4.4.1).
    /// RFC 2131 §3.5 wants the parameter request list of the DISCOVER. Deviation: the third REQUEST
    /// has the short list of netavark.
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

    /// Returns whether a reply with this xid answers a message of this exchange.
    pub(super) fn is_answered_by(&self, xid: u32) -> bool {
        let plainness = Plainness::from_xid(xid);
        plainness.encode(self.xid) == xid && self.sent_plainness & plainness.bit() != 0
    }
}

/// The search for a lease, over all rounds from DISCOVER to ACK.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) since: Instant,
    /// The deadline of the caller that waits for the first lease.
    pub(super) deadline: Option<Instant>,
    /// The requested address (option 50).
    pub(super) wanted: Option<Ipv4Addr>,
    pub(super) discovers: u32,
    /// DISCOVERs since the carrier came up, which determine the next wait.
    pub(super) pace: u32,
    /// DISCOVERs since the last OFFER, which determine the plainness of the next.
    pub(super) unanswered: u32,
    /// The end of the last round that got an OFFER.
    pub(super) last_error: Option<AcquireError>,
    /// The unusable OFFERs: the server and the fault of the last one, and their number.
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
