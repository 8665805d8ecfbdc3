//! Returns memory to the system after many connections.
//!
//! glibc keeps freed memory below the highest block in use. After thousands of connections one such
//! block is usually left, and the daemon would keep the memory of all connections until its end.

/// Returns the unused pages of the heap to the system. Does nothing with other C libraries than
/// glibc.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    glibc::malloc_trim(0);
}

#[cfg(target_env = "gnu")]
#[allow(
    unsafe_code,
    reason = "no dependency wraps malloc_trim(3), which takes a number and is safe from any thread"
)]
mod glibc {
    unsafe extern "C" {
        /// Returns free memory to the system, except for `pad` bytes at the top of the heap.
        pub(super) safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use std::fs;

    /// Returns the anonymous memory of this process in kB.
    fn resident() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn freed_memory_below_a_block_in_use_is_returned() {
        let before = resident();
        let blocks: Vec<_> = (0..100_000).map(|_| vec![1_u8; 1000]).collect();
        let last = vec![1_u8; 1000];
        assert!(resident() > before + 90_000);
        drop(blocks);
        let kept = resident();
        super::trim();
        let left = resident();
        assert!(
            left < before + 20_000,
            "{before} kB before, {kept} after the drop, {left} in the end"
        );
        drop(last);
    }
}
