use std::future::pending;
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;
use crate::rpc::{
    self, LeaseIdentity, LeaseOutcome, LeaseOutcomes, LeaseSelection, NetavarkLease, NetworkConfig,
    OperationResponse, Reply,
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection on a thread, which returns the calls.
fn server(
    answer: impl Fn(&Call) -> Option<Result<Answer, Status>> + Send + 'static,
) -> (JoinHandle<Vec<Call>>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = std::thread::spawn(move || {
        rt::block_on(async move |_| {
            let calls = std::cell::RefCell::default();
            let handler = |call: Call| {
                let answer = answer(&call);
                let calls: &std::cell::RefCell<Vec<Call>> = &calls;
                calls.borrow_mut().push(call);
                async move {
                    match answer {
                        Some(answer) => answer,
                        None => pending().await,
                    }
                }
            };
            rpc::serve(
                ours.try_into().unwrap(),
                ANSWER_TIMEOUT,
                pending::<()>(),
                handler,
            )
            .await;
            calls.into_inner()
        })
    });
    (served, theirs)
}

fn ask(stream: &UnixStream, asked: &Call) -> Result<Answer, ClientError> {
    call(stream, asked, rt::now() + ANSWER_TIMEOUT, || {})
}

/// Asks a real server once, and returns its answer.
fn answered(asked: &Call, answer: Result<Answer, Status>) -> Result<Answer, ClientError> {
    let (served, stream) = server(move |_| Some(answer.clone()));
    let answer = ask(&stream, asked);
    drop(stream);
    assert_eq!(served.join().unwrap(), std::slice::from_ref(asked));
    answer
}

fn outcomes(count: u32) -> LeaseOutcomes {
    let outcome = |number: u32| LeaseOutcome {
        lease: Some(LeaseIdentity {
            mac: format!("02:00:00:00:{:02x}:{:02x}", number >> 8, number & 255),
            namespace: format!("/run/netns/netns-{number}"),
            interface: "eth0".to_owned(),
        }),
        address_before: "10.88.1.2".to_owned(),
        ..LeaseOutcome::default()
    };
    LeaseOutcomes {
        leases: (0..count).map(outcome).collect(),
    }
}

#[test]
fn a_call_is_answered() {
    let lease = NetavarkLease {
        yiaddr: "10.88.1.2".to_owned(),
        host_name: "weiß".to_owned(),
        ..NetavarkLease::default()
    };
    let answer = Answer {
        reply: Reply::Lease(lease),
        warning: Some("100 % weiß\n".to_owned()),
    };
    let config = NetworkConfig {
        // More than one frame, and as much as the server takes.
        ns_path: "x".repeat(wire::MESSAGE_LIMIT - 4),
        ..NetworkConfig::default()
    };
    for call in [
        Call::Setup(config),
        Call::Teardown(NetworkConfig::default()),
    ] {
        assert_eq!(answered(&call, Ok(answer.clone())).unwrap(), answer);
    }
    let done = Answer::from(Reply::Operation(OperationResponse { success: true }));
    assert_eq!(answered(&Call::Clean, Ok(done.clone())).unwrap(), done);
}

#[test]
fn an_answer_may_be_longer_than_windows_and_requests_are() {
    let answer = Answer::from(Reply::Outcomes(outcomes(10_000)));
    let call = Call::Renew(LeaseSelection {
        all: true,
        leases: Vec::new(),
    });
    assert!(answer.reply.encode().len() > 500_000);
    assert_eq!(answered(&call, Ok(answer.clone())).unwrap(), answer);
}

#[test]
fn a_refusal_has_its_code_and_its_words() {
    let text: String = (0..0x180).filter_map(char::from_u32).collect();
    let refusal = Status::new(Code::NotFound, text);
    match answered(&Call::Clean, Err(refusal.clone())) {
        Err(ClientError::Refused(status)) => assert_eq!(status, refusal),
        other => panic!("{other:?}"),
    }
    // An answer to another call.
    let answer = Answer::from(Reply::Outcomes(outcomes(1)));
    assert!(matches!(
        answered(&Call::Clean, Ok(answer)),
        Err(ClientError::Refused(_))
    ));
}

#[test]
fn a_caller_that_waits_is_told_and_not_for_ever() {
    let (served, stream) = server(|_| None);
    let (mut ticks, start) = (0, rt::now());
    let timeout = TICK * 3;
    let error = call(&stream, &Call::Clean, start + timeout, || ticks += 1).unwrap_err();
    // The server has been told as well, and may be the first to notice.
    let is_late = |status: &Status| status.code == Code::DeadlineExceeded;
    assert!(
        matches!(&error, ClientError::Late)
            || matches!(&error, ClientError::Refused(status) if is_late(status)),
        "{error}"
    );
    assert!(ticks >= 1 && rt::now() - start < ANSWER_TIMEOUT);
    drop(stream);
    assert_eq!(served.join().unwrap(), [Call::Clean]);
}

#[test]
fn a_full_backlog_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _first = connect(&path, ANSWER_TIMEOUT).unwrap();
    let error = connect(&path, TICK).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

/// A frame: kind, flags, stream and payload.
type SentFrame<'a> = ((u8, u8, u32), &'a [u8]);

/// The frames of a server, which says them and hangs up.
fn answer_to(frames: &[SentFrame<'_>]) -> Result<Answer, ClientError> {
    let mut bytes = Vec::new();
    for (head, payload) in frames {
        push_frame(&mut bytes, *head, payload);
    }
    from_bytes(&bytes)
}

fn from_bytes(bytes: &[u8]) -> Result<Answer, ClientError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(bytes).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    ask(&ours, &Call::Clean)
}

/// `:status: 200` and `content-type: application/grpc`.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";
/// The message of a Clean.
const BODY: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const LAST: u8 = END_HEADERS | END_STREAM;

#[test]
fn frames_may_come_in_pieces_padded_and_among_others() {
    let padded = [&[3][..], BODY, &[0; 3]].concat();
    let with_priority = [&[0; 5][..], &TRAILERS[..4]].concat();
    let answer = answer_to(&[
        ((SETTINGS, 0, 0), &[0, 3, 0, 0, 0, 1]),
        ((SETTINGS, ACK, 0), &[]),
        ((PING, 0, 0), &[7; 8]),
        ((WINDOW_UPDATE, 0, 0), &[0, 0, 0, 1]),
        ((HEADERS, END_HEADERS, 1), HEAD),
        ((DATA, 0, 1), &[]),
        ((DATA, PADDED, 1), &padded),
        // Of an extension.
        ((0x77, 0xff, 1), &[1, 2, 3]),
        ((GOAWAY, 0, 0), &[0, 0, 0, 1, 0, 0, 0, 0]),
        ((HEADERS, PRIORITY | END_STREAM, 1), &with_priority),
        ((CONTINUATION, 0, 1), &TRAILERS[4..6]),
        ((CONTINUATION, END_HEADERS, 1), &TRAILERS[6..]),
    ]);
    let done = Reply::Operation(OperationResponse { success: true });
    assert_eq!(answer.unwrap(), done.into());
    // Headers alone.
    let refused = b"\x00\x0bgrpc-status\x0212\x00\x0cgrpc-message\x05a%20b";
    match answer_to(&[((HEADERS, LAST, 1), &[HEAD, refused].concat())]) {
        Err(ClientError::Refused(status)) => {
            assert_eq!(status, Status::new(Code::Unimplemented, "a b"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let reset = answer_to(&[((RST_STREAM, 0, 1), &[0, 0, 0, 7])]);
    assert!(matches!(reset, Err(ClientError::Reset(7))));
    // The call was not begun; the connection is in error.
    for payload in [[0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 1]] {
        let gone = answer_to(&[((GOAWAY, 0, 0), &payload)]);
        assert!(matches!(gone, Err(ClientError::Reset(_))));
    }
    let plain = answer_to(&[((HEADERS, LAST, 1), b"\x8d")]);
    assert!(matches!(plain, Err(ClientError::Http(status)) if status == "404"));
    let end = answer_to(&[((HEADERS, END_HEADERS, 1), HEAD)]);
    assert!(
        matches!(end, Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
    );
    let text = b"\x88\x0f\x10\x09text/html\x00\x0bgrpc-status\x010";
    let broken: [&[SentFrame<'_>]; 12] = [
        // No gRPC, and no status.
        &[((HEADERS, LAST, 1), text)],
        &[((HEADERS, LAST, 1), HEAD)],
        // Of another stream, and out of place.
        &[((HEADERS, LAST, 2), HEAD)],
        &[((DATA, 0, 3), BODY)],
        &[((CONTINUATION, END_HEADERS, 1), HEAD)],
        &[((PUSH_PROMISE, END_HEADERS, 1), HEAD)],
        &[((HEADERS, 0, 1), HEAD), ((PING, 0, 0), &[0; 8])],
        // Padding, priority and payloads that are cut off.
        &[((DATA, PADDED, 1), &[9, 1])],
        &[((HEADERS, PRIORITY | LAST, 1), &[0; 4])],
        &[((GOAWAY, 0, 0), &[0; 7])],
        &[((RST_STREAM, 0, 1), &[0; 3])],
        // A reference to a table that is empty.
        &[((HEADERS, LAST, 1), &[0xbe])],
    ];
    for frames in broken {
        let answer = answer_to(frames);
        assert!(
            matches!(answer, Err(ClientError::Protocol(_))),
            "{frames:?}: {answer:?}"
        );
    }
}

#[test]
fn an_answer_is_bounded() {
    let long = [0, 0x40, 1, 0, 0, 0, 0, 0, 1];
    assert!(matches!(
        from_bytes(&long),
        Err(ClientError::Protocol(
            "a frame of HTTP/2 is longer than allowed"
        ))
    ));
    let mut answer = ReceivedAnswer::default();
    let frame = |kind, flags| ReceivedFrame {
        kind,
        flags,
        stream: STREAM,
        payload: vec![0x20; MAX_FRAME],
    };
    let mut taken = 0;
    let error = loop {
        match answer.take(&frame(DATA, 0)) {
            Ok(_) => taken += MAX_FRAME,
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), "the answer is too long");
    assert!(taken <= wire::PREFIX + wire::ANSWER_LIMIT);
    answer.take(&frame(HEADERS, 0)).unwrap();
    let error = (0..).find_map(|_| answer.take(&frame(CONTINUATION, 0)).err());
    assert_eq!(error.unwrap().to_string(), "the header fields are too long");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic_or_hang(
        frames in prop::collection::vec(
            (0_u8..10, any::<u8>(), 0_u32..3, prop::collection::vec(any::<u8>(), 0..20)),
            0..8,
        ),
        rest in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut bytes = Vec::new();
        for (kind, flags, stream, payload) in &frames {
            push_frame(&mut bytes, (*kind, *flags, *stream), payload);
        }
        bytes.extend_from_slice(&rest);
        let _ = from_bytes(&bytes);
    }
}
