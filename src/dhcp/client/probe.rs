//! ARP packets that the client sends (RFC 5227), and the DECLINE after a conflict.

use smoltcp::wire::DhcpMessageType as Type;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Client;
use super::claim::{ARP_TIMEOUT, ConflictWatch, ProxyCheck, router_to_ask};
use super::state::State;
use crate::dhcp::acquire_error::AcquireError;
use crate::dhcp::config::Probe;
use crate::dhcp::event::{Event, Transmit};
use crate::dhcp::frame::Arp;
use crate::dhcp::lease::Lease;
use crate::dhcp::message::ClientMessage;
use crate::mac::Mac;
use crate::time::Instant;

/// The time to listen after a renewal. A process may have been started for this renewal alone, most
/// stations answer within a millisecond, and the next renewal probes again.
const RENEWAL_WATCH: Duration = Duration::from_millis(50);
/// ANNOUNCE_WAIT, from the last probe to the use of the address, and ANNOUNCE_INTERVAL, between the
/// two announcements (RFC 5227 §1.1).
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
impl Client {
    /// Sends a probe together with a REQUEST, so that it costs no time.
    pub(super) fn probe_with_request(&mut self, address: Ipv4Addr) {
        if self.config.probe == Probe::WithRequest {
            self.send_arp(Arp::probe(self.config.mac, address));
        }
    }

    /// Enters PROBING. The first wait is random, so that hosts do not probe all at once after a
    /// power cut (RFC 5227 §2.1.1).
    pub(super) fn probe(&mut self, lease: Box<Lease>, probes: u8, now: Instant) -> State {
        State::Probing {
            lease,
            left: probes,
            next: now + self.backoff.probe_wait(),
            check: None,
        }
    }

    /// Sends the next probe; enters BOUND after the last.
    pub(super) fn probe_next(&mut self, lease: Box<Lease>, left: u8, now: Instant) -> State {
        if lease.expires_at().is_some_and(|expiry| expiry <= now) {
            return State::Init { at: now };
        }
        let Some(left) = left.checked_sub(1) else {
            return self.bind_first(*lease, now);
        };
        self.send_arp(Arp::probe(self.config.mac, lease.address));
        let wait = if left == 0 {
            ANNOUNCE_WAIT
        } else {
            self.backoff.probe_interval()
        };
        State::Probing {
            lease,
            left,
            next: now + wait,
            check: None,
        }
    }

    /// Enters PROBING to check whether the station that claims the address answers for the router
    /// as well: then it is the router, or does proxy ARP. Declines the address if there is no
    /// router to ask.
    pub(super) fn check_claim(&mut self, lease: Box<Lease>, by: Mac, now: Instant) -> State {
        match router_to_ask(&lease) {
            Some(router) => {
                self.send_arp(Arp::probe(self.config.mac, router));
                State::Probing {
                    lease,
                    left: 0,
                    next: now + ARP_TIMEOUT,
                    check: Some(ProxyCheck { by, router }),
                }
            }
            None => self.decline_lease(lease.address, lease.server_id, by, now),
        }
    }

    /// Announces a new address (RFC 2131 §4.4.1) and listens until the second announcement
    /// (RFC 5227 §2.3), because its owner may be slow to answer.
    pub(super) fn announce_new(
        &mut self,
        address: Ipv4Addr,
        now: Instant,
    ) -> Option<ConflictWatch> {
        self.announce(address);
        Some(ConflictWatch {
            until: now + ANNOUNCE_WAIT,
            announce: true,
            is_in_use: false,
            deadline: self.search.deadline,
        })
    }

    pub(super) fn announce(&mut self, address: Ipv4Addr) {
        self.send_arp(Arp::announcement(self.config.mac, address));
    }

    /// Listens after a renewal for the answer to its probe.
    pub(super) fn watch_after_renewal(&self, now: Instant) -> Option<ConflictWatch> {
        let watch = ConflictWatch {
            until: now + RENEWAL_WATCH,
            announce: false,
            is_in_use: true,
            deadline: None,
        };
        (self.config.probe != Probe::Off).then_some(watch)
    }

    /// Broadcasts a DECLINE, from 0.0.0.0 and with `secs` 0 (RFC 2131 §4.4.4 and table 5).
    pub(super) fn send_decline(
        &mut self,
        address: Ipv4Addr,
        server: Ipv4Addr,
        by: Mac,
        now: Instant,
    ) {
        let message = ClientMessage {
            requested: Some(address),
            server: Some(server),
            message: Some(format!("in use by {by}")),
            ..ClientMessage::new(Type::Decline, self.plainness.encode(self.backoff.xid()), 0)
        };
        self.tally.declines += u32::from(self.carrier);
        self.remember_conflict(by, address);
        // The server has leased in answer to messages of this plainness, and may answer no others.
        self.config.plainness = self.config.plainness.max(self.plainness);
        self.broadcast(&message, now);
    }

    /// Declines a leased address before it is used, and enters INIT.
    pub(super) fn decline_lease(
        &mut self,
        address: Ipv4Addr,
        server: Ipv4Addr,
        by: Mac,
        now: Instant,
    ) -> State {
        self.send_decline(address, server, by, now);
        self.events.push_back(Event::Declined {
            address,
            server,
            by,
        });
        self.start_over(
            AcquireError::InUse {
                address,
                server,
                by,
            },
            now,
        )
    }

    pub(super) fn send_arp(&mut self, arp: Arp) {
        self.tally.probes += u32::from(self.carrier && arp.is_probe());
        self.send(Transmit::Frame, arp.write());
    }

    /// Probes for our own address in each renewal.
    ///
    /// Deviation: RFC 5227 §2.4 has a host watch its address as long as it uses it, and therefore
    /// RFC 5227 §2.1 forbids periodic probes. This client has no socket open between exchanges. To
    /// an attacker the probe reveals when the client listens, which is worth one announcement.
    pub(super) fn probe_own_address(&mut self, address: Ipv4Addr) {
        if self.config.probe != Probe::Off {
            self.send_arp(Arp::probe(self.config.mac, address));
        }
    }
}
