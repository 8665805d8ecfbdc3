//! Tells stations that claim an address by ARP from interfaces of the container itself.

use std::collections::VecDeque;
use std::time::Duration;

use crate::mac::Mac;
use crate::time::Instant;

/// The most stations with a verdict; beyond that, the oldest is dropped.
const MAX_STATIONS: usize = 8;
/// The most queries of the kernel within [`PERIOD`]; each takes some thirty system calls. A
/// container has few interfaces that answer a probe, and one more station may own the address.
const MAX_QUERIES: usize = 4;
const PERIOD: Duration = Duration::from_secs(1);

/// The verdicts of one exchange, which bound the cost of a flood of claims.
#[derive(Debug, Default)]
pub(crate) struct Claimants {
    /// Stations, and whether each is the container's.
    verdicts: VecDeque<(Mac, bool)>,
    /// The times of the last queries.
    queried: VecDeque<Instant>,
}

impl Claimants {
    /// Returns whether the container has an interface with the MAC `station`; `query` queries the
    /// kernel if that is unknown. In a flood of unknown stations it returns true, so that the claim
    /// is ignored: the owner of an address answers each probe.
    pub(crate) fn belongs_to_container(
        &mut self,
        station: Mac,
        now: Instant,
        query: impl FnOnce() -> bool,
    ) -> bool {
        if let Some((_, verdict)) = self.verdicts.iter().find(|(known, _)| *known == station) {
            return *verdict;
        }
        if self.queried.len() == MAX_QUERIES {
            if self
                .queried
                .front()
                .is_some_and(|first| now - *first < PERIOD)
            {
                return true;
            }
            self.queried.pop_front();
        }
        self.queried.push_back(now);
        if self.verdicts.len() == MAX_STATIONS {
            self.verdicts.pop_front();
        }
        let verdict = query();
        self.verdicts.push_back((station, verdict));
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(100_000 + millis))
    }

    #[test]
    fn the_kernel_is_asked_once_for_each_station() {
        let (mut claimants, mut queries) = (Claimants::default(), 0);
        for frame in 0..1000 {
            for (station, verdict) in [
                (Mac([2, 0, 0, 0, 0, 1]), true),
                (Mac([2, 0, 0, 0, 0, 2]), false),
            ] {
                let query = || {
                    queries += 1;
                    verdict
                };
                assert_eq!(
                    claimants.belongs_to_container(station, at(frame), query),
                    verdict
                );
            }
        }
        assert_eq!(queries, 2);
    }

    #[test]
    fn a_flood_of_stations_costs_four_questions_a_second_and_little_memory() {
        let (mut claimants, mut queries) = (Claimants::default(), 0);
        for frame in 0..10_000_u64 {
            let [.., a, b] = frame.to_be_bytes();
            claimants.belongs_to_container(Mac([2, 0, 0, 0, a, b]), at(frame), || {
                queries += 1;
                false
            });
        }
        assert_eq!(queries, 40);
        assert_eq!(
            (claimants.verdicts.len(), claimants.queried.len()),
            (MAX_STATIONS, MAX_QUERIES)
        );
        assert!(
            !claimants.belongs_to_container(Mac([9; 6]), at(11_000), || false),
            "and the next station is heard again"
        );
    }
}
