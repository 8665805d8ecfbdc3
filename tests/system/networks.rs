//! Networks out of the ordinary: servers in odd places, two networks, slow, lossy and deaf ways, no
//! carrier, a conflict.

use std::net::Ipv4Addr;
use std::path;
use std::thread;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use smol_dhcp_proxy::rpc::{Code, NetavarkLease, NetworkConfig, Status};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Heard, Settings};
use crate::lab::forwarder::Path;
use crate::lab::scene::{self, BRIDGE_CONTAINER, SECOND_SERVER, Scene, Slow};
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc};
use crate::lease::{check_link, check_link_at, check_released, check_renewal};
use crate::program;

trials![
    a_server_on_a_sibling_macvlan,
    a_server_on_the_same_bridge,
    two_networks_on_one_container,
    two_interfaces_in_one_network,
    a_path_with_delay,
    kept_although_frames_are_lost,
    a_server_that_forgets_its_offer,
    a_carrier_that_comes_late,
    a_carrier_that_never_comes,
    a_port_that_is_deaf_for_thirty_seconds,
    an_owner_whose_answer_comes_after_the_ack,
    an_owner_whose_answer_comes_before_the_ack,
];

fn an_owner_whose_answer_comes_after_the_ack() -> Result {
    conflict(Slow::ToOwner)
}

fn an_owner_whose_answer_comes_before_the_ack() -> Result {
    conflict(Slow::ToServer)
}

const SOON: Duration = Duration::from_secs(5);

fn ours(topology: Topology) -> Result<Stage> {
    Stage::new(topology, program(), &[])
}

fn acquires_and_releases(scene: &Scene) -> Result {
    let lease = scene.stage.setup(0)?;
    check_link(scene.container(), &lease, 3600)?;
    scene.stage.teardown(0)?;
    check_released(&scene.server, 1, scene.container(), &lease)
}

fn a_server_on_a_sibling_macvlan() -> Result {
    acquires_and_releases(&scene::sibling(ours)?)
}

fn a_server_on_the_same_bridge() -> Result {
    let scene = scene::bridge(ours, Settings::default())?;
    let lease = scene.stage.setup(0)?;
    check_link_at(scene.container(), &lease, 3600, 100)?;
    scene.stage.teardown(0)?;
    check_released(&scene.server, 1, scene.container(), &lease)
}

fn two_networks_on_one_container() -> Result {
    let (scene, second, second_server) = scene::two_networks(ours)?;
    let (socket, container) = (scene.stage.unit.socket(), &scene.container().namespace);
    let ask = |call: fn(&path::Path, &NetworkConfig) -> Result<NetavarkLease, Status>, config| {
        call(&socket, config).map_err(|status| status.message)
    };
    let first = scene.stage.config(0);
    ask(grpc::setup, &first)?;
    ask(grpc::setup, &second)?;
    let metrics = || -> Result<Vec<_>> {
        Ok(container
            .default_routes()?
            .iter()
            .map(|route| (route.gateway, route.metric))
            .collect())
    };
    // The later one comes first, as with netavark.
    assert_eq!(metrics()?, [(Some(SECOND_SERVER), 99), (Some(SERVER), 99)]);

    let addresses = container.addresses()?;
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    ask(grpc::teardown, &first)?;
    scene.server.await_message(MessageType::Release, 1, SOON)?;
    let left = container.addresses()?;
    assert_eq!(
        left.iter()
            .map(|address| address.address)
            .collect::<Vec<_>>(),
        [Ipv4Addr::new(10, 77, 1, 1)]
    );
    assert_eq!(metrics()?, [(Some(SECOND_SERVER), 99)]);
    assert_eq!(second_server.heard_of(MessageType::Release).len(), 0);

    ask(grpc::teardown, &second)?;
    second_server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!(
        (container.addresses()?, container.routes()?),
        (vec![], vec![])
    );
    Ok(())
}

/// An address of one interface is known to the other as well, and Linux answers for it there: that
/// is no conflict.
fn two_interfaces_in_one_network() -> Result {
    let (scene, second) = scene::two_interfaces(ours, short())?;
    let (socket, container) = (scene.stage.unit.socket(), &scene.container().namespace);
    let first = scene.stage.setup(0)?;
    let lease = grpc::setup(&socket, &second).map_err(|status| status.message)?;
    assert_ne!(first.yiaddr, lease.yiaddr);
    let ways = container.default_routes()?;
    let ways: Vec<_> = ways
        .iter()
        .map(|route| (route.index, route.gateway, route.metric))
        .collect();
    let indices = [container.link("eth1")?.index, container.link(LINK)?.index];
    assert_eq!(ways, indices.map(|index| (Some(index), Some(SERVER), 99)));
    for address in [&first.yiaddr, &lease.yiaddr] {
        let words = format!("({address}/16): renewed ");
        eventually(&words, SOON * 2, || {
            Ok((scene.stage.unit.log()?.matches(&words).count() > 1).then_some(()))
        })?;
    }
    let kinds = scene.server.heard_kinds();
    assert!(!kinds.contains(&MessageType::Decline), "{kinds:?}");
    scene.stage.teardown(0)?;
    let left = container.addresses()?;
    assert_eq!(
        left.iter()
            .map(|address| address.address.to_string())
            .collect::<Vec<_>>(),
        [lease.yiaddr]
    );
    grpc::teardown(&socket, &second).map_err(|status| status.message)?;
    scene.server.await_message(MessageType::Release, 2, SOON)?;
    assert_eq!(
        (container.addresses()?, container.routes()?),
        (vec![], vec![])
    );
    Ok(())
}

/// Leases whose T1 comes soon, and whose end does not.
fn short() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(60),
        t1: Some(seconds(2)),
        t2: Some(seconds(4)),
        ..Settings::default()
    }
}

fn a_path_with_delay() -> Result {
    let path = Path {
        delay: Duration::from_millis(5),
        ..Path::default()
    };
    let scene = scene::behind(ours, Some(path), 1, short())?;
    let lease = scene.stage.setup(0)?;
    check_link(scene.container(), &lease, 60)?;
    for count in 2..=3 {
        let renewal = scene
            .server
            .await_message(MessageType::Request, count, SOON)?;
        check_renewal(&renewal, &lease)?;
        assert!(renewal.is_unicast(), "{renewal:?}");
    }
    eventually("the address lives longer", SOON, || {
        Ok(scene
            .container()
            .address()?
            .filter(|address| address.valid > 58)
            .map(drop))
    })?;
    assert_eq!(scene.server.heard_of(MessageType::Discover).len(), 1);
    scene.stage.teardown(0)?;
    check_released(&scene.server, 1, scene.container(), &lease)
}

/// If three of ten frames are lost, each of eight containers gets a lease. Those that can be
/// renewed are, at T1 or at T2; each of these fails for every second one, so some of the eight lose
/// theirs.
fn kept_although_frames_are_lost() -> Result {
    let path = Path {
        delay: Duration::from_millis(1),
        loss: 300,
        seed: 11,
    };
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(12),
        t1: Some(seconds(3)),
        t2: Some(seconds(7)),
        ..Settings::default()
    };
    let scene = scene::behind(ours, Some(path), 8, settings)?;
    let Scene { stage, server, .. } = &scene;
    let leases: Vec<Option<_>> = thread::scope(|scope| {
        // Some are so unlucky that their time passes. It may ask again.
        let setup = |container| (0..3).find_map(|_| stage.setup(container).ok());
        let setups: Vec<_> = (0..8)
            .map(|container| scope.spawn(move || setup(container)))
            .collect();
        setups
            .into_iter()
            .map(|setup| setup.join().expect("no panic in Setup"))
            .collect()
    });
    let leases: Vec<_> = leases
        .into_iter()
        .collect::<Option<_>>()
        .ok_or("not all got a lease")?;
    eventually("three have been prolonged", seconds(30), || {
        let log = stage.unit.log()?;
        let renewed = leases
            .iter()
            .filter(|lease| log.contains(&format!("({}/16): renewed ", lease.yiaddr)));
        Ok((renewed.count() >= 3).then_some(()))
    })?;
    let renewals = server
        .heard_of(MessageType::Request)
        .into_iter()
        .filter(Heard::is_unicast);
    assert!(renewals.count() > 0, "none was heard at T1");
    assert!(!stage.unit.log()?.contains("changed, update address"));
    Ok(())
}

fn a_server_that_forgets_its_offer() -> Result {
    let scene = scene::plain(ours, Settings::default())?;
    let lease = scene
        .setup_with_forgotten_offer()?
        .map_err(|status| status.message)?;
    assert_eq!(
        scene.server.heard_of(MessageType::Discover).len(),
        2,
        "{:?}",
        scene.server.heard_kinds()
    );
    check_link(scene.container(), &lease, 3600)
}

fn a_carrier_that_comes_late() -> Result {
    let scene = scene::plain(ours, Settings::default())?;
    let server = &scene.stage.topology.server;
    server.set_state(SERVER_LINK, false)?;
    let (lease, carrier) = thread::scope(|scope| -> Result<_> {
        let setup = scope.spawn(|| scene.stage.setup(0));
        thread::sleep(Duration::from_secs(2));
        server.set_state(SERVER_LINK, true)?;
        let carrier = rt::now();
        Ok((setup.join().expect("no panic in Setup")?, carrier))
    })?;
    let took = rt::now() - carrier;
    // The kernel tells of a carrier up to a second after it has come.
    assert!(
        took < Duration::from_millis(1500),
        "{took:?} after the carrier came"
    );
    assert_eq!(scene.server.heard_of(MessageType::Discover).len(), 1);
    check_link(scene.container(), &lease, 3600)
}

fn a_carrier_that_never_comes() -> Result {
    let scene = scene::bridge(
        |topology| Stage::new(topology, program(), &["-t", "3"]),
        Settings::default(),
    )?;
    let host = &scene.stage.topology.host;
    host.set_state(BRIDGE_CONTAINER, false)?;
    let refused = scene.setup().expect_err("there is no carrier");
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (Code::Aborted, "no carrier on eth0")
    );
    assert_eq!(scene.server.heard_kinds(), []);
    Ok(())
}

fn a_port_that_is_deaf_for_thirty_seconds() -> Result {
    // The host does not see that the port drops frames: its link has been up for as long as the
    // daemon knows.
    let patient = |topology| Stage::new(topology, program(), &["-t", "45"]);
    let scene = scene::spanning_tree(patient, Duration::from_secs(15))?;
    let start = rt::now();
    let lease = scene.stage.setup(0)?;
    let took = rt::now() - start;
    assert!(
        took > Duration::from_secs(25),
        "the port was not deaf: {took:?}"
    );
    assert!(took < Duration::from_secs(45), "{took:?}");
    check_link(scene.container(), &lease, 3600)
}

/// Another station has the offered address: it is declined, and another one is acquired.
fn conflict(slow: Slow) -> Result {
    let (scene, owner) = scene::owned(ours, slow)?;
    let owned = Settings::default().first;
    let lease = scene.stage.setup(0)?;
    if slow == Slow::ToServer {
        assert_ne!(
            lease.yiaddr,
            owned.to_string(),
            "who knows in time does not say yes"
        );
    }
    let decline = scene.server.await_message(MessageType::Decline, 1, SOON)?;
    assert!(
        decline.names_server() && decline.message.ciaddr().is_unspecified(),
        "{decline:?}"
    );
    assert_eq!(
        decline.message.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(owned))
    );
    let new = eventually(
        "the container has another address",
        Duration::from_secs(25),
        || {
            Ok(scene
                .container()
                .address()?
                .filter(|address| address.address != owned))
        },
    )?;
    assert_eq!(
        scene.server.lease_of(scene.container().mac),
        Some(new.address)
    );
    if slow == Slow::ToOwner {
        let words = format!("lost the lease of {owned}: {owner} uses that address");
        eventually(&words, SOON, || {
            Ok(scene.stage.unit.log()?.contains(&words).then_some(()))
        })?;
    }
    eventually("one default route", SOON, || {
        Ok((scene.container().namespace.default_routes()?.len() == 1).then_some(()))
    })?;
    scene.stage.teardown(0)?;
    let release = scene.server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!(release.message.ciaddr(), new.address);
    Ok(())
}
