//! A listening socket, built on [`Watched`].

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixListener;
use std::task::{Context, Poll, ready};

use super::{Stream, Watched, socket, stream};

/// A listening stream socket of any address family.
#[derive(Debug)]
pub struct Listener {
    socket: Watched<UnixListener>,
    /// False after an accept(2) that found the backlog empty, until the reactor reports the next
    /// connection. So a connection that waits already is taken without a look at the sockets.
    ready: Cell<bool>,
}

impl Listener {
    /// Adopts a listening socket, blocking or not.
    ///
    /// systemd hands over blocking sockets, and [`Watched::new`] sets O_NONBLOCK. Without it the
    /// accept4(2) after the last connection hangs, and with it the only thread: none of its timers
    /// ever fires again.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Ok(Self {
            socket: Watched::new(listener)?,
            ready: Cell::new(true),
        })
    }

    /// Takes the next connection, or wakes the task of `context` when there may be one.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            if !self.ready.get() {
                ready!(self.socket.poll_readable(context))?;
            }
            let accepted = self.try_accept().transpose();
            self.ready.set(accepted.is_some());
            if let Some(accepted) = accepted {
                return Poll::Ready(accepted);
            }
        }
    }

    /// Takes a connection from the backlog; returns `None` where it is empty.
    ///
    /// This asks the kernel. The last event of the reactor would be too old for a service that is
    /// about to exit.
    pub fn try_accept(&self) -> io::Result<Option<Stream>> {
        socket::accept(self.socket.get_ref())?
            .map(stream)
            .transpose()
    }

    /// Refuses all further connections; those in the backlog can still be taken.
    ///
    /// This holds for all processes that share the socket, so it must not be used on a socket that
    /// systemd holds too.
    pub fn refuse(&self) -> io::Result<()> {
        socket::refuse(self.socket.get_ref())
    }
}
