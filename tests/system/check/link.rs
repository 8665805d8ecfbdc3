//! `check` on interfaces that are down, without a carrier, or of another kind.

use super::*;

trials![
    an_interface_that_is_down,
    no_carrier,
    a_carrier_that_comes_late,
    a_carrier_that_is_lost,
    a_carrier_that_flaps,
    an_interface_that_goes_away,
    an_mtu_that_is_too_small,
    an_interface_without_an_ethernet_address,
    a_port_of_a_bridge,
    ports_of_dhcp_in_use,
];

fn an_interface_that_is_down() -> Result {
    let topology = Topology::new(1)?;
    topology.containers[0].namespace.set_state(LINK, false)?;
    let checked = check(&topology, &[])?;
    checked.says(
        1,
        &["eth0 is down", "ip link set eth0 up", "nsenter --net="],
    );
    assert!(checked.took < Duration::from_secs(2));
    checked.says_nothing_of(&["DISCOVER", "no DHCPOFFER"]);
    assert!(state_of(&topology.containers[0].namespace)?.contains("eth0"));
    Ok(())
}

fn no_carrier() -> Result {
    let topology = Topology::new(1)?;
    topology.server.set_state(SERVER_LINK, false)?;
    let checked = check(&topology, &["--timeout", "1"])?;
    checked.says(1, &["no carrier on eth0", "cable, or parent down: ip link"]);
    checked.says_nothing_of(&["DISCOVER"]);
    let report = check(&topology, &["--timeout", "1", "--json"])?.json()?;
    assert_eq!(
        (&report["search"], &report["interface"]["carrier"]),
        (&Value::Null, &false.into())
    );
    Ok(())
}

/// Waits until a check has a netlink socket in a namespace, to hear of changes.
fn await_monitor(namespace: &Namespace) -> Result {
    eventually("the check listens for changes", SOON, || {
        let table = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/netlink")?))?;
        // The groups are the fourth column; bit 0 is that of links.
        let listens = |line: &str| {
            line.split_whitespace()
                .nth(3)
                .is_some_and(|groups| groups.ends_with('1'))
        };
        Ok(table.lines().skip(1).any(listens).then_some(()))
    })
}

fn a_carrier_that_comes_late() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    topology.server.set_state(SERVER_LINK, false)?;
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &[]));
        await_monitor(&topology.containers[0].namespace)?;
        topology.server.set_state(SERVER_LINK, true)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(0, &["eth0 is up and has a carrier", "no problem was found"]);
        Ok(())
    })
}

fn a_carrier_that_is_lost() -> Result {
    let topology = Topology::new(1)?;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &["--timeout", "2"]));
        listener.await_message(MessageType::Discover, 1, SOON)?;
        topology.server.set_state(SERVER_LINK, false)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked
            .says(1, &["no carrier on eth0"])
            .says_nothing_of(&["no DHCPOFFER"]);
        assert!(checked.took < SOON, "{:?}", checked.took);
        Ok(())
    })
}

/// The check goes on where the carrier returns.
fn a_carrier_that_flaps() -> Result {
    let topology = Topology::new(1)?;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &["--timeout", "4"]));
        listener.await_message(MessageType::Discover, 1, SOON)?;
        topology.server.set_state(SERVER_LINK, false)?;
        topology.server.set_state(SERVER_LINK, true)?;
        listener.await_message(MessageType::Discover, 2, SOON)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked
            .says(1, &["eth0 is up and has a carrier", "no DHCPOFFER within"])
            .says_nothing_of(&["no carrier"]);
        Ok(())
    })
}

/// Deleted, and moved to another namespace.
fn an_interface_that_goes_away() -> Result {
    let mut topology = Topology::new(1)?;
    let second = topology.add_container()?;
    let topology = topology;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    let container = &topology.containers[0].namespace;
    let words = ["eth0 was removed during the check, or moved"];
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &[]));
        listener.await_message(MessageType::Discover, 1, SOON)?;
        container.rename_link(LINK, "gone0")?;
        container.move_link("gone0", &topology.containers[second].namespace)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(3, &words).says_nothing_of(&["is down"]);
        assert!(checked.took < SOON, "{:?}", checked.took);
        topology.containers[second]
            .namespace
            .move_link("gone0", container)?;
        container.rename_link("gone0", LINK)?;
        container.set_state(LINK, true)?;
        let checked = scope.spawn(|| check(&topology, &[]));
        listener.await_message(MessageType::Discover, 2, SOON)?;
        container.delete_link(LINK)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(3, &words).says_nothing_of(&["is down"]);
        Ok(())
    })
}

/// From the beginning, and from the first DISCOVER on.
fn an_mtu_that_is_too_small() -> Result {
    let topology = Topology::new(1)?;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    let container = &topology.containers[0].namespace;
    let words = [
        "the MTU of eth0 is 68, less than the 576 bytes that DHCP needs",
        "ip link set eth0 mtu 1500",
        "1 problem",
    ];
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &[]));
        listener.await_message(MessageType::Discover, 1, SOON)?;
        container.set_mtu(LINK, 68)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(1, &words);
        check(&topology, &[])?.says(1, &words);
        assert_eq!(listener.heard_kinds().len(), 1);
        Ok(())
    })
}

fn an_interface_without_an_ethernet_address() -> Result {
    let host = Namespace::new("host")?;
    run_in(&host, &mut command(&["lo"]))?.says(1, &["lo has no Ethernet address"]);
    Ok(())
}

/// The host's uplink, where that is a port: it is told, and the bridge is found as any interface.
fn a_port_of_a_bridge() -> Result {
    let scene = scene::bridge(
        |topology| crate::lab::stage::Stage::new(topology, program(), &[]),
        Settings::default(),
    )?;
    let host = &scene.stage.topology.host;
    run_in(host, &mut command(&[LINK]))?.says(0, &["eth0: bridge", "no problem was found"]);
    let port = run_in(
        host,
        &mut command(&[scene::BRIDGE_SERVER, "--timeout", "1"]),
    )?;
    port.says(0, &["one: veth", "one is a port of eth0", "check it, too"]);
    Ok(())
}

fn ports_of_dhcp_in_use() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let bind = |port| {
        move || {
            Ok(UdpSocket::bind(SocketAddrV4::new(
                Ipv4Addr::UNSPECIFIED,
                port,
            ))?)
        }
    };
    let _client = topology.containers[0].namespace.run(bind(68))?;
    let us = format!("({}) has UDP port", std::process::id());
    let words = [
        &format!("{us} 68: a DHCP client in this namespace"),
        "no problem was found",
    ];
    check(&topology, &["--timeout", "1"])?.says(0, &words);
    // Of the host, which is not disturbed: port 68 is not needed.
    let both = || Ok(UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 67))?);
    let (_client, _proxy) = (topology.host.run(bind(68))?, topology.host.run(both)?);
    let words = [
        "is of this host, whose DHCP client is not disturbed",
        &format!("{us} 68: the DHCP client of this host"),
        &format!("{us} 67: a DHCP server of this host"),
        "a macvlan does not reach its own host",
        "no problem was found",
    ];
    check_host(&topology, &["--timeout", "1"])?.says(0, &words);
    Ok(())
}
