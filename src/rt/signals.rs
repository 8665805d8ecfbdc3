//! SIGTERM and SIGINT as futures, by a self-pipe for each.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_lite::future::or;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Watched;

/// Catches SIGTERM and SIGINT until dropped; after that they end the process again, as they do by
/// default.
#[derive(Debug)]
pub struct Signals {
    terminate: UnixStream,
    interrupt: UnixStream,
    over: Arc<AtomicBool>,
}

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, as a service manager sends it.
    Terminate,
    /// SIGINT, as a terminal sends it.
    Interrupt,
}

impl Signals {
    /// Catches the signals from now on.
    pub fn new() -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let catch = |signal| {
            let (reader, writer) = UnixStream::pair()?;
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&over))?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            io::Result::Ok(reader)
        };
        Ok(Self {
            terminate: catch(SIGTERM)?,
            interrupt: catch(SIGINT)?,
            over,
        })
    }

    /// Waits for the next signal. Several of a kind between two waits count as one.
    ///
    /// The pipes are watched for the length of a wait: signals are caught before there is a
    /// runtime, and not every runtime watches a descriptor then.
    ///
    /// # Errors
    ///
    /// The pipes cannot be watched, such as by two waits at once.
    pub async fn next(&self) -> io::Result<Signal> {
        or(
            caught(&self.terminate, Signal::Terminate),
            caught(&self.interrupt, Signal::Interrupt),
        )
        .await
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Waits for at least one byte in the pipe of `signal`, and takes up to 64.
async fn caught(pipe: &UnixStream, signal: Signal) -> io::Result<Signal> {
    let watched = Watched::new(pipe)?;
    // Not by `read_with`, which may read the pipe each time that anything wakes the task.
    loop {
        watched.readable().await?;
        match { pipe }.read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| signal),
        }
    }
}
