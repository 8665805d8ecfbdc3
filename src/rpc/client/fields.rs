//! Header fields as HPACK encodes them (RFC 7541), read without a dynamic table: the client has
//! announced that it keeps none. Pure.

/// The code lengths of RFC 7541 appendix B in bits, by symbol; the last symbol ends a string. The
/// code is canonical, so that they determine it.
#[rustfmt::skip]
const CODE_LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The symbol that ends a string, which no string contains.
const END_OF_STRING: usize = 256;

/// The names and values of the static table (RFC 7541 appendix A) that an answer needs: the status
/// codes from index 8 on, and the name of index 31.
const FIRST_STATUS: usize = 8;
const STATUSES: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
const CONTENT_TYPE: usize = 31;
/// The last index of the static table.
const LAST_STATIC: usize = 61;

/// Passes each field of a header block to `take`: its name, empty for a field that no answer needs, and
/// its value. Returns `None` for a malformed block, and for a reference to the dynamic table.
pub(super) fn read(block: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Option<()> {
    let mut rest = block;
    while let Some(&first) = rest.first() {
        // The representations of RFC 7541 §6.
        if first & 0x80 != 0 {
            let index = integer(&mut rest, 7)?;
            let value = static_entry(index)?.1;
            take(static_entry(index)?.0.as_bytes(), value.as_bytes());
        } else if first & 0xe0 == 0x20 {
            // The size of a table that stays empty.
            integer(&mut rest, 5)?;
        } else {
            // A field that is to be added to the dynamic table does not fit into it (RFC 7541 §4.4).
            let index = integer(&mut rest, if first & 0x40 != 0 { 6 } else { 4 })?;
            let literal_name;
            let name = if index == 0 {
                literal_name = string(&mut rest)?;
                &literal_name
            } else {
                static_entry(index)?.0.as_bytes()
            };
            take(name, &string(&mut rest)?);
        }
    }
    Some(())
}

/// Returns the name and the value of an entry of the static table, where an answer needs them.
fn static_entry(index: usize) -> Option<(&'static str, &'static str)> {
    match index {
        CONTENT_TYPE => Some(("content-type", "")),
        1..=LAST_STATIC => {
            let status = index
                .checked_sub(FIRST_STATUS)
                .and_then(|at| STATUSES.get(at));
            Some(status.map_or(("", ""), |status| (":status", status)))
        }
        _ => None,
    }
}

/// Reads an integer with a prefix of `bits` (RFC 7541 §5.1) of at most some hundred million.
fn integer(rest: &mut &[u8], bits: u8) -> Option<usize> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    let limit = (1_usize << bits) - 1;
    let mut value = usize::from(first) & limit;
    if value < limit {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a string (RFC 7541 §5.2).
fn string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let is_huffman = rest.first()? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    if is_huffman {
        decoded(bytes)
    } else {
        Some(bytes.to_vec())
    }
}

/// Decodes a Huffman-encoded string.
fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
    // The code so far, its length, and the first code of that length.
    let (mut code, mut length, mut first) = (0, 0, 0);
    for bit in bits {
        (code, length, first) = (code << 1 | bit, length + 1, first << 1);
        let of_length = || symbols_of(length);
        match of_length().nth(usize::try_from(code.checked_sub(first)?).ok()?) {
            Some(END_OF_STRING) => return None,
            Some(symbol) => {
                out.push(u8::try_from(symbol).ok()?);
                (code, length, first) = (0, 0, 0);
            }
            None => first += u32::try_from(of_length().count()).ok()?,
        }
    }
    // The rest of the last byte has the first bits of the end of a string, which are ones.
    (length < 8 && code + 1 == 1 << length).then_some(out)
}

fn symbols_of(length: u8) -> impl Iterator<Item = usize> {
    (0..CODE_LENGTHS.len()).filter(move |&symbol| CODE_LENGTHS[symbol] == length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(block: &[u8]) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        read(block, |name, value| fields.push((text(name), text(value))))?;
        Some(fields)
    }

    fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<_> = digits.bytes().filter(|digit| *digit != b' ').collect();
        let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_are_those_that_are_needed() {
        assert_eq!(fields(&[0x88]), Some(vec![field(":status", "200")]));
        assert_eq!(fields(&[0x8d, 0x8e]).unwrap()[0], field(":status", "404"));
        // The examples of RFC 7541 C.2.1 and C.2.2, and a status by its name.
        let custom = b"\x40\x0acustom-key\x0dcustom-header";
        assert_eq!(
            fields(custom),
            Some(vec![field("custom-key", "custom-header")])
        );
        let path = b"\x04\x0c/sample/path";
        assert_eq!(fields(path), Some(vec![field("", "/sample/path")]));
        assert_eq!(
            fields(b"\x08\x03503\x0f\x10\x01x\x20"),
            Some(vec![field(":status", "503"), field("content-type", "x")])
        );
        assert_eq!(fields(&[]), Some(vec![]));
    }

    #[test]
    fn strings_are_huffman_decoded() {
        // RFC 7541 C.4.1 and C.6.1.
        for (encoded, text) in [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("6402", "302"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            ("", ""),
        ] {
            let decoded = decoded(&bytes(encoded)).unwrap();
            assert_eq!(String::from_utf8(decoded).unwrap(), text);
        }
        // A zero as padding, a whole byte of padding, and the end of a string.
        assert_eq!(decoded(&bytes("f1e3 c2e5 f23a 6ba0 ab90 f4fe")), None);
        assert_eq!(decoded(&bytes("6402 ff")), None);
        assert_eq!(decoded(&bytes("ffff ffff")), None);
    }

    #[test]
    fn a_broken_block_is_refused() {
        for block in [
            // Of the dynamic table, and none.
            &b"\xbe"[..],
            b"\x80",
            b"\x7e\x01x",
            // Cut off.
            b"\x40",
            b"\x40\x03ab",
            b"\x40\x01a",
            b"\xff",
            // An integer without an end.
            b"\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(fields(block), None, "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut length = 0;
            let _ = read(&block, |name, value| length += name.len() + value.len());
            // The shortest code has five bits, and the longest static field fourteen bytes.
            prop_assert!(length <= 14 * block.len());
        }
    }
}
