//! The sub-commands, for operators. Without one the program is the daemon.
//!
//! | command | reads | speaks to |
//! |---|---|---|
//! | `status` | the state files | nothing, and wakes nothing |
//! | `renew`, `release` | the state files | the daemon, by the service `smol_dhcp_proxy.Control` on its socket |
//! | `setup`, `teardown` | netavark's JSON, or arguments | the daemon, as netavark does |
//! | `check` | the interface | DHCP servers, without taking a lease |
//! | `doctor` | units, files, the kernel | nothing |
//!
//! Exit status: 0 done, or healthy; 1 failed, or unhealthy; 2 a wrong command line; 3 unknown, for
//! want of a permission or of a file that makes sense.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::proxy;

use arguments::{Failure, Subcommand};
use leases::Demand;
use setup::ContainerCall;

mod arguments;
mod check;
mod client;
mod diagnosis;
mod doctor;
mod json;
mod leases;
mod metrics;
mod podman;
mod processes;
mod report;
mod screen;
mod setup;
mod status;
mod text;

/// Runs the sub-command that `arguments` (without the program's name) begin with, else the daemon.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    let command = arguments.peek().and_then(|name| Subcommand::named(name));
    let Some(command) = command else {
        return proxy::run(arguments);
    };
    let parser = lexopt::Parser::from_args(arguments.skip(1));
    let mut output = Vec::new();
    let ended = match command {
        Subcommand::Check => check::run(parser, &mut output),
        Subcommand::Doctor => doctor::run(parser, &mut output),
        Subcommand::Release => leases::run(Demand::Release, parser, &mut output),
        Subcommand::Renew => leases::run(Demand::Renew, parser, &mut output),
        Subcommand::Setup => setup::run(ContainerCall::Setup, parser, &mut output),
        Subcommand::Teardown => setup::run(ContainerCall::Teardown, parser, &mut output),
        Subcommand::Status => status::run(parser, &mut output),
    };
    if let Err(error) = io::stdout().lock().write_all(&output)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Failure::Failed(format!("cannot write the output: {error}")).report();
    }
    ended.unwrap_or_else(Failure::report)
}
