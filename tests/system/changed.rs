//! Interfaces that are no more what they were at their Setup: another MAC, another name, or a MAC
//! that is not theirs alone.

use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{NetavarkLease, NetworkConfig, Status};

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::packets::Mac;
use crate::lab::scene;
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc};
use crate::lease::{check_link, check_released};
use crate::{program, stage};

trials![
    a_teardown_after_the_mac_changed_gives_the_lease_back,
    containers_that_change_their_mac_do_not_empty_the_pool,
    a_crash_between_the_change_and_the_teardown_makes_no_difference,
    at_its_renewal_the_lease_of_another_mac_is_given_back,
    a_setup_with_another_mac_ends_the_lease_of_the_first,
    a_renamed_interface_is_torn_down_by_either_name,
    of_two_interfaces_with_one_mac_each_is_torn_down_alone,
];

const SOON: Duration = Duration::from_secs(5);
const OTHER: Mac = Mac([0x02, 0x99, 0, 0, 0, 1]);

fn words(status: Status) -> String {
    format!("{:?}: {}", status.code, status.message)
}

/// A Teardown as netavark makes it, which looks up the MAC that the interface has by then.
fn teardown(stage: &Stage, mac: Mac) -> Result<NetavarkLease> {
    let config = NetworkConfig {
        container_mac_addr: mac.to_string(),
        container_id: String::new(),
        ..stage.config(0)
    };
    Ok(grpc::teardown(&stage.unit.socket(), &config).map_err(words)?)
}

fn empty_file(stage: &Stage) -> Result {
    eventually("the file is empty", SOON, || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })
}

fn a_teardown_after_the_mac_changed_gives_the_lease_back() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    let container = &stage.topology.containers[0];
    container.namespace.await_rest()?;
    container.namespace.set_mac(LINK, OTHER)?;
    assert_eq!(teardown(&stage, OTHER)?.yiaddr, lease.yiaddr);
    check_released(&server, 1, container, &lease)?;
    assert_eq!(
        server.heard_of(MessageType::Release)[0].client(),
        container.mac
    );
    empty_file(&stage)
}

fn containers_that_change_their_mac_do_not_empty_the_pool() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let namespace = &stage.topology.containers[0].namespace;
    for run in 0..10 {
        let (mac, then) = (
            Mac([0x02, 0x99, 0, 1, 0, run]),
            Mac([0x02, 0x99, 0, 2, 0, run]),
        );
        namespace.set_mac(LINK, mac)?;
        let config = NetworkConfig {
            container_mac_addr: mac.to_string(),
            ..stage.config(0)
        };
        grpc::setup(&stage.unit.socket(), &config).map_err(words)?;
        namespace.set_mac(LINK, then)?;
        teardown(&stage, then)?;
        eventually("no address is leased any more", SOON, || {
            Ok(server.clients().is_empty().then_some(()))
        })?;
    }
    empty_file(&stage)
}

fn a_crash_between_the_change_and_the_teardown_makes_no_difference() -> Result {
    let mut stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // While all that is left of the lease is being seen to anyway, its own MAC would do as well.
    let lease = stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    stage.daemon.kill()?;
    stage.topology.containers[0]
        .namespace
        .set_mac(LINK, OTHER)?;
    stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    teardown(&stage, OTHER)?;
    check_released(&server, 1, &stage.topology.containers[0], &lease)?;
    empty_file(&stage)
}

fn at_its_renewal_the_lease_of_another_mac_is_given_back() -> Result {
    let stage = stage(1, &[])?;
    let (lease, t1) = (Duration::from_secs(60), Some(Duration::from_secs(4)));
    let server = Server::start(
        &stage.topology.server,
        SERVER_LINK,
        Settings {
            lease,
            t1,
            ..Settings::default()
        },
    )?;
    let lease = stage.setup(0)?;
    let container = &stage.topology.containers[0];
    container.namespace.await_rest()?;
    container.namespace.set_mac(LINK, OTHER)?;
    eventually("the address is off the link", 2 * SOON, || {
        Ok(container.address()?.is_none().then_some(()))
    })?;
    check_released(&server, 1, container, &lease)?;
    assert_eq!(
        server.heard_of(MessageType::Request).len(),
        1,
        "the server would not know who asks"
    );
    empty_file(&stage)?;
    container.namespace.await_rest()
}

fn a_setup_with_another_mac_ends_the_lease_of_the_first() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    let container = &stage.topology.containers[0];
    container.namespace.await_rest()?;
    container.namespace.set_mac(LINK, OTHER)?;
    let config = NetworkConfig {
        container_mac_addr: OTHER.to_string(),
        ..stage.config(0)
    };
    let second = grpc::setup(&stage.unit.socket(), &config).map_err(words)?;
    let release = server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!(release.client(), container.mac);
    check_link(container, &second, 3600)?;
    assert_eq!(server.clients(), [OTHER]);
    let leases = stage.unit.leases()?;
    assert_eq!(
        leases
            .as_object()
            .map(|leases| leases.keys().collect::<Vec<_>>()),
        Some(vec![&OTHER.to_string()])
    );
    teardown(&stage, OTHER)?;
    eventually("no address is leased any more", SOON, || {
        Ok(server.clients().is_empty().then_some(()))
    })
}

fn a_renamed_interface_is_torn_down_by_either_name() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let container = &stage.topology.containers[0];
    let rename = |from: &str, to: &str| {
        container.namespace.set_state(from, false)?;
        container.namespace.rename_link(from, to)?;
        container.namespace.set_state(to, true)
    };
    for (count, name) in [(1, LINK), (2, "uplink")] {
        let lease = stage.setup(0)?;
        container.namespace.await_rest()?;
        rename(LINK, "uplink")?;
        let config = NetworkConfig {
            container_iface: name.to_owned(),
            ..stage.config(0)
        };
        assert_eq!(
            grpc::teardown(&stage.unit.socket(), &config)
                .map_err(words)?
                .yiaddr,
            lease.yiaddr,
            "by {name}"
        );
        check_released(&server, count, container, &lease)?;
        empty_file(&stage)?;
        rename("uplink", LINK)?;
    }
    Ok(())
}

fn of_two_interfaces_with_one_mac_each_is_torn_down_alone() -> Result {
    let start = |topology: Topology| Stage::new(topology, program(), &[]);
    let scene = scene::plain(start, Settings::default())?;
    let (stage, container) = (&scene.stage, scene.container());
    // On another network of the same host.
    let far = Namespace::new("far")?;
    stage.topology.host.veth("eth1", &far, SERVER_LINK)?;
    far.add_address(SERVER_LINK, SERVER, 16)?;
    let settings = Settings {
        first: "10.88.2.1".parse()?,
        router: None,
        ..Settings::default()
    };
    let far_server = Server::start(&far, SERVER_LINK, settings)?;
    stage
        .topology
        .host
        .macvlan("eth1", &container.namespace, "eth1", container.mac)?;
    let other = NetworkConfig {
        host_iface: "eth1".to_owned(),
        container_iface: "eth1".to_owned(),
        ..container.config()
    };
    let addresses = || -> Result<Vec<String>> {
        let addresses = container.namespace.addresses()?;
        Ok(addresses
            .into_iter()
            .map(|address| address.address.to_string())
            .collect())
    };
    let first = stage.setup(0)?;
    let second = grpc::setup(&stage.unit.socket(), &other).map_err(words)?;
    assert_eq!(addresses()?, [first.yiaddr.clone(), second.yiaddr.clone()]);
    let leases = stage.unit.leases()?;
    assert_eq!(
        leases[container.mac.to_string()].as_array().map(Vec::len),
        Some(2),
        "{leases}"
    );

    // The second time there is nothing of that interface to end.
    for expected in [first.yiaddr.as_str(), ""] {
        assert_eq!(stage.teardown(0)?.yiaddr, expected);
        assert_eq!(addresses()?, std::slice::from_ref(&second.yiaddr));
    }
    assert_eq!(far_server.heard_of(MessageType::Release).len(), 0);
    assert_eq!(
        grpc::teardown(&stage.unit.socket(), &other)
            .map_err(words)?
            .yiaddr,
        second.yiaddr
    );
    far_server.await_message(MessageType::Release, 1, SOON)?;
    assert!(addresses()?.is_empty());
    empty_file(stage)
}
