//! The errors of a rtnetlink request.

use std::fmt;
use std::io;

use netlink_packet_core::DecodeError;

/// The error of a request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// An error of the system, with the kernel's text if it sent one.
    #[error("{source}{}", Explanation(explanation.as_deref()))]
    System {
        /// The errno, or an error for a malformed answer.
        source: io::Error,
        /// The text of netlink's extended acknowledgement.
        explanation: Option<String>,
    },
    /// The namespace holds more objects than a request reads. Its owner has to remove some.
    #[error("more than {most} {what}")]
    TooMany {
        /// The name of the objects, in the plural.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// The text that follows an errno.
struct Explanation<'a>(Option<&'a str>);

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl NetlinkError {
    /// Returns the errno, if the kernel sent one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            Self::TooMany { .. } => None,
        }
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::System { source, .. } => source.kind(),
            Self::TooMany { .. } => io::ErrorKind::QuotaExceeded,
        }
    }

    /// Converts to an [`io::Error`] with the same errno or text.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::System {
                source,
                explanation: None,
            } => source,
            explained => io::Error::new(explained.kind(), explained.to_string()),
        }
    }

    /// Returns the kernel's text beside the errno (netlink's extended acknowledgement).
    pub fn explanation(&self) -> Option<&str> {
        match self {
            Self::System { explanation, .. } => explanation.as_deref(),
            Self::TooMany { .. } => None,
        }
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self::System {
            source,
            explanation: None,
        }
    }
}

impl From<rustix::io::Errno> for NetlinkError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<DecodeError> for NetlinkError {
    fn from(error: DecodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string()).into()
    }
}

/// Returns the error for a malformed answer.
pub(super) fn invalid(what: &str) -> NetlinkError {
    io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink: {what}")).into()
}
