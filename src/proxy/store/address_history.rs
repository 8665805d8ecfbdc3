//! History across instances: the last address of each container, and oddities of networks.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::hash::Hasher;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;

use siphasher::sip::SipHasher24;

use crate::dhcp::Plainness;
use crate::mac::Mac;
use crate::proxy::key::ContainerNames;
use crate::proxy::store::directory::StateDirectory;
use crate::proxy::store::oddities::Oddities;
use crate::rt;

/// The most containers; beyond that, the one with the oldest lease is dropped.
const MAX_CONTAINERS: usize = 1000;

/// The addresses of ended leases, 24 bytes each, and oddities of networks. They have their own file,
/// because netavark's users take an empty object in the lease file for the end of the last lease.
///
/// The file is read at the first use, and written one line at a time. Losing it costs only the
/// requested address (option 50), so its errors are only logged.
#[derive(Debug)]
pub(crate) struct AddressHistory {
    directory: Rc<StateDirectory>,
    name: OsString,
    /// The latest is the last; `None` before the file is read.
    entries: Option<VecDeque<UsedAddress>>,
    oddities: Oddities,
    /// Lines of the file.
    lines: usize,
    /// Set once a write error has been logged.
    warned: bool,
}

#[derive(Debug)]
struct UsedAddress {
    hashes: NameHashes,
    address: Ipv4Addr,
}

/// Names as hashes. A collision costs a container a requested address that its server does not
/// grant.
#[derive(Clone, Copy, Debug, PartialEq)]
struct NameHashes {
    client: u64,
    mac: u64,
}

impl AddressHistory {
    /// Returns the history in the file `name` of `directory`, in the boot `boot_id`.
    pub(crate) fn new(
        directory: &Rc<StateDirectory>,
        name: impl Into<OsString>,
        boot_id: &str,
    ) -> Self {
        Self {
            directory: Rc::clone(directory),
            name: name.into(),
            entries: None,
            oddities: Oddities::new(boot_id),
            lines: 0,
            warned: false,
        }
    }

    /// Sets the address of a container in the place of an older one.
    pub(crate) fn remember(&mut self, names: ContainerNames<'_>, address: Ipv4Addr) {
        let hashes = NameHashes::of(names);
        let entries = self.entries();
        entries.retain(|entry| entry.hashes != hashes);
        if entries.len() == MAX_CONTAINERS {
            entries.pop_front();
        }
        let entry = UsedAddress { hashes, address };
        let line = entry.line();
        entries.push_back(entry);
        self.store_line(&line);
    }

    /// Removes an address that [`AddressHistory::recall`] returned for a container, by whichever
    /// name it was found.
    pub(crate) fn forget(&mut self, names: ContainerNames<'_>, address: Ipv4Addr) {
        while self.recall(names) == Some(address) {
            let matches = Self::matchers(names);
            self.entries().retain(|entry| {
                entry.address != address || !matches.iter().any(|matches| matches(entry.hashes))
            });
        }
        let written = self.write_all();
        self.log_error(written);
    }

    /// Records a station that answers ARP for every address. Returns whether it is new.
    pub(crate) fn record_proxy_arp(&mut self, network: &str, station: Mac) -> bool {
        self.entries();
        let line = self.oddities.add_proxy_arp(network, station);
        line.inspect(|line| self.store_line(line)).is_some()
    }

    /// Returns the stations of a network that answer ARP for every address.
    pub(crate) fn proxy_arp(&mut self, network: &str) -> Vec<Mac> {
        self.entries();
        self.oddities.proxy_arp(network)
    }

    /// Records how plain the message was that a server answered, of the container with the MAC
    /// `by`. Returns whether that is new.
    pub(crate) fn record_plainness(
        &mut self,
        network: &str,
        plainness: Plainness,
        by: Mac,
    ) -> bool {
        self.entries();
        let line = self
            .oddities
            .add_plainness(network, plainness, by, rt::now());
        line.inspect(|line| self.store_line(line)).is_some()
    }

    /// Returns how plain the first DISCOVER on a network has to be for the container with the MAC
    /// `of`.
    pub(crate) fn plainness(&mut self, network: &str, of: Mac) -> Plainness {
        self.entries();
        self.oddities.plainness(network, of, rt::now())
    }

    /// Returns the address of the container with these names; else the latest with the same client
    /// identifier; else the latest with the same MAC, on this or on an unknown network.
    pub(crate) fn recall(&mut self, names: ContainerNames<'_>) -> Option<Ipv4Addr> {
        let entries = self.entries();
        Self::matchers(names).into_iter().find_map(|matches| {
            Some(
                entries
                    .iter()
                    .rev()
                    .find(|entry| matches(entry.hashes))?
                    .address,
            )
        })
    }

    /// The ways to recognize a container, the surest first.
    fn matchers(names: ContainerNames<'_>) -> [Box<dyn Fn(NameHashes) -> bool>; 4] {
        let hashes = NameHashes::of(names);
        let anywhere = NameHashes::of(ContainerNames {
            network: "",
            client_id: &[],
            mac: names.mac,
        });
        [
            Box::new(move |there| there == hashes),
            Box::new(move |there: NameHashes| there.client == hashes.client),
            Box::new(move |there: NameHashes| there.mac == hashes.mac),
            Box::new(move |there| there == anywhere),
        ]
    }

    fn path(&self) -> PathBuf {
        self.directory.path_of(&self.name)
    }

    fn entries(&mut self) -> &mut VecDeque<UsedAddress> {
        if self.entries.is_none() {
            let text = self
                .directory
                .read_text(&self.name)
                .unwrap_or_else(|error| {
                    log::warn!(
                        "cannot read {}: {error}; requesting no particular address",
                        self.path().display()
                    );
                    String::new()
                });
            self.lines = text.lines().count();
            text.lines().for_each(|line| self.oddities.read(line));
            let mut entries: VecDeque<UsedAddress> = VecDeque::new();
            for entry in text.lines().rev().filter_map(UsedAddress::parse) {
                if entries.len() < MAX_CONTAINERS
                    && !entries.iter().any(|later| later.hashes == entry.hashes)
                {
                    entries.push_front(entry);
                }
            }
            self.entries = Some(entries);
        }
        self.entries.get_or_insert_default()
    }

    /// Appends a line to the file, or rewrites the file when most of it is outdated.
    fn store_line(&mut self, line: &str) {
        let written = if self.lines < 2 * MAX_CONTAINERS {
            self.append(line)
        } else {
            self.write_all()
        };
        self.log_error(written);
    }

    fn log_error(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.warned, true)
        {
            log::warn!(
                "cannot write {}: {error}; the last address of a container may be forgotten",
                self.path().display()
            );
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.lines += 1;
        self.directory
            .open()?
            .append(&self.name)?
            .write_all(line.as_bytes())
    }

    fn write_all(&mut self) -> io::Result<()> {
        let Some(entries) = &self.entries else {
            return Ok(());
        };
        let lines: Vec<_> = entries
            .iter()
            .map(UsedAddress::line)
            .chain(self.oddities.lines())
            .collect();
        self.lines = lines.len();
        let (directory, text) = (self.directory.open()?, lines.concat());
        directory.replace(&self.name, false, |mut file| {
            file.write_all(text.as_bytes())
        })
    }
}

impl UsedAddress {
    fn line(&self) -> String {
        let Self {
            hashes: NameHashes { client, mac },
            address,
        } = self;
        // The line before may be cut off.
        format!("\n{client:016x} {mac:016x} {address}")
    }

    /// Returns `None` for a malformed line.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut hash = || u64::from_str_radix(words.next()?, 16).ok();
        let hashes = NameHashes {
            client: hash()?,
            mac: hash()?,
        };
        Some(Self {
            hashes,
            address: words.next()?.parse().ok()?,
        })
    }
}

impl NameHashes {
    /// Depends neither on the instance nor on the machine.
    fn of(
        ContainerNames {
            network,
            client_id,
            mac,
        }: ContainerNames<'_>,
    ) -> Self {
        let hash = |kind: u8, name: &[u8]| {
            let mut hasher = SipHasher24::new();
            hasher.write_u64(network.len() as u64);
            hasher.write(network.as_bytes());
            hasher.write_u8(kind);
            hasher.write(name);
            hasher.finish()
        };
        let mac = hash(0, &mac.0);
        Self {
            client: if client_id.is_empty() {
                mac
            } else {
                hash(1, client_id)
            },
            mac,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn names(network: &'static str, client_id: &'static [u8], mac: u8) -> ContainerNames<'static> {
        ContainerNames {
            network,
            client_id,
            mac: Mac([2, 0, 0, 0, 0, mac]),
        }
    }

    fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + number)
    }

    /// A history whose file cannot be written works all the same.
    fn history() -> AddressHistory {
        AddressHistory::new(
            &StateDirectory::lock(Path::new("/dev/null/nv-proxy.lock"), None).unwrap(),
            "nv-proxy.known",
            "boot",
        )
    }

    #[test]
    fn a_container_is_known_by_either_name() {
        let mut history = history();
        history.remember(names("eth0", b"\0one", 1), address(1));
        history.remember(names("eth0", b"\0two", 2), address(2));
        assert_eq!(history.recall(names("eth0", b"\0one", 1)), Some(address(1)));
        assert_eq!(
            history.recall(names("eth0", b"\0one", 9)),
            Some(address(1)),
            "started again, with another MAC"
        );
        assert_eq!(
            history.recall(names("eth0", b"\0new", 2)),
            Some(address(2)),
            "made anew, with another id"
        );
        assert_eq!(
            history.recall(names("eth0", b"\0one", 2)),
            Some(address(1)),
            "the client identifier counts for more"
        );
        assert_eq!(history.recall(names("eth0", b"\0new", 9)), None);
        assert_eq!(
            history.recall(names("eth1", b"\0one", 1)),
            None,
            "what it had on another network"
        );
    }

    #[test]
    fn without_client_identifiers_the_mac_decides() {
        let mut history = history();
        history.remember(names("eth0", b"", 1), address(1));
        history.remember(names("eth0", b"", 2), address(2));
        assert_eq!(history.recall(names("eth0", b"", 1)), Some(address(1)));
        assert_eq!(history.recall(names("eth0", b"", 3)), None);
    }

    #[test]
    fn the_latest_address_counts_and_both_names_count_for_more_than_one() {
        let mut history = history();
        history.remember(names("eth0", b"\0one", 1), address(1));
        history.remember(names("eth0", b"\0one", 2), address(2));
        history.remember(names("eth0", b"\0one", 1), address(3));
        assert_eq!(history.recall(names("eth0", b"\0one", 2)), Some(address(2)));
        assert_eq!(history.recall(names("eth0", b"\0one", 1)), Some(address(3)));
        assert_eq!(history.recall(names("eth0", b"\0one", 9)), Some(address(3)));
        assert_eq!(history.entries().len(), 2);
    }

    #[test]
    fn an_address_that_led_nowhere_is_forgotten_by_every_name() {
        let mut history = history();
        history.remember(names("eth0", b"\0one", 1), address(1));
        history.remember(names("eth0", b"\0one", 2), address(1));
        history.remember(names("", b"", 3), address(1));
        history.remember(names("eth0", b"\0two", 3), address(2));
        history.forget(names("eth0", b"\0one", 3), address(1));
        assert_eq!(history.recall(names("eth0", b"\0one", 1)), None);
        assert_eq!(
            history.recall(names("eth0", b"\0one", 3)),
            Some(address(2)),
            "another one of the same MAC"
        );
        assert_eq!(history.recall(names("eth0", b"\0two", 9)), Some(address(2)));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let mut history = history();
        let nth = |number: u32| ContainerNames {
            client_id: &[],
            network: "eth0",
            mac: Mac(mac(number)),
        };
        fn mac(number: u32) -> [u8; 6] {
            let [a, b, c, d] = number.to_be_bytes();
            [2, 0, a, b, c, d]
        }
        for number in 0..1500 {
            history.remember(nth(number), address(number));
        }
        assert_eq!(
            (history.entries().len(), size_of::<UsedAddress>()),
            (1000, 24)
        );
        assert_eq!(history.recall(nth(499)), None);
        assert_eq!(
            (history.recall(nth(500)), history.recall(nth(1499))),
            (Some(address(500)), Some(address(1499)))
        );
    }

    #[test]
    fn the_file_outlives_the_process_and_stays_small() {
        let folder =
            std::env::temp_dir().join(format!("smol-dhcp-proxy-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("nv-proxy.known");
        let directory = StateDirectory::lock(&folder.join("nv-proxy.lock"), None).unwrap();
        let mut history = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        for number in 0..5000 {
            history.remember(names("eth0", b"\0one", (number % 7) as u8), address(number));
        }
        history.remember(names("", b"", 9), address(9999));
        let station = Mac([2, 0, 0, 0, 0, 1]);
        assert!(
            history.record_proxy_arp("eth0", station) && !history.record_proxy_arp("eth0", station)
        );
        assert!(history.record_plainness("eth0", Plainness::LikeNetavark, station));
        fs::write(
            &path,
            [fs::read(&path).unwrap(), b"\n0123 4567".to_vec()].concat(),
        )
        .unwrap();
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= 2001);
        let mut next = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        assert_eq!(
            next.recall(names("eth0", b"\0one", 1)),
            Some(address(4999 - (4999 % 7) + 1 - 7 * u32::from(4999 % 7 < 1)))
        );
        assert_eq!(
            next.recall(names("eth0", b"\0new", 9)),
            Some(address(9999)),
            "from a network that is not known"
        );
        assert_eq!(next.entries().len(), 8);
        assert_eq!(
            (next.proxy_arp("eth0"), next.plainness("eth0", station)),
            (vec![station], Plainness::LikeNetavark)
        );
        // A rewritten file has them as well.
        next.forget(names("", b"", 9), address(9999));
        let mut last = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        assert_eq!(
            (last.recall(names("", b"", 9)), last.entries().len()),
            (None, 7)
        );
        assert_eq!(
            (last.proxy_arp("eth0"), last.plainness("eth0", station)),
            (vec![station], Plainness::LikeNetavark)
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
