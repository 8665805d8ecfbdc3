//! Failures of netavark's own proxy: the same situations that this daemon is tested in, so that the
//! statements about it stay true.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::Code;

use crate::lab::dhcp_server::Settings;
use crate::lab::forwarder::Path;
use crate::lab::real_server::{Kind, Plan, RealServer};
use crate::lab::scene::{self, Scene, Slow};
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc, peer};

trials![
    with_a_server_on_a_sibling_macvlan,
    with_two_interfaces_in_one_network,
    where_frames_are_lost,
    behind_a_port_that_is_deaf,
    to_renew,
    to_heed_a_refusal,
    to_remove_an_expired_address,
    to_release_with_dnsmasq,
    to_apply_the_mtu,
    to_notice_a_conflict,
];

const SOON: Duration = Duration::from_secs(5);

/// The peer with the patience that it has by default, 8 s.
fn peer(topology: Topology) -> Result<Stage> {
    peer::stage(topology, 8)
}

/// The same where no patience would help.
fn impatient_peer(topology: Topology) -> Result<Stage> {
    peer::stage(topology, 3)
}

fn short() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        lease: seconds(8),
        t1: Some(seconds(3)),
        t2: Some(seconds(6)),
        ..Settings::default()
    }
}

/// It asked, and the server that is there did not hear it, or was not heard.
fn check_timeout(scene: &Scene) -> Result {
    let refused = scene.setup().expect_err("the peer cannot do this");
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    assert_eq!(scene.container().address()?, None);
    Ok(())
}

/// It speaks from the host's interface, which no macvlan on that hears
/// (networks::a_server_on_a_sibling_macvlan).
fn with_a_server_on_a_sibling_macvlan() -> Result {
    let scene = scene::sibling(impatient_peer)?;
    check_timeout(&scene)?;
    assert_eq!(scene.server.heard_kinds(), []);
    Ok(())
}

/// To the kernel its second default route is the first once more
/// (networks::two_interfaces_in_one_network).
fn with_two_interfaces_in_one_network() -> Result {
    let (scene, second) = scene::two_interfaces(peer, Settings::default())?;
    scene.stage.setup(0)?;
    let refused =
        grpc::setup(&scene.stage.unit.socket(), &second).expect_err("the peer cannot do this");
    assert!(refused.message.contains("File exists"), "{refused:?}");
    Ok(())
}

/// Ten containers at a time, each with a chance of about one in two
/// (networks::kept_although_frames_are_lost).
fn where_frames_are_lost() -> Result {
    let path = Path {
        delay: Duration::from_millis(1),
        loss: 300,
        seed: 11,
    };
    let scene = scene::behind(peer, Some(path), 10, Settings::default())?;
    let stage = &scene.stage;
    let failed = thread::scope(|scope| {
        let setups: Vec<_> = (0..10)
            .map(|container| scope.spawn(move || stage.setup(container)))
            .collect();
        setups
            .into_iter()
            .map(|setup| setup.join().expect("no panic in Setup"))
            .filter(Result::is_err)
            .count()
    });
    assert!(failed > 0, "it got a lease for each of ten containers");
    Ok(())
}

/// Two DISCOVERs in its 8 s, and the port opens later
/// (networks::a_port_that_is_deaf_for_thirty_seconds).
fn behind_a_port_that_is_deaf() -> Result {
    let scene = scene::spanning_tree(peer, Duration::from_secs(15))?;
    check_timeout(&scene)
}

/// At T1 it looks for the container's address in the host's namespace: an error, then nothing until
/// its patience is over, long before T2, and it starts anew by a DISCOVER
/// (lease::renews_by_unicast_and_rebinds_by_broadcast).
fn to_renew() -> Result {
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(2)),
        t2: Some(seconds(40)),
        ..Settings::default()
    };
    let scene = scene::plain(impatient_peer, settings)?;
    scene.stage.setup(0)?;
    scene
        .server
        .await_message(MessageType::Discover, 2, seconds(20))?;
    let renewals = scene
        .server
        .heard_of(MessageType::Request)
        .into_iter()
        .filter(|request| !request.names_server());
    assert_eq!(renewals.count(), 0, "no REQUEST of a renewal arrived");
    let log = scene.stage.unit.log()?;
    assert!(log.contains("Cannot assign requested address"), "{log}");
    Ok(())
}

/// The server forgot what it offered, so it refuses each REQUEST; only a new DISCOVER would help
/// (networks::a_server_that_forgets_its_offer).
fn to_heed_a_refusal() -> Result {
    let scene = scene::plain(peer, Settings::default())?;
    let refused = scene
        .setup_with_forgotten_offer()?
        .expect_err("the peer cannot do this");
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    assert!(
        scene.server.heard_of(MessageType::Request).len() > 1,
        "{:?}",
        scene.server.heard_kinds()
    );
    assert_eq!(scene.server.heard_of(MessageType::Discover).len(), 1);
    Ok(())
}

/// The lease expires without an answer, and the address stays
/// (expiry::without_an_answer_the_address_goes_at_its_time).
fn to_remove_an_expired_address() -> Result {
    let scene = scene::plain(peer, short())?;
    let lease = scene.stage.setup(0)?;
    scene.server.set_silent(true);
    // Its end is not announced.
    thread::sleep(Duration::from_secs(9));
    let address = scene.container().address()?.ok_or("the address is gone")?;
    assert_eq!(
        (address.address.to_string(), address.valid),
        (lease.yiaddr, u32::MAX)
    );
    Ok(())
}

/// dnsmasq does not honour its RELEASE: the lease stays (servers::dnsmasq_renews_and_rebinds).
fn to_release_with_dnsmasq() -> Result {
    let stage = peer(Topology::new(2)?)?;
    let server = RealServer::start(
        Kind::Dnsmasq,
        &stage.topology.server,
        SERVER_LINK,
        &Plan::default(),
    )?;
    let address: Ipv4Addr = stage.setup(0)?.yiaddr.parse()?;
    server.await_listed(address, true)?;
    let before = server.log()?.len();
    stage.teardown(0)?;
    // dnsmasq notes the name in each message that it reads.
    let read = || {
        Ok(server.log()?[before..]
            .contains("client provides name")
            .then_some(()))
    };
    eventually("dnsmasq has read the RELEASE", SOON, read)?;
    // It handles messages in order: after serving another client, it is done with this one.
    stage.setup(1)?;
    let log = server.log()?;
    assert!(
        !log.contains("DHCPRELEASE") && server.lists(address)?,
        "{log}"
    );
    Ok(())
}

/// (odd::an_mtu_that_fits)
fn to_apply_the_mtu() -> Result {
    let scene = scene::plain(
        peer,
        Settings {
            mtu: Some(1400),
            ..Settings::default()
        },
    )?;
    assert_eq!(scene.stage.setup(0)?.mtu, 1400);
    assert_eq!(
        scene.container().namespace.link(LINK)?.mtu,
        1500,
        "it reports the MTU and leaves it"
    );
    Ok(())
}

/// It takes an address that has an owner, however early that one's answer would come
/// (networks::an_owner_whose_answer_comes_before_the_ack).
fn to_notice_a_conflict() -> Result {
    let (scene, _owner) = scene::owned(peer, Slow::ToServer)?;
    let lease = scene.stage.setup(0)?;
    assert_eq!(lease.yiaddr, Settings::default().first.to_string());
    thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.server.heard_of(MessageType::Decline).len(), 0);
    assert_eq!(
        scene.container().address()?.map(|address| address.address),
        Some(Settings::default().first)
    );
    assert_eq!(
        scene.container().namespace.default_routes()?[0].gateway,
        Some(SERVER)
    );
    Ok(())
}
