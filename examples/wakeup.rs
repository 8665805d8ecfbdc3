//! A service that exits when idle, and that a transient timer starts again.
//!
//! `wakeup PATH SECONDS WAKE [FALLBACK]` echoes on its socket. After SECONDS without a connection it
//! arms a timer and exits. The timer starts the unit in WAKE seconds, and again in FALLBACK seconds
//! in case that start fails. WAKE 0 cancels the timer. If systemd cannot wake the service, it keeps
//! running. It logs to stderr.
//!
//! Use the units of `echo.rs`; the timer needs no file. `systemctl list-timers` shows it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{Activity, Connection, Reason, Service, Wakeup};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: wakeup PATH SECONDS WAKE [FALLBACK]")?;
    let times = arguments.map(seconds).collect::<Result<Vec<_>>>()?;
    let &[timeout, wake, ref rest @ ..] = times.as_slice() else {
        return Err("two times at least".into());
    };
    let fallback = rest.first().copied();

    let service = Service::new(path).idle_timeout(timeout).open()?;
    let wakeup = Wakeup::find(service.sockets());
    match &wakeup {
        Ok(wakeup) if Wakeup::woken_by_timer() => log(&format!("woken by {}", wakeup.timer())),
        Ok(wakeup) => log(&format!("runs as {}", wakeup.unit())),
        Err(reason) => log(&format!("cannot be woken: {reason}")),
    }
    let idle = service.idle().clone();
    // A start by the timer is for the service's own work: there is no connection to wait for.
    if Wakeup::woken_by_timer() {
        idle.set_timeout(Some(Duration::ZERO));
    }

    let (arm, for_hook) = (wakeup.clone(), idle.clone());
    // A stored activity keeps the service running.
    let keep_alive = Rc::new(RefCell::new(None::<Activity>));
    let service = service.before_exit(move || {
        let (arm, idle, keep_alive) = (arm.clone(), for_hook.clone(), Rc::clone(&keep_alive));
        async move {
            let armed = match &arm {
                Ok(wakeup) if wake.is_zero() => wakeup.disarm().await,
                Ok(wakeup) => wakeup.arm(wake, fallback).await,
                Err(reason) => Err(io::Error::other(*reason)),
            };
            match armed {
                Ok(()) => log("prepared"),
                Err(error) => {
                    log(&format!("stays: {error}"));
                    keep_alive.replace(Some(idle.activity()));
                }
            }
        }
    });
    let reason = service.run(move |connection| {
        idle.set_timeout(Some(timeout));
        echo(connection)
    })?;
    if let (Reason::Signal(_), Ok(wakeup)) = (reason, wakeup) {
        rt::block_on(async move |_| stopped(&wakeup, wake, fallback).await);
    }
    Ok(())
}

async fn echo(connection: Connection) {
    let stream = connection.stream;
    let copied = async {
        let _ = futures_lite::io::copy(stream.clone(), stream).await;
    };
    or(copied, connection.shutdown).await;
}

/// Arms the timer again after SIGTERM, unless all units that start the service are being stopped.
async fn stopped(wakeup: &Wakeup, wake: Duration, fallback: Option<Duration>) {
    let is_end = wakeup.is_being_stopped().await;
    log(&format!("shut down, all units being stopped: {is_end}"));
    if !is_end
        && !wake.is_zero()
        && let Err(error) = wakeup.arm(wake, fallback).await
    {
        log(&format!("no timer: {error}"));
    }
}

fn seconds(text: String) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

#[expect(clippy::print_stderr, reason = "its log")]
fn log(text: &str) {
    eprintln!("wakeup: {text}");
}
