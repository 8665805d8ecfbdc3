//! Services that a socket starts and that leave when idle.
//!
//! systemd hands over its listening socket as descriptor 3, and the socket *blocks*. A runtime that
//! adopts it as it is, as tokio's `UnixListener::from_std` does, serves the first connection and then
//! hangs in accept4(2): its one thread sits in the kernel, so that no timer fires, the idle timeout
//! least of all, and the process never leaves. This library adopts the descriptor into a runtime that
//! sets O_NONBLOCK itself, and adds what else belongs to such a service. It knows no protocol: it
//! hands out connections. A whole service that echoes:
//!
//! ```
//! use std::time::Duration;
//! use smol_dhcp_proxy::service::{Connection, Error, Service};
//!
//! fn main() -> Result<(), Error> {
//! #   let path = std::env::temp_dir().join(format!("echo-{}.sock", std::process::id()));
//! #   /*
//!     let path = "/run/echo.sock";
//! #   */
//!     Service::new(path)
//!         .idle_timeout(Duration::from_millis(500))
//!         .run(|Connection { stream, .. }| async move {
//!             let _ = futures_lite::io::copy(stream.clone(), stream).await;
//!         })?;
//!     Ok(())
//! }
//! ```
//!
//! Its units, of which `systemctl enable --now echo.socket` needs the first and finds the second:
//!
//! ```ini
//! # /etc/systemd/system/echo.socket
//! [Socket]
//! ListenStream=/run/echo.sock
//! SocketMode=0660
//! [Install]
//! WantedBy=sockets.target
//!
//! # /etc/systemd/system/echo.service
//! [Service]
//! Type=notify
//! ExecStart=/usr/local/bin/echo
//! ```
//!
//! `Accept=no`, the default, is meant: one process serves all connections. Several `ListenStream=`
//! lines are all served, TCP ports among them. Without systemd the same program makes its socket
//! itself.
//!
//! # The parts of systemd and of this library
//!
//! | systemd | this library |
//! |---|---|
//! | listens, and keeps the backlog while no process runs | adopts the socket ([`activation`]): checks that it is meant for this process, and that it is a listening stream socket; makes it close-on-exec and non-blocking |
//! | starts the service when a connection waits | accepts within [`Limits`], and runs one handler for each connection |
//! | | leaves when nothing was left to do for the idle timeout ([`idle`]) |
//! | queues the next start while the process stops | says READY, STOPPING and WATCHDOG ([`notify`]) |
//! | sends SIGTERM | drains: no new connections, a bounded time for those that are open ([`Shutdown`]) |
//! | starts the service by a timer | arms that timer ([`Wakeup`]) |
//! | | where nothing is handed over, makes the socket itself, replaces a stale one, and removes it at the end ([`bind`](fn@bind)); keeps a second instance out ([`lock`]) |
//!
//! # The race at the exit
//!
//! A connection may arrive at the moment at which the service decides to leave. If it was *not
//! accepted*, it is safe where systemd listens: it stays in the backlog and starts the next instance.
//! If it was *accepted and dropped*, it is lost. So the service never accepts after it has decided,
//! and never leaves after it has accepted: when the idle timeout is over it looks at the backlog
//! once more, serves what is there, and otherwise returns without any await in between. Then it says
//! `STOPPING=1`, upon which systemd waits for the end before it starts the next instance. Where
//! the service listens itself, it unlinks its socket first, refuses new connections, and then looks
//! once more. A socket of the program's own ([`Socket::from`]) cannot be refused: a connection
//! between this look and its end is reset.
//!
//! # Crates for parts of this
//!
//! Each of these takes over inherited descriptors, for programs that bring an accept loop of their
//! own. As of the versions named:
//!
//! | | `LISTEN_PID` | `LISTEN_PIDFDID` | close-on-exec | type check | O_NONBLOCK | idle exit |
//! |---|---|---|---|---|---|---|
//! | listenfd 1.0.2 | where it is set | no | yes | type, not whether it listens | no | no |
//! | listen-fds 0.1.0 | yes | yes | yes | no | no | no |
//! | sd-notify 0.5.0 | yes | no | yes | no | no | no |
//! | tokio-listener 0.5.2 | yes | no | no | by the configured address | yes | no |
//! | this library | yes | yes | yes | yes | yes | yes |
//!
//! listenfd also takes UDP sockets, and has a protocol for Windows. sd-notify speaks more of
//! sd_notify(3). tokio-listener takes TCP, Unix and inetd-style sockets by one address option, for
//! hyper, axum and tonic.

pub mod activation;
mod bind;
mod builder;
mod connection;
mod error;
mod hook;
pub mod idle;
mod latch;
mod limit;
mod listening;
pub mod lock;
pub mod notify;
mod serve;
mod socket;
mod socket_file;
mod trim;
mod wakeup;

pub use bind::{bind, make_directory};
pub use builder::Service;
pub use connection::{Connection, KeepAlive};
pub use error::Error;
pub use hook::Reason;
pub use idle::{Activity, Idle, IdleState};
pub use latch::Shutdown;
pub use limit::{InFlight, Limits, Requests};
pub use notify::Notify;
pub use socket::{AnyListener, Socket};
pub use wakeup::{NoWakeup, TransientProgram, Wakeup};

pub use crate::rt::{Signal, Stream};
