//! The trouble of a lease in words: the present one, and the last one with its time.

use std::borrow::Cow;

use prost::Message;
use serde::Serialize;

use super::number::{instant, millis};
use super::phase::{INIT, REBINDING, RENEWING};
use crate::proxy::store::scan::{Scanner, number, text};
use crate::time::Instant;

/// The longest text in bytes. It may quote a server.
pub(crate) const MAX_TROUBLE: usize = 160;

/// The last failure of work on a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseTrouble {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// The same in the table and in the state file.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct StoredTrouble {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

impl LeaseTrouble {
    /// Returns the trouble of `text`, without control characters and cut to [`MAX_TROUBLE`].
    pub(crate) fn new(text: &str, at: Instant) -> Self {
        let end = (0..=MAX_TROUBLE.min(text.len())).rfind(|&end| text.is_char_boundary(end));
        let text = text[..end.unwrap_or(0)].replace(char::is_control, " ");
        Self { at, text }
    }

    /// Reads the stored form from the text of the state file.
    pub(super) fn read(value: &str) -> Option<Self> {
        let (mut at, mut words) = (None, None);
        let mut scanner = Scanner::new(value);
        scanner
            .object(&mut |scanner, name| {
                let value = scanner.value()?;
                match name {
                    "at" => at = number(value),
                    "text" => words = text(value),
                    _ => {}
                }
                Ok(())
            })
            .ok()?;
        Some(Self::new(&words?, instant(at?)))
    }
}

impl From<&LeaseTrouble> for StoredTrouble {
    fn from(trouble: &LeaseTrouble) -> Self {
        Self {
            at: millis(trouble.at).unwrap_or(0),
            text: trouble.text.clone(),
        }
    }
}

impl From<StoredTrouble> for LeaseTrouble {
    fn from(stored: StoredTrouble) -> Self {
        Self::new(&stored.text, instant(stored.at))
    }
}

/// The condition of a lease, as far as it may be trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The name of the state.
    pub(super) state: &'static str,
    /// Failures in a row; 0 where no retry is pending.
    pub(super) failures: u32,
    /// A message is due, but there is no carrier.
    pub(super) is_send_pending: bool,
}

impl Condition {
    /// Returns what is wrong, in words.
    pub(crate) fn trouble(&self) -> Option<Cow<'static, str>> {
        if self.failures > 0 {
            let text = format!("the last {} attempts to work on it failed", self.failures);
            return Some(text.into());
        }
        let text = match self.state {
            _ if self.is_send_pending => "the interface has no carrier",
            INIT => "there is no lease; a DHCP server is being looked for",
            RENEWING => "its DHCP server did not answer a renewal",
            REBINDING => "no DHCP server answered a renewal",
            _ => return None,
        };
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters_and_has_no_control_characters() {
        let trouble = LeaseTrouble::new(&format!("a\u{1b}[2J\n{}", "é".repeat(200)), at(7));
        assert!(trouble.text.starts_with("a [2J é"));
        assert!((MAX_TROUBLE - 1..=MAX_TROUBLE).contains(&trouble.text.len()));
        assert_eq!(LeaseTrouble::new("", at(7)).text, "");
    }
}
