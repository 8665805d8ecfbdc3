//! What can go wrong with a call, by whose fault it is, and what the caller is told.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::dhcp;
use crate::mac::MacError;
use crate::net::netns;
use crate::proxy::patience::Patience;
use crate::rpc::{Code, Status};
use crate::service;
use crate::service::lock::LockError;

/// As much of an error's text as the log gets, in characters.
const LOGGED: usize = 300;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The caller's fault.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The DHCP server's or the network's: no lease in time, or a refusal.
    #[error("{}{}{patience}", why.on(interface), hint(why))]
    NoAnswer {
        /// The container's interface.
        interface: String,
        /// How far it got.
        why: dhcp::AcquireError,
        /// How long that took, and why no longer.
        patience: Patience,
        /// No server has answered.
        is_unanswered: bool,
    },
    /// The container's interface is down: nothing can be sent or heard on it.
    #[error("{0} is down")]
    LinkDown(String),
    /// The daemon was asked to leave while the call was waiting.
    #[error("the daemon is being stopped; call again")]
    Leaving,
    /// The container's: it was removed meanwhile.
    #[error("gave up: {0}")]
    Vanished(String),
    /// A newer call for the same container took over.
    #[error("given up for a newer call for the same container")]
    Superseded,
    /// The kernel's.
    #[error("{doing}: {source}")]
    Fault {
        /// What was being done, and to what.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A call that cannot be served. The texts keep what netavark's users and test suite match.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRequest {
    /// Not six hexadecimal bytes.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// `version` asks for DHCPv6.
    #[error("ipv6 not yet supported")]
    Ipv6,
    /// `version` is no version.
    #[error("invalid protocol version")]
    Version,
    /// `ns_path` is missing.
    #[error("ns_path is empty: the container's network namespace must be given")]
    NoNetns,
    /// `ns_path` does not lead to a network namespace.
    #[error("ns_path: {0}")]
    Netns(netns::NetnsError),
    /// A value that no DHCP option can carry.
    #[error("{field} is too long: at most {limit} bytes fit into a DHCP option")]
    TooLong {
        /// The field of the call.
        field: &'static str,
        /// The most that would fit.
        limit: usize,
    },
    /// An interface that is not there; the text ends as strerror(ENODEV) does.
    #[error("{field} {name:?} in {place}: No such device (os error 19)")]
    NoInterface {
        /// The field of the call.
        field: &'static str,
        /// The name that the caller sent.
        name: String,
        /// Where it was looked for.
        place: &'static str,
    },
    /// The container's interface is another one than the caller thinks.
    #[error("container_iface {interface:?} has the address {has}, not {wanted}")]
    OtherMac {
        /// The interface.
        interface: String,
        /// Its address.
        has: String,
        /// The address that the caller sent.
        wanted: String,
    },
}

impl CallError {
    /// For `map_err`: a system call failed while `doing` something.
    pub(super) fn fault(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Fault { doing, source }
    }

    /// Returns whether the network was asked, and nothing came of it.
    pub(super) fn is_of_network(&self) -> bool {
        matches!(self, Self::NoAnswer { why, .. } if *why != dhcp::AcquireError::NoCarrier)
    }

    /// Returns whether no server gave any answer.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer {
                is_unanswered: true,
                ..
            }
        )
    }

    /// Returns whether the process or the machine had no free descriptor (EMFILE, ENFILE).
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        let Self::Fault { source, .. } = self else {
            return false;
        };
        source
            .raw_os_error()
            .is_some_and(|errno| [libc::EMFILE, libc::ENFILE].contains(&errno))
    }

    /// Notes a failed call in the log. Callers' mistakes are theirs to read; ours are for the
    /// administrator.
    pub(super) fn log(&self, call: &str) {
        let text: String = self.to_string().chars().take(LOGGED).collect();
        match self {
            Self::BadRequest(_) | Self::Superseded | Self::Leaving => {
                log::info!("{call} refused: {text}")
            }
            Self::NoAnswer { .. } | Self::LinkDown(_) | Self::Vanished(_) => {
                log::warn!("{call} failed: {text}")
            }
            Self::Fault { .. } => log::error!("{call} failed: {text}"),
        }
    }
}

/// Returns the option of the command line that helps against a failure, where there is one.
fn hint(why: &dhcp::AcquireError) -> &'static str {
    match why {
        dhcp::AcquireError::InUse { .. } => " (--arp-probe 0 uses it all the same)",
        _ => "",
    }
}

/// A path that leads to no network namespace is the caller's mistake; that we cannot go there is
/// not.
impl From<netns::NetnsError> for CallError {
    fn from(error: netns::NetnsError) -> Self {
        // A path that is too long, goes round in circles, or has a NUL in it leads nowhere, too.
        const NOWHERE: [i32; 5] = [
            libc::ENOENT,
            libc::ENOTDIR,
            libc::ELOOP,
            libc::ENAMETOOLONG,
            libc::EINVAL,
        ];
        match error {
            netns::NetnsError::Open { path, source }
                if !source
                    .raw_os_error()
                    .is_some_and(|errno| NOWHERE.contains(&errno)) =>
            {
                Self::fault(format!("opening {}", path.display()))(source)
            }
            netns::NetnsError::Enter { path, source } => {
                Self::fault(format!("entering {}", path.display()))(source)
            }
            error => BadRequest::Netns(error).into(),
        }
    }
}

impl From<CallError> for Status {
    /// The codes are netavark's: clients print only the message, but scripts may look at the code.
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::BadRequest(_) => Code::InvalidArgument,
            CallError::NoAnswer {
                why: dhcp::AcquireError::Refused { .. },
                ..
            } => Code::NotFound,
            CallError::NoAnswer { .. }
            | CallError::LinkDown(_)
            | CallError::Vanished(_)
            | CallError::Superseded => Code::Aborted,
            CallError::Leaving => Code::Unavailable,
            CallError::Fault { .. } => Code::Internal,
        };
        Status {
            code,
            message: error.to_string(),
        }
    }
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// What the service library says.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// Another instance is at work in the directory, or its lock file is not a file of ours.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// netavark's words.
    #[error(
        "Received more than one FD from systemd: the socket unit must have one ListenStream= and no other"
    )]
    TooManySockets,
    /// There is nothing to make a DUID of.
    #[error(
        "--client-id duid is made of the machine's id, and /etc/machine-id cannot be used: {0}. systemd-machine-id-setup \
         makes one; --client-id mac and container need none"
    )]
    MachineId(String),
    /// The process could not be confined, and was told to be (`--sandbox strict`).
    #[error("--sandbox strict: {0}")]
    Sandbox(io::Error),
    /// The daemon speaks to callers on the same host only.
    #[error("the socket unit hands over a TCP socket: its ListenStream= has to be a path")]
    NotUnix,
}

impl StartError {
    /// Returns whether only the administrator can mend it: another start would fail as this one
    /// did.
    pub(super) fn is_configuration(&self) -> bool {
        match self {
            Self::TooManySockets | Self::NotUnix | Self::MachineId(_) | Self::Sandbox(_) => true,
            Self::Locked(locked) => !locked.is_held(),
            Self::Service(_) => false,
        }
    }
}

impl From<StartError> for Status {
    fn from(error: StartError) -> Self {
        let code = if error.is_configuration() {
            Code::FailedPrecondition
        } else {
            Code::Unavailable
        };
        Status {
            code,
            message: error.to_string(),
        }
    }
}

/// The reason why this process must not use the directory.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) lock: PathBuf,
    pub(crate) why: LockError,
}

impl Locked {
    /// Returns whether another process holds the lock, which it may let go of.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.why, LockError::Held(_))
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lock, why) = (self.lock.display(), &self.why);
        match why {
            LockError::Held(_) => write!(
                f,
                "{} is in use by another instance: {why}, {lock}. Two in one directory would take each other's leases: \
                 stop that one, or give this one a directory of its own with --dir",
                self.lock.parent().unwrap_or(Path::new(".")).display()
            ),
            _ => write!(
                f,
                "{lock} cannot lock its directory: {why}. Remove it, or give another directory with --dir"
            ),
        }
    }
}

impl std::error::Error for Locked {}
