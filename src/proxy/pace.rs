//! The pace of what nobody waits for: what is due in many leases at once is done one after the other.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Instant;

/// From one turn to the next: 50 in a second. Leases that were made together, by a host that starts, come due together.
const GAP: Duration = Duration::from_millis(20);

/// Who may go when.
#[derive(Debug)]
pub(super) struct Pace {
    next: Cell<Instant>,
}

impl Pace {
    /// Nobody has gone yet.
    pub(super) fn new() -> Self {
        Self { next: Cell::new(Instant::from_boot(Duration::ZERO)) }
    }

    /// Takes the next turn, which is now where nobody has gone shortly before.
    pub(super) fn turn(&self, now: Instant) -> Instant {
        let turn = self.next.get().max(now);
        self.next.set(turn + GAP);
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
    fn whoever_comes_alone_goes_at_once() {
        let pace = Pace::new();
        for millis in [0, 20, 1000, 1020, 100_000] {
            assert_eq!(pace.turn(at(millis)), at(millis));
        }
    }

    #[test]
    fn of_those_who_come_together_fifty_go_in_a_second() {
        let pace = Pace::new();
        let turns: Vec<_> = (0..1000).map(|nth| pace.turn(at(nth / 100))).collect();
        assert_eq!(turns[0], at(0));
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == GAP));
        assert_eq!(turns.iter().filter(|turn| **turn < at(1000)).count(), 50);
        // Who comes when all have gone need not wait.
        assert_eq!(pace.turn(at(30_000)), at(30_000));
        assert_eq!(pace.turn(at(30_005)), at(30_020));
    }
}
