//! The errors of a start.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The longest path of a socket address (unix(7): `sun_path` has 108 bytes, of which the last one
/// ends the string).
pub(super) const LONGEST_PATH: usize = 107;

/// An error that makes a start impossible.
///
/// Both [`Display`](fmt::Display) and [`Debug`](fmt::Debug) print a sentence for the administrator,
/// so that `main` can return the error:
///
/// ```
/// use smol_dhcp_proxy::service::Error;
///
/// let error = Error::InUse("/run/echo.sock".into());
/// let text = "/run/echo.sock is in use: another process listens on it";
/// assert_eq!((error.to_string(), format!("{error:?}")), (text.into(), text.into()));
/// ```
#[non_exhaustive]
pub enum Error {
    /// A variable of the activation protocol is malformed.
    #[non_exhaustive]
    Environment {
        /// The name of the variable.
        variable: &'static str,
        /// The value of the variable.
        value: String,
        /// The valid values.
        expected: &'static str,
    },
    /// An inherited descriptor is not a listening stream socket.
    #[non_exhaustive]
    Descriptor {
        /// The number of the descriptor.
        fd: RawFd,
        /// The kind of the descriptor, such as `a pipe`.
        is: String,
    },
    /// This process has adopted the inherited descriptors before.
    Taken,
    /// Another process listens on the path.
    InUse(PathBuf),
    /// The path names a file of another kind.
    NotASocket(PathBuf),
    /// The path is longer than a socket address allows (unix(7)).
    PathTooLong(PathBuf),
    /// A system call failed.
    #[non_exhaustive]
    Io {
        /// The operation that failed.
        doing: String,
        /// The error of the kernel.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment {
                variable,
                value,
                expected,
            } => {
                write!(f, "{variable} is {value:?}, expected {expected}")
            }
            Self::Descriptor { fd, is } => {
                write!(
                    f,
                    "descriptor {fd} is {is}, expected a listening stream socket (Unix or TCP)"
                )
            }
            Self::Taken => write!(
                f,
                "the inherited sockets were adopted before by this process"
            ),
            Self::InUse(path) => write!(
                f,
                "{} is in use: another process listens on it",
                path.display()
            ),
            Self::NotASocket(path) => write!(
                f,
                "{} exists and is not a socket: it stays as it is",
                path.display()
            ),
            Self::PathTooLong(path) => write!(
                f,
                "{} has {} bytes, and a socket address holds {} at most",
                path.display(),
                path.as_os_str().len(),
                LONGEST_PATH
            ),
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
        }
    }
}

/// Prints the text of [`Display`](fmt::Display), because `main` prints a returned error by this
/// trait.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
