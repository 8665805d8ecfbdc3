//! Tells systemd how the service fares (sd_notify(3)). Nothing here can fail the service.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long systemd may leave our message in its full queue. It should read at once, and we have better to do than wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line to the service manager; every method does nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say. What they say wrong is logged and left out.
    pub fn from_env() -> Self {
        Self::parse(std::process::id(), |name| env::var_os(name))
    }

    /// A line to nobody.
    pub fn none() -> Self {
        Self::default()
    }

    fn parse(pid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let address = variable("NOTIFY_SOCKET").and_then(|value| match socket_address(&value) {
            Ok(address) => Some(address),
            Err(error) => {
                log::warn!("cannot notify the service manager at NOTIFY_SOCKET={value:?}: {error}");
                None
            }
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let for_us = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| for_us && usec > 0).map(Duration::from_micros);
        Self { address, watchdog }
    }

    /// The service can accept connections.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// One line about what the service is doing, shown by `systemctl status`.
    pub fn status(&self, text: impl AsRef<str>) {
        // A line feed would begin another assignment.
        self.send(&format!("STATUS={}", text.as_ref().replace('\n', " ")));
    }

    /// The service is about to leave. From here on systemd queues the next start.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The service is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// How often [`watchdog`](Self::watchdog) is due: twice in the time that systemd waits for it; none where it does not.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.address.as_ref().and(self.watchdog).map(|limit| limit / 2)
    }

    fn send(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.send_to_addr(message.as_bytes(), address)
        });
        if let Err(error) = sent {
            log::debug!("cannot notify the service manager of {message}: {error}");
        }
    }
}

/// A path, or with `@` in front a name in the abstract namespace (unix(7)).
fn socket_address(value: &OsStr) -> io::Result<SocketAddr> {
    match value.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(value),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}
