//! A server that answers a search, and what it offers.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::DhcpMessageType as Type;

use super::DiscoverForm;
use crate::dhcp::lease::{Lease, Unusable, granted_time};
use crate::dhcp::message::ServerMessage;
use crate::dhcp::option;
use crate::mac::Mac;
use crate::time::Instant;

/// The way in which a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Unicast,
    Broadcast,
}

impl Delivery {
    /// Returns that of a frame which was accepted.
    pub(super) fn of(frame: &[u8]) -> Self {
        if frame.starts_with(&Mac::BROADCAST.0) {
            Self::Broadcast
        } else {
            Self::Unicast
        }
    }
}

/// A reply, and the DISCOVER that it answers.
pub(super) struct ServerReply<'a> {
    pub(super) reply: &'a ServerMessage,
    pub(super) form: DiscoverForm,
    pub(super) took: Duration,
    pub(super) delivery: Delivery,
    /// The UDP checksum is correct.
    pub(super) is_intact: bool,
}

impl ServerReply<'_> {
    /// Returns the server's identifier or, without one, the address that replaces it.
    pub(super) fn server(&self) -> Option<Ipv4Addr> {
        self.reply.server().or_else(|| self.reply.fallback_server())
    }

    /// Returns what is offered; `None` without an address that a host can have.
    fn offer(&self, server: Ipv4Addr, now: Instant) -> Option<Offer> {
        let (lease, unusable) = Lease::read(self.reply, (server, None), now).ok()?;
        Some(Offer {
            lease,
            unusable,
            has_lease_time: granted_time(self.reply).is_some(),
            has_mask: self.reply.options.address(option::SUBNET_MASK).is_some(),
        })
    }
}

/// The content of an OFFER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// As the client would read it.
    pub(crate) lease: Lease,
    pub(crate) unusable: Vec<Unusable>,
    /// The lease time is the server's, not a default.
    pub(crate) has_lease_time: bool,
    /// The server gives a subnet mask.
    pub(crate) has_mask: bool,
}

/// A server that has answered: a server identifier and a station.
#[derive(Debug)]
pub(crate) struct OfferingServer {
    /// Its identifier (option 54) or, without one, the source address of its replies.
    pub(crate) id: Ipv4Addr,
    pub(crate) has_id: bool,
    /// The station on this link: the server's, a router's or a relay's.
    pub(crate) mac: Mac,
    /// The source address of its first reply.
    pub(crate) source: Ipv4Addr,
    /// The time from a DISCOVER to its first reply.
    pub(crate) took: Duration,
    pub(super) first_reply_at: Instant,
    /// The DISCOVERs that it has answered.
    answered: Vec<DiscoverForm>,
    /// The way of its replies to DISCOVERs without the broadcast flag, and with it.
    pub(crate) unflagged: Option<Delivery>,
    pub(crate) flagged: Option<Delivery>,
    pub(crate) replies: u32,
    /// Replies with a wrong UDP checksum.
    pub(crate) damaged: u32,
    /// DHCPACKs, which no request asked for.
    pub(crate) acks: u32,
    /// Its first usable OFFER with a correct UDP checksum; without one, the first usable one.
    pub(crate) offer: Option<Offer>,
    /// An address of a later OFFER, if it is another one.
    pub(crate) other_address: Option<Ipv4Addr>,
}

impl OfferingServer {
    /// Makes the record of a server for its first reply, which has to be added.
    pub(super) fn new(id: Ipv4Addr, answer: &ServerReply<'_>, now: Instant) -> Self {
        Self {
            id,
            has_id: answer.reply.server().is_some(),
            mac: answer.reply.from,
            source: answer.reply.source(),
            took: answer.took,
            first_reply_at: now,
            answered: Vec::new(),
            unflagged: None,
            flagged: None,
            replies: 0,
            damaged: 0,
            acks: 0,
            offer: None,
            other_address: None,
        }
    }

    /// Returns whether no reply has had a correct UDP checksum.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged == self.replies
    }

    /// Adds a reply.
    pub(super) fn add(&mut self, answer: &ServerReply<'_>, now: Instant) {
        let was_damaged = self.is_damaged();
        self.replies = self.replies.saturating_add(1);
        self.damaged = self.damaged.saturating_add(u32::from(!answer.is_intact));
        self.acks += u32::from(answer.reply.message_type == Type::Ack);
        if !self.answered.contains(&answer.form) {
            self.answered.push(answer.form);
        }
        let delivery = match answer.form {
            DiscoverForm::Broadcast => &mut self.flagged,
            DiscoverForm::Full | DiscoverForm::LikeNetavark | DiscoverForm::Bare => {
                &mut self.unflagged
            }
        };
        delivery.get_or_insert(answer.delivery);
        match (&self.offer, answer.offer(self.id, now)) {
            (None, offer) => self.offer = offer,
            // A damaged reply may have had any address.
            (Some(_), Some(next)) if answer.is_intact && was_damaged => self.offer = Some(next),
            (Some(first), Some(next))
                if answer.is_intact && first.lease.address != next.lease.address =>
            {
                self.other_address = Some(next.lease.address);
            }
            (Some(_), _) => {}
        }
    }

    /// Returns whether it has answered a DISCOVER of this form.
    pub(crate) fn has_answered(&self, form: DiscoverForm) -> bool {
        self.answered.contains(&form)
    }
}
