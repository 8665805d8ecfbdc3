//! A laboratory: real networks in namespaces of our own, a DHCP server, and the daemon started as
//! systemd would.
//!
//! Shared by `tests/system` and `examples/demo.rs`. Nothing here needs another program, but for
//! [`real_server`] and [`peer`], which skip where they are not installed. Whatever is started is
//! ended when its value is dropped.
#![allow(dead_code, unreachable_pub, reason = "each user takes a part of it")]

use std::error::Error;
use std::fmt;
use std::time::Duration;

use smol_dhcp_proxy::rt;

pub mod attacker;
#[path = "../simulation/chance.rs"]
pub mod chance;
pub mod daemon;
pub mod dhcp_server;
pub mod forwarder;
pub mod frames;
pub mod grpc;
pub mod links;
pub mod load;
pub mod namespace;
pub mod odd_server;
pub mod packets;
pub mod peer;
pub mod prober;
pub mod program;
pub mod real_server;
pub mod route_news;
pub mod sandbox;
pub mod scene;
pub mod server_thread;
pub mod stage;
pub mod topology;
pub mod tracer;

/// Errors are texts for the report; only [`Skip`] is told from the others.
pub type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The error of a trial that cannot run here.
#[derive(Debug)]
pub enum Skip {
    /// A part is missing that could be here. Where SMOL_DHCP_PROXY_REQUIRE=1 says that all parts
    /// are, it is a failure.
    Lacking(String),
    /// This machine or this user cannot do it, whatever is installed.
    Impossible(String),
}

impl Skip {
    /// The reason, where a trial that ended with `error` counts as skipped.
    pub fn reason<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a str> {
        match error.downcast_ref()? {
            Self::Lacking(_) if std::env::var_os("SMOL_DHCP_PROXY_REQUIRE").is_some() => None,
            Self::Lacking(reason) | Self::Impossible(reason) => Some(reason),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lacking(reason) | Self::Impossible(reason)) = self;
        f.write_str(reason)
    }
}

impl Error for Skip {}

/// Asks `probe` again and again until it has an answer; fails when `within` has passed.
///
/// For what happens in another process or in the kernel and announces itself nowhere.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = rt::now() + within;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if rt::now() >= deadline {
            return Err(format!("not within {within:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
