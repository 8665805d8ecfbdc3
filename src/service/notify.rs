//! Tells systemd how the service fares (sd_notify(3)). Nothing here can fail the service.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a message that systemd must not miss may wait for room in its queue. All others do not
/// wait: this is the thread that serves everybody.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line to the service manager; every method does nothing where there is none.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say. What they say wrong is logged and left
    /// out.
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
        let for_us =
            variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
        let watchdog = number("WATCHDOG_USEC")
            .filter(|&usec| for_us && usec > 0)
            .map(Duration::from_micros);
        Self { address, watchdog }
    }

    /// The service can accept connections.
    pub fn ready(&self) {
        self.send("READY=1", Some(PATIENCE));
    }

    /// One line about what the service is doing, shown by `systemctl status`.
    pub fn status(&self, text: impl AsRef<str>) {
        // A line feed would begin another assignment.
        self.send(
            &format!("STATUS={}", text.as_ref().replace('\n', " ")),
            None,
        );
    }

    /// The service is about to leave. From here on systemd queues the next start.
    pub fn stopping(&self) {
        self.send("STOPPING=1", Some(PATIENCE));
    }

    /// The service is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1", None);
    }

    /// How often [`watchdog`](Self::watchdog) is due: twice in the time that systemd waits for it;
    /// none where it does not.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.address
            .as_ref()
            .and(self.watchdog)
            .map(|limit| limit / 2)
    }

    fn send(&self, message: &str, patience: Option<Duration>) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            match patience {
                Some(patience) => socket.set_write_timeout(Some(patience))?,
                None => socket.set_nonblocking(true)?,
            }
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
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "neither a path nor an abstract name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(variables: &[(&str, &str)]) -> Notify {
        Notify::parse(7, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    }

    #[test]
    fn messages_arrive_at_an_abstract_address() {
        let name = format!("notify-test-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notify = notify(&[("NOTIFY_SOCKET", &format!("@{name}"))]);
        notify.ready();
        notify.status("two\nlines");
        notify.stopping();
        for expected in ["READY=1", "STATUS=two lines", "STOPPING=1"] {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(expected));
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let name = format!("notify-full-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _manager = UnixDatagram::bind_addr(&address).unwrap();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to_addr(b"x", &address).is_ok() {}
        let notify = notify(&[("NOTIFY_SOCKET", &format!("@{name}"))]);
        let before = crate::rt::now();
        for _ in 0..100 {
            notify.status("busy");
            notify.watchdog();
        }
        assert!(crate::rt::now() - before < PATIENCE);
    }

    #[test]
    fn nobody_to_tell_is_no_trouble() {
        for address in ["/nonexistent/socket", "vsock:2:1234", "", "relative", "@"] {
            notify(&[("NOTIFY_SOCKET", address)]).ready();
        }
        Notify::none().ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_asked_and_only_when_asked() {
        let socket = ("NOTIFY_SOCKET", "@x");
        let interval = |variables: &[(&str, &str)]| notify(variables).watchdog_interval();
        let usec = ("WATCHDOG_USEC", "3000000");
        assert_eq!(interval(&[socket, usec]), Some(Duration::from_millis(1500)));
        assert_eq!(
            interval(&[socket, usec, ("WATCHDOG_PID", "7")]),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(interval(&[socket, usec, ("WATCHDOG_PID", "8")]), None);
        assert_eq!(interval(&[socket, usec, ("WATCHDOG_PID", "x")]), None);
        assert_eq!(interval(&[socket, ("WATCHDOG_USEC", "0")]), None);
        assert_eq!(interval(&[socket, ("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(interval(&[socket]), None);
        assert_eq!(interval(&[usec]), None);
    }
}
