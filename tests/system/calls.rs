//! Calls that meet: for the same container at the same time, again, in another spelling, or taken
//! back.

use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{Call, Code, NetworkConfig, Reply, Status};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::grpc::{self, Channel};
use crate::lab::namespace::Namespace;
use crate::lab::packets::{Tap, arp_question};
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER, SERVER_LINK};
use crate::lab::{Result, eventually};
use crate::lease::{check_link, check_released};
use crate::stage;

trials![
    a_second_setup_keeps_the_address,
    a_setup_takes_over_from_one_in_flight,
    teardown_ends_a_setup_in_flight,
    teardown_ends_a_renewal_in_flight,
    clean_ends_everything,
    one_mac_in_two_namespaces_is_two_leases,
    teardown_needs_neither_case_nor_namespace,
    hanging_up_before_the_offer,
    hanging_up_between_offer_and_ack,
    hanging_up_while_the_address_is_probed,
    hanging_up_around_the_ack,
    hanging_up_on_a_second_setup,
];

const SOON: Duration = Duration::from_secs(5);

/// The sockets of an exchange, and the descriptor that watches two of them.
const SOCKETS: usize = 4;

fn words(status: Status) -> String {
    format!("{:?}: {}", status.code, status.message)
}

/// Nothing is on the link, in the lease file, or open, that was not before.
fn check_nothing_left(stage: &Stage, container: usize, at_rest: &[String]) -> Result {
    let container = &stage.topology.containers[container];
    assert_eq!(container.address()?, None);
    assert_eq!(container.namespace.default_routes()?, []);
    // A caller that hung up gets no notice when everything is undone.
    eventually("the file has nothing of it", SOON, || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })?;
    stage.daemon.await_descriptors(at_rest)
}

/// Returns whether there is a lease, once the file has no call in flight.
fn is_leased(stage: &Stage) -> Result<Option<bool>> {
    let leases = stage.unit.leases()?;
    let mut entries = leases
        .as_object()
        .ok_or("no object")?
        .values()
        .flat_map(|entries| entries.as_array())
        .flatten();
    let Some(entry) = entries.next() else {
        return Ok(Some(false));
    };
    // It is in the file before it is on the link.
    let on_link = stage.topology.containers[0]
        .namespace
        .default_routes()?
        .len()
        == 1;
    Ok((entry["state"] == "BOUND" && on_link).then_some(true))
}

/// A daemon that has been once through everything, so that what is made on first use has been made.
fn practised(server: &Server, stage: &Stage, container: usize) -> Result<Vec<String>> {
    stage.setup(container)?;
    stage.teardown(container)?;
    server.await_message(MessageType::Release, 1, SOON)?;
    stage.daemon.settled_descriptors()
}

fn a_second_setup_keeps_the_address() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let first = stage.setup(0)?;
    container.namespace.await_rest()?;
    let open = stage.daemon.settled_descriptors()?;
    let second = stage.setup(0)?;
    assert_eq!(second.yiaddr, first.yiaddr);
    check_link(container, &second, 3600)?;
    container.namespace.await_rest()?;
    stage.daemon.await_descriptors(&open)?;
    let leases = stage.unit.leases()?;
    let entries = leases.as_object().ok_or("no object")?;
    assert!(
        entries.len() == 1
            && entries
                .values()
                .all(|entry| entry.as_array().is_some_and(|all| all.len() == 1))
    );
    stage.teardown(0)?;
    check_released(&server, 1, container, &second)?;
    assert_eq!(
        server.heard_of(MessageType::Release).len(),
        1,
        "one lease, one RELEASE"
    );
    Ok(())
}

fn a_setup_takes_over_from_one_in_flight() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    server.set_silent(true);
    let (first, second) = std::thread::scope(|scope| -> Result<_> {
        let first = scope.spawn(|| grpc::setup(&stage.unit.socket(), &stage.config(0)));
        server.await_message(MessageType::Discover, 1, SOON)?;
        server.set_silent(false);
        let second = stage.setup(0)?;
        Ok((first.join().expect("no panic in Setup"), second))
    })?;
    let refused = first.expect_err("the newer call has taken over");
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    assert!(refused.message.contains("newer call"), "{refused:?}");
    check_link(container, &second, 3600)?;
    stage.teardown(0)?;
    check_released(&server, 1, container, &second)?;
    assert_eq!(
        server.heard_of(MessageType::Discover).len(),
        2,
        "the first exchange ended with its call"
    );
    Ok(())
}

fn teardown_ends_a_setup_in_flight() -> Result {
    let stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = practised(&server, &stage, 1)?;
    server.leave_unanswered(&[MessageType::Request]);
    let refused = std::thread::scope(|scope| -> Result<_> {
        let setup = scope.spawn(|| grpc::setup(&stage.unit.socket(), &stage.config(0)));
        server.await_message(MessageType::Request, 2, SOON)?;
        let start = rt::now();
        let blank = stage.teardown(0)?;
        let took = rt::now() - start;
        assert!(
            blank.yiaddr.is_empty() && took < Duration::from_secs(1),
            "{took:?}: {blank:?}"
        );
        Ok(setup.join().expect("no panic in Setup"))
    })?
    .expect_err("its container is torn down");
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    check_nothing_left(&stage, 0, &at_rest)
}

fn teardown_ends_a_renewal_in_flight() -> Result {
    let stage = stage(2, &[])?;
    let container = &stage.topology.containers[0];
    let (lease, t1) = (Duration::from_secs(60), Some(Duration::from_secs(1)));
    let server = Server::start(
        &stage.topology.server,
        SERVER_LINK,
        Settings {
            lease,
            t1,
            ..Settings::default()
        },
    )?;
    let at_rest = practised(&server, &stage, 1)?;
    let lease = stage.setup(0)?;
    server.leave_unanswered(&[MessageType::Request]);
    server.await_message(MessageType::Request, 3, SOON)?;
    stage.teardown(0)?;
    check_released(&server, 2, container, &lease)?;
    check_nothing_left(&stage, 0, &at_rest)
}

fn clean_ends_everything() -> Result {
    let mut stage = stage(4, &["-a", "1"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    assert!(
        grpc::clean(&stage.unit.socket()).map_err(words)?,
        "there is nothing to do, and that goes well"
    );
    for container in 0..3 {
        stage.setup(container)?;
    }
    server.set_silent(true);
    let in_flight = std::thread::scope(|scope| -> Result<_> {
        let in_flight = scope.spawn(|| grpc::setup(&stage.unit.socket(), &stage.config(3)));
        server.await_message(MessageType::Discover, 4, SOON)?;
        assert!(grpc::clean(&stage.unit.socket()).map_err(words)?);
        Ok(in_flight.join().expect("no panic in Setup"))
    })?;
    assert_eq!(
        in_flight.expect_err("it was cleaned away").code,
        Code::Aborted
    );
    server.await_message(MessageType::Release, 3, SOON)?;
    for container in &stage.topology.containers {
        assert_eq!(container.address()?, None);
        assert_eq!(container.namespace.default_routes()?, []);
    }
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    assert!(
        stage.daemon.await_exit(SOON)?.success(),
        "nothing holds it any more"
    );
    Ok(())
}

fn one_mac_in_two_namespaces_is_two_leases() -> Result {
    let stage = stage(1, &[])?;
    let here = &stage.topology.containers[0];
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;

    // The same address on another network of the same host.
    let (elsewhere, namespace) = (Namespace::new("server")?, Namespace::new("container")?);
    stage.topology.host.veth("eth1", &elsewhere, SERVER_LINK)?;
    elsewhere.add_address(SERVER_LINK, SERVER, 16)?;
    let settings = Settings {
        first: "10.88.2.1".parse()?,
        ..Settings::default()
    };
    let other_server = Server::start(&elsewhere, SERVER_LINK, settings)?;
    stage
        .topology
        .host
        .macvlan("eth1", &namespace, LINK, here.mac)?;
    let there = Container {
        namespace,
        mac: here.mac,
    };
    let other = NetworkConfig {
        host_iface: "eth1".to_owned(),
        ..there.config()
    };

    let first = stage.setup(0)?;
    let second = grpc::setup(&stage.unit.socket(), &other).map_err(words)?;
    assert_eq!(
        (first.yiaddr.as_str(), second.yiaddr.as_str()),
        ("10.88.1.1", "10.88.2.1")
    );
    let leases = stage.unit.leases()?;
    assert_eq!(
        leases[here.mac.to_string()].as_array().map(Vec::len),
        Some(2),
        "{leases}"
    );

    let ended = grpc::teardown(&stage.unit.socket(), &other).map_err(words)?;
    assert_eq!(ended.yiaddr, second.yiaddr);
    check_released(&other_server, 1, &there, &second)?;
    check_link(here, &first, 3600)?;

    // Where no namespace is named, the address means them all.
    grpc::setup(&stage.unit.socket(), &other).map_err(words)?;
    let everywhere = NetworkConfig {
        ns_path: String::new(),
        ..other
    };
    grpc::teardown(&stage.unit.socket(), &everywhere).map_err(words)?;
    assert_eq!((here.address()?, there.address()?), (None, None));
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    Ok(())
}

fn teardown_needs_neither_case_nor_namespace() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // The address has to have letters for this.
    let mac = crate::lab::packets::Mac([0x02, 0xab, 0xcd, 0xef, 0, 1]);
    container.namespace.set_mac(LINK, mac)?;
    let config = |mac: String| NetworkConfig {
        container_mac_addr: mac,
        ..stage.config(0)
    };
    let (lower, upper) = (
        config(mac.to_string()),
        config(mac.to_string().to_uppercase()),
    );
    let nowhere = NetworkConfig {
        ns_path: String::new(),
        ..upper.clone()
    };
    for (count, (setup, teardown)) in [(&lower, &upper), (&upper, &lower), (&lower, &nowhere)]
        .into_iter()
        .enumerate()
    {
        let lease = grpc::setup(&stage.unit.socket(), setup).map_err(words)?;
        let ended = grpc::teardown(&stage.unit.socket(), teardown).map_err(words)?;
        assert_eq!(
            ended.yiaddr, lease.yiaddr,
            "Teardown answers with the lease that it ended"
        );
        server.await_message(MessageType::Release, count + 1, SOON)?;
        assert_eq!(container.address()?, None);
    }
    Ok(())
}

fn hanging_up_before_the_offer() -> Result {
    let stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = practised(&server, &stage, 1)?;
    server.set_silent(true);
    let mut channel = Channel::connect(&stage.unit.socket()).map_err(words)?;
    let pending = channel
        .begin(&Call::Setup(stage.config(0)))
        .map_err(words)?;
    server.await_message(MessageType::Discover, 2, SOON)?;
    drop((pending, channel));
    check_nothing_left(&stage, 0, &at_rest)?;
    assert_eq!(
        server.heard_of(MessageType::Release).len(),
        1,
        "there was nothing to give back"
    );
    Ok(())
}

fn hanging_up_between_offer_and_ack() -> Result {
    let stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = practised(&server, &stage, 1)?;
    server.leave_unanswered(&[MessageType::Request]);
    let mut channel = Channel::connect(&stage.unit.socket()).map_err(words)?;
    // By resetting the stream this time: the connection goes on.
    let pending = channel
        .begin(&Call::Setup(stage.config(0)))
        .map_err(words)?;
    server.await_message(MessageType::Request, 2, SOON)?;
    channel.cancel(pending);
    eventually(
        "the exchange's descriptors are closed, and the connection's is not",
        SOON,
        || Ok((stage.daemon.descriptors()? == at_rest.len() + 1).then_some(())),
    )?;
    server.leave_unanswered(&[]);
    let lease = channel.call(&Call::Setup(stage.config(0))).map_err(words)?;
    assert!(matches!(lease, Reply::Lease(lease) if !lease.yiaddr.is_empty()));
    stage.teardown(0)?;
    drop(channel);
    check_nothing_left(&stage, 0, &at_rest)
}

/// The lease is ours already, though not in use yet.
fn hanging_up_while_the_address_is_probed() -> Result {
    let stage = stage(1, &["--arp-probe", "10"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let tap = stage.topology.server.run(|| Tap::open(SERVER_LINK))?;
    let mut channel = Channel::connect(&stage.unit.socket()).map_err(words)?;
    let pending = channel
        .begin(&Call::Setup(stage.config(0)))
        .map_err(words)?;
    let lease = eventually("the address is asked for", SOON, || {
        let Some(frame) = tap.receive()? else {
            return Ok(None);
        };
        Ok(arp_question(&frame).map(|(_, wanted)| wanted))
    })?;
    drop((pending, channel));
    let release = server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!((release.source, release.message.ciaddr()), (lease, lease));
    eventually("the server forgets the lease", SOON, || {
        Ok(server
            .lease_of(stage.topology.containers[0].mac)
            .is_none()
            .then_some(()))
    })?;
    assert_eq!(stage.topology.containers[0].address()?, None);
    Ok(())
}

/// At whatever moment the caller leaves, the container has its lease as a whole, or nothing of it.
fn hanging_up_around_the_ack() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = practised(&server, &stage, 0)?;
    let start = rt::now();
    stage.setup(0)?;
    let usual = rt::now() - start;
    stage.teardown(0)?;
    let (mut whole, mut nothing) = (0, 0);
    // From at once to long after, and more where that did not meet both sides of the moment.
    for round in 0..200_u32 {
        if round >= 40 && whole > 0 && nothing > 0 {
            break;
        }
        let mut channel = Channel::connect(&stage.unit.socket()).map_err(words)?;
        channel.ping().map_err(words)?;
        let pending = channel
            .begin(&Call::Setup(stage.config(0)))
            .map_err(words)?;
        std::thread::sleep(usual * (round % 40) / 15);
        drop((pending, channel));
        // The sockets of an exchange are closed with it, but for those of a lease, which are open
        // for a while.
        let held = eventually("the call is over", SOON, || {
            let Some(held) = is_leased(&stage)? else {
                return Ok(None);
            };
            let open = at_rest.len() + if held { SOCKETS } else { 0 };
            Ok((stage.daemon.descriptors()? <= open).then_some(held))
        })?;
        assert_eq!(container.address()?.is_some(), held, "round {round}");
        assert_eq!(
            container.namespace.default_routes()?.len(),
            usize::from(held),
            "round {round}"
        );
        if held {
            whole += 1;
            stage.teardown(0)?;
        } else {
            nothing += 1;
        }
    }
    assert!(
        whole > 0 && nothing > 0,
        "it never met the moment: {whole} leases, {nothing} times nothing"
    );
    check_nothing_left(&stage, 0, &at_rest)
}

/// A container that is set up again has a lease that Teardown finds, or none, whenever the caller
/// leaves.
fn hanging_up_on_a_second_setup() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = practised(&server, &stage, 0)?;
    for round in 0..60_u64 {
        stage.setup(0)?;
        let mut channel = Channel::connect(&stage.unit.socket()).map_err(words)?;
        channel.ping().map_err(words)?;
        let pending = channel
            .begin(&Call::Setup(stage.config(0)))
            .map_err(words)?;
        std::thread::sleep(Duration::from_micros(round % 40 * 10));
        drop((pending, channel));
        stage.teardown(0)?;
        assert_eq!(container.address()?, None, "round {round}");
        assert_eq!(container.namespace.default_routes()?, [], "round {round}");
        assert_eq!(stage.unit.leases()?, serde_json::json!({}), "round {round}");
    }
    check_nothing_left(&stage, 0, &at_rest)
}
