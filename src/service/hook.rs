//! Hooks of the program, and the reason for an exit.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use crate::rt::Signal;

/// The reason for the exit of a service.
///
/// ```
/// use std::time::Duration;
/// use smol_dhcp_proxy::service::{Reason, Service, Socket};
///
/// let service = Service::on(Vec::<Socket>::new()).idle_timeout(Duration::ZERO);
/// let is_hurried = match service.run(|_| async {})? {
///     Reason::Idle | Reason::Signal(_) => false,
///     Reason::SecondSignal(_) => true, // skip what can wait until the next start
///     _ => false,
/// };
/// assert!(!is_hurried);
/// # Ok::<(), smol_dhcp_proxy::service::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The idle timeout was over.
    Idle,
    /// A signal, after which the connections were drained.
    Signal(Signal),
    /// A second signal during the drain: the program should exit at once.
    SecondSignal(Signal),
}

/// A function of the program that the service calls before it exits.
#[derive(Clone)]
pub(super) struct Hook(Rc<dyn Fn() -> BoxFuture>);

/// The future of a [`Hook`] or of a handler, boxed so that the accept loop is compiled only once.
pub(super) type BoxFuture = Pin<Box<dyn Future<Output = ()>>>;

impl Hook {
    pub(super) fn new<F>(hook: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self(Rc::new(move || Box::pin(hook())))
    }

    pub(super) fn call(&self) -> BoxFuture {
        (self.0)()
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook(..)")
    }
}
