//! The states of a client.

use std::net::Ipv4Addr;

use super::claim::{Claims, ConflictWatch, Defence, ProxyCheck};
use crate::dhcp::exchange::Exchange;
use crate::dhcp::lease::Lease;
use crate::dhcp::snapshot::NEVER;
use crate::time::Instant;

/// The states of RFC 2131 figure 5, each with its own data, and three more.
#[derive(Debug)]
pub(super) enum State {
    /// INIT: the next DISCOVER is sent at `at`.
    Init { at: Instant },
    /// SELECTING: the DISCOVER was sent. The first usable OFFER is taken, but waits for one of the
    /// requested address.
    Selecting {
        exchange: Exchange,
        second_best: Option<(Box<Lease>, Instant)>,
    },
    /// REQUESTING: the offered address was requested. Other stations may claim it in the meantime.
    Requesting {
        exchange: Exchange,
        offer: Box<Lease>,
        claims: Claims,
    },
    /// INIT-REBOOT: a REQUEST for the previous address is sent at `at`.
    InitReboot { at: Instant, address: Ipv4Addr },
    /// REBOOTING: the previous address was requested.
    Rebooting {
        exchange: Exchange,
        address: Ipv4Addr,
        claims: Claims,
    },
    /// Not in the RFC: a lease whose address is not in use yet. Either `left` probes are still to
    /// be sent, or another station has claimed the address and is checked for proxy ARP until
    /// `next`.
    Probing {
        lease: Box<Lease>,
        left: u8,
        next: Instant,
        check: Option<ProxyCheck>,
    },
    /// BOUND: nothing to do until T1, except for the watch.
    Bound {
        held: HeldLease,
        watch: Option<ConflictWatch>,
    },
    /// RENEWING: the leasing server was asked, by unicast.
    Renewing { exchange: Exchange, held: HeldLease },
    /// REBINDING: all servers were asked, by broadcast.
    Rebinding { exchange: Exchange, held: HeldLease },
    /// Not in the RFC: the next hop of the RELEASE is resolved by ARP, until `until`.
    Releasing {
        lease: Lease,
        next_hop: Ipv4Addr,
        until: Instant,
    },
    /// Not in the RFC: released or given up. Nothing happens any more.
    Stopped,
}

/// A lease in use, and T1 and T2 with fuzz.
#[derive(Debug)]
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    pub(super) renew_at: Instant,
    pub(super) rebind_at: Instant,
    pub(super) defence: Option<Defence>,
}

impl HeldLease {
    /// Makes a lease in use whose address no other station has claimed.
    pub(super) fn undefended(lease: Lease, renew_at: Instant, rebind_at: Instant) -> Self {
        Self {
            lease,
            renew_at,
            rebind_at,
            defence: None,
        }
    }

    pub(super) fn expires_at(&self) -> Instant {
        self.lease.expires_at().unwrap_or(NEVER)
    }
}
