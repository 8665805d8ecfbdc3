//! The main job, for real, on one machine.
fn main() {}
