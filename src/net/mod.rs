//! Linux networking: a container's network namespace, and what the proxy does in it.
//!
//! Every call here is short and synchronous: the kernel answers rtnetlink at once, and the packet and UDP sockets
//! never block. A socket belongs for life to the namespace it was made in, so the pattern is: enter, open, come back,
//! and use the socket from outside.
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
//! An open socket keeps its namespace alive as surely as a process in it would. Nothing here outlives its owner, but for a
//! packet socket: its close takes the kernel ten to twenty milliseconds, for which there are [threads](raw::RawSocket) that come
//! and go.

mod bpf;
mod closing;
pub mod link;
pub mod monitor;
pub mod netlink;
pub mod netns;
mod option;
pub mod raw;
pub mod route;
pub mod udp;

pub use closing::wait_for_closes;
