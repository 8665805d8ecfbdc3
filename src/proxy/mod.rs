//! The application: joins the `service` library, gRPC, the DHCP client and the Linux layer into the
//! daemon.
//!
//! The folders import only to their right: `table -> session -> store -> container -> call -> key`,
//! and all of them the files at the end.
//!
//! | place | what it knows |
//! |---|---|
//! | `table/` | all leases: which task has one, what is due, when the process may leave |
//! | `session/` | one lease at work: client, sockets and link in one loop |
//! | `store/` | what outlives the process: the files, their directory and its lock |
//! | `container/` | a container's interface, the sockets of an exchange, what a lease put on the link |
//! | `call/` | what a caller says and gets |
//! | `key.rs` | the identities of leases, containers and servers |
//! | `patience.rs` | how long an acquisition may take |
//! | `config.rs`, `sandbox/` | the command line; which files and system calls are left to the process |
//! | `error.rs`, `logging/` | whose fault it is, and the words for it |

mod call;
pub mod config;
mod container;
mod error;
mod key;
mod logging;
mod patience;
pub mod sandbox;
mod session;
pub(crate) mod store;
mod table;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::{or, yield_now};

use crate::rpc::{self, Code, Status};
use crate::rt::{self, Runtime};
use crate::service::{self, AnyListener, Connection, Reason, Service, Socket, Wakeup, activation};

use call::client_id::ClientIdentity;
use config::{Command, DaemonConfig};
use error::StartError;
use store::address_history::AddressHistory;
use store::directory::StateDirectory;
use store::journal::Journal;
use store::lease_file::LeaseFile;
use store::networks::Networks;
use table::{LeaseKeepAlive, Parts, Table};

/// The longest that a client may keep a connection without a call, however long the daemon itself
/// stays.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The idle timeout of a process that cannot serve and answers callers with the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest that a Setup may still go on when systemd restarts the service: more than `-t auto`
/// takes unless a carrier comes meanwhile, and less than `TimeoutStopSec=` in the units leaves,
/// with the drain and a release of all leases still to come.
const RESTART_GRACE: Duration = Duration::from_secs(50);

/// How often systemd is asked whether it still restarts the service.
const RESTART_RECHECK: Duration = Duration::from_secs(1);

/// The exit status of a wrong command line or configuration, which no restart can change:
/// `RestartPreventExitStatus=` in the units.
const WRONG_CONFIGURATION: u8 = 2;

/// The whole program: arguments (without the program's name) in, exit code out.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match config::parse(arguments, |name| std::env::var_os(name)) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::Help) => return print(config::HELP),
        Ok(Command::Version) => {
            return print(concat!("smol-dhcp-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Err(error) => {
            logging::say(&format!("{error}\nTry --help."));
            logging::start();
            refuse(
                activation::listen_fds().unwrap_or_default(),
                Status::new(Code::FailedPrecondition, error.to_string()),
            );
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    logging::start();
    let mut sockets = Vec::new();
    match serve(config, &mut sockets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            let code = if error.is_configuration() {
                WRONG_CONFIGURATION.into()
            } else {
                ExitCode::FAILURE
            };
            refuse(sockets, error.into());
            code
        }
    }
}

/// Serves until it is time to leave. What systemd handed over is left in `handed_over` where that
/// cannot begin.
fn serve(config: DaemonConfig, handed_over: &mut Vec<Socket>) -> Result<(), StartError> {
    // First of all, before the process opens descriptors of its own.
    *handed_over = activation::listen_fds()?;
    let identity = ClientIdentity::find(config.dhcp.client_id)?;
    check_sockets(handed_over)?;
    let unit = Wakeup::find(handed_over);
    let refuge = unit.as_ref().ok().and_then(|_| runtime_directory());
    // Before anything in the directory is read, and before the socket is made: what another
    // instance holds is not ours.
    let directory =
        StateDirectory::lock(&config.lease_file.with_extension("lock"), refuge.clone())?;
    confine(
        &config,
        handed_over.is_empty(),
        (unit.is_ok(), refuge.as_deref()),
    )?;
    let mut service = if handed_over.is_empty() {
        Service::new(config.socket_path())
    } else {
        Service::on(std::mem::take(handed_over))
    };
    service = service.idle_timeout(config.activity).open()?;
    if let Ok(unit) = unit.clone() {
        service = service.extend_drain(move || await_restart(unit.clone()));
    }
    let wakeup = match (config.sleep, config.activity) {
        (config::Sleep::Never, _) => Err("--sleep never".to_owned()),
        (_, None) => Err("-a 0".to_owned()),
        // The next instance would not believe the files either.
        _ if let Some(why) = directory.distrust() => Err(why),
        _ => unit.map_err(|why| why.to_string()),
    };
    let keep_alive = LeaseKeepAlive::new(wakeup, config.activity.unwrap_or_default());
    rt::block_on(async move |runtime| {
        let file_name = |extension| {
            let path = config.lease_file.with_extension(extension);
            path.file_name().unwrap_or_default().to_owned()
        };
        let file = LeaseFile::new(
            &directory,
            config.lease_file.file_name().unwrap_or_default(),
        );
        let (known, networks) = (file_name("known"), file_name("networks"));
        let table = Table::new(Parts {
            runtime: runtime.clone(),
            idle: service.idle().clone(),
            notify: service.notify().clone(),
            history: AddressHistory::new(&directory, known, file.boot_id()),
            networks: Networks::new(&directory, networks, file.boot_id()),
            journal: Journal::new(&directory, file_name("work")),
            file,
            settings: config.dhcp.clone(),
            identity,
            keep_alive,
        });
        serve_calls(runtime, service, table, &config).await
    })
}

/// Refuses sockets that netavark's clients do not call.
fn check_sockets(sockets: &[Socket]) -> Result<(), StartError> {
    if sockets.len() > 1 {
        return Err(StartError::TooManySockets);
    }
    if sockets.iter().all(is_unix) {
        Ok(())
    } else {
        Err(StartError::NotUnix)
    }
}

fn is_unix(socket: &Socket) -> bool {
    matches!(socket.listener(), AnyListener::Unix(_))
}

/// Restores the table, and serves calls from it until it is time to leave.
async fn serve_calls(
    runtime: Runtime,
    service: Service,
    table: Rc<Table>,
    config: &DaemonConfig,
) -> Result<(), StartError> {
    let (idle, activity) = (service.idle().clone(), config.activity);
    table.restore();
    // A process that was started for the leases leaves as soon as they are served, unless there is
    // a call.
    if table.is_woken() {
        idle.set_timeout(Some(Duration::ZERO));
    }
    let patience = activity.map_or(CONNECTION_IDLE_TIMEOUT, |activity| {
        activity.min(CONNECTION_IDLE_TIMEOUT)
    });
    let (preparing, serving) = (Rc::clone(&table), Rc::clone(&table));
    let handler = move |connection: Connection| {
        idle.set_timeout(activity);
        serve_connection(connection, Rc::clone(&serving), patience)
    };
    let reason = service
        .before_exit(move || Rc::clone(&preparing).prepare_to_leave())
        .serve(&runtime, handler)
        .await;
    // Setups that were cut off note first that they give their leases back.
    yield_now().await;
    match reason {
        Ok(Reason::Signal(_)) => Rc::clone(&table).stop(config.on_stop).await,
        Ok(Reason::SecondSignal(_)) => {
            table.save(true);
            table.clear_journal();
        }
        Ok(Reason::Idle) | Err(_) => {}
    }
    table.close_file();
    Ok(reason.map(drop)?)
}

/// Serves the calls of one connection, which may be silent for as long as `patience`.
async fn serve_connection(connection: Connection, table: Rc<Table>, patience: Duration) {
    let Connection {
        stream,
        requests,
        shutdown,
        countdown,
        ..
    } = connection;
    let call = |call| {
        let in_flight = requests.begin();
        let served = Rc::clone(&table).serve(call, countdown.clone());
        async move {
            let _in_flight = in_flight;
            served.await
        }
    };
    rpc::serve(stream, patience, shutdown, call).await;
}

/// Gives calls in flight more time than a drain for as long as systemd restarts the service: their
/// callers need not notice, and later ones wait at the socket. A stop, a shutdown and a second
/// signal are not made to wait.
async fn await_restart(unit: Wakeup) {
    let restart = async {
        while unit.is_being_restarted().await {
            rt::sleep(RESTART_RECHECK).await;
        }
    };
    or(restart, rt::sleep(RESTART_GRACE)).await;
}

/// Returns the first directory of `RuntimeDirectory=` (systemd.exec(5)). It means this process only
/// where systemd started it.
fn runtime_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&directories)
        .next()
        .filter(|path| path.is_absolute())
}

/// Confines the process: it may write to its directories, and run what has systemd wake it where
/// that is to be.
fn confine(
    config: &DaemonConfig,
    makes_socket: bool,
    (runs_programs, refuge): (bool, Option<&Path>),
) -> Result<(), StartError> {
    let socket = config.socket_path();
    if makes_socket {
        service::make_directory(&socket)?;
    }
    let directories = [Some(&config.lease_file), makes_socket.then_some(&socket)];
    let directories = directories
        .into_iter()
        .flatten()
        .map(|file| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        });
    let writable: Vec<_> = directories.chain(refuge).collect();
    let programs: &[_] = if runs_programs {
        &Wakeup::PROGRAMS
    } else {
        &[]
    };
    match sandbox::confine(
        config.sandbox,
        sandbox::Allowed {
            writable: &writable,
            programs,
        },
    ) {
        Err(error) if config.sandbox == sandbox::Mode::Strict => Err(StartError::Sandbox(error)),
        Err(error) => {
            log::warn!("the sandbox is incomplete: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Answers calls with `status`, those that wait at the sockets and those that come soon: they are
/// what started the process, and systemd would start it again for each that is left there.
fn refuse(mut sockets: Vec<Socket>, status: Status) {
    // Nothing is answered by TCP, not even with the reason.
    sockets.retain(is_unix);
    if sockets.is_empty() {
        return;
    }
    let status = Status {
        message: format!("smol-dhcp-proxy: {}", status.message),
        ..status
    };
    let handler = move |connection: Connection| {
        let status = status.clone();
        async move {
            rpc::serve(
                connection.stream,
                REFUSAL_TIMEOUT,
                connection.shutdown,
                |_| std::future::ready(Err(status.clone())),
            )
            .await;
        }
    };
    let refused = Service::on(sockets)
        .idle_timeout(REFUSAL_TIMEOUT)
        .run(handler);
    if let Err(error) = refused {
        log::error!("cannot answer callers: {error}");
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
