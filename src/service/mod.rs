//! Services that systemd starts by their socket, and that exit when idle.
//!
//! systemd hands over its listening socket as descriptor 3, and that socket is in *blocking* mode. A
//! runtime that adopts it unchanged, as tokio's `UnixListener::from_std` does, serves the first
//! connection and then hangs in accept4(2). Its only thread waits in the kernel, so no timer fires,
//! not even the idle timeout, and the process never exits. This library adopts the descriptor with a
//! runtime that sets O_NONBLOCK itself. It adds the rest of such a service: idle exit, graceful
//! shutdown, limits on connections, and the messages to systemd. It knows no protocol: a handler
//! gets a connected stream. A complete echo service:
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
//! # Units
//!
//! `systemctl enable --now echo.socket` starts listening. systemd finds the service unit by its name:
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
//! Keep `Accept=no`, the default: one process serves all connections. All sockets of several
//! `ListenStream=` lines are served, TCP ports included. Without systemd, the same program creates
//! its socket itself.
//!
//! # The parts of systemd and of this library
//!
//! | systemd | this library |
//! |---|---|
//! | listens, and keeps the backlog while no process runs | adopts the socket ([`activation`]): checks that it is for this process and that it is a listening stream socket; makes it close-on-exec and non-blocking |
//! | starts the service when a connection waits | accepts within [`Limits`], and runs one handler for each connection |
//! | | exits after the idle timeout ([`idle`]) |
//! | queues the next start while the process stops | sends `READY=1`, `STOPPING=1` and `WATCHDOG=1` ([`notify`]) |
//! | sends SIGTERM | drains: accepts no new connections, and gives the open ones a bounded time ([`Shutdown`]) |
//! | starts the service by a timer | arms that timer ([`Wakeup`]) |
//! | | creates the socket where none is handed over, replaces a stale one, and removes it at the end ([`bind`](fn@bind)); excludes a second instance ([`lock`]) |
//!
//! # The race at the exit
//!
//! A connection may arrive at the moment when the service decides to exit. If it is *not accepted*,
//! it is safe where systemd listens: it stays in the backlog and starts the next instance. If it is
//! *accepted and dropped*, it is lost. So the service never accepts after that decision, and never
//! exits after an accept. When the idle timeout is over, it looks at the backlog once more. If a
//! connection waits there, the service accepts it and goes on; if not, it returns without an await
//! in between. Then it sends `STOPPING=1`, and systemd waits for the end of the process before it
//! starts the next instance.
//!
//! Where the service listens itself, it first unlinks its socket and refuses new connections, and
//! then looks at the backlog once more. A socket of the program's own ([`Socket::from`]) cannot
//! refuse connections: a connection between this look and the end of the process is reset.
//!
//! # Other crates
//!
//! Each of these adopts inherited descriptors, for programs with an accept loop of their own. As of
//! the versions named:
//!
//! | | `LISTEN_PID` | `LISTEN_PIDFDID` | close-on-exec | type check | O_NONBLOCK | idle exit |
//! |---|---|---|---|---|---|---|
//! | listenfd 1.0.2 | if it is set | no | yes | type, not whether it listens | no | no |
//! | listen-fds 0.1.0 | yes | yes | yes | no | no | no |
//! | sd-notify 0.5.0 | yes | no | yes | no | no | no |
//! | tokio-listener 0.5.2 | yes | no | no | by the configured address | yes | no |
//! | this library | yes | yes | yes | yes | yes | yes |
//!
//! listenfd also adopts UDP sockets, and has a protocol for Windows. sd-notify covers more of
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
