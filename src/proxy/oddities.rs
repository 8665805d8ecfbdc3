//! What has been found out about the networks of the host: stations with proxy ARP, and how plain a DISCOVER has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dhcp::Plainness;
use crate::time::Instant;

use super::request::Mac;

/// Networks that are known at most, and stations of each.
const NETWORKS: usize = 64;
const STATIONS: usize = 8;
/// How long a plainness is used. Lost frames look like a server that does not answer, so it has to be found out again now
/// and then whether the server is like that.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// The networks, by the interface of the host that leads to them.
#[derive(Debug, Default)]
pub(super) struct Oddities(BTreeMap<String, Network>);

#[derive(Debug, Default)]
struct Network {
    proxy_arp: Vec<Mac>,
    /// And when it was found out. The clock begins anew with each boot, so what is later than now is of before.
    plainness: Option<(Plainness, Instant)>,
}

impl Oddities {
    /// Returns the stations that answer ARP for every address.
    pub(super) fn proxy_arp(&self, network: &str) -> Vec<Mac> {
        self.0.get(network).map(|network| network.proxy_arp.clone()).unwrap_or_default()
    }

    /// Returns how plain the first DISCOVER of a search has to be.
    pub(super) fn plainness(&self, network: &str, now: Instant) -> Plainness {
        let known = self.0.get(network).and_then(|network| network.plainness);
        known
            .filter(|(_, since)| *since <= now && now - *since < VALID)
            .map_or(Plainness::Full, |(plainness, _)| plainness)
    }

    /// Notes a station that answers ARP for every address. Returns the line to be kept, if it is news.
    pub(super) fn note_proxy_arp(&mut self, network: &str, station: Mac) -> Option<String> {
        let known = &mut self.network(network)?.proxy_arp;
        if known.contains(&station) {
            return None;
        }
        if known.len() >= STATIONS {
            known.remove(0);
        }
        known.push(station);
        Some(format!("\n{PROXY_ARP} {network} {station}"))
    }

    /// Notes how plain the message was that a server has answered. Returns the line to be kept, if it is news.
    pub(super) fn note_plainness(&mut self, network: &str, plainness: Plainness, now: Instant) -> Option<String> {
        if self.plainness(network, now) == plainness {
            return None;
        }
        self.network(network)?.plainness = Some((plainness, now));
        Some(plainness_line(network, plainness, now))
    }

    /// Reads a line, if it is one of these.
    pub(super) fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some(kind), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else { return };
        match kind {
            PROXY_ARP => {
                let station = Mac::parse(value).ok();
                station.and_then(|station| self.note_proxy_arp(name, station));
            }
            PLAINNESS => {
                let plainness = Plainness::ALL.into_iter().find(|plainness| (*plainness as u8).to_string() == value);
                let since = words
                    .next()
                    .and_then(|since| since.parse().ok())
                    .map(|seconds| Instant::from_boot(Duration::from_secs(seconds)));
                if let (Some(known), Some(network)) = (plainness.zip(since), self.network(name)) {
                    network.plainness = Some(known);
                }
            }
            _ => {}
        }
    }

    /// Returns all lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(name, Network { proxy_arp, plainness })| {
            let stations = proxy_arp.iter().map(move |station| format!("\n{PROXY_ARP} {name} {station}"));
            stations.chain(plainness.map(|(plainness, since)| plainness_line(name, plainness, since)))
        })
    }

    /// Returns the entry of a network, while there is room for it. A name that would not fit into a line has none.
    fn network(&mut self, name: &str) -> Option<&mut Network> {
        let is_word = !name.is_empty() && !name.contains(char::is_whitespace);
        let has_room = self.0.len() < NETWORKS || self.0.contains_key(name);
        (is_word && has_room).then(|| self.0.entry(name.to_owned()).or_default())
    }
}

const PROXY_ARP: &str = "proxy-arp";
const PLAINNESS: &str = "plainness";

fn plainness_line(network: &str, plainness: Plainness, since: Instant) -> String {
    format!("\n{PLAINNESS} {network} {} {}", plainness as u8, since.since_boot().as_secs())
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
        let mut oddities = Oddities::default();
        let lines = [
            oddities.note_proxy_arp("eth0", station(1)),
            oddities.note_proxy_arp("eth0", station(2)),
            oddities.note_plainness("eth1", Plainness::LikeNetavark, NOW),
        ];
        assert_eq!(oddities.note_proxy_arp("eth0", station(2)), None);
        assert_eq!(oddities.note_plainness("eth1", Plainness::LikeNetavark, NOW), None);
        assert_eq!(oddities.note_plainness("eth0", Plainness::Full, NOW), None, "that is what is done anyway");
        let mut other = Oddities::default();
        lines.iter().flatten().flat_map(|line| line.lines()).for_each(|line| other.read(line));
        for oddities in [&oddities, &other] {
            assert_eq!(oddities.proxy_arp("eth0"), [station(1), station(2)]);
            assert_eq!(oddities.proxy_arp("eth1"), []);
            assert_eq!(oddities.plainness("eth1", NOW), Plainness::LikeNetavark);
            assert_eq!(oddities.lines().collect::<Vec<_>>(), lines.clone().map(Option::unwrap));
        }
    }

    #[test]
    fn a_plainness_is_found_out_again_after_a_day() {
        let mut oddities = Oddities::default();
        oddities.note_plainness("eth0", Plainness::Bare, NOW);
        let hours = |hours: u64| NOW + Duration::from_secs(hours * 3600);
        assert_eq!(oddities.plainness("eth0", hours(23)), Plainness::Bare);
        assert_eq!(oddities.plainness("eth0", hours(24)), Plainness::Full);
        assert!(oddities.note_plainness("eth0", Plainness::Bare, hours(24)).is_some());
        // It was noted before the machine was booted again.
        oddities.note_plainness("eth1", Plainness::Bare, NOW);
        assert_eq!(oddities.plainness("eth1", Instant::from_boot(VALID)), Plainness::Full);
    }

    #[test]
    fn it_is_bounded_and_reads_no_nonsense() {
        let mut oddities = Oddities::default();
        for number in 0..200 {
            oddities.note_proxy_arp(&format!("eth{number}"), station(number));
            oddities.note_proxy_arp("eth0", station(number));
        }
        assert_eq!((oddities.0.len(), oddities.proxy_arp("eth0").len()), (NETWORKS, STATIONS));
        assert_eq!(oddities.proxy_arp("eth0").last(), Some(&station(199)));
        let mut oddities = Oddities::default();
        for line in [
            "",
            "plainness",
            "plainness eth0 9 1",
            "plainness eth0 1",
            "plainness eth0 1 x",
            "proxy-arp eth0 12",
            "proxy-arp  02:00:00:00:00:01",
            "other eth0 1 1",
        ] {
            oddities.read(line);
        }
        assert_eq!(oddities.lines().count(), 0);
    }
}
