//! IPv4 addresses, masks and routes.

use std::net::Ipv4Addr;

/// A route that is not the default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The network, with zero host bits.
    pub destination: Ipv4Addr,
    /// Bits of its mask, 0 to 32.
    pub prefix_len: u8,
    /// The next hop; `None` for a destination on the link itself (RFC 3442).
    pub gateway: Option<Ipv4Addr>,
}

/// Returns the prefix length of the address class (RFC 791 §3.2).
pub(super) fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => 32,
    }
}

/// Returns the network of `prefix_len` bits (at most 32) that `address` is in.
pub(super) fn network(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    address & mask(prefix_len)
}

/// Returns the mask of a prefix of at most 32 bits.
pub(super) fn mask(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(
        u32::MAX
            .checked_shl(32 - u32::from(prefix_len.min(32)))
            .unwrap_or(0),
    )
}

/// Returns the length of a mask; `None` for one with holes and for 0.0.0.0.
pub(super) fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() == bits.count_ones()).then_some(bits.count_ones() as u8)
}

/// Returns whether `told` can be the broadcast address of a host with `address`: an address of its
/// subnet, but not its own. The kernel would accept any other, and send broadcasts to that station.
pub(super) fn is_broadcast_of(told: Ipv4Addr, address: Ipv4Addr, prefix_len: u8) -> bool {
    broadcast(address, prefix_len).is_some()
        && told != address
        && network(told, prefix_len) == network(address, prefix_len)
}

/// Returns whether a host can have this address.
pub fn is_host_address(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback())
}

pub(super) fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    (prefix_len <= 30).then(|| address | !mask(prefix_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_no_holes() {
        assert_eq!(prefix_len(Ipv4Addr::new(255, 255, 240, 0)), Some(20));
        assert_eq!(prefix_len(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(
            broadcast(Ipv4Addr::new(10, 0, 0, 5), 24),
            Some(Ipv4Addr::new(10, 0, 0, 255))
        );
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 5), 31), None);
    }
}
