//! Memory across instances: the last address of each container, and what is odd about networks.

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

/// How many containers are remembered; the one whose lease ended longest ago is forgotten first.
const CONTAINERS: usize = 1000;

/// What is left of leases that are over, and what is odd about networks: 24 bytes for each lease,
/// and a line of a file beside the lease file, which has no room for them, because netavark's users
/// take an empty object there for the end of the last lease.
///
/// The file is read at the first use, and written a line at a time. Losing it costs a wish,
/// so nothing that is wrong with it is more than a line in the log.
#[derive(Debug)]
pub(crate) struct AddressHistory {
    directory: Rc<StateDirectory>,
    name: OsString,
    /// The last one is the latest; none before the file was read.
    entries: Option<VecDeque<UsedAddress>>,
    oddities: Oddities,
    /// How many lines the file has.
    lines: usize,
    /// That it cannot be written has been told.
    told: bool,
}

#[derive(Debug)]
struct UsedAddress {
    names: Names,
    address: Ipv4Addr,
}

/// Names as hashes: two that collide cost a container a requested address that its server does not
/// grant.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Names {
    client: u64,
    mac: u64,
}

impl AddressHistory {
    /// A memory that is kept in the file of that name in `directory`, in the boot `boot_id`.
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
            told: false,
        }
    }

    /// Remembers the address of a container, and no other one of it.
    pub(crate) fn remember(&mut self, who: ContainerNames<'_>, address: Ipv4Addr) {
        let names = Names::of(who);
        let entries = self.entries();
        entries.retain(|entry| entry.names != names);
        if entries.len() == CONTAINERS {
            entries.pop_front();
        }
        let entry = UsedAddress { names, address };
        let line = entry.line();
        entries.push_back(entry);
        self.keep(&line);
    }

    /// Forgets an address that [`AddressHistory::recall`] gave for a container, whichever name it was found
    /// by.
    pub(crate) fn forget(&mut self, who: ContainerNames<'_>, address: Ipv4Addr) {
        while self.recall(who) == Some(address) {
            let is_it = Self::kinds(who);
            self.entries().retain(|entry| {
                entry.address != address || !is_it.iter().any(|is_it| is_it(entry.names))
            });
        }
        let written = self.write_all();
        self.tell(written);
    }

    /// Notes a station of a network that answers ARP for every address. Returns whether it is news.
    pub(crate) fn note_proxy_arp(&mut self, network: &str, station: Mac) -> bool {
        self.entries();
        let line = self.oddities.note_proxy_arp(network, station);
        line.inspect(|line| self.keep(line)).is_some()
    }

    /// Returns the stations of a network that answer ARP for every address.
    pub(crate) fn proxy_arp(&mut self, network: &str) -> Vec<Mac> {
        self.entries();
        self.oddities.proxy_arp(network)
    }

    /// Notes how plain the message of the container with the MAC `by` was that a server of a
    /// network has answered. Returns whether it is news.
    pub(crate) fn note_plainness(&mut self, network: &str, plainness: Plainness, by: Mac) -> bool {
        self.entries();
        let line = self
            .oddities
            .note_plainness(network, plainness, by, rt::now());
        line.inspect(|line| self.keep(line)).is_some()
    }

    /// Returns how plain the first DISCOVER on a network has to be, for the container with the MAC
    /// `of`.
    pub(crate) fn plainness(&mut self, network: &str, of: Mac) -> Plainness {
        self.entries();
        self.oddities.plainness(network, of, rt::now())
    }

    /// The address of the one with these names; else the latest of those with the same client
    /// identifier; else of those with the same MAC, here or on a network that is not known.
    pub(crate) fn recall(&mut self, who: ContainerNames<'_>) -> Option<Ipv4Addr> {
        let entries = self.entries();
        Self::kinds(who).into_iter().find_map(|is_it| {
            Some(
                entries
                    .iter()
                    .rev()
                    .find(|entry| is_it(entry.names))?
                    .address,
            )
        })
    }

    /// The ways to know a container again, the surest first.
    fn kinds(who: ContainerNames<'_>) -> [Box<dyn Fn(Names) -> bool>; 4] {
        let names = Names::of(who);
        let anywhere = Names::of(ContainerNames {
            network: "",
            client_id: &[],
            mac: who.mac,
        });
        [
            Box::new(move |there| there == names),
            Box::new(move |there: Names| there.client == names.client),
            Box::new(move |there: Names| there.mac == names.mac),
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
                if entries.len() < CONTAINERS
                    && !entries.iter().any(|later| later.names == entry.names)
                {
                    entries.push_front(entry);
                }
            }
            self.entries = Some(entries);
        }
        self.entries.get_or_insert_default()
    }

    /// Puts a line into the file, which is written anew when most of it is out of date.
    fn keep(&mut self, line: &str) {
        let written = if self.lines < 2 * CONTAINERS {
            self.append(line)
        } else {
            self.write_all()
        };
        self.tell(written);
    }

    fn tell(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && !std::mem::replace(&mut self.told, true)
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
            names: Names { client, mac },
            address,
        } = self;
        // The line before may have been cut off.
        format!("\n{client:016x} {mac:016x} {address}")
    }

    /// None for a line that was cut off, or is no line of ours.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut hash = || u64::from_str_radix(words.next()?, 16).ok();
        let names = Names {
            client: hash()?,
            mac: hash()?,
        };
        Some(Self {
            names,
            address: words.next()?.parse().ok()?,
        })
    }
}

impl Names {
    /// The same in each instance, on each machine.
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

    fn who(network: &'static str, client_id: &'static [u8], mac: u8) -> ContainerNames<'static> {
        ContainerNames {
            network,
            client_id,
            mac: Mac([2, 0, 0, 0, 0, mac]),
        }
    }

    fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + number)
    }

    /// A memory whose file cannot be written, which is no reason not to remember.
    fn memory() -> AddressHistory {
        AddressHistory::new(
            &StateDirectory::lock(Path::new("/dev/null/nv-proxy.lock"), None).unwrap(),
            "nv-proxy.known",
            "boot",
        )
    }

    #[test]
    fn a_container_is_known_by_either_name() {
        let mut memory = memory();
        memory.remember(who("eth0", b"\0one", 1), address(1));
        memory.remember(who("eth0", b"\0two", 2), address(2));
        assert_eq!(memory.recall(who("eth0", b"\0one", 1)), Some(address(1)));
        assert_eq!(
            memory.recall(who("eth0", b"\0one", 9)),
            Some(address(1)),
            "started again, with another MAC"
        );
        assert_eq!(
            memory.recall(who("eth0", b"\0new", 2)),
            Some(address(2)),
            "made anew, with another id"
        );
        assert_eq!(
            memory.recall(who("eth0", b"\0one", 2)),
            Some(address(1)),
            "the client identifier counts for more"
        );
        assert_eq!(memory.recall(who("eth0", b"\0new", 9)), None);
        assert_eq!(
            memory.recall(who("eth1", b"\0one", 1)),
            None,
            "what it had on another network"
        );
    }

    #[test]
    fn without_client_identifiers_the_mac_decides() {
        let mut memory = memory();
        memory.remember(who("eth0", b"", 1), address(1));
        memory.remember(who("eth0", b"", 2), address(2));
        assert_eq!(memory.recall(who("eth0", b"", 1)), Some(address(1)));
        assert_eq!(memory.recall(who("eth0", b"", 3)), None);
    }

    #[test]
    fn the_latest_address_counts_and_both_names_count_for_more_than_one() {
        let mut memory = memory();
        memory.remember(who("eth0", b"\0one", 1), address(1));
        memory.remember(who("eth0", b"\0one", 2), address(2));
        memory.remember(who("eth0", b"\0one", 1), address(3));
        assert_eq!(memory.recall(who("eth0", b"\0one", 2)), Some(address(2)));
        assert_eq!(memory.recall(who("eth0", b"\0one", 1)), Some(address(3)));
        assert_eq!(memory.recall(who("eth0", b"\0one", 9)), Some(address(3)));
        assert_eq!(memory.entries().len(), 2);
    }

    #[test]
    fn an_address_that_led_nowhere_is_forgotten_by_every_name() {
        let mut memory = memory();
        memory.remember(who("eth0", b"\0one", 1), address(1));
        memory.remember(who("eth0", b"\0one", 2), address(1));
        memory.remember(who("", b"", 3), address(1));
        memory.remember(who("eth0", b"\0two", 3), address(2));
        memory.forget(who("eth0", b"\0one", 3), address(1));
        assert_eq!(memory.recall(who("eth0", b"\0one", 1)), None);
        assert_eq!(
            memory.recall(who("eth0", b"\0one", 3)),
            Some(address(2)),
            "another one of the same MAC"
        );
        assert_eq!(memory.recall(who("eth0", b"\0two", 9)), Some(address(2)));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let mut memory = memory();
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
            memory.remember(nth(number), address(number));
        }
        assert_eq!(
            (memory.entries().len(), size_of::<UsedAddress>()),
            (1000, 24)
        );
        assert_eq!(memory.recall(nth(499)), None);
        assert_eq!(
            (memory.recall(nth(500)), memory.recall(nth(1499))),
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
        let mut memory = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        for number in 0..5000 {
            memory.remember(who("eth0", b"\0one", (number % 7) as u8), address(number));
        }
        memory.remember(who("", b"", 9), address(9999));
        let station = Mac([2, 0, 0, 0, 0, 1]);
        assert!(memory.note_proxy_arp("eth0", station) && !memory.note_proxy_arp("eth0", station));
        assert!(memory.note_plainness("eth0", Plainness::LikeNetavark, station));
        fs::write(
            &path,
            [fs::read(&path).unwrap(), b"\n0123 4567".to_vec()].concat(),
        )
        .unwrap();
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= 2001);
        let mut next = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        assert_eq!(
            next.recall(who("eth0", b"\0one", 1)),
            Some(address(4999 - (4999 % 7) + 1 - 7 * u32::from(4999 % 7 < 1)))
        );
        assert_eq!(
            next.recall(who("eth0", b"\0new", 9)),
            Some(address(9999)),
            "from a network that is not known"
        );
        assert_eq!(next.entries().len(), 8);
        assert_eq!(
            (next.proxy_arp("eth0"), next.plainness("eth0", station)),
            (vec![station], Plainness::LikeNetavark)
        );
        // Written anew it has them as well.
        next.forget(who("", b"", 9), address(9999));
        let mut last = AddressHistory::new(&directory, "nv-proxy.known", "boot");
        assert_eq!(
            (last.recall(who("", b"", 9)), last.entries().len()),
            (None, 7)
        );
        assert_eq!(
            (last.proxy_arp("eth0"), last.plainness("eth0", station)),
            (vec![station], Plainness::LikeNetavark)
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
