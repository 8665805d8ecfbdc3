//! An echo service with tokio alone, on one thread for each processor.
//!
//! `echo-threads PATH` listens on PATH and never exits. `benches/accept.rs` compares with it. The
//! service library cannot run this way: a task that may move to another thread has to be `Send`.

use std::os::unix::net::UnixListener;

use tokio::io::copy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = UnixListener::bind(std::env::args().nth(1).ok_or("usage: echo-threads PATH")?)?;
    // Without this, accept4(2) would hang: see tests/pitfall.rs.
    listener.set_nonblocking(true)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .build()?
        .block_on(async {
            // A task, because the future of block_on itself stays on this thread.
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
