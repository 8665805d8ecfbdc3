//! HTTP/2 written by hand: the frames of RFC 9113 and a whole request, for clients that no library
//! would be.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use smol_dhcp_proxy::rpc::Call;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types and flags of RFC 9113 §6.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

/// CANCEL, the error code of a stream that its client takes back.
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as a literal that is never indexed, name and value in plain text (RFC 7541 section
/// 6.2.2).
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], string(name), string(value)].concat()
}

/// The headers of a gRPC request.
pub fn head(path: &str, authority: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", authority),
        header("content-type", "application/grpc"),
    ]
    .concat()
}

/// A whole request on this stream.
pub fn request(stream: u32, call: &Call) -> Vec<u8> {
    let (path, body) = call.encode();
    [
        frame(HEADERS, END_HEADERS, stream, &head(&path, "localhost")),
        frame(DATA, END_STREAM, stream, &body),
    ]
    .concat()
}

/// A whole Clean on this stream.
pub fn clean(stream: u32) -> Vec<u8> {
    request(stream, &Call::Clean)
}

/// A connection's beginning.
pub fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}
