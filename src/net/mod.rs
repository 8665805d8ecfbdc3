//! Linux networking in a container's network namespace: rtnetlink, packet and UDP sockets.
//!
//! Every call is short and synchronous: the kernel answers rtnetlink at once, and the packet and UDP
//! sockets never block. A socket stays in the namespace in which it was created. So the pattern is:
//! enter the namespace, open the socket, return, and use the socket from outside.
//!
//! ```no_run
//! use smol_dhcp_proxy::net::{netlink::Netlink, netns::Netns, raw::RawSocket};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let netns = Netns::open("/run/netns/container".as_ref())?;
//! let (netlink, raw) = netns.enter(|| -> Result<_, Box<dyn std::error::Error>> {
//!     let netlink = Netlink::open()?;
//!     let link = netlink.link_by_name("eth0")?.ok_or("No such device")?;
//!     Ok((netlink, RawSocket::open(link.index, link.mac.ok_or("no Ethernet address")?)?))
//! })??;
//! # Ok(())
//! # }
//! ```
//!
//! The C library is used for system calls only. Its helpers, such as getifaddrs, if_nametoindex and
//! getaddrinfo, query the namespace of the thread, trust the answers, and take as long as a
//! container makes them.
//!
//! An open socket keeps its namespace alive, as a process in it does. Every socket is closed with
//! its owner, except for packet sockets: their close takes the kernel ten to twenty milliseconds,
//! so short-lived [threads](raw::RawSocket) do it.

mod bpf;
mod closing;
pub mod link;
pub mod monitor;
mod namespace_view;
pub mod netlink;
pub mod netns;
pub mod opener;
mod option;
pub mod peer;
pub mod raw;
pub mod route;
pub mod udp;
pub mod unix_diag;

pub use closing::wait_for_closes;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Helpers of the C library that query interfaces, names or networks, and their names in std
    /// and nix.
    const HELPERS: [&str; 14] = [
        "getifaddrs(",
        "ifaddrs::",
        "if_nametoindex(",
        "if_indextoname(",
        "if_nameindex(",
        "getaddrinfo(",
        "getnameinfo(",
        "gethostby",
        "getservby",
        "getprotoby",
        "getnetby",
        "ToSocketAddrs",
        "to_socket_addrs(",
        "lookup_host(",
    ];

    fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, files)
            } else {
                files.push(path)
            }
        }
    }

    #[test]
    fn no_helper_of_the_c_library_is_called_where_a_container_can_answer() {
        let mut files = Vec::new();
        for folder in ["src/net", "src/proxy"] {
            sources(
                &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
                &mut files,
            );
        }
        assert!(files.len() > 20, "{files:?}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = code
                .lines()
                .zip(1..)
                .filter(|(line, _)| !line.trim_start().starts_with("//"));
            for (line, number) in lines {
                let helper = HELPERS.iter().find(|helper| line.contains(**helper));
                assert_eq!(helper, None, "{}:{number}: {line}", file.display());
            }
        }
    }
}
