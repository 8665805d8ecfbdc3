//! Containers and servers with habits of their own.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::route_news::{Change, RouteNews};
use crate::lab::topology::{LINK, SERVER, SERVER_LINK};
use crate::lab::{Result, eventually};
use crate::stage;

trials![
    a_container_that_holds_port_68,
    an_mtu_that_fits,
    an_mtu_that_does_not_fit,
    an_mtu_that_is_lower_stays,
    an_mtu_is_the_servers_or_left_alone_where_told,
    a_broadcast_address_of_elsewhere,
    a_default_route_that_is_there,
    an_address_that_is_there,
    a_server_without_router,
    a_router_that_changes_leaves_no_gap,
    a_router_that_the_kernel_refuses_is_told_once,
    a_lease_without_end,
];

const SOON: Duration = Duration::from_secs(5);

fn a_container_that_holds_port_68() -> Result {
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
    let _taken = container
        .namespace
        .run(|| Ok(UdpSocket::bind("0.0.0.0:68")?))?;
    stage.setup(0)?;
    for count in 2..=3 {
        let renewal = server.await_message(MessageType::Request, count, SOON)?;
        assert!(
            renewal.is_unicast() && !renewal.names_server(),
            "{renewal:?}"
        );
    }
    assert_eq!(server.heard_of(MessageType::Discover).len(), 1);
    stage.teardown(0)?;
    server.await_message(MessageType::Release, 1, SOON)?;
    let said = stage
        .unit
        .log()?
        .lines()
        .filter(|line| line.contains("port 68"))
        .count();
    assert_eq!(said, 1, "it says once that the port is taken");
    Ok(())
}

fn an_mtu_that_fits() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let settings = Settings {
        mtu: Some(1400),
        ..Settings::default()
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    assert_eq!(stage.setup(0)?.mtu, 1400);
    assert_eq!(container.link(LINK)?.mtu, 1400);
    stage.teardown(0)?;
    assert_eq!(container.link(LINK)?.mtu, 1500);
    Ok(())
}

fn an_mtu_that_does_not_fit() -> Result {
    for (mtu, arguments) in [(9000, &["--mtu", "server"][..]), (500, &[])] {
        let stage = stage(1, arguments)?;
        let settings = Settings {
            mtu: Some(mtu),
            ..Settings::default()
        };
        let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
        stage.setup(0)?;
        assert_eq!(stage.topology.containers[0].namespace.link(LINK)?.mtu, 1500);
        let words = format!("ignoring the MTU of {mtu} bytes");
        assert!(
            stage.unit.log()?.contains(&words),
            "the log does not say: {words}"
        );
    }
    Ok(())
}

/// An MTU that was chosen for the container is only lowered, and restored later.
fn an_mtu_that_is_lower_stays() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let settings = Settings {
        lease: 30 * SOON,
        t1: Some(Duration::from_secs(3)),
        ..Settings::default()
    };
    let server = Server::start(
        &stage.topology.server,
        SERVER_LINK,
        Settings {
            mtu: Some(1500),
            ..settings
        },
    )?;
    container.set_mtu(LINK, 1400)?;
    assert_eq!(
        stage.setup(0)?.mtu,
        1500,
        "the caller is told what the server says"
    );
    assert_eq!(container.link(LINK)?.mtu, 1400);
    let words = "ignoring the MTU of 1500 bytes from 10.88.0.1: eth0 has one of 1400, which --mtu lower does not raise";
    let becomes = |told: u16, mtu: u32| {
        server.change(|settings| settings.mtu = Some(told));
        eventually(&format!("an MTU of {mtu}"), SOON, || {
            Ok((container.link(LINK)?.mtu == mtu).then_some(()))
        })
    };
    becomes(1300, 1300)?;
    becomes(1350, 1350)?;
    becomes(1500, 1400)?;
    becomes(1300, 1300)?;
    becomes(1400, 1400)?;
    let log = stage.unit.log()?;
    assert_eq!(
        log.matches(words).count(),
        2,
        "once for each time that it comes: {log}"
    );
    becomes(1300, 1300)?;
    // In renewals as well, which other clients send than the one of the Setup.
    for heard in server.heard_of(MessageType::Request) {
        let largest = heard.message.opts().get(OptionCode::MaxMessageSize);
        assert!(
            matches!(largest, Some(DhcpOption::MaxMessageSize(..=1372))),
            "{largest:?}"
        );
    }
    stage.teardown(0)?;
    assert_eq!(container.link(LINK)?.mtu, 1400);
    Ok(())
}

fn an_mtu_is_the_servers_or_left_alone_where_told() -> Result {
    for (rule, told, mtu) in [
        ("server", 1500, 1500),
        ("server", 1300, 1300),
        ("ignore", 1500, 1400),
        ("ignore", 1300, 1400),
    ] {
        let stage = stage(1, &["--mtu", rule])?;
        let container = &stage.topology.containers[0].namespace;
        let settings = Settings {
            mtu: Some(told),
            ..Settings::default()
        };
        let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
        container.set_mtu(LINK, 1400)?;
        stage.setup(0)?;
        assert_eq!(container.link(LINK)?.mtu, mtu, "{told} with --mtu {rule}");
        stage.teardown(0)?;
        assert_eq!(container.link(LINK)?.mtu, 1400);
    }
    Ok(())
}

/// The kernel would send to that host as if it were all of them.
fn a_broadcast_address_of_elsewhere() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let settings = Settings {
        lease: 30 * SOON,
        t1: Some(Duration::from_secs(3)),
        ..Settings::default()
    };
    let settings = Settings {
        broadcast: Some("8.8.8.8".parse()?),
        ..settings
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    assert_eq!(stage.setup(0)?.broadcast_addr, "10.88.255.255");
    assert_eq!(
        container.address()?.and_then(|address| address.broadcast),
        Some("10.88.255.255".parse()?)
    );
    server.await_message(MessageType::Request, 3, 2 * SOON)?;
    let words = "ignoring broadcast address 8.8.8.8 from 10.88.0.1: not usable here";
    assert_eq!(
        stage.unit.log()?.matches(words).count(),
        1,
        "it is said once"
    );
    stage.teardown(0).map(drop)
}

fn a_default_route_that_is_there() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.topology.host.veth("other", container, "eth1")?;
    container.add_address("eth1", "10.99.0.2".parse()?, 24)?;
    container.add_default_route("eth1", "10.99.0.1".parse()?, 100)?;
    let before = container.default_routes()?;
    stage.setup(0)?;
    let routes = container.default_routes()?;
    assert_eq!(routes.len(), 2, "{routes:?}");
    assert_eq!(
        (routes[0].gateway, routes[0].metric, &routes[1]),
        (Some(SERVER), 99, &before[0])
    );
    stage.teardown(0)?;
    assert_eq!(container.default_routes()?, before);
    Ok(())
}

fn an_address_that_is_there() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    container.add_address(LINK, "10.88.1.1".parse()?, 16)?;
    let before = container.addresses()?;
    assert_eq!(stage.setup(0)?.yiaddr, "10.88.1.1");
    assert_eq!(container.addresses()?.len(), 1);
    stage.teardown(0)?;
    assert_eq!(
        container.addresses()?,
        before,
        "what was there before us stays as it was"
    );
    Ok(())
}

fn a_server_without_router() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let settings = Settings {
        router: None,
        dns: Vec::new(),
        domain: None,
        ..Settings::default()
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    let lease = stage.setup(0)?;
    assert_eq!(
        (
            lease.gateways.len(),
            lease.dns_servers.len(),
            lease.domain_name.as_str()
        ),
        (0, 0, "")
    );
    assert!(container.address()?.is_some());
    assert_eq!(container.namespace.default_routes()?, []);
    stage.teardown(0).map(drop)
}

/// A container without a default route for a moment loses connections.
fn a_router_that_changes_leaves_no_gap() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let server = Server::start(&stage.topology.server, SERVER_LINK, renewed_each_second())?;
    stage.setup(0)?;
    let news = RouteNews::open(container)?;
    server.change(|settings| settings.router = Some([10, 88, 0, 2].into()));
    let gateway = || {
        Ok(container
            .default_routes()?
            .iter()
            .find_map(|route| route.gateway.filter(|it| *it != SERVER)))
    };
    assert_eq!(
        eventually("the new router", SOON, gateway)?,
        Ipv4Addr::new(10, 88, 0, 2)
    );
    assert_eq!(
        news.take()?,
        [Change::Set],
        "it takes the place of the old one"
    );
    let routes = container.default_routes()?;
    assert_eq!((routes.len(), routes[0].metric), (1, 99), "{routes:?}");
    stage.teardown(0)?;
    assert_eq!(container.default_routes()?, []);
    Ok(())
}

/// A mistake of the operator's costs no address, and no default route of before.
fn a_router_that_the_kernel_refuses_is_told_once() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0].namespace;
    let server = Server::start(&stage.topology.server, SERVER_LINK, renewed_each_second())?;
    stage.setup(0)?;
    let before = container.default_routes()?;
    // The broadcast address of the subnet.
    server.change(|settings| settings.router = Some([10, 88, 255, 255].into()));
    let renewals = server.heard_of(MessageType::Request).len();
    server.await_message(MessageType::Request, renewals + 3, 2 * SOON)?;
    assert_eq!(container.default_routes()?, before);
    let words = "ignoring the route to 0.0.0.0/0 via 10.88.255.255 from 10.88.0.1: ";
    assert_eq!(
        stage.unit.log()?.matches(words).count(),
        1,
        "it is said once"
    );
    stage.teardown(0)?;
    assert_eq!(container.default_routes()?, []);
    Ok(())
}

fn renewed_each_second() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(60),
        t1: Some(seconds(1)),
        t2: Some(seconds(40)),
        ..Settings::default()
    }
}

fn a_lease_without_end() -> Result {
    let stage = stage(1, &[])?;
    let settings = Settings {
        lease: Duration::from_secs(u32::MAX.into()),
        ..Settings::default()
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    stage.setup(0)?;
    let address = stage.topology.containers[0]
        .address()?
        .ok_or("no address")?;
    assert_eq!((address.valid, address.preferred), (u32::MAX, u32::MAX));
    stage.teardown(0).map(drop)
}
