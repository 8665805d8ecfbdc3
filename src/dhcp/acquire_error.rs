//! Failures of an acquisition, with texts for the user.

use crate::mac::Mac;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The reason why an acquisition failed: how far it got, and after how many messages
/// (RFC 2131 §4.1). `Display` is a text for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireError {
    /// The interface had no carrier, so no message could be sent.
    NoCarrier,
    /// No server offered anything.
    NoOffer {
        /// The time of the search.
        within: Duration,
        /// The number of DISCOVERs.
        discovers: u32,
    },
    /// All OFFERs were unusable.
    UnusableOffer {
        /// The server of the last one.
        server: Ipv4Addr,
        /// The fault of the last one, as in "without an address".
        fault: &'static str,
        /// The number of OFFERs.
        offers: u32,
    },
    /// A server offered an address, and did not answer the REQUEST.
    NoAck {
        /// The offered address.
        address: Ipv4Addr,
        /// The server that offered it.
        server: Ipv4Addr,
    },
    /// A server answered the REQUEST with a DHCPNAK.
    Refused {
        /// The server.
        server: Ipv4Addr,
        /// The server's message (option 56) without control characters.
        message: Option<String>,
    },
    /// Another station uses the address that a server leased.
    InUse {
        /// The address.
        address: Ipv4Addr,
        /// The server that leased it.
        server: Ipv4Addr,
        /// The other station.
        by: Mac,
    },
}

impl AcquireError {
    /// Returns the text with the name of the interface, if that matters.
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
