//! The accept loop: connections in, until the service is idle for long enough or a signal comes.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_lite::future::{or, yield_now};

use super::builder::Opened;
use super::connection::Connections;
use super::hook::{BoxFuture, Hook};
use super::listening::{ListeningSocket, accept, last_look};
use super::{Connection, Error, Idle, IdleState, Notify, Reason, Service};
use crate::rt::{self, Runtime, Signal, Stream, Task, Timer};

/// The longest pause after a failed accept, such as one for want of descriptors. It is over when a
/// connection ends.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Service {
    /// Serves every connection with a future from `handler` until it is time to leave, on a runtime
    /// that the program drives itself: as a part of more work than [`run`](Self::run) allows.
    ///
    /// - Idle for the idle timeout, also right after the start: calls the hook of
    ///   [`before_exit`](Self::before_exit), and returns [`Reason::Idle`] if the service is still
    ///   idle. The last thing before that is a look at the backlogs; a connection that waits there
    ///   is served. A connection keeps the service from being idle until its future is done.
    /// - SIGTERM or SIGINT: accepts no more, resolves every [`Connection::shutdown`], waits for all
    ///   connections, but at most for the drain timeout, ends those that are not done, and returns
    ///   [`Reason::Signal`]. A second signal ends the wait at once, and makes it
    ///   [`Reason::SecondSignal`]. An [`Activity`](super::Activity) of no connection is not waited
    ///   for. The timeout does not count before the hook of [`extend_drain`](Self::extend_drain) is
    ///   done.
    /// - More connections than [`limits`](Self::limits) allows: the longest idle one is closed. Where
    ///   all are in use, new ones wait in the backlog.
    ///
    /// Futures that still run at the return, because their connections have
    /// [released](super::KeepAlive::release) the service, end.
    ///
    /// # Errors
    ///
    /// What makes serving impossible from the start, as in [`open`](Self::open). A failed accept is
    /// logged, and tried again after a pause.
    ///
    /// # Panics
    ///
    /// When `handler` panics, or when it runs outside of the
    /// [`block_on`](crate::rt::block_on) that gave out `runtime`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use smol_dhcp_proxy::rt;
    /// use smol_dhcp_proxy::service::{Reason, Service, Socket};
    ///
    /// let service = Service::on(Vec::<Socket>::new()).idle_timeout(Duration::from_millis(20));
    /// let job = service.idle().activity();
    /// let reason = rt::block_on(async move |runtime| {
    ///     let working = runtime.spawn(async move {
    ///         rt::sleep(Duration::from_millis(50)).await;
    ///         drop(job); // the idle timeout begins here
    ///     });
    ///     let reason = service.serve(&runtime, |_| async {}).await;
    ///     working.await;
    ///     reason
    /// })?;
    /// assert_eq!(reason, Reason::Idle);
    /// # Ok::<(), smol_dhcp_proxy::service::Error>(())
    /// ```
    pub async fn serve<F>(
        self,
        runtime: &Runtime,
        handler: impl Fn(Connection) -> F,
    ) -> Result<Reason, Error>
    where
        F: Future<Output = ()> + 'static,
    {
        let handler = |connection| -> BoxFuture { Box::pin(handler(connection)) };
        self.serve_boxed(runtime, &handler).await
    }

    async fn serve_boxed(
        mut self,
        runtime: &Runtime,
        handler: &dyn Fn(Connection) -> BoxFuture,
    ) -> Result<Reason, Error> {
        let Opened { sockets, signals } = self.take_opened()?;
        let cannot_serve = |source| Error::io("cannot serve", source);
        let sockets = sockets
            .into_iter()
            .map(ListeningSocket::new)
            .collect::<io::Result<Vec<_>>>()
            .map_err(cannot_serve)?;
        let _watchdog = watchdog(&self.notify, runtime);
        let mut accepting = Accepting {
            idle: &self.idle,
            is_prepared: self.before_exit.is_none(),
            before_exit: self.before_exit,
            sockets,
            connections: Connections::new(runtime, &self.idle, self.limits, handler),
            timer: Timer::never(),
            is_failing: false,
        };
        self.notify.ready();

        // One wait for all rounds: each new one would look at the pipes of the signals again.
        let signal = pin!(signals.next());
        let Some(signal) = accepting.run(signal).await.map_err(cannot_serve)? else {
            log::info!("nothing left to do, leaving");
            self.notify.stopping();
            return Ok(Reason::Idle);
        };

        log::info!("{} received, shutting down", name(signal));
        self.notify.stopping();
        let connections = accepting.close();
        let second = connections
            .drain(self.drain_extension, self.drain_timeout, &signals)
            .await;
        Ok(match second {
            Some(second) => Reason::SecondSignal(second),
            None => Reason::Signal(signal),
        })
    }
}

/// Starts to feed systemd's watchdog, where there is one, until the task is dropped.
fn watchdog(notify: &Notify, runtime: &Runtime) -> Option<Task<()>> {
    let (interval, notify) = (notify.watchdog_interval()?, notify.clone());
    Some(runtime.spawn(async move {
        loop {
            notify.watchdog();
            rt::sleep(interval).await;
        }
    }))
}

fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::Terminate => "SIGTERM",
        Signal::Interrupt => "SIGINT",
    }
}

/// The state of the accept loop.
struct Accepting<'a> {
    idle: &'a Idle,
    before_exit: Option<Hook>,
    /// The hook is done, and nothing has happened since.
    is_prepared: bool,
    sockets: Vec<ListeningSocket>,
    connections: Connections<'a>,
    timer: Timer,
    /// The last accept failed.
    is_failing: bool,
}

/// What one look at the idle state demands.
enum IdleStep {
    Leave,
    LookAgain,
    Wait(Option<BoxFuture>),
}

/// What ended a wait.
enum ServeEvent {
    Signal(io::Result<Signal>),
    Arrival(io::Result<Stream>),
    /// The hook is done.
    Prepared,
    /// The idle state may have changed.
    Time,
}

impl<'a> Accepting<'a> {
    /// Accepts until `signal`, which is returned, or until it is time to leave. In the second case
    /// nothing is awaited between the last look at the backlogs and the return: no connection can
    /// arrive in between and get lost.
    async fn run(
        &mut self,
        mut signal: Pin<&mut impl Future<Output = io::Result<Signal>>>,
    ) -> io::Result<Option<Signal>> {
        loop {
            let preparation = match self.step() {
                IdleStep::Leave => return Ok(None),
                IdleStep::LookAgain => continue,
                IdleStep::Wait(preparation) => preparation,
            };
            match self.wait(signal.as_mut(), preparation).await {
                ServeEvent::Signal(signal) => return signal.map(Some),
                ServeEvent::Arrival(arrival) => self.arrived(arrival).await,
                ServeEvent::Prepared => self.is_prepared = true,
                ServeEvent::Time => {}
            }
        }
    }

    fn step(&mut self) -> IdleStep {
        let mut preparation = None;
        match self.idle.state(rt::now()) {
            IdleState::Busy => self.timer.reset(None),
            IdleState::Until(until) => self.timer.reset(Some(until - rt::now())),
            IdleState::Expired if !self.is_prepared => {
                preparation = self.before_exit.as_ref().map(Hook::call);
            }
            IdleState::Expired => {
                let late = last_look(&mut self.sockets);
                if late.is_empty() {
                    return IdleStep::Leave;
                }
                late.into_iter()
                    .for_each(|stream| self.connections.start(stream));
                self.is_prepared = self.before_exit.is_none();
                return IdleStep::LookAgain;
            }
        }
        self.is_prepared = self.before_exit.is_none();
        IdleStep::Wait(preparation)
    }

    async fn wait(
        &mut self,
        signal: Pin<&mut impl Future<Output = io::Result<Signal>>>,
        preparation: Option<BoxFuture>,
    ) -> ServeEvent {
        let signal = async { ServeEvent::Signal(signal.await) };
        let arrival = async {
            self.connections.registry.room().await;
            ServeEvent::Arrival(accept(&self.sockets).await)
        };
        let quiet = async {
            let Some(preparation) = preparation else {
                or(self.idle.quiet(), self.timer.fired()).await;
                return ServeEvent::Time;
            };
            preparation.await;
            ServeEvent::Prepared
        };
        or(signal, or(arrival, quiet)).await
    }

    async fn arrived(&mut self, arrival: io::Result<Stream>) {
        match arrival {
            Ok(stream) => {
                self.is_failing = false;
                self.connections.start(stream);
                // A flood of arrivals must not starve the connections that are open.
                yield_now().await;
            }
            Err(error) => {
                // Once for each shortage, not once for each try.
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!("cannot accept a connection: {error}; trying again");
                }
                let relieved = self.connections.registry.relieve();
                or(relieved, rt::sleep(ACCEPT_RETRY_DELAY)).await;
            }
        }
    }

    /// Stops to accept, after the backlogs of sockets that end here.
    fn close(mut self) -> Connections<'a> {
        self.sockets
            .iter_mut()
            .flat_map(ListeningSocket::close)
            .for_each(|stream| self.connections.start(stream));
        self.connections
    }
}
