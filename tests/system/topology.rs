//! Networks that lead to the container by an unusual way: which parent, which route first, which
//! port not yet open. Where netavark's proxy does otherwise, the same is tried with it.

use std::process::{Command, Stdio};
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{Code, NetavarkLease, NetworkConfig, Status};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::packets::Mac;
use crate::lab::scene::{self, Scene};
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc, peer, program as other_program};
use crate::lease::{check_link, check_link_at, check_released};
use crate::program;

trials![
    the_lan_goes_before_a_nat_bridge_that_is_there,
    the_lan_goes_before_a_nat_bridge_that_comes_later,
    a_lease_on_a_bridge_goes_before_a_route_of_the_same_metric,
    a_network_without_a_parent,
    netavark_and_a_network_without_a_parent,
    the_teardown_may_name_another_parent,
    two_interfaces_with_one_mac_keep_their_leases,
    an_unmanaged_bridge_with_spanning_tree,
    netavark_and_an_unmanaged_bridge_with_spanning_tree,
];

fn the_lan_goes_before_a_nat_bridge_that_is_there() -> Result {
    lan_and_bridge(Order::BridgeFirst)
}

fn the_lan_goes_before_a_nat_bridge_that_comes_later() -> Result {
    lan_and_bridge(Order::LanFirst)
}

const SOON: Duration = Duration::from_secs(5);

fn ours(topology: Topology) -> Result<Stage> {
    Stage::new(topology, program(), &[])
}

fn netavark(topology: Topology) -> Result<Stage> {
    peer::stage(topology, 8)
}

fn words(status: Status) -> String {
    format!("{:?}: {}", status.code, status.message)
}

/// Leases whose T1 comes soon, and whose end does not.
fn short() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(60),
        t1: Some(seconds(3)),
        t2: Some(seconds(40)),
        ..Settings::default()
    }
}

/// The interface by which the kernel sends what goes to the world.
fn way_out(container: &Namespace) -> Result<String> {
    let mut command = Command::new(other_program::need("ip", "iproute2")?);
    command.args(["-4", "route", "get", "1.1.1.1"]);
    let output = container
        .spawn(command.stdout(Stdio::piped()))?
        .wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let device = text
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1);
    Ok(device
        .ok_or_else(|| format!("no way out: {text:?}"))?
        .to_owned())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    BridgeFirst,
    LanFirst,
}

const BRIDGE_LINK: &str = "eth1";
/// netavark's metric for a bridge network.
const BRIDGE_METRIC: u32 = 100;

/// Connects the container to a bridge network as well, as netavark does it.
fn connect_bridge(host: &Namespace, container: &Namespace) -> Result {
    host.veth("nat", container, BRIDGE_LINK)?;
    container.add_address(BRIDGE_LINK, "10.99.0.2".parse()?, 24)?;
    container.add_default_route(BRIDGE_LINK, "10.99.0.1".parse()?, BRIDGE_METRIC)
}

/// Waits for a renewal of the lease.
fn await_renewal(scene: &Scene, lease: &NetavarkLease) -> Result {
    let renewed = format!("({}/16): renewed ", lease.yiaddr);
    eventually(&renewed, 2 * SOON, || {
        Ok(scene.stage.unit.log()?.contains(&renewed).then_some(()))
    })
}

fn lan_and_bridge(order: Order) -> Result {
    let scene = scene::plain(ours, short())?;
    let (host, container) = (&scene.stage.topology.host, &scene.container().namespace);
    if order == Order::BridgeFirst {
        connect_bridge(host, container)?;
        assert_eq!(way_out(container)?, BRIDGE_LINK);
    }
    let lease = scene.stage.setup(0)?;
    assert_eq!(way_out(container)?, LINK);
    if order == Order::LanFirst {
        connect_bridge(host, container)?;
    }
    let before = container.default_routes()?;
    assert_eq!(
        before.iter().map(|route| route.metric).collect::<Vec<_>>(),
        [99, BRIDGE_METRIC]
    );
    assert_eq!(way_out(container)?, LINK);
    await_renewal(&scene, &lease)?;
    assert_eq!(
        (way_out(container)?.as_str(), container.default_routes()?),
        (LINK, before)
    );

    scene.stage.teardown(0)?;
    assert_eq!(way_out(container)?, BRIDGE_LINK);
    assert_eq!(container.default_routes()?.len(), 1);
    Ok(())
}

fn a_lease_on_a_bridge_goes_before_a_route_of_the_same_metric() -> Result {
    let scene = scene::bridge(ours, short())?;
    let container = &scene.container().namespace;
    connect_bridge(&scene.stage.topology.host, container)?;
    let lease = scene.stage.setup(0)?;
    for is_renewed in [false, true] {
        if is_renewed {
            await_renewal(&scene, &lease)?;
        }
        let metrics: Vec<_> = container
            .default_routes()?
            .iter()
            .map(|route| (route.gateway, route.metric))
            .collect();
        assert_eq!(
            metrics,
            [
                (Some(SERVER), 100),
                (Some("10.99.0.1".parse()?), BRIDGE_METRIC)
            ]
        );
        assert_eq!(way_out(container)?, LINK);
    }
    scene.stage.teardown(0)?;
    assert_eq!(way_out(container)?, BRIDGE_LINK);
    Ok(())
}

/// Podman sends an empty name where the network's configuration has none.
fn a_network_without_a_parent() -> Result {
    let scene = scene::plain(ours, Settings::default())?;
    let container = scene.container();
    let config = NetworkConfig {
        host_iface: String::new(),
        ..container.config()
    };
    let socket = scene.stage.unit.socket();
    let lease = grpc::setup(&socket, &config).map_err(words)?;
    check_link(container, &lease, 3600)?;
    assert_eq!(
        scene.stage.unit.leases()?[container.mac.to_string()][0]["host_iface"],
        LINK,
        "the parent is known"
    );
    grpc::teardown(
        &socket,
        &NetworkConfig {
            container_id: String::new(),
            ..config
        },
    )
    .map_err(words)?;
    check_released(&scene.server, 1, container, &lease)
}

fn netavark_and_a_network_without_a_parent() -> Result {
    let scene = scene::plain(netavark, Settings::default())?;
    let config = NetworkConfig {
        host_iface: String::new(),
        ..scene.container().config()
    };
    let refused =
        grpc::setup(&scene.stage.unit.socket(), &config).expect_err("the peer cannot do this");
    assert_eq!(refused.code, Code::InvalidArgument, "{refused:?}");
    Ok(())
}

/// The parent is a VLAN's interface. The Teardown names the interface below it, none, or a name
/// that never existed.
fn the_teardown_may_name_another_parent() -> Result {
    const VLAN: &str = "eth0.7";
    let (host, server, far) = (
        Namespace::new("host")?,
        Namespace::new("server")?,
        Namespace::new("far")?,
    );
    host.veth(LINK, &far, SERVER_LINK)?;
    host.veth(VLAN, &server, SERVER_LINK)?;
    let (namespace, mac) = (Namespace::new("container")?, Mac([0x02, 0x88, 0, 0, 0, 1]));
    host.macvlan(VLAN, &namespace, LINK, mac)?;
    let mut topology = Topology::between(host, server, 0)?;
    topology.containers.push(Container { namespace, mac });
    let stage = ours(topology)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let (container, socket) = (&stage.topology.containers[0], stage.unit.socket());
    for (count, parent) in [(1, LINK), (2, ""), (3, "eth0.8"), (4, VLAN)] {
        let config = NetworkConfig {
            host_iface: VLAN.to_owned(),
            ..container.config()
        };
        let lease = grpc::setup(&socket, &config).map_err(words)?;
        check_link(container, &lease, 3600)?;
        let teardown = NetworkConfig {
            host_iface: parent.to_owned(),
            container_id: String::new(),
            ..container.config()
        };
        assert_eq!(
            grpc::teardown(&socket, &teardown).map_err(words)?.yiaddr,
            lease.yiaddr,
            "by {parent:?}"
        );
        check_released(&server, count, container, &lease)?;
        assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    }
    Ok(())
}

/// Renewals included; changed::of_two_interfaces_with_one_mac_each_is_torn_down_alone is about
/// their ends.
fn two_interfaces_with_one_mac_keep_their_leases() -> Result {
    let scene = scene::plain(ours, short())?;
    let (stage, container) = (&scene.stage, scene.container());
    let far = Namespace::new("far")?;
    stage.topology.host.veth("eth1", &far, SERVER_LINK)?;
    far.add_address(SERVER_LINK, SERVER, 16)?;
    let _far_server = Server::start(
        &far,
        SERVER_LINK,
        Settings {
            first: "10.88.2.1".parse()?,
            router: None,
            ..short()
        },
    )?;
    stage
        .topology
        .host
        .macvlan("eth1", &container.namespace, "eth1", container.mac)?;
    let other = NetworkConfig {
        host_iface: "eth1".to_owned(),
        container_iface: "eth1".to_owned(),
        ..container.config()
    };
    let leases = [
        stage.setup(0)?,
        grpc::setup(&stage.unit.socket(), &other).map_err(words)?,
    ];
    for lease in &leases {
        await_renewal(&scene, lease)?;
    }
    let addresses: Vec<_> = container
        .namespace
        .addresses()?
        .iter()
        .map(|there| there.address.to_string())
        .collect();
    assert_eq!(addresses, leases.map(|lease| lease.yiaddr));
    assert_eq!(scene.server.heard_of(MessageType::Release).len(), 0);
    Ok(())
}

/// The time that a port of the bridge listens, and then learns.
const FORWARD_DELAY: Duration = Duration::from_secs(7);

/// The container is a port of a bridge of the host's with spanning tree: its carrier is there, and
/// nothing passes yet.
fn on_spanning_tree_bridge(start: scene::Start) -> Result<(Stage, Server)> {
    let (host, server, namespace) = (
        Namespace::new("host")?,
        Namespace::new("server")?,
        Namespace::new("container")?,
    );
    host.veth("one", &server, SERVER_LINK)?;
    host.veth("two", &namespace, LINK)?;
    let mac = Mac(namespace.link(LINK)?.mac.try_into().map_err(|_| "no MAC")?);
    let mut topology = Topology::between(host, server, 0)?;
    topology.containers.push(Container { namespace, mac });
    let stage = start(topology)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage
        .topology
        .host
        .spanning_tree_bridge(LINK, &["one", "two"], FORWARD_DELAY)?;
    Ok((stage, server))
}

fn an_unmanaged_bridge_with_spanning_tree() -> Result {
    let (stage, _server) = on_spanning_tree_bridge(ours)?;
    let begin = rt::now();
    let lease = stage.setup(0)?;
    let took = rt::now() - begin;
    assert!(
        took > Duration::from_secs(10),
        "the port was open: {took:?}"
    );
    assert!(
        took < 2 * FORWARD_DELAY + Duration::from_secs(9),
        "{took:?}"
    );
    check_link_at(&stage.topology.containers[0], &lease, 3600, 100)
}

fn netavark_and_an_unmanaged_bridge_with_spanning_tree() -> Result {
    let (stage, _server) = on_spanning_tree_bridge(netavark)?;
    let refused =
        grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("the peer cannot do this");
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    Ok(())
}
