//! Nothing to do means nothing done: no thread, no descriptor, no wakeup between exchanges.

use std::time::Duration;

use crate::lab::server::{Server, Settings};
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually};
use crate::{Named, stage};

pub(crate) const TRIALS: &[Named] = &[
    ("resting::leases_cost_no_descriptor_no_thread_and_no_wakeup", leases_rest),
    ("resting::an_idle_daemon_sleeps", idle_sleeps),
];

fn leases_rest() -> Result {
    let stage = stage(5, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    let mut settled = 0;
    eventually("the first exchange is over", Duration::from_secs(5), || {
        let now = stage.daemon.descriptors()?;
        Ok((std::mem::replace(&mut settled, now) == now && sockets(&stage.daemon)? <= 1).then_some(()))
    })?;
    let one = stage.daemon.descriptors()?;
    for container in 1..5 {
        stage.setup(container)?;
    }
    eventually("five leases have as many descriptors as one", Duration::from_secs(5), || {
        Ok((stage.daemon.descriptors()? <= one).then_some(()))
    })
    .map_err(|error| format!("{error}: {:?}", stage.daemon.descriptor_names()))?;
    assert_eq!(stage.daemon.status("Threads")?, 2, "the executor's and async-io's parked helper");
    asleep_for_fifteen_seconds(&stage.daemon)
}

fn idle_sleeps() -> Result {
    let stage = stage(0, &[])?;
    assert_eq!(stage.daemon.status("Threads")?, 2, "the executor's and async-io's parked helper");
    asleep_for_fifteen_seconds(&stage.daemon)
}

fn asleep_for_fifteen_seconds(daemon: &crate::lab::daemon::Daemon) -> Result {
    // What the last call left to do takes a moment.
    std::thread::sleep(Duration::from_millis(300));
    let before = daemon.context_switches()?;
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(daemon.context_switches()?, before);
    Ok(())
}

/// How many sockets are connected or open besides the listening one.
fn sockets(daemon: &crate::lab::daemon::Daemon) -> Result<usize> {
    Ok(daemon.descriptor_names()?.iter().filter(|name| name.contains("socket:") && !name.starts_with("3 ")).count())
}
