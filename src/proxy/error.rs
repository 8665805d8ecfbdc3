//! Errors of calls and of the start, sorted by fault, with their texts for callers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::dhcp;
use crate::mac::MacError;
use crate::net::netns;
use crate::proxy::acquire_timeout::AcquireTimeout;
use crate::rpc::{Code, Status};
use crate::service;
use crate::service::lock::LockError;

/// The most characters of a text that a caller can influence in one log line.
const MAX_LOGGED: usize = 300;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The caller's fault.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The fault of the server or the network: no lease in time, or a refusal.
    #[error("{}{}{timeout}", why.on(interface), hint(why))]
    NoAnswer {
        interface: String,
        /// The progress until then.
        why: dhcp::AcquireError,
        /// The time limit, and its reason.
        timeout: AcquireTimeout,
        /// No server has sent any answer.
        is_unanswered: bool,
    },
    /// The container's interface is down.
    #[error("{0} is down")]
    LinkDown(String),
    /// The daemon received a signal to stop.
    #[error("the daemon is being stopped; call again")]
    Stopping,
    /// The container was removed meanwhile.
    #[error("gave up: {0}")]
    Vanished(String),
    /// A newer call for the same container has arrived.
    #[error("superseded by a newer call for the same container")]
    Superseded,
    /// A system call failed.
    #[error("{doing}: {source}")]
    Fault {
        /// The operation and its object.
        doing: String,
        source: io::Error,
    },
}

/// A call that cannot be served. netavark's users and its test suite match these texts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error(transparent)]
    Mac(#[from] MacError),
    /// `version` asks for DHCPv6.
    #[error("ipv6 not yet supported")]
    Ipv6,
    /// `version` is unknown.
    #[error("invalid protocol version")]
    Version,
    /// `ns_path` is missing.
    #[error("ns_path is empty: the container's network namespace must be given")]
    NoNetns,
    /// `ns_path` does not lead to a network namespace.
    #[error("ns_path: {0}")]
    Netns(netns::NetnsError),
    /// A value that does not fit into a DHCP option.
    #[error("{field} is too long: at most {limit} bytes fit into a DHCP option")]
    TooLong {
        /// The field of the call.
        field: &'static str,
        /// In bytes.
        limit: usize,
    },
    /// An interface that does not exist. The text ends like that of strerror(ENODEV).
    #[error("{field} {name:?} in {place}: No such device (os error 19)")]
    NoInterface {
        /// The field of the call.
        field: &'static str,
        name: String,
        /// The namespace that was searched.
        place: &'static str,
    },
    /// The interface has another MAC than the caller says.
    #[error("container_iface {interface:?} has the address {has}, not {wanted}")]
    OtherMac {
        interface: String,
        has: String,
        wanted: String,
    },
}

impl CallError {
    /// Returns a function for `map_err`: a system call failed while `doing` something.
    pub(super) fn fault(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Fault { doing, source }
    }

    /// Returns whether messages were sent and no lease came of them.
    pub(super) fn is_network_failure(&self) -> bool {
        matches!(self, Self::NoAnswer { why, .. } if *why != dhcp::AcquireError::NoCarrier)
    }

    /// Returns whether no server sent any answer.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer {
                is_unanswered: true,
                ..
            }
        )
    }

    /// Returns whether the process or the system has no free descriptor (EMFILE, ENFILE).
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        let Self::Fault { source, .. } = self else {
            return false;
        };
        source
            .raw_os_error()
            .is_some_and(|errno| [libc::EMFILE, libc::ENFILE].contains(&errno))
    }

    /// Logs a failed call, with `prefix` and text cut to [`MAX_LOGGED`]: as an error where this
    /// host is at fault, as a warning where the network is.
    pub(super) fn log(&self, prefix: &str, call: &str) {
        let cut = |text: &str| text.chars().take(MAX_LOGGED).collect::<String>();
        let (prefix, text) = (cut(prefix), cut(&self.to_string()));
        match self {
            Self::BadRequest(_) | Self::Superseded | Self::Stopping => {
                log::info!("{prefix}: {call} refused: {text}");
            }
            Self::Vanished(_) => log::info!("{prefix}: {call} failed: {text}"),
            Self::NoAnswer { .. } | Self::LinkDown(_) => {
                log::warn!("{prefix}: {call} failed: {text}");
            }
            Self::Fault { .. } => log::error!("{prefix}: {call} failed: {text}"),
        }
    }
}

/// Returns the command line option that avoids a failure, if there is one.
fn hint(why: &dhcp::AcquireError) -> &'static str {
    match why {
        dhcp::AcquireError::InUse { .. } => " (--arp-probe 0 uses it all the same)",
        _ => "",
    }
}

/// A path that leads to no network namespace is the caller's fault; a failure to open or enter one
/// is the host's.
impl From<netns::NetnsError> for CallError {
    fn from(error: netns::NetnsError) -> Self {
        // ENAMETOOLONG, ELOOP, and EINVAL for a NUL: such a path leads nowhere, either.
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
    /// The codes are those of netavark's proxy: its client prints the message only, but scripts may
    /// check the code.
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
            CallError::Stopping => Code::Unavailable,
            CallError::Fault { .. } => Code::Internal,
        };
        Status {
            code,
            message: error.to_string(),
        }
    }
}

/// A failed start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Service(#[from] service::Error),
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The text begins as that of netavark's proxy does.
    #[error(
        "Received more than one FD from systemd: the socket unit must have one ListenStream= and no \
         other"
    )]
    TooManySockets,
    /// There is no machine id to derive a DUID from.
    #[error(
        "--client-id duid needs the machine id, and /etc/machine-id cannot be used: {0}. Create one \
         with systemd-machine-id-setup, or choose --client-id mac or container"
    )]
    MachineId(String),
    /// The sandbox is incomplete, and `--sandbox strict` forbids that.
    #[error("--sandbox strict: {0}")]
    Sandbox(io::Error),
    /// Callers on other hosts are not served.
    #[error("the socket unit hands over a TCP socket: its ListenStream= has to be a path")]
    NotUnix,
}

impl StartError {
    /// Returns whether a restart would fail in the same way until the administrator acts.
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

/// The state directory cannot be used: another instance holds its lock, or the lock file is not
/// safe.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) lock: PathBuf,
    pub(crate) why: LockError,
}

impl Locked {
    /// Returns whether another process holds the lock, and may release it.
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
                "{} is in use by another instance: {why}, {lock}. Stop that one, or give this one \
                 another directory with --dir",
                self.lock.parent().unwrap_or(Path::new(".")).display()
            ),
            _ => write!(
                f,
                "{lock} cannot lock its directory: {why}. Remove it, or give another directory with \
                 --dir"
            ),
        }
    }
}

impl std::error::Error for Locked {}
