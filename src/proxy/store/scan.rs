//! Reads JSON in place, one token after the other: a large file costs one pass over its bytes and no
//! tree of values.
//!
//! Commas, colons, brackets of the levels that are read, and the ends of strings are checked. A value
//! that is skipped is taken as it is; its reader parses it, or leaves it.

use std::borrow::Cow;

/// The deepest nesting of objects and arrays that are read.
const MAX_DEPTH: u32 = 32;

/// A place at which a text is no JSON, counted in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
}

/// A text that is read from its beginning.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

/// Reads the value of a member, whose name comes as it is written between its quotes.
pub(crate) type EachMember<'a, 'e> =
    &'e mut dyn FnMut(&mut Scanner<'a>, &'a str) -> Result<(), Fault>;
/// Reads an item.
pub(crate) type EachItem<'a, 'e> = &'e mut dyn FnMut(&mut Scanner<'a>) -> Result<(), Fault>;

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// Reads an object. `each` has to read the value of its member.
    pub(crate) fn object(&mut self, each: EachMember<'a, '_>) -> Result<(), Fault> {
        self.list(b'{', b'}', &mut |scanner| {
            let name = scanner.string()?;
            scanner.expect(b':')?;
            each(scanner, name)
        })
    }

    /// Reads an array. `each` has to read its item.
    pub(crate) fn array(&mut self, each: EachItem<'a, '_>) -> Result<(), Fault> {
        self.list(b'[', b']', each)
    }

    fn list(&mut self, open: u8, close: u8, each: EachItem<'a, '_>) -> Result<(), Fault> {
        self.expect(open)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault());
        }
        if self.next() == Some(close) {
            self.at += 1;
        } else {
            loop {
                each(self)?;
                match self.next() {
                    Some(b',') => self.at += 1,
                    Some(byte) if byte == close => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.fault()),
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads any value, and returns it as it is written.
    pub(crate) fn value(&mut self) -> Result<&'a str, Fault> {
        let first = self.next();
        let start = self.at;
        match first {
            Some(b'"') => {
                self.at += 1;
                self.skip_to_quote()?;
            }
            Some(b'{' | b'[') => self.skip_nested()?,
            _ => {
                self.skip(SCALAR);
                if self.at == start {
                    return Err(self.fault());
                }
            }
        }
        self.text.get(start..self.at).ok_or(self.fault())
    }

    /// Reads a string, and returns what is between its quotes.
    pub(crate) fn string(&mut self) -> Result<&'a str, Fault> {
        self.expect(b'"')?;
        let start = self.at;
        self.skip_to_quote()?;
        self.text.get(start..self.at - 1).ok_or(self.fault())
    }

    pub(crate) fn place(&self) -> usize {
        self.at
    }

    /// Goes back to a place at which a value began.
    pub(crate) fn go_back(&mut self, place: usize) {
        self.at = place;
    }

    /// Skips a text where it comes next. Returns whether it did.
    pub(crate) fn skip_text(&mut self, text: &str) -> bool {
        let end = self.at + text.len();
        let is_next = self.text.as_bytes().get(self.at..end) == Some(text.as_bytes());
        if is_next {
            self.at = end;
        }
        is_next
    }

    /// Checks that nothing comes after the value that was read.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(self.fault()),
        }
    }

    /// Skips the rest of a string, and the quote at its end.
    fn skip_to_quote(&mut self) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        loop {
            // Eight bytes at a time: most of a state file is strings.
            while let Some(&word) = bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
                let found = ends_of_text(u64::from_le_bytes(word));
                self.at += found.trailing_zeros() as usize / 8;
                if found != 0 {
                    break;
                }
            }
            match self.skip(IN_STRING) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at = (self.at + 2).min(bytes.len()),
                _ => return Err(self.fault()),
            }
        }
    }

    fn skip_nested(&mut self) -> Result<(), Fault> {
        let mut depth = 0_usize;
        while let Some(byte) = self.skip(BETWEEN_BRACKETS) {
            self.at += 1;
            match byte {
                b'"' => self.skip_to_quote()?,
                b'{' | b'[' => depth += 1,
                _ => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
            }
        }
        Err(self.fault())
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.next() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.fault())
        }
    }

    /// Skips blanks, and returns the byte that comes then.
    fn next(&mut self) -> Option<u8> {
        match self.text.as_bytes().get(self.at) {
            // Most often there are none.
            Some(byte) if CLASSES[usize::from(*byte)] & BLANK == 0 => Some(*byte),
            _ => self.skip(BLANK),
        }
    }

    /// Skips the bytes of a class, and returns the next byte.
    #[inline(always)]
    fn skip(&mut self, class: u8) -> Option<u8> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        let found = loop {
            match bytes.get(at) {
                Some(byte) if CLASSES[usize::from(*byte)] & class != 0 => at += 1,
                found => break found.copied(),
            }
        };
        self.at = at;
        found
    }

    pub(crate) fn fault(&self) -> Fault {
        Fault { at: self.at }
    }
}

/// Returns a number whose lowest bit that is set, if one is, is in the first byte of `word` that is a
/// quote, a backslash or a control character. In little-endian order, the first byte is the lowest.
fn ends_of_text(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    is(b'"') | is(b'\\') | below(word, b' ')
}

/// The classes of bytes: within a string, of a number or a word such as `null`, between two brackets
/// or strings, blank.
const IN_STRING: u8 = 1;
const SCALAR: u8 = 2;
const BETWEEN_BRACKETS: u8 = 4;
const BLANK: u8 = 8;

/// The classes of each byte.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let this = byte as u8;
        if this >= b' ' && !matches!(this, b'"' | b'\\') {
            classes[byte] |= IN_STRING;
        }
        if this.is_ascii_alphanumeric() || matches!(this, b'-' | b'+' | b'.') {
            classes[byte] |= SCALAR;
        }
        if !matches!(this, b'"' | b'{' | b'[' | b'}' | b']') {
            classes[byte] |= BETWEEN_BRACKETS;
        }
        if matches!(this, b' ' | b'\n' | b'\r' | b'\t') {
            classes[byte] |= BLANK;
        }
        byte += 1;
    }
    classes
};

/// Returns the text of a string as [`Scanner::value`] returned it; `None` for another value.
pub(crate) fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(value).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Returns the number of such a value; `None` for another value, or a larger number.
pub(crate) fn number(value: &str) -> Option<u64> {
    value.bytes().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let number = number.checked_mul(10)?.checked_add(digit.into())?;
        (digit < 10).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads all values of an object, one level deep.
    fn members(text: &str) -> Result<Vec<(&str, &str)>, Fault> {
        let mut found = Vec::new();
        let mut scanner = Scanner::new(text);
        scanner.object(&mut |scanner, name| {
            found.push((name, scanner.value()?));
            Ok(())
        })?;
        scanner.end()?;
        Ok(found)
    }

    #[test]
    fn members_come_as_they_are_written() {
        assert_eq!(members("{}"), Ok(Vec::new()));
        let text = r#" { "a" : 1, "b":"x\"y" ,"c":[1,{"d":"]}"}],"e":null } "#;
        let expected = [
            ("a", "1"),
            ("b", r#""x\"y""#),
            ("c", r#"[1,{"d":"]}"}]"#),
            ("e", "null"),
        ];
        assert_eq!(members(text), Ok(expected.to_vec()));
    }

    #[test]
    fn each_beginning_of_a_text_is_a_fault() {
        let whole = r#"{"a":"x\\","b":[1,"[",{}],"c":{"d":-1.5e3}}"#;
        assert!(members(whole).is_ok());
        for length in 0..whole.len() {
            let fault = members(&whole[..length]).unwrap_err();
            assert_eq!(fault, Fault { at: length }, "{length}");
        }
    }

    #[test]
    fn other_texts_are_faults() {
        for text in [
            "",
            "[]",
            "7",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":1}}",
            "{\"a\":\"\n\"}",
            "{\"a\":1}\0",
            "{\"a\":,}",
        ] {
            assert!(members(text).is_err(), "{text:?}");
        }
        let deep = "[".repeat(100_000);
        let mut scanner = Scanner::new(&deep);
        fn descend(scanner: &mut Scanner<'_>) -> Result<(), Fault> {
            scanner.array(&mut descend)
        }
        assert!(descend(&mut scanner).is_err());
        assert!(members(&format!("{{\"a\":{deep}")).is_err());
    }

    #[test]
    fn the_first_byte_that_ends_a_text_is_found() {
        for end in [b'"', b'\\', 0, 0x1f] {
            for place in 0..8 {
                for filler in [b' ', b'!', b'a', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut bytes = [filler; 8];
                    assert_eq!(ends_of_text(u64::from_le_bytes(bytes)), 0, "{filler}");
                    bytes[place] = end;
                    bytes[place + 1..].fill(0);
                    let found = ends_of_text(u64::from_le_bytes(bytes));
                    assert_eq!(found.trailing_zeros() as usize / 8, place, "{end} {filler}");
                }
            }
        }
    }

    #[test]
    fn strings_and_numbers_are_read() {
        assert_eq!(text(r#""plain""#).as_deref(), Some("plain"));
        assert_eq!(text(r#""a\u001b\"b""#).as_deref(), Some("a\u{1b}\"b"));
        for other in ["", "1", "\"", r#""\x""#] {
            assert_eq!(text(other), None, "{other}");
        }
        let max = u64::MAX.to_string();
        assert_eq!((number("0"), number(&max)), (Some(0), Some(u64::MAX)));
        for other in ["-1", "1.5", "1e3", "null", "18446744073709551616"] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
