//! The container's side: its interface, the sockets of an exchange, and what a lease applied to the
//! link.

pub(crate) mod applied;
pub(crate) mod claimants;
pub(crate) mod interface;
pub(crate) mod parent;
pub(crate) mod sockets;
