//! Tests of the real binary among real parts.
fn main() {}
