//! A timer that can be set again, built on [`sleep`].

use std::fmt;
use std::future::pending;
use std::time::Duration;

use futures_lite::future::BoxedLocal;

use super::{now, sleep};
use crate::time::Instant;

/// A timer that can be set again, for an idle timeout.
pub struct Timer {
    due: Option<Instant>,
    /// The sleep under way, and its end, which is at `due` or earlier.
    ///
    /// A sleep that ends too early is followed by another one. Starting each takes up to six
    /// system calls, because it wakes the reactor, and a later `due` is rarely the last one.
    asleep: Option<(Instant, BoxedLocal<()>)>,
}

impl Timer {
    /// Returns a timer that never fires until it is set.
    pub fn never() -> Self {
        Self {
            due: None,
            asleep: None,
        }
    }

    /// Sets the timer to `delay` from now, in place of the previous time; `None` stops it.
    pub fn reset(&mut self, delay: Option<Duration>) {
        self.due = delay.map(|delay| now() + delay);
    }

    /// Waits until the timer fires.
    pub async fn fired(&mut self) {
        let Some(due) = self.due else {
            return pending().await;
        };
        while now() < due {
            self.asleep.take_if(|(end, _)| *end > due);
            let (_, asleep) = self
                .asleep
                .get_or_insert_with(|| (due, Box::pin(sleep(due - now()))));
            asleep.await;
            self.asleep = None;
        }
        self.due = None;
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}
