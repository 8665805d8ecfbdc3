//! A complete service: started by its socket, says everything back, and leaves when nobody talks to
//! it.
//!
//! `echo PATH [SECONDS]` listens on PATH where systemd hands no socket over, and leaves after
//! SECONDS (10).
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
use smol_dhcp_proxy::service::{self, Config, Connection};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(arguments.next().ok_or("usage: echo PATH [SECONDS]")?);
    if let Some(seconds) = arguments.next() {
        config.idle = Some(Duration::try_from_secs_f64(seconds.parse()?)?);
    }
    service::run(
        config,
        |Connection {
             stream,
             activity,
             closing,
             ..
         }| async move {
            let echo = async {
                let _ = futures_lite::io::copy(stream.clone(), stream).await;
            };
            or(echo, closing).await;
            drop(activity);
        },
    )
    .map_err(|error| error.to_string())?;
    Ok(())
}
