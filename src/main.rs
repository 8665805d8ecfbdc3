//! The program `smol-dhcp-proxy`: passes its arguments to the library, and returns the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    smol_dhcp_proxy::operator::run(std::env::args_os().skip(1))
}
