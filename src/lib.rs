//! A library for services that a socket starts and that exit when idle, and a daemon built on it.
//!
//! The library is [`service`]. It adopts the listening socket that systemd hands over, serves
//! connections, drains at SIGTERM, and exits when nothing was left to do for a while, without
//! losing a connection. A whole service that echoes:
//!
//! ```no_run
//! use smol_dhcp_proxy::service::{Connection, Error, Service};
//!
//! fn main() -> Result<(), Error> {
//!     let echo = |Connection { stream, .. }: Connection| async move {
//!         let _ = futures_lite::io::copy(stream.clone(), stream).await;
//!     };
//!     Service::new("/run/echo.sock").run(echo)?;
//!     Ok(())
//! }
//! ```
//!
//! The daemon, `smol-dhcp-proxy`, gets DHCP leases for Podman's containers in the place of
//! `netavark dhcp-proxy`. Its installation is in README.md, its options are in smol-dhcp-proxy(8),
//! and the module `proxy` explains how it works.
//!
//! # The map
//!
//! | module | what it is | pure |
//! |---|---|---|
//! | [`time`] | instants on the boot clock | yes |
//! | `mac`, `rate` | an Ethernet address; a token bucket | yes |
//! | [`rt`] | the runtime: one executor thread on smol and async-io, named in `rt.rs` alone; built on it in `rt/` and naming none: timer, listener, clocks, boot-time sleepers, signals, child processes | |
//! | [`service`] | the library: activation, idle exit, the accept loop, notification; knows nothing of DHCP | `idle` |
//! | `dhcp` | the RFC 2131 client and its wire format | yes |
//! | `rpc` | gRPC over a Unix stream | `wire`, `status` |
//! | `net` | network namespaces, rtnetlink, packet and UDP sockets | |
//! | `security` | a page: what each party is trusted with, and the worst it can do | |
//! | `operator` | the sub-commands for operators, such as `status` | `text` |
//! | `proxy` | the daemon: joins all of the above | `config`, `key`, `acquire_timeout`, `call::request`, `call::reply`, `table::plan` |
//!
//! Pure means: no sockets, files, threads, environment, clocks or randomness; time and chance are
//! arguments.
//!
//! Only `operator` and `proxy` know more than one of `service`, `dhcp`, `rpc` and `net`, which never import each
//! other; `service`, `rpc` and `net` may use `rt`, and everything may use `time`, `mac` and `rate`.
//! Without the feature `proxy` (`--no-default-features`) the crate is [`service`], on smol, async-io,
//! async-net, futures-lite, event-listener and log, with rustix for system calls and signal-hook
//! for signals.

#![warn(clippy::unwrap_used)]

#[cfg_attr(feature = "tokio-twin", path = "../benches/twin/rt.rs")]
pub mod rt;
pub mod service;
pub mod time;

#[cfg(feature = "proxy")]
pub mod dhcp;
#[cfg(feature = "proxy")]
pub mod mac;
#[cfg(feature = "proxy")]
pub mod net;
#[cfg(feature = "proxy")]
pub mod operator;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod rate;
#[cfg(feature = "proxy")]
pub mod rpc;

/// Trust: callers, containers, networks, files, and the worst that each can do.
#[doc = ""]
#[doc = include_str!("security.md")]
#[cfg(feature = "proxy")]
pub mod security {}

/// The Rust of README.md, for the compiler.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
