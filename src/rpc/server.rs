//! A client's HTTP/2 connection as one future: h2, the calls on it, and their limits.

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

/// The time that a client has to hang up after its GOAWAY.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const WARNING: HeaderName = HeaderName::from_static("warning");

/// Serves a client until the connection ends.
///
/// Each request becomes one future of `call`, polled within this one. It is dropped, which cancels
/// the call, when the client resets its stream, when the connection or `serve` ends, or when its
/// `grpc-timeout` expires.
///
/// A connection gets a GOAWAY after it has had no call in flight for `idle_timeout`, and when
/// `shutdown` resolves. Calls in flight continue, and a request that crosses the GOAWAY is served;
/// the client knows that later ones are not (RFC 9113 §6.8). A client that does not hang up within
/// a second after its last call is disconnected. PINGs are answered, but do not keep a connection
/// open. A request that takes longer than `idle_timeout` to arrive is answered with
/// DEADLINE_EXCEEDED.
pub async fn serve<F>(
    stream: Stream,
    idle_timeout: Duration,
    shutdown: impl Future,
    call: impl Fn(Call) -> F,
) where
    F: Future<Output = Result<Answer, Status>>,
{
    serve_counted(stream, idle_timeout, shutdown, call, |_| ()).await;
}

/// Serves a client as [`serve`] does, and calls `ended` with the status of each call:
/// [`Code::Cancelled`] where the client gets none. Calls that fail before `call`, such as unknown
/// methods, count as well; HTTP that is not gRPC does not.
pub async fn serve_counted<F>(
    stream: Stream,
    idle_timeout: Duration,
    shutdown: impl Future,
    call: impl Fn(Call) -> F,
    ended: impl Fn(Code),
) where
    F: Future<Output = Result<Answer, Status>>,
{
    let mut http = Http::Handshaking(bounds().handshake(h2_stream(stream)));
    let (own_turns, turns) = (Turns::new(1), Turns::of_calls());
    let connection_turns = Turns::of_connections();
    let (mut requests, mut turn, mut had_turn) = (0_usize, None, false);
    let mut calls: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
    let mut shutdown = pin!(shutdown);
    let mut draining = false;
    let mut idle_timer = Timer::never();
    idle_timer.reset(Some(idle_timeout));

    poll_fn(|context| {
        if had_turn {
            turn = None;
        }
        loop {
            let mut busy = !calls.is_empty();
            let mut accepted = 0;
            let may_accept = requests < REQUESTS_PER_ROUND
                || turn
                    .get_or_insert_with(|| connection_turns.join())
                    .poll(context)
                    .is_ready();
            while may_accept
                && accepted < REQUESTS_PER_ROUND
                && let Poll::Ready(next) = http.poll_request(context, draining)
            {
                let Some((request, respond)) = next else {
                    return Poll::Ready(());
                };
                calls.push(Box::pin(answer(
                    request,
                    respond,
                    idle_timeout,
                    (&own_turns, &turns),
                    (&call, &ended),
                )));
                (busy, accepted) = (true, accepted + 1);
            }
            requests = requests.saturating_add(accepted);
            // The turn lasts until all other ready connections have been polled once.
            had_turn = turn.is_some() && accepted > 0;
            if had_turn || accepted == REQUESTS_PER_ROUND {
                context.waker().wake_by_ref();
            }
            if may_accept && !had_turn {
                turn = None;
            }
            calls.retain_mut(|call| call.as_mut().poll(context).is_pending());

            // The timer starts when the last call ends.
            let idle = calls.is_empty();
            if idle && busy {
                idle_timer.reset(Some(if draining { GRACE_PERIOD } else { idle_timeout }));
            }
            let is_timed_out = idle && pin!(idle_timer.fired()).poll(context).is_ready();
            if draining {
                return if is_timed_out {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            if !is_timed_out && shutdown.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            draining = true;
            idle_timer.reset(Some(GRACE_PERIOD));
        }
    })
    .await;
}

/// The requests that a connection accepts before all others are polled. After as many, a connection
/// queues with other busy ones ([`Turns::of_connections`]).
const REQUESTS_PER_ROUND: usize = 2;

/// The longest body of a request.
const BODY_LIMIT: usize = wire::PREFIX + wire::MESSAGE_LIMIT;

/// Limits the memory of a connection. `tests/connection.rs` measures the worst known case.
fn bounds() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(64)
        // One byte more than is accepted, so that a longer body gets an answer.
        .initial_window_size(BODY_LIMIT as u32 + 1)
        // For all incomplete bodies together.
        .initial_connection_window_size(65_535)
        .max_header_list_size(8 * 1024)
        .max_send_buffer_size(64 * 1024)
        // A client that opens and resets streams faster than they are accepted is disconnected.
        .max_pending_accept_reset_streams(16)
        .max_concurrent_reset_streams(16)
        .max_local_error_reset_streams(Some(64));
    builder
}

/// The connection, before and after the client's preface.
enum Http {
    Handshaking(Handshake<H2Stream>),
    Open(Connection<H2Stream, Bytes>),
}

impl Http {
    /// Drives the connection. Returns the next request, `None` at its end.
    fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        draining: bool,
    ) -> Poll<Option<(Request<RecvStream>, SendResponse<Bytes>)>> {
        let next = loop {
            match self {
                Self::Handshaking(handshake) => match ready!(Pin::new(handshake).poll(context)) {
                    Ok(connection) => *self = Self::Open(connection),
                    Err(error) => break Some(Err(error)),
                },
                Self::Open(connection) => {
                    // Sends GOAWAY the first time, possibly as the first frame, and has no effect
                    // later.
                    if draining {
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

/// Serves a request: reads it, runs `call`, sends the answer. Ends early if the client resets it.
///
/// The headers, which may be long, are dropped before the body is read.
fn answer<F>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    idle_timeout: Duration,
    (own_turns, turns): (&Turns, &Turns),
    (call, ended): (&impl Fn(Call) -> F, &impl Fn(Code)),
) -> impl Future<Output = ()>
where
    F: Future<Output = Result<Answer, Status>>,
{
    let (head, mut body) = request.into_parts();
    let refusal = http_refusal(&head);
    let (uri, timeout) = (head.uri, timeout(&head.headers));
    let counted = refusal.is_none().then(|| CountedCall {
        code: Code::Cancelled,
        ended,
    });
    async move {
        if let Some(refusal) = refusal {
            // Here and below, an error means that the client has hung up.
            let _ = respond.send_response(refusal, true);
            return;
        }
        // It may be dropped before it is polled.
        let mut counted = counted;
        let work = async {
            let late = async {
                rt::sleep(idle_timeout).await;
                Err(Status::new(
                    Code::DeadlineExceeded,
                    "the request did not arrive in time",
                ))
            };
            let whole = future::or(read(&mut body), late).await?;
            let turn = (own_turns.take().await, turns.take().await);
            // Boxed here, because it takes many kilobytes, which only a complete request should
            // cost.
            let mut call = Box::pin(call(Call::decode(uri.path(), &whole)?));
            let outcome = future::poll_once(&mut call).await;
            if own_turns.has_waiters() || turns.has_waiters() {
                // Other ready tasks run before the next calls begin.
                future::yield_now().await;
            }
            drop(turn);
            // Not earlier: released piece by piece, the window of the connection would limit
            // nothing.
            let _ = body.flow_control().release_capacity(whole.len());
            drop(whole);
            match outcome {
                Some(outcome) => outcome,
                None => call.await,
            }
        };
        let in_time = future::or(work, expiry(timeout));
        let hung_up = async {
            // The client reset the stream, or the connection ended.
            let _ = poll_fn(|context| respond.poll_reset(context)).await;
            None
        };
        let outcome = future::or(hung_up, async { Some(in_time.await) }).await;
        if let Some(outcome) = outcome {
            let code = outcome
                .as_ref()
                .map_or_else(|status| status.code, |_| Code::Ok);
            if let Some(counted) = &mut counted {
                counted.code = code;
            }
            let _ = reply(respond, outcome);
        }
    }
}

/// A call that is counted once, when it ends.
struct CountedCall<'a, E: Fn(Code)> {
    code: Code,
    ended: &'a E,
}

impl<E: Fn(Code)> Drop for CountedCall<'_, E> {
    fn drop(&mut self) {
        (self.ended)(self.code);
    }
}

/// Returns the answer to HTTP that is not gRPC: a plain HTTP status, as the gRPC protocol requires.
fn http_refusal(head: &http::request::Parts) -> Option<Response<()>> {
    let is_grpc = |value: &HeaderValue| {
        // A suffix names the encoding of the messages; only "+proto" is supported.
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

/// Reads the body of a request up to the limit.
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

/// Returns the timeout that the client set.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get("grpc-timeout")
        .and_then(|value| wire::timeout(value.to_str().ok()?))
}

/// Resolves when the caller's timeout expires, if there is one.
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

/// Sends headers, message and trailers; for an error, headers only.
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
