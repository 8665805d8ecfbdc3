//! Failures of an acquisition, with texts for the user.

use crate::mac::Mac;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How far an acquisition got that came to nothing, and with how much effort (RFC 2131 §4.1). Its
/// text is made for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireError {
    /// The interface had no carrier, so no message could be sent.
    NoCarrier,
    /// No server offered anything.
    NoOffer {
        /// For how long.
        within: Duration,
        /// How many DISCOVERs were sent.
        discovers: u32,
    },
    /// Servers offered what no lease can come of.
    UnusableOffer {
        /// The last of them.
        server: Ipv4Addr,
        /// What is wrong with its OFFER, as in "without an address".
        fault: &'static str,
        /// How many OFFERs there were.
        offers: u32,
    },
    /// A server offered an address, and then did not confirm it.
    NoAck {
        /// The offered address.
        address: Ipv4Addr,
        /// The server that offered it.
        server: Ipv4Addr,
    },
    /// A server answered the request with DHCPNAK.
    Refused {
        /// The server.
        server: Ipv4Addr,
        /// The server's message (option 56), control characters replaced.
        message: Option<String>,
    },
    /// The address that a server gave is another station's.
    InUse {
        /// The address.
        address: Ipv4Addr,
        /// The server that gave it.
        server: Ipv4Addr,
        /// The station that has it.
        by: Mac,
    },
}

impl AcquireError {
    /// Its text with the name of the interface, where that says more.
    pub fn on(&self, interface: &str) -> String {
        self.text(&format!(" on {interface}"))
    }

    fn text(&self, on: &str) -> String {
        match self {
            Self::NoCarrier => format!("no carrier{on}"),
            Self::NoOffer { within, discovers } => {
                let plural = if *discovers == 1 { "" } else { "s" };
                let (seconds, millis) = (within.as_secs(), within.subsec_millis());
                let fraction = if millis == 0 {
                    String::new()
                } else {
                    format!(".{millis:03}")
                };
                format!(
                    "no DHCPOFFER within {seconds}{fraction} s ({discovers} DISCOVER{plural} sent{on})"
                )
            }
            Self::UnusableOffer {
                server,
                fault,
                offers,
            } => {
                let plural = if *offers == 1 { "" } else { "s" };
                format!("{offers} OFFER{plural} from {server} {fault}")
            }
            Self::NoAck { address, server } => {
                format!("offer of {address} from {server} but no DHCPACK")
            }
            Self::Refused {
                server,
                message: None,
            } => format!("refused by {server}"),
            Self::Refused {
                server,
                message: Some(message),
            } => format!("refused by {server}: {message}"),
            Self::InUse {
                address,
                server,
                by,
            } => {
                format!("offer of {address} from {server}, but {by} uses that address")
            }
        }
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(""))
    }
}
