//! Ethernet addresses, as bytes and as text.

use std::fmt;

/// An Ethernet address (MAC). Compared as bytes, so the case of its text makes no difference.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The destination of frames to all stations of the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zeros: no station. ARP requests carry it as the target hardware address.
    pub const UNSPECIFIED: Self = Self([0; 6]);

    /// Parses six hexadecimal bytes separated by `:` or `-`.
    ///
    /// # Errors
    ///
    /// [`MacError`]. netavark's users and test suite match its texts.
    pub fn parse(text: &str) -> Result<Self, MacError> {
        let unreadable = |why: &str| MacError::Unreadable {
            input: text.to_owned(),
            why: why.to_owned(),
        };
        let bytes =
            text.split([':', '-'])
                // `from_str_radix` accepts a sign.
                .map(
                    |byte| match byte.bytes().find(|digit| !digit.is_ascii_hexdigit()) {
                        Some(_) => Err(unreadable("invalid digit found in string")),
                        None => u8::from_str_radix(byte, 16)
                            .map_err(|error| unreadable(&error.to_string())),
                    },
                )
                .collect::<Result<Vec<u8>, _>>()?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| MacError::Length(text.to_owned()))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A malformed Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MacError {
    /// A part is not a hexadecimal byte.
    Unreadable {
        /// The whole text.
        input: String,
        /// The error of the first such part.
        why: String,
    },
    /// Hexadecimal bytes, but not six; the whole text.
    Length(String),
}

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { input, why } => {
                write!(f, "unable to parse mac address {input}: {why}")
            }
            Self::Length(input) => write!(f, "invalid mac length for address: {input}"),
        }
    }
}

impl std::error::Error for MacError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_macs_get_the_texts_that_users_know() {
        for (mac, text) in [
            (
                "",
                "unable to parse mac address : cannot parse integer from empty string",
            ),
            (
                "123",
                "unable to parse mac address 123: number too large to fit in target type",
            ),
            (
                "zz:bb:cc:dd:ee:ff",
                "unable to parse mac address zz:bb:cc:dd:ee:ff: invalid digit found in string",
            ),
            (
                "+a:bb:cc:dd:ee:ff",
                "unable to parse mac address +a:bb:cc:dd:ee:ff: invalid digit found in string",
            ),
            ("aa:bb:cc", "invalid mac length for address: aa:bb:cc"),
            (
                "aa:bb:cc:dd:ee:ff:11",
                "invalid mac length for address: aa:bb:cc:dd:ee:ff:11",
            ),
        ] {
            assert_eq!(Mac::parse(mac).unwrap_err().to_string(), text);
        }
    }
}
