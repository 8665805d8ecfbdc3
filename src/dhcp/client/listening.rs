//! The time for which the client needs an open socket.

use super::Client;
use super::state::State;
use crate::time::Instant;
use std::time::Duration;

/// The time to listen after the last message, without a caller's deadline.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for which a state listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    No,
    /// Until [`Client::stop_listening_at`].
    Until,
    /// For as long as the state lasts.
    Yes,
}

impl Client {
    /// Returns whether a socket must be open: a message is ready, or an answer may arrive.
    ///
    /// Without a caller's deadline this ends 10 s after the last message or, without a carrier,
    /// 10 s after its loss. A later answer is accepted if a socket is still open. After a claim to
    /// the address in use, the client listens for 10 s.
    pub fn is_listening(&self) -> bool {
        let listening = match self.listening() {
            Listening::No => false,
            Listening::Until => self.stop_listening_at.is_some(),
            Listening::Yes => true,
        };
        listening || !self.outbox.is_empty() || self.defence().is_some()
    }

    /// Returns how long the state listens.
    pub(super) fn listening(&self) -> Listening {
        let (patient, carrier) = (self.search.deadline.is_none(), self.carrier);
        match &self.state {
            // A message waits for the carrier, so its return must be noticed.
            State::Init { .. } | State::InitReboot { .. } if carrier => Listening::No,
            State::Init { .. } | State::InitReboot { .. } if patient => Listening::Until,
            State::Init { .. } | State::InitReboot { .. } => Listening::Yes,
            // The REQUEST for the offer follows within 100 ms.
            State::Selecting {
                second_best: Some(_),
                ..
            } if carrier => Listening::Yes,
            State::Selecting { .. } if patient => Listening::Until,
            State::Requesting { .. } | State::Rebooting { .. } | State::Probing { .. }
                if patient && !carrier =>
            {
                Listening::Until
            }
            State::Selecting { .. }
            | State::Requesting { .. }
            | State::Rebooting { .. }
            | State::Probing { .. } => Listening::Yes,
            State::Bound { watch: None, .. } => Listening::No,
            State::Bound { .. } if !carrier => Listening::Until,
            State::Bound { .. } | State::Releasing { .. } => Listening::Yes,
            State::Renewing { .. } | State::Rebinding { .. } => Listening::Until,
            State::Stopped => Listening::No,
        }
    }

    /// Starts to listen for an answer or for the carrier.
    pub(super) fn start_listening(&mut self, now: Instant) {
        self.stop_listening_at = Some(now + ANSWER_TIMEOUT);
    }

    /// Stops listening without an answer or a carrier. The exchange under way starts again, on
    /// sockets that are opened for its next message.
    pub(super) fn stop_listening(&mut self, now: Instant) {
        self.stop_listening_at = None;
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Selecting { exchange, .. } => State::Init { at: exchange.next },
            State::Requesting { .. } => State::Init { at: now },
            State::Rebooting { address, .. } => State::InitReboot { at: now, address },
            // Acknowledged on a network that is gone, and never used.
            State::Probing { lease, .. } => State::InitReboot {
                at: now,
                address: lease.address,
            },
            State::Bound { held, .. } => State::Bound { held, watch: None },
            state @ (State::Init { .. }
            | State::InitReboot { .. }
            | State::Renewing { .. }
            | State::Rebinding { .. }
            | State::Releasing { .. }
            | State::Stopped) => state,
        };
    }
}
