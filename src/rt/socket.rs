//! System calls on stream sockets that no runtime offers.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

/// Takes the next connection from a backlog, non-blocking. Returns `None` if the backlog is empty.
pub(super) fn accept(listener: impl AsFd) -> io::Result<Option<UnixStream>> {
    // std would take a second system call to set O_NONBLOCK.
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(stream) => Ok(Some(stream.into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes connect(2) to a listening socket fail with ECONNREFUSED; its backlog stays.
pub(super) fn refuse(listener: impl AsFd) -> io::Result<()> {
    Ok(shutdown(listener, Shutdown::Read)?)
}

/// Returns whether the peer has closed a stream, even where bytes are left to read.
pub(super) fn has_hung_up(stream: impl AsFd) -> bool {
    let mut watched = [PollFd::new(&stream, PollFlags::empty())];
    // The only possible error is EBADF, which an open `stream` excludes.
    poll(&mut watched, Some(&Timespec::default())).is_ok()
        && watched[0].revents().contains(PollFlags::HUP)
}
