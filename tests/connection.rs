//! Measures what one connection makes the daemon keep, at worst: half a megabyte, whatever a client
//! does.
//!
//! One test in a program of its own, for it counts every allocation of the whole process.

#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "lab/frames.rs"]
mod frames;
#[path = "lab/rpc_server.rs"]
mod rpc_server;

use std::alloc::System;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use frames::{DATA, END_HEADERS, END_STREAM, HEADERS, clean, frame, head, header, hello, request};
use rpc_server::{Endless, NEVER, SOON, Server, answer, config, endless};
use smol_dhcp_proxy::rpc::{Call, NetworkConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most that a connection may hold.
const LIMIT: usize = 512 * 1024;

/// Bytes that are in use.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// All streams that a client may have but [`LAST`].
fn streams() -> impl Iterator<Item = u32> {
    (0..63).map(|number| 2 * number + 1)
}

const LAST: u32 = 127;

/// Headers that nearly fill the limit, in as many fields as that takes.
fn long_head() -> Vec<u8> {
    let fields: Vec<u8> = (100..300)
        .flat_map(|number| header(&format!("a{number}"), "b"))
        .collect();
    [
        head("/netavark_proxy.NetavarkProxy/Setup", "localhost"),
        fields,
    ]
    .concat()
}

/// A Setup as long as a message may be.
fn long_setup() -> Call {
    Call::Setup(NetworkConfig {
        ns_path: "x".repeat(16_000),
        ..config("02:00:00:00:00:01")
    })
}

/// Each of them is a way to make the server keep something.
fn ways() -> Vec<(&'static str, Vec<u8>)> {
    let (_, body) = long_setup().encode();
    let unfinished = |piece: usize| {
        streams()
            .flat_map(|id| {
                let headers = frame(HEADERS, END_HEADERS, id, &long_head());
                [headers, frame(DATA, 0, id, &body[..piece])].concat()
            })
            .collect()
    };
    vec![
        ("nothing", vec![]),
        (
            "long headers and the beginnings of bodies",
            unfinished(1000),
        ),
        (
            "headers without bodies",
            streams()
                .flat_map(|id| frame(HEADERS, END_HEADERS, id, &long_head()))
                .collect(),
        ),
        ("bodies without their last byte", {
            let three = streams().take(3).flat_map(|id| {
                let headers = frame(HEADERS, END_HEADERS, id, &long_head());
                [headers, frame(DATA, 0, id, &body[..body.len() - 1])].concat()
            });
            three.collect()
        }),
        (
            "calls in flight",
            streams()
                .flat_map(|id| request(id, &Call::Setup(config("02:00:00:00:00:01"))))
                .collect(),
        ),
    ]
}

/// Makes a call that is answered at once, and waits for its answer: all that was sent before it has
/// been dealt with.
fn call(stream: &mut UnixStream, id: u32) {
    stream.write_all(&clean(id)).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("the connection lasts");
        let [_, a, b, kind, flags, stream_id @ ..] = head;
        stream
            .read_exact(&mut vec![0; u16::from_be_bytes([a, b]).into()])
            .unwrap();
        if (kind, flags & END_STREAM, u32::from_be_bytes(stream_id)) == (HEADERS, END_STREAM, id) {
            return;
        }
    }
}

/// Connects to a server at which a Setup never ends.
fn start() -> (Server, UnixStream) {
    let (handler, _fates) = endless();
    let (server, mut stream) = Server::start(NEVER, move |call| -> Endless {
        match call {
            Call::Clean | Call::Renew(_) | Call::Release(_) => Box::pin(answer(call)),
            Call::Setup(_) | Call::Teardown(_) => handler(call),
        }
    });
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&hello()).unwrap();
    (server, stream)
}

#[test]
fn a_connection_holds_little() {
    // What is made once for all has been made.
    let (server, mut stream) = start();
    call(&mut stream, 1);
    drop(stream);
    server.join();

    let mut worst = 0;
    for (way, bytes) in ways() {
        let before = live();
        let (server, mut stream) = start();
        stream.write_all(&bytes).unwrap();
        call(&mut stream, LAST);
        let held = live() - before;
        println!("{way}: {held} bytes, of which {} were sent", bytes.len());
        worst = worst.max(held);
        drop(stream);
        server.join();
    }
    assert!(worst < LIMIT, "{worst} bytes");
}
