//! The two echo servers that need no runtime: a blocking loop, and a bare epoll loop.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};

use crate::Result;

/// The size of the buffer in bytes, larger than every message.
const BUFFER: usize = 8192;

/// Serves until it is killed.
pub fn serve(kind: &str, path: &str) -> Result {
    let listener = UnixListener::bind(path)?;
    match kind {
        "std" => blocking(&listener),
        "epoll" => bare_epoll(&listener),
        _ => Err(format!("no loop of that name: {kind}").into()),
    }
}

fn blocking(listener: &UnixListener) -> Result {
    let mut buffer = [0; BUFFER];
    loop {
        let (mut stream, _) = listener.accept()?;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                length => stream.write_all(&buffer[..length])?,
            }
        }
    }
}

fn bare_epoll(listener: &UnixListener) -> Result {
    /// No descriptor has this number.
    const LISTENER: u64 = u64::MAX;

    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut streams: BTreeMap<u64, UnixStream> = BTreeMap::new();
    let (mut events, mut buffer) = (Vec::with_capacity(64), [0; BUFFER]);
    for next in 0.. {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let key = event.data.u64();
            let Some(stream) = streams.get_mut(&key) else {
                let stream = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
                let stream = UnixStream::from(stream);
                epoll::add(&epoll, &stream, EventData::new_u64(next), EventFlags::IN)?;
                streams.insert(next, stream);
                continue;
            };
            match stream.read(&mut buffer) {
                // The close removes it from the epoll set.
                Ok(0) => drop(streams.remove(&key)),
                Ok(length) => stream.write_all(&buffer[..length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
