//! What has been found out about the networks of the host: stations with proxy ARP, and how plain a DISCOVER has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dhcp::Plainness;
use crate::time::Instant;

use super::request::Mac;

/// Networks that are known at most, and stations of each.
const NETWORKS: usize = 64;
const STATIONS: usize = 8;
/// Containers of each network whose word about its plainness is kept.
const WITNESSES: usize = 8;
/// How long a plainness is used. Lost frames look like a server that does not answer, so it has to be found out again now
/// and then whether the server is like that.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// The networks, by the interface of the host that leads to them.
#[derive(Debug, Default)]
pub(super) struct Oddities(BTreeMap<String, Network>);

#[derive(Debug, Default)]
struct Network {
    proxy_arp: Vec<Mac>,
    /// What was found out about its servers, the oldest first.
    findings: Vec<Finding>,
}

/// How plain a DISCOVER had to be to be answered.
#[derive(Clone, Copy, Debug)]
struct Finding {
    by: Mac,
    plainness: Plainness,
    /// When it was found out. The clock begins anew with each boot, so what is later than now is of before.
    since: Instant,
}

impl Finding {
    fn is_valid(&self, now: Instant) -> bool {
        self.since <= now && now - self.since < VALID
    }

    fn line(&self, network: &str) -> String {
        format!("\n{PLAINNESS} {network} {} {} {}", self.plainness as u8, self.since.since_boot().as_secs(), self.by)
    }
}

impl Oddities {
    /// Returns the stations that answer ARP for every address.
    pub(super) fn proxy_arp(&self, network: &str) -> Vec<Mac> {
        self.0.get(network).map(|network| network.proxy_arp.clone()).unwrap_or_default()
    }

    /// Returns how plain the first DISCOVER of the container with the MAC `of` has to be.
    ///
    /// It is as it has found out itself, or as two others have: one that drops its own messages, or whose frames get lost,
    /// takes client identifier and host name from no other.
    pub(super) fn plainness(&self, network: &str, of: Mac, now: Instant) -> Plainness {
        let findings = self.0.get(network).map(|network| &*network.findings).unwrap_or_default();
        let valid = || findings.iter().filter(|finding| finding.is_valid(now));
        if let Some(own) = valid().find(|finding| finding.by == of) {
            return own.plainness;
        }
        let mut found: Vec<_> = valid().map(|finding| finding.plainness).collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.get(1).copied().unwrap_or_default()
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

    /// Notes how plain the message was that a server has answered to the container with the MAC `by`. Returns the line to be
    /// kept, if it is news.
    pub(super) fn note_plainness(
        &mut self,
        network: &str,
        plainness: Plainness,
        by: Mac,
        now: Instant,
    ) -> Option<String> {
        let is_known = self.plainness(network, by, now) == plainness;
        if is_known && (plainness != Plainness::Full || !self.0.contains_key(network)) {
            return None;
        }
        let finding = Finding { by, plainness, since: now };
        let is_news = self.network(network)?.find_out(finding);
        is_news.then(|| finding.line(network))
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
                let by = words.next().and_then(|by| Mac::parse(by).ok());
                if let (Some(plainness), Some(since), Some(by), Some(network)) =
                    (plainness, since, by, self.network(name))
                {
                    network.find_out(Finding { by, plainness, since });
                }
            }
            _ => {}
        }
    }

    /// Returns all lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(name, Network { proxy_arp, findings })| {
            let stations = proxy_arp.iter().map(move |station| format!("\n{PROXY_ARP} {name} {station}"));
            stations.chain(findings.iter().map(move |finding| finding.line(name)))
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

impl Network {
    /// Takes a finding in the place of an older one, and returns whether that changes anything. A server that answers what
    /// is not plain at all is not as the others have said.
    fn find_out(&mut self, finding: Finding) -> bool {
        if finding.plainness == Plainness::Full {
            return !std::mem::take(&mut self.findings).is_empty();
        }
        self.findings.retain(|known| known.by != finding.by);
        if self.findings.len() >= WITNESSES {
            self.findings.remove(0);
        }
        self.findings.push(finding);
        true
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
        let mut oddities = Oddities::default();
        let lines = [
            oddities.note_proxy_arp("eth0", station(1)),
            oddities.note_proxy_arp("eth0", station(2)),
            oddities.note_plainness("eth1", Plainness::LikeNetavark, station(7), NOW),
            oddities.note_plainness("eth1", Plainness::Bare, station(8), NOW),
        ];
        assert_eq!(oddities.note_proxy_arp("eth0", station(2)), None);
        assert_eq!(oddities.note_plainness("eth1", Plainness::LikeNetavark, station(7), NOW), None);
        assert_eq!(oddities.note_plainness("eth1", Plainness::LikeNetavark, station(9), NOW), None, "two have said so");
        assert_eq!(
            oddities.note_plainness("eth0", Plainness::Full, station(7), NOW),
            None,
            "that is what is done anyway"
        );
        let mut other = Oddities::default();
        lines.iter().flatten().flat_map(|line| line.lines()).for_each(|line| other.read(line));
        for oddities in [&oddities, &other] {
            assert_eq!(oddities.proxy_arp("eth0"), [station(1), station(2)]);
            assert_eq!(oddities.proxy_arp("eth1"), []);
            assert_eq!(oddities.plainness("eth1", station(9), NOW), Plainness::LikeNetavark);
            assert_eq!(oddities.plainness("eth1", station(8), NOW), Plainness::Bare);
            assert_eq!(oddities.lines().collect::<Vec<_>>(), lines.clone().map(Option::unwrap));
        }
    }

    #[test]
    fn a_plainness_is_found_out_again_after_a_day() {
        let mut oddities = Oddities::default();
        oddities.note_plainness("eth0", Plainness::Bare, station(1), NOW);
        let hours = |hours: u64| NOW + Duration::from_secs(hours * 3600);
        assert_eq!(oddities.plainness("eth0", station(1), hours(23)), Plainness::Bare);
        assert_eq!(oddities.plainness("eth0", station(1), hours(24)), Plainness::Full);
        assert!(oddities.note_plainness("eth0", Plainness::Bare, station(1), hours(24)).is_some());
        // It was noted before the machine was booted again.
        oddities.note_plainness("eth1", Plainness::Bare, station(1), NOW);
        assert_eq!(oddities.plainness("eth1", station(1), Instant::from_boot(VALID)), Plainness::Full);
    }

    #[test]
    fn a_plainness_counts_for_others_on_the_word_of_two() {
        let mut oddities = Oddities::default();
        oddities.note_plainness("eth0", Plainness::Bare, station(1), NOW);
        oddities.note_plainness("eth0", Plainness::Bare, station(1), NOW);
        assert_eq!(oddities.plainness("eth0", station(1), NOW), Plainness::Bare);
        assert_eq!(oddities.plainness("eth0", station(3), NOW), Plainness::Full);
        oddities.note_plainness("eth0", Plainness::NoShortcuts, station(2), NOW);
        assert_eq!(oddities.plainness("eth0", station(3), NOW), Plainness::NoShortcuts);
        oddities.note_plainness("eth0", Plainness::LikeNetavark, station(4), NOW);
        assert_eq!(oddities.plainness("eth0", station(3), NOW), Plainness::LikeNetavark);
        assert_eq!(oddities.plainness("eth1", station(3), NOW), Plainness::Full);
        // A server that answers a full one is not like that.
        let line = oddities.note_plainness("eth0", Plainness::Full, station(5), NOW).unwrap();
        assert_eq!(oddities.plainness("eth0", station(1), NOW), Plainness::Full);
        let mut other = Oddities::default();
        other.note_plainness("eth0", Plainness::Bare, station(1), NOW);
        other.read(line.trim_start());
        assert_eq!(other.plainness("eth0", station(1), NOW), Plainness::Full);
    }

    #[test]
    fn it_is_bounded_and_reads_no_nonsense() {
        let mut oddities = Oddities::default();
        for number in 0..200 {
            oddities.note_proxy_arp(&format!("eth{number}"), station(number));
            oddities.note_proxy_arp("eth0", station(number));
            oddities.0.get_mut("eth0").unwrap().find_out(Finding {
                by: station(number),
                plainness: Plainness::Bare,
                since: NOW,
            });
        }
        assert_eq!((oddities.0.len(), oddities.proxy_arp("eth0").len()), (NETWORKS, STATIONS));
        assert_eq!(oddities.0["eth0"].findings.len(), WITNESSES);
        assert_eq!(oddities.proxy_arp("eth0").last(), Some(&station(199)));
        let mut oddities = Oddities::default();
        for line in [
            "",
            "plainness",
            "plainness eth0 9 1",
            "plainness eth0 1",
            "plainness eth0 1 x",
            "plainness eth0 1 1",
            "plainness eth0 1 1 12",
            "proxy-arp eth0 12",
            "proxy-arp  02:00:00:00:00:01",
            "other eth0 1 1",
        ] {
            oddities.read(line);
        }
        assert_eq!(oddities.lines().count(), 0);
    }
}
