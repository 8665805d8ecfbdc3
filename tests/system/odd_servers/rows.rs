//! One row of the table: a server's habits, and what a container has to get from it all the same.

use std::net::Ipv4Addr;

use crate::lab::odd_server::arp::{Claim, Question};
use crate::lab::odd_server::reply::Reply;
use crate::lab::odd_server::{Request, Script};
use crate::lab::topology::SERVER;

/// An oddity.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) script: Script,
    /// netavark's container gets no address.
    pub(super) is_better: bool,
    /// Neither container gets one.
    pub(super) is_served_by_none: bool,
    /// The containers had a lease before the network got other addresses.
    pub(super) renumbered: bool,
    pub(super) arguments: &'static [&'static str],
    /// The domain that the caller names.
    pub(super) domain: &'static str,
    pub(super) wanted: Wanted,
    pub(super) then: Then,
}

/// The expected result of our container.
pub(super) struct Wanted {
    pub(super) prefix: u8,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) domain: &'static str,
    /// The DNS servers; not looked at where there are none.
    pub(super) dns: Option<&'static [&'static str]>,
    /// An address that it must not get.
    pub(super) not: Option<Ipv4Addr>,
    /// Words in the log.
    pub(super) log: Option<&'static str>,
}

/// The expected state after the answer to Setup.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Nothing,
    /// The link is as it was once the client has stopped to listen.
    Stays,
    /// The container has an address once the client has stopped to listen, be it another one.
    Settles,
    /// The link is as it was after two renewals.
    IsRenewed,
    /// The lease is lost at its renewal, and there is another one.
    StartsOver,
}

impl Row {
    /// An honest server.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            script: Script::default(),
            is_better: false,
            is_served_by_none: false,
            renumbered: false,
            arguments: &[],
            domain: "",
            wanted: Wanted {
                prefix: 16,
                router: Some(SERVER),
                domain: "lab.example",
                dns: Some(&["10.88.0.1"]),
                not: None,
                log: None,
            },
            then: Then::Nothing,
        }
    }

    pub(super) fn hears(mut self, hears: fn(&Request) -> bool) -> Self {
        self.script.hears = hears;
        self
    }

    pub(super) fn answers(mut self, answers: fn(&Request, &mut Reply)) -> Self {
        self.script.answers = answers;
        self
    }

    pub(super) fn claims(mut self, claims: fn(&Question) -> Option<Claim>) -> Self {
        self.script.claims = claims;
        self
    }

    pub(super) fn expects(mut self, change: fn(&mut Wanted)) -> Self {
        change(&mut self.wanted);
        self
    }

    pub(super) fn better(self) -> Self {
        Self {
            is_better: true,
            ..self
        }
    }

    pub(super) fn served_by_none(self) -> Self {
        Self {
            is_served_by_none: true,
            ..self
        }
    }

    pub(super) fn renumbered(self) -> Self {
        Self {
            renumbered: true,
            ..self
        }
    }

    pub(super) fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    pub(super) fn in_domain(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    pub(super) fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}
