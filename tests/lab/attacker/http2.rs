//! Callers that speak a little HTTP/2 (RFC 9113), none of it in good faith, over connections that
//! they hold.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use smol_dhcp_proxy::rpc::Call;

use super::super::Result;
use super::Span;

/// The first bytes of a connection (RFC 9113 §3.4), and behind them SETTINGS that change nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The longest frame that a server takes unless it says more (SETTINGS_MAX_FRAME_SIZE).
const LONGEST: usize = 16_384;
/// Streams that are opened on one connection, long before there are no more numbers.
const STREAMS: u32 = 1 << 20;

/// Connects without waiting for room in the queue; none where there is no room, or nothing that
/// listens.
pub fn join(socket: &Path) -> Result<Option<UnixStream>> {
    let stream = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match connect(&stream, &SocketAddrUnix::new(socket)?) {
        Ok(()) => Ok(Some(stream.into())),
        Err(Errno::AGAIN | Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens `count` connections, says `words` on each and nothing more, and holds them. Where the
/// server hangs up, it is not tried again.
pub fn hold(span: &Span, socket: &Path, count: usize, words: &[u8]) -> Result<u64> {
    let mut held = Vec::new();
    while held.len() < count && span.goes_on() {
        match join(socket)? {
            Some(mut stream) => {
                let _ = stream.write_all(words);
                held.push(stream);
            }
            None => span.pause(Duration::from_millis(1)),
        }
    }
    span.wait();
    Ok(held.len() as u64)
}

/// Says a request on `count` connections, a byte on each of them every `pause`.
pub fn crawl(span: &Span, socket: &Path, count: usize, pause: Duration) -> Result<u64> {
    let request = [PREFACE, &headers(1, END_HEADERS), &[0; 64]].concat();
    let mut connections = Vec::new();
    while connections.len() < count && span.goes_on() {
        connections.extend(join(socket)?);
    }
    let mut said = 0;
    for byte in &request {
        for connection in &mut connections {
            said += u64::from(connection.write(&[*byte]).is_ok());
        }
        span.pause(pause);
        if !span.goes_on() {
            break;
        }
    }
    Ok(said)
}

/// Says the preface and then `piece`, with numbers of streams that go up, on one connection after
/// the other, as long as the server takes it. The answers are read and thrown away.
pub fn pour(span: &Span, socket: &Path, piece: impl Fn(u32) -> Vec<u8>) -> Result<u64> {
    let mut poured = 0;
    while span.goes_on() {
        let Some(mut connection) = join(socket)? else {
            span.pause(Duration::from_millis(1));
            continue;
        };
        let mut next = PREFACE.to_vec();
        for number in 0..STREAMS {
            if !say(span, &mut connection, &next) {
                break;
            }
            poured += 1;
            // Clients count in odd numbers.
            next = piece(2 * number + 1);
        }
    }
    Ok(poured)
}

/// The same on `count` connections at once, of whose answers nothing is ever read, until the server
/// takes no more.
pub fn pour_deaf(
    span: &Span,
    socket: &Path,
    count: usize,
    piece: impl Fn(u32) -> Vec<u8>,
) -> Result<u64> {
    let mut connections = Vec::new();
    let mut poured = 0;
    while connections.len() < count && span.goes_on() {
        let Some(mut connection) = join(socket)? else {
            span.pause(Duration::from_millis(1));
            continue;
        };
        let mut next = PREFACE.to_vec();
        for number in 0..STREAMS {
            // Once the socket is full, the server does not get on with what it has to say.
            if connection.write_all(&next).is_err() {
                break;
            }
            poured += 1;
            next = piece(2 * number + 1);
        }
        connections.push(connection);
    }
    span.wait();
    Ok(poured)
}

/// Says all of `bytes`, and reads what there is meanwhile. Tells whether that went well.
fn say(span: &Span, connection: &mut UnixStream, mut bytes: &[u8]) -> bool {
    let mut heard = [0; 16 * 1024];
    while !bytes.is_empty() {
        match connection.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock && span.goes_on() => {
                std::thread::yield_now();
            }
            Err(_) => return false,
        }
        loop {
            match connection.read(&mut heard) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
    }
    true
}

/// A request that is taken back at once.
pub fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    [
        headers(stream, END_HEADERS),
        frame(RST_STREAM, 0, stream, &CANCEL),
    ]
    .concat()
}

/// A call, whole.
pub fn call(stream: u32, call: &Call) -> Vec<u8> {
    [
        headers(stream, END_HEADERS),
        frame(DATA, END_STREAM, stream, &call.encode().1),
    ]
    .concat()
}

/// A request whose body has begun and does not end.
pub fn unfinished(stream: u32) -> Vec<u8> {
    // The message that it announces is as long as the longest that is taken.
    let mut body = vec![0, 0, 0, 0x40, 0];
    body.resize(LONGEST, 0);
    [headers(stream, END_HEADERS), frame(DATA, 0, stream, &body)].concat()
}

/// Header fields without end: the first piece begins a request, and the others go on with it.
pub fn endless_headers(stream: u32) -> Vec<u8> {
    if stream == 1 {
        return headers(1, 0);
    }
    // A field without indexing (RFC 7541 §6.2.2) whose name and value have a hundred bytes each.
    let field = [&[0, 100][..], &[b'a'; 100], &[100], &[b'b'; 100]].concat();
    frame(CONTINUATION, 0, 1, &field.repeat(LONGEST / field.len()))
}

/// A question whether the server is there.
pub fn ping(_: u32) -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

/// The header fields of a Teardown, as HPACK without a table (RFC 7541).
fn headers(stream: u32, flags: u8) -> Vec<u8> {
    fn text(text: &str) -> Vec<u8> {
        [&[text.len() as u8], text.as_bytes()].concat()
    }
    let (path, _) = Call::Teardown(smol_dhcp_proxy::rpc::NetworkConfig::default()).encode();
    let fields = [
        // ":method: POST" and ":scheme: http" are in the static table; of the others that has the
        // name at most.
        vec![0x83, 0x86, 0x04],
        text(&path),
        vec![0x01],
        text("localhost"),
        vec![0x0f, 0x10],
        text("application/grpc"),
        vec![0x00],
        text("te"),
        text("trailers"),
    ];
    frame(HEADERS, flags, stream, &fields.concat())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
