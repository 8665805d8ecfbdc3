//! Whatever bytes: see `harness::operations`.
#![no_main]

#[path = "../harness.rs"]
#[expect(dead_code, reason = "each target runs one half of it")]
mod harness;
#[path = "../watch.rs"]
mod watch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::operations(data));
