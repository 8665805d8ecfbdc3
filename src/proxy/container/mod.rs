//! The container's side of the link: the interface, the sockets of an exchange, and what a lease has put on it.

pub(crate) mod applied;
pub(crate) mod claimants;
pub(crate) mod interface;
pub(crate) mod parent;
pub(crate) mod sockets;
