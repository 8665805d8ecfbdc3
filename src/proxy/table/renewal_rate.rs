//! The rate limit of renewals: those that are due at the same time are spread.

use std::cell::Cell;
use std::time::Duration;

use crate::rate::RateLimit;
use crate::time::Instant;

/// Renewals that start at once: a process that was started for them should exit soon.
const BURST: u32 = 20;
/// The interval of later ones, so that at most 50 start within a second. Leases that were acquired
/// together, when a host booted, are due together.
const INTERVAL: Duration = Duration::from_millis(34);

/// A token bucket with one token for each renewal.
#[derive(Debug)]
pub(crate) struct RenewalRate(Cell<RateLimit>);

impl RenewalRate {
    pub(crate) fn new() -> Self {
        Self(Cell::new(RateLimit::new(BURST, INTERVAL)))
    }

    /// Takes the next turn: `now`, or later after many others.
    pub(crate) fn turn(&self, now: Instant) -> Instant {
        let mut rate = self.0.get();
        let turn = rate.reserve(now);
        self.0.set(rate);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(100) + Duration::from_millis(millis))
    }

    #[test]
    fn a_few_go_at_once() {
        let pace = RenewalRate::new();
        for millis in [0, 20, 1000, 1020, 100_000] {
            for _ in 0..9 {
                assert_eq!(pace.turn(at(millis)), at(millis));
            }
        }
    }

    #[test]
    fn of_those_who_come_together_fifty_go_in_a_second() {
        let pace = RenewalRate::new();
        let turns: Vec<_> = (0..1000).map(|nth| pace.turn(at(nth / 100))).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == at(0)).count(), 20);
        for (index, first) in turns.iter().enumerate() {
            let within = turns[index..]
                .iter()
                .take_while(|turn| **turn - *first < Duration::from_secs(1))
                .count();
            assert!(within <= 50, "{within} from the {index}th on");
        }
        // A later renewal does not wait.
        assert_eq!(pace.turn(at(60_000)), at(60_000));
    }
}
