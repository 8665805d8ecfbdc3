//! Which servers do not answer: what one lease has found out, the others need not find out one after the other.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::time::Instant;

/// A server that has not answered for so long is under suspicion; on a LAN it takes milliseconds.
const SUSPICION: Duration = Duration::from_secs(1);
/// By then whoever asked knows that there is no answer.
const VERDICT: Duration = Duration::from_secs(11);
/// How long a silent server is left alone.
const PEACE: Duration = Duration::from_secs(60);

/// Servers that were asked for more time.
///
/// Each unanswered REQUEST keeps the process awake for ten seconds. Leases whose T1 comes one by one while their server is
/// away would keep it awake all the time, for nothing.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Since when an answer is waited for.
    asked: BTreeMap<Ipv4Addr, Instant>,
    /// When it was found that there is none.
    silent: BTreeMap<Ipv4Addr, Instant>,
}

impl Silence {
    /// Somebody asks it.
    pub(super) fn asked(&mut self, server: Ipv4Addr, now: Instant) {
        let asked = self.asked.entry(server).or_insert(now);
        // Whoever asked then did not come to say how it ended.
        if now - *asked >= VERDICT {
            *asked = now;
        }
    }

    /// Nobody asks it any more, and nothing was learnt of it.
    pub(super) fn nobody_asks(&mut self, server: Ipv4Addr) {
        self.asked.remove(&server);
    }

    /// There was no answer.
    pub(super) fn is_silent(&mut self, server: Ipv4Addr, since: Instant) {
        self.asked.remove(&server);
        let known = self.silent.entry(server).or_insert(since);
        *known = since.max(*known);
    }

    /// There was an answer. Tells whether somebody may wait for that.
    pub(super) fn spoke(&mut self, server: Ipv4Addr, now: Instant) -> bool {
        let asked = self.asked.remove(&server);
        self.silent.remove(&server).is_some() || asked.is_some_and(|asked| now - asked >= SUSPICION)
    }

    /// Until when nobody else need ask it.
    pub(super) fn until(&self, server: Ipv4Addr, now: Instant) -> Option<Instant> {
        let asked = self.asked.get(&server).filter(|asked| now - **asked >= SUSPICION).map(|asked| *asked + VERDICT);
        let silent = self.silent.get(&server).map(|silent| *silent + PEACE);
        asked.into_iter().chain(silent).max().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn who_does_not_answer_is_left_alone_for_a_while() {
        let mut silence = Silence::default();
        assert_eq!(silence.until(SERVER, at(0)), None);
        silence.asked(SERVER, at(0));
        assert_eq!(silence.until(SERVER, at(0)), None, "it may answer yet");
        assert_eq!(silence.until(SERVER, at(6)), Some(at(11)));
        silence.asked(SERVER, at(6));
        assert_eq!(silence.until(SERVER, at(7)), Some(at(11)), "counted from the first");
        silence.is_silent(SERVER, at(10));
        assert_eq!(silence.until(SERVER, at(12)), Some(at(70)));
        assert_eq!(silence.until(SERVER, at(70)), None, "time to ask again");
        assert_eq!(silence.until(Ipv4Addr::new(10, 0, 0, 2), at(12)), None);
        silence.is_silent(SERVER, at(5));
        assert_eq!(silence.until(SERVER, at(12)), Some(at(70)), "the latest counts");
    }

    #[test]
    fn who_answers_is_asked_by_everybody() {
        let mut silence = Silence::default();
        assert!(!silence.spoke(SERVER, at(0)));
        silence.asked(SERVER, at(0));
        assert!(!silence.spoke(SERVER, at(0)), "nobody was held back");
        silence.asked(SERVER, at(1));
        assert!(silence.spoke(SERVER, at(3)));
        silence.is_silent(SERVER, at(10));
        assert!(silence.spoke(SERVER, at(11)));
        assert_eq!(silence.until(SERVER, at(12)), None);
    }
}
