//! The last address of each container, to be asked for when the container comes back.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;

use super::request::Mac;

/// How many containers are remembered; the one whose lease ended longest ago is forgotten first.
const CONTAINERS: usize = 1000;

/// A container on one of the host's networks, by the names that it goes by. It may come back with one of them alone:
/// Podman gives it another MAC at each start, and who makes it anew gives it another id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    /// The parent interface; a container on two networks has two addresses.
    pub(super) network: &'a str,
    /// Option 61; empty where there is none.
    pub(super) client_id: &'a [u8],
    /// Its hardware address.
    pub(super) mac: Mac,
}

/// What is left of leases that are over: 24 bytes each.
#[derive(Debug, Default)]
pub(super) struct Memory {
    hasher: RandomState,
    /// The last one is the latest.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    names: Names,
    address: Ipv4Addr,
}

/// Names as hashes: two that look alike by chance cost somebody a wish that his server does not grant.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Names {
    client: u64,
    mac: u64,
}

impl Memory {
    /// Remembers the address of a container, and no other one of it.
    pub(super) fn remember(&mut self, who: Who<'_>, address: Ipv4Addr) {
        let names = self.names(who);
        self.entries.retain(|entry| entry.names != names);
        if self.entries.len() == CONTAINERS {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { names, address });
    }

    /// The address of the one with these names; else the latest of those with the same client identifier; else of those
    /// with the same MAC.
    pub(super) fn recall(&self, who: Who<'_>) -> Option<Ipv4Addr> {
        let names = self.names(who);
        let is_it: [&dyn Fn(Names) -> bool; 3] =
            [&|there| there == names, &|there| there.client == names.client, &|there| there.mac == names.mac];
        is_it.into_iter().find_map(|is_it| Some(self.entries.iter().rev().find(|entry| is_it(entry.names))?.address))
    }

    fn names(&self, Who { network, client_id, mac }: Who<'_>) -> Names {
        let by_mac = self.hasher.hash_one((network, mac));
        let client = if client_id.is_empty() { by_mac } else { self.hasher.hash_one((network, client_id)) };
        Names { client, mac: by_mac }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(network: &'static str, client_id: &'static [u8], mac: u8) -> Who<'static> {
        Who { network, client_id, mac: Mac([2, 0, 0, 0, 0, mac]) }
    }

    fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + number)
    }

    #[test]
    fn a_container_is_known_by_either_name() {
        let mut memory = Memory::default();
        memory.remember(who("eth0", b"\0one", 1), address(1));
        memory.remember(who("eth0", b"\0two", 2), address(2));
        assert_eq!(memory.recall(who("eth0", b"\0one", 1)), Some(address(1)));
        assert_eq!(memory.recall(who("eth0", b"\0one", 9)), Some(address(1)), "started again, with another MAC");
        assert_eq!(memory.recall(who("eth0", b"\0new", 2)), Some(address(2)), "made anew, with another id");
        assert_eq!(memory.recall(who("eth0", b"\0one", 2)), Some(address(1)), "the client identifier counts for more");
        assert_eq!(memory.recall(who("eth0", b"\0new", 9)), None);
        assert_eq!(memory.recall(who("eth1", b"\0one", 1)), None, "what it had on another network");
    }

    #[test]
    fn without_client_identifiers_the_mac_decides() {
        let mut memory = Memory::default();
        memory.remember(who("eth0", b"", 1), address(1));
        memory.remember(who("eth0", b"", 2), address(2));
        assert_eq!(memory.recall(who("eth0", b"", 1)), Some(address(1)));
        assert_eq!(memory.recall(who("eth0", b"", 3)), None);
    }

    #[test]
    fn the_latest_address_counts_and_both_names_count_for_more_than_one() {
        let mut memory = Memory::default();
        memory.remember(who("eth0", b"\0one", 1), address(1));
        memory.remember(who("eth0", b"\0one", 2), address(2));
        memory.remember(who("eth0", b"\0one", 1), address(3));
        assert_eq!(memory.recall(who("eth0", b"\0one", 2)), Some(address(2)));
        assert_eq!(memory.recall(who("eth0", b"\0one", 1)), Some(address(3)));
        assert_eq!(memory.recall(who("eth0", b"\0one", 9)), Some(address(3)));
        assert_eq!(memory.entries.len(), 2);
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::default();
        let nth = |number: u32| Who { client_id: &[], network: "eth0", mac: Mac(mac(number)) };
        fn mac(number: u32) -> [u8; 6] {
            let [a, b, c, d] = number.to_be_bytes();
            [2, 0, a, b, c, d]
        }
        for number in 0..1500 {
            memory.remember(nth(number), address(number));
        }
        assert_eq!((memory.entries.len(), size_of::<Entry>()), (1000, 24));
        assert_eq!(memory.recall(nth(499)), None);
        assert_eq!((memory.recall(nth(500)), memory.recall(nth(1499))), (Some(address(500)), Some(address(1499))));
    }
}
