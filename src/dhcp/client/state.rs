//! The states of a client.

use std::net::Ipv4Addr;

use super::claim::{Claims, ConflictWatch, Defence, ProxyCheck};
use crate::dhcp::exchange::Exchange;
use crate::dhcp::lease::Lease;
use crate::dhcp::snapshot::NEVER;
use crate::time::Instant;

/// The states of figure 5, each with what it alone knows, and three of our own.
#[derive(Debug)]
pub(super) enum State {
    /// INIT: a DISCOVER goes out at `at`.
    Init { at: Instant },
    /// SELECTING: the DISCOVER is out. The first usable OFFER wins, but waits a moment for one of
    /// the wanted address.
    Selecting {
        exchange: Exchange,
        second_best: Option<(Box<Lease>, Instant)>,
    },
    /// REQUESTING: we have asked for what was offered. Meanwhile other stations may have claimed
    /// it.
    Requesting {
        exchange: Exchange,
        offer: Box<Lease>,
        claims: Claims,
    },
    /// INIT-REBOOT: a REQUEST for an address of earlier times goes out at `at`.
    InitReboot { at: Instant, address: Ipv4Addr },
    /// REBOOTING: we have asked whether the address is still ours.
    Rebooting {
        exchange: Exchange,
        address: Ipv4Addr,
        claims: Claims,
    },
    /// Our own: the lease is ours, and so many probes are still to be sent before it is used. Or
    /// another station has claimed its address, and is in doubt until `next`.
    Probing {
        lease: Box<Lease>,
        left: u8,
        next: Instant,
        check: Option<ProxyCheck>,
    },
    /// BOUND: nothing to do until T1, once the watch is over.
    Bound {
        held: HeldLease,
        watch: Option<ConflictWatch>,
    },
    /// RENEWING: asking the server that leased it, by unicast.
    Renewing { exchange: Exchange, held: HeldLease },
    /// REBINDING: asking any server, by broadcast.
    Rebinding { exchange: Exchange, held: HeldLease },
    /// Our own: wants to say RELEASE, and learns by ARP where to, until `until`.
    Releasing {
        lease: Lease,
        next_hop: Ipv4Addr,
        until: Instant,
    },
    /// Our own: has released or given up; nothing happens any more.
    Stopped,
}

/// A lease in use and when it wants attention: T1 and T2 with fuzz.
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
