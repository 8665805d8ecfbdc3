//! How long an acquisition waits for a DHCP server: long where that can help, and else no longer
//! than its caller has to.
//!
//! Podman holds one lock for the whole host while a Setup waits. `podman network ls` and each start
//! of a container on another network wait with it.

use std::fmt;
use std::time::Duration;

use crate::time::Instant;

/// Outlasts a switch port with spanning tree, which is deaf for 30 s.
const LONG: Duration = Duration::from_secs(45);
/// Long enough for a server that asks for an address by ICMP before it offers it, and for a lost
/// frame or two.
const USUAL: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(5);

/// The age up to which a boot, a carrier, an answer and an acquisition in vain count. A switch that
/// boots together with the host takes some minutes.
const BOOT: Duration = Duration::from_secs(180);
const CARRIER: Duration = Duration::from_secs(60);
const SERVER: Duration = Duration::from_secs(120);
const UNANSWERED: Duration = Duration::from_secs(60);
/// The kernel tells of the carrier of a new interface up to a second after it was set up. That one
/// is not new.
const SETTLING: Duration = Duration::from_secs(2);

/// The state of a network when an acquisition begins. Each time is an age, `None` where there was
/// no such thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Circumstances {
    pub(super) since_boot: Duration,
    /// Since it was noticed that the parent's carrier had come up anew.
    pub(super) carrier: Option<Duration>,
    /// A port of the bridge that leads to the network is listening or learning (IEEE 802.1D).
    pub(super) is_port_starting: bool,
    /// Since a DHCP server of the network was heard.
    pub(super) server: Option<Duration>,
    /// Since the end of an acquisition on this parent that no server answered.
    pub(super) unanswered: Option<Duration>,
}

/// The reason for the length of an acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitReason {
    /// `-t SECONDS`.
    Option,
    BridgePort,
    Unanswered,
    ServerHeard,
    Boot,
    Carrier,
    /// The carrier came while the caller waited.
    CarrierMeanwhile,
    /// A server answered while the caller waited.
    Answered,
    Usual,
}

/// The time that an acquisition may take, and the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    pub(super) time: Duration,
    pub(super) reason: WaitReason,
}

impl WaitReason {
    /// Returns whether it is that a switch port may be deaf for a while.
    pub(super) fn is_of_port(self) -> bool {
        matches!(
            self,
            Self::BridgePort | Self::Boot | Self::Carrier | Self::CarrierMeanwhile
        )
    }
}

impl Patience {
    /// The time that `-t SECONDS` says.
    pub(super) fn told(time: Duration) -> Self {
        Self {
            time,
            reason: WaitReason::Option,
        }
    }

    /// Decides for a network in these circumstances.
    pub(super) fn decide(network: &Circumstances) -> Self {
        let is_recent = |age: Option<Duration>, limit| age.is_some_and(|age| age < limit);
        // A carrier or an answer that came after an acquisition in vain speaks for another try of
        // full length.
        let change = network.carrier.into_iter().chain(network.server).min();
        let unanswered = network
            .unanswered
            .filter(|age| change.is_none_or(|change| *age <= change));
        let (time, reason) = if network.is_port_starting {
            // Less could not succeed.
            (LONG, WaitReason::BridgePort)
        } else if is_recent(unanswered, UNANSWERED) {
            (SHORT, WaitReason::Unanswered)
        } else if is_recent(network.server, SERVER) {
            (LONG, WaitReason::ServerHeard)
        } else if network.since_boot < BOOT {
            (LONG, WaitReason::Boot)
        } else if is_recent(network.carrier, CARRIER) {
            (LONG, WaitReason::Carrier)
        } else {
            (USUAL, WaitReason::Usual)
        };
        Self { time, reason }
    }
}

/// A sentence for the caller of a Setup that came to nothing; empty where the time was the
/// administrator's choice.
impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            WaitReason::Option => return Ok(()),
            WaitReason::BridgePort => "a port of the bridge was listening or learning",
            WaitReason::Unanswered => {
                "another acquisition on this network was not answered in the last minute"
            }
            WaitReason::ServerHeard => {
                "a DHCP server was heard on this network in the last two minutes"
            }
            WaitReason::Boot => "the host has booted in the last three minutes",
            WaitReason::Carrier => "the host's interface has a new carrier",
            WaitReason::CarrierMeanwhile => "the carrier came meanwhile",
            WaitReason::Answered => "a DHCP server answered",
            WaitReason::Usual => {
                "no DHCP server was heard on this network of late, and its carrier is not new"
            }
        };
        let (seconds, tenths) = (self.time.as_secs(), self.time.subsec_millis() / 100);
        write!(f, "; waited {seconds}")?;
        if tenths > 0 {
            write!(f, ".{tenths}")?;
        }
        write!(f, " s, because {why}: -t SECONDS sets another time")
    }
}

/// An acquisition under way for which a caller waits.
#[derive(Debug)]
pub(super) struct Wait {
    since: Instant,
    patience: Patience,
    is_answered: bool,
}

impl Wait {
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        Self {
            since: now,
            patience,
            is_answered: false,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.since + self.patience.time
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Returns whether a server has answered.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Notes an answer: where there is a server, lost frames and slow servers are worth a long
    /// wait.
    pub(super) fn note_answer(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.extend(LONG, WaitReason::Answered);
        }
    }

    /// Notes that the carrier has come: a switch port may be deaf from now on. It counts once, for
    /// an interface may lose its carrier as often as it likes.
    pub(super) fn note_carrier(&mut self, now: Instant) {
        let waited = now - self.since;
        if waited >= SETTLING && self.patience.reason != WaitReason::CarrierMeanwhile {
            self.extend(waited + LONG, WaitReason::CarrierMeanwhile);
        }
    }

    fn extend(&mut self, time: Duration, reason: WaitReason) {
        if self.patience.reason != WaitReason::Option && time > self.patience.time {
            self.patience = Patience { time, reason };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A network of which nothing is known, on a host that has been up for long.
    const UNKNOWN: Circumstances = Circumstances {
        since_boot: seconds(86_400),
        carrier: None,
        is_port_starting: false,
        server: None,
        unanswered: None,
    };

    fn decided(network: Circumstances) -> (u64, WaitReason) {
        let Patience { time, reason } = Patience::decide(&network);
        (time.as_secs(), reason)
    }

    fn ago(age: u64) -> Option<Duration> {
        Some(seconds(age))
    }

    #[test]
    fn a_network_of_which_nothing_is_known_gets_the_usual_time() {
        assert_eq!(decided(UNKNOWN), (10, WaitReason::Usual));
    }

    #[test]
    fn what_time_can_mend_gets_more_of_it() {
        for (network, reason, is_long) in [
            (
                Circumstances {
                    since_boot: seconds(179),
                    ..UNKNOWN
                },
                WaitReason::Boot,
                true,
            ),
            (
                Circumstances {
                    since_boot: seconds(180),
                    ..UNKNOWN
                },
                WaitReason::Usual,
                false,
            ),
            (
                Circumstances {
                    carrier: ago(0),
                    ..UNKNOWN
                },
                WaitReason::Carrier,
                true,
            ),
            (
                Circumstances {
                    carrier: ago(59),
                    ..UNKNOWN
                },
                WaitReason::Carrier,
                true,
            ),
            (
                Circumstances {
                    carrier: ago(60),
                    ..UNKNOWN
                },
                WaitReason::Usual,
                false,
            ),
            (
                Circumstances {
                    server: ago(119),
                    ..UNKNOWN
                },
                WaitReason::ServerHeard,
                true,
            ),
            (
                Circumstances {
                    server: ago(120),
                    ..UNKNOWN
                },
                WaitReason::Usual,
                false,
            ),
            (
                Circumstances {
                    is_port_starting: true,
                    ..UNKNOWN
                },
                WaitReason::BridgePort,
                true,
            ),
        ] {
            assert_eq!(
                decided(network),
                (if is_long { 45 } else { 10 }, reason),
                "{network:?}"
            );
        }
    }

    #[test]
    fn after_an_acquisition_in_vain_the_next_ones_are_short_for_a_minute() {
        for (age, expected) in [
            (0, (5, WaitReason::Unanswered)),
            (59, (5, WaitReason::Unanswered)),
            (60, (10, WaitReason::Usual)),
        ] {
            assert_eq!(
                decided(Circumstances {
                    unanswered: ago(age),
                    ..UNKNOWN
                }),
                expected
            );
        }
        // Also where there was reason for a long one before it.
        let before = Circumstances {
            since_boot: seconds(90),
            carrier: ago(45),
            server: ago(50),
            ..UNKNOWN
        };
        assert_eq!(
            decided(Circumstances {
                unanswered: ago(0),
                ..before
            }),
            (5, WaitReason::Unanswered)
        );
    }

    #[test]
    fn what_came_after_an_acquisition_in_vain_counts_for_more() {
        let in_vain = Circumstances {
            unanswered: ago(20),
            ..UNKNOWN
        };
        assert_eq!(
            decided(Circumstances {
                carrier: ago(19),
                ..in_vain
            }),
            (45, WaitReason::Carrier)
        );
        assert_eq!(
            decided(Circumstances {
                carrier: ago(20),
                ..in_vain
            }),
            (5, WaitReason::Unanswered)
        );
        assert_eq!(
            decided(Circumstances {
                server: ago(19),
                ..in_vain
            }),
            (45, WaitReason::ServerHeard)
        );
        assert_eq!(
            decided(Circumstances {
                server: ago(21),
                ..in_vain
            }),
            (5, WaitReason::Unanswered)
        );
        assert_eq!(
            decided(Circumstances {
                is_port_starting: true,
                ..in_vain
            }),
            (45, WaitReason::BridgePort)
        );
    }

    fn at(millis: u64) -> Instant {
        Instant::from_boot(seconds(1000) + Duration::from_millis(millis))
    }

    #[test]
    fn a_server_that_answers_is_waited_for() {
        let mut wait = Wait::new(Patience::decide(&UNKNOWN), at(0));
        assert_eq!((wait.deadline(), wait.is_answered()), (at(10_000), false));
        wait.note_answer();
        assert_eq!((wait.deadline(), wait.is_answered()), (at(45_000), true));
        assert_eq!(
            wait.patience(),
            Patience {
                time: LONG,
                reason: WaitReason::Answered
            }
        );
    }

    #[test]
    fn a_carrier_that_comes_meanwhile_counts_from_then_on_and_once() {
        let mut wait = Wait::new(Patience::decide(&UNKNOWN), at(0));
        wait.note_carrier(at(1999));
        assert_eq!(
            wait.deadline(),
            at(10_000),
            "the carrier of a new interface"
        );
        wait.note_carrier(at(8000));
        assert_eq!(wait.deadline(), at(53_000));
        wait.note_carrier(at(20_000));
        wait.note_answer();
        assert_eq!(wait.deadline(), at(53_000));
    }

    #[test]
    fn a_time_that_was_told_is_exact() {
        let mut wait = Wait::new(Patience::told(seconds(3)), at(0));
        wait.note_answer();
        wait.note_carrier(at(2500));
        assert_eq!((wait.deadline(), wait.is_answered()), (at(3000), true));
        assert_eq!(wait.patience().to_string(), "");
    }

    #[test]
    fn the_caller_is_told_how_long_and_why() {
        assert_eq!(
            Patience {
                time: Duration::from_millis(5400),
                reason: WaitReason::Unanswered
            }
            .to_string(),
            "; waited 5.4 s, because another acquisition on this network was not answered in the last minute: \
             -t SECONDS sets another time"
        );
        assert!(
            Patience::decide(&UNKNOWN)
                .to_string()
                .starts_with("; waited 10 s, because no DHCP server was heard")
        );
    }
}
