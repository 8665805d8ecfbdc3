//! Messages to systemd about the state of the service (sd_notify(3)). A failure is logged, and is
//! not an error of the service.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The longest wait for room in systemd's queue, for messages that must not be lost. Other messages
/// do not wait, because this thread serves all connections.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The channel to the service manager. Without a service manager its methods do nothing.
///
/// ```
/// use smol_dhcp_proxy::service::Notify;
///
/// let notify = Notify::from_env();
/// notify.ready();
/// notify.status("3 jobs queued");
/// if notify.watchdog_interval().is_some() {
///     notify.watchdog();
/// }
/// notify.stopping();
/// ```
///
/// [`Service`](super::Service) sends all of these itself, except for status lines.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. An unusable address is logged and
    /// ignored.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// let notify = Notify::from_env();
    /// # assert!(notify.watchdog_interval().is_none_or(|interval| !interval.is_zero()));
    /// ```
    pub fn from_env() -> Self {
        Self::parse(std::process::id(), |name| env::var_os(name))
    }

    /// Returns a channel without a service manager, for tests.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// assert_eq!(Notify::none().watchdog_interval(), None);
    /// ```
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

    /// Sends `READY=1`: the service accepts connections.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// Notify::from_env().ready();
    /// ```
    pub fn ready(&self) {
        self.send("READY=1", Some(SEND_TIMEOUT));
    }

    /// Sends a line of text for `systemctl status`. Line feeds become spaces.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// Notify::from_env().status(format!("{} jobs queued", 3));
    /// ```
    pub fn status(&self, text: impl AsRef<str>) {
        // A line feed would start another assignment.
        self.send(
            &format!("STATUS={}", text.as_ref().replace('\n', " ")),
            None,
        );
    }

    /// Sends `STOPPING=1`: the service exits. From now on systemd queues the next start.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// Notify::from_env().stopping();
    /// ```
    pub fn stopping(&self) {
        self.send("STOPPING=1", Some(SEND_TIMEOUT));
    }

    /// Sends `WATCHDOG=1`: the service is alive.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// Notify::from_env().watchdog();
    /// ```
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1", None);
    }

    /// Returns the interval between two calls of [`watchdog`](Self::watchdog), half of
    /// `WatchdogSec=`. `None` means that the unit does not set it.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Notify;
    /// let notify = Notify::from_env();
    /// if let Some(interval) = notify.watchdog_interval() {
    ///     notify.watchdog(); // and again every `interval`
    /// }
    /// ```
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.address
            .as_ref()
            .and(self.watchdog)
            .map(|limit| limit / 2)
    }

    fn send(&self, message: &str, timeout: Option<Duration>) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            match timeout {
                Some(timeout) => socket.set_write_timeout(Some(timeout))?,
                None => socket.set_nonblocking(true)?,
            }
            socket.send_to_addr(message.as_bytes(), address)
        });
        if let Err(error) = sent {
            log::debug!("cannot notify the service manager of {message}: {error}");
        }
    }
}

/// Parses a path or, after `@`, a name in the abstract namespace (unix(7)).
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
    fn a_manager_that_does_not_read_does_not_block_the_service() {
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
        assert!(crate::rt::now() - before < SEND_TIMEOUT);
    }

    #[test]
    fn without_a_service_manager_nothing_fails() {
        for address in ["/nonexistent/socket", "vsock:2:1234", "", "relative", "@"] {
            notify(&[("NOTIFY_SOCKET", address)]).ready();
        }
        Notify::none().ready();
    }

    #[test]
    fn the_watchdog_interval_is_half_of_the_limit_and_only_for_this_process() {
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
