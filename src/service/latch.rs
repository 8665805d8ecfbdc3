//! A flag that is set once and wakes all tasks that wait for it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use event_listener::{Event, EventListener};

/// A flag that is never cleared.
#[derive(Debug, Default)]
pub(super) struct Latch {
    is_set: Cell<bool>,
    event: Event,
}

impl Latch {
    pub(super) fn set(&self) {
        self.is_set.set(true);
        self.event.notify(usize::MAX);
    }
}

/// A future that resolves at a step of the service's shutdown, which
/// [`Connection`](super::Connection) names. All clones resolve together, and stay resolved.
///
/// ```standalone_crate
/// use std::net::{TcpListener, TcpStream};
///
/// use rustix::process::{Signal, getpid, kill_process};
/// use smol_dhcp_proxy::service::{self, Connection, Reason, Service};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let _client = TcpStream::connect(listener.local_addr()?)?;
/// let reason = Service::on([listener])
///     .run(|Connection { stream, shutdown, .. }| async move {
///         kill_process(getpid(), Signal::TERM).expect("a process may signal itself");
///         shutdown.await; // finish and hang up
///         drop(stream);
///     })?;
/// assert_eq!(reason, Reason::Signal(service::Signal::Terminate));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Shutdown {
    latch: Rc<Latch>,
    listener: Option<EventListener>,
}

impl Shutdown {
    pub(super) fn new(latch: &Rc<Latch>) -> Self {
        Self {
            latch: Rc::clone(latch),
            listener: None,
        }
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Self {
        Self::new(&self.latch)
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        while !this.latch.is_set.get() {
            let listener = this
                .listener
                .get_or_insert_with(|| this.latch.event.listen());
            ready!(Pin::new(listener).poll(context));
            this.listener = None;
        }
        Poll::Ready(())
    }
}
