//! Calls to the daemon, and what to do where there is no answer.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::proxy::config::{RUN_DIR, SOCKET_NAME};
use crate::rpc::client::{self, ClientError};
use crate::rpc::{Call, Code, Reply, Status};
use crate::rt;
use crate::time::Instant;

use super::arguments::Failure;

/// The longest wait for a place in the backlog of the socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time after which progress is shown.
const PROGRESS_DELAY: Duration = Duration::from_secs(1);

/// Makes a call to the daemon whose socket is in `directory`, and starts it where systemd does that.
/// While it takes, `doing` is shown. A warning of the daemon's goes to standard error.
pub(super) fn call(
    directory: &Path,
    call: &Call,
    timeout: Duration,
    doing: &str,
) -> Result<Reply, Failure> {
    let callee = Callee {
        socket: directory.join(SOCKET_NAME),
        is_usual: directory == Path::new(RUN_DIR),
    };
    let start = rt::now();
    let stream = client::connect(&callee.socket, CONNECT_TIMEOUT.min(timeout))
        .map_err(|error| callee.not_connected(&error))?;
    let mut line = WaitingLine::new(doing, start);
    let answer = client::call(&stream, call, start + timeout, || line.show());
    drop(line);
    let answer = answer.map_err(|error| callee.not_answered(error, timeout))?;
    if let Some(warning) = answer.warning {
        let _ = writeln!(io::stderr(), "smol-dhcp-proxy: warning: {warning}");
    }
    Ok(answer.reply)
}

/// The daemon at a socket.
struct Callee {
    socket: PathBuf,
    /// The socket is where the units have it.
    is_usual: bool,
}

impl Callee {
    /// Returns the failure to connect, and what to do about it.
    fn not_connected(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Failure::Failed(format!(
                "there is no socket {socket}: {}, or name its directory with --dir",
                self.start()
            )),
            ErrorKind::ConnectionRefused => {
                Failure::Failed(format!("no process listens on {socket}: {}", self.start()))
            }
            ErrorKind::PermissionDenied => Failure::Unknown(format!(
                "cannot connect to {socket}: {error}: run it as root"
            )),
            ErrorKind::TimedOut => Failure::Failed(format!(
                "too many callers wait at {socket}, and the daemon accepts none: {}",
                self.log()
            )),
            _ => Failure::Failed(format!("cannot connect to {socket}: {error}")),
        }
    }

    /// Returns the failure of a call, and what to do about it.
    fn not_answered(&self, error: ClientError, timeout: Duration) -> Failure {
        let socket = self.socket.display();
        match error {
            ClientError::Refused(Status {
                code: Code::Unimplemented,
                ..
            }) => Failure::Failed(format!(
                "what listens on {socket} cannot do that: it is netavark's own proxy, or an older \
                 version of this program; smol-dhcp-proxy doctor tells which, and what to do"
            )),
            ClientError::Refused(Status {
                code: Code::PermissionDenied,
                message,
            }) => Failure::Unknown(format!("{message}: run it as root")),
            // The daemon knows the time as well, and may be first.
            ClientError::Late
            | ClientError::Refused(Status {
                code: Code::DeadlineExceeded,
                ..
            }) => Failure::Failed(format!(
                "no answer within {} s; what the daemon has begun may go on, which \
                 smol-dhcp-proxy status shows",
                timeout.as_secs()
            )),
            ClientError::Refused(Status { message, .. }) => Failure::Failed(message),
            ClientError::Io(error) => Failure::Failed(format!(
                "the daemon has ended the connection without an answer ({error}): {}",
                self.log()
            )),
            ClientError::Http(_) | ClientError::Reset(_) | ClientError::Protocol(_) => {
                Failure::Failed(format!(
                    "what listens on {socket} does not answer as the daemon does: {error}"
                ))
            }
        }
    }

    /// Returns how the daemon is started.
    fn start(&self) -> &'static str {
        if self.is_usual && Path::new("/run/systemd/system").is_dir() {
            "systemctl start smol-dhcp-proxy.socket"
        } else {
            "start smol-dhcp-proxy"
        }
    }

    /// Returns where the daemon says more.
    fn log(&self) -> &'static str {
        if self.is_usual && Path::new("/run/systemd/system").is_dir() {
            "journalctl -u smol-dhcp-proxy says why"
        } else {
            "its log says why"
        }
    }
}

/// A line on a terminal that tells for how long something takes; cleared by the drop.
struct WaitingLine<'a> {
    doing: &'a str,
    start: Instant,
    is_terminal: bool,
    /// The seconds that are shown.
    shown: u64,
}

impl<'a> WaitingLine<'a> {
    fn new(doing: &'a str, start: Instant) -> Self {
        Self {
            doing,
            start,
            is_terminal: io::stderr().is_terminal(),
            shown: 0,
        }
    }

    fn show(&mut self) {
        let time = rt::now() - self.start;
        let seconds = time.as_secs();
        if self.is_terminal && time >= PROGRESS_DELAY && self.shown != seconds {
            self.shown = seconds;
            let _ = write!(io::stderr(), "\r{}, {seconds} s", self.doing);
        }
    }
}

impl Drop for WaitingLine<'_> {
    fn drop(&mut self) {
        if self.shown > 0 {
            // ECMA-48: erase to the end of the line.
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn text(failure: Failure) -> (u8, String) {
        match failure {
            Failure::Failed(text) => (1, text),
            Failure::Usage(text) => (2, text),
            Failure::Unknown(text) => (3, text),
        }
    }

    fn failure(directory: &Path) -> (u8, String) {
        text(call(directory, &Call::Clean, Duration::from_secs(5), "waiting").unwrap_err())
    }

    #[test]
    fn an_absent_daemon_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (status, words) = failure(folder.path());
        assert!(
            status == 1 && words.contains("there is no socket"),
            "{words}"
        );
        assert!(words.contains("start smol-dhcp-proxy, or name"), "{words}");
        // Listens no more.
        drop(UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
        let (status, words) = failure(folder.path());
        assert!(
            status == 1 && words.contains("no process listens on"),
            "{words}"
        );
    }

    #[test]
    fn a_peer_that_hangs_up_or_speaks_something_else_is_no_daemon() {
        for (bytes, expected) in [
            (&b""[..], "ended the connection without an answer"),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
                "does not answer as the daemon does",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap();
            let peer = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                io::Read::read(&mut stream, &mut [0; 1000]).unwrap();
                stream.write_all(bytes).unwrap();
            });
            let (status, words) = failure(folder.path());
            peer.join().unwrap();
            assert!(status == 1 && words.contains(expected), "{words}");
        }
    }

    #[test]
    fn refusals_tell_what_to_do() {
        let callee = Callee {
            socket: "/x".into(),
            is_usual: false,
        };
        let refused = |code| {
            let status = Status::new(code, "so it is");
            text(callee.not_answered(ClientError::Refused(status), Duration::from_secs(7)))
        };
        let (status, words) = refused(Code::Unimplemented);
        assert!(
            status == 1 && words.contains("netavark's own proxy"),
            "{words}"
        );
        assert_eq!(
            refused(Code::PermissionDenied),
            (3, "so it is: run it as root".to_owned())
        );
        assert_eq!(refused(Code::Unavailable), (1, "so it is".to_owned()));
        let late = text(callee.not_answered(ClientError::Late, Duration::from_secs(7)));
        assert!(late.0 == 1 && late.1.contains("within 7 s"), "{late:?}");
        assert_eq!(refused(Code::DeadlineExceeded), late);
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let (status, words) = text(callee.not_connected(&denied));
        assert!(status == 3 && words.contains("run it as root"), "{words}");
    }
}
