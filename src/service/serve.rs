//! The accept loop: connections in, until it is quiet for long enough or a signal comes.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::{Event, EventListener};
use futures_lite::future::{or, yield_now};

use super::bind::SocketFile;
use super::limit::{Limits, Registry, Requests};
use super::{Activity, Idle, Notify, Socket, State, bind};
use crate::rt::{self, Listener, Runtime, Signal, Signals, Stream, Timer};

/// The longest pause after a failed accept, such as one for want of descriptors. It is over when a
/// connection ends.
const REST: Duration = Duration::from_millis(100);

/// What [`serve`] goes by.
#[derive(Debug)]
pub struct Options {
    /// Says when to leave. Connections hold a guard of it, and whatever else is to keep the service
    /// alive takes one too.
    pub idle: Idle,
    /// Who is told.
    pub notify: Notify,
    /// How long connections may go on after a signal.
    pub drain: Duration,
    /// The signals to leave at.
    pub signals: Signals,
    /// What is still to be done when it is time to leave for want of work. None at first.
    pub prepare: Option<Prepare>,
    /// Extends a drain: `drain` begins to count when this is done. None at first.
    pub grace: Option<Prepare>,
    /// The most connections at once. [`Limits::of_process`] at first.
    pub limits: Limits,
}

impl Options {
    /// The usual bound of a drain, well below the 90 seconds that systemd waits before it kills.
    pub const DRAIN: Duration = Duration::from_secs(5);

    /// Leaves when `idle` says so and at SIGTERM or SIGINT, notifies as the environment says, and
    /// drains as usual.
    ///
    /// Signals are caught from here on. Make this before the socket, lest one that comes in between
    /// end the process and leave the socket's file behind.
    ///
    /// # Errors
    ///
    /// The signals could not be caught.
    pub fn new(idle: Idle) -> io::Result<Self> {
        let (notify, limits) = (Notify::from_env(), Limits::of_process());
        Ok(Self {
            idle,
            notify,
            drain: Self::DRAIN,
            signals: Signals::new()?,
            prepare: None,
            grace: None,
            limits,
        })
    }
}

/// What a service does before it leaves because it is idle: the place to save its state, and to
/// have itself woken later (see [`Wakeup`](super::Wakeup)).
///
/// It is asked for a future whenever [`Idle`] says that it is time. While that runs, the service
/// still accepts and still hears signals, and either drops the future: what it does has to bear
/// being left half done and begun again. When it is done, the service leaves if it is still time
/// to, and otherwise asks again the next time. To object, keep an
/// [`Activity`]: as long as that lives the service stays.
#[derive(Clone)]
pub struct Prepare(Rc<dyn Fn() -> Preparation>);

/// One run of a [`Prepare`].
type Preparation = Pin<Box<dyn Future<Output = ()>>>;

impl Prepare {
    /// Does what the futures of `prepare` do.
    pub fn new<F>(prepare: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self(Rc::new(move || Box::pin(prepare())))
    }

    fn begin(&self) -> Preparation {
        (self.0)()
    }
}

impl fmt::Debug for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepare(..)")
    }
}

/// What a handler gets.
#[derive(Debug)]
pub struct Connection {
    /// The connection itself.
    pub stream: Stream,
    /// Keeps the service from leaving. A handler that drops it early says that its connection is no
    /// reason to stay.
    pub activity: Activity,
    /// Tells the service whether the connection is in use, which decides what is closed when there
    /// are too many.
    pub requests: Requests,
    /// Resolves when the service begins to drain, which is the time to finish and hang up.
    pub closing: Closing,
    /// Resolves when the time of the drain begins to count: at once, or when [`Options::grace`] is
    /// done.
    pub counting: Closing,
}

/// Why [`serve`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was left to do.
    Idle,
    /// A signal asked for it.
    Signal(Signal),
    /// A second signal, while the connections were finishing: whatever else there is to do is to be
    /// left.
    Hurry(Signal),
}

/// Serves every connection to `sockets` with a future from `handler`, until it is time to leave.
///
/// - Nothing to do for as long as `options.idle` allows, also right after the start: does what
///   `options.prepare` asks for, and returns [`Reason::Idle`] if there is still nothing to do. The
///   last thing before that is a look at the backlogs, and whoever waits there is served.
/// - SIGTERM or SIGINT: accepts no more, resolves every [`Connection::closing`], waits until all
///   connections are done but at most for `options.drain`, ends those that are not, and returns
///   [`Reason::Signal`]. A second signal ends the wait at once, and makes it [`Reason::Hurry`].
///   Guards that belong to no connection are not waited for. The time does not count before
///   `options.grace` is done.
/// - More connections than `options.limits` allows: the one that is idle for longest is closed.
///   Where all are in use, the next ones wait in the backlog.
/// - A handler's future that is still running when its [`Activity`] is gone ends when this returns.
///
/// A socket that was handed over stays as it is, and who waits in its backlog is served by the next
/// instance. One from [`bind`](fn@super::bind) is unlinked first, then refuses, then is emptied:
/// nobody who got a connection loses it.
///
/// # Errors
///
/// Only what makes serving impossible from the start. A failed accept is logged, and tried again
/// after a rest.
pub async fn serve<F>(
    runtime: &Runtime,
    sockets: Vec<Socket>,
    options: Options,
    handler: impl Fn(Connection) -> F,
) -> io::Result<Reason>
where
    F: Future<Output = ()> + 'static,
{
    let Options {
        idle,
        notify,
        drain,
        signals,
        prepare,
        grace,
        limits,
    } = options;
    let mut doors = sockets
        .into_iter()
        .map(Door::new)
        .collect::<io::Result<Vec<_>>>()?;
    let connections = Connections::new(runtime, &idle, limits, handler);
    let _watchdog = notify.watchdog_interval().map(|interval| {
        let notify = notify.clone();
        runtime.spawn(async move {
            loop {
                notify.watchdog();
                rt::sleep(interval).await;
            }
        })
    });
    let mut timer = Timer::never();
    notify.ready();

    // Whether nothing has happened since all was prepared.
    let mut prepared = prepare.is_none();
    // The last accept failed.
    let mut failing = false;
    // One wait for all rounds: each new one would look at the pipes of the signals again.
    let mut asked = pin!(signals.next());
    let signal = loop {
        let mut preparation = None;
        match idle.state(rt::now()) {
            State::Busy => timer.reset(None),
            State::Until(until) => timer.reset(Some(until - rt::now())),
            State::Expired if !prepared => preparation = prepare.as_ref().map(Prepare::begin),
            State::Expired => {
                // From here to the return nothing is awaited: nobody can slip in between the look
                // and the leaving.
                let late = last_look(&mut doors);
                if late.is_empty() {
                    log::info!("nothing left to do, leaving");
                    notify.stopping();
                    return Ok(Reason::Idle);
                }
                late.into_iter()
                    .for_each(|stream| connections.start(stream));
                prepared = prepare.is_none();
                continue;
            }
        }
        prepared = prepare.is_none();
        let signal = async { Next::Signal(asked.as_mut().await) };
        let arrival = async {
            connections.registry.room().await;
            Next::Arrival(accept(&doors).await)
        };
        let quiet = async {
            let Some(preparation) = preparation else {
                or(idle.quiet(), timer.fired()).await;
                return Next::Time;
            };
            preparation.await;
            Next::Prepared
        };
        match or(signal, or(arrival, quiet)).await {
            Next::Signal(signal) => break signal?,
            Next::Arrival(Ok(stream)) => {
                failing = false;
                connections.start(stream);
                // A flood of arrivals must not starve those who are already here.
                yield_now().await;
            }
            Next::Arrival(Err(error)) => {
                // Once for each shortage, not once for each try.
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("cannot accept a connection: {error}");
                }
                or(connections.registry.relieve(), rt::sleep(REST)).await;
            }
            Next::Prepared => prepared = true,
            Next::Time => {}
        }
    };

    log::info!("asked to leave ({signal:?})");
    notify.stopping();
    doors
        .iter_mut()
        .flat_map(Door::close)
        .for_each(|stream| connections.start(stream));
    drop(doors);
    Ok(match connections.drain(grace, drain, &signals).await {
        Some(second) => Reason::Hurry(second),
        None => Reason::Signal(signal),
    })
}

/// What the accept loop waits for.
enum Next {
    Signal(io::Result<Signal>),
    Arrival(io::Result<Stream>),
    /// Of leaving, if it is still time to.
    Prepared,
    /// Of looking at the clock.
    Time,
}

/// The next connection at any door.
async fn accept(doors: &[Door]) -> io::Result<Stream> {
    poll_fn(|context| {
        let arrival = doors
            .iter()
            .map(|door| door.listener.poll_accept(context))
            .find(Poll::is_ready);
        arrival.unwrap_or(Poll::Pending)
    })
    .await
}

/// Who has come at the last moment? Where that is nobody, no door is left through which a
/// connection could get lost.
fn last_look(doors: &mut Vec<Door>) -> Vec<Stream> {
    let waiting: Vec<_> = doors.iter().filter_map(Door::look).collect();
    if !waiting.is_empty() {
        return waiting;
    }
    let paths: Vec<_> = doors
        .iter()
        .filter_map(|door| Some(door.file.as_ref()?.path().to_owned()))
        .collect();
    let late: Vec<_> = doors.iter_mut().flat_map(Door::close).collect();
    if !late.is_empty() {
        // Somebody came within these microseconds, and may want us to stay: open again.
        doors.retain(|door| door.handed_over);
        for path in paths {
            match bind(&path).map_err(io::Error::other).and_then(Door::new) {
                Ok(door) => doors.push(door),
                Err(error) => log::warn!("serving the last connections only: {error}"),
            }
        }
    }
    late
}

/// A listening socket at work.
struct Door {
    /// What is on disk, where we made it; gone once closed.
    file: Option<SocketFile>,
    listener: Listener,
    /// systemd holds the socket too: it stays open, and its backlog never gets lost.
    handed_over: bool,
}

impl Door {
    fn new(Socket { file, listener, .. }: Socket) -> io::Result<Self> {
        Ok(Self {
            handed_over: file.is_none(),
            file,
            listener: Listener::new(listener)?,
        })
    }

    /// The next one who waits, if any.
    fn look(&self) -> Option<Stream> {
        self.listener.try_accept().unwrap_or_else(|error| {
            log::debug!("the backlog cannot be read: {error}");
            None
        })
    }

    /// Takes a socket of our own out of the world, and returns who had come before.
    fn close(&mut self) -> Vec<Stream> {
        if self.handed_over {
            return Vec::new();
        }
        self.file = None;
        if let Err(error) = self.listener.refuse() {
            log::warn!("cannot stop listening: {error}");
        }
        std::iter::from_fn(|| self.look()).collect()
    }
}

/// All connections that are being served, and how to end them.
struct Connections<'a, H> {
    runtime: &'a Runtime,
    /// What they keep alive.
    idle: &'a Idle,
    handler: H,
    /// Counts them, with guards of its own.
    open: Idle,
    registry: Rc<Registry>,
    closing: Rc<Gate>,
    counting: Rc<Gate>,
    cut: Rc<Gate>,
}

impl<'a, H, F> Connections<'a, H>
where
    H: Fn(Connection) -> F,
    F: Future<Output = ()> + 'static,
{
    fn new(runtime: &'a Runtime, idle: &'a Idle, limits: Limits, handler: H) -> Self {
        let (open, registry) = (Idle::new(None), Registry::new(limits));
        let (closing, counting, cut) = Default::default();
        Self {
            runtime,
            idle,
            handler,
            open,
            registry,
            closing,
            counting,
            cut,
        }
    }

    fn start(&self, stream: Stream) {
        let guard = self.open.activity();
        let cut = Closing::new(&self.cut);
        let (closing, counting) = (Closing::new(&self.closing), Closing::new(&self.counting));
        let (open, requests) = self.registry.open();
        let handled = (self.handler)(Connection {
            stream,
            activity: self.idle.activity(),
            requests,
            closing,
            counting,
        });
        let task = async move {
            or(handled, or(cut, open.closed())).await;
            drop((guard, open));
        };
        self.runtime.spawn(task).detach();
    }

    /// Returns when all are done, by themselves or because `bound`, which counts from the end of
    /// `grace`, or a second signal ends them: then with the signal.
    async fn drain(
        &self,
        grace: Option<Prepare>,
        bound: Duration,
        signals: &Signals,
    ) -> Option<Signal> {
        self.closing.open();
        let hurry = async { signals.next().await.ok() };
        let unhurried = async {
            let bound = async {
                if let Some(grace) = grace {
                    grace.begin().await;
                }
                self.counting.open();
                rt::sleep(bound).await;
            };
            or(self.done(), bound).await;
            None
        };
        let second = or(unhurried, hurry).await;
        if self.open.is_busy() {
            log::warn!("ending connections that did not finish in time");
            self.cut.open();
            self.done().await;
        }
        second
    }

    async fn done(&self) {
        while self.open.is_busy() {
            self.open.quiet().await;
        }
    }
}

impl<H> Drop for Connections<'_, H> {
    fn drop(&mut self) {
        self.cut.open();
    }
}

/// Opens once, for everybody.
#[derive(Debug, Default)]
struct Gate {
    opened: Cell<bool>,
    event: Event,
}

impl Gate {
    fn open(&self) {
        self.opened.set(true);
        self.event.notify(usize::MAX);
    }
}

/// Resolves when the service comes to a step of its end, such as the beginning of the drain.
#[derive(Debug)]
pub struct Closing {
    gate: Rc<Gate>,
    listener: Option<EventListener>,
}

impl Closing {
    fn new(gate: &Rc<Gate>) -> Self {
        Self {
            gate: Rc::clone(gate),
            listener: None,
        }
    }
}

impl Clone for Closing {
    fn clone(&self) -> Self {
        Self::new(&self.gate)
    }
}

impl Future for Closing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let closing = &mut *self;
        while !closing.gate.opened.get() {
            let listener = closing
                .listener
                .get_or_insert_with(|| closing.gate.event.listen());
            ready!(Pin::new(listener).poll(context));
            closing.listener = None;
        }
        Poll::Ready(())
    }
}
