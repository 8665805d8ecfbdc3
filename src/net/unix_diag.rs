//! The Unix sockets of this network namespace that listen, each by the file that it is bound to
//! (sock_diag(7)).
//!
//! /proc/net/unix has paths as their owners chose them, with line breaks. The kernel's numbers of the
//! file cannot be chosen.

use std::io;

use netlink_packet_core::{Emitable, NlasIterator, parse_u32};
use rustix::net::netlink::SOCK_DIAG;

use super::netlink::{Netlink, NetlinkError, Result};

/// The type of request and answer (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_UNIX: u8 = 1;
/// `TCP_LISTEN`, also of Unix sockets.
const LISTEN: u8 = 10;
/// `UDIAG_SHOW_VFS`: the answer has the file.
const SHOW_FILE: u32 = 2;
/// The attribute `UNIX_DIAG_VFS`: inode and device of the file.
const FILE: u16 = 1;
/// The length of `unix_diag_msg`, before the attributes.
const ANSWER: usize = 16;
/// The low bits of the kernel's device numbers are the minor number.
const MINOR_BITS: u32 = 20;

/// A socket that listens, and its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// The inode number of the socket, as /proc/PID/fd shows it.
    pub inode: u64,
    /// The lower 32 bits of the inode number of the file.
    pub file: u32,
    /// The major and minor number of the file's device.
    pub device: (u32, u32),
}

/// A request for all sockets that listen (`unix_diag_req`).
struct ListenersRequest;

impl Emitable for ListenersRequest {
    fn buffer_len(&self) -> usize {
        24
    }

    fn emit(&self, buffer: &mut [u8]) {
        let (states, shown) = (1_u32 << LISTEN, SHOW_FILE);
        buffer.fill(0);
        buffer[0] = AF_UNIX;
        buffer[4..8].copy_from_slice(&states.to_ne_bytes());
        buffer[12..16].copy_from_slice(&shown.to_ne_bytes());
    }
}

/// Returns the sockets that listen and are bound to a file.
///
/// # Errors
///
/// The kernel has no such interface (`CONFIG_UNIX_DIAG`), or there are more than ten thousand.
pub fn listeners() -> Result<Vec<BoundSocket>> {
    let netlink = Netlink::open_protocol(Some(SOCK_DIAG))?;
    netlink.read_table(
        SOCK_DIAG_BY_FAMILY,
        &ListenersRequest,
        ("sockets that listen", usize::MAX),
        |answer| parse(answer).ok_or_else(malformed),
    )
}

fn malformed() -> NetlinkError {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed socket").into()
}

/// Parses an answer; `Some(None)` is a socket that does not listen or has no file.
fn parse(answer: &[u8]) -> Option<Option<BoundSocket>> {
    let (header, attributes) = answer.split_at_checked(ANSWER)?;
    let inode = parse_u32(&header[4..8]).ok()?;
    // Kernels may send more than is asked for.
    let listens = header[0] == AF_UNIX && header[2] == LISTEN;
    let mut attributes = NlasIterator::new(attributes).map_while(std::result::Result::ok);
    let Some(file) = attributes.find(|attribute| listens && attribute.kind() == FILE) else {
        return Some(None);
    };
    let (file, device) = file.value().split_at_checked(4)?;
    let device = parse_u32(device).ok()?;
    Some(Some(BoundSocket {
        inode: inode.into(),
        file: parse_u32(file).ok()?,
        device: (device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1)),
    }))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{major, minor};

    use super::*;

    #[test]
    fn a_listener_is_found_by_its_file_whatever_its_name() {
        // A tmpfs, as /run is. stat(2) of others may tell another device than the kernel's own.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        // Neither is a line of text, nor is the second one UTF-8.
        for name in [&b"a\nffff: 1 0 00010000 0001 01 1 x"[..], b"\xff b"] {
            let path = folder.path().join(OsStr::from_bytes(name));
            let listener = UnixListener::bind(&path).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
            let link = fs::read_link(link).unwrap().display().to_string();
            let device = metadata.dev();
            let expected = BoundSocket {
                inode: link["socket:[".len()..link.len() - 1].parse().unwrap(),
                file: metadata.ino() as u32,
                device: (major(device), minor(device)),
            };
            let found = listeners().unwrap();
            let of_file = found.iter().filter(|socket| socket.file == expected.file);
            assert!(of_file.clone().count() >= 1, "{found:?}");
            assert!(of_file.clone().any(|socket| *socket == expected));
            drop(listener);
            assert!(!listeners().unwrap().contains(&expected));
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_malformed() {
        let mut answer = vec![AF_UNIX, 1, LISTEN, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&answer), Some(None), "a socket without a file");
        answer.extend([12, 0, 1, 0, 9, 0, 0, 0, 25, 0, 0x10, 0]);
        let socket = BoundSocket {
            inode: 7,
            file: 9,
            device: (1, 25),
        };
        assert_eq!(parse(&answer), Some(Some(socket)));
        assert_eq!(parse(&answer[..15]), None);
        answer[16] = 8;
        assert_eq!(parse(&answer[..24]), None);
        let mut connected = answer.clone();
        connected[2] = 1;
        assert_eq!(parse(&connected), Some(None));
    }
}
