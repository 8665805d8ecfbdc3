//! The listening sockets while they are served: accept, the last look before the exit, close.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::task::Poll;

use super::socket::Origin;
use super::{Socket, bind};
use crate::rt::{Listener, Stream};

/// A listening socket that is being served.
pub(super) struct ListeningSocket {
    /// `None` after a socket of [`bind`](fn@bind) was closed and its file was removed.
    origin: Option<Origin>,
    listener: Listener,
}

impl ListeningSocket {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        let (origin, listener) = socket.into_parts();
        // One type for all stream sockets: accept(2), read(2) and write(2) do not depend on the
        // address family.
        let listener = UnixListener::from(OwnedFd::from(listener));
        Ok(Self {
            origin: Some(origin),
            listener: Listener::new(listener)?,
        })
    }

    /// Takes a connection from the backlog.
    fn take(&self) -> Option<Stream> {
        self.listener.try_accept().unwrap_or_else(|error| {
            log::debug!("cannot read the backlog: {error}");
            None
        })
    }

    /// Stops listening as far as the origin allows, and returns the backlog.
    pub(super) fn close(&mut self) -> Vec<Stream> {
        match self.origin {
            // The next instance serves the backlog.
            Some(Origin::Activated) => return Vec::new(),
            // A shutdown(2) would end the socket for all processes that share it.
            Some(Origin::Own) => {}
            Some(Origin::Bound(_)) | None => {
                self.origin = None;
                if let Err(error) = self.listener.refuse() {
                    log::warn!("cannot stop listening: {error}");
                }
            }
        }
        // Bounded, because clients can still connect to a socket of the program's own.
        std::iter::from_fn(|| self.take())
            .take(MAX_BACKLOG)
            .collect()
    }

    fn bound_path(&self) -> Option<PathBuf> {
        match &self.origin {
            Some(Origin::Bound(file)) => Some(file.path().to_owned()),
            Some(Origin::Activated | Origin::Own) | None => None,
        }
    }
}

/// The most connections that are taken from one backlog at the end: the kernel's default limit
/// (net.core.somaxconn).
const MAX_BACKLOG: usize = 4096;

/// Waits for the next connection at any of `sockets`.
pub(super) async fn accept(sockets: &[ListeningSocket]) -> io::Result<Stream> {
    poll_fn(|context| {
        let arrival = sockets
            .iter()
            .map(|socket| socket.listener.poll_accept(context))
            .find(Poll::is_ready);
        arrival.unwrap_or(Poll::Pending)
    })
    .await
}

/// Returns the connections that wait in the backlogs. If there are none, the sockets of
/// [`bind`](fn@bind) are closed after that, and no connection to them or to systemd's can be lost.
pub(super) fn last_look(sockets: &mut Vec<ListeningSocket>) -> Vec<Stream> {
    let waiting: Vec<_> = sockets.iter().filter_map(ListeningSocket::take).collect();
    if !waiting.is_empty() {
        return waiting;
    }
    let paths: Vec<_> = sockets
        .iter()
        .filter_map(ListeningSocket::bound_path)
        .collect();
    let late: Vec<_> = sockets
        .iter_mut()
        .flat_map(ListeningSocket::close)
        .collect();
    if !late.is_empty() {
        // These connections arrived between the two looks and keep the service running, so it
        // listens again.
        sockets.retain(|socket| socket.origin.is_some());
        for path in paths {
            match bind(&path)
                .map_err(io::Error::other)
                .and_then(ListeningSocket::new)
            {
                Ok(socket) => sockets.push(socket),
                Err(error) => log::error!(
                    "cannot bind {} again: {error}; accepting no new connections",
                    path.display()
                ),
            }
        }
    }
    late
}
