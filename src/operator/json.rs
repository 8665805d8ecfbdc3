//! JSON for the output of commands.

use serde::Serialize;

use super::arguments::Failure;

/// Appends a value and a line feed. What a terminal may obey is escaped: all beyond printable ASCII,
/// such as C1 control characters and those that change the direction of text.
pub(super) fn push(output: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Failure> {
    let start = output.len();
    serde_json::to_writer_pretty(&mut *output, value)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    output.push(b'\n');
    let is_plain = |byte: &u8| matches!(byte, b'\n' | b' '..=b'~');
    if !output[start..].iter().all(is_plain) {
        let text = output.split_off(start);
        // The serializer writes nothing else.
        for char in String::from_utf8_lossy(&text).chars() {
            push_char(output, char);
        }
    }
    Ok(())
}

/// Appends a character, which is escaped where it is not printable ASCII. Outside of strings there
/// is none such.
fn push_char(output: &mut Vec<u8>, char: char) {
    match u8::try_from(char) {
        Ok(byte @ (b'\n' | b' '..=b'~')) => output.push(byte),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                output.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_terminal_gets_printable_ascii_and_a_reader_the_same_text() {
        for text in [
            "eth0\u{9b}2J",
            "a\u{202e}b\u{2066}c\u{2069}\u{200b}",
            "é\u{7f}\u{1b}\n\"\\",
            "\u{1f600}",
            "web",
        ] {
            let mut output = b"before".to_vec();
            push(&mut output, &[text]).unwrap();
            assert!(
                output
                    .iter()
                    .all(|byte| matches!(byte, b'\n' | b' '..=b'~')),
                "{text:?}"
            );
            let again: Value = serde_json::from_slice(&output[6..]).unwrap();
            assert_eq!(again[0], text);
        }
    }
}
