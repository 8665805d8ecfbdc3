//! Functions of the program's that the service calls, and why a service leaves.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use crate::rt::Signal;

/// Why a service left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing was left to do.
    Idle,
    /// A signal, after which the connections were drained.
    Signal(Signal),
    /// A second signal during the drain: the program should leave at once.
    SecondSignal(Signal),
}

/// A function of the program's that the service calls at a step of its end.
#[derive(Clone)]
pub(super) struct Hook(Rc<dyn Fn() -> BoxFuture>);

/// One call of a [`Hook`] or of a handler, boxed: the accept loop is compiled once for all.
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
