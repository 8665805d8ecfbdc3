//! A thread that resolves the paths of network namespaces for a confined process.
//!
//! To threads inside a Landlock domain, `/proc/PID/ns/net` of a process outside is forbidden,
//! whatever their capabilities (the link counts as ptrace(2)). This thread starts before the
//! process enters its domain, and stays outside. Its own system call filter must allow only open(2)
//! with `O_PATH`: such a descriptor can be neither read nor written, and only the confined threads
//! can reopen the file.

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

/// The stack of the thread in bytes, enough for openat(2) and for the wait.
const STACK: usize = 32 * 1024;

const FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// The state of the exchange of one path.
#[derive(Debug)]
enum OpenState {
    Idle,
    Requested(CString),
    /// The path returns with the answer, so that the thread frees no memory: glibc would allocate an
    /// arena for it.
    Answered {
        found: Result<OwnedFd>,
        _path: CString,
    },
}

#[derive(Debug)]
struct Opener {
    /// Locked by a caller for the length of its exchange.
    turn: Mutex<()>,
    exchange: Mutex<OpenState>,
    changed: Condvar,
}

static OPENER: OnceLock<&'static Opener> = OnceLock::new();

/// A started thread that still confines itself.
#[derive(Debug)]
pub struct Starting {
    opener: &'static Opener,
    outcome: Receiver<io::Result<()>>,
}

/// Starts the thread, which first calls `confine`. Returns `None` if it was started before.
///
/// The thread and its caller should confine themselves at the same time: call
/// [`finish`](Starting::finish) only after that.
///
/// # Errors
///
/// The thread cannot be started.
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
            // A signal handler makes system calls that this thread may not make. Other threads take
            // the signals.
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
    /// `confine` failed, and the thread has ended.
    pub fn finish(self) -> io::Result<()> {
        self.outcome.recv().map_err(io::Error::other)??;
        // After two concurrent starts, either thread serves.
        let _ = OPENER.set(self.opener);
        Ok(())
    }
}

/// Resolves `path` (open(2), `O_PATH`). If this thread gets EACCES, asks the opener thread, if that
/// runs.
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
        *exchange = OpenState::Requested(path);
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
                OpenState::Requested(path) => {
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
