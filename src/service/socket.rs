//! Listening sockets and their origins: systemd, this library, or the program.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use super::socket_file::SocketFile;

/// A listening stream socket: handed over by systemd ([`listen_fds`](super::activation::listen_fds)),
/// created by [`bind`](fn@super::bind), or opened by the program.
///
/// The origin decides what happens at the end of the service:
///
/// | origin | at the end |
/// |---|---|
/// | systemd | stays open in systemd; the next instance serves the backlog |
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
    /// Dropped before `listener`: the file is unlinked while its inode number cannot be reused.
    origin: Origin,
    listener: AnyListener,
}

/// The listener of a [`Socket`]. It may be in blocking mode; serving it sets O_NONBLOCK.
///
/// ```
/// use smol_dhcp_proxy::service::{AnyListener, Socket};
///
/// let socket = Socket::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// let address = match socket.listener() {
///     AnyListener::Unix(listener) => format!("{:?}", listener.local_addr()?),
///     AnyListener::Tcp(listener) => listener.local_addr()?.to_string(),
///     _ => "another family".to_owned(),
/// };
/// assert!(address.starts_with("127.0.0.1:"));
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyListener {
    /// `ListenStream=` with a path or an abstract name.
    Unix(UnixListener),
    /// `ListenStream=` with a port or an IP address.
    Tcp(TcpListener),
}

/// The origin of a socket.
#[derive(Debug)]
pub(super) enum Origin {
    /// Opened by systemd, which holds it too.
    Activated,
    /// Opened by [`bind`](fn@super::bind).
    Bound(SocketFile),
    /// Opened by the program. Other processes may share it, so it is never shut down.
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

    /// Returns the name from LISTEN_FDNAMES: `FileDescriptorName=` of the socket unit, which is the
    /// unit's own name by default, or `unknown` without that variable. The name of a socket that
    /// systemd did not open is empty.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::{Service, activation};
    ///
    /// let sockets = activation::listen_fds()?.into_iter();
    /// let service = Service::on(sockets.filter(|socket| socket.name() == "echo.socket"));
    /// # Ok::<(), smol_dhcp_proxy::service::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the listener, for its address or its options. [`AnyListener`] has an example.
    pub fn listener(&self) -> &AnyListener {
        &self.listener
    }

    /// Returns whether systemd, or another program in its place, opened the socket.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Socket;
    /// let socket = Socket::from(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// assert!(!socket.is_activated());
    /// # std::io::Result::Ok(())
    /// ```
    pub fn is_activated(&self) -> bool {
        matches!(self.origin, Origin::Activated)
    }

    pub(super) fn into_parts(self) -> (Origin, AnyListener) {
        (self.origin, self.listener)
    }
}

/// Takes a socket that the program opened. Its file is not removed.
impl From<UnixListener> for Socket {
    fn from(listener: UnixListener) -> Self {
        Self::own(AnyListener::Unix(listener))
    }
}

/// Takes a socket that the program opened.
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
