//! A gRPC client for tests: blocking calls, no runtime and no thread, so it can be used from any
//! thread and namespace.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part of it"
)]

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{AsyncRead, AsyncWrite};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol_dhcp_proxy::rpc::wire::message;
use smol_dhcp_proxy::rpc::{Answer, Call, Code, NetavarkLease, NetworkConfig, Reply, Status};
use smol_dhcp_proxy::rt;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Makes one call on a connection of its own, as netavark does.
pub fn call(path: &Path, call: &Call) -> Result<Reply, Status> {
    Channel::connect(path)?.call(call)
}

/// Asks for a lease.
pub fn setup(path: &Path, config: &NetworkConfig) -> Result<NetavarkLease, Status> {
    call(path, &Call::Setup(config.clone())).map(lease)
}

/// Gives a lease back.
pub fn teardown(path: &Path, config: &NetworkConfig) -> Result<NetavarkLease, Status> {
    call(path, &Call::Teardown(config.clone())).map(lease)
}

/// Gives everything back, and tells whether that went well.
pub fn clean(path: &Path) -> Result<bool, Status> {
    match call(path, &Call::Clean)? {
        Reply::Operation(operation) => Ok(operation.success),
        other => panic!("not an answer to Clean: {other:?}"),
    }
}

fn lease(reply: Reply) -> NetavarkLease {
    match reply {
        Reply::Lease(lease) => lease,
        other => panic!("not a lease: {other:?}"),
    }
}

/// A connection that stays open from call to call. It does nothing but within its methods; dropped,
/// it hangs up.
pub struct Channel {
    requests: SendRequest<Bytes>,
    connection: Connection<Compat<Wire>, Bytes>,
    pings: PingPong,
    driver: Driver,
    /// The connection is over and must not be polled again.
    over: bool,
}

/// A request that was sent and is not answered yet.
pub struct Pending {
    response: ResponseFuture,
    stream: SendStream<Bytes>,
    is_clean: bool,
}

impl Channel {
    /// Connects to the socket at `path`. Whatever goes wrong on the way there and later is
    /// [`Code::Unavailable`].
    pub fn connect(path: &Path) -> Result<Self, Status> {
        Self::over(UnixStream::connect(path).map_err(unavailable)?)
    }

    /// Speaks over a stream that is connected already.
    pub fn over(stream: UnixStream) -> Result<Self, Status> {
        stream.set_nonblocking(true).map_err(unavailable)?;
        let stream = Arc::new(stream);
        let driver = Driver {
            stream: stream.clone(),
            woken: Arc::default(),
            patience: Duration::from_secs(60),
        };
        let mut handshake = pin!(h2::client::handshake(Wire(stream).compat()));
        let handshake = driver.drive(|context| handshake.as_mut().poll(context))?;
        let (requests, mut connection) = handshake.map_err(unavailable)?;
        let pings = connection.ping_pong().expect("it is taken once");
        Ok(Self {
            requests,
            connection,
            pings,
            driver,
            over: false,
        })
    }

    /// Gives up on an answer after this long instead of a minute.
    pub fn set_patience(&mut self, patience: Duration) {
        self.driver.patience = patience;
    }

    /// Makes a call and waits for its answer.
    pub fn call(&mut self, call: &Call) -> Result<Reply, Status> {
        let pending = self.begin(call)?;
        self.finish(pending)
    }

    /// Sends a call.
    pub fn begin(&mut self, call: &Call) -> Result<Pending, Status> {
        let (path, body) = call.encode();
        let request = request(&path).body(()).expect("a well-formed request");
        self.begin_request(request, body, matches!(call, Call::Clean))
    }

    /// Sends any request and its whole body; `is_clean` says what kind of answer it gets.
    pub fn begin_request(
        &mut self,
        request: Request<()>,
        body: Bytes,
        is_clean: bool,
    ) -> Result<Pending, Status> {
        let mut requests = self.requests.clone();
        self.run(poll_fn(move |context| requests.poll_ready(context)))?
            .map_err(unavailable)?;
        let (response, mut stream) = self
            .requests
            .send_request(request, false)
            .map_err(unavailable)?;
        stream.send_data(body, true).map_err(unavailable)?;
        self.settle();
        Ok(Pending {
            response,
            stream,
            is_clean,
        })
    }

    /// Waits for the reply to a call.
    pub fn finish(&mut self, pending: Pending) -> Result<Reply, Status> {
        self.answer(pending).map(|answer| answer.reply)
    }

    /// Waits for the whole answer to a call.
    pub fn answer(&mut self, pending: Pending) -> Result<Answer, Status> {
        let Pending {
            response,
            stream: _stream,
            is_clean,
        } = pending;
        let (body, trailers) = self.run(Box::pin(receive(response)))??;
        check(&trailers)?;
        let reply = if is_clean {
            Reply::Operation(message(&body)?)
        } else {
            Reply::Lease(message(&body)?)
        };
        Ok(Answer {
            reply,
            warning: trailers
                .get("warning")
                .map(|warning| percent_decoded(warning.as_bytes())),
        })
    }

    /// Takes a call back: resets its stream and leaves the connection open.
    pub fn cancel(&mut self, mut pending: Pending) {
        pending.stream.send_reset(Reason::CANCEL);
        self.settle();
    }

    /// Sends a PING and waits until it is answered.
    pub fn ping(&mut self) -> Result<(), Status> {
        self.pings.send_ping(Ping::opaque()).map_err(unavailable)?;
        let Self {
            connection,
            pings,
            driver,
            over,
            ..
        } = self;
        driver.drive(|context| {
            drive_connection(connection, over, context);
            match pings.poll_pong(context) {
                Poll::Pending if *over => Poll::Ready(Err(gone())),
                other => other.map(|pong| pong.map(drop).map_err(unavailable)),
            }
        })?
    }

    /// Waits until the server has ended the connection.
    pub fn wait_until_over(&mut self) -> Result<(), Status> {
        let Self {
            connection,
            driver,
            over,
            ..
        } = self;
        driver.drive(|context| {
            drive_connection(connection, over, context);
            if *over {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }

    /// Returns whether the connection has ended, as far as is known from received data.
    pub fn is_over(&mut self) -> bool {
        self.settle();
        self.over
    }

    /// Sends and takes in what can be without waiting.
    fn settle(&mut self) {
        let Self {
            connection,
            driver,
            over,
            ..
        } = self;
        let _ = driver.settle(|context| {
            drive_connection(connection, over, context);
            Poll::<()>::Pending
        });
    }

    fn run<T>(&mut self, mut future: impl Future<Output = T> + Unpin) -> Result<T, Status> {
        let Self {
            connection,
            driver,
            over,
            ..
        } = self;
        driver.drive(|context| {
            drive_connection(connection, over, context);
            match Pin::new(&mut future).poll(context) {
                Poll::Pending if *over => Poll::Ready(Err(gone())),
                other => other.map(Ok),
            }
        })?
    }
}

/// A request as every gRPC client begins it.
pub fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "lab")
}

fn drive_connection(
    connection: &mut Connection<Compat<Wire>, Bytes>,
    over: &mut bool,
    context: &mut Context<'_>,
) {
    // How it ended, the streams know too.
    *over = *over || Pin::new(connection).poll(context).is_ready();
}

async fn receive(response: ResponseFuture) -> Result<(Vec<u8>, HeaderMap), Status> {
    let (head, mut body) = response.await.map_err(unavailable)?.into_parts();
    if head.status != 200 {
        return Err(Status::new(Code::Unknown, format!("HTTP {}", head.status)));
    }
    assert_eq!(head.headers["content-type"], "application/grpc");
    let bytes = receive_body(&mut body).await.map_err(unavailable)?;
    let trailers = body.trailers().await.map_err(unavailable)?;
    Ok((bytes, trailers.unwrap_or(head.headers)))
}

async fn receive_body(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn check(trailers: &HeaderMap) -> Result<(), Status> {
    let status = trailers
        .get("grpc-status")
        .and_then(|status| status.to_str().ok()?.parse::<u32>().ok());
    let code = Code::from(status.expect("an answer has a grpc-status"));
    let message = trailers
        .get("grpc-message")
        .map_or(String::new(), |message| percent_decoded(message.as_bytes()));
    if code == Code::Ok {
        Ok(())
    } else {
        Err(Status { code, message })
    }
}

fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        let mut digit = || (*rest.next()? as char).to_digit(16);
        bytes.push(match byte {
            b'%' => digit()
                .zip(digit())
                .map(|(high, low)| (high * 16 + low) as u8)
                .expect("two hexadecimal digits"),
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("a grpc-message is UTF-8")
}

fn unavailable(error: impl ToString) -> Status {
    Status::new(Code::Unavailable, error.to_string())
}

fn gone() -> Status {
    unavailable("the server has ended the connection")
}

/// A non-blocking socket with the traits of an asynchronous one. [`Driver`] does the waiting.
struct Wire(Arc<UnixStream>);

fn poll_io<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_io((&*self.0).read(buffer))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_io((&*self.0).write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(std::net::Shutdown::Write))
    }
}

/// Polls until nothing moves any more, then waits for the socket.
struct Driver {
    stream: Arc<UnixStream>,
    woken: Arc<Woken>,
    patience: Duration,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Driver {
    fn drive<T>(&self, mut step: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, Status> {
        let deadline = rt::now() + self.patience;
        loop {
            if let Poll::Ready(result) = self.settle(&mut step) {
                return Ok(result);
            }
            let left = deadline.since(rt::now());
            if left.is_zero() {
                return Err(Status::new(
                    Code::DeadlineExceeded,
                    format!("the test waited {:?}", self.patience),
                ));
            }
            // Requests are small and a full socket is drained by a server that reads: a short look
            // now and then will do.
            let pause = Timespec::try_from(left.min(Duration::from_millis(20)))
                .expect("less than a second");
            let _ = poll(
                &mut [PollFd::new(&*self.stream, PollFlags::IN)],
                Some(&pause),
            );
        }
    }

    fn settle<T>(&self, mut step: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let waker = Waker::from(self.woken.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::Relaxed);
            let polled = step(&mut context);
            if polled.is_ready() || !self.woken.0.load(Ordering::Relaxed) {
                return polled;
            }
        }
    }
}
