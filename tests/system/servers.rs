//! The life of a lease with each of three real servers, and behind a real relay.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Heard, Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::real_server::{self, Kind, Plan, RealServer};
use crate::lab::topology::{LINK, SERVER, SERVER_LINK};
use crate::lab::{Result, eventually};
use crate::lease::{check_link, check_renewal};
use crate::stage;

trials![
    dnsmasq_renews_and_rebinds,
    kea_renews_and_rebinds,
    udhcpd_renews_and_rebinds,
    dnsmasq_refuses_an_address_of_no_pool,
    dnsmasq_refuses_an_address_of_another,
    kea_refuses_an_address_of_another,
    kea_is_silent_on_an_address_of_no_pool,
    udhcpd_is_silent_on_an_address_of_no_pool,
    dnsmasq_hears_of_a_conflict,
    kea_hears_of_a_conflict,
    udhcpd_hears_of_a_conflict,
    dnsmasq_behind_a_relay,
    kea_behind_a_relay,
    udhcpd_behind_a_relay,
    one_of_two_is_denied,
    one_of_two_is_named,
];

fn dnsmasq_renews_and_rebinds() -> Result {
    renews_and_rebinds(Kind::Dnsmasq)
}

fn kea_renews_and_rebinds() -> Result {
    renews_and_rebinds(Kind::Kea)
}

fn udhcpd_renews_and_rebinds() -> Result {
    renews_and_rebinds(Kind::Udhcpd)
}

fn dnsmasq_refuses_an_address_of_no_pool() -> Result {
    replaces(Kind::Dnsmasq, LEASE, another_pool, "refused")
}

fn dnsmasq_refuses_an_address_of_another() -> Result {
    replaces(Kind::Dnsmasq, LEASE, kept_for_another, "refused")
}

fn kea_refuses_an_address_of_another() -> Result {
    replaces(Kind::Kea, LEASE, kept_for_another, "refused")
}

fn kea_is_silent_on_an_address_of_no_pool() -> Result {
    replaces(Kind::Kea, 9, another_pool, "expired without a renewal")
}

fn udhcpd_is_silent_on_an_address_of_no_pool() -> Result {
    replaces(Kind::Udhcpd, 9, another_pool, "expired without a renewal")
}

fn dnsmasq_hears_of_a_conflict() -> Result {
    hears_of_a_conflict(Kind::Dnsmasq)
}

fn kea_hears_of_a_conflict() -> Result {
    hears_of_a_conflict(Kind::Kea)
}

fn udhcpd_hears_of_a_conflict() -> Result {
    hears_of_a_conflict(Kind::Udhcpd)
}

fn dnsmasq_behind_a_relay() -> Result {
    behind_a_relay(Kind::Dnsmasq)
}

fn kea_behind_a_relay() -> Result {
    behind_a_relay(Kind::Kea)
}

fn udhcpd_behind_a_relay() -> Result {
    behind_a_relay(Kind::Udhcpd)
}

fn one_of_two_is_denied() -> Result {
    one_of_two(&["--deny-server", "10.88.0.1"])
}

fn one_of_two_is_named() -> Result {
    one_of_two(&["--server", SECOND])
}

const SOON: Duration = Duration::from_secs(10);
/// The shortest lease that all of them give, in seconds.
const LEASE: u32 = 120;

fn await_request(what: &str, witness: &Server, which: impl Fn(&Heard) -> bool) -> Result<Heard> {
    eventually(&format!("a REQUEST {what}"), SOON, || {
        Ok(witness
            .heard_of(MessageType::Request)
            .into_iter()
            .find(|request| which(request)))
    })
}

fn plan() -> Plan {
    Plan {
        lease: LEASE,
        t1_t2: Some((3, 8)),
        domain: Some("lab.example"),
        ..Plan::default()
    }
}

/// Acquired, renewed by unicast, rebound by another server with the same lease file, released in
/// that file.
fn renews_and_rebinds(kind: Kind) -> Result {
    let stage = stage(1, &[])?;
    let (container, namespace) = (&stage.topology.containers[0], &stage.topology.server);
    let mut server = RealServer::start(kind, namespace, SERVER_LINK, &plan())?;
    let witness = Server::eavesdrop(namespace, SERVER_LINK)?;
    let unreachable = container.namespace.counter("Icmp", "OutDestUnreachs")?;

    let lease = stage.setup(0)?;
    let address = lease.yiaddr.parse()?;
    assert!(plan().pool.contains(&address), "{lease:?}");
    assert_eq!((lease.t1, lease.t2, lease.lease_time), (3, 8, LEASE));
    assert_eq!(
        (lease.domain_name.as_str(), lease.srv_id.as_str()),
        ("lab.example", "10.88.0.1")
    );
    check_link(container, &lease, LEASE)?;
    server.await_listed(address, true)?;

    // Not the second one of all: on a busy machine the offer is asked for twice.
    let renewal = await_request("to renew", &witness, |request| {
        !request.message.ciaddr().is_unspecified()
    })?;
    check_renewal(&renewal, &lease)?;
    assert!(renewal.is_unicast(), "{renewal:?}");
    let renewed = || {
        Ok(container
            .address()?
            .filter(|address| address.valid > LEASE - 1)
            .map(drop))
    };
    eventually(
        "the address lives as long as the renewed lease",
        SOON,
        renewed,
    )?;

    // It dies, and its twin at another address has the same leases.
    server.stop()?;
    let stopped = rt::now();
    let unanswered = await_request("that nobody answers", &witness, |request| {
        request.at > stopped
    })?;
    assert!(unanswered.is_unicast(), "{unanswered:?}");
    let twin = Ipv4Addr::new(10, 88, 0, 2);
    namespace.remove_address(SERVER_LINK, SERVER, 16)?;
    namespace.add_address(SERVER_LINK, twin, 16)?;
    server.start_again(&plan())?;
    let rebinding = await_request("to rebind", &witness, |request| {
        !request.is_unicast() && !request.message.ciaddr().is_unspecified()
    })?;
    check_renewal(&rebinding, &lease)?;
    eventually(
        "the address lives as long as the rebound lease",
        SOON,
        renewed,
    )?;
    let next = await_request("to renew again", &witness, |request| {
        request.at > rebinding.at
    })?;
    assert!(
        next.is_unicast() && next.destination == twin,
        "it renews with who rebound it: {next:?}"
    );
    eventually(
        "the address lives as long as the renewed lease",
        SOON,
        renewed,
    )?;

    check_link(container, &lease, LEASE)?;
    assert_eq!(witness.heard_of(MessageType::Discover).len(), 1);
    assert_eq!(
        container.namespace.counter("Icmp", "OutDestUnreachs")?,
        unreachable
    );
    server.await_listed(address, true)?;
    stage.teardown(0)?;
    server.await_listed(address, false)
}

/// A server that will not prolong what it gave says so, or says nothing: sooner or later the
/// address on the link is replaced.
fn replaces(kind: Kind, lease_time: u32, change: fn(&mut Plan, Ipv4Addr), why: &str) -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let mut plan = Plan {
        lease: lease_time,
        t1_t2: Some((3, 6)),
        ..Plan::default()
    };
    let mut server = RealServer::start(kind, &stage.topology.server, SERVER_LINK, &plan)?;
    let witness = Server::eavesdrop(&stage.topology.server, SERVER_LINK)?;
    let lease = stage.setup(0)?;
    let old: Ipv4Addr = lease.yiaddr.parse()?;
    server.await_listed(old, true)?;

    server.stop()?;
    change(&mut plan, old);
    server.start_again(&plan)?;
    let new = eventually(
        "the container has another address",
        Duration::from_secs(20),
        || {
            Ok(container
                .address()?
                .map(|address| address.address)
                .filter(|address| *address != old))
        },
    )?;
    assert!(plan.pool.contains(&new), "{new}");
    let log = stage.unit.log()?;
    let lost = log
        .lines()
        .find(|line| line.contains(&format!("lost the lease of {old}: ")));
    assert!(
        lost.is_some_and(|line| line.contains(why)),
        "the log says what was lost, and why: {lost:?}"
    );
    let said = format!("ip or gateway for mac {} changed", container.mac);
    eventually("the log says what came", SOON, || {
        Ok(stage.unit.log()?.contains(&said).then_some(()))
    })?;
    eventually("one default route", SOON, || {
        Ok((container.namespace.default_routes()?.len() == 1).then_some(()))
    })?;
    assert_eq!(witness.heard_of(MessageType::Decline).len(), 0);
    server.await_listed(new, true)?;
    stage.teardown(0)?;
    server.await_listed(new, false)
}

fn another_pool(plan: &mut Plan, _old: Ipv4Addr) {
    plan.pool = Ipv4Addr::new(10, 88, 201, 0)..=Ipv4Addr::new(10, 88, 250, 0);
}

fn kept_for_another(plan: &mut Plan, old: Ipv4Addr) {
    plan.reserved = Some(old);
}

/// The address that the server gives has an owner: it is told, and gives another one.
fn hears_of_a_conflict(kind: Kind) -> Result {
    let stage = stage(3, &[])?;
    let [container, others @ ..] = &stage.topology.containers[..] else {
        unreachable!()
    };
    let server = RealServer::start(kind, &stage.topology.server, SERVER_LINK, &plan())?;
    let witness = Server::eavesdrop(&stage.topology.server, SERVER_LINK)?;
    // It will give the same address again, or, as Kea does, the next one.
    let last: Ipv4Addr = stage.setup(0)?.yiaddr.parse()?;
    stage.teardown(0)?;
    server.await_listed(last, false)?;
    let owned = [last, Ipv4Addr::from_bits(last.to_bits() + 1)];
    // Each by another station: claiming both would be taken for proxy ARP.
    for (address, other) in owned.into_iter().zip(others) {
        other.namespace.add_address(LINK, address, 16)?;
    }
    stage.setup(0)?;
    let decline = witness.await_message(MessageType::Decline, 1, SOON)?;
    assert!(
        decline.names_server() && decline.requests_address(),
        "{decline:?}"
    );
    let new = eventually(
        "the container has another address",
        Duration::from_secs(20),
        || {
            Ok(container
                .address()?
                .map(|address| address.address)
                .filter(|address| !owned.contains(address)))
        },
    )?;
    server.await_listed(new, true)?;
    stage.teardown(0)?;
    server.await_listed(new, false)
}

/// The server sits in another network: `container - host - 10.88.0.1 relay and router 10.99.0.1 -
/// 10.99.0.2 server`.
fn behind_a_relay(kind: Kind) -> Result {
    let stage = stage(1, &[])?;
    let (container, router) = (&stage.topology.containers[0], &stage.topology.server);
    let far = Namespace::new("far")?;
    let (near_side, far_side) = (Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2));
    router.veth("r0", &far, SERVER_LINK)?;
    router.add_address("r0", near_side, 24)?;
    far.add_address(SERVER_LINK, far_side, 24)?;
    far.add_default_route(SERVER_LINK, near_side, 100)?;
    router.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
    let server = RealServer::start(kind, &far, SERVER_LINK, &plan())?;
    let _relay = real_server::relay(router, SERVER, far_side)?;
    let (near, witness) = (
        Server::eavesdrop(router, SERVER_LINK)?,
        Server::eavesdrop(&far, SERVER_LINK)?,
    );

    let lease = stage.setup(0)?;
    assert_eq!(lease.srv_id, far_side.to_string());
    check_link(container, &lease, LEASE)?;
    let address = lease.yiaddr.parse()?;
    server.await_listed(address, true)?;
    let relayed = &eventually("the witness hears the REQUEST", SOON, || {
        Ok(witness.heard_of(MessageType::Request).into_iter().next())
    })?;
    assert_eq!(
        relayed.message.giaddr(),
        SERVER,
        "by the relay: {relayed:?}"
    );

    // By unicast, through the router and past the relay.
    let renewal = await_request("to renew", &witness, |request| {
        !request.message.ciaddr().is_unspecified()
    })?;
    check_renewal(&renewal, &lease)?;
    assert!(
        renewal.destination == far_side && renewal.message.giaddr().is_unspecified(),
        "{renewal:?}"
    );
    if kind == Kind::Udhcpd {
        // An ACK that no router carries is none: the lease lives on through the relay, by
        // rebinding.
        await_request("to rebind", &witness, |request| {
            request.message.giaddr() == SERVER && !request.message.ciaddr().is_unspecified()
        })?;
    }
    let renewed = || {
        Ok(container
            .address()?
            .filter(|address| address.valid > LEASE - 1)
            .map(drop))
    };
    eventually(
        "the address lives as long as the renewed lease",
        SOON,
        renewed,
    )?;
    assert_eq!(near.heard_of(MessageType::Discover).len(), 1);
    stage.teardown(0)?;
    let release = witness.await_message(MessageType::Release, 1, SOON)?;
    assert!(
        release.source == address && release.destination == far_side,
        "{release:?}"
    );
    server.await_listed(address, false)
}

/// The other server of a LAN with two.
const SECOND: &str = "10.88.0.2";

/// Both servers offer a lease, the first one sooner, and the second one's is taken.
fn one_of_two(arguments: &[&str]) -> Result {
    let stage = stage(1, arguments)?;
    let namespace = &stage.topology.server;
    let first = Server::start(namespace, SERVER_LINK, Settings::default())?;
    let settings = Settings {
        address: SECOND.parse()?,
        first: "10.88.9.1".parse()?,
        ..Settings::default()
    };
    let second = Server::beside(namespace, SERVER_LINK, settings)?;
    for count in 1..=3 {
        let lease = stage.setup(0)?;
        assert_eq!((&*lease.srv_id, &*lease.yiaddr), (SECOND, "10.88.9.1"));
        stage.teardown(0)?;
        second.await_message(MessageType::Release, count, SOON)?;
    }
    assert!(
        first.heard_of(MessageType::Discover).len() >= 3,
        "{:?}",
        first.heard_kinds()
    );
    assert_eq!(first.clients().len(), 0, "it has given a lease");
    Ok(())
}
