//! The pitfall behind this project: a listening socket from systemd, used by tokio as it is.
//!
//! `cargo test --release --features tokio-twin --test pitfall` plays systemd: it listens on a
//! blocking socket, starts itself again with that as standard input, connects once, and waits for
//! the end of the connection. The child should exit after a short idle timeout. It does so only
//! with O_NONBLOCK: without, it hangs in accept4(2) for ever, and the timeout around its accept
//! never fires, because the thread that would fire it is the one in the system call.
//!
//! The evidence is /proc/PID/syscall, the present system call of a process. Every wait is bounded,
//! and the child is killed in any case. A program without a harness, because /proc shows the first
//! thread; the exit code is 0 if everything is as described.
//!
//! Since 1.44 a debug build of tokio panics instead. There the flag is removed after tokio has
//! checked it, to see the hang all the same: it belongs to the socket, and any process that shares
//! the socket can do so at any time.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::libc::SYS_accept4;
use smol_dhcp_proxy::rt::now;
use tokio::time::timeout;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The variable that makes this program the child, and says how it treats its socket.
const HOW: &str = "PITFALL_SOCKET";
/// The idle timeout of the child.
const IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// The time within which it would have left.
const LONG: Duration = Duration::from_secs(2);
/// The time between two looks at the child.
const GLANCE: Duration = Duration::from_millis(10);

fn main() -> Result {
    // cargo has arguments of its own.
    if let Ok(how) = std::env::var(HOW) {
        return serve(&how);
    }
    let mut hanging = Play::begin("blocking")?;
    let ended = hanging.end()?;
    if ended.is_some() != cfg!(debug_assertions) {
        return Err(format!("a debug build should panic, another one hang: {ended:?}").into());
    }
    if let Some((status, words)) = ended {
        println!("blocking: the child ends ({status}) and says\n{words}");
        if !words.contains("Registering a blocking socket") {
            return Err("for another reason than that its socket blocks".into());
        }
        hanging = Play::begin("late")?;
        if let Some((status, words)) = hanging.end()? {
            return Err(format!("the child ends ({status}): {words}").into());
        }
    }
    hanging.hangs_in_accept()?;
    drop(hanging);

    let begun = now();
    match Play::begin("nonblocking")?.end()? {
        Some((status, _)) if status.success() => {
            println!(
                "nonblocking: the child has left by itself, after {:?}",
                now() - begun
            );
            Ok(())
        }
        other => Err(format!("with O_NONBLOCK the child should leave: {other:?}").into()),
    }
}

/// The child: closes every connection at standard input, until it is idle for long enough.
fn serve(how: &str) -> Result {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        listener.set_nonblocking(how != "blocking")?;
        let shared = listener.try_clone()?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        shared.set_nonblocking(how == "nonblocking")?;
        while let Ok(connection) = timeout(IDLE_TIMEOUT, listener.accept()).await {
            drop(connection?);
        }
        Ok(())
    })
}

/// A child that has served one connection. It does not outlive this.
struct Play(Child);

impl Play {
    fn begin(how: &str) -> Result<Self> {
        let address =
            SocketAddr::from_abstract_name(format!("pitfall-{}-{how}", std::process::id()))?;
        let listener = UnixListener::bind_addr(&address)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(HOW, how)
            .stdin(OwnedFd::from(listener))
            .stderr(Stdio::piped());
        let play = Self(command.spawn()?);
        // Now the child alone has the socket: its end closes the connection, too.
        drop(command);
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.set_read_timeout(Some(10 * LONG))?;
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err("the child accepts no connection".into())
            }
            _ => Ok(play),
        }
    }

    /// Returns how it ended and what it printed; `None` where it did not end within [`LONG`].
    fn end(&mut self) -> Result<Option<(ExitStatus, String)>> {
        let begun = now();
        while now() - begun < LONG {
            if let Some(status) = self.0.try_wait()? {
                let mut words = String::new();
                self.0
                    .stderr
                    .take()
                    .ok_or("asked for once")?
                    .read_to_string(&mut words)?;
                return Ok(Some((status, words)));
            }
            sleep(GLANCE);
        }
        Ok(None)
    }

    /// Checks by the kernel's word that a child which has not ended is in accept4(2).
    fn hangs_in_accept(&self) -> Result {
        let proc = |file| fs::read_to_string(format!("/proc/{}/{file}", self.0.id()));
        let (call, channel) = (proc("syscall")?, proc("wchan").unwrap_or_default());
        if call.split(' ').next() != Some(&SYS_accept4.to_string()) {
            return Err(format!("the child should hang in accept4, and is in {call}").into());
        }
        println!(
            "blocking: {LONG:?} after its last connection the child is in accept4(2) (wait channel {channel});"
        );
        println!("          the timeout of {IDLE_TIMEOUT:?} around it has not fired");
        Ok(())
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        // Both do nothing where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
