//! gRPC's status codes and messages. Pure.

use std::fmt::{self, Write};

/// The status codes of gRPC, with their numbers in `grpc-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// An error without another code.
    Unknown = 2,
    /// The arguments are wrong in any state.
    InvalidArgument = 3,
    /// The caller's timeout expired.
    DeadlineExceeded = 4,
    /// The requested object does not exist.
    NotFound = 5,
    /// The object to create exists already.
    AlreadyExists = 6,
    /// The caller lacks permission.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The call is not possible in this state.
    FailedPrecondition = 9,
    /// The call was aborted.
    Aborted = 10,
    /// The argument is out of range.
    OutOfRange = 11,
    /// The method is not implemented.
    Unimplemented = 12,
    /// An error of the server.
    Internal = 13,
    /// Temporarily unavailable.
    Unavailable = 14,
    /// Data are lost for good.
    DataLoss = 15,
    /// The caller is not authenticated.
    Unauthenticated = 16,
}

impl From<u32> for Code {
    /// Returns the code with this number, [`Code::Unknown`] for an unknown number.
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// An error of a call. netavark shows only the message to its user, so it has to be complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// For programs.
    pub code: Code,
    /// For users.
    pub message: String,
}

impl Status {
    /// Returns a status with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Encodes a text as the value of a header such as `grpc-message`: printable ASCII except `%` as it
/// is, every other byte of its UTF-8 as `%XX`.
///
/// Truncates it to [`MESSAGE_LIMIT`]: it may quote the caller, whose HTTP/2 stack refuses an answer
/// with very long headers.
pub fn percent_encoded(text: &str) -> String {
    let end = (0..=MESSAGE_LIMIT.min(text.len())).rfind(|&at| text.is_char_boundary(at));
    let text = &text[..end.unwrap_or(0)];
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    encoded
}

/// Decodes the value of such a header. What is no escape stays as it is, as the gRPC protocol
/// requires.
pub fn percent_decoded(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let escape = digit(0).zip(digit(1)).filter(|_| byte == b'%');
        match escape.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The most bytes of a text that are sent.
pub const MESSAGE_LIMIT: usize = 1024;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_travels_as_it_is() {
        assert_eq!(
            percent_encoded("No such device (os error 19)~"),
            "No such device (os error 19)~"
        );
    }

    #[test]
    fn everything_else_travels_byte_by_byte() {
        assert_eq!(
            percent_encoded("100 %\n\u{7f}é€"),
            "100 %25%0A%7F%C3%A9%E2%82%AC"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        assert_eq!(percent_encoded(&"é".repeat(5000)).len(), MESSAGE_LIMIT * 3);
        assert_eq!(
            percent_encoded(&format!("x{}", "é".repeat(5000))).len(),
            1 + (MESSAGE_LIMIT - 2) * 3
        );
    }

    #[test]
    fn an_encoded_text_is_decoded_and_what_is_no_escape_stays() {
        for text in ["No such device", "100 %\n\u{7f}é€", "", "%41"] {
            assert_eq!(percent_decoded(percent_encoded(text).as_bytes()), text);
        }
        for text in ["100%", "%4", "%g1", "% 41"] {
            assert_eq!(percent_decoded(text.as_bytes()), text);
        }
        assert_eq!(percent_decoded(b"%ff"), "\u{fffd}");
    }

    #[test]
    fn numbers_and_codes_agree() {
        for number in 0..=16 {
            assert_eq!(Code::from(number) as u32, number);
        }
        assert_eq!(Code::from(17), Code::Unknown);
        assert_eq!(Code::from(u32::MAX), Code::Unknown);
    }
}
