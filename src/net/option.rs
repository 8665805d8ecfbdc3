//! Socket options that neither rustix nor nix has, by nix's macros.

use nix::libc;
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// The cookie of the socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);
sockopt_impl!(
    /// Requests a text beside an errno (netlink(7), `NETLINK_EXT_ACK`).
    ExplainErrors,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_EXT_ACK,
    bool
);
sockopt_impl!(
    /// Omits the request in an acknowledgement (netlink(7), `NETLINK_CAP_ACK`).
    OmitRequest,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_CAP_ACK,
    bool
);
sockopt_impl!(
    /// Makes the kernel filter a dump by the fields of the request (`NETLINK_GET_STRICT_CHK`, Linux
    /// 4.20).
    FilterDumps,
    SetOnly,
    libc::SOL_NETLINK,
    NETLINK_GET_STRICT_CHK,
    bool
);

/// From linux/netlink.h; libc does not have it.
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
