//! Nothing to do means nothing done: no thread, no descriptor, no wakeup between exchanges.

use std::time::Duration;

use crate::lab::daemon::Daemon;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually};
use crate::stage;

trials![
    leases_cost_no_descriptor_no_thread_and_no_wakeup,
    an_idle_daemon_sleeps,
];

/// The variable that says which runtime the program under test is built with.
const RUNTIME: &str = "DAEMON_RUNTIME";

/// Returns the number of threads of an idle daemon: the executor's, the opener of namespaces, and
/// async-io's parked helper, which tokio has not.
fn threads() -> u64 {
    match std::env::var(RUNTIME).as_deref() {
        Ok("tokio") => 2,
        _ => 3,
    }
}

fn leases_cost_no_descriptor_no_thread_and_no_wakeup() -> Result {
    // Connections have the same deadline, and async-io wakes once for the last one although nothing
    // waits for it any more.
    let stage = stage(5, &["-a", "1"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    let one = stage.daemon.settled_descriptors()?;
    for container in 1..5 {
        stage.setup(container)?;
    }
    for container in &stage.topology.containers {
        container.namespace.await_rest()?;
    }
    stage.daemon.await_descriptors(&one)?;
    eventually(
        "the threads that close packet sockets have ended",
        Duration::from_secs(5),
        || Ok((stage.daemon.status("Threads")? == threads()).then_some(())),
    )?;
    asleep_for_fifteen_seconds(&stage.daemon)
}

fn an_idle_daemon_sleeps() -> Result {
    let stage = stage(0, &[])?;
    assert_eq!(stage.daemon.status("Threads")?, threads());
    asleep_for_fifteen_seconds(&stage.daemon)
}

fn asleep_for_fifteen_seconds(daemon: &Daemon) -> Result {
    // What the last call left to do, and the deadlines that it set and did not need, take a moment.
    std::thread::sleep(Duration::from_secs(3));
    let before = daemon.context_switches()?;
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(daemon.context_switches()?, before);
    Ok(())
}
