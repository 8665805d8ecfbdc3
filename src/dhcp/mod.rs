//! A DHCPv4 client (RFC 2131) as a pure state machine. It opens no socket, reads no clock and draws
//! no random numbers: the caller passes frames and the time in, and takes frames, events and a
//! deadline out.
//!
//! # How to drive a [`Client`]
//!
//! Its methods are of four kinds.
//!
//! - **Commands** begin and end the work. [`Client::new`], [`Client::reboot`] and
//!   [`Client::resume`] make a client in INIT, in INIT-REBOOT, and from a [`Snapshot`].
//!   [`Client::extend_deadline`], [`Client::mark_in_use`] and [`Client::release`] tell it what its
//!   caller needs.
//! - **Inputs** report what happened: [`Client::handle_packet`] a frame, [`Client::handle_timeout`]
//!   the passing of the deadline, [`Client::handle_carrier`] and [`Client::handle_mtu`] a change of
//!   the interface.
//! - **Outputs** are polled: [`Client::poll_transmit`] for messages to send, [`Client::poll_event`]
//!   for changes of the lease, [`Client::poll_timeout`] for the next deadline.
//! - **Getters** change nothing: [`Client::lease`], [`Client::state`], [`Client::is_listening`],
//!   [`Client::arp_address`], [`Client::suspend`] and others.
//!
//! After each command and each input, do the following in this order.
//!
//! 1. Call [`Client::poll_transmit`] until it returns `None`, and send each message. A message that
//!    cannot be sent counts as lost: the client retransmits it.
//! 2. Call [`Client::poll_event`] until it returns `None`, and apply each event to the interface.
//!    [`Event::Released`] and [`Event::GaveUp`] are the last.
//! 3. Set one timer to [`Client::poll_timeout`], and keep a socket open as long as
//!    [`Client::is_listening`]. Then wait for the timer, a frame, or news of the carrier.
//!
//! Messages and events may also be polled in turn, but the RELEASE must be sent before
//! [`Event::Released`] takes the address off the interface. `now` must not run backwards, and must
//! come from a clock that counts the time in suspend.
//!
//! ```
//! use smol_dhcp_proxy::dhcp::{Client, Config, Transmit};
//! use smol_dhcp_proxy::mac::Mac;
//! use smol_dhcp_proxy::time::Instant;
//! use std::time::Duration;
//!
//! let mac = Mac([0x02, 0, 0, 0, 0, 1]);
//! let now = Instant::from_boot(Duration::from_secs(100));
//! let mut client = Client::new(Config::new(mac, b"\0container".to_vec()), 7, now);
//!
//! let mut out = Vec::new();
//! while let Some(transmit) = client.poll_transmit(&mut out) {
//!     assert_eq!(transmit, Transmit::Frame); // the DISCOVER in `out`, for a packet socket
//! }
//! while let Some(event) = client.poll_event() {
//!     unreachable!("{event:?} before any reply");
//! }
//! let deadline = client.poll_timeout(); // then call handle_timeout
//! assert!(deadline > Some(now));
//! ```
//!
//! Between two exchanges no client is needed: [`Client::suspend`] returns a snapshot, which can be
//! stored in a file. [`Client::resume`] makes a client of it at [`Snapshot::due`].
//!
//! # Files
//!
//! Each file imports only from those below it.
//!
//! | file | contents |
//! |---|---|
//! | `client/timeout.rs` | the deadline of each state, and the action at it |
//! | `client/receive.rs` | DHCP replies, by the state in which they arrive |
//! | `client/conflict.rs` | ARP claims of other stations to the address, and its defence |
//! | `client/resume.rs` | from a client to its snapshot and back |
//! | `client/transitions.rs`, `client/probe.rs` | the transitions between the states of RFC 2131 figure 5, and their ARP packets |
//! | `client/listening.rs` | how long a state needs a socket |
//! | `client.rs` | the client: construction, inputs, outputs |
//! | `client/state.rs`, `client/claim.rs` | the states, and the claims of other stations |
//! | `discovery.rs` | the search for servers that takes no lease |
//! | `snapshot.rs` | the part of a client that outlives it between exchanges |
//! | `exchange.rs` | the exchange and the search under way |
//! | `event.rs`, `acquire_error.rs` | the outputs, and the failures of an acquisition |
//! | `lease.rs` | the content and the times of a DHCPACK |
//! | `message.rs` | DHCP messages |
//! | `config.rs` | the settings |
//! | `frame.rs`, `ignored.rs` | Ethernet, ARP, IPv4 and UDP around a message; the reasons to ignore a frame |
//! | `plainness.rs` | the options that a message leaves out for servers that do not answer them |
//! | `tally.rs` | counts of what has happened |
//! | `option.rs`, `name.rs`, `subnet.rs` | options, names, and addresses with their masks and routes |
//! | `message_rate.rs`, `backoff.rs` | the limit on messages in an hour; the delays of retransmissions |

#![deny(clippy::wildcard_enum_match_arm)]

mod acquire_error;
mod backoff;
mod client;
mod config;
mod discovery;
mod event;
mod exchange;
mod frame;
mod ignored;
mod lease;
mod message;
mod message_rate;
mod name;
mod option;
mod plainness;
mod snapshot;
mod subnet;
mod tally;

pub use acquire_error::AcquireError;
pub use client::Client;
pub use config::{Config, Probe};
pub(crate) use discovery::{
    Delivery, DiscoverForm, Discovery, DiscoverySettings, Offer, OfferingServer, ReplyFault,
};
pub use event::{Event, LossReason, Transmit};
pub use frame::frame;
pub use ignored::Ignored;
pub use lease::{Lease, Unusable};
pub use plainness::Plainness;
pub use snapshot::{Phase, Snapshot};
pub use subnet::{StaticRoute, is_host_address};
pub use tally::Tally;
