//! The time limit of an acquisition: long where waiting can help, otherwise short.
//!
//! Podman holds one lock for the whole host while a Setup waits: `podman network ls`, and each
//! start of a container on another network, wait with it.

use std::fmt;
use std::time::Duration;

use crate::time::Instant;

/// Longer than a switch port with spanning tree drops frames after it comes up: 30 s.
const LONG: Duration = Duration::from_secs(45);
/// Enough for a server that pings an address before it offers it, and for a lost frame or two.
const USUAL: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(5);

/// The ages up to which a boot, a carrier, an answer and an unanswered acquisition count. A switch
/// that boots together with the host takes some minutes.
const BOOT: Duration = Duration::from_secs(180);
const CARRIER: Duration = Duration::from_secs(60);
const SERVER: Duration = Duration::from_secs(120);
const UNANSWERED: Duration = Duration::from_secs(60);
/// The kernel reports the carrier of a new interface up to a second after it was set up. This is
/// not a change.
const SETTLING: Duration = Duration::from_secs(2);

/// The state of a network at the start of an acquisition. Each time is an age; `None` for an event
/// that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Circumstances {
    pub(super) since_boot: Duration,
    /// A new carrier of the parent was seen.
    pub(super) carrier: Option<Duration>,
    /// A port of the bridge to the network is listening or learning (IEEE 802.1D).
    pub(super) is_port_starting: bool,
    /// A DHCP server answered.
    pub(super) server: Option<Duration>,
    /// An acquisition on this parent ended without any answer.
    pub(super) unanswered: Option<Duration>,
}

/// The reason for a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutReason {
    /// `-t SECONDS`.
    Option,
    BridgePort,
    Unanswered,
    ServerHeard,
    Boot,
    Carrier,
    /// The carrier came up during the acquisition.
    CarrierMeanwhile,
    /// A server answered during the acquisition.
    Answered,
    Usual,
}

/// The time limit of an acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AcquireTimeout {
    pub(super) duration: Duration,
    pub(super) reason: TimeoutReason,
}

impl TimeoutReason {
    /// Returns whether a switch port may drop frames for a while.
    pub(super) fn is_of_port(self) -> bool {
        matches!(
            self,
            Self::BridgePort | Self::Boot | Self::Carrier | Self::CarrierMeanwhile
        )
    }
}

impl AcquireTimeout {
    /// Returns the limit of `-t SECONDS`.
    pub(super) fn exactly(duration: Duration) -> Self {
        Self {
            duration,
            reason: TimeoutReason::Option,
        }
    }

    /// Returns the limit of `-t auto`.
    pub(super) fn decide(network: &Circumstances) -> Self {
        let is_recent = |age: Option<Duration>, limit| age.is_some_and(|age| age < limit);
        // A carrier or an answer that came after the unanswered acquisition promises success.
        let change = network.carrier.into_iter().chain(network.server).min();
        let unanswered = network
            .unanswered
            .filter(|age| change.is_none_or(|change| *age <= change));
        let (duration, reason) = if network.is_port_starting {
            // A shorter one could not succeed.
            (LONG, TimeoutReason::BridgePort)
        } else if is_recent(unanswered, UNANSWERED) {
            (SHORT, TimeoutReason::Unanswered)
        } else if is_recent(network.server, SERVER) {
            (LONG, TimeoutReason::ServerHeard)
        } else if network.since_boot < BOOT {
            (LONG, TimeoutReason::Boot)
        } else if is_recent(network.carrier, CARRIER) {
            (LONG, TimeoutReason::Carrier)
        } else {
            (USUAL, TimeoutReason::Usual)
        };
        Self { duration, reason }
    }
}

/// The end of a failed Setup's text; empty with `-t SECONDS`.
impl fmt::Display for AcquireTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            TimeoutReason::Option => return Ok(()),
            TimeoutReason::BridgePort => "a port of the bridge was listening or learning",
            TimeoutReason::Unanswered => {
                "another acquisition on this network was not answered in the last minute"
            }
            TimeoutReason::ServerHeard => {
                "a DHCP server was heard on this network in the last two minutes"
            }
            TimeoutReason::Boot => "the host has booted in the last three minutes",
            TimeoutReason::Carrier => "the host's interface has a new carrier",
            TimeoutReason::CarrierMeanwhile => "the carrier came meanwhile",
            TimeoutReason::Answered => "a DHCP server answered",
            TimeoutReason::Usual => {
                "no DHCP server was heard on this network of late, and its carrier is not new"
            }
        };
        let (seconds, tenths) = (self.duration.as_secs(), self.duration.subsec_millis() / 100);
        write!(f, "; waited {seconds}")?;
        if tenths > 0 {
            write!(f, ".{tenths}")?;
        }
        write!(f, " s, because {why}: -t SECONDS sets another time")
    }
}

/// The deadline of an acquisition in progress.
#[derive(Debug)]
pub(super) struct AcquireDeadline {
    since: Instant,
    timeout: AcquireTimeout,
    is_answered: bool,
}

impl AcquireDeadline {
    pub(super) fn new(timeout: AcquireTimeout, now: Instant) -> Self {
        Self {
            since: now,
            timeout,
            is_answered: false,
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.since + self.timeout.duration
    }

    pub(super) fn timeout(&self) -> AcquireTimeout {
        self.timeout
    }

    /// Returns whether a server has answered.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Records an answer: with a server present, lost frames and slow servers are worth a long
    /// wait.
    pub(super) fn record_answer(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.extend(LONG, TimeoutReason::Answered);
        }
    }

    /// Records that the carrier came up: a switch port may drop frames from now on. It counts once,
    /// because an interface may lose its carrier at any rate.
    pub(super) fn record_carrier(&mut self, now: Instant) {
        let waited = now - self.since;
        if waited >= SETTLING && self.timeout.reason != TimeoutReason::CarrierMeanwhile {
            self.extend(waited + LONG, TimeoutReason::CarrierMeanwhile);
        }
    }

    fn extend(&mut self, duration: Duration, reason: TimeoutReason) {
        if self.timeout.reason != TimeoutReason::Option && duration > self.timeout.duration {
            self.timeout = AcquireTimeout { duration, reason };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A network without history, on a host that booted long ago.
    const UNKNOWN: Circumstances = Circumstances {
        since_boot: seconds(86_400),
        carrier: None,
        is_port_starting: false,
        server: None,
        unanswered: None,
    };

    fn decided(network: Circumstances) -> (u64, TimeoutReason) {
        let AcquireTimeout { duration, reason } = AcquireTimeout::decide(&network);
        (duration.as_secs(), reason)
    }

    fn ago(age: u64) -> Option<Duration> {
        Some(seconds(age))
    }

    #[test]
    fn a_network_of_which_nothing_is_known_gets_the_usual_time() {
        assert_eq!(decided(UNKNOWN), (10, TimeoutReason::Usual));
    }

    #[test]
    fn what_time_can_mend_gets_more_of_it() {
        for (network, reason, is_long) in [
            (
                Circumstances {
                    since_boot: seconds(179),
                    ..UNKNOWN
                },
                TimeoutReason::Boot,
                true,
            ),
            (
                Circumstances {
                    since_boot: seconds(180),
                    ..UNKNOWN
                },
                TimeoutReason::Usual,
                false,
            ),
            (
                Circumstances {
                    carrier: ago(0),
                    ..UNKNOWN
                },
                TimeoutReason::Carrier,
                true,
            ),
            (
                Circumstances {
                    carrier: ago(59),
                    ..UNKNOWN
                },
                TimeoutReason::Carrier,
                true,
            ),
            (
                Circumstances {
                    carrier: ago(60),
                    ..UNKNOWN
                },
                TimeoutReason::Usual,
                false,
            ),
            (
                Circumstances {
                    server: ago(119),
                    ..UNKNOWN
                },
                TimeoutReason::ServerHeard,
                true,
            ),
            (
                Circumstances {
                    server: ago(120),
                    ..UNKNOWN
                },
                TimeoutReason::Usual,
                false,
            ),
            (
                Circumstances {
                    is_port_starting: true,
                    ..UNKNOWN
                },
                TimeoutReason::BridgePort,
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
            (0, (5, TimeoutReason::Unanswered)),
            (59, (5, TimeoutReason::Unanswered)),
            (60, (10, TimeoutReason::Usual)),
        ] {
            assert_eq!(
                decided(Circumstances {
                    unanswered: ago(age),
                    ..UNKNOWN
                }),
                expected
            );
        }
        // Also where an earlier acquisition had reason to be long.
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
            (5, TimeoutReason::Unanswered)
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
            (45, TimeoutReason::Carrier)
        );
        assert_eq!(
            decided(Circumstances {
                carrier: ago(20),
                ..in_vain
            }),
            (5, TimeoutReason::Unanswered)
        );
        assert_eq!(
            decided(Circumstances {
                server: ago(19),
                ..in_vain
            }),
            (45, TimeoutReason::ServerHeard)
        );
        assert_eq!(
            decided(Circumstances {
                server: ago(21),
                ..in_vain
            }),
            (5, TimeoutReason::Unanswered)
        );
        assert_eq!(
            decided(Circumstances {
                is_port_starting: true,
                ..in_vain
            }),
            (45, TimeoutReason::BridgePort)
        );
    }

    fn at(millis: u64) -> Instant {
        Instant::from_boot(seconds(1000) + Duration::from_millis(millis))
    }

    #[test]
    fn a_server_that_answers_is_waited_for() {
        let mut deadline = AcquireDeadline::new(AcquireTimeout::decide(&UNKNOWN), at(0));
        assert_eq!((deadline.at(), deadline.is_answered()), (at(10_000), false));
        deadline.record_answer();
        assert_eq!((deadline.at(), deadline.is_answered()), (at(45_000), true));
        assert_eq!(
            deadline.timeout(),
            AcquireTimeout {
                duration: LONG,
                reason: TimeoutReason::Answered
            }
        );
    }

    #[test]
    fn a_carrier_that_comes_meanwhile_counts_from_then_on_and_once() {
        let mut deadline = AcquireDeadline::new(AcquireTimeout::decide(&UNKNOWN), at(0));
        deadline.record_carrier(at(1999));
        assert_eq!(deadline.at(), at(10_000), "the carrier of a new interface");
        deadline.record_carrier(at(8000));
        assert_eq!(deadline.at(), at(53_000));
        deadline.record_carrier(at(20_000));
        deadline.record_answer();
        assert_eq!(deadline.at(), at(53_000));
    }

    #[test]
    fn a_time_that_was_told_is_exact() {
        let mut deadline = AcquireDeadline::new(AcquireTimeout::exactly(seconds(3)), at(0));
        deadline.record_answer();
        deadline.record_carrier(at(2500));
        assert_eq!((deadline.at(), deadline.is_answered()), (at(3000), true));
        assert_eq!(deadline.timeout().to_string(), "");
    }

    #[test]
    fn the_caller_is_told_how_long_and_why() {
        assert_eq!(
            AcquireTimeout {
                duration: Duration::from_millis(5400),
                reason: TimeoutReason::Unanswered
            }
            .to_string(),
            "; waited 5.4 s, because another acquisition on this network was not answered in the last minute: \
             -t SECONDS sets another time"
        );
        assert!(
            AcquireTimeout::decide(&UNKNOWN)
                .to_string()
                .starts_with("; waited 10 s, because no DHCP server was heard")
        );
    }
}
