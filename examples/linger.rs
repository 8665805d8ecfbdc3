//! A service that does not hurry: its connections learn that it is about to leave, and stay for as
//! long as they may.
//!
//! `linger PATH MILLISECONDS` listens on PATH and, at a signal, gives its connections that long. It
//! is what the other half of the library looks like: parts instead of `service::run`, a guard that
//! belongs to no connection, and a bounded drain.

use std::path::Path;
use std::time::Duration;

use futures_lite::AsyncWriteExt;
use futures_lite::future::pending;
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{self, Connection, Idle, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(drain)) = (arguments.next(), arguments.next()) else {
        return Err("usage: linger PATH MILLISECONDS".into());
    };
    let drain = Duration::from_millis(drain.parse()?);
    // Signals are caught before the socket is made, so that none leaves its file behind.
    let options = Options {
        drain,
        ..Options::new(Idle::new(None))?
    };
    let socket = service::bind(Path::new(&path)).map_err(|error| error.to_string())?;
    // As a lease has one: a reason to stay awake, and none to stay at a signal.
    let _guard = options.idle.activity();
    let handler = |Connection {
                       mut stream,
                       closing,
                       ..
                   }: Connection| async move {
        closing.await;
        let _ = stream.write_all(b"closing").await;
        pending::<()>().await;
    };
    rt::block_on(async move |runtime| {
        service::serve(&runtime, vec![socket], options, handler).await
    })?;
    Ok(())
}
