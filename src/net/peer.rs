//! The user at the other end of a Unix socket.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

/// Returns the id of the user that connected, as this process's user namespace has it; that of
/// /proc/sys/kernel/overflowuid for a user outside of it.
///
/// # Errors
///
/// That of getsockopt(2): `socket` is not a connected Unix socket.
pub fn user(socket: &impl AsFd) -> io::Result<u32> {
    // Not through rustix: a caller in another PID namespace has the process id 0, which its type
    // cannot hold.
    Ok(getsockopt(socket, PeerCredentials)?.uid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_tells_its_peers_user() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(user(&ours).unwrap(), rustix::process::getuid().as_raw());
        assert!(user(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
