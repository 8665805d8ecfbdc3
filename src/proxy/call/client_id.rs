//! The client identifier (option 61), by which a DHCP server recognizes a container.

use std::fs;
use std::path::Path;

use siphasher::sip::SipHasher24;

use crate::mac::Mac;
use crate::proxy::config::ClientId;
use crate::proxy::error::StartError;

/// The file with the machine id (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// The source of client identifiers.
#[derive(Debug)]
pub(crate) enum ClientIdentity {
    /// The container's id, which survives a restart; a random MAC does not.
    Container,
    /// The container's MAC, which survives the container if it was chosen.
    Mac,
    /// The machine's DUID and the container's MAC.
    Duid(Duid),
    /// No client identifier: the server knows a container by its MAC only.
    None,
}

impl ClientIdentity {
    /// Returns the source for the option `--client-id`, and reads the machine id if that needs it.
    pub(crate) fn find(choice: ClientId) -> Result<Self, StartError> {
        Ok(match choice {
            ClientId::Container => Self::Container,
            ClientId::Mac => Self::Mac,
            ClientId::Duid => Self::Duid(Duid::read(MACHINE_ID.as_ref())?),
            ClientId::None => Self::None,
        })
    }

    /// Returns the value of option 61, unique on the container's link (RFC 2131 §4.2). Empty, so
    /// that the option is omitted, if the container has no id: the type alone would be the same for
    /// all of them.
    pub(crate) fn client_id(&self, container_id: &str, mac: Mac) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Container if container_id.is_empty() => Vec::new(),
            // The same as netavark's proxy sends. Type 0 is for identifiers other than hardware
            // addresses (RFC 2132 §9.14).
            Self::Container => [&[0], container_id.as_bytes()].concat(),
            Self::Mac => [&[ETHERNET], &mac.0[..]].concat(),
            // RFC 4361 §6.1. The IAID distinguishes interfaces of the machine. networkd derives it
            // from the interface's name, which would be eth0 in every container.
            Self::Duid(Duid(duid)) => [&[RFC_4361], &mac.0[2..], duid].concat(),
        }
    }
}

/// Types of client identifiers.
const ETHERNET: u8 = 1;
const RFC_4361: u8 = 255;

/// The default DUID of systemd-networkd on this machine, of the type DUID-EN (RFC 8415 §11.3) with
/// systemd's enterprise number and a hash of the machine id. All programs of a machine share one
/// DUID.
#[derive(Debug)]
pub(crate) struct Duid([u8; 14]);

impl Duid {
    fn read(file: &Path) -> Result<Self, StartError> {
        let text =
            fs::read_to_string(file).map_err(|error| StartError::MachineId(error.to_string()))?;
        Self::of_machine(&text)
            .ok_or_else(|| StartError::MachineId("it is not 32 hexadecimal digits".to_owned()))
    }

    /// Returns the DUID for the content of the file: 32 hexadecimal digits and a line feed. Zeros
    /// are invalid (machine-id(5)).
    fn of_machine(text: &str) -> Option<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let id = u128::from_str_radix(text, 16).ok().filter(|id| *id != 0)?;
        let hash = SipHasher24::new_with_key(&HASH_KEY).hash(&id.to_be_bytes());
        let mut duid = [0; 14];
        duid[..2].copy_from_slice(&ENTERPRISE.to_be_bytes());
        duid[2..6].copy_from_slice(&SYSTEMD.to_be_bytes());
        duid[6..].copy_from_slice(&hash.to_le_bytes());
        Some(Self(duid))
    }
}

/// DUID-EN, and systemd's enterprise number.
const ENTERPRISE: u16 = 2;
const SYSTEMD: u32 = 43793;
/// The key that systemd uses.
const HASH_KEY: [u8; 16] = [
    0x80, 0x11, 0x8c, 0xc2, 0xfe, 0x4a, 0x03, 0xee, 0x3e, 0xd6, 0x0c, 0x6f, 0x36, 0x39, 0x14, 0x09,
];

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]);

    #[test]
    fn a_client_identifier_is_what_the_command_line_chose() {
        assert_eq!(
            ClientIdentity::Container.client_id("0123abc", MAC),
            b"\x000123abc"
        );
        assert_eq!(
            ClientIdentity::Container.client_id("", MAC),
            b"",
            "one byte would be no client identifier, and the same for all"
        );
        let by_mac = [1, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f];
        assert_eq!(ClientIdentity::Mac.client_id("0123abc", MAC), by_mac);
        assert_eq!(ClientIdentity::Mac.client_id("", MAC), by_mac);
        assert_eq!(ClientIdentity::None.client_id("0123abc", MAC), b"");
    }

    /// The machine id and the DUID are from systemd's own tests.
    #[test]
    fn a_duid_is_the_one_that_networkd_has() {
        let duid = Duid::of_machine("0102030405060708090a0b0c0d0e0f10\n").unwrap();
        let expected = [
            0x00, 0x02, 0x00, 0x00, 0xab, 0x11, 0x61, 0x77, 0x40, 0xde, 0x13, 0x42, 0xc3, 0xa2,
        ];
        assert_eq!(duid.0, expected);
        let client_id = ClientIdentity::Duid(duid).client_id("0123abc", MAC);
        assert_eq!(
            client_id,
            [&[255, 0xcc, 0xdd, 0xee, 0x0f], &expected[..]].concat()
        );
    }

    #[test]
    fn a_machine_without_an_id_has_no_duid() {
        for text in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000\n",
            "0102030405060708090a0b0c0d0e0f1\n",
            "0102030405060708090a0b0c0d0e0f1011\n",
            "+102030405060708090a0b0c0d0e0f10\n",
            "0102030405060708090a0b0c0d0e0fé\n",
            "0102030405060708090a0b0c0d0e0f10\n\n",
        ] {
            assert!(Duid::of_machine(text).is_none(), "{text:?}");
        }
        let error = Duid::read(Path::new("/not/there")).unwrap_err().to_string();
        assert!(
            error.contains("--client-id duid") && error.contains("No such file"),
            "{error}"
        );
    }
}
