//! The application: joins the `service` library, gRPC, the DHCP client and the Linux layer into the daemon.
//!
//! | file | what it knows |
//! |---|---|
//! | `config.rs` | the command line |
//! | `request.rs` | what a caller may ask for |
//! | `identity.rs` | who the DHCP server takes a container for |
//! | `table.rs` | all sessions, and who may touch which |
//! | `memory.rs` | which address a container had |
//! | `pace.rs` | when it is a lease's turn to be renewed |
//! | `session.rs` | one lease: client, sockets and link in one loop |
//! | `site.rs` | where a lease lives, and the sockets into it |
//! | `settings.rs` | what a lease puts on the link, and how to undo it |
//! | `reply.rs`, `leases.rs` | the lease in the caller's terms, and in the file |
//! | `words.rs` | leases in the log |
//! | `error.rs` | whose fault it is, and the words for it |

pub mod config;
mod error;
mod identity;
mod leases;
mod logging;
mod memory;
mod pace;
mod reply;
mod request;
mod session;
mod settings;
mod site;
mod table;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use crate::rpc;
use crate::rt;
use crate::service::{self, Connection, Idle, Options, activation};

use config::{Command, Config};
use error::StartError;
use identity::Identity;
use leases::LeaseFile;
use table::Table;

/// How long a client may keep a connection without a call, however long the daemon itself stays.
const QUIET: Duration = Duration::from_secs(10);

/// The whole program: arguments (without the program's name) in, exit code out.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match config::parse(arguments, std::env::var_os(config::RUN_DIR_ENV)) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::Help) => return print(config::HELP),
        Ok(Command::Version) => return print(concat!("smol-dhcp-proxy ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            complain(&format!("{error}\nTry --help."));
            return ExitCode::from(2);
        }
    };
    logging::start();
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> Result<(), StartError> {
    let identity = Identity::find(config.habits.client_id)?;
    let mut sockets = activation::listen_fds()?;
    let idle = Idle::new(config.activity);
    let options = Options::new(idle.clone()).map_err(StartError::Serve)?;
    match sockets.len() {
        0 => sockets.push(service::bind(&config.socket_path())?),
        1 => {}
        _ => return Err(StartError::TooManySockets),
    }
    let file = LeaseFile::open(&config.lease_file);
    let quiet = config.activity.map_or(QUIET, |activity| activity.min(QUIET));
    rt::block_on(async |runtime| {
        let (notify, habits) = (options.notify.clone(), config.habits.clone());
        let table = Table::new(runtime.clone(), idle, notify, file, habits, identity);
        let handler = |Connection { stream, activity, closing }| {
            let table = Rc::clone(&table);
            async move {
                let call = |call| Rc::clone(&table).serve(call, closing.clone());
                rpc::serve(stream, quiet, closing.clone(), call).await;
                drop(activity);
            }
        };
        service::serve(&runtime, sockets, options, handler).await
    })
    .map_err(StartError::Serve)?;
    Ok(())
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str) {
    // Where nobody hears it, there is nothing else to do.
    let _ = writeln!(std::io::stderr(), "smol-dhcp-proxy: {text}");
}
