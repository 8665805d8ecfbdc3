//! A line on a terminal that tells how far the search is.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::time::Instant;

/// The time before the first line, and between two.
const INTERVAL: Duration = Duration::from_secs(1);

/// A line on standard error that is written over, if that is a terminal. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct ProgressLine {
    next: Option<Instant>,
    is_shown: bool,
}

impl ProgressLine {
    pub(super) fn new(now: Instant) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            next: is_terminal.then_some(now + INTERVAL),
            is_shown: false,
        }
    }

    /// Returns the time of the next line.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Shows `text` if it is time.
    pub(super) fn show(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if self.next.is_some_and(|next| next <= now) {
            // What cannot be written is not missed.
            let _ = write!(io::stderr(), "\r{}{CLEAR}", text());
            self.next = Some(now + INTERVAL);
            self.is_shown = true;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r{CLEAR}");
        }
    }
}

/// Clears the rest of the line (ECMA-48 §8.3.41).
const CLEAR: &str = "\x1b[K";
