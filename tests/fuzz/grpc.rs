//! Any bytes as a client's side of a connection: `rpc::serve` takes them from a socket, and hands
//! on no call that they do not contain.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::{or, yield_now, zip};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use smol_dhcp_proxy::rpc::status::{MESSAGE_LIMIT, percent_encoded};
use smol_dhcp_proxy::rpc::{
    self, Answer, Call, LeaseOutcome, LeaseOutcomes, NetavarkLease, OperationResponse, Reply,
    Status, wire,
};
use smol_dhcp_proxy::rt;

/// The bit of the first byte of [`grpc`]'s input that gives the rest to the decoders alone.
pub const DECODE: u8 = 0x80;
/// The preface and empty SETTINGS come before the rest.
pub const HELLO: u8 = 1;
/// No call is ever answered.
const ENDLESS: u8 = 2;
/// The client reads nothing.
const UNREAD: u8 = 4;
/// The server is told to close at once.
const CLOSING: u8 = 8;
/// How many bytes the client writes at once, chosen by the two bits from here on.
const PIECES: u8 = 16;
const SIZES: [usize; 4] = [usize::MAX, 1, 9, 1000];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What the client is given to say is said within this time, unless `serve` hangs.
const SOON: Duration = Duration::from_secs(20);

/// Runs one input; the first byte chooses how.
pub fn grpc(data: &[u8]) {
    let [choice, said @ ..] = data else { return };
    if choice & DECODE != 0 {
        return decode(said);
    }
    let said = match choice & HELLO {
        0 => said.to_vec(),
        _ => [PREFACE, SETTINGS, said].concat(),
    };
    let (bodies, calls) = (bodies(&said), calls(*choice, &said, 0));
    let mut said_by = vec![None; bodies.len()];
    for (number, call) in calls.iter().enumerate() {
        let is_found = find_body(&calls, &bodies, number, &mut said_by, &mut vec![]);
        assert!(is_found, "{call:?} was never said");
    }
}

/// Finds the body of a call, and another one for the call that had it: one body may be that of
/// several calls, by their different messages.
fn find_body(
    calls: &[Call],
    bodies: &[Vec<u8>],
    number: usize,
    said_by: &mut [Option<usize>],
    tried: &mut Vec<usize>,
) -> bool {
    let call = &calls[number];
    let (path, _) = call.encode();
    (0..bodies.len()).any(|at| {
        if tried.contains(&at) || Call::decode(&path, &bodies[at]).as_ref() != Ok(call) {
            return false;
        }
        tried.push(at);
        let is_free = match said_by[at] {
            None => true,
            Some(other) => find_body(calls, bodies, other, said_by, tried),
        };
        if is_free {
            said_by[at] = Some(number);
        }
        is_free
    })
}

/// The calls that `serve` makes of what a client says, who does not hang up before there are
/// `enough`.
pub fn calls(choice: u8, said: &[u8], enough: usize) -> Vec<Call> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let (hears, said) = (Rc::clone(&heard), said.to_vec());
    rt::block_on(async move |runtime| {
        let (ours, theirs) = UnixStream::pair().expect("two descriptors");
        let counts = Rc::clone(&heard);
        let wait = async move {
            while counts.borrow().len() < enough {
                yield_now().await;
            }
        };
        let client = runtime.spawn(talk(
            theirs.try_into().expect("a socket"),
            said,
            choice,
            wait,
        ));
        let handler = |call: Call| {
            let answer = answer(&call);
            hears.borrow_mut().push(call);
            async move {
                if choice & ENDLESS == 0 {
                    answer
                } else {
                    pending().await
                }
            }
        };
        let closing = async {
            if choice & CLOSING == 0 {
                pending().await
            } else {
                ready(()).await
            }
        };
        let served = async {
            rpc::serve(ours.try_into().expect("a socket"), SOON, closing, handler).await;
            true
        };
        let late = async {
            rt::sleep(SOON).await;
            false
        };
        assert!(or(served, late).await, "serve goes on without a client");
        client.cancel().await;
        heard.take()
    })
}

fn answer(call: &Call) -> Result<Answer, Status> {
    match call {
        Call::Clean => Ok(Reply::Operation(OperationResponse { success: true }).into()),
        Call::Setup(config) if config.host_iface.is_empty() => Err(Status::new(
            rpc::Code::InvalidArgument,
            &config.container_mac_addr,
        )),
        Call::Renew(selection) => {
            let outcome = |lease: &rpc::LeaseIdentity| LeaseOutcome {
                lease: Some(lease.clone()),
                reason: lease.interface.clone(),
                ..LeaseOutcome::default()
            };
            let leases = selection.leases.iter().map(outcome).collect();
            Ok(Reply::Outcomes(LeaseOutcomes { leases }).into())
        }
        Call::Release(selection) => Err(Status::new(
            rpc::Code::PermissionDenied,
            format!("{selection:?}"),
        )),
        Call::Setup(config) | Call::Teardown(config) => {
            let lease = NetavarkLease {
                mac_address: config.container_mac_addr.clone(),
                ..NetavarkLease::default()
            };
            Ok(Answer {
                reply: Reply::Lease(lease),
                warning: Some(config.host_name.clone()),
            })
        }
    }
}

/// Says it all, waits, gives the server some turns to answer, and hangs up.
async fn talk(mut stream: rt::Stream, said: Vec<u8>, choice: u8, wait: impl Future<Output = ()>) {
    let mut reading = stream.clone();
    let speak = async {
        for piece in said.chunks(SIZES[usize::from(choice / PIECES % 4)]) {
            // The server may have hung up.
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
        wait.await;
        for _ in 0..100 {
            yield_now().await;
        }
        let _ = stream.close().await;
    };
    let listen = async {
        if choice & UNREAD == 0 {
            let _ = reading.read_to_end(&mut Vec::new()).await;
        }
    };
    zip(speak, listen).await;
}

/// The bodies that these bytes contain from beginning to end: a reading of RFC 9113 that forgives
/// everything.
fn bodies(said: &[u8]) -> Vec<Vec<u8>> {
    let (mut whole, mut begun) = (Vec::new(), BTreeMap::<[u8; 4], Vec<u8>>::new());
    let Some(mut rest) = said.strip_prefix(PREFACE) else {
        return whole;
    };
    while let Some((&[a, b, c, kind, flags, reserved, d, e, f], after)) =
        rest.split_first_chunk::<9>()
    {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else {
            break;
        };
        rest = after;
        let stream = [reserved & 0x7f, d, e, f];
        if kind == 0 {
            let padded = flags & 8 != 0;
            let padding =
                payload.first().map_or(0, |&length| usize::from(length)) * usize::from(padded);
            let data = payload.get(usize::from(padded)..payload.len().saturating_sub(padding));
            begun
                .entry(stream)
                .or_default()
                .extend_from_slice(data.unwrap_or_default());
        }
        // Headers may end a stream that has a body: trailers.
        if kind <= 1 && flags & 1 != 0 {
            whole.push(begun.remove(&stream).unwrap_or_default());
        }
    }
    whole
}

/// The pure half: a path and its body, and what else headers carry.
fn decode(data: &[u8]) {
    let (path, body) = data.split_at(data.len() / 4);
    let text = String::from_utf8_lossy(path);
    let method = [
        "netavark_proxy.NetavarkProxy/Setup",
        "netavark_proxy.NetavarkProxy/Teardown",
        "netavark_proxy.NetavarkProxy/Clean",
        "smol_dhcp_proxy.Control/Renew",
        "smol_dhcp_proxy.Control/Release",
    ][data.len() % 5];
    for path in [&*text, &format!("/{method}")] {
        match Call::decode(path, body) {
            Ok(call) => {
                let (again, encoded) = call.encode();
                assert_eq!(again, path);
                assert_eq!(Call::decode(&again, &encoded).as_ref(), Ok(&call));
                // The same bytes as the answer to it.
                if let Ok(reply) = call.decode_reply(body) {
                    assert_eq!(call.decode_reply(&reply.encode()), Ok(reply));
                }
                assert!(
                    encoded.len() <= body.len() + wire::PREFIX,
                    "said shorter than we would"
                );
            }
            Err(status) => assert!(!status.message.is_empty() && status.code != rpc::Code::Ok),
        }
    }
    let encoded = percent_encoded(&text);
    assert!(
        encoded.len() <= 3 * MESSAGE_LIMIT
            && encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    );
    assert!(wire::timeout(&text).is_none_or(|time| time <= Duration::from_secs(99_999_999 * 3600)));
}
