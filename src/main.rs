//! Command line in, exit code out; all else is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    smol_dhcp_proxy::operator::run(std::env::args_os().skip(1))
}
