//! Leases of a process that is gone, and the container that is no more the one they were for.

use std::time::Duration;

use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::links::{Address, Link, Route};
use crate::lab::namespace::Namespace;
use crate::lab::topology::{LINK, SERVER, SERVER_LINK};
use crate::lab::{Result, eventually};
use crate::stage;

trials![
    another_netns_at_the_same_path_is_left_alone,
    the_same_while_the_daemon_runs,
];

fn another_netns_at_the_same_path_is_left_alone() -> Result {
    another_netns(false)
}

fn the_same_while_the_daemon_runs() -> Result {
    another_netns(true)
}

const T1: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(5);

/// Returns everything that a process could have changed.
fn state(namespace: &Namespace) -> Result<(Link, Vec<Address>, Vec<Route>)> {
    Ok((
        namespace.link(LINK)?,
        namespace.addresses()?,
        namespace.routes()?,
    ))
}

/// The container is deleted, and another one made at the same path, with a link of the same name
/// and MAC, which has the very address already.
fn another_netns(is_running: bool) -> Result {
    let mut stage = stage(1, &[])?;
    let settings = Settings {
        lease: Duration::from_secs(60),
        t1: Some(T1),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let leased = rt::now();
    let lease = stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    // The file has it all by then.
    eventually("the lease rests in the file", SOON, || {
        let entry = &stage.unit.leases()?[stage.topology.containers[0].mac.to_string()][0];
        Ok(entry["on_link"]["address"]
            .as_str()
            .is_some_and(|address| !address.is_empty())
            .then_some(()))
    })?;
    if !is_running {
        stage.daemon.kill()?;
    }
    let descriptors = if is_running {
        stage.daemon.descriptors()?
    } else {
        usize::MAX
    };

    let container = &mut stage.topology.containers[0];
    container.namespace.replace()?;
    if stage
        .topology
        .host
        .macvlan(LINK, &container.namespace, LINK, container.mac)
        .is_err()
    {
        // A namespace ends in the background, and its links hold the MAC until then.
        eventually("the MAC is free", SOON, || {
            Ok(container.namespace.set_state(LINK, true).ok())
        })?;
    }
    container
        .namespace
        .add_address(LINK, lease.yiaddr.parse()?, 16)?;
    container.namespace.add_default_route(LINK, SERVER, 100)?;
    let before = state(&container.namespace)?;
    let (logged, heard) = (stage.unit.log()?.len(), server.heard().len());

    if !is_running {
        stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    }
    eventually("the lease is dropped", T1 + SOON, || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })?;
    // Whatever the next thing to do with it would have been, its time passes.
    std::thread::sleep((leased + T1 + Duration::from_secs(1)) - rt::now());
    let container = &stage.topology.containers[0];
    assert_eq!(state(&container.namespace)?, before);
    assert_eq!(
        server.heard().len(),
        heard,
        "something was sent: {:?}",
        &server.heard()[heard..]
    );
    let log = stage.unit.log()?.split_off(logged);
    let path = container.namespace.path().display().to_string();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&path)).collect();
    assert!(
        matches!(lines[..], [line] if line.contains("the lease is left to expire")),
        "{lines:?}"
    );
    container.namespace.await_rest()?;
    eventually("nothing of it is open", SOON, || {
        Ok((stage.daemon.descriptors()? <= descriptors).then_some(()))
    })?;

    // And it can have a lease of its own.
    container
        .namespace
        .remove_address(LINK, lease.yiaddr.parse()?, 16)?;
    assert_eq!(stage.setup(0)?.yiaddr, lease.yiaddr);
    stage.teardown(0)?;
    assert_eq!(stage.topology.containers[0].address()?, None);
    Ok(())
}
