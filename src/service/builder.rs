//! [`Service`]: its sockets, its timeouts, and its hooks.

use std::path::PathBuf;
use std::time::Duration;

use super::activation;
use super::hook::Hook;
use super::{Connection, Error, Idle, Limits, Notify, Reason, Socket, bind};
use crate::rt::{self, Signals};

/// The default idle timeout.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The default drain timeout, well below the 90 seconds after which systemd sends SIGKILL.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A service: its sockets, its timeouts and its hooks. [`run`](Self::run) serves.
///
/// Opening has one safe order: adopt inherited sockets while the process has no descriptors of its
/// own, then catch signals, and only then create a socket file. `run` does this;
/// [`open`](Self::open) does it earlier, for programs that work between opening and serving.
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Reason, Service};
///
/// let path = std::env::temp_dir().join(format!("service-{}.sock", std::process::id()));
/// let reason = Service::new(&path)
///     .idle_timeout(Duration::from_millis(20))
///     .drain_timeout(Duration::from_secs(2))
///     .before_exit(|| async { println!("nothing left to do") })
///     .run(|connection| async move { drop(connection) })?;
/// assert_eq!(reason, Reason::Idle);
/// assert!(!path.exists());
/// # Ok::<(), smol_dhcp_proxy::service::Error>(())
/// ```
///
/// A `Service` is `!Send`, as are all handles of this module. One thread runs the accept loop and
/// every handler, so handlers need no `Send` and share state by [`Rc`](std::rc::Rc) and
/// [`Cell`](std::cell::Cell):
///
/// ```
/// use std::cell::Cell;
/// use std::net::{TcpListener, TcpStream};
/// use std::rc::Rc;
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::Service;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _clients = [TcpStream::connect(listener.local_addr()?)?, TcpStream::connect(listener.local_addr()?)?];
/// let count = Rc::new(Cell::new(0));
/// let served = Rc::clone(&count);
/// Service::on([listener])
///     .idle_timeout(Duration::ZERO)
///     .run(move |_connection| {
///         let served = Rc::clone(&served);
///         async move { served.set(served.get() + 1) }
///     })?;
/// assert_eq!(count.get(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```compile_fail,E0277
/// let service = smol_dhcp_proxy::service::Service::new("/run/echo.sock");
/// std::thread::spawn(move || service.open()); // a `Service` cannot move to another thread
/// ```
///
/// A handler that blocks the thread blocks the service: run long computations and blocking calls
/// on other threads.
#[derive(Debug)]
#[must_use = "a service does nothing until it runs"]
pub struct Service {
    source: Source,
    opened: Option<Opened>,
    pub(super) idle: Idle,
    pub(super) notify: Notify,
    pub(super) drain_timeout: Duration,
    pub(super) before_exit: Option<Hook>,
    pub(super) drain_extension: Option<Hook>,
    pub(super) limits: Limits,
}

/// The origin of the sockets.
#[derive(Debug)]
enum Source {
    /// Inherited sockets, or else a new one at this path.
    Path(PathBuf),
    /// Sockets of the program.
    Given(Vec<Socket>),
}

/// The result of opening. `sockets` is dropped first: a signal must not end the process while there
/// is a file to unlink.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) sockets: Vec<Socket>,
    pub(super) signals: Signals,
}

impl Service {
    /// Creates a service for the sockets that systemd hands over, or else for a Unix socket at
    /// `path` (see [`bind`](fn@bind)), which is removed at the end.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let service = Service::new("/run/echo.sock");
    /// assert!(service.sockets().is_empty(), "nothing is opened yet");
    /// ```
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::from_source(Source::Path(path.into()))
    }

    /// Creates a service for these sockets only: some of [`listen_fds`](activation::listen_fds), or
    /// the program's own Unix or TCP listeners, blocking or not.
    ///
    /// ```
    /// use std::os::unix::net::UnixListener;
    /// use std::time::Duration;
    /// use smol_dhcp_proxy::service::{Reason, Service};
    ///
    /// let path = std::env::temp_dir().join(format!("service-on-{}.sock", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// let service = Service::on([listener]).idle_timeout(Duration::ZERO);
    /// assert_eq!(service.run(|_| async {})?, Reason::Idle);
    /// std::fs::remove_file(&path)?; // the program owns the file
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on(sockets: impl IntoIterator<Item = impl Into<Socket>>) -> Self {
        Self::from_source(Source::Given(sockets.into_iter().map(Into::into).collect()))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            opened: None,
            idle: Idle::new(Some(IDLE_TIMEOUT)),
            notify: Notify::from_env(),
            drain_timeout: DRAIN_TIMEOUT,
            before_exit: None,
            drain_extension: None,
            limits: Limits::of_process(),
        }
    }

    /// Sets the time after which an idle service exits (default: ten seconds). `None` means never.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let permanent = Service::new("/run/echo.sock").idle_timeout(None);
    /// ```
    pub fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle.set_timeout(timeout.into());
        self
    }

    /// Sets the time that open connections have after SIGTERM or SIGINT (default: five seconds).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::service::Service;
    /// let patient = Service::new("/run/echo.sock").drain_timeout(Duration::from_secs(60));
    /// ```
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets the limits on simultaneous connections (default: [`Limits::of_process`]).
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::{Limits, Service};
    /// let mut limits = Limits::of_process();
    /// limits.connections = 100;
    /// let limited = Service::new("/run/echo.sock").limits(limits);
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets a hook that runs before the service exits because it is idle: the place to save state,
    /// and to arm a [`Wakeup`](super::Wakeup).
    ///
    /// The hook is called each time the idle timeout is over. While its future runs, the service
    /// accepts connections and handles signals, and drops the future at either. So its work must be
    /// safe to interrupt and to repeat. If the service is still idle when the future is done, the
    /// service exits; otherwise the hook is called again after the next idle timeout. A hook that
    /// keeps an [`Activity`](super::Activity) keeps the service running.
    ///
    /// The hook does not run after a signal.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    /// use std::time::Duration;
    /// use smol_dhcp_proxy::service::{Service, Socket};
    ///
    /// let saved = Rc::new(Cell::new(false));
    /// let save = Rc::clone(&saved);
    /// Service::on(Vec::<Socket>::new())
    ///     .idle_timeout(Duration::ZERO)
    ///     .before_exit(move || {
    ///         let save = Rc::clone(&save);
    ///         async move { save.set(true) }
    ///     })
    ///     .run(|_| async {})?;
    /// assert!(saved.get());
    /// # Ok::<(), smol_dhcp_proxy::service::Error>(())
    /// ```
    pub fn before_exit<F>(mut self, hook: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.before_exit = Some(Hook::new(hook));
        self
    }

    /// Extends the drain: the drain timeout starts when the future of `hook` is done. A second
    /// signal ends the wait at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use smol_dhcp_proxy::{rt, service::Service};
    /// let service = Service::new("/run/echo.sock")
    ///     .extend_drain(|| rt::sleep(Duration::from_secs(30)))
    ///     .drain_timeout(Duration::from_secs(5)); // 35 seconds in all
    /// ```
    pub fn extend_drain<F>(mut self, hook: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.drain_extension = Some(Hook::new(hook));
        self
    }

    /// Returns the idle state that decides when to exit. Clones share one state. Take an
    /// [`Activity`](super::Activity) of it for each job that keeps the service running, besides
    /// connections.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let service = Service::new("/run/echo.sock");
    /// let job = service.idle().activity(); // the service runs until this is dropped
    /// assert!(service.idle().is_busy());
    /// ```
    pub fn idle(&self) -> &Idle {
        &self.idle
    }

    /// Returns the channel to the service manager, for status lines. Clones share it.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// Service::new("/run/echo.sock").notify().status("3 jobs queued");
    /// ```
    pub fn notify(&self) -> &Notify {
        &self.notify
    }

    /// Returns the sockets to be served. Those of [`new`](Self::new) are known once the service is
    /// [open](Self::open).
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let path = std::env::temp_dir().join(format!("service-sockets-{}.sock", std::process::id()));
    /// let service = Service::new(&path).open()?;
    /// assert!(!service.sockets()[0].is_activated());
    /// assert!(path.exists());
    /// # Ok::<(), smol_dhcp_proxy::service::Error>(())
    /// ```
    pub fn sockets(&self) -> &[Socket] {
        match (&self.opened, &self.source) {
            (Some(opened), _) => &opened.sockets,
            (None, Source::Given(sockets)) => sockets,
            (None, Source::Path(_)) => &[],
        }
    }

    /// Adopts inherited sockets, catches SIGTERM and SIGINT, and creates a socket if none was
    /// inherited. A second call does nothing.
    ///
    /// Call this or [`run`](Self::run) first in `main`: inherited descriptors are safe to adopt only
    /// before the process opens its own. When the service is dropped or has returned, the signals
    /// end the process again, as by default.
    ///
    /// Only the first service of a process catches signals. After its drop they end the process,
    /// even if another service exists.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    ///
    /// ```
    /// use smol_dhcp_proxy::service::{Error, Service};
    ///
    /// let path = std::env::temp_dir().join(format!("service-open-{}.sock", std::process::id()));
    /// let first = Service::new(&path).open()?;
    /// let second = Service::new(&path).open();
    /// assert!(matches!(second, Err(Error::InUse(_))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open(mut self) -> Result<Self, Error> {
        let opened = self.take_opened()?;
        self.opened = Some(opened);
        Ok(self)
    }

    pub(super) fn take_opened(&mut self) -> Result<Opened, Error> {
        if let Some(opened) = self.opened.take() {
            return Ok(opened);
        }
        let mut sockets = match &mut self.source {
            Source::Path(_) => activation::listen_fds()?,
            Source::Given(sockets) => std::mem::take(sockets),
        };
        let signals = Signals::new().map_err(|source| Error::io("cannot catch signals", source))?;
        if let Source::Path(path) = &self.source
            && sockets.is_empty()
        {
            sockets.push(bind(path)?);
        }
        Ok(Opened { sockets, signals })
    }

    /// Runs the service on this thread until it exits, and returns the reason. `handler` returns the
    /// future that serves one connection; [`serve`](Self::serve) documents when the service exits.
    ///
    /// # Errors
    ///
    /// A start that cannot succeed, as for [`open`](Self::open). A failure of a single connection is
    /// not an error of the service.
    ///
    /// # Panics
    ///
    /// When a handler or a hook panics: both run on this thread.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::Service;
    ///
    /// // A directory has the path of the socket.
    /// let error = Service::new(std::env::temp_dir()).run(|_| async {}).unwrap_err();
    /// assert!(format!("{error:?}").ends_with("exists and is not a socket: it stays as it is"));
    /// ```
    pub fn run<F>(self, handler: impl Fn(Connection) -> F + 'static) -> Result<Reason, Error>
    where
        F: Future<Output = ()> + 'static,
    {
        let service = self.open()?;
        rt::block_on(async move |runtime| service.serve(&runtime, handler).await)
    }
}
