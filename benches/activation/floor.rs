//! The floor of `cargo bench --bench activation`: a socket-activated program that answers once, with
//! std alone.

use std::io::{self, Read, Write};

use smol_dhcp_proxy::service::{AnyListener, Socket, activation};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match activation::listen_fds()?.first().map(Socket::listener) {
        Some(AnyListener::Unix(listener)) => answer(listener.accept()?.0),
        _ => Err("expected a Unix socket from the service manager".into()),
    }
}

fn answer(mut stream: impl Read + Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // The client has its answer, and kills this process.
    let _: io::Result<usize> = stream.read(&mut byte);
    Ok(())
}
