//! Services that a socket starts and that leave when nothing is left to do.
//!
//! systemd (or a stand-in) listens and starts the service when somebody calls; the service takes
//! the listening socket over, works, and leaves after a quiet time; what arrives later starts it
//! again. Nobody notices. This module knows nothing of any protocol: it hands out connections. A
//! whole service:
//!
//! ```no_run
//! use std::time::Duration;
//! use smol_dhcp_proxy::service::{self, Config, Connection, Error};
//!
//! fn main() -> Result<(), Error> {
//!     let config = Config { idle: Some(Duration::from_secs(10)), ..Config::new("/run/echo.sock") };
//!     service::run(config, |Connection { stream, activity, .. }| async move {
//!         let _ = futures_lite::io::copy(stream.clone(), stream).await;
//!         drop(activity);
//!     })?;
//!     Ok(())
//! }
//! ```
//!
//! The parts, for services that need more than [`run`]: [`activation`] takes over what systemd
//! opened and [`bind`](fn@bind) opens a socket where there is no systemd; [`idle`] says when it is
//! time to go; [`serve`](fn@serve) accepts until then, within [`Limits`]; [`Prepare`] is asked
//! before, and [`Wakeup`] brings the service back later; [`notify`] keeps systemd informed;
//! [`lock`] keeps a second instance out.

pub mod activation;
mod bind;
mod error;
pub mod idle;
mod limit;
pub mod lock;
pub mod notify;
mod serve;
mod trim;
mod wakeup;

use std::path::PathBuf;
use std::time::Duration;

pub use activation::Socket;
pub use bind::{bind, make_directory};
pub use error::Error;
pub use idle::{Activity, Idle, State};
pub use limit::{InFlight, Limits, Requests};
pub use notify::Notify;
pub use serve::{Closing, Connection, Options, Prepare, Reason, serve};
pub use wakeup::{NoWakeup, Wakeup};

use crate::rt;

/// What [`run`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen when nobody hands a socket over.
    pub path: PathBuf,
    /// How long to stay with nothing to do; none means for ever. Ten seconds at first.
    pub idle: Option<Duration>,
    /// How long connections may go on after a signal. [`Options::DRAIN`] at first.
    pub drain: Duration,
}

impl Config {
    /// A service on `path`, with the times named above.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            idle: Some(Duration::from_secs(10)),
            drain: Options::DRAIN,
        }
    }
}

/// Runs a service on this thread from its first connection to its last, and returns why it left.
///
/// The listening sockets are those that systemd handed over, else one that is bound to
/// `config.path` and removed again at the end. `handler` makes the future that serves one
/// connection; see [`serve`](fn@serve) for the rules of leaving.
///
/// Call it first thing in `main`: inherited descriptors are only safe to adopt before the process
/// opens its own.
///
/// # Errors
///
/// A start that cannot succeed is explained by [`Error`]; what happens to single connections is no
/// error of the service.
pub fn run<F>(config: Config, handler: impl Fn(Connection) -> F + 'static) -> Result<Reason, Error>
where
    F: Future<Output = ()> + 'static,
{
    let mut sockets = activation::listen_fds()?;
    let options = Options::new(Idle::new(config.idle))
        .map_err(|source| Error::io("cannot catch signals", source))?;
    let options = Options {
        drain: config.drain,
        ..options
    };
    if sockets.is_empty() {
        sockets.push(bind(&config.path)?);
    }
    rt::block_on(async move |runtime| serve(&runtime, sockets, options, handler).await)
        .map_err(|source| Error::io("cannot serve", source))
}
