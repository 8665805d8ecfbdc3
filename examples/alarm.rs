//! A service that systemd wakes: when nobody talks to it, it asks to be started again later, and
//! leaves.
//!
//! `alarm PATH SECONDS WAKE [FALLBACK]` listens on PATH where systemd hands no socket over. Idle
//! for SECONDS, it has its unit started again in WAKE seconds, and once more in FALLBACK seconds in
//! case that this one fails; with a WAKE of 0 it wants no wake at all. Where it cannot be woken, it
//! says so and stays. What it does, it says on stderr.

use std::cell::OnceCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{
    self, Activity, Connection, Idle, Options, Prepare, Reason, Wakeup, activation,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: alarm PATH SECONDS WAKE [FALLBACK]")?;
    let times: Vec<_> = arguments
        .map(|text| seconds(&text))
        .collect::<Result<_, _>>()?;
    let &[timeout, wake, ref fallback @ ..] = times.as_slice() else {
        return Err("two times at least".into());
    };
    let fallback = fallback.first().copied();

    let mut sockets = activation::listen_fds().map_err(|error| error.to_string())?;
    let wakeup = Wakeup::find(&sockets).map(Rc::new);
    match &wakeup {
        Ok(wakeup) if Wakeup::woken_by_timer() => say(&format!("woken by {}", wakeup.timer())),
        Ok(wakeup) => say(&format!("runs as {}", wakeup.unit())),
        Err(reason) => say(&format!("cannot be woken: {reason}")),
    }
    let idle = Idle::new(Some(timeout));
    // Without a connection there is nothing to wait for.
    if Wakeup::woken_by_timer() {
        idle.set_timeout(Some(Duration::ZERO));
    }
    // An activity in here is an objection to leaving, for as long as the process lives.
    let objection = Rc::new(OnceCell::<Activity>::new());
    let (alarm, here) = (wakeup.clone().ok(), idle.clone());
    let prepare = Prepare::new(move || {
        let (alarm, here, objection) = (alarm.clone(), here.clone(), Rc::clone(&objection));
        async move {
            let ready = match &alarm {
                None => Err(std::io::Error::other("nobody to ask")),
                Some(alarm) if wake.is_zero() => alarm.disarm().await,
                Some(alarm) => alarm.arm(wake, fallback).await,
            };
            match ready {
                Ok(()) => say("prepared"),
                Err(error) => {
                    say(&format!("stays: {error}"));
                    let _ = objection.set(here.activity());
                }
            }
        }
    });
    let options = Options {
        prepare: Some(prepare),
        ..Options::new(idle.clone())?
    };
    if sockets.is_empty() {
        sockets.push(service::bind(Path::new(&path)).map_err(|error| error.to_string())?);
    }
    let handler = move |Connection {
                            stream,
                            activity,
                            closing,
                            ..
                        }| {
        idle.set_timeout(Some(timeout));
        async move {
            let echo = async {
                let _ = futures_lite::io::copy(stream.clone(), stream).await;
            };
            or(echo, closing).await;
            drop(activity);
        }
    };
    rt::block_on(async move |runtime| {
        let reason = service::serve(&runtime, sockets, options, handler).await?;
        if let (Reason::Signal(_), Ok(wakeup)) = (reason, &wakeup) {
            // Who stops the service alone wants it back at its time; who stops all does not.
            let stopped = wakeup.is_being_stopped().await;
            say(&format!(
                "asked to leave, and all is being stopped: {stopped}"
            ));
            if !stopped && !wake.is_zero() {
                wakeup
                    .arm(wake, fallback)
                    .await
                    .unwrap_or_else(|error| say(&format!("will not be back: {error}")));
            }
        }
        Ok(())
    })
}

fn seconds(text: &str) -> Result<Duration, Box<dyn std::error::Error>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

#[expect(clippy::print_stderr, reason = "what this example is there for")]
fn say(text: &str) {
    eprintln!("alarm: {text}");
}
