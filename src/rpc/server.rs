//! One client's HTTP/2 connection, from its preface to its end, as one future: h2, the calls in it,
//! and their bounds.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use h2::RecvStream;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::h2_stream::{H2Stream, h2_stream};
use super::status::percent_encoded;
use super::turn::Turns;
use super::{Answer, Call, Code, Status, wire};
use crate::rt::{self, Stream, Timer};

/// How long a client may take to hang up after it was told to (GOAWAY).
const GRACE: Duration = Duration::from_secs(1);

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const WARNING: HeaderName = HeaderName::from_static("warning");

/// Serves one client until the connection is over.
///
/// Each request becomes one future of `call`, all polled within this one. When the client resets
/// its stream or the connection dies, the future is dropped at once, which cancels the call. So it is
/// when `serve` itself is dropped, or when the time of a
/// `grpc-timeout` is up.
///
/// A connection without a call in flight for as long as `quiet` gets a GOAWAY, and so does every
/// connection when `closing` resolves. Calls in flight go on; a request that crossed the GOAWAY on
/// its way is served; one that comes later the client knows to be unserved and sends elsewhere (RFC
/// 9113 section 6.8). A client that still holds on to the connection a second after its last call
/// is cut off. PINGs are answered, but they are no reason to stay; and a request that takes longer
/// than `quiet` to arrive is answered with DEADLINE_EXCEEDED.
pub async fn serve<F>(
    stream: Stream,
    quiet: Duration,
    closing: impl Future,
    call: impl Fn(Call) -> F,
) where
    F: Future<Output = Result<Answer, Status>>,
{
    let mut http = Http::Greeting(bounds().handshake(h2_stream(stream)));
    let (lane, turns) = (Turns::new(1), Turns::of_calls());
    let busy_ones = Turns::of_connections();
    let (mut requests, mut turn, mut had_turn) = (0_usize, None, false);
    let mut calls: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
    let mut closing = pin!(closing);
    let mut leaving = false;
    let mut patience = Timer::never();
    patience.reset(Some(quiet));

    poll_fn(|context| {
        if had_turn {
            turn = None;
        }
        loop {
            let mut busy = !calls.is_empty();
            let mut begun = 0;
            let may = requests < REQUESTS_AT_ONCE
                || turn
                    .get_or_insert_with(|| busy_ones.join())
                    .poll(context)
                    .is_ready();
            while may
                && begun < REQUESTS_AT_ONCE
                && let Poll::Ready(next) = http.poll_request(context, leaving)
            {
                let Some((request, respond)) = next else {
                    return Poll::Ready(());
                };
                calls.push(Box::pin(answer(
                    request,
                    respond,
                    quiet,
                    (&lane, &turns),
                    &call,
                )));
                (busy, begun) = (true, begun + 1);
            }
            requests = requests.saturating_add(begun);
            // Its turn lasts until all others that are ready have had one round.
            had_turn = turn.is_some() && begun > 0;
            if had_turn || begun == REQUESTS_AT_ONCE {
                context.waker().wake_by_ref();
            }
            if may && !had_turn {
                turn = None;
            }
            calls.retain_mut(|call| call.as_mut().poll(context).is_pending());

            // While a call is in flight the timer means nothing; it starts anew when the last one
            // has ended.
            let idle = calls.is_empty();
            if idle && busy {
                patience.reset(Some(if leaving { GRACE } else { quiet }));
            }
            let tired = idle && pin!(patience.fired()).poll(context).is_ready();
            if leaving {
                return if tired {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            if !tired && closing.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            leaving = true;
            patience.reset(Some(GRACE));
        }
    })
    .await;
}

/// Requests that a connection takes in before all others have a turn: each waits for the others'
/// rounds. One that has taken in so many has to queue with those like it (`Turns::of_connections`).
const REQUESTS_AT_ONCE: usize = 2;

/// The longest body of a request.
const BODY_LIMIT: usize = wire::PREFIX + wire::MESSAGE_LIMIT;

/// Bounds what a client makes the daemon keep. `tests/connection.rs` measures the worst that is
/// known.
fn bounds() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(64)
        // One byte more than fits, for a body that is too long is answered.
        .initial_window_size(BODY_LIMIT as u32 + 1)
        // All unfinished bodies together.
        .initial_connection_window_size(65_535)
        .max_header_list_size(8 * 1024)
        .max_send_buffer_size(64 * 1024)
        // Streams opened and reset faster than they are looked at end the connection.
        .max_pending_accept_reset_streams(16)
        .max_concurrent_reset_streams(16)
        .max_local_error_reset_streams(Some(64));
    builder
}

/// The connection, before and after the client's preface.
enum Http {
    Greeting(Handshake<H2Stream>),
    Speaking(Connection<H2Stream, Bytes>),
}

impl Http {
    /// Drives the connection; the next request, or none when the connection is over.
    fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        leaving: bool,
    ) -> Poll<Option<(Request<RecvStream>, SendResponse<Bytes>)>> {
        let next = loop {
            match self {
                Self::Greeting(greeting) => match ready!(Pin::new(greeting).poll(context)) {
                    Ok(connection) => *self = Self::Speaking(connection),
                    Err(error) => break Some(Err(error)),
                },
                Self::Speaking(connection) => {
                    // The first time it says GOAWAY, which may be the first thing we say at all;
                    // then it does nothing.
                    if leaving {
                        connection.graceful_shutdown();
                    }
                    break ready!(pin!(connection.accept()).poll(context));
                }
            }
        };
        Poll::Ready(next.and_then(|request| {
            request
                .inspect_err(|error| log::debug!("connection lost: {error}"))
                .ok()
        }))
    }
}

/// Takes one request through: reads it, lets `call` do it, answers it. Ends early when the client
/// resets it.
///
/// Of the headers, which may be long, nothing is kept while the request arrives.
fn answer<F>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    quiet: Duration,
    (lane, turns): (&Turns, &Turns),
    call: &impl Fn(Call) -> F,
) -> impl Future<Output = ()>
where
    F: Future<Output = Result<Answer, Status>>,
{
    let (head, mut body) = request.into_parts();
    let refusal = refuse(&head);
    let (uri, timeout) = (head.uri, timeout(&head.headers));
    async move {
        if let Some(refusal) = refusal {
            // An error here, and below, is a client that has left.
            let _ = respond.send_response(refusal, true);
            return;
        }
        let work = async {
            let late = async {
                rt::sleep(quiet).await;
                Err(Status::new(
                    Code::DeadlineExceeded,
                    "the request did not arrive in time",
                ))
            };
            let whole = future::or(read(&mut body), late).await?;
            let turn = (lane.take().await, turns.take().await);
            // Boxed where it is made, for it takes many kilobytes, and only a request that has
            // arrived has to have them.
            let mut call = Box::pin(call(Call::decode(uri.path(), &whole)?));
            let outcome = future::poll_once(&mut call).await;
            if lane.are_awaited() || turns.are_awaited() {
                // Everything else that is ready comes before the next calls begin.
                future::yield_now().await;
            }
            drop(turn);
            // At this point only: were each piece given back when it is read, the connection's
            // window would bound nothing.
            let _ = body.flow_control().release_capacity(whole.len());
            drop(whole);
            match outcome {
                Some(outcome) => outcome,
                None => call.await,
            }
        };
        let in_time = future::or(work, expiry(timeout));
        let hung_up = async {
            // Reset by the client, or the connection died.
            let _ = poll_fn(|context| respond.poll_reset(context)).await;
            None
        };
        let outcome = future::or(hung_up, async { Some(in_time.await) }).await;
        if let Some(outcome) = outcome {
            let _ = reply(respond, outcome);
        }
    }
}

/// The answer to what is HTTP but not gRPC: plain HTTP, as the gRPC protocol wants it.
fn refuse(head: &http::request::Parts) -> Option<Response<()>> {
    let is_grpc = |value: &HeaderValue| {
        // With a suffix it names the encoding of the messages, and "+proto" is the only one that we
        // know.
        matches!(
            value.as_bytes(),
            b"application/grpc" | b"application/grpc+proto"
        ) || value.as_bytes().starts_with(b"application/grpc;")
    };
    let status = if head.method != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !head.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut refusal = Response::new(());
    *refusal.status_mut() = status;
    Some(refusal)
}

/// Reads the whole body of a request, if it is within bounds.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, Status> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        whole.extend_from_slice(
            &piece.map_err(|error| Status::new(Code::Cancelled, error.to_string()))?,
        );
        if whole.len() > BODY_LIMIT {
            return Err(wire::too_long());
        }
    }
    Ok(whole)
}

/// Returns the time that the client has set for its call.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get("grpc-timeout")
        .and_then(|value| wire::timeout(value.to_str().ok()?))
}

/// Ends when the caller's time is up, where there is a limit.
async fn expiry(timeout: Option<Duration>) -> Result<Answer, Status> {
    match timeout {
        Some(timeout) => rt::sleep(timeout).await,
        None => future::pending().await,
    }
    Err(Status::new(
        Code::DeadlineExceeded,
        "the caller's time is up",
    ))
}

/// Sends headers, message and trailers; or, for an error, everything in the headers.
fn reply(
    mut respond: SendResponse<Bytes>,
    outcome: Result<Answer, Status>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    match outcome {
        Ok(Answer { reply, warning }) => {
            let mut stream = respond.send_response(response, false)?;
            stream.send_data(reply.encode(), false)?;
            let mut trailers =
                HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(Code::Ok as u16))]);
            trailers.extend(warning.map(|warning| (WARNING, text(&warning))));
            stream.send_trailers(trailers)
        }
        Err(status) => {
            response
                .headers_mut()
                .insert(GRPC_STATUS, HeaderValue::from(status.code as u16));
            response
                .headers_mut()
                .insert(GRPC_MESSAGE, text(&status.message));
            respond.send_response(response, true).map(drop)
        }
    }
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::try_from(percent_encoded(text)).expect("what is encoded is printable ASCII")
}
