//! A complete service: its socket starts it, it echoes, and it exits when idle.
//!
//! `echo PATH [SECONDS]` listens on PATH if systemd hands over no socket. It exits after SECONDS
//! (default: 10) without a connection.
//!
//! ```ini
//! # echo.socket
//! [Socket]
//! ListenStream=%t/echo.sock
//! SocketMode=0660
//! [Install]
//! WantedBy=sockets.target
//!
//! # echo.service
//! [Service]
//! Type=notify
//! ExecStart=/usr/local/bin/echo /run/echo.sock 10
//! ```

use std::time::Duration;

use futures_lite::future::or;
use smol_dhcp_proxy::service::{Connection, Service};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut service = Service::new(arguments.next().ok_or("usage: echo PATH [SECONDS]")?);
    if let Some(seconds) = arguments.next() {
        service = service.idle_timeout(Duration::try_from_secs_f64(seconds.parse()?)?);
    }
    let handler = |Connection {
                       stream, shutdown, ..
                   }: Connection| async move {
        let echo = async {
            let _ = futures_lite::io::copy(stream.clone(), stream).await;
        };
        or(echo, shutdown).await;
    };
    service.run(handler)?;
    Ok(())
}
