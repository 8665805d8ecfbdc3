//! The life of a lease in the real topology: acquired, renewed, rebound, given back.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{NetavarkLease, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Heard, Server, Settings};
use crate::lab::forwarder::Path;
use crate::lab::namespace::Namespace;
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc};
use crate::{program, stage};

trials![
    setup_and_teardown,
    renews_by_unicast_and_rebinds_by_broadcast,
    release_arrives_over_a_path_with_delay,
    thirty_at_once,
    a_renewal_applies_what_has_changed,
    renewals_that_come_together_are_paced,
    the_last_address_is_asked_for_again,
    nothing_holds_the_namespace_after_teardown,
];

/// The daemon counts from when it sent its REQUEST, the server from when it heard of it: on a busy
/// machine, this much later.
const HEARING: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(5);

fn setup_and_teardown() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;

    assert_eq!(lease.yiaddr, "10.88.1.1");
    assert_eq!(lease.subnet_mask, "255.255.0.0");
    assert_eq!(lease.gateways, ["10.88.0.1"]);
    assert_eq!(lease.dns_servers, ["10.88.0.1"]);
    assert_eq!(lease.domain_name, "lab.example");
    assert_eq!(lease.srv_id, "10.88.0.1");
    assert_eq!(lease.mac_address.to_lowercase(), container.mac.to_string());
    assert_eq!((lease.lease_time, lease.t1, lease.t2), (3600, 1800, 3150));
    check_link(container, &lease, 3600)?;

    let request = &server.heard_of(MessageType::Request)[0];
    let mut client_id = vec![0];
    client_id.extend(stage.config(0).container_id.as_bytes());
    assert_eq!(
        request.message.opts().get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(client_id)),
        "type byte 0 and the container's id, as netavark sends it"
    );
    assert_eq!(
        request.message.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("box".to_owned()))
    );
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.unit.lease_file())?)?;
    let entries = file.as_object().ok_or("the lease file is no object")?;
    assert_eq!(entries.len(), 1, "{file}");
    assert_eq!(
        entries.values().next().map(|entry| &entry[0]["yiaddr"]),
        Some(&"10.88.1.1".into()),
        "{file}"
    );

    stage.teardown(0)?;
    check_released(&server, 1, container, &lease)?;
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.unit.lease_file())?)?;
    assert_eq!(file, serde_json::json!({}));
    Ok(())
}

/// Address, prefix, broadcast, lifetime and route of a macvlan are as the lease says.
pub(crate) fn check_link(container: &Container, lease: &NetavarkLease, seconds: u32) -> Result {
    check_link_at(container, lease, seconds, 99)
}

/// The same for an interface whose default route has that metric.
pub(crate) fn check_link_at(
    container: &Container,
    lease: &NetavarkLease,
    seconds: u32,
    metric: u32,
) -> Result {
    let address = container.address()?.ok_or("the link has no address")?;
    assert_eq!(address.address.to_string(), lease.yiaddr);
    assert_eq!(address.prefix, 16);
    assert_eq!(address.broadcast, Some(Ipv4Addr::new(10, 88, 255, 255)));
    assert!(
        (seconds - 2..=seconds).contains(&address.valid),
        "{address:?}"
    );
    assert!(address.preferred <= address.valid, "{address:?}");
    let routes = container.namespace.default_routes()?;
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!(
        (routes[0].gateway, routes[0].metric),
        (Some(SERVER), metric)
    );
    Ok(())
}

/// The server got a RELEASE that it must honour, and the link is as it was.
pub(crate) fn check_released(
    server: &Server,
    count: usize,
    container: &Container,
    lease: &NetavarkLease,
) -> Result {
    let release = server.await_message(MessageType::Release, count, SOON)?;
    let address: Ipv4Addr = lease.yiaddr.parse()?;
    assert_eq!(
        (release.source, release.message.ciaddr()),
        (address, address),
        "{release:?}"
    );
    assert!(
        release.names_server() && !release.requests_address() && release.is_unicast(),
        "{release:?}"
    );
    eventually("the server forgets the lease", SOON, || {
        Ok(server.lease_of(container.mac).is_none().then_some(()))
    })?;
    assert_eq!(container.address()?, None);
    assert_eq!(container.namespace.default_routes()?, []);
    Ok(())
}

fn renews_by_unicast_and_rebinds_by_broadcast() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(2)),
        t2: Some(seconds(4)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let unreachable = container.namespace.counter("Icmp", "OutDestUnreachs")?;
    let lease = stage.setup(0)?;
    let acquired = server.await_message(MessageType::Request, 1, SOON)?;

    let renewal = server.await_message(MessageType::Request, 2, SOON)?;
    check_renewal(&renewal, &lease)?;
    assert!(renewal.is_unicast(), "{renewal:?}");
    let waited = renewal.at - acquired.at + HEARING;
    assert!(
        waited >= seconds(2) && waited < seconds(3),
        "T1 is 2 s, and it renewed after {waited:?}"
    );
    eventually("the address lives longer", SOON, || {
        Ok(container
            .address()?
            .filter(|address| address.valid > 58)
            .map(drop))
    })?;

    // No answer at T1 must lead to a broadcast at T2.
    server.set_silent(true);
    let unanswered = server.await_message(MessageType::Request, 3, SOON)?;
    assert!(unanswered.is_unicast(), "{unanswered:?}");
    server.set_silent(false);
    let rebinding = server.await_message(MessageType::Request, 4, SOON)?;
    check_renewal(&rebinding, &lease)?;
    assert!(!rebinding.is_unicast(), "{rebinding:?}");
    let next = server.await_message(MessageType::Request, 5, SOON)?;
    assert!(next.is_unicast(), "rebound, it renews as before: {next:?}");

    check_link(container, &lease, 60)?;
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    assert_eq!(
        container.namespace.counter("Icmp", "OutDestUnreachs")?,
        unreachable
    );
    stage.teardown(0)?;
    check_released(&server, 1, container, &lease)
}

/// A REQUEST in RENEWING or REBINDING carries the address in ciaddr and neither option 50 nor 54
/// (RFC 2131, table 4).
pub(crate) fn check_renewal(request: &Heard, lease: &NetavarkLease) -> Result {
    let address: Ipv4Addr = lease.yiaddr.parse()?;
    assert_eq!(
        (request.source, request.message.ciaddr()),
        (address, address),
        "{request:?}"
    );
    assert!(
        !request.names_server() && !request.requests_address(),
        "{request:?}"
    );
    Ok(())
}

fn release_arrives_over_a_path_with_delay() -> Result {
    // ARP takes time here, and what is still queued behind it when the address goes is lost.
    let path = Path {
        delay: Duration::from_millis(3),
        ..Path::default()
    };
    let stage = Stage::new(Topology::behind(path, 1)?, program(), &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    for count in 1..=5 {
        let lease = stage.setup(0)?;
        stage.teardown(0)?;
        check_released(&server, count, container, &lease)?;
    }
    Ok(())
}

fn thirty_at_once() -> Result {
    let stage = stage(30, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let start = rt::now();
    let setups: Vec<Result<NetavarkLease>> = std::thread::scope(|scope| {
        let stage = &stage;
        let threads: Vec<_> = (0..30)
            .map(|container| scope.spawn(move || stage.setup(container)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic in Setup"))
            .collect()
    });
    let took = rt::now() - start;
    assert!(took < Duration::from_secs(2), "{took:?}");
    for (container, lease) in stage.topology.containers.iter().zip(setups) {
        check_link(container, &lease?, 3600)?;
    }
    for container in 0..30 {
        stage.teardown(container)?;
    }
    server
        .await_message(MessageType::Release, 30, SOON)
        .map(drop)
}

fn a_renewal_applies_what_has_changed() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(2)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let lease = stage.setup(0)?;
    let (router, dns): (Ipv4Addr, Ipv4Addr) = ("10.88.0.9".parse()?, "10.88.0.53".parse()?);
    server.change(|settings| {
        settings.router = Some(router);
        settings.dns = vec![dns, SERVER];
        settings.mtu = Some(1400);
        settings.domain = None;
    });
    server.await_message(MessageType::Request, 2, SOON)?;

    let entry = eventually("the lease file has the change", SOON, || {
        let entry = stage.unit.leases()?[container.mac.to_string()][0].clone();
        Ok((entry["mtu"] == 1400).then_some(entry))
    })?;
    assert_eq!(entry["yiaddr"], lease.yiaddr);
    assert_eq!(
        (&entry["gateways"], &entry["domain_name"]),
        (&serde_json::json!(["10.88.0.9"]), &"".into())
    );
    assert_eq!(
        entry["dns_servers"],
        serde_json::json!(["10.88.0.53", "10.88.0.1"])
    );
    // The file has it first, and the log last.
    eventually("the log tells", SOON, || {
        Ok(stage
            .unit
            .log()?
            .contains("changed default router")
            .then_some(()))
    })?;
    assert_eq!(container.namespace.link(LINK)?.mtu, 1400);
    let routes = container.namespace.default_routes()?;
    assert_eq!(
        routes.iter().map(|route| route.gateway).collect::<Vec<_>>(),
        [Some(router)]
    );
    let log = stage.unit.log()?;
    for words in [
        "10.88.0.1 changed default router 10.88.0.1 -> 10.88.0.9; MTU none -> 1400; \
         DNS servers 10.88.0.1 -> 10.88.0.53, 10.88.0.1; domain lab.example -> none",
        &format!("ip or gateway for mac {} changed", container.mac),
    ] {
        assert_eq!(
            log.matches(words).count(),
            1,
            "the log does not say once: {words}"
        );
    }

    // And back, with all of it undone at the end.
    server.change(|settings| settings.mtu = None);
    eventually("the MTU is back", SOON, || {
        Ok((container.namespace.link(LINK)?.mtu == 1500).then_some(()))
    })?;
    stage.teardown(0)?;
    assert_eq!(container.namespace.routes()?, []);
    Ok(())
}

/// The daemon sleeps through ten T1s, as with a machine that is suspended.
fn renewals_that_come_together_are_paced() -> Result {
    const LEASES: u16 = 40;
    let stage = stage(LEASES, &[])?;
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(6)),
        t2: Some(seconds(40)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    for container in 0..LEASES.into() {
        stage.setup(container)?;
    }
    for container in &stage.topology.containers {
        container.namespace.await_rest()?;
    }
    let acquired = server.heard_of(MessageType::Request);
    stage.daemon.signal(Signal::SIGSTOP)?;
    let asleep = acquired.last().ok_or("no REQUEST")?.at + seconds(6) - rt::now();
    std::thread::sleep(asleep);
    let heard = server.heard_of(MessageType::Request).len();
    assert_eq!(heard, acquired.len(), "some of them were renewed before");
    let woken = rt::now();
    stage.daemon.signal(Signal::SIGCONT)?;
    server.await_message(MessageType::Request, heard + usize::from(LEASES), SOON)?;
    let times: Vec<_> = server.heard_of(MessageType::Request)[heard..]
        .iter()
        .map(|heard| heard.at - woken)
        .collect();
    // Twenty at once, then thirty in a second; each may arrive late, where the machine is busy, and
    // none early.
    let last = times[times.len() - 1];
    assert!(
        last >= Duration::from_millis(660),
        "forty renewals at once: {times:?}"
    );
    assert!(
        last < Duration::from_millis(2500),
        "forty renewals took {last:?}: {times:?}"
    );
    Ok(())
}

/// This server gives a new address to a client that does not request the released one.
fn the_last_address_is_asked_for_again() -> Result {
    let mut stage = stage(3, &[])?;
    let settings = Settings {
        lease: Duration::from_secs(60),
        t1: Some(Duration::from_secs(1)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let container = |stage: &Stage, number: usize| stage.config(number);
    let setup = |stage: &Stage, config: &NetworkConfig| {
        grpc::setup(&stage.unit.socket(), config)
            .map(|lease| lease.yiaddr)
            .map_err(|status| status.message)
    };
    let wanted = || {
        let discover = server.heard_of(MessageType::Discover).pop();
        discover.and_then(|heard| {
            heard
                .message
                .opts()
                .get(OptionCode::RequestedIpAddress)
                .cloned()
        })
    };
    let first: Ipv4Addr = "10.88.1.1".parse()?;
    assert_eq!(setup(&stage, &container(&stage, 0))?, "10.88.1.1");
    assert_eq!(wanted(), None);
    stage.teardown(0)?;
    assert_eq!(
        setup(&stage, &container(&stage, 1))?,
        "10.88.1.2",
        "the next one, not the one that is free"
    );
    stage.teardown(1)?;

    // The same container again.
    assert_eq!(setup(&stage, &container(&stage, 0))?, "10.88.1.1");
    assert_eq!(wanted(), Some(DhcpOption::RequestedIpAddress(first)));
    stage.teardown(0)?;
    // Another id, the same MAC.
    let anew = NetworkConfig {
        container_id: "c0de".repeat(16),
        ..container(&stage, 0)
    };
    assert_eq!(setup(&stage, &anew)?, "10.88.1.1");
    stage.teardown(0)?;
    // Another MAC, the same id.
    let restarted = NetworkConfig {
        container_id: container(&stage, 1).container_id,
        ..container(&stage, 2)
    };
    assert_eq!(setup(&stage, &restarted)?, "10.88.1.2");

    // A client that vanished without a RELEASE: its server keeps the lease, and gives it to no
    // other.
    let gone = stage.topology.containers.remove(2);
    let (mac, config) = (gone.mac, gone.config());
    drop(gone);
    eventually("the lease is forgotten", Duration::from_secs(15), || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })?;
    let namespace = Namespace::new("container")?;
    // A namespace whose last socket is closed ends in the background, and holds the MAC until then.
    eventually("the container is made anew", SOON, || {
        let made = stage.topology.host.macvlan(LINK, &namespace, LINK, mac);
        // A link that could be made but not set up would be in the way of the next.
        Ok(made.inspect_err(|_| drop(namespace.delete_link(LINK))).ok())
    })?;
    let back = NetworkConfig {
        ns_path: namespace.path().display().to_string(),
        ..config
    };
    assert_eq!(setup(&stage, &back)?, "10.88.1.2");
    assert_eq!(
        wanted(),
        Some(DhcpOption::RequestedIpAddress("10.88.1.2".parse()?))
    );
    Ok(())
}

fn nothing_holds_the_namespace_after_teardown() -> Result {
    let mut stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // The kernel deletes this link, and with it its peer, when the last holder of the namespace
    // lets go.
    stage
        .topology
        .host
        .veth("canary", &stage.topology.containers[0].namespace, "canary")?;
    stage.setup(0)?;
    stage.teardown(0)?;
    let Container { namespace, .. } = stage.topology.containers.remove(0);
    drop(namespace);
    eventually("the namespace is gone", SOON, || {
        Ok(stage.topology.host.link("canary").is_err().then_some(()))
    })?;
    assert!(
        stage.daemon.is_running()?,
        "the daemon has let go, not ended"
    );
    assert!(stage.topology.host.link(LINK).is_ok());
    Ok(())
}
