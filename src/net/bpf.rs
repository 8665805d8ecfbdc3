//! Instructions of the kernel's classic BPF machine (linux/filter.h), of which socket filters are
//! made.

use nix::libc;
use socket2::SockFilter;

/// The end of a program that keeps all of a packet.
pub(super) const ALL: SockFilter = code(libc::BPF_RET | libc::BPF_K, u32::MAX);
/// The end of a program that keeps no byte of a packet.
pub(super) const NOTHING: SockFilter = code(libc::BPF_RET | libc::BPF_K, 0);

/// Loads the byte at an offset.
pub(super) const fn load_byte(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at)
}

/// Loads two bytes.
pub(super) const fn load_half(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, at)
}

/// Loads four bytes.
pub(super) const fn load_word(at: u32) -> SockFilter {
    code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// Skips `yes` instructions where the loaded number passes `test` against `value`, and `no` where
/// it does not.
pub(super) const fn jump(test: u32, value: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | test | libc::BPF_K) as u16, yes, no, value)
}

/// Makes any other instruction.
pub(super) const fn code(operation: u32, value: u32) -> SockFilter {
    SockFilter::new(operation as u16, 0, 0, value)
}
