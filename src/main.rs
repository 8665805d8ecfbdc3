//! Command line in, exit code out; all else is the library's.

fn main() {}
