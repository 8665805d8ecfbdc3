//! The echo service as one writes it with tokio alone, on as many threads as there are processors.
//!
//! `echo-threads PATH` listens on PATH and never leaves. It is what `benches/accept.rs` compares
//! with: a task that may move to another thread has to be `Send`, which nothing of the service
//! library is.

use std::os::unix::net::UnixListener;

use tokio::io::copy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = UnixListener::bind(std::env::args().nth(1).ok_or("usage: echo-threads PATH")?)?;
    // The very first thing, lest accept4(2) hang: see tests/pitfall.rs.
    listener.set_nonblocking(true)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .build()?
        .block_on(async {
            // What block_on itself runs stays on this thread; a task may run beside those that it
            // starts.
            let accepting = tokio::spawn(async {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loop {
                    let (mut stream, _) = listener.accept().await?;
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = stream.split();
                        let _ = copy(&mut reader, &mut writer).await;
                    });
                }
            });
            let ended: std::io::Result<()> = accepting.await?;
            Ok(ended?)
        })
}
