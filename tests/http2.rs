//! `rpc::serve` against bytes written by hand: other people's clients, broken ones, and hostile
//! ones.

#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "lab/frames.rs"]
mod frames;
#[path = "lab/rpc_server.rs"]
mod rpc_server;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, clean, frame, head, header, hello,
};
use rpc_server::{Fate, NEVER, SOON, Server, answer, endless};
use smol_dhcp_proxy::rpc::{self, Call};
use smol_dhcp_proxy::rt;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The next frame, or none when the server has hung up.
fn next(stream: &mut UnixStream) -> Option<Frame> {
    let mut head = [0; 9];
    // A server that hangs up while something is unread makes it a reset.
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    let [_, _, _, kind, flags, id @ ..] = head;
    Some(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(id),
        payload,
    })
}

/// Reads on until a frame of this kind comes, without a flag that says it is only an
/// acknowledgement.
fn until(stream: &mut UnixStream, kind: u8) -> Frame {
    loop {
        let frame = next(stream).expect("the connection lasts");
        if frame.kind == kind && !(matches!(kind, SETTINGS | PING) && frame.flags & ACK != 0) {
            return frame;
        }
    }
}

/// Reads the rest and expects the end.
fn drain(stream: &mut UnixStream) -> Vec<Frame> {
    std::iter::from_fn(|| next(stream)).collect()
}

fn start(quiet: Duration) -> (Server, UnixStream) {
    let (server, stream) = Server::start(quiet, answer);
    // A test that would wait for good fails instead.
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    (server, stream)
}

/// Expects a Clean to be answered well on this stream.
fn answered(stream: &mut UnixStream, id: u32) {
    let head = until(stream, HEADERS);
    assert_eq!((head.stream, head.flags), (id, END_HEADERS));
    assert_eq!(head.payload[0], 0x88, "200 is entry 8 of the static table");
    let data = until(stream, DATA);
    assert_eq!(
        (data.stream, data.payload),
        (id, vec![0, 0, 0, 0, 2, 0x08, 1])
    );
    let trailers = until(stream, HEADERS);
    assert_eq!(
        (trailers.stream, trailers.flags),
        (id, END_HEADERS | END_STREAM)
    );
}

#[test]
fn everything_in_one_write() {
    let (server, mut stream) = start(NEVER);
    stream.write_all(&[hello(), clean(1)].concat()).unwrap();
    assert_eq!(until(&mut stream, SETTINGS).flags, 0);
    answered(&mut stream, 1);
    drop(stream);
    server.join();
}

#[test]
fn byte_by_byte() {
    let (server, mut stream) = start(NEVER);
    for (id, bytes) in [(1, [hello(), clean(1)].concat()), (3, clean(3))] {
        for byte in bytes {
            stream.write_all(&[byte]).unwrap();
        }
        answered(&mut stream, id);
    }
    drop(stream);
    server.join();
}

#[test]
fn any_wellformed_authority_or_none() {
    for authority in [
        "localhost",
        "unix",
        "[::]:50051",
        "run-podman-nv-proxy.sock",
        "a.b:80",
        "",
    ] {
        let (_server, mut stream) = start(NEVER);
        let (path, body) = Call::Clean.encode();
        let head = match authority {
            "" => {
                let with_none = [
                    header(":method", "POST"),
                    header(":scheme", "http"),
                    header(":path", &path),
                ]
                .concat();
                [with_none, header("content-type", "application/grpc")].concat()
            }
            authority => head(&path, authority),
        };
        stream
            .write_all(
                &[
                    hello(),
                    frame(HEADERS, END_HEADERS, 1, &head),
                    frame(DATA, END_STREAM, 1, &body),
                ]
                .concat(),
            )
            .unwrap();
        answered(&mut stream, 1);
    }
}

/// The authority that grpc-python makes of a path is refused by h2, but the connection is none the
/// worse for it.
#[test]
fn a_percent_encoded_authority_costs_its_stream_alone() {
    let (_server, mut stream) = start(NEVER);
    let (path, _) = Call::Clean.encode();
    stream.write_all(&hello()).unwrap();
    stream
        .write_all(&frame(
            HEADERS,
            END_HEADERS,
            1,
            &head(&path, "%2Frun%2Fpodman%2Fnv-proxy.sock"),
        ))
        .unwrap();
    assert_eq!(until(&mut stream, RST_STREAM).stream, 1);
    stream.write_all(&clean(3)).unwrap();
    answered(&mut stream, 3);
}

#[test]
fn a_request_that_crosses_the_goaway_is_served() {
    let (server, mut stream) = start(Duration::from_millis(10));
    stream.write_all(&hello()).unwrap();
    let goaway = until(&mut stream, GOAWAY);
    assert_eq!(
        goaway.payload[..4],
        [0x7f, 0xff, 0xff, 0xff],
        "no stream is excluded yet"
    );
    assert_eq!(goaway.payload[4..], [0; 4], "nobody did anything wrong");
    let ping = until(&mut stream, PING);
    // This client sent its call before it heard of that, and only then answers the PING.
    stream
        .write_all(&[clean(1), frame(PING, ACK, 0, &ping.payload)].concat())
        .unwrap();
    let rest = drain(&mut stream);
    let find = |kind| {
        rest.iter()
            .find(|frame| frame.kind == kind)
            .map(|frame| frame.payload.as_slice())
    };
    assert_eq!(
        find(GOAWAY),
        Some(&[0, 0, 0, 1, 0, 0, 0, 0][..]),
        "stream 1 is served, nothing after it"
    );
    assert_eq!(find(DATA), Some(&[0, 0, 0, 0, 2, 0x08, 1][..]));
    assert_eq!(
        rest.last().map(|frame| (frame.kind, frame.flags)),
        Some((HEADERS, END_HEADERS | END_STREAM))
    );
    server.join();
}

#[test]
fn a_client_that_ignores_the_goaway_is_cut_off() {
    let (server, mut stream) = start(Duration::from_millis(10));
    stream.write_all(&hello()).unwrap();
    until(&mut stream, GOAWAY);
    let told = rt::now();
    assert!(
        drain(&mut stream)
            .iter()
            .all(|frame| matches!(frame.kind, PING | SETTINGS))
    );
    let lasted = rt::now() - told;
    assert!(
        lasted > Duration::from_millis(800) && lasted < Duration::from_secs(5),
        "{lasted:?}"
    );
    server.join();
}

#[test]
fn silence_is_bounded() {
    let quiet = Duration::from_millis(20);
    let (path, body) = Call::Clean.encode();
    let head = frame(HEADERS, END_HEADERS, 1, &head(&path, "localhost"));
    let beginnings = [
        vec![],
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        hello(),
        [hello(), head[..20].to_vec()].concat(),
        [hello(), frame(HEADERS, 0, 1, &[])].concat(),
        [hello(), head.clone()].concat(),
        [hello(), head.clone(), frame(DATA, 0, 1, &body[..2])].concat(),
    ];
    let begun = rt::now();
    let connections = beginnings.map(|beginning| {
        let (server, mut stream) = start(quiet);
        stream.write_all(&beginning).unwrap();
        (server, stream)
    });
    for (server, mut stream) in connections {
        drain(&mut stream);
        server.join();
    }
    assert!(rt::now() - begun < Duration::from_secs(5));
}

#[test]
fn garbage_ends_its_connection() {
    let (path, _) = Call::Clean.encode();
    let long = frame(HEADERS, END_HEADERS, 1, &vec![0; 20_000]);
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        [PREFACE, &[0xff; 64]].concat(),
        [hello(), long].concat(),
        [hello(), frame(HEADERS, END_HEADERS, 1, &[0xff; 50])].concat(),
        [hello(), frame(HEADERS, END_HEADERS, 2, &head(&path, "x"))].concat(),
        [hello(), frame(DATA, 0, 0, b"x")].concat(),
        [hello(), frame(SETTINGS, 0, 0, b"x")].concat(),
        [hello(), frame(CONTINUATION, 0, 1, b"x")].concat(),
        [
            PREFACE,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting",
        ]
        .concat(),
    ] {
        let (server, mut stream) = start(NEVER);
        // It may hang up before it has read everything.
        let _ = stream.write_all(&garbage);
        drain(&mut stream);
        server.join();
    }
}

/// Writes the same thing for as long as the server takes it, at most `limit` bytes, and reads what
/// comes meanwhile.
fn flood(stream: &UnixStream, piece: &[u8], limit: usize) {
    let mut reading = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drain(&mut reading));
        let mut writing = stream;
        for _ in 0..limit / piece.len() {
            if writing.write_all(piece).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
}

fn floods() -> [Vec<u8>; 4] {
    let (path, _) = Call::Clean.encode();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let settings = frame(SETTINGS, 0, 0, &[]).repeat(1000);
    let endless_header = [
        frame(HEADERS, 0, 1, &head(&path, "x")),
        frame(CONTINUATION, 0, 1, &header("a", "b")).repeat(5000),
    ]
    .concat();
    // Opened and taken back at once, on and on.
    let resets = (0..5000)
        .map(|number| 2 * number + 1)
        .flat_map(|id| {
            [
                frame(HEADERS, END_HEADERS, id, &head(&path, "x")),
                frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    [pings, settings, endless_header, resets]
}

#[test]
fn floods_end_or_pass() {
    for piece in floods() {
        let (server, mut stream) = start(NEVER);
        stream.write_all(&hello()).unwrap();
        flood(&stream, &piece, 1 << 20);
        drop(stream);
        server.join();
    }
}

/// One thread serves both: while one client sends PINGs as fast as it can, the other's calls are
/// answered.
#[test]
fn a_flood_does_not_hold_up_the_neighbour() {
    let (flooded, loud) = UnixStream::pair().unwrap();
    let (served, mut stream) = UnixStream::pair().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let server = std::thread::spawn(move || {
        let never = futures_lite::future::pending::<()>;
        rt::block_on(async move |runtime| {
            let flooded = runtime.spawn(rpc::serve(
                flooded.try_into().unwrap(),
                NEVER,
                never(),
                answer,
            ));
            rpc::serve(served.try_into().unwrap(), NEVER, never(), answer).await;
            flooded.cancel().await;
        });
    });
    let [pings, ..] = floods();
    (&loud).write_all(&hello()).unwrap();
    let flooding = std::thread::spawn(move || flood(&loud, &pings, usize::MAX));

    stream.write_all(&hello()).unwrap();
    let mut slowest = Duration::ZERO;
    for id in (1..200).step_by(2) {
        let asked = rt::now();
        stream.write_all(&clean(id)).unwrap();
        answered(&mut stream, id);
        slowest = slowest.max(rt::now() - asked);
    }
    println!("the slowest of 100 calls took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop(stream);
    server.join().unwrap();
    flooding.join().unwrap();
}

#[test]
fn an_unread_answer_keeps_nobody() {
    // A window of nothing: the message can never be sent.
    let (server, mut stream) = start(Duration::from_millis(20));
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    stream
        .write_all(&[PREFACE, &no_window, &clean(1)].concat())
        .unwrap();
    until(&mut stream, HEADERS);
    drain(&mut stream);
    server.join();
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let (handler, fates) = endless();
    let (server, mut stream) = Server::start(NEVER, handler);
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&hello()).unwrap();
    for number in 0..65 {
        stream.write_all(&clean(2 * number + 1)).unwrap();
    }
    assert_eq!(until(&mut stream, RST_STREAM).stream, 129);
    for _ in 0..64 {
        assert_eq!(fates.recv_timeout(SOON), Ok(Fate::Begun));
    }
    drop(stream);
    server.join();
    assert_eq!(
        fates.iter().collect::<Vec<_>>().len(),
        64,
        "they are dropped and no other has begun"
    );
}
