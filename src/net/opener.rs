//! A thread that finds network namespaces for a confined process.
//!
//! Landlock refuses `/proc/PID/ns/net` of a process outside its domain to every thread inside it,
//! whatever the thread's capabilities (the link counts as ptrace(2)). This thread starts before the
//! process enters its domain and stays outside. Its own system call filter has to leave it nothing
//! but open(2) with `O_PATH`: what such a descriptor leads to is neither read nor written, and to
//! open it for more than that is up to the confined threads again.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use nix::sys::signal::SigSet;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// Room for openat(2) and for waiting, in bytes.
const STACK: usize = 32 * 1024;

const FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// One path at a time.
#[derive(Debug)]
enum OpenState {
    Idle,
    Asked(CString),
    /// The path comes back with the answer: the thread frees no memory, for which glibc would give
    /// it an arena of its own.
    Answered {
        found: Result<OwnedFd>,
        _path: CString,
    },
}

#[derive(Debug)]
struct Opener {
    /// Held by a caller for the whole of its exchange.
    turn: Mutex<()>,
    exchange: Mutex<OpenState>,
    changed: Condvar,
}

static OPENER: OnceLock<&'static Opener> = OnceLock::new();

/// A thread that has been started, and confines itself meanwhile.
#[derive(Debug)]
pub struct Starting {
    opener: &'static Opener,
    outcome: Receiver<io::Result<()>>,
}

/// Starts the thread, once for the process; `None` if that has been done. It calls `confine` before
/// anything else, at the same time as the caller goes on to confine itself: to wait for it at once
/// takes as long as both.
///
/// # Errors
///
/// The thread could not be started.
pub fn start(
    confine: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<Option<Starting>> {
    if OPENER.get().is_some() {
        return Ok(None);
    }
    let opener: &'static Opener = Box::leak(Box::new(Opener {
        turn: Mutex::new(()),
        exchange: Mutex::new(OpenState::Idle),
        changed: Condvar::new(),
    }));
    let (report, outcome) = sync_channel(1);
    thread::Builder::new()
        .name("opener".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // A handler would make calls that this thread may not make. The other threads take the
            // signals.
            let confined = SigSet::all()
                .thread_block()
                .map_err(io::Error::from)
                .and_then(|()| confine());
            let serves = confined.is_ok();
            let _ = report.send(confined);
            if serves {
                opener.serve();
            }
        })?;
    Ok(Some(Starting { opener, outcome }))
}

impl Starting {
    /// Waits until the thread serves.
    ///
    /// # Errors
    ///
    /// `confine` failed in it; the thread has ended.
    pub fn finish(self) -> io::Result<()> {
        self.outcome.recv().map_err(io::Error::other)??;
        // Of two starts at the same time either thread will do.
        let _ = OPENER.set(self.opener);
        Ok(())
    }
}

/// Finds the file at `path` (open(2), `O_PATH`), by the thread where this one is refused and the
/// thread is there.
pub(super) fn find(path: &Path) -> Result<OwnedFd> {
    match (openat(CWD, path, FLAGS, Mode::empty()), OPENER.get()) {
        (Err(Errno::ACCESS), Some(opener)) => opener.find(path),
        (found, _) => found,
    }
}

impl Opener {
    fn find(&self, path: &Path) -> Result<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut exchange = self.lock();
        *exchange = OpenState::Asked(path);
        self.changed.notify_all();
        loop {
            exchange = self
                .changed
                .wait(exchange)
                .unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *exchange, OpenState::Idle) {
                OpenState::Answered { found, .. } => return found,
                unanswered => *exchange = unanswered,
            }
        }
    }

    fn serve(&self) -> ! {
        let mut exchange = self.lock();
        loop {
            match std::mem::replace(&mut *exchange, OpenState::Idle) {
                OpenState::Asked(path) => {
                    let found = openat(CWD, &*path, FLAGS, Mode::empty());
                    *exchange = OpenState::Answered { found, _path: path };
                    self.changed.notify_all();
                }
                other => *exchange = other,
            }
            exchange = self
                .changed
                .wait(exchange)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_answers_one_caller_after_the_other() {
        let opener: &'static Opener = Box::leak(Box::new(Opener {
            turn: Mutex::new(()),
            exchange: Mutex::new(OpenState::Idle),
            changed: Condvar::new(),
        }));
        thread::spawn(|| opener.serve());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        assert!(opener.find(Path::new("/proc/self/ns/net")).is_ok());
                        assert_eq!(
                            opener.find(Path::new("/nonexistent")).err(),
                            Some(Errno::NOENT)
                        );
                        assert_eq!(
                            opener.find(Path::new("with\0nul")).err(),
                            Some(Errno::INVAL)
                        );
                    }
                });
            }
        });
    }

    #[test]
    fn a_thread_that_cannot_be_confined_does_not_serve() {
        let starting = start(|| Err(io::ErrorKind::Unsupported.into()))
            .unwrap()
            .expect("the first start");
        let error = starting.finish().unwrap_err();
        assert_eq!(
            (error.kind(), OPENER.get().is_none()),
            (io::ErrorKind::Unsupported, true)
        );
    }
}
