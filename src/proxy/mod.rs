//! The daemon: joins the `service` library, gRPC, the DHCP client and the Linux layer.
//!
//! # The parts
//!
//! Folders import only to their right: `table -> session -> store -> container -> call -> key`.
//! Each may import the single files of the last rows.
//!
//! | place | part |
//! |---|---|
//! | `table/` | all leases: the work on each, what is due, when the process may exit |
//! | `session/` | one lease that is being worked on: client, sockets and link in one loop |
//! | `store/` | the files that outlive the process, their directory and its lock |
//! | `container/` | a container's interface, an exchange's sockets, a lease on the link |
//! | `call/` | requests and replies |
//! | `key.rs` | identities of leases, containers and servers; the prefix of log lines |
//! | `acquire_timeout.rs` | the time limit of an acquisition |
//! | `config.rs`, `sandbox/` | the command line; the files and system calls of the process |
//! | `error.rs`, `logging/` | errors by fault; log lines for the journal |
//!
//! # Calls
//!
//! ```text
//! a call     service -> rpc::serve -> Table::serve -> setup or teardown -> Claim -> Session
//!            or, for root, renew_now and release_now (table/control.rs)
//! a renewal  Table::run_schedule -> Plan::poll -> Session::resume -> Session::run
//! a session  dhcp::Client, ExchangeSockets (frames, carrier), Applied (address, routes, MTU)
//! a change   Session -> Table::record_session -> LeaseFile::replace, then Applied
//! an exit    service -> Table::prepare_to_leave -> Wakeup::arm -> LeaseFile::replace
//! ```
//!
//! # The life of a lease
//!
//! The table has a slot for each lease, by its key: MAC, network namespace and interface. The slot
//! holds the state of the work, and the record: all that is needed to resume the lease. The state
//! file has a copy of each record.
//!
//! | stage | slot | in the file | what happens |
//! |---|---|---|---|
//! | Setup | `Claimed` | `INTENT` | the call acquires a lease; other calls wait |
//! | acquired | `Active` | `BOUND` | a task announces the address, and listens for conflicts |
//! | in use | `Dormant` | `BOUND` | no task and no socket; the plan has its times |
//! | T1, T2 | `Active` | `RENEWING`, `REBINDING` | a task renews it; retried without an answer |
//! | lost | both | `INIT` | after a NAK, expiry or conflict: off the link, search for another |
//! | Teardown | `Claimed` | `ENDING` | RELEASE, off the link, slot removed |
//! | container gone | - | - | slot removed; nothing can be sent, so the lease expires |
//!
//! The process exits when it is idle and all leases are dormant, after it has armed a timer with
//! systemd for the next due time. While no process runs, the kernel removes an address at the end
//! of its lease.
//!
//! # Write-ahead order
//!
//! The state file is replaced as a whole, and flushed before the step that it announces:
//!
//! 1. Setup: `INTENT`, exchange with the server, `BOUND`, link, reply to the caller.
//! 2. New settings or loss: record, link. More time for the same lease: link, and the record within
//!    a second.
//! 3. Teardown, and rollback of a failed Setup: `ENDING`, RELEASE, link, entry removed.
//! 4. Exit: timer, then a file that says of each lease that its link is known.
//!
//! So each crash leaves a record from which the next process goes on. systemd starts it, or the
//! next call does.
//!
//! | crash | what is left | the next process |
//! |---|---|---|
//! | before `INTENT` | nothing | - |
//! | before `BOUND` | perhaps a lease at the server | drops the record; that lease expires |
//! | before link or reply | a lease without a caller | sets the link; Teardown ends it |
//! | during a renewal | the old times | checks the link, and renews again |
//! | around the RELEASE | `ENDING`, and the address | sends the RELEASE (again), clears the link |
//! | between timer and file | links that are not known | checks all links |
//! | reboot | records of another boot | requests the same addresses at the next Setups |
//!
//! The journal of work (`store/journal.rs`) names the lease that the process works on. Where it
//! dies, the next process works on that lease last and alone, and after three deaths leaves it to
//! the next call.
//!
//! # Threads
//!
//! All of this runs on one executor thread. To open sockets in a container's namespace, it enters
//! the namespace with setns(2) and returns before it does anything else. The other threads keep no
//! state: the I/O thread of async-io, a thread that opens namespace paths from outside the sandbox,
//! and up to two threads that close packet sockets, which takes the kernel milliseconds. systemctl
//! and systemd-run are child processes.

mod acquire_timeout;
mod call;
pub mod config;
pub(crate) mod container;
mod error;
mod key;
mod logging;
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
use crate::service::{
    self, AnyListener, Connection, NoWakeup, Reason, Service, Socket, Wakeup, activation,
};

use call::client_id::ClientIdentity;
use config::{Command, DaemonConfig};
use error::StartError;
use sandbox::Enforced;
use session::EventProgram;
use store::address_history::AddressHistory;
use store::counters::WakeCause;
use store::directory::StateDirectory;
use store::journal::Journal;
use store::lease_file::{DaemonState, LeaseFile, new_counters};
use store::networks::Networks;
use table::{LeaseKeepAlive, Parts, Table};

/// The longest idle time of a connection; `-a` may set a shorter one.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The idle timeout of a process that only answers callers with the reason why it cannot serve.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time for calls in flight when systemd restarts the service: more than `-t auto`
/// takes without a new carrier, and short enough for the drain and a release of all leases to end
/// within the units' `TimeoutStopSec=`.
const RESTART_GRACE: Duration = Duration::from_secs(50);

/// The interval at which systemd is asked whether it still restarts the service.
const RESTART_RECHECK: Duration = Duration::from_secs(1);

/// The exit status for a wrong command line or configuration. The units do not restart the service
/// then (`RestartPreventExitStatus=`).
const WRONG_CONFIGURATION: u8 = 2;

/// Runs the daemon. `arguments` come without the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match config::parse(arguments, |name| std::env::var_os(name)) {
        Ok(Command::Serve(config)) => config,
        Ok(Command::Help) => return print(config::HELP),
        Ok(Command::Version) => {
            return print(concat!("smol-dhcp-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Err(error) => {
            logging::print_fatal(&format!("{error}\nTry --help."));
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

/// Serves until it is time to exit. After a failed start, systemd's sockets are in `inherited`.
fn serve(config: DaemonConfig, inherited: &mut Vec<Socket>) -> Result<(), StartError> {
    // Before the process opens descriptors of its own.
    *inherited = activation::listen_fds()?;
    let identity = ClientIdentity::find(config.dhcp.client_id)?;
    check_sockets(inherited)?;
    let unit = Wakeup::find(inherited);
    let refuge = unit.as_ref().ok().and_then(|_| runtime_directory());
    // Before any file is read and the socket is bound, which another instance may have.
    let directory =
        StateDirectory::lock(&config.lease_file.with_extension("lock"), refuge.clone())?;
    let enforced = confine(
        &config,
        inherited.is_empty(),
        (unit.is_ok(), refuge.as_deref()),
    )?;
    let cause = wake_cause(inherited);
    let mut service = if inherited.is_empty() {
        Service::new(config.socket_path())
    } else {
        Service::on(std::mem::take(inherited))
    };
    service = service.idle_timeout(config.activity).open()?;
    if let Ok(unit) = unit.clone() {
        service = service.extend_drain(move || await_restart(unit.clone()));
    }
    let events = event_program(&config, &unit);
    let wakeup = match (config.sleep, config.activity) {
        (config::Sleep::Never, _) => Err("--sleep never".to_owned()),
        (_, None) => Err("-a 0".to_owned()),
        // The next process would ignore the files as well.
        _ if let Some(why) = directory.distrust() => Err(why),
        _ => unit.clone().map_err(|why| why.to_string()),
    };
    let daemon = DaemonState::new(
        unit.as_ref().ok().map(Wakeup::unit),
        wakeup.as_ref().err().map(String::as_str),
        enforced,
    );
    let counters = new_counters(cause);
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
        let events =
            events.map(|(program, unit)| EventProgram::new(&program, unit, service.idle().clone()));
        let (known, networks) = (file_name("known"), file_name("networks"));
        let table = Table::new(Parts {
            runtime: runtime.clone(),
            idle: service.idle().clone(),
            notify: service.notify().clone(),
            history: AddressHistory::new(&directory, known, file.boot_id()),
            networks: Networks::new(&directory, networks, file.boot_id()),
            journal: Journal::new(&directory, file_name("work")),
            file,
            daemon,
            counters,
            events,
            settings: config.dhcp.clone(),
            identity,
            keep_alive,
        });
        serve_calls(runtime, service, table, &config).await
    })
}

/// Returns the program of `--on-change`, and the unit through which systemd starts it. Without either
/// the daemon serves all the same: no lease depends on it.
fn event_program(
    config: &DaemonConfig,
    unit: &Result<Wakeup, NoWakeup>,
) -> Option<(PathBuf, Wakeup)> {
    let program = config.on_change.as_ref()?;
    match unit {
        Ok(unit) => {
            if let Some(fault) = EventProgram::fault(program) {
                log::warn!(
                    "--on-change {}: {fault}; no program is started until that is mended",
                    program.display()
                );
            }
            Some((program.clone(), unit.clone()))
        }
        Err(why) => {
            log::warn!("--on-change has no effect: systemd starts the program, and {why}");
            None
        }
    }
}

/// Returns the cause of this start. systemd may name a timer at a later start as well, so a caller
/// that waits comes first.
fn wake_cause(sockets: &[Socket]) -> WakeCause {
    if sockets.iter().any(Socket::has_connection) {
        WakeCause::Call
    } else if Wakeup::woken_by_timer() {
        WakeCause::Timer
    } else {
        WakeCause::Other
    }
}

/// Accepts no socket or one Unix socket: netavark's client calls no other.
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

/// Restores the table, and serves calls until it is time to exit.
async fn serve_calls(
    runtime: Runtime,
    service: Service,
    table: Rc<Table>,
    config: &DaemonConfig,
) -> Result<(), StartError> {
    let (idle, activity) = (service.idle().clone(), config.activity);
    table.restore();
    // A process that was started for its leases exits once they are served, unless a call comes.
    if table.is_started_for_leases() {
        idle.set_timeout(Some(Duration::ZERO));
    }
    let idle_timeout = activity.map_or(CONNECTION_IDLE_TIMEOUT, |activity| {
        activity.min(CONNECTION_IDLE_TIMEOUT)
    });
    let (preparing, serving) = (Rc::clone(&table), Rc::clone(&table));
    let handler = move |connection: Connection| {
        idle.set_timeout(activity);
        serve_connection(connection, Rc::clone(&serving), idle_timeout)
    };
    let reason = service
        .before_exit(move || Rc::clone(&preparing).prepare_to_leave())
        .serve(&runtime, handler)
        .await;
    // Setups that were cancelled begin their rollback first.
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

/// Serves the calls of one connection until it is closed, or idle for `idle_timeout`.
async fn serve_connection(connection: Connection, table: Rc<Table>, idle_timeout: Duration) {
    let Connection {
        stream,
        requests,
        shutdown,
        countdown,
        ..
    } = connection;
    let peer = stream.clone();
    let call = |call| {
        let in_flight = requests.begin();
        let permitted = table::permit(&call, &peer);
        // A restart waits for containers' calls, and must not wait for an operator's: what that has
        // begun goes on without its caller.
        let closing = if call.is_control() {
            shutdown.clone()
        } else {
            countdown.clone()
        };
        let served = Rc::clone(&table).serve(call, closing);
        async move {
            let _in_flight = in_flight;
            permitted?;
            served.await
        }
    };
    let ended = |code| table.count_call(code);
    rpc::serve_counted(stream, idle_timeout, shutdown.clone(), call, ended).await;
}

/// Extends the drain while systemd restarts the service, so that no call fails: those in flight are
/// finished, and later ones wait in the socket's backlog. Other stops are not delayed.
async fn await_restart(unit: Wakeup) {
    let restart = async {
        while unit.is_being_restarted().await {
            rt::sleep(RESTART_RECHECK).await;
        }
    };
    or(restart, rt::sleep(RESTART_GRACE)).await;
}

/// Returns the first directory of `RuntimeDirectory=` (systemd.exec(5)), for a process that systemd
/// has started: children inherit the variable.
fn runtime_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&directories)
        .next()
        .filter(|path| path.is_absolute())
}

/// Confines the process to writing in its directories and, where `runs_programs` is set, to running
/// the programs that arm the timer.
fn confine(
    config: &DaemonConfig,
    makes_socket: bool,
    (runs_programs, refuge): (bool, Option<&Path>),
) -> Result<Enforced, StartError> {
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
            Ok(Enforced::default())
        }
        Ok(enforced) => Ok(enforced),
    }
}

/// Answers calls in the backlog, and those that come soon, with `status`. systemd would start the
/// process again for each call that is left in the backlog.
fn refuse(mut sockets: Vec<Socket>, status: Status) {
    // TCP gets no answer at all.
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
