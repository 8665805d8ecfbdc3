//! Inputs of `grpc` made by hand: what clients say, what broken ones do, and the floods that HTTP/2
//! is known for.

use crate::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, clean, frame, head, header, request,
};
use crate::grpc::{DECODE, HELLO};
use smol_dhcp_proxy::rpc::{Call, LeaseIdentity, LeaseSelection, NetworkConfig};

const PATH: &str = "/netavark_proxy.NetavarkProxy/Setup";

/// What a Setup of a container says.
pub fn config() -> NetworkConfig {
    NetworkConfig {
        host_iface: "eth0".into(),
        container_iface: "eth0".into(),
        container_mac_addr: "02:00:00:00:00:01".into(),
        host_name: "web".into(),
        ns_path: "/run/netns/x".into(),
        container_id: "0123456789abcdef".into(),
        ..NetworkConfig::default()
    }
}

/// What a Renew or a Release of so many leases says.
pub fn selection(count: u8) -> LeaseSelection {
    let lease = |number| LeaseIdentity {
        mac: format!("02:00:00:00:00:{number:02x}"),
        namespace: "/run/netns/x".into(),
        interface: "eth0".into(),
    };
    LeaseSelection {
        all: false,
        leases: (0..count).map(lease).collect(),
    }
}

/// So many times a frame or a few.
fn each(count: u32, bytes: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count)
        .flat_map(|number| bytes(2 * number + 1))
        .collect()
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let setup = Call::Setup(config());
    let (_, body) = setup.encode();
    let headers = head(PATH, "localhost");
    let open = |id| frame(HEADERS, END_HEADERS, id, &headers);
    let padded = |kind, flags, bytes: &[u8], padding: u8| {
        frame(
            kind,
            flags | PADDED,
            1,
            &[&[padding], bytes, &vec![0; padding.into()]].concat(),
        )
    };
    let (half, rest) = body.split_at(body.len() / 2);
    let told = |bytes: Vec<u8>| [vec![HELLO], bytes].concat();
    let piece = |choice: u8, bytes: Vec<u8>| [vec![HELLO | choice], bytes].concat();
    vec![
        ("clean", told(clean(1))),
        ("clean-byte-by-byte", piece(0x10, clean(1))),
        ("setup", told(request(1, &setup))),
        (
            "setup-teardown",
            told([request(1, &setup), request(3, &Call::Teardown(config()))].concat()),
        ),
        ("renew-release", {
            let all = LeaseSelection {
                all: true,
                ..LeaseSelection::default()
            };
            let calls = [
                request(1, &Call::Renew(all)),
                request(3, &Call::Release(selection(100))),
            ];
            told(calls.concat())
        }),
        ("unanswered", piece(2, each(3, |id| request(id, &setup)))),
        ("unread", piece(4, each(20, |id| request(id, &setup)))),
        ("closing", piece(8, request(1, &setup))),
        (
            "two-data-frames",
            told(
                [
                    open(1),
                    frame(DATA, 0, 1, half),
                    frame(DATA, END_STREAM, 1, rest),
                ]
                .concat(),
            ),
        ),
        ("interleaved", {
            let streams = [
                open(1),
                open(3),
                frame(DATA, 0, 1, half),
                frame(DATA, END_STREAM, 3, &body),
            ];
            told([streams.concat(), frame(DATA, END_STREAM, 1, rest)].concat())
        }),
        ("trailers", {
            told(
                [
                    open(1),
                    frame(DATA, 0, 1, &body),
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, &header("a", "b")),
                ]
                .concat(),
            )
        }),
        (
            "padded",
            told(
                [
                    padded(HEADERS, END_HEADERS, &headers, 9),
                    padded(DATA, END_STREAM, &body, 200),
                ]
                .concat(),
            ),
        ),
        (
            "padding-only",
            told(
                [
                    open(1),
                    padded(DATA, 0, &[], 255),
                    frame(DATA, END_STREAM, 1, &body),
                ]
                .concat(),
            ),
        ),
        (
            "padding-too-long",
            told([open(1), frame(DATA, END_STREAM | PADDED, 1, &[9, 0])].concat()),
        ),
        (
            "zero-length-data",
            told(
                [
                    open(1),
                    frame(DATA, 0, 1, &[]).repeat(200),
                    frame(DATA, END_STREAM, 1, &body),
                ]
                .concat(),
            ),
        ),
        (
            "zero-length-headers",
            told(
                [
                    frame(HEADERS, 0, 1, &[]),
                    frame(CONTINUATION, END_HEADERS, 1, &headers),
                ]
                .concat(),
            ),
        ),
        ("continuation", {
            let (first, second) = headers.split_at(20);
            let head = [
                frame(HEADERS, 0, 1, first),
                frame(CONTINUATION, END_HEADERS, 1, second),
            ]
            .concat();
            told([head, frame(DATA, END_STREAM, 1, &body)].concat())
        }),
        ("continuation-flood", {
            told(
                [
                    frame(HEADERS, 0, 1, &headers),
                    frame(CONTINUATION, 0, 1, &header("a", "b")).repeat(600),
                ]
                .concat(),
            )
        }),
        (
            "continuation-of-nothing",
            told(
                [
                    frame(HEADERS, 0, 1, &headers),
                    frame(CONTINUATION, 0, 1, &[]).repeat(600),
                ]
                .concat(),
            ),
        ),
        (
            "settings-flood",
            told([frame(SETTINGS, 0, 0, &[]).repeat(600), clean(1)].concat()),
        ),
        ("settings-odd", {
            let window = frame(
                SETTINGS,
                0,
                0,
                &[0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 0],
            );
            told(
                [
                    window,
                    frame(
                        SETTINGS,
                        0,
                        0,
                        &[0, 5, 0, 0xff, 0xff, 0xff, 0, 6, 0, 0, 0, 1],
                    ),
                    clean(1),
                ]
                .concat(),
            )
        }),
        (
            "settings-too-much",
            told(frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ),
        (
            "settings-acknowledged-early",
            told([frame(SETTINGS, ACK, 0, &[]).repeat(9), clean(1)].concat()),
        ),
        (
            "no-window",
            told([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), clean(1)].concat()),
        ),
        (
            "ping-flood",
            told([frame(PING, 0, 0, &[7; 8]).repeat(600), clean(1)].concat()),
        ),
        (
            "ping-answers",
            told([frame(PING, ACK, 0, &[7; 8]).repeat(600), clean(1)].concat()),
        ),
        (
            "window-flood",
            told(
                [
                    frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(600),
                    clean(1),
                ]
                .concat(),
            ),
        ),
        (
            "window-overflow",
            told(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)),
        ),
        (
            "rapid-reset",
            told(each(100, |id| {
                [open(id), frame(RST_STREAM, 0, id, &CANCEL)].concat()
            })),
        ),
        (
            "rapid-reset-of-calls",
            told(each(50, |id| {
                [request(id, &setup), frame(RST_STREAM, 0, id, &CANCEL)].concat()
            })),
        ),
        (
            "more-streams-than-allowed",
            piece(2, each(70, |id| request(id, &setup))),
        ),
        ("open-streams", told(each(70, open))),
        ("reset-of-idle", told(frame(RST_STREAM, 0, 5, &CANCEL))),
        ("data-on-idle", told(frame(DATA, END_STREAM, 1, &body))),
        ("data-on-zero", told(frame(DATA, 0, 0, &body))),
        (
            "data-after-the-end",
            told([request(1, &setup), frame(DATA, END_STREAM, 1, &body)].concat()),
        ),
        ("even-stream", told(request(2, &setup))),
        (
            "stream-again",
            told([request(1, &setup), request(1, &setup)].concat()),
        ),
        (
            "streams-backwards",
            told([request(5, &setup), request(3, &setup)].concat()),
        ),
        ("priority", {
            let first = frame(
                HEADERS,
                END_HEADERS | PRIORITY,
                1,
                &[&[0, 0, 0, 0, 16][..], &headers].concat(),
            );
            told(
                [
                    first,
                    frame(DATA, END_STREAM, 1, &body),
                    frame(2, 0, 3, &[0, 0, 0, 3, 1]),
                ]
                .concat(),
            )
        }),
        (
            "goaway",
            told([frame(GOAWAY, 0, 0, &[0; 8]), request(1, &setup)].concat()),
        ),
        (
            "unknown-frames",
            told([frame(0x42, 0xff, 7, &[1; 100]), clean(1)].concat()),
        ),
        (
            "push-promise",
            told(frame(
                5,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &headers].concat(),
            )),
        ),
        ("frame-too-long", told(frame(DATA, 0, 1, &vec![0; 16_385]))),
        (
            "body-too-long",
            told(
                [
                    open(1),
                    frame(DATA, 0, 1, &vec![0; 16_384]),
                    frame(DATA, 0, 1, &[0; 9]),
                ]
                .concat(),
            ),
        ),
        (
            "table-size",
            told(
                [frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[&[0x3f, 0xe1, 0x1f][..], &headers].concat(),
                )]
                .concat(),
            ),
        ),
        (
            "table-size-too-much",
            told(frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f],
            )),
        ),
        (
            "no-path",
            told(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &header(":method", "POST"),
            )),
        ),
        (
            "get",
            told(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[header(":method", "GET"), headers.clone()].concat(),
            )),
        ),
        (
            "no-settings",
            [vec![0], crate::frames::PREFACE.to_vec(), clean(1)].concat(),
        ),
        ("http1", b"\0GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "decode-setup",
            [vec![DECODE], vec![b'9'; body.len() / 3], body.to_vec()].concat(),
        ),
        (
            "decode-timeout",
            b"\x80250m\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        ),
    ]
}
