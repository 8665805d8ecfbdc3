//! Listening sockets before they are served, by origin: handed over, bound here, or brought along.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::socket_file::SocketFile;

/// A listening stream socket: handed over by systemd ([`listen_fds`](super::activation::listen_fds)),
/// made by [`bind`](fn@super::bind), or one of the program's own.
///
/// The origin decides what happens at the end of the service:
///
/// | origin | at the end |
/// |---|---|
/// | systemd | stays open in systemd; the backlog is served by the next instance |
/// | `bind` | the file is unlinked, new connections are refused, the backlog is served |
/// | `From` | the backlog is served, then the descriptor is closed; a connection in between is reset |
///
/// ```
/// use smol_dhcp_proxy::service::{AnyListener, Socket};
///
/// let socket = Socket::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// assert!(matches!(socket.listener(), AnyListener::Tcp(_)));
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Socket {
    name: String,
    /// Before `listener`: a file must be unlinked while its inode number cannot be reused.
    origin: Origin,
    listener: AnyListener,
}

/// The listener of a [`Socket`], blocking or not as it came; serving sets O_NONBLOCK.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyListener {
    /// `ListenStream=` with a path or an abstract name.
    Unix(UnixListener),
    /// `ListenStream=` with a port or an IP address.
    Tcp(TcpListener),
}

/// The party that opened a socket.
#[derive(Debug)]
pub(super) enum Origin {
    /// systemd, which holds it too.
    Activated,
    /// [`bind`](fn@super::bind).
    Bound(SocketFile),
    /// The program. Other processes may share it, so it is never shut down.
    Own,
}

impl Socket {
    pub(super) fn activated(name: String, listener: AnyListener) -> Self {
        Self {
            name,
            origin: Origin::Activated,
            listener,
        }
    }

    pub(super) fn bound(file: SocketFile, listener: UnixListener) -> Self {
        Self {
            name: String::new(),
            origin: Origin::Bound(file),
            listener: AnyListener::Unix(listener),
        }
    }

    fn own(listener: AnyListener) -> Self {
        Self {
            name: String::new(),
            origin: Origin::Own,
            listener,
        }
    }

    /// Returns the name from LISTEN_FDNAMES: `FileDescriptorName=` of the socket unit, by default
    /// the unit's own name, and `unknown` where the variable is missing. Empty for sockets that
    /// systemd did not open.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the listener.
    pub fn listener(&self) -> &AnyListener {
        &self.listener
    }

    /// Returns whether systemd, or another program in its place, opened the socket.
    pub fn is_activated(&self) -> bool {
        matches!(self.origin, Origin::Activated)
    }

    /// Returns whether a connection waits to be accepted.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::Socket;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let socket = Socket::from(listener);
    /// assert!(!socket.has_connection());
    /// let _connection = std::net::TcpStream::connect(address)?;
    /// assert!(socket.has_connection());
    /// # std::io::Result::Ok(())
    /// ```
    pub fn has_connection(&self) -> bool {
        let descriptor = match &self.listener {
            AnyListener::Unix(listener) => listener.as_fd(),
            AnyListener::Tcp(listener) => listener.as_fd(),
        };
        let mut poll_fd = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        poll(&mut poll_fd, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    pub(super) fn into_parts(self) -> (Origin, AnyListener) {
        (self.origin, self.listener)
    }
}

/// A socket that the program opened itself. Its file, if any, is not removed.
impl From<UnixListener> for Socket {
    fn from(listener: UnixListener) -> Self {
        Self::own(AnyListener::Unix(listener))
    }
}

/// A socket that the program opened itself.
impl From<TcpListener> for Socket {
    fn from(listener: TcpListener) -> Self {
        Self::own(AnyListener::Tcp(listener))
    }
}

impl From<AnyListener> for OwnedFd {
    fn from(listener: AnyListener) -> Self {
        match listener {
            AnyListener::Unix(listener) => listener.into(),
            AnyListener::Tcp(listener) => listener.into(),
        }
    }
}
