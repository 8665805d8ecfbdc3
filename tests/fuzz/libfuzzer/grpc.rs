//! Whatever bytes: see `grpc::grpc`.
#![no_main]

#[path = "../grpc.rs"]
mod grpc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| grpc::grpc(data));
