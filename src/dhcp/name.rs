//! Host and domain names: the check of their syntax, and the DNS wire format.

/// More names than any resolver searches. Limits the size that compressed names can expand to.
pub(super) const MAX_NAMES: usize = 32;

/// Returns the value of option 81 (RFC 4702 §2.1, §2.2 and §2.3) for the fully qualified name,
/// which the server is to enter into the DNS. `None` if it is no domain name, or too long for one
/// option.
pub(super) fn client_fqdn(name: &str) -> Option<Vec<u8>> {
    let name = checked_name(name.strip_suffix('.').unwrap_or(name))?;
    // The server is asked for all updates (S: RFC 4702 §3.3), and the name is in the DNS wire
    // format (E). The two result codes are obsolete.
    let mut value = vec![FQDN_SERVER_UPDATES | FQDN_WIRE_FORMAT, 0, 0];
    for label in name.split('.') {
        value.push(label.len() as u8); // at most 63
        value.extend(label.as_bytes());
    }
    value.push(0); // the root: the name is fully qualified
    (value.len() <= usize::from(u8::MAX)).then_some(value)
}

/// Flags of option 81 (RFC 4702 §2.1).
const FQDN_SERVER_UPDATES: u8 = 0x01;
const FQDN_WIRE_FORMAT: u8 = 0x04;

/// Returns the end of the name at `start`: after its root or its pointer.
pub(super) fn dns_name_end(field: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *field.get(at..)? {
            [0, ..] => return Some(at + 1),
            [length @ 1..=63, ..] => at += 1 + usize::from(length),
            [0xc0..=0xff, _, ..] => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Returns the name at `start`. A pointer must lead backwards, so this ends.
pub(super) fn dns_name(field: &[u8], start: usize) -> Option<String> {
    let mut labels = Vec::new();
    let (mut at, mut segment) = (start, start);
    loop {
        match *field.get(at..)? {
            [0, ..] => break,
            [length @ 1..=63, ref rest @ ..] => {
                let label = std::str::from_utf8(rest.get(..usize::from(length))?).ok()?;
                // A dot in a label would make it two labels.
                labels.push(Some(label).filter(|label| !label.contains('.'))?);
                at += 1 + label.len();
            }
            [high @ 0xc0..=0xff, low, ..] => {
                let target = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                if target >= segment {
                    return None;
                }
                (at, segment) = (target, target);
            }
            _ => return None,
        }
    }
    checked_name(&labels.join("."))
}

/// Returns the name if its characters and lengths are those of a host or domain name
/// (RFC 1123 §2.1; also with underscores, which are common).
pub(super) fn checked_name(name: &str) -> Option<String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// RFC 4702 §2.3: a DNS reader finds the name in option 81.
        #[test]
        fn a_name_survives_option_81(name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,63}){0,3}") {
            match client_fqdn(&name) {
                Some(value) => {
                    prop_assert_eq!(&value[..3], &[5, 0, 0]);
                    prop_assert_eq!(dns_name(&value[3..], 0), Some(name));
                    prop_assert_eq!(dns_name_end(&value[3..], 0), Some(value.len() - 3));
                }
                None => prop_assert!(name.len() > 250),
            }
        }
    }
}
