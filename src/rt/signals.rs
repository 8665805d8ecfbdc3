//! SIGTERM and SIGINT as futures, by one self-pipe each.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_lite::future::or;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Watched;

/// Catches SIGTERM and SIGINT until dropped. After that they end the process, as by default.
#[derive(Debug)]
pub struct Signals {
    terminate: UnixStream,
    interrupt: UnixStream,
    is_default: Arc<AtomicBool>,
}

/// A signal that asks the process to end.
///
/// ```
/// use smol_dhcp_proxy::service::{Reason, Signal};
///
/// /// Returns the exit status that a shell expects after an interrupt.
/// fn exit_status(reason: Reason) -> u8 {
///     match reason {
///         Reason::Signal(Signal::Interrupt) | Reason::SecondSignal(Signal::Interrupt) => 130,
///         _ => 0,
///     }
/// }
/// assert_eq!(exit_status(Reason::Signal(Signal::Terminate)), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, which a service manager sends.
    Terminate,
    /// SIGINT, which a terminal sends.
    Interrupt,
}

impl Signals {
    /// Starts to catch the signals.
    pub fn new() -> io::Result<Self> {
        let is_default = Arc::new(AtomicBool::new(false));
        let catch = |signal| {
            let (reader, writer) = UnixStream::pair()?;
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&is_default))?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            io::Result::Ok(reader)
        };
        Ok(Self {
            terminate: catch(SIGTERM)?,
            interrupt: catch(SIGINT)?,
            is_default,
        })
    }

    /// Waits for the next signal. Several of the same kind between two waits count as one.
    ///
    /// The pipes are watched only during a wait: signals are caught before the runtime starts, and
    /// not every runtime can watch a descriptor then.
    ///
    /// # Errors
    ///
    /// The pipes cannot be watched, for example by two waits at once.
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
        self.is_default.store(true, Ordering::SeqCst);
    }
}

/// Waits for at least one byte in the pipe of `signal`, and reads up to 64.
async fn caught(pipe: &UnixStream, signal: Signal) -> io::Result<Signal> {
    let watched = Watched::new(pipe)?;
    // `read_with` might read the pipe each time that anything wakes the task.
    loop {
        watched.readable().await?;
        match { pipe }.read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| signal),
        }
    }
}
