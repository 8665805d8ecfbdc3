//! [`Service`]: what a service listens on, when it leaves, and what it does before.

use std::path::PathBuf;
use std::time::Duration;

use super::activation;
use super::hook::Hook;
use super::{Connection, Error, Idle, Limits, Notify, Reason, Socket, bind};
use crate::rt::{self, Signals};

/// The idle timeout unless another one is set.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The drain timeout unless another one is set: well below the 90 seconds after which systemd kills.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A service: its sockets, its timeouts and its hooks. [`run`](Self::run) serves.
///
/// Opening is one step, in the one safe order: inherited sockets are adopted while the process has
/// no descriptors of its own, signals are caught before a socket file exists, and only then is the
/// file made. `run` does it; [`open`](Self::open) does it earlier, for programs that have work to do
/// between opening and serving.
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
/// std::thread::spawn(move || service.open()); // has to be opened where it runs
/// ```
///
/// A handler that blocks the thread blocks the service: long computations and blocking calls belong
/// on threads of their own.
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

/// Where the sockets come from.
#[derive(Debug)]
enum Source {
    /// systemd, or else `bind` at this path.
    Path(PathBuf),
    /// The program.
    Given(Vec<Socket>),
}

/// What opening yields. The sockets go first: a signal must not end the process while there is a
/// file to unlink.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) sockets: Vec<Socket>,
    pub(super) signals: Signals,
}

impl Service {
    /// Listens on the sockets that systemd hands over, or else on a Unix socket at `path` (see
    /// [`bind`](fn@bind)), which is removed at the end.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::from_source(Source::Path(path.into()))
    }

    /// Listens on these sockets only: some of [`listen_fds`](activation::listen_fds), or the
    /// program's own Unix or TCP listeners, blocking or not.
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
    /// std::fs::remove_file(&path)?; // its file is the program's own, too
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

    /// Sets how long the service stays with nothing to do (ten seconds if never set); `None` means
    /// for ever.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let stays = Service::new("/run/echo.sock").idle_timeout(None);
    /// ```
    pub fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle.set_timeout(timeout.into());
        self
    }

    /// Sets how long connections may go on after SIGTERM or SIGINT (five seconds if never set).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets the most connections at once ([`Limits::of_process`] if never set).
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs the futures of `hook` before the service leaves because it is idle: the place to save
    /// state, and to arm a [`Wakeup`](super::Wakeup).
    ///
    /// The hook is called whenever the idle timeout is over. While its future runs, the service
    /// accepts connections and reacts to signals, and drops the future at either: what it does must
    /// bear being left half done and begun again. When the future is done and the service is still
    /// idle, the service leaves; otherwise the hook is called again the next time. A hook that keeps
    /// an [`Activity`](super::Activity) makes the service stay.
    ///
    /// It does not run after a signal.
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

    /// Extends the drain: the drain timeout begins to count when the future of `hook` is done. A
    /// second signal ends the wait nevertheless.
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

    /// Returns the idle state that decides when to leave; clones share it. Whatever keeps the
    /// service alive besides connections takes an [`Activity`](super::Activity) of it.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// let service = Service::new("/run/echo.sock");
    /// let job = service.idle().activity(); // the service stays until this is dropped
    /// assert!(service.idle().is_busy());
    /// ```
    pub fn idle(&self) -> &Idle {
        &self.idle
    }

    /// Returns the channel to the service manager, for status lines; clones share it.
    ///
    /// ```
    /// # use smol_dhcp_proxy::service::Service;
    /// Service::new("/run/echo.sock").notify().status("3 jobs queued");
    /// ```
    pub fn notify(&self) -> &Notify {
        &self.notify
    }

    /// Returns the sockets that will be served. Those of [`new`](Self::new) are known once the
    /// service is [open](Self::open).
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

    /// Adopts inherited sockets, catches SIGTERM and SIGINT, and makes a socket where none was
    /// inherited. Does nothing the second time.
    ///
    /// Call it (or [`run`](Self::run)) first thing in `main`: inherited descriptors are only safe to
    /// adopt before the process opens its own. The signals end the process again, as is their
    /// default, when the service is dropped or has left.
    ///
    /// One service in the life of a process catches signals: after it was dropped they end the
    /// process, also when there is another one.
    ///
    /// # Errors
    ///
    /// Each of [`Error`]'s.
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

    /// Runs the service on this thread from its first connection to its last, and returns why it
    /// left. `handler` makes the future that serves one connection; [`serve`](Self::serve) has the
    /// rules of leaving.
    ///
    /// # Errors
    ///
    /// A start that cannot succeed, as [`open`](Self::open). Failures of single connections are no
    /// errors of the service.
    ///
    /// # Panics
    ///
    /// When a handler or a hook panics: they run on this thread.
    ///
    /// ```
    /// use smol_dhcp_proxy::service::Service;
    ///
    /// // A directory in place of the socket: the text of the error says what to do.
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
