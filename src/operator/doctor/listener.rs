//! The socket that netavark calls, and the process that listens on it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor, statfs};

use super::{Diagnosis, failed, with_permission};
use crate::net::netlink::NetlinkError;
use crate::net::unix_diag::{BoundSocket, listeners};
use crate::operator::processes::holders;
use crate::proxy::config::SOCKET_NAME;

const SUBJECT: &str = "socket";

/// The socket's file, as the kernel knows it.
#[derive(Debug)]
enum SocketOfFile {
    /// The socket has this inode.
    Inode(u64),
    None,
    /// The file's number is that of a socket on another device, as some file systems tell stat(2) a
    /// device of their own.
    Undecided,
}

/// Inspects the socket in a directory. `serve` is the command that makes it listen.
pub(super) fn finding(directory: &Path, serve: &str) -> Diagnosis {
    let path = directory.join(SOCKET_NAME);
    let shown = path.display().to_string();
    let file = match fs::metadata(&path) {
        Ok(file) if file.file_type().is_socket() => file,
        Ok(_) => return Diagnosis::problem(SUBJECT, format!("{shown} is no socket"), serve),
        Err(error) => return failed(SUBJECT, shown, &error, serve),
    };
    match listeners().map_err(NetlinkError::into_io) {
        Err(error) => unknown(&shown, &error),
        Ok(sockets) => match listening(&sockets, &file, is_on_tmpfs(&path)) {
            SocketOfFile::Inode(inode) => judge(&shown, &holders(inode), serve),
            SocketOfFile::None => {
                Diagnosis::problem(SUBJECT, format!("no process listens on {shown}"), serve)
            }
            SocketOfFile::Undecided => unknown(
                &shown,
                &io::Error::other("its file system hides which socket it is"),
            ),
        },
    }
}

fn unknown(path: &str, error: &io::Error) -> Diagnosis {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => with_permission(),
        _ => "systemctl list-sockets shows what systemd listens on",
    };
    let text = format!("{path}: cannot find out which process listens: {error}");
    Diagnosis::unknown(SUBJECT, text, advice)
}

/// Returns whether a file is on a tmpfs, as /run is: stat(2) tells the kernel's own device there.
fn is_on_tmpfs(path: &Path) -> bool {
    /// `TMPFS_MAGIC` (statfs(2)).
    const TMPFS: i128 = 0x0102_1994;
    statfs(path).is_ok_and(|statfs| i128::from(statfs.f_type) == TMPFS)
}

/// Finds the socket of a file among those that listen.
fn listening(sockets: &[BoundSocket], file: &Metadata, is_device_exact: bool) -> SocketOfFile {
    // The kernel tells the lower half of the number.
    let of_file = |socket: &&BoundSocket| u64::from(socket.file) == file.ino() & 0xffff_ffff;
    let device = (major(file.dev()), minor(file.dev()));
    let mut same = sockets.iter().filter(of_file);
    match same.clone().find(|socket| socket.device == device) {
        Some(socket) => SocketOfFile::Inode(socket.inode),
        None if !is_device_exact && same.next().is_some() => SocketOfFile::Undecided,
        None => SocketOfFile::None,
    }
}

/// Judges the processes that have the socket, by name and id.
fn judge(path: &str, holders: &[String], serve: &str) -> Diagnosis {
    let has = |name: &str| holders.iter().any(|holder| holder.starts_with(name));
    let who = holders.join(", ");
    if holders.is_empty() {
        let text = format!("{path}: the process that listens cannot be seen");
        Diagnosis::unknown(SUBJECT, text, with_permission())
    } else if has("netavark") {
        Diagnosis::problem(SUBJECT, format!("{path} is held by {who}"), serve)
    } else if has("systemd (") || has("smol-dhcp-proxy (") {
        Diagnosis::good(SUBJECT, format!("{path} listens, held by {who}"))
    } else {
        let text = format!("{path} is held by {who}, neither systemd nor smol-dhcp-proxy");
        Diagnosis::note(SUBJECT, text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::operator::diagnosis::Severity;

    #[test]
    fn the_socket_is_judged_by_its_file_and_not_by_its_name() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join(SOCKET_NAME);
        let found = || finding(folder.path(), "serve");
        assert_eq!(found().verdict, Severity::Problem);
        assert_eq!(found().advice.as_deref(), Some("serve"));
        fs::write(&path, "").unwrap();
        assert!(found().text.ends_with("is no socket"), "{:?}", found());
        fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        // Neither a daemon nor systemd, but a process of this user.
        assert_eq!(found().verdict, Severity::Note, "{:?}", found());
        // By another path to the same directory.
        let other = folder.path().join("a b");
        std::os::unix::fs::symlink(folder.path(), &other).unwrap();
        let by_link = finding(&other, "serve");
        assert_eq!(by_link.verdict, Severity::Note, "{by_link:?}");
        // A socket of the same name at another place.
        let moved = folder.path().join("moved");
        fs::rename(&path, moved).unwrap();
        let late = UnixListener::bind(&path).unwrap();
        drop(late);
        assert!(found().text.starts_with("no process listens"));
        drop(listener);
    }

    #[test]
    fn a_file_of_another_device_is_neither_told_nor_denied() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = fs::metadata(folder.path()).unwrap();
        let socket = |file_number: u64, device| BoundSocket {
            inode: 7,
            file: file_number as u32,
            device,
        };
        let device = (major(file.dev()), minor(file.dev()));
        let other = (device.0, device.1 + 1);
        let found = |sockets: &[BoundSocket]| listening(sockets, &file, false);
        let (own, far) = (socket(file.ino(), device), socket(file.ino(), other));
        assert!(matches!(found(&[far, own]), SocketOfFile::Inode(7)));
        assert!(matches!(found(&[far]), SocketOfFile::Undecided));
        let on_tmpfs = listening(&[far], &file, is_on_tmpfs(folder.path()));
        assert!(matches!(on_tmpfs, SocketOfFile::None), "{on_tmpfs:?}");
        let next = socket(file.ino() + 1, device);
        assert!(matches!(found(&[next]), SocketOfFile::None));
    }

    #[test]
    fn processes_are_judged_by_name() {
        let verdict = |holders: &[&str]| {
            let holders: Vec<_> = holders.iter().map(|&name| name.to_owned()).collect();
            judge("/s", &holders, "serve").verdict
        };
        assert_eq!(
            verdict(&["smol-dhcp-proxy (7)", "systemd (1)"]),
            Severity::Good
        );
        assert_eq!(verdict(&["netavark (7)", "systemd (1)"]), Severity::Problem);
        assert_eq!(verdict(&["sh (9)"]), Severity::Note);
        assert_eq!(verdict(&[]), Severity::Unknown);
    }
}
