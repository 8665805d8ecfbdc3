//! How a call ends: gRPC's status codes and the text beside them. Pure.

use std::fmt::{self, Write};

/// The status codes of gRPC; the numbers are what travels in `grpc-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The call did what was asked.
    Ok = 0,
    /// The caller took it back.
    Cancelled = 1,
    /// Something that no other code names.
    Unknown = 2,
    /// The caller's fault, whatever state the world is in.
    InvalidArgument = 3,
    /// The caller's time ran out first.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// What was to be made is there already.
    AlreadyExists = 6,
    /// This caller may not.
    PermissionDenied = 7,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// It was begun and given up.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// Nothing here does that.
    Unimplemented = 12,
    /// The server's fault.
    Internal = 13,
    /// Not now; later perhaps.
    Unavailable = 14,
    /// Data are gone for good.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

impl From<u32> for Code {
    /// The code with this number; a number that gRPC does not know means [`Code::Unknown`].
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

/// Why a call failed. netavark shows its user the message alone, so it has to say everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What programs look at.
    pub code: Code,
    /// What people read.
    pub message: String,
}

impl Status {
    /// A status of these two parts.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// A text as the value of a header, such as `grpc-message`: printable ASCII as it is, every other
/// byte of the UTF-8 text, and `%`, as `%XX`.
///
/// What is beyond [`MESSAGE_LIMIT`] is cut: it may quote what the caller sent, and a caller's
/// HTTP/2 stack refuses the whole answer when its headers grow too long.
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

/// How many bytes of a text are sent.
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
    fn numbers_and_codes_agree() {
        for number in 0..=16 {
            assert_eq!(Code::from(number) as u32, number);
        }
        assert_eq!(Code::from(17), Code::Unknown);
        assert_eq!(Code::from(u32::MAX), Code::Unknown);
    }
}
