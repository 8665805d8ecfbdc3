//! Servers that do not answer: a finding of one lease saves the others the same wait.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;

use crate::mac::Mac;
use crate::proxy::key::DhcpServer;

/// The time after which an answer is overdue. On a LAN it takes milliseconds.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);
/// The time after which the lease that sent the REQUEST has given up.
const CONFIRMED_AFTER: Duration = Duration::from_secs(11);
/// The time for which an unresponsive server gets no further requests.
const HOLD_OFF: Duration = Duration::from_secs(60);

/// The most servers of each kind; beyond it the oldest entry is dropped.
const MAX_SERVERS: usize = 256;

/// Servers that got a renewal request.
///
/// Each unanswered REQUEST keeps the process running for ten seconds. While a server is away,
/// the leases would keep it running all the time, as their T1 comes one after the other.
#[derive(Debug, Default)]
pub(crate) struct UnresponsiveServers {
    /// The first request without an answer yet.
    asked: Moments,
    /// The findings of one lease, and those that another lease has confirmed. A container can keep
    /// its own lease from the server, which must not hold off other leases.
    unresponsive: Moments,
    confirmed: Moments,
    witnesses: BTreeMap<DhcpServer, Mac>,
}

impl UnresponsiveServers {
    /// Records that a lease sends a request to the server.
    pub(crate) fn mark_asked(&mut self, server: &DhcpServer, now: Instant) {
        // A lease that takes longer did not report its outcome.
        self.asked.forget_before(now, CONFIRMED_AFTER);
        self.asked.insert(server, |known| known.unwrap_or(now));
    }

    /// Drops a request that ended without news about the server.
    pub(crate) fn clear_asked(&mut self, server: &DhcpServer) {
        self.asked.remove(server);
    }

    /// Records that the lease of `witness` found at `since` that the server does not answer.
    pub(crate) fn mark_unresponsive(
        &mut self,
        server: &DhcpServer,
        witness: Mac,
        since: Instant,
        now: Instant,
    ) {
        self.asked.remove(server);
        for moments in [&mut self.unresponsive, &mut self.confirmed] {
            moments.forget_before(now, HOLD_OFF);
        }
        self.witnesses
            .retain(|server, _| self.unresponsive.get(server).is_some());
        // The time may come from a file.
        let since = since.min(now);
        if now - since >= HOLD_OFF {
            return;
        }
        let latest = |known: Option<Instant>| known.map_or(since, |known| known.max(since));
        let is_other = self
            .witnesses
            .get(server)
            .is_some_and(|first| *first != witness);
        if is_other || self.confirmed.get(server).is_some() {
            self.confirmed.insert(server, latest);
        }
        self.unresponsive.insert(server, latest);
        self.witnesses.entry(server.clone()).or_insert(witness);
    }

    /// Records an answer. Returns whether a lease may be waiting for it.
    pub(crate) fn mark_responsive(&mut self, server: &DhcpServer, now: Instant) -> bool {
        let asked = self.asked.remove(server);
        self.confirmed.remove(server);
        self.witnesses.remove(server);
        self.unresponsive.remove(server).is_some()
            || asked.is_some_and(|asked| now - asked >= SUSPECT_AFTER)
    }

    /// Returns the time until which the server gets no further requests.
    pub(crate) fn held_off_until(&self, server: &DhcpServer, now: Instant) -> Option<Instant> {
        let asked = self
            .asked
            .get(server)
            .filter(|asked| now - *asked >= SUSPECT_AFTER)
            .map(|asked| asked + CONFIRMED_AFTER);
        let silent = self.confirmed.get(server).map(|silent| silent + HOLD_OFF);
        asked
            .into_iter()
            .chain(silent)
            .max()
            .filter(|until| *until > now)
    }
}

/// A time for each of the latest servers.
#[derive(Debug, Default)]
struct Moments(BTreeMap<DhcpServer, Instant>);

impl Moments {
    fn get(&self, server: &DhcpServer) -> Option<Instant> {
        self.0.get(server).copied()
    }

    fn remove(&mut self, server: &DhcpServer) -> Option<Instant> {
        self.0.remove(server)
    }

    fn insert(&mut self, server: &DhcpServer, moment: impl FnOnce(Option<Instant>) -> Instant) {
        let moment = moment(self.get(server));
        if self.0.insert(server.clone(), moment).is_none() && self.0.len() > MAX_SERVERS {
            let oldest = self
                .0
                .iter()
                .min_by_key(|(_, moment)| **moment)
                .map(|(server, _)| server.clone());
            oldest.map(|oldest| self.0.remove(&oldest));
        }
    }

    fn forget_before(&mut self, now: Instant, age: Duration) {
        self.0.retain(|_, moment| now - *moment < age);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn server(network: &str, last: u8, station: Option<u8>) -> DhcpServer {
        let station = station.map(|station| Mac([2, 0, 0, 0, 0, station]));
        DhcpServer {
            network: network.to_owned(),
            address: Ipv4Addr::new(192, 168, 1, last),
            station,
        }
    }

    fn usual() -> DhcpServer {
        server("eth0", 1, Some(1))
    }

    const ONE: Mac = Mac([2, 0, 0, 0, 1, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 1, 2]);

    /// Two leases find that a server does not answer.
    fn mark(servers: &mut UnresponsiveServers, server: &DhcpServer, since: Instant, now: Instant) {
        servers.mark_unresponsive(server, ONE, since, now);
        servers.mark_unresponsive(server, OTHER, since, now);
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn a_server_that_does_not_answer_is_left_alone_for_a_while() {
        let (server, mut servers) = (usual(), UnresponsiveServers::default());
        assert_eq!(servers.held_off_until(&server, at(0)), None);
        servers.mark_asked(&server, at(0));
        assert_eq!(
            servers.held_off_until(&server, at(0)),
            None,
            "it may answer yet"
        );
        assert_eq!(servers.held_off_until(&server, at(6)), Some(at(11)));
        servers.mark_asked(&server, at(6));
        assert_eq!(
            servers.held_off_until(&server, at(7)),
            Some(at(11)),
            "counted from the first"
        );
        mark(&mut servers, &server, at(10), at(10));
        assert_eq!(servers.held_off_until(&server, at(12)), Some(at(70)));
        assert_eq!(
            servers.held_off_until(&server, at(70)),
            None,
            "time to ask again"
        );
        mark(&mut servers, &server, at(5), at(12));
        assert_eq!(
            servers.held_off_until(&server, at(12)),
            Some(at(70)),
            "the latest counts"
        );
    }

    #[test]
    fn one_lease_alone_holds_back_no_other() {
        let (server, mut servers) = (usual(), UnresponsiveServers::default());
        for again in 0..5 {
            servers.mark_unresponsive(&server, ONE, at(again), at(again));
            assert_eq!(servers.held_off_until(&server, at(again)), None);
        }
        servers.mark_unresponsive(&server, OTHER, at(5), at(5));
        assert_eq!(servers.held_off_until(&server, at(5)), Some(at(65)));
        assert!(servers.mark_responsive(&server, at(6)));
        servers.mark_unresponsive(&server, OTHER, at(7), at(7));
        assert_eq!(
            servers.held_off_until(&server, at(7)),
            None,
            "what was said before the answer does not count"
        );
        servers.mark_unresponsive(&server, ONE, at(200), at(200));
        assert_eq!(servers.held_off_until(&server, at(200)), None);
    }

    #[test]
    fn a_server_that_answers_is_asked_by_all_leases() {
        let (server, mut servers) = (usual(), UnresponsiveServers::default());
        assert!(!servers.mark_responsive(&server, at(0)));
        servers.mark_asked(&server, at(0));
        assert!(
            !servers.mark_responsive(&server, at(0)),
            "nothing was held back"
        );
        servers.mark_asked(&server, at(1));
        assert!(servers.mark_responsive(&server, at(3)));
        mark(&mut servers, &server, at(10), at(10));
        assert!(servers.mark_responsive(&server, at(11)));
        assert_eq!(servers.held_off_until(&server, at(12)), None);
    }

    #[test]
    fn the_same_address_on_another_network_is_another_server() {
        let mut servers = UnresponsiveServers::default();
        mark(&mut servers, &usual(), at(0), at(0));
        servers.mark_asked(&usual(), at(0));
        for other in [
            server("eth0.7", 1, Some(1)),
            server("eth0", 1, Some(2)),
            server("eth0", 2, Some(1)),
        ] {
            assert_eq!(servers.held_off_until(&other, at(5)), None, "{other:?}");
            assert!(!servers.mark_responsive(&other, at(5)), "{other:?}");
            servers.clear_asked(&other);
        }
        assert_eq!(servers.held_off_until(&usual(), at(5)), Some(at(60)));
    }

    #[test]
    fn entries_age_out_and_are_bounded() {
        let mut servers = UnresponsiveServers::default();
        for number in 0..1000 {
            let server = server(&format!("eth{number}"), 1, None);
            servers.mark_asked(&server, at(number / 1000));
            mark(&mut servers, &server, at(number / 100), at(number / 100));
            servers.mark_asked(&server, at(number / 100));
        }
        assert!(
            servers.asked.0.len() <= MAX_SERVERS && servers.unresponsive.0.len() <= MAX_SERVERS
        );
        assert_eq!(
            servers.held_off_until(&server("eth0", 1, None), at(10)),
            None,
            "the oldest are forgotten"
        );
        assert_eq!(
            servers.held_off_until(&server("eth999", 1, None), at(11)),
            Some(at(69))
        );
        servers.mark_asked(&usual(), at(100));
        mark(&mut servers, &usual(), at(200), at(200));
        assert_eq!(
            (servers.asked.0.len(), servers.unresponsive.0.len()),
            (0, 1),
            "what is long over is not kept"
        );
    }

    #[test]
    fn a_moment_from_a_file_is_not_later_than_now() {
        let mut servers = UnresponsiveServers::default();
        mark(&mut servers, &usual(), at(1_000_000), at(0));
        assert_eq!(servers.held_off_until(&usual(), at(1)), Some(at(60)));
        mark(&mut servers, &server("eth1", 1, None), at(0), at(100));
        assert_eq!(
            servers.unresponsive.0.len(),
            0,
            "those of long ago say nothing about now"
        );
    }
}
