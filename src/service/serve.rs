//! The accept loop, which runs until the idle timeout or a signal.

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

/// The longest pause after a failed accept(2), for example for want of descriptors. The end of a
/// connection ends it.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Service {
    /// Serves on a runtime that the program drives itself, for programs that do more than
    /// [`run`](Self::run) allows. The future of `handler` serves one connection.
    ///
    /// - The idle timeout is over, even right after the start: the service calls the hook of
    ///   [`before_exit`](Self::before_exit). If it is still idle then, it looks at the backlogs. It
    ///   serves a connection that waits there; otherwise it returns [`Reason::Idle`]. A connection
    ///   makes the service busy until its future is done.
    /// - SIGTERM or SIGINT: the service accepts no more, resolves every [`Connection::shutdown`],
    ///   waits for all connections until the drain timeout, aborts the rest, and returns
    ///   [`Reason::Signal`]. A second signal ends the wait at once, and the reason is
    ///   [`Reason::SecondSignal`]. The drain waits for connections only, not for each
    ///   [`Activity`](super::Activity). The drain timeout starts when the hook of
    ///   [`extend_drain`](Self::extend_drain) is done.
    /// - More connections than [`limits`](Self::limits) allows: the service closes the longest idle
    ///   one. If all are in use, new ones wait in the backlog.
    ///
    /// Futures of connections that have [released](super::KeepAlive::release) the service may still
    /// run when this returns. They end then.
    ///
    /// # Errors
    ///
    /// A start that cannot succeed, as for [`open`](Self::open). A failed accept is logged, and
    /// retried after a pause.
    ///
    /// # Panics
    ///
    /// When `handler` panics, or outside of the [`block_on`](crate::rt::block_on) to which `runtime`
    /// belongs.
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
    ///         drop(job); // the idle timeout starts here
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
            is_hook_done: self.before_exit.is_none(),
            before_exit: self.before_exit,
            sockets,
            connections: Connections::new(runtime, &self.idle, self.limits, handler),
            timer: Timer::never(),
            is_failing: false,
        };
        self.notify.ready();

        // One wait for all rounds: each new one would read the pipes of the signals again.
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

/// Starts a task that sends `WATCHDOG=1` until it is dropped, if the unit has a watchdog.
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
    /// The hook is done, and the service has been idle since then.
    is_hook_done: bool,
    sockets: Vec<ListeningSocket>,
    connections: Connections<'a>,
    timer: Timer,
    /// The last accept failed.
    is_failing: bool,
}

/// The next step of the accept loop, by the idle state.
enum IdleStep {
    Exit,
    LookAgain,
    /// Wait for an event, with the future of the hook beside it.
    Wait(Option<BoxFuture>),
}

/// The event that ended a wait.
enum ServeEvent {
    Signal(io::Result<Signal>),
    Arrival(io::Result<Stream>),
    HookDone,
    /// The idle state may have changed.
    IdleChanged,
}

impl<'a> Accepting<'a> {
    /// Accepts until `signal`, which is returned, or until the service exits because it is idle. In
    /// the second case there is no await between the last look at the backlogs and the return, so
    /// that no connection can be accepted in between and lost.
    async fn run(
        &mut self,
        mut signal: Pin<&mut impl Future<Output = io::Result<Signal>>>,
    ) -> io::Result<Option<Signal>> {
        loop {
            let hook = match self.step() {
                IdleStep::Exit => return Ok(None),
                IdleStep::LookAgain => continue,
                IdleStep::Wait(hook) => hook,
            };
            match self.wait(signal.as_mut(), hook).await {
                ServeEvent::Signal(signal) => return signal.map(Some),
                ServeEvent::Arrival(arrival) => self.arrived(arrival).await,
                ServeEvent::HookDone => self.is_hook_done = true,
                ServeEvent::IdleChanged => {}
            }
        }
    }

    fn step(&mut self) -> IdleStep {
        let mut hook = None;
        match self.idle.state(rt::now()) {
            IdleState::Busy => self.timer.reset(None),
            IdleState::Until(until) => self.timer.reset(Some(until - rt::now())),
            IdleState::Expired if !self.is_hook_done => {
                hook = self.before_exit.as_ref().map(Hook::call);
            }
            IdleState::Expired => {
                let late = last_look(&mut self.sockets);
                if late.is_empty() {
                    return IdleStep::Exit;
                }
                late.into_iter()
                    .for_each(|stream| self.connections.start(stream));
                self.is_hook_done = self.before_exit.is_none();
                return IdleStep::LookAgain;
            }
        }
        self.is_hook_done = self.before_exit.is_none();
        IdleStep::Wait(hook)
    }

    async fn wait(
        &mut self,
        signal: Pin<&mut impl Future<Output = io::Result<Signal>>>,
        hook: Option<BoxFuture>,
    ) -> ServeEvent {
        let signal = async { ServeEvent::Signal(signal.await) };
        let arrival = async {
            self.connections.registry.wait_for_room().await;
            ServeEvent::Arrival(accept(&self.sockets).await)
        };
        let quiet = async {
            let Some(hook) = hook else {
                or(self.idle.quiet(), self.timer.fired()).await;
                return ServeEvent::IdleChanged;
            };
            hook.await;
            ServeEvent::HookDone
        };
        or(signal, or(arrival, quiet)).await
    }

    async fn arrived(&mut self, arrival: io::Result<Stream>) {
        match arrival {
            Ok(stream) => {
                self.is_failing = false;
                self.connections.start(stream);
                // A flood of arrivals must not starve the open connections.
                yield_now().await;
            }
            Err(error) => {
                // One line for each shortage, not for each attempt.
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!("cannot accept a connection: {error}; trying again");
                }
                let descriptor = self.connections.registry.wait_for_descriptor();
                or(descriptor, rt::sleep(ACCEPT_RETRY_DELAY)).await;
            }
        }
    }

    /// Stops listening. First accepts the backlogs of the sockets that end with this service.
    fn close(mut self) -> Connections<'a> {
        self.sockets
            .iter_mut()
            .flat_map(ListeningSocket::close)
            .for_each(|stream| self.connections.start(stream));
        self.connections
    }
}
