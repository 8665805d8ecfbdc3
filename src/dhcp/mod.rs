//! A DHCPv4 client (RFC 2131) as a pure state machine: frames and the time go in, frames, events
//! and deadlines come out.
//!
//! Nothing here opens a socket, reads a clock or rolls dice: the caller brings all three. After
//! every input (the beginning by [`Client::new`], [`Client::reboot`] or [`Client::resume`],
//! [`Client::handle_packet`], [`Client::handle_timeout`], [`Client::handle_carrier`],
//! [`Client::release`]) drain the outputs:
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
//!     assert_eq!(transmit, Transmit::Frame); // a DISCOVER: send `out` on the packet socket
//! }
//! while let Some(event) = client.poll_event() {
//!     unreachable!("{event:?} before any answer"); // apply it to the link
//! }
//! let wake = client.poll_timeout(); // then call handle_timeout; a frame before that goes to handle_packet
//! assert!(wake > Some(now));
//! ```
//!
//! Between two exchanges the client itself is not needed: [`Client::suspend`] returns a snapshot,
//! which can be kept in a file, and at [`Snapshot::due`] [`Client::resume`] makes a client that
//! continues from it.
//!
//! Each file imports only from those below it:
//!
//! | file | contents |
//! |---|---|
//! | `client/timeout.rs` | what is due, and when, in each state |
//! | `client/receive.rs` | DHCP replies, by the state that they arrive in |
//! | `client/conflict.rs` | ARP claims of other stations to the address, and its defence |
//! | `client/resume.rs` | from a client to its snapshot and back |
//! | `client/transitions.rs`, `client/probe.rs` | the transitions between the states of RFC 2131 figure 5, and the ARP that goes with them |
//! | `client/listening.rs` | how long a state needs the network |
//! | `client.rs` | the client: construction, inputs, outputs |
//! | `client/state.rs`, `client/claim.rs` | the states, and the claims that they remember |
//! | `snapshot.rs` | what outlives the client while nothing is in flight |
//! | `exchange.rs` | the exchange and the search under way |
//! | `event.rs`, `acquire_error.rs` | the outputs, and the failures of an acquisition |
//! | `lease.rs` | the content and the times of a DHCPACK |
//! | `message.rs` | DHCP messages |
//! | `config.rs` | the settings |
//! | `frame.rs`, `ignored.rs` | Ethernet, ARP, IPv4 and UDP around a message; why a frame is ignored |
//! | `plainness.rs` | the options that a message leaves out, for servers that do not like them |
//! | `option.rs`, `name.rs`, `subnet.rs` | options, names, and addresses with their masks and routes |
//! | `message_rate.rs`, `backoff.rs` | the limit on messages in an hour; the delays of retransmissions |

#![deny(clippy::wildcard_enum_match_arm)]

mod acquire_error;
mod backoff;
mod client;
mod config;
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

pub use acquire_error::AcquireError;
pub use client::Client;
pub use config::{Config, Probe};
pub use event::{Event, LossReason, Transmit};
pub use frame::frame;
pub use ignored::Ignored;
pub use lease::{Lease, Unusable};
pub use plainness::Plainness;
pub use snapshot::{Phase, Snapshot};
pub use subnet::{StaticRoute, is_host_address};
