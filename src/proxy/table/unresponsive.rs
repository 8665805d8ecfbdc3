//! Servers that do not answer: what one lease has found out, the others need not find out one after
//! the other.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;

use crate::mac::Mac;
use crate::proxy::key::DhcpServer;

/// A server that has not answered for so long is under suspicion; on a LAN it takes milliseconds.
const SUSPICION: Duration = Duration::from_secs(1);
/// By then the lease that asked knows that there is no answer.
const VERDICT: Duration = Duration::from_secs(11);
/// How long a silent server is left alone.
const PEACE: Duration = Duration::from_secs(60);

/// Servers of each kind that are remembered; beyond that the oldest entry is forgotten.
const SERVERS: usize = 256;

/// Servers that were asked for more time.
///
/// Each unanswered REQUEST keeps the process awake for ten seconds. Leases whose T1 comes one by
/// one while their server is away would keep it awake all the time, for nothing.
#[derive(Debug, Default)]
pub(crate) struct UnresponsiveServers {
    /// Since when an answer is waited for.
    asked: Moments,
    /// When it was found that there is none, by one lease and by another one. One alone may be kept
    /// from its server by its own container, which is not to hold back the others.
    silent: Moments,
    confirmed: Moments,
    witnesses: BTreeMap<DhcpServer, Mac>,
}

impl UnresponsiveServers {
    /// Notes that a lease asks the server.
    pub(crate) fn asked(&mut self, server: &DhcpServer, now: Instant) {
        // After the verdict the lease that asked did not report how it ended.
        self.asked.forget_before(now, VERDICT);
        self.asked.insert(server, |known| known.unwrap_or(now));
    }

    /// Forgets that a lease asks the server, where it ended without learning anything of it.
    pub(crate) fn forget_question(&mut self, server: &DhcpServer) {
        self.asked.remove(server);
    }

    /// Notes that the server was found at `since`, by the lease of `witness`, not to answer.
    pub(crate) fn mark_unresponsive(
        &mut self,
        server: &DhcpServer,
        witness: Mac,
        since: Instant,
        now: Instant,
    ) {
        self.asked.remove(server);
        for moments in [&mut self.silent, &mut self.confirmed] {
            moments.forget_before(now, PEACE);
        }
        self.witnesses
            .retain(|server, _| self.silent.get(server).is_some());
        // The moment may come from a file.
        let since = since.min(now);
        if now - since >= PEACE {
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
        self.silent.insert(server, latest);
        self.witnesses.entry(server.clone()).or_insert(witness);
    }

    /// Notes that the server answered at `now`. Returns whether a lease may be waiting for that.
    pub(crate) fn mark_responsive(&mut self, server: &DhcpServer, now: Instant) -> bool {
        let asked = self.asked.remove(server);
        self.confirmed.remove(server);
        self.witnesses.remove(server);
        self.silent.remove(server).is_some() || asked.is_some_and(|asked| now - asked >= SUSPICION)
    }

    /// Returns until when no other lease need ask the server.
    pub(crate) fn until(&self, server: &DhcpServer, now: Instant) -> Option<Instant> {
        let asked = self
            .asked
            .get(server)
            .filter(|asked| now - *asked >= SUSPICION)
            .map(|asked| asked + VERDICT);
        let silent = self.confirmed.get(server).map(|silent| silent + PEACE);
        asked
            .into_iter()
            .chain(silent)
            .max()
            .filter(|until| *until > now)
    }
}

/// A moment for each of the latest servers.
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
        if self.0.insert(server.clone(), moment).is_none() && self.0.len() > SERVERS {
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
    fn mark(silence: &mut UnresponsiveServers, server: &DhcpServer, since: Instant, now: Instant) {
        silence.mark_unresponsive(server, ONE, since, now);
        silence.mark_unresponsive(server, OTHER, since, now);
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn a_server_that_does_not_answer_is_left_alone_for_a_while() {
        let (server, mut silence) = (usual(), UnresponsiveServers::default());
        assert_eq!(silence.until(&server, at(0)), None);
        silence.asked(&server, at(0));
        assert_eq!(silence.until(&server, at(0)), None, "it may answer yet");
        assert_eq!(silence.until(&server, at(6)), Some(at(11)));
        silence.asked(&server, at(6));
        assert_eq!(
            silence.until(&server, at(7)),
            Some(at(11)),
            "counted from the first"
        );
        mark(&mut silence, &server, at(10), at(10));
        assert_eq!(silence.until(&server, at(12)), Some(at(70)));
        assert_eq!(silence.until(&server, at(70)), None, "time to ask again");
        mark(&mut silence, &server, at(5), at(12));
        assert_eq!(
            silence.until(&server, at(12)),
            Some(at(70)),
            "the latest counts"
        );
    }

    #[test]
    fn one_lease_alone_holds_back_no_other() {
        let (server, mut silence) = (usual(), UnresponsiveServers::default());
        for again in 0..5 {
            silence.mark_unresponsive(&server, ONE, at(again), at(again));
            assert_eq!(silence.until(&server, at(again)), None);
        }
        silence.mark_unresponsive(&server, OTHER, at(5), at(5));
        assert_eq!(silence.until(&server, at(5)), Some(at(65)));
        assert!(silence.mark_responsive(&server, at(6)));
        silence.mark_unresponsive(&server, OTHER, at(7), at(7));
        assert_eq!(
            silence.until(&server, at(7)),
            None,
            "what was said before the answer does not count"
        );
        // Nor does what was said long ago.
        silence.mark_unresponsive(&server, ONE, at(200), at(200));
        assert_eq!(silence.until(&server, at(200)), None);
    }

    #[test]
    fn a_server_that_answers_is_asked_by_all_leases() {
        let (server, mut silence) = (usual(), UnresponsiveServers::default());
        assert!(!silence.mark_responsive(&server, at(0)));
        silence.asked(&server, at(0));
        assert!(
            !silence.mark_responsive(&server, at(0)),
            "nothing was held back"
        );
        silence.asked(&server, at(1));
        assert!(silence.mark_responsive(&server, at(3)));
        mark(&mut silence, &server, at(10), at(10));
        assert!(silence.mark_responsive(&server, at(11)));
        assert_eq!(silence.until(&server, at(12)), None);
    }

    #[test]
    fn the_same_address_on_another_network_is_another_server() {
        let mut silence = UnresponsiveServers::default();
        mark(&mut silence, &usual(), at(0), at(0));
        silence.asked(&usual(), at(0));
        for other in [
            server("eth0.7", 1, Some(1)),
            server("eth0", 1, Some(2)),
            server("eth0", 2, Some(1)),
        ] {
            assert_eq!(silence.until(&other, at(5)), None, "{other:?}");
            assert!(!silence.mark_responsive(&other, at(5)), "{other:?}");
            silence.forget_question(&other);
        }
        assert_eq!(silence.until(&usual(), at(5)), Some(at(60)));
    }

    #[test]
    fn entries_age_out_and_are_bounded() {
        let mut silence = UnresponsiveServers::default();
        for number in 0..1000 {
            let server = server(&format!("eth{number}"), 1, None);
            silence.asked(&server, at(number / 1000));
            mark(&mut silence, &server, at(number / 100), at(number / 100));
            silence.asked(&server, at(number / 100));
        }
        assert!(silence.asked.0.len() <= SERVERS && silence.silent.0.len() <= SERVERS);
        assert_eq!(
            silence.until(&server("eth0", 1, None), at(10)),
            None,
            "the oldest are forgotten"
        );
        assert_eq!(
            silence.until(&server("eth999", 1, None), at(11)),
            Some(at(69))
        );
        silence.asked(&usual(), at(100));
        mark(&mut silence, &usual(), at(200), at(200));
        assert_eq!(
            (silence.asked.0.len(), silence.silent.0.len()),
            (0, 1),
            "what is long over is not kept"
        );
    }

    #[test]
    fn a_moment_from_a_file_is_not_later_than_now() {
        let mut silence = UnresponsiveServers::default();
        mark(&mut silence, &usual(), at(1_000_000), at(0));
        assert_eq!(silence.until(&usual(), at(1)), Some(at(60)));
        mark(&mut silence, &server("eth1", 1, None), at(0), at(100));
        assert_eq!(
            silence.silent.0.len(),
            0,
            "those of long ago say nothing about now"
        );
    }
}
