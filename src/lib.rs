//! smol-dhcp-proxy

#![warn(clippy::unwrap_used)]

pub mod rt;
pub mod service;
pub mod time;

#[cfg(feature = "proxy")]
pub mod dhcp;
#[cfg(feature = "proxy")]
pub mod net;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod rpc;
