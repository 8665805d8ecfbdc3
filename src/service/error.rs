//! Why a service cannot start, in words for whoever started it.

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// A start that cannot succeed, by whose fault it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The one who started us set a variable of the activation protocol to something that has no
    /// meaning.
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// An inherited descriptor is not a listening Unix stream socket.
    Descriptor {
        /// Its number.
        fd: RawFd,
        /// What it is instead.
        is: String,
    },
    /// The inherited descriptors already have an owner in this process.
    Taken,
    /// A living process listens on the path.
    InUse(PathBuf),
    /// Something that is not a socket has the path.
    NotASocket(PathBuf),
    /// The path does not fit into a socket address (unix(7)).
    PathTooLong(PathBuf),
    /// A system call failed.
    Io {
        /// What was tried.
        doing: String,
        /// What the kernel said.
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
                    "descriptor {fd} is {is}, expected a listening Unix stream socket"
                )
            }
            Self::Taken => write!(
                f,
                "the inherited sockets were already taken over by this process"
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
                super::bind::LONGEST_PATH
            ),
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
        }
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
