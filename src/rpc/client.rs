//! One gRPC call from the client's side, on a blocking stream.
//!
//! The few frames of HTTP/2 (RFC 9113) that a single unary call needs are written by hand: the
//! client side of h2 is about three times as large. Nothing is sent but the preface, one request and
//! the acknowledgements that the protocol demands.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::status::percent_decoded;
use super::{Answer, Call, Code, Status, wire};
use crate::rt;
use crate::time::Instant;

mod fields;

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The stream of the call.
const STREAM: u32 = 1;
/// The longest payload of a frame that either side sends unless told otherwise.
const MAX_FRAME: usize = 16_384;
/// The longest header block that is read.
const MAX_FIELDS: usize = 64 * 1024;
/// The window for an answer: as much as is read.
const WINDOW: u32 = wire::ANSWER_LIMIT as u32;
/// The interval at which a waiting caller is told.
const TICK: Duration = Duration::from_millis(250);

/// The reason why a call has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The server refused the call.
    Refused(Status),
    /// The server answered by an HTTP status other than 200.
    Http(String),
    /// The server ended the call or the connection, with this error code of HTTP/2.
    Reset(u32),
    /// The server did not speak HTTP/2 or gRPC.
    Protocol(&'static str),
    /// The time is over.
    Late,
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => status.fmt(f),
            Self::Http(status) => write!(f, "HTTP status {status}"),
            Self::Reset(code) => write!(f, "the call was ended with the HTTP/2 error {code}"),
            Self::Protocol(what) => f.write_str(what),
            Self::Late => f.write_str("no answer in time"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Connects to a socket. A full backlog is waited for, as long as `timeout` allows.
///
/// # Errors
///
/// That of the system call; `TimedOut` for a full backlog.
pub fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_write_timeout(Some(timeout))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::ErrorKind::TimedOut.into())
        }
        connected => connected.map(|()| socket.into()),
    }
}

/// Makes a call, and waits for its answer until `deadline`. The server is told how long that is.
/// `waiting` is called several times a second meanwhile.
///
/// # Errors
///
/// [`ClientError`]. The server cancels a call without an answer when the stream is closed.
pub fn call(
    stream: &UnixStream,
    call: &Call,
    deadline: Instant,
    waiting: impl FnMut(),
) -> Result<Answer, ClientError> {
    let mut connection = CallStream {
        stream,
        deadline,
        waiting,
    };
    connection.write(&request(call, deadline - rt::now()))?;
    let mut answer = ReceivedAnswer::default();
    while !answer.is_complete {
        let frame = connection.read_frame()?;
        let reply = answer.take(&frame)?;
        connection.write(&reply)?;
    }
    answer.finish(call)
}

/// Returns all that the client says of its own accord.
fn request(call: &Call, timeout: Duration) -> Vec<u8> {
    let (path, body) = call.encode();
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = Vec::new();
    // No dynamic table, no push, and a window for the whole answer (RFC 9113 §6.5.2).
    for (setting, value) in [(1_u16, 0_u32), (2, 0), (4, WINDOW)] {
        settings.extend_from_slice(&setting.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    push_frame(&mut out, (SETTINGS, 0, 0), &settings);
    push_frame(&mut out, (WINDOW_UPDATE, 0, 0), &WINDOW.to_be_bytes());
    // `:method: POST` and `:scheme: http` are in the static table; `:path`, `:authority` and
    // `content-type` are names of it.
    let mut block = vec![0x83, 0x86, 0x04];
    push_string(&mut block, &path);
    block.push(0x01);
    push_string(&mut block, "localhost");
    block.extend_from_slice(&[0x0f, 0x10]);
    push_string(&mut block, "application/grpc");
    let millis = timeout.as_millis().clamp(1, 99_999_999);
    for (name, value) in [("te", "trailers"), ("grpc-timeout", &format!("{millis}m"))] {
        block.push(0);
        push_string(&mut block, name);
        push_string(&mut block, value);
    }
    push_frame(&mut out, (HEADERS, END_HEADERS, STREAM), &block);
    let mut pieces = body.chunks(MAX_FRAME).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() {
            END_STREAM
        } else {
            0
        };
        push_frame(&mut out, (DATA, flags, STREAM), piece);
    }
    out
}

fn push_frame(out: &mut Vec<u8>, (kind, flags, stream): (u8, u8, u32), payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("no frame of ours is longer than MAX_FRAME");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Adds a string of a header block, not encoded.
fn push_string(block: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).expect("our names and paths are short");
    debug_assert!(length < 127, "it has one byte");
    block.push(length);
    block.extend_from_slice(text.as_bytes());
}

/// A received frame.
#[derive(Debug)]
struct ReceivedFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl ReceivedFrame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the payload of DATA or HEADERS without padding and priority.
    fn content(&self) -> Option<&[u8]> {
        let mut content = &*self.payload;
        if self.has(PADDED) {
            let (&padding, rest) = content.split_first()?;
            content = &rest[..rest.len().checked_sub(padding.into())?];
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            content = content.get(5..)?;
        }
        Some(content)
    }
}

/// The stream, and the time that is left.
struct CallStream<'a, W> {
    stream: &'a UnixStream,
    deadline: Instant,
    waiting: W,
}

impl<W: FnMut()> CallStream<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let timeout = self.next_timeout()?;
            self.stream.set_write_timeout(Some(timeout))?;
            let written = (&mut &*self.stream).write(rest);
            if let Some(length) = self.progress(written)? {
                rest = &rest[length..];
            }
        }
        Ok(())
    }

    fn read_frame(&mut self) -> Result<ReceivedFrame, ClientError> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_FRAME {
            return Err(ClientError::Protocol(
                "a frame of HTTP/2 is longer than allowed",
            ));
        }
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        Ok(ReceivedFrame {
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            payload,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), ClientError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let timeout = self.next_timeout()?;
            self.stream.set_read_timeout(Some(timeout))?;
            let read = (&mut &*self.stream).read(&mut buffer[filled..]);
            if let Some(length) = self.progress(read)? {
                filled += length;
            }
        }
        Ok(())
    }

    /// Returns the time until the caller is told that it still waits.
    fn next_timeout(&self) -> Result<Duration, ClientError> {
        let left = self.deadline - rt::now();
        if left.is_zero() {
            return Err(ClientError::Late);
        }
        Ok(left.min(TICK))
    }

    /// Returns the number of bytes that were moved, `None` for another try.
    fn progress(&mut self, moved: io::Result<usize>) -> Result<Option<usize>, ClientError> {
        match moved {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                (self.waiting)();
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The answer as far as it was received.
#[derive(Debug, Default)]
struct ReceivedAnswer {
    /// A header block that is not complete, and whether the stream ends with it.
    block: Option<(Vec<u8>, bool)>,
    http_status: String,
    is_grpc: bool,
    status: Option<Code>,
    message: String,
    warning: Option<String>,
    body: Vec<u8>,
    is_complete: bool,
}

impl ReceivedAnswer {
    /// Takes in a frame, and returns what has to be sent in reply.
    fn take(&mut self, frame: &ReceivedFrame) -> Result<Vec<u8>, ClientError> {
        let broken = || ClientError::Protocol("a frame of HTTP/2 makes no sense");
        let mut reply = Vec::new();
        if self.block.is_some() && (frame.kind, frame.stream) != (CONTINUATION, STREAM) {
            return Err(broken());
        }
        match (frame.kind, frame.stream) {
            (SETTINGS, 0) if !frame.has(ACK) => push_frame(&mut reply, (SETTINGS, ACK, 0), &[]),
            (PING, 0) if !frame.has(ACK) && frame.payload.len() == 8 => {
                push_frame(&mut reply, (PING, ACK, 0), &frame.payload);
            }
            (GOAWAY, 0) => {
                let number = |at: usize| {
                    let bytes = frame.payload.get(at..at + 4)?.try_into().ok()?;
                    Some(u32::from_be_bytes(bytes))
                };
                let (last, code) = number(0).zip(number(4)).ok_or_else(broken)?;
                // Otherwise the call is still answered.
                if last < STREAM || code != 0 {
                    return Err(ClientError::Reset(code));
                }
            }
            (DATA, STREAM) => {
                let content = frame.content().ok_or_else(broken)?;
                if self.body.len() + content.len() > wire::PREFIX + wire::ANSWER_LIMIT {
                    return Err(ClientError::Protocol("the answer is too long"));
                }
                self.body.extend_from_slice(content);
                self.is_complete = frame.has(END_STREAM);
            }
            (HEADERS, STREAM) => {
                let content = frame.content().ok_or_else(broken)?.to_vec();
                self.block = Some((content, frame.has(END_STREAM)));
                self.end_block(frame)?;
            }
            (CONTINUATION, STREAM) => {
                let (block, _) = self.block.as_mut().ok_or_else(broken)?;
                block.extend_from_slice(&frame.payload);
                if block.len() > MAX_FIELDS {
                    return Err(ClientError::Protocol("the header fields are too long"));
                }
                self.end_block(frame)?;
            }
            (RST_STREAM, STREAM) => {
                let code = frame.payload.as_slice().try_into().map_err(|_| broken())?;
                return Err(ClientError::Reset(u32::from_be_bytes(code)));
            }
            (PUSH_PROMISE | HEADERS | CONTINUATION | DATA, _) => return Err(broken()),
            // Acknowledgements, windows, priorities, and frames of extensions.
            _ => {}
        }
        Ok(reply)
    }

    /// Reads the header block where `frame` ends it.
    fn end_block(&mut self, frame: &ReceivedFrame) -> Result<(), ClientError> {
        if !frame.has(END_HEADERS) {
            return Ok(());
        }
        let Some((block, is_last)) = self.block.take() else {
            return Ok(());
        };
        let read = fields::read(&block, |name, value| match name {
            b":status" => self.http_status = String::from_utf8_lossy(value).into_owned(),
            b"content-type" => self.is_grpc = value.starts_with(b"application/grpc"),
            b"grpc-status" => {
                let number = str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                self.status = Some(number.map_or(Code::Unknown, |number: u32| number.into()));
            }
            b"grpc-message" => self.message = percent_decoded(value),
            b"warning" => self.warning = Some(percent_decoded(value)),
            _ => {}
        });
        read.ok_or(ClientError::Protocol("the header fields make no sense"))?;
        self.is_complete = is_last;
        Ok(())
    }

    fn finish(self, call: &Call) -> Result<Answer, ClientError> {
        match self.status {
            _ if self.http_status != "200" => Err(ClientError::Http(self.http_status)),
            Some(_) if !self.is_grpc => Err(ClientError::Protocol("the answer is not gRPC")),
            Some(Code::Ok) => {
                let reply = call.decode_reply(&self.body);
                Ok(Answer {
                    reply: reply.map_err(ClientError::Refused)?,
                    warning: self.warning,
                })
            }
            Some(code) => Err(ClientError::Refused(Status::new(code, self.message))),
            None => Err(ClientError::Protocol("the answer has no gRPC status")),
        }
    }
}

#[cfg(test)]
mod tests;
