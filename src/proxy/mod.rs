//! The application: joins the `service` library, gRPC, the DHCP client and the Linux layer into the daemon.
//!
//! | file | what it knows |
//! |---|---|
//! | `config.rs` | the command line |
//! | `request.rs` | what a caller may ask for |
//! | `identity.rs` | who the DHCP server takes a container for |
//! | `table.rs` | all leases, and who may touch which |
//! | `schedule.rs` | when a lease is woken, and when the process may leave |
//! | `pace.rs`, `silence.rs` | whose turn it is, and whom nobody need ask |
//! | `session.rs` | one lease awake: client, sockets and link in one loop |
//! | `site.rs` | where a lease lives, and the sockets into it |
//! | `settings.rs` | what a lease puts on the link, and how to undo it |
//! | `record.rs`, `leases.rs` | one lease at rest, and the file of them all |
//! | `memory.rs` | which address a container had |
//! | `reply.rs` | the lease in the caller's terms |
//! | `words.rs` | leases in the log |
//! | `error.rs` | whose fault it is, and the words for it |

pub mod config;
mod error;
mod identity;
mod leases;
mod logging;
mod memory;
mod pace;
mod record;
mod reply;
mod request;
mod schedule;
mod session;
mod settings;
mod silence;
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
use crate::service::{self, Connection, Idle, Options, Prepare, Reason, Wakeup, activation};

use config::{Command, Config};
use error::StartError;
use identity::Identity;
use leases::LeaseFile;
use schedule::Sleep;
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
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<(), StartError> {
    let identity = Identity::find(config.habits.client_id)?;
    let mut sockets = activation::listen_fds()?;
    let idle = Idle::new(config.activity);
    let mut options = Options::new(idle.clone()).map_err(StartError::Serve)?;
    match sockets.len() {
        0 => sockets.push(service::bind(&config.socket_path())?),
        1 => {}
        _ => return Err(StartError::TooManySockets),
    }
    let wakeup = match (config.sleep, config.activity) {
        (config::Sleep::Never, _) => Err("--sleep never".to_owned()),
        (_, None) => Err("-a 0".to_owned()),
        _ => Wakeup::find(&sockets).map_err(|why| why.to_string()),
    };
    let sleep = Sleep::new(wakeup, config.activity.unwrap_or_default());
    let file = (LeaseFile::new(&config.lease_file), config.lease_file.with_extension("known"));
    let quiet = config.activity.map_or(QUIET, |activity| activity.min(QUIET));
    rt::block_on(async move |runtime| {
        let habits = (config.habits.clone(), identity);
        let table = Table::new(runtime.clone(), idle.clone(), options.notify.clone(), file, habits, sleep);
        table.take_over();
        // Who was woken for the leases leaves as soon as the work is done, unless somebody calls.
        if table.is_woken() {
            idle.set_timeout(Some(Duration::ZERO));
        }
        let preparing = Rc::clone(&table);
        options.prepare = Some(Prepare::new(move || Rc::clone(&preparing).prepare_to_leave()));
        let (serving, activity) = (Rc::clone(&table), config.activity);
        let handler = move |Connection { stream, activity: guard, requests, closing }| {
            idle.set_timeout(activity);
            let table = Rc::clone(&serving);
            async move {
                let call = |call| {
                    let in_flight = requests.begin();
                    let served = Rc::clone(&table).serve(call, closing.clone());
                    async move {
                        let _in_flight = in_flight;
                        served.await
                    }
                };
                rpc::serve(stream, quiet, closing.clone(), call).await;
                drop(guard);
            }
        };
        let reason = service::serve(&runtime, sockets, options, handler).await;
        match reason {
            Ok(Reason::Signal(_)) => Rc::clone(&table).stop(config.on_stop).await,
            Ok(Reason::Hurry(_)) => drop(table.save(true)),
            Ok(Reason::Idle) | Err(_) => {}
        }
        table.close_file();
        reason.map(drop)
    })
    .map_err(StartError::Serve)
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
