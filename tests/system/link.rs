//! The container's link: what a lease puts on it, what was there before, and what others do to it
//! meanwhile.

use std::path::Path;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::net::netlink::message;
use smol_dhcp_proxy::net::raw::RawSocket;
use smol_dhcp_proxy::rpc::{Code, NetavarkLease, NetworkConfig, Status};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER, SERVER_LINK};
use crate::lab::tracer::Tracer;
use crate::lab::{Result, eventually, grpc};
use crate::lease::{check_link, check_released};
use crate::stage;

trials![
    what_fails_midway_is_undone,
    the_same_default_route_that_is_there_stays,
    everything_at_once_is_undone,
    a_renamed_interface_is_renewed_all_the_same,
    down_and_up_during_a_renewal,
    a_setup_waits_for_the_carrier,
    without_a_carrier_setup_says_so,
    a_setup_on_a_link_that_is_down_fails_at_once,
    a_setup_whose_interface_is_deleted_fails_at_once,
    a_renewal_goes_on_when_the_carrier_is_back,
    a_renewal_that_could_not_be_said_follows_the_carrier_soon,
    teardown_of_a_link_that_is_down,
    setup_after_a_crash_takes_over_what_is_there,
    an_interface_that_is_deleted_ends_its_lease,
    an_interface_deleted_while_no_server_answers_ends_its_lease_too,
    so_does_a_namespace_where_others_go_on_talking,
];

const SOON: Duration = Duration::from_secs(5);
/// The kernel tells of a carrier at most once in a second.
const TOLD: Duration = Duration::from_millis(1500);

fn short() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(60),
        t1: Some(seconds(2)),
        t2: Some(seconds(4)),
        ..Settings::default()
    }
}

/// The kernel takes the routes off a link that goes down: they come back, and the lease has its
/// full time.
fn await_renewal(container: &Container, lease: &NetavarkLease) -> Result {
    eventually(
        "the route is back, and the lease has its full time",
        SOON,
        || {
            let full = container
                .address()?
                .is_some_and(|address| address.valid >= 59);
            Ok((full && container.namespace.default_routes()?.len() == 1).then_some(()))
        },
    )?;
    check_link(container, lease, 60)
}

/// The default route cannot be added, after MTU and address have been set.
fn what_fails_midway_is_undone() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let settings = Settings {
        mtu: Some(1400),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let at_rest = stage.daemon.settled_descriptors()?;
    let (socket, config) = (stage.unit.socket(), stage.config(0));
    let answer = std::thread::scope(|scope| -> Result<_> {
        let tracer = Tracer::seize(stage.daemon.id())?;
        let call = scope.spawn(|| grpc::setup(&socket, &config));
        tracer.fail_when(SOON, |call| {
            Ok(call.netlink_message()? == Some(message::NEW_ROUTE))
        })?;
        Ok(call.join().expect("no panic in a call"))
    })?;
    let refused = answer.expect_err("there is no default route");
    assert_eq!(refused.code, Code::Internal, "{refused:?}");
    assert!(refused.message.contains("route"), "{refused:?}");
    let release = server.await_message(MessageType::Release, 1, SOON)?;
    let address = std::net::Ipv4Addr::new(10, 88, 1, 1);
    assert_eq!(
        (release.source, release.message.ciaddr()),
        (address, address)
    );
    eventually("the server forgets the lease", SOON, || {
        Ok(server.lease_of(container.mac).is_none().then_some(()))
    })?;
    assert_eq!(container.address()?, None);
    assert_eq!(container.namespace.routes()?, []);
    assert_eq!(container.namespace.link(LINK)?.mtu, 1500);
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    // The alarm of the boot clock is made with the first exchange and stays.
    let left = stage.daemon.settled_descriptors()?;
    assert!(left.len() <= at_rest.len() + 1, "{left:?}");

    let lease = stage.setup(0)?;
    check_link(container, &lease, 3600)
}

fn the_same_default_route_that_is_there_stays() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    container.add_address(LINK, "10.88.77.1".parse()?, 16)?;
    container.add_default_route(LINK, SERVER, 99)?;
    let before = (container.addresses()?, container.routes()?);
    stage.setup(0)?;
    assert_eq!(
        container.default_routes()?.len(),
        1,
        "one that does the same is enough"
    );
    stage.teardown(0)?;
    assert_eq!((container.addresses()?, container.routes()?), before);
    Ok(())
}

fn everything_at_once_is_undone() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let settings = Settings {
        mtu: Some(1300),
        ..Settings::default()
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    // An address of the same network and an MTU of the container's own.
    container.add_address(LINK, "10.88.77.1".parse()?, 16)?;
    container.set_mtu(LINK, 1450)?;
    let before = (
        container.addresses()?,
        container.routes()?,
        container.link(LINK)?,
    );
    for _ in 0..2 {
        stage.setup(0)?;
        assert_eq!(
            (container.addresses()?.len(), container.link(LINK)?.mtu),
            (2, 1300)
        );
        stage.teardown(0)?;
        assert_eq!(
            (
                container.addresses()?,
                container.routes()?,
                container.link(LINK)?
            ),
            before
        );
    }

    // An MTU that the container has set since is the container's.
    stage.setup(0)?;
    container.set_mtu(LINK, 1250)?;
    stage.teardown(0)?;
    assert_eq!(container.link(LINK)?.mtu, 1250);
    Ok(())
}

fn a_renamed_interface_is_renewed_all_the_same() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, short())?;
    let lease = stage.setup(0)?;
    container.namespace.set_state(LINK, false)?;
    container.namespace.rename_link(LINK, "uplink")?;
    container.namespace.set_state("uplink", true)?;
    let renewal = server.await_message(MessageType::Request, 2, SOON)?;
    assert!(
        renewal.is_unicast() && renewal.source.to_string() == lease.yiaddr,
        "{renewal:?}"
    );
    await_renewal(container, &lease)?;
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    stage.teardown(0)?;
    check_released(&server, 1, container, &lease)
}

fn down_and_up_during_a_renewal() -> Result {
    let mut stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, short())?;
    let lease = stage.setup(0)?;
    server.set_silent(true);
    server.await_message(MessageType::Request, 2, SOON)?;
    container.namespace.set_state(LINK, false)?;
    // The daemon must not spin on sockets whose link is down.
    let before = stage.daemon.context_switches()?;
    std::thread::sleep(Duration::from_millis(500));
    let switches = stage.daemon.context_switches()? - before;
    assert!(
        switches < 50,
        "{switches} context switches in half a second"
    );
    container.namespace.set_state(LINK, true)?;
    server.set_silent(false);
    let rebinding = server.await_message(MessageType::Request, 3, SOON)?;
    assert_eq!(rebinding.source.to_string(), lease.yiaddr);
    await_renewal(container, &lease)?;
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    assert!(stage.daemon.is_running()?);
    stage.teardown(0).map(drop)
}

/// Returns the answer to a Setup, and its delay after `then` was done to the stage half a second
/// later.
fn setup_during(
    stage: &Stage,
    then: impl FnOnce() -> Result,
) -> Result<(Result<NetavarkLease, Status>, Duration)> {
    std::thread::scope(|scope| {
        let setup = scope.spawn(|| {
            (
                grpc::setup(&stage.unit.socket(), &stage.config(0)),
                rt::now(),
            )
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(!setup.is_finished(), "it did not wait");
        let start = rt::now();
        then()?;
        let (answer, end) = setup.join().expect("no panic in Setup");
        Ok((answer, end - start))
    })
}

fn a_setup_waits_for_the_carrier() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.topology.server.set_state(SERVER_LINK, false)?;
    let carrier = || stage.topology.server.set_state(SERVER_LINK, true);
    let (lease, took) = setup_during(&stage, carrier)?;
    check_link(container, &lease.map_err(|status| status.message)?, 3600)?;
    assert!(took < TOLD, "{took:?} after the carrier came");
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    Ok(())
}

fn without_a_carrier_setup_says_so() -> Result {
    let stage = stage(1, &["-t", "1"])?;
    stage.topology.server.set_state(SERVER_LINK, false)?;
    let start = rt::now();
    let refused =
        grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("there is no carrier");
    let took = rt::now() - start;
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (Code::Aborted, "no carrier on eth0")
    );
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(2),
        "{took:?}"
    );
    Ok(())
}

fn a_setup_on_a_link_that_is_down_fails_at_once() -> Result {
    let stage = stage(1, &[])?;
    stage.topology.containers[0]
        .namespace
        .set_state(LINK, false)?;
    let start = rt::now();
    let refused =
        grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("the interface is down");
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (Code::Aborted, "eth0 is down")
    );
    assert!(rt::now() - start < Duration::from_secs(1));
    Ok(())
}

fn a_setup_whose_interface_is_deleted_fails_at_once() -> Result {
    let stage = stage(1, &[])?;
    let (answer, took) = setup_during(&stage, || {
        stage.topology.containers[0].namespace.delete_link(LINK)
    })?;
    let refused = answer
        .err()
        .ok_or("a lease for an interface that is gone")?;
    assert_eq!(refused.code, Code::Aborted);
    assert!(
        refused.message.contains("the interface is gone"),
        "{refused:?}"
    );
    assert!(took < TOLD, "{took:?}");
    Ok(())
}

/// Be it that its cable was pulled or that it was set down: with its return the REQUEST is said
/// again, long before T2.
fn a_renewal_goes_on_when_the_carrier_is_back() -> Result {
    for is_set_down in [false, true] {
        let stage = stage(1, &[])?;
        let container = &stage.topology.containers[0];
        let (namespace, link) = match is_set_down {
            true => (&container.namespace, LINK),
            false => (&stage.topology.server, SERVER_LINK),
        };
        let settings = Settings {
            t2: Some(Duration::from_secs(40)),
            ..short()
        };
        let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
        let lease = stage.setup(0)?;
        server.set_silent(true);
        server.await_message(MessageType::Request, 2, SOON)?;
        namespace.set_state(link, false)?;
        let words = if is_set_down {
            "the interface is down"
        } else {
            "no carrier"
        };
        eventually(words, SOON, || {
            Ok(stage.unit.log()?.contains(words).then_some(()))
        })?;
        server.set_silent(false);
        namespace.set_state(link, true)?;
        let back = rt::now();
        let again = server.await_message(MessageType::Request, 3, SOON)?;
        assert!(
            again.is_unicast() && again.source.to_string() == lease.yiaddr,
            "{again:?}"
        );
        assert!(again.at - back < TOLD, "{:?}", again.at - back);
        await_renewal(container, &lease)?;
        assert!(stage.unit.log()?.contains("the carrier is back"));
    }
    Ok(())
}

/// No carrier at T1, and for longer than the daemon listens: after its return the REQUEST is sent
/// at the next check of the link, not only when a lost one would be retransmitted, here at T2.
fn a_renewal_that_could_not_be_said_follows_the_carrier_soon() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let settings = Settings {
        t1: Some(Duration::from_secs(4)),
        t2: Some(Duration::from_secs(50)),
        ..short()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let lease = stage.setup(0)?;
    container.namespace.await_rest()?;
    stage.topology.server.set_state(SERVER_LINK, false)?;
    eventually(
        "the lease rests with something unsaid",
        Duration::from_secs(20),
        || Ok((stage.unit.leases()?[container.mac.to_string()][0]["unsaid"] == true).then_some(())),
    )?;
    container.namespace.await_rest()?;
    assert_eq!(
        server.heard_of(MessageType::Request).len(),
        1,
        "what was said without a carrier?"
    );
    stage.topology.server.set_state(SERVER_LINK, true)?;
    let again = server.await_message(MessageType::Request, 2, Duration::from_secs(8))?;
    assert!(
        again.is_unicast() && again.source.to_string() == lease.yiaddr,
        "{again:?}"
    );
    await_renewal(container, &lease)?;
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    Ok(())
}

fn an_interface_that_is_deleted_ends_its_lease() -> Result {
    let mut stage = stage(2, &["-a", "0.5"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, short())?;
    stage.setup(0)?;
    stage.topology.containers[0].namespace.delete_link(LINK)?;
    eventually("the lease is forgotten at its renewal", SOON, || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })?;
    assert_eq!(server.heard_of(MessageType::Request).len(), 1);
    assert!(
        stage.daemon.await_exit(SOON)?.success(),
        "nothing holds it any more"
    );
    Ok(())
}

fn an_interface_deleted_while_no_server_answers_ends_its_lease_too() -> Result {
    let mut stage = stage(1, &["-a", "0.5"])?;
    let settings = Settings {
        t2: Some(Duration::from_secs(40)),
        ..short()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    stage.setup(0)?;
    server.set_silent(true);
    server.await_message(MessageType::Request, 2, SOON)?;
    stage.topology.containers[0].namespace.delete_link(LINK)?;
    eventually(
        "the lease is forgotten at once",
        Duration::from_secs(2),
        || Ok((stage.unit.leases()? == serde_json::json!({})).then_some(())),
    )?;
    assert!(
        stage.daemon.await_exit(SOON)?.success(),
        "nothing holds it any more"
    );
    Ok(())
}

/// With the container's namespace gone but for the daemon's own sockets, the network goes on
/// talking to them.
fn so_does_a_namespace_where_others_go_on_talking() -> Result {
    let mut stage = stage(1, &["-a", "0.5"])?;
    let settings = Settings {
        t2: Some(Duration::from_secs(40)),
        ..short()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let index = stage.topology.server.link(SERVER_LINK)?.index;
    let talker = stage
        .topology
        .server
        .run(|| Ok(RawSocket::open(index, [2, 0, 0, 0, 0, 9])?))?;
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6], &[0; 46]].concat();
    stage.setup(0)?;
    server.set_silent(true);
    server.await_message(MessageType::Request, 2, SOON)?;
    drop(stage.topology.containers.remove(0));
    eventually(
        "the lease is forgotten long before T2",
        Duration::from_secs(15),
        || {
            talker.send(&arp)?;
            Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
        },
    )?;
    assert!(
        stage.daemon.await_exit(SOON)?.success(),
        "nothing holds it any more"
    );
    Ok(())
}

fn teardown_of_a_link_that_is_down() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    container.namespace.set_state(LINK, false)?;
    stage.teardown(0)?;
    assert_eq!(
        container.address()?,
        None,
        "the RELEASE cannot leave, but the address can"
    );
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    Ok(())
}

fn setup_after_a_crash_takes_over_what_is_there() -> Result {
    let Stage {
        daemon,
        unit,
        topology,
    } = stage(1, &[])?;
    let container = &topology.containers[0];
    let server = Server::start(&topology.server, SERVER_LINK, short())?;
    let ask = |call: fn(&Path, &NetworkConfig) -> Result<NetavarkLease, Status>| {
        call(&unit.socket(), &container.config()).map_err(|status| status.message)
    };
    let lease = ask(grpc::setup)?;
    daemon.crash()?;
    let _next = unit.start_ready(&topology.host)?;
    assert_eq!(ask(grpc::setup)?.yiaddr, lease.yiaddr);
    check_link(container, &lease, 60)?;
    ask(grpc::teardown)?;
    check_released(&server, 1, container, &lease)
}
