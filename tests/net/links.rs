//! Interfaces, addresses, routes: what is made, what was there, and what the kernel ends by itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::libc;
use smol_dhcp_proxy::net::link::{AddOutcome, Link};
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netns::Netns;
use smol_dhcp_proxy::net::route::Route;

use super::lab::namespace::Namespace;
use super::lab::packets::Mac;
use super::lab::{Result, eventually};

trials![
    an_interface_is_found_by_name_and_number,
    the_mtu_has_bounds,
    an_address_has_lifetimes_and_may_be_there_already,
    a_route_may_be_there_already_and_comes_before_others_of_its_metric,
    a_route_needs_no_gateway_and_the_gateway_no_prefix,
    a_route_takes_the_place_of_another_or_leaves_it,
    only_the_named_route_is_removed,
    at_expiry_the_kernel_removes_address_and_routes,
];

const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OTHER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const MAC: Mac = Mac([0x02, 0, 0, 0, 0, 7]);

/// A host with `eth0`, whose other end is in `wire`, and a macvlan on it in `container`; and how to
/// talk of the latter.
struct Setting {
    host: Namespace,
    _wire: Namespace,
    container: Namespace,
    netlink: Netlink,
    link: Link,
}

impl Setting {
    fn new() -> Result<Self> {
        let (host, wire) = (Namespace::new("host")?, Namespace::new("wire")?);
        let container = Namespace::new("container")?;
        host.veth("eth0", &wire, "peer")?;
        host.macvlan("eth0", &container, "mv0", MAC)?;
        let netlink = Netns::open(container.path())?.enter(Netlink::open)??;
        let link = netlink.link_by_name("mv0")?.ok_or("no mv0")?;
        Ok(Self {
            host,
            _wire: wire,
            container,
            netlink,
            link,
        })
    }

    /// With an address on the link.
    fn with_address() -> Result<Self> {
        let setting = Self::new()?;
        setting
            .netlink
            .set_address(setting.link.index, OURS, 24, None, None)?;
        Ok(setting)
    }
}

fn an_interface_is_found_by_name_and_number() -> Result {
    let setting = Setting::new()?;
    let Setting {
        host,
        container,
        netlink,
        link,
        ..
    } = &setting;
    let seen = container.link("mv0")?;
    assert_eq!(
        (link.index, link.name.as_str(), link.mtu),
        (seen.index, "mv0", seen.mtu)
    );
    assert_eq!(link.mac, Some(MAC.0));
    assert_eq!(link.kind.as_deref(), Some("macvlan"));
    assert!(link.up && link.carrier);
    assert_eq!(netlink.link_by_index(link.index)?, Some(link.clone()));
    assert_eq!(netlink.link_by_name("lo")?.and_then(|link| link.kind), None);

    host.set_state("eth0", false)?;
    let carrier = || {
        Ok(netlink
            .link_by_index(link.index)?
            .filter(|link| link.up && !link.carrier))
    };
    eventually("a macvlan without carrier", Duration::from_secs(5), carrier)?;
    container.set_state("mv0", false)?;
    assert_eq!(
        netlink.link_by_name("mv0")?.map(|link| link.up),
        Some(false)
    );

    for name in [
        "absent",
        "",
        "m/v0",
        "mv0\0",
        "mv0\0x",
        "sixteen-bytes-ab",
        "mv0 ",
        &"long".repeat(1000),
    ] {
        assert_eq!(netlink.link_by_name(name)?, None, "{name:?}");
    }
    for index in [0, 9999, u32::MAX] {
        assert_eq!(netlink.link_by_index(index)?, None, "{index}");
    }
    Ok(())
}

fn the_mtu_has_bounds() -> Result {
    let setting = Setting::new()?;
    let Setting {
        host,
        container,
        netlink,
        link,
        ..
    } = &setting;
    assert!(link.takes_mtu(576) && link.takes_mtu(1500));
    assert!(!link.takes_mtu(link.min_mtu - 1) && !link.takes_mtu(link.max_mtu + 1));
    netlink.set_mtu(link.index, 1400)?;
    assert_eq!(container.link("mv0")?.mtu, 1400);

    // The driver takes this, the interface below does not.
    assert!(link.takes_mtu(9000));
    let error = netlink
        .set_mtu(link.index, 9000)
        .err()
        .ok_or("more than the interface below carries")?;
    assert_eq!(error.errno(), Some(libc::EINVAL));
    host.set_mtu("eth0", 9000)?;
    netlink.set_mtu(link.index, 9000)?;

    // The kernel's own words come with the errno.
    let error = netlink
        .set_mtu(link.index, link.max_mtu + 1)
        .err()
        .ok_or("more than the driver takes")?;
    assert_eq!(error.errno(), Some(libc::EINVAL));
    let words = error.explanation().ok_or("no explanation")?;
    assert!(
        words.contains("mtu") && error.to_string().ends_with(words),
        "{error}"
    );

    let error = netlink
        .set_mtu(9999, 1400)
        .err()
        .ok_or("no such interface")?;
    assert_eq!(error.errno(), Some(libc::ENODEV));
    Ok(())
}

fn an_address_has_lifetimes_and_may_be_there_already() -> Result {
    let setting = Setting::new()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    let broadcast = Ipv4Addr::new(10, 1, 0, 255);
    let set = |valid| netlink.set_address(link.index, OURS, 24, Some(broadcast), valid);
    let seen = || -> Result<_> {
        let [address] = <[_; 1]>::try_from(container.addresses()?)
            .map_err(|all| format!("not one: {all:?}"))?;
        assert_eq!(
            (address.address, address.prefix, address.broadcast),
            (OURS, 24, Some(broadcast))
        );
        assert_eq!(address.valid, address.preferred);
        Ok(address.valid)
    };
    assert_eq!(set(Some(Duration::from_millis(99_500)))?, AddOutcome::Added);
    assert!((99..=100).contains(&seen()?), "rounded up");
    assert_eq!(set(Some(Duration::from_secs(3600)))?, AddOutcome::Existed);
    assert!((3599..=3600).contains(&seen()?));
    let [ours] = <[_; 1]>::try_from(netlink.addresses(link.index)?)
        .map_err(|all| format!("not one: {all:?}"))?;
    assert_eq!(
        (ours.address, ours.prefix, ours.broadcast),
        (OURS, 24, Some(broadcast))
    );
    assert!(
        ours.valid
            .is_some_and(|valid| (3599..=3600).contains(&valid.as_secs()))
    );
    assert_eq!(set(None)?, AddOutcome::Existed);
    assert_eq!(seen()?, u32::MAX);
    assert_eq!(netlink.addresses(link.index)?[0].valid, None);
    // Longer than the kernel can count is long, but not for ever.
    assert_eq!(set(Some(Duration::MAX))?, AddOutcome::Existed);
    assert_ne!(seen()?, u32::MAX);

    assert!(netlink.remove_address(link.index, OURS, 24)?);
    assert!(!netlink.remove_address(link.index, OURS, 24)?);
    assert!(
        !netlink.remove_address(9999, OURS, 24)?,
        "an interface that is gone has no address"
    );
    assert_eq!(container.addresses()?, []);
    Ok(())
}

fn a_route_may_be_there_already_and_comes_before_others_of_its_metric() -> Result {
    let setting = Setting::with_address()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    let ours = Route::default_via(GATEWAY, link.index, OURS, 100);
    assert_eq!(
        netlink.route_table()?.add(&ours)?,
        (ours.clone(), AddOutcome::Added)
    );
    assert_eq!(
        netlink.route_table()?.add(&ours)?,
        (ours.clone(), AddOutcome::Existed)
    );

    let second = Route::default_via(OTHER_GATEWAY, link.index, OURS, 100);
    let (placed, made) = netlink.route_table()?.add(&second)?;
    assert_eq!((&placed, made), (&second, AddOutcome::Added));
    // Neither of them moves when it is wanted again.
    for (wanted, placed) in [(&ours, &ours), (&second, &placed)] {
        assert_eq!(
            netlink.route_table()?.add(wanted)?,
            (placed.clone(), AddOutcome::Existed)
        );
    }
    let metrics: Vec<_> = container
        .default_routes()?
        .iter()
        .map(|route| (route.gateway, route.metric))
        .collect();
    assert_eq!(metrics, [(Some(OTHER_GATEWAY), 100), (Some(GATEWAY), 100)]);

    // A route of another program does, and is not touched, unless its metric is higher.
    assert!(netlink.remove_route(&ours)? && netlink.remove_route(&placed)?);
    container.add_default_route("mv0", GATEWAY, 7)?;
    let (found, made) = netlink.route_table()?.add(&ours)?;
    assert_eq!(
        (found.metric, found.source, made),
        (7, None, AddOutcome::Existed)
    );
    assert_eq!(container.default_routes()?.len(), 1);
    let lower = Route { metric: 6, ..ours };
    assert_eq!(
        netlink.route_table()?.add(&lower)?,
        (lower, AddOutcome::Added)
    );
    Ok(())
}

fn a_route_needs_no_gateway_and_the_gateway_no_prefix() -> Result {
    let setting = Setting::new()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    netlink.set_address(link.index, OURS, 32, None, None)?;
    // On the link itself; the bits beyond the prefix are the server's carelessness.
    let network = Route::from_lease([192, 168, 7, 9].into(), 24, None, link.index, OURS, 100);
    assert_eq!(netlink.route_table()?.add(&network)?.1, AddOutcome::Added);
    // No prefix covers the gateway, as in clouds that hand out addresses of 32 bits.
    let (route, made) = netlink
        .route_table()?
        .add(&Route::default_via(GATEWAY, link.index, OURS, 100))?;
    assert_eq!(made, AddOutcome::Added);
    let seen = container.routes()?;
    assert!(seen.iter().any(|seen| seen.destination == Ipv4Addr::new(192, 168, 7, 0) && seen.gateway.is_none()));
    assert!(
        seen.iter()
            .any(|seen| seen.prefix == 0 && seen.gateway == Some(GATEWAY))
    );
    assert!(netlink.remove_route(&network)? && netlink.remove_route(&route)?);
    assert_eq!(container.routes()?, []);
    // A source that is not ours, and an interface that is not there.
    let foreign = Route::default_via(GATEWAY, link.index, GATEWAY, 100);
    assert_eq!(
        netlink
            .route_table()?
            .add(&foreign)
            .err()
            .and_then(|error| error.errno()),
        Some(libc::EINVAL)
    );
    let nowhere = Route::default_via(GATEWAY, 9999, OURS, 100);
    assert_eq!(
        netlink
            .route_table()?
            .add(&nowhere)
            .err()
            .and_then(|error| error.errno()),
        Some(libc::ENODEV)
    );
    assert!(!netlink.remove_route(&nowhere)?);
    Ok(())
}

fn a_route_takes_the_place_of_another_or_leaves_it() -> Result {
    let setting = Setting::with_address()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    let via = |gateway| Route::default_via(gateway, link.index, OURS, 100);
    let defaults = || -> Result<Vec<_>> {
        Ok(container
            .default_routes()?
            .iter()
            .map(|route| (route.gateway, route.metric))
            .collect())
    };
    let (first, _) = netlink.route_table()?.add(&via(GATEWAY))?;
    let (second, made) = netlink
        .route_table()?
        .replace(&first, &via(OTHER_GATEWAY))?;
    assert_eq!(
        (second.metric, made),
        (100, AddOutcome::Added),
        "at no moment there are two, or none"
    );
    assert_eq!(defaults()?, [(Some(OTHER_GATEWAY), 100)]);
    assert_eq!(
        netlink.route_table()?.replace(&second, &second)?,
        (second.clone(), AddOutcome::Existed)
    );

    // The broadcast address of the subnet is no gateway.
    let refused = netlink
        .route_table()?
        .replace(&second, &via([10, 1, 0, 255].into()));
    assert_eq!(
        refused.err().and_then(|error| error.errno()),
        Some(libc::EINVAL)
    );
    assert_eq!(
        defaults()?,
        [(Some(OTHER_GATEWAY), 100)],
        "the old one stays"
    );

    // A removed route leaves no place to take, and neither does a foreign one.
    assert!(netlink.remove_route(&second)?);
    container.add_default_route("mv0", OTHER_GATEWAY, 100)?;
    let (beside, _) = netlink.route_table()?.replace(&second, &via(GATEWAY))?;
    assert_eq!(beside.metric, 100);
    assert_eq!(
        defaults()?,
        [(Some(GATEWAY), 100), (Some(OTHER_GATEWAY), 100)]
    );
    Ok(())
}

fn only_the_named_route_is_removed() -> Result {
    let setting = Setting::with_address()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    container.add_default_route("mv0", OTHER_GATEWAY, 100)?;
    let wanted = Route::default_via(GATEWAY, link.index, OURS, 100);
    assert!(
        !netlink.remove_route(&wanted)?,
        "the other's route is not ours, though all but the gateway is alike"
    );
    let (ours, made) = netlink.route_table()?.add(&wanted)?;
    assert_eq!((ours.metric, made), (100, AddOutcome::Added));
    assert!(netlink.remove_route(&ours)?);
    assert!(!netlink.remove_route(&ours)?);
    let left = container.default_routes()?;
    assert_eq!(
        left.iter()
            .map(|route| (route.gateway, route.metric))
            .collect::<Vec<_>>(),
        [(Some(OTHER_GATEWAY), 100)]
    );
    Ok(())
}

fn at_expiry_the_kernel_removes_address_and_routes() -> Result {
    let setting = Setting::new()?;
    let Setting {
        container,
        netlink,
        link,
        ..
    } = &setting;
    let elsewhere = Route::from_lease(
        [192, 168, 0, 0].into(),
        16,
        Some(GATEWAY),
        link.index,
        OURS,
        100,
    );
    let set = |seconds| {
        netlink.set_address(
            link.index,
            OURS,
            24,
            None,
            Some(Duration::from_secs(seconds)),
        )
    };
    set(60)?;
    netlink
        .route_table()?
        .add(&Route::default_via(GATEWAY, link.index, OURS, 100))?;
    netlink.route_table()?.add(&elsewhere)?;
    // With the last address of an interface the kernel removes every route through it; so there is
    // another.
    container.add_address("mv0", [10, 2, 0, 2].into(), 24)?;
    // And a route without a source, to show what the source is for.
    netlink.route_table()?.add(&Route {
        source: None,
        ..Route::default_via(OTHER_GATEWAY, link.index, OURS, 200)
    })?;
    set(1)?;
    let ended = || Ok((container.addresses()?.len() == 1).then_some(()));
    eventually("the address's end", Duration::from_secs(10), ended)?;
    // The kernel's own route to the other address's network has no gateway.
    let left = container
        .routes()?
        .into_iter()
        .filter(|route| route.gateway.is_some());
    assert_eq!(
        left.map(|route| (route.gateway, route.metric))
            .collect::<Vec<_>>(),
        [(Some(OTHER_GATEWAY), 200)]
    );
    Ok(())
}
