//! The pace of what nobody waits for: what is due in many leases at once is done one after the
//! other.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

/// So many may go at once, for each moment costs a process that was woken for them.
const BURST: u32 = 20;
/// From one turn to the next after that. Together no more than 50 go within a second: leases that
/// were made together, by a host that starts, come due together.
const GAP: Duration = Duration::from_millis(34);

/// Who may go when.
#[derive(Debug)]
pub(crate) struct RenewalRate {
    /// When all who have gone would have gone, had they gone one by one.
    all_gone: Cell<Instant>,
}

impl RenewalRate {
    /// Nobody has gone yet.
    pub(crate) fn new() -> Self {
        Self {
            all_gone: Cell::new(Instant::from_boot(Duration::ZERO)),
        }
    }

    /// Takes the next turn, which is now where not many have gone shortly before.
    pub(crate) fn turn(&self, now: Instant) -> Instant {
        let one_by_one = self.all_gone.get().max(now);
        self.all_gone.set(one_by_one + GAP);
        let ahead = GAP * (BURST - 1);
        now + (one_by_one - now).saturating_sub(ahead)
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
        // Who comes when all have gone need not wait.
        assert_eq!(pace.turn(at(60_000)), at(60_000));
    }
}
