//! Why a request of rtnetlink fails.

use std::fmt;
use std::io;

use netlink_packet_core::DecodeError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The system's error, with the kernel's own words where it has any.
    #[error("{source}{}", Explanation(explanation.as_deref()))]
    System {
        /// The errno, or that an answer makes no sense.
        source: io::Error,
        /// The text of netlink's extended acknowledgement.
        explanation: Option<String>,
    },
    /// The namespace holds more of something than is read of it. The owner of the namespace has to
    /// remove some.
    #[error("more than {most} {what}")]
    TooMany {
        /// The plural of what there is too much of.
        what: &'static str,
        /// The most that is read.
        most: usize,
    },
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// Words behind an errno.
struct Explanation<'a>(Option<&'a str>);

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl NetlinkError {
    /// Returns the errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            Self::TooMany { .. } => None,
        }
    }

    /// Returns the kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::System { source, .. } => source.kind(),
            Self::TooMany { .. } => io::ErrorKind::QuotaExceeded,
        }
    }

    /// Converts to the system's error, for callers that want its errno or its text alone.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::System {
                source,
                explanation: None,
            } => source,
            explained => io::Error::new(explained.kind(), explained.to_string()),
        }
    }

    /// Returns the kernel's words beside the errno (netlink's extended acknowledgement).
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

/// Returns the error for an answer that makes no sense.
pub(super) fn invalid(what: &str) -> NetlinkError {
    io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink: {what}")).into()
}
