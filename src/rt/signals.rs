//! SIGTERM and SIGINT as futures, by a self-pipe for each.

use std::cell::{OnceCell, RefCell};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_lite::future::or;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Watched;

/// Catches SIGTERM and SIGINT until dropped; after that they end the process again, as they do by
/// default.
///
/// Signals are caught before there is a runtime, and not every runtime watches a descriptor then:
/// the pipes are watched from the first wait on.
#[derive(Debug)]
pub struct Signals {
    /// The pipes of SIGTERM and SIGINT, until they are watched.
    caught: RefCell<Option<[UnixStream; 2]>>,
    watched: OnceCell<[Watched<UnixStream>; 2]>,
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
            caught: RefCell::new(Some([catch(SIGTERM)?, catch(SIGINT)?])),
            watched: OnceCell::new(),
            over,
        })
    }

    /// Waits for the next signal. Several of a kind between two waits count as one.
    pub async fn next(&self) -> io::Result<Signal> {
        if let Some([terminate, interrupt]) = self.caught.take() {
            let watched = [Watched::new(terminate)?, Watched::new(interrupt)?];
            self.watched.set(watched).expect("the pipes are taken once");
        }
        // None after a failure of the above.
        let [terminate, interrupt] = self.watched.get().ok_or(io::ErrorKind::NotConnected)?;
        let terminate = async { drain(terminate).await.map(|()| Signal::Terminate) };
        let interrupt = async { drain(interrupt).await.map(|()| Signal::Interrupt) };
        or(terminate, interrupt).await
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Waits for at least one byte, and takes up to 64 that are there.
async fn drain(pipe: &Watched<UnixStream>) -> io::Result<()> {
    // Not by `read_with`, which may read the pipe each time that anything wakes the task.
    loop {
        pipe.readable().await?;
        match pipe.get_ref().read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| ()),
        }
    }
}
