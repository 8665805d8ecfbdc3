//! The floor of `cargo bench --bench activation`: a socket-activated program that can do nothing
//! but answer once.

use std::io::{Read, Write};

use smol_dhcp_proxy::service::activation;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sockets = activation::listen_fds()?;
    let socket = sockets.first().ok_or("started without a socket")?;
    let (mut stream, _) = socket.listener.accept()?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // Whoever asked has the answer, and ends this.
    let _ = stream.read(&mut byte)?;
    Ok(())
}
