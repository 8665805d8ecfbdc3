//! Oddities of the host's networks, learned from servers and stations: proxy ARP, and how plain a
//! DISCOVER has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dhcp::Plainness;
use crate::time::Instant;

use crate::mac::Mac;

/// The most networks, and the most stations of each.
const MAX_NETWORKS: usize = 64;
const MAX_STATIONS: usize = 8;
/// The most containers of a network with a finding.
const MAX_FINDINGS: usize = 8;
/// The life of a finding. Lost frames look like a server that does not answer, so it has to be
/// verified now and then.
const FINDING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The networks, by the host's interface.
#[derive(Debug)]
pub(crate) struct Oddities {
    /// A time since boot is valid in that boot only.
    boot_id: String,
    networks: BTreeMap<String, OddNetwork>,
    /// Counts changes, to find the least recently changed network.
    changes: u64,
}

#[derive(Debug, Default)]
struct OddNetwork {
    /// Stations that answer ARP for every address, in this boot only: they may be replaced by the
    /// next.
    proxy_arp: Vec<Mac>,
    /// The oldest first.
    findings: Vec<Finding>,
    changed: u64,
}

/// The plainness of the DISCOVER that was answered.
#[derive(Clone, Copy, Debug)]
struct Finding {
    by: Mac,
    plainness: Plainness,
    since: Instant,
}

impl Finding {
    fn is_valid(&self, now: Instant) -> bool {
        self.since <= now && now - self.since < FINDING_LIFETIME
    }

    fn line(&self, network: &str, boot_id: &str) -> String {
        let (plainness, since) = (self.plainness as u8, self.since.since_boot().as_secs());
        format!(
            "\n{PLAINNESS} {network} {plainness} {since} {} {boot_id}",
            self.by
        )
    }
}

impl Oddities {
    /// Returns an empty set for the boot `boot_id`.
    pub(crate) fn new(boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            networks: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Returns the stations that answer ARP for every address.
    pub(crate) fn proxy_arp(&self, network: &str) -> Vec<Mac> {
        self.networks
            .get(network)
            .map(|network| network.proxy_arp.clone())
            .unwrap_or_default()
    }

    /// Returns how plain the first DISCOVER of the container with the MAC `of` has to be.
    ///
    /// Its own finding counts, else the second plainest of the others': a single container may drop
    /// its own messages or lose frames, and must not cost the others their client identifiers and
    /// host names.
    pub(crate) fn plainness(&self, network: &str, of: Mac, now: Instant) -> Plainness {
        let findings = self
            .networks
            .get(network)
            .map(|network| &*network.findings)
            .unwrap_or_default();
        let valid = || findings.iter().filter(|finding| finding.is_valid(now));
        if let Some(own) = valid().find(|finding| finding.by == of) {
            return own.plainness;
        }
        let mut found: Vec<_> = valid().map(|finding| finding.plainness).collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.get(1).copied().unwrap_or_default()
    }

    /// Records a station that answers ARP for every address. Returns the line to store if it is
    /// new.
    pub(crate) fn add_proxy_arp(&mut self, network: &str, station: Mac) -> Option<String> {
        let line = self.station_line(network, station);
        let known = &mut self.network(network)?.proxy_arp;
        if known.contains(&station) {
            return None;
        }
        if known.len() >= MAX_STATIONS {
            known.remove(0);
        }
        known.push(station);
        Some(line)
    }

    fn station_line(&self, network: &str, station: Mac) -> String {
        format!("\n{PROXY_ARP} {network} {station} {}", self.boot_id)
    }

    /// Records how plain the message was that a server answered, of the container with the MAC
    /// `by`. Returns the line to store if that is new.
    pub(crate) fn add_plainness(
        &mut self,
        network: &str,
        plainness: Plainness,
        by: Mac,
        now: Instant,
    ) -> Option<String> {
        if self.plainness(network, by, now) == plainness {
            return None;
        }
        let finding = Finding {
            by,
            plainness,
            since: now,
        };
        self.network(network)?.add(finding);
        Some(finding.line(network, &self.boot_id))
    }

    /// Parses a line; lines of other kinds are ignored.
    pub(crate) fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some(kind), Some(name), Some(value)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        match kind {
            PROXY_ARP => {
                let is_of_this_boot = words.next() == Some(&*self.boot_id);
                let station = Mac::parse(value).ok().filter(|_| is_of_this_boot);
                station.and_then(|station| self.add_proxy_arp(name, station));
            }
            PLAINNESS => {
                let plainness = Plainness::ALL
                    .into_iter()
                    .find(|plainness| (*plainness as u8).to_string() == value);
                let since = words
                    .next()
                    .and_then(|since| since.parse().ok())
                    .map(|seconds| Instant::from_boot(Duration::from_secs(seconds)));
                let by = words.next().and_then(|by| Mac::parse(by).ok());
                let is_of_this_boot = words.next() == Some(&*self.boot_id);
                if let (true, Some(plainness), Some(since), Some(by)) =
                    (is_of_this_boot, plainness, since, by)
                    && let Some(network) = self.network(name)
                {
                    network.add(Finding {
                        by,
                        plainness,
                        since,
                    });
                }
            }
            _ => {}
        }
    }

    /// Returns the lines to store.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.networks.iter().flat_map(
            move |(
                name,
                OddNetwork {
                    proxy_arp,
                    findings,
                    ..
                },
            )| {
                let stations = proxy_arp
                    .iter()
                    .map(move |station| self.station_line(name, *station));
                stations.chain(
                    findings
                        .iter()
                        .map(move |finding| finding.line(name, &self.boot_id)),
                )
            },
        )
    }

    /// Returns the entry of a network, which replaces the least recently changed one if there are
    /// too many; `None` for a name that does not fit into a line.
    fn network(&mut self, name: &str) -> Option<&mut OddNetwork> {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(name) {
            let oldest = self
                .networks
                .iter()
                .min_by_key(|(_, network)| network.changed)
                .map(|(name, _)| name.clone());
            oldest.map(|oldest| self.networks.remove(&oldest));
        }
        self.changes += 1;
        let network = self.networks.entry(name.to_owned()).or_default();
        network.changed = self.changes;
        Some(network)
    }
}

const PROXY_ARP: &str = "proxy-arp";
const PLAINNESS: &str = "plainness";

impl OddNetwork {
    /// Adds a finding, which replaces an older one of the same container.
    fn add(&mut self, finding: Finding) {
        self.findings.retain(|known| known.by != finding.by);
        if self.findings.len() >= MAX_FINDINGS {
            self.findings.remove(0);
        }
        self.findings.push(finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_boot(Duration::from_secs(100_000));

    fn station(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn what_is_noted_is_news_once_and_reads_back() {
        let mut oddities = Oddities::new("boot");
        let lines = [
            oddities.add_proxy_arp("eth0", station(1)),
            oddities.add_proxy_arp("eth0", station(2)),
            oddities.add_plainness("eth1", Plainness::LikeNetavark, station(7), NOW),
            oddities.add_plainness("eth1", Plainness::Bare, station(8), NOW),
        ];
        assert_eq!(oddities.add_proxy_arp("eth0", station(2)), None);
        assert_eq!(
            oddities.add_plainness("eth1", Plainness::LikeNetavark, station(7), NOW),
            None
        );
        assert_eq!(
            oddities.add_plainness("eth1", Plainness::LikeNetavark, station(9), NOW),
            None,
            "two have said so"
        );
        assert_eq!(
            oddities.add_plainness("eth0", Plainness::Full, station(7), NOW),
            None,
            "that is what is done anyway"
        );
        let mut other = Oddities::new("boot");
        lines
            .iter()
            .flatten()
            .flat_map(|line| line.lines())
            .for_each(|line| other.read(line));
        for oddities in [&oddities, &other] {
            assert_eq!(oddities.proxy_arp("eth0"), [station(1), station(2)]);
            assert_eq!(oddities.proxy_arp("eth1"), []);
            assert_eq!(
                oddities.plainness("eth1", station(9), NOW),
                Plainness::LikeNetavark
            );
            assert_eq!(oddities.plainness("eth1", station(8), NOW), Plainness::Bare);
            assert_eq!(
                oddities.lines().collect::<Vec<_>>(),
                lines.clone().map(Option::unwrap)
            );
        }
    }

    #[test]
    fn a_plainness_is_found_out_again_after_a_day() {
        let mut oddities = Oddities::new("boot");
        oddities.add_plainness("eth0", Plainness::Bare, station(1), NOW);
        let hours = |hours: u64| NOW + Duration::from_secs(hours * 3600);
        assert_eq!(
            oddities.plainness("eth0", station(1), hours(23)),
            Plainness::Bare
        );
        assert_eq!(
            oddities.plainness("eth0", station(1), hours(24)),
            Plainness::Full
        );
        assert!(
            oddities
                .add_plainness("eth0", Plainness::Bare, station(1), hours(24))
                .is_some()
        );
        // Neither a finding nor a station outlives the boot.
        oddities.add_proxy_arp("eth0", station(1));
        let mut next = Oddities::new("another");
        oddities
            .lines()
            .for_each(|line| next.read(line.trim_start()));
        assert_eq!(next.lines().count(), 0);
    }

    #[test]
    fn a_plainness_that_two_have_found_counts_for_others() {
        let mut oddities = Oddities::new("boot");
        oddities.add_plainness("eth0", Plainness::Bare, station(1), NOW);
        oddities.add_plainness("eth0", Plainness::Bare, station(1), NOW);
        assert_eq!(oddities.plainness("eth0", station(1), NOW), Plainness::Bare);
        assert_eq!(oddities.plainness("eth0", station(3), NOW), Plainness::Full);
        oddities.add_plainness("eth0", Plainness::NoShortcuts, station(2), NOW);
        assert_eq!(
            oddities.plainness("eth0", station(3), NOW),
            Plainness::NoShortcuts
        );
        oddities.add_plainness("eth0", Plainness::LikeNetavark, station(4), NOW);
        assert_eq!(
            oddities.plainness("eth0", station(3), NOW),
            Plainness::LikeNetavark
        );
        assert_eq!(oddities.plainness("eth1", station(3), NOW), Plainness::Full);
        assert_eq!(
            oddities.plainness("eth0", station(1), NOW),
            Plainness::Bare,
            "its own"
        );
    }

    #[test]
    fn it_is_bounded_and_reads_no_nonsense() {
        let mut oddities = Oddities::new("boot");
        for number in 0..200 {
            oddities.add_proxy_arp(&format!("eth{number}"), station(number));
            oddities.add_proxy_arp("eth0", station(number));
            oddities.network("eth0").unwrap().add(Finding {
                by: station(number),
                plainness: Plainness::Bare,
                since: NOW,
            });
        }
        assert_eq!(
            (oddities.networks.len(), oddities.proxy_arp("eth0").len()),
            (MAX_NETWORKS, MAX_STATIONS)
        );
        assert_eq!(oddities.networks["eth0"].findings.len(), MAX_FINDINGS);
        assert_eq!(oddities.proxy_arp("eth0").last(), Some(&station(199)));
        let mut oddities = Oddities::new("boot");
        for line in [
            "",
            "plainness",
            "plainness eth0 9 1",
            "plainness eth0 1",
            "plainness eth0 1 x",
            "plainness eth0 1 1",
            "plainness eth0 1 1 12 boot",
            "plainness eth0 1 1 02:00:00:00:00:01",
            "proxy-arp eth0 12",
            "proxy-arp eth0 02:00:00:00:00:01",
            "proxy-arp  02:00:00:00:00:01 boot",
            "other eth0 1 1",
        ] {
            oddities.read(line);
        }
        assert_eq!(oddities.lines().count(), 0);
    }
}
