//! Whatever bytes: see `harness::packet`.
#![no_main]

#[path = "../harness.rs"]
#[expect(dead_code, reason = "each target runs one half of it")]
mod harness;
#[path = "../watch.rs"]
mod watch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::packet(data));
