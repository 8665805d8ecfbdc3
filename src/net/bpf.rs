//! Instructions of the kernel's classic BPF machine (linux/filter.h), for socket filters.

use nix::libc;
use socket2::SockFilter;

/// Accepts the packet as a whole. Ends a program.
pub(super) const ALL: SockFilter = code(libc::BPF_RET | libc::BPF_K, u32::MAX);
/// Drops the packet. Ends a program.
pub(super) const NOTHING: SockFilter = code(libc::BPF_RET | libc::BPF_K, 0);

/// Loads the byte at an offset.
pub(super) const fn load_byte(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)
}

/// Loads two bytes at an offset, in network byte order.
pub(super) const fn load_half(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)
}

/// Loads four bytes at an offset, in network byte order.
pub(super) const fn load_word(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// Compares the loaded number with `value` by `test`. Skips `yes` instructions if that is true, and
/// `no` instructions otherwise.
pub(super) const fn jump(test: u32, value: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | test | libc::BPF_K) as u16, yes, no, value)
}

/// Returns an instruction with the given operation code and operand.
pub(super) const fn code(operation: u32, value: u32) -> SockFilter {
    SockFilter::new(operation as u16, 0, 0, value)
}
