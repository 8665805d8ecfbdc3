//! Counts of what has happened to a client.

/// Counts since the last [`Client::take_tally`](crate::dhcp::Client::take_tally).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Renewals that the leasing server has granted, in RENEWING.
    pub renewals: u32,
    /// Renewals that any server has granted, in REBINDING.
    pub rebinds: u32,
    /// DHCPNAKs that were obeyed.
    pub naks: u32,
    /// DHCPDECLINEs sent.
    pub declines: u32,
    /// ARP probes sent.
    pub probes: u32,
    /// Addresses declined or given up because another station has them.
    pub conflicts: u32,
    /// Leases that ended without a renewal.
    pub expiries: u32,
}
