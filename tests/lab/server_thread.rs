//! The thread of a server that is embedded in a test.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Result;
use super::namespace::Namespace;
use super::packets::Tap;

/// A thread that serves on one link. Dropped, it has ended.
#[derive(Debug)]
pub struct ServerThread {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Serves until the other end of the socket is closed.
pub type Serve<S> = fn(&Tap, &UnixStream, &Mutex<S>) -> Result;

/// The state of a server, with a place for the error that ends its thread.
pub trait State: Send + 'static {
    fn fault(&mut self) -> &mut Option<String>;
}

impl ServerThread {
    /// Starts `serve` on the link `name` of `namespace`. The port, if any, stays open as long as
    /// the thread runs.
    pub fn start<S: State>(
        (namespace, name): (&Namespace, &str),
        state: &Arc<Mutex<S>>,
        port: Option<UdpSocket>,
        serve: Serve<S>,
    ) -> Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let tap = namespace.run(|| Tap::open(name))?;
        let shared = Arc::clone(state);
        let thread = std::thread::spawn(move || {
            let _port = port;
            if let Err(error) = serve(&tap, &stopped, &shared) {
                *lock(&shared).fault() = Some(error.to_string());
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes the DHCP server's port. No socket reads it: without it the kernel tells clients that the
/// port is unreachable.
pub fn server_port(namespace: &Namespace) -> Result<UdpSocket> {
    namespace.run(|| {
        Ok(UdpSocket::bind(SocketAddrV4::new(
            Ipv4Addr::UNSPECIFIED,
            67,
        ))?)
    })
}

pub fn lock<S>(state: &Mutex<S>) -> MutexGuard<'_, S> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an error if the thread has ended with one.
pub fn check_running<S: State>(state: &Mutex<S>) -> Result {
    match lock(state).fault() {
        Some(fault) => Err(format!("the DHCP server failed: {fault}").into()),
        None => Ok(()),
    }
}
