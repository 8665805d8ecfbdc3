//! Whatever bytes: see `answers::netlink`.
#![no_main]

#[path = "../answers.rs"]
mod answers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::netlink(data));
