//! Leases that end otherwise than by Teardown: refused, run out, or left by a daemon that was
//! killed.

use std::time::Duration;

use dhcproto::v4::MessageType;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::topology::{LINK, SERVER_LINK};
use crate::lab::{Result, eventually};
use crate::stage;

trials![
    after_a_crash_the_kernel_removes_the_address,
    after_a_crash_the_route_goes_with_its_address_alone,
    a_nak_removes_the_address_and_another_is_got,
    without_an_answer_the_address_goes_at_its_time,
];

const SOON: Duration = Duration::from_secs(5);

fn settings(lease: u64, t1: u64, t2: u64) -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(lease),
        t1: Some(seconds(t1)),
        t2: Some(seconds(t2)),
        ..Settings::default()
    }
}

fn after_a_crash_the_kernel_removes_the_address() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings(10, 7, 9))?;
    stage.setup(0)?;
    stage.daemon.crash()?;
    let left = container
        .address()?
        .ok_or("no address after the crash")?
        .valid;
    assert!((7..=10).contains(&left), "{left} s");
    assert_eq!(container.namespace.default_routes()?.len(), 1);
    // Counted in whole seconds, and swept by the kernel about once in one.
    eventually(
        "address and route are gone",
        Duration::from_secs(u64::from(left) + 3),
        || {
            Ok(
                (container.address()?.is_none()
                    && container.namespace.default_routes()?.is_empty())
                .then_some(()),
            )
        },
    )
}

/// Another address keeps the link in use, and the kernel would keep a route that does not name its
/// source.
fn after_a_crash_the_route_goes_with_its_address_alone() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings(6, 4, 5))?;
    // Of the same network, so that the router stays in reach.
    container.add_address(LINK, "10.88.77.1".parse()?, 16)?;
    let before = (container.addresses()?, container.routes()?);
    stage.setup(0)?;
    stage.daemon.crash()?;
    assert_eq!(
        (
            container.addresses()?.len(),
            container.default_routes()?.len()
        ),
        (2, 1)
    );
    eventually("the leased address is gone", Duration::from_secs(9), || {
        Ok((container.addresses()?.len() == 1).then_some(()))
    })?;
    assert_eq!((container.addresses()?, container.routes()?), before);
    Ok(())
}

fn a_nak_removes_the_address_and_another_is_got() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings(60, 2, 4))?;
    let first = stage.setup(0)?;
    // The next renewal finds a server that knows of no such lease.
    server.forget();
    let second = eventually("another address", Duration::from_secs(15), || {
        let address = container
            .address()?
            .map(|address| address.address.to_string());
        Ok(address.filter(|address| *address != first.yiaddr))
    })?;
    assert_eq!(second, "10.88.1.2");
    eventually("and its route", SOON, || {
        Ok((container.namespace.default_routes()?.len() == 1).then_some(()))
    })?;
    let log = stage.unit.log()?;
    let words = format!("ip or gateway for mac {} changed", container.mac);
    assert!(
        log.to_lowercase().contains(&words),
        "the log does not say: {words}"
    );
    stage.teardown(0)?;
    let release = server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!(release.message.ciaddr().to_string(), second);
    Ok(())
}

fn without_an_answer_the_address_goes_at_its_time() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings(6, 2, 4))?;
    let lease = stage.setup(0)?;
    server.set_silent(true);
    eventually("address and route are gone", Duration::from_secs(8), || {
        Ok(
            (container.address()?.is_none() && container.namespace.default_routes()?.is_empty())
                .then_some(()),
        )
    })?;
    // From then on it looks for a lease again, and takes one when there is one.
    server.await_message(MessageType::Discover, 4, Duration::from_secs(60))?;
    server.set_silent(false);
    let again = eventually("an address again", Duration::from_secs(70), || {
        Ok(container.address()?.map(|there| there.address))
    })?;
    assert_eq!(again.to_string(), lease.yiaddr);
    // The session has rested meanwhile, and has not forgotten where it was.
    let log = stage.unit.log()?;
    assert!(!log.contains("changed"), "{log}");
    assert!(log.contains("opened its sockets"), "{log}");
    Ok(())
}
