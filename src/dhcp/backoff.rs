//! The delays of retransmissions (RFC 2131 §4.1, §4.4.5), randomized by the caller's seed.

use std::time::Duration;

/// The delays and all other random choices of one client. The same seed gives the same choices.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    seed: u64,
    fuzz: bool,
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The longest wait between two DISCOVERs.
pub(super) const MAX_INTERVAL: Duration = secs(330);

/// T1 and T2 are up to this much earlier.
pub(super) const FUZZ: Duration = secs(1);

impl Backoff {
    pub(super) fn new(seed: u64, fuzz: bool) -> Self {
        Self { seed, fuzz }
    }

    /// Returns a random transaction id, so that clients that start together do not accept each
    /// other's replies (RFC 2131 §4.1).
    pub(super) fn xid(&mut self) -> u32 {
        (self.random() >> 32) as u32
    }

    /// Returns the wait after the `sent`-th DISCOVER (1 is the first).
    ///
    /// Deviation: for a waiting caller it is shorter than in RFC 2131 §4.1: three times up to 1 s,
    /// then 2, 4 and 8 s. These DISCOVERs have ever fewer options, and a server that answers only
    /// the plainest one has leased within 6 s.
    pub(super) fn discover(&mut self, sent: u32, caller_waits: bool) -> Duration {
        match (caller_waits, sent) {
            (true, 0..=3) => self.at_most(secs(1), Duration::from_millis(250)),
            (true, 4) => self.at_most(secs(2), Duration::from_millis(500)),
            (true, 5) => self.around(secs(4), secs(1)),
            _ => self.broadcast(sent, caller_waits),
        }
    }

    /// Returns the wait after the `sent`-th REQUEST of an acquisition (1 is the first).
    ///
    /// RFC 2131 §4.1 wants 4, 8, 16, 32 and 64 s, each plus or minus a second. Deviation while a
    /// caller waits: 1-2 s for a frame that was lost, then about 2 s, because a relay that drops
    /// long messages must have leased within 6 s to the third and plainest REQUEST. Then no more
    /// than 8 s, because a caller that waits 45 s must outlast a switch port that drops all frames
    /// for 30 s (spanning tree). Without a caller, and without an answer in ten rounds, it is five
    /// minutes.
    pub(super) fn broadcast(&mut self, sent: u32, caller_waits: bool) -> Duration {
        match (caller_waits, sent) {
            (true, 0 | 1) => self.at_most(secs(2), secs(1)),
            (true, 2) => self.around(secs(2), Duration::from_millis(500)),
            (true, _) => self.around(secs(8), secs(1)),
            (false, 0..=4) => self.around(secs(2 << sent.max(1)), secs(1)),
            (false, 5..=10) => self.around(secs(64), secs(1)),
            (false, _) => self.long_interval(),
        }
    }

    /// Returns the wait without a caller and after many messages without an answer: about five
    /// minutes.
    pub(super) fn long_interval(&mut self) -> Duration {
        self.around(secs(300), secs(30))
    }

    /// Returns the wait before the next search after `failures` in a row (a NAK, no ACK, a
    /// conflict): none after the first, then doubled each time, for a server that refuses every
    /// REQUEST.
    pub(super) fn start_over(&mut self, failures: u32, caller_waits: bool) -> Duration {
        let longest = if caller_waits { 8 } else { 128 };
        match failures {
            0 | 1 => Duration::ZERO,
            n => self.at_most(
                secs((1 << (n - 1).min(7)).min(longest)),
                Duration::from_millis(500),
            ),
        }
    }

    /// Returns the wait before the first of several ARP probes: PROBE_WAIT (RFC 5227 §1.1).
    pub(super) fn probe_wait(&mut self) -> Duration {
        self.at_most(secs(1), secs(1))
    }

    /// Returns the wait between two ARP probes: PROBE_MIN to PROBE_MAX (RFC 5227 §1.1).
    pub(super) fn probe_interval(&mut self) -> Duration {
        self.at_most(secs(2), secs(1))
    }

    /// Returns the wait before the next REQUEST of a renewal: half of the time `remaining` until T2
    /// or the end, at least a minute (RFC 2131 §4.4.5). `of` is all the time from T1 to T2, or from
    /// T2 to the end.
    ///
    /// Deviation: if `of` is less than four minutes, that minute would leave one or two messages,
    /// and a lost frame would cost the lease. The least wait is a quarter of `of` then.
    pub(super) fn renewal(remaining: Duration, of: Duration) -> Duration {
        (remaining / 2).max((of / 4).clamp(secs(2), secs(60)))
    }

    /// Returns T1 or T2 up to a second earlier, so that hosts that booted together drift apart
    /// (RFC 2131 §4.4.5). Times below a minute and infinite ones are unchanged.
    pub(super) fn lease_timer(&mut self, after: Duration) -> Duration {
        if after < secs(60) || after == Duration::MAX {
            after
        } else {
            self.at_most(after, FUZZ)
        }
    }

    fn around(&mut self, middle: Duration, fuzz: Duration) -> Duration {
        if self.fuzz {
            middle.saturating_sub(fuzz) + self.below(fuzz * 2)
        } else {
            middle
        }
    }

    fn at_most(&mut self, latest: Duration, fuzz: Duration) -> Duration {
        if self.fuzz {
            latest.saturating_sub(self.below(fuzz))
        } else {
            latest
        }
    }

    /// Returns a uniformly random time in `0..limit`, in whole microseconds.
    fn below(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.random() % micros)
    }

    /// SplitMix64 is good enough to tell hosts apart. Nothing here is secret.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(caller_waits: bool, rounds: u32) -> Vec<u64> {
        let mut backoff = Backoff::new(0, false);
        (1..=rounds)
            .map(|sent| backoff.discover(sent, caller_waits).as_secs())
            .collect()
    }

    #[test]
    fn the_schedules() {
        assert_eq!(schedule(true, 7), [1, 1, 1, 2, 4, 8, 8]);
        assert_eq!(
            schedule(false, 12),
            [4, 8, 16, 32, 64, 64, 64, 64, 64, 64, 300, 300]
        );
        let mut backoff = Backoff::new(0, false);
        let waits = (1..=10).map(|n| backoff.start_over(n, false).as_secs());
        assert_eq!(
            waits.collect::<Vec<_>>(),
            [0, 2, 4, 8, 16, 32, 64, 128, 128, 128]
        );
        assert_eq!(backoff.start_over(u32::MAX, true), secs(8));
    }

    #[test]
    fn a_short_lease_has_several_tries() {
        let tries = |of: u64| {
            let (mut at, mut tries) = (Duration::ZERO, vec![]);
            while at < secs(of) {
                tries.push(at.as_millis());
                at += Backoff::renewal(secs(of) - at, secs(of));
            }
            tries
        };
        assert_eq!(
            tries(450),
            [0, 225_000, 337_500, 397_500],
            "of an hour's lease: never less than a minute"
        );
        assert_eq!(tries(45), [0, 22_500, 33_750], "of two minutes");
        assert_eq!(tries(3), [0, 2_000]);
    }

    #[test]
    fn fuzz_stays_within_its_second_for_any_seed() {
        for seed in 0..10_000 {
            let mut backoff = Backoff::new(seed, true);
            assert!((secs(1)..=secs(2)).contains(&backoff.broadcast(1, true)));
            assert!(
                (Duration::from_millis(1500)..=Duration::from_millis(2500))
                    .contains(&backoff.broadcast(2, true))
            );
            assert!((secs(63)..=secs(65)).contains(&backoff.broadcast(7, false)));
            assert!((secs(270)..=MAX_INTERVAL).contains(&backoff.broadcast(11, false)));
            assert!((secs(1799)..=secs(1800)).contains(&backoff.lease_timer(secs(1800))));
            assert_eq!(backoff.lease_timer(secs(10)), secs(10));
        }
    }

    #[test]
    fn a_port_deaf_for_30_s_hears_a_discover_before_45_s() {
        for seed in 0..10_000 {
            let mut backoff = Backoff::new(seed, true);
            let mut at = Duration::ZERO;
            let heard = (1..).find_map(|sent| {
                at += backoff.discover(sent, true);
                (at > secs(30)).then_some(at)
            });
            assert!(heard.is_some_and(|at| at < secs(45)), "{heard:?}");
        }
    }
}
