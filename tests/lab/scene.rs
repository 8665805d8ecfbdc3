//! Networks out of the ordinary, each set for a proxy to be tried in: ours, or the peer to see that
//! it fails there.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{NetavarkLease, NetworkConfig, Status};

use super::dhcp_server::{Server, Settings};
use super::forwarder::{Forwarder, Path};
use super::namespace::Namespace;
use super::packets::Mac;
use super::stage::Stage;
use super::topology::{Container, LINK, SERVER, SERVER_LINK, Topology};
use super::{Result, grpc};

/// Starts the proxy on the host of a network.
pub type Start = fn(Topology) -> Result<Stage>;

/// A proxy and a server in such a network.
#[derive(Debug)]
pub struct Scene {
    pub stage: Stage,
    pub server: Server,
    /// Other parts of the scene, dropped with it.
    _path: Option<Forwarder>,
    there: Vec<Namespace>,
}

impl Scene {
    fn new(stage: Stage, server: Server) -> Self {
        Self {
            stage,
            server,
            _path: None,
            there: Vec::new(),
        }
    }

    /// The switch of [`spanning_tree`].
    pub fn switch(&self) -> Option<&Namespace> {
        self.there.first()
    }

    /// The first container.
    pub fn container(&self) -> &Container {
        &self.stage.topology.containers[0]
    }

    /// Asks for a lease for the first container; gives netavark's answer as it is.
    pub fn setup(&self) -> Result<NetavarkLease, Status> {
        grpc::setup(&self.stage.unit.socket(), &self.stage.config(0))
    }

    /// Sends a Setup while the server forgets its offer: it refuses every REQUEST except after a
    /// new offer.
    pub fn setup_with_forgotten_offer(&self) -> Result<Result<NetavarkLease, Status>> {
        self.server.leave_unanswered(&[MessageType::Request]);
        thread::scope(|scope| {
            let setup = scope.spawn(|| self.setup());
            self.server
                .await_message(MessageType::Request, 1, Duration::from_secs(5))?;
            self.server.forget();
            self.server.leave_unanswered(&[]);
            Ok(setup.join().expect("no panic in Setup"))
        })
    }
}

/// The usual network, with what the server gives out.
pub fn plain(start: Start, settings: Settings) -> Result<Scene> {
    behind(start, None, 1, settings)
}

/// The usual network, where a path between host and server takes time or loses frames.
pub fn behind(
    start: Start,
    path: Option<Path>,
    containers: u16,
    settings: Settings,
) -> Result<Scene> {
    let topology = match path {
        Some(path) => Topology::behind(path, containers)?,
        None => Topology::new(containers)?,
    };
    let stage = start(topology)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    Ok(Scene::new(stage, server))
}

/// The server is a container too. A macvlan reaches its siblings but not its parent, so only a
/// client in the container reaches that server.
pub fn sibling(start: Start) -> Result<Scene> {
    let stage = start(Topology::new(2)?)?;
    let namespace = &stage.topology.containers[1].namespace;
    namespace.add_address(LINK, SERVER, 16)?;
    let server = Server::start(namespace, LINK, Settings::default())?;
    Ok(Scene::new(stage, server))
}

/// Container and server are ports of one bridge, which is the host's interface.
pub fn bridge(start: Start, settings: Settings) -> Result<Scene> {
    let (host, server, namespace) = (
        Namespace::new("host")?,
        Namespace::new("server")?,
        Namespace::new("container")?,
    );
    host.veth(BRIDGE_SERVER, &server, SERVER_LINK)?;
    host.veth(BRIDGE_CONTAINER, &namespace, LINK)?;
    host.bridge(LINK, &[BRIDGE_SERVER, BRIDGE_CONTAINER])?;
    let mac = Mac(namespace.link(LINK)?.mac.try_into().map_err(|_| "no MAC")?);
    let mut topology = Topology::between(host, server, 0)?;
    topology.containers.push(Container { namespace, mac });
    let stage = start(topology)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    Ok(Scene::new(stage, server))
}

/// The ports of [`bridge`].
pub const BRIDGE_SERVER: &str = "one";
pub const BRIDGE_CONTAINER: &str = "two";

/// A switch with spanning tree, whose ports have just come up: nothing passes for twice `delay`.
pub fn spanning_tree(start: Start, delay: Duration) -> Result<Scene> {
    let (host, server, switch) = (
        Namespace::new("host")?,
        Namespace::new("server")?,
        Namespace::new("switch")?,
    );
    switch.veth("one", &host, LINK)?;
    switch.veth("two", &server, SERVER_LINK)?;
    let stage = start(Topology::between(host, server, 1)?)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    switch.spanning_tree_bridge("br0", &["one", "two"], delay)?;
    Ok(Scene {
        there: vec![switch],
        ..Scene::new(stage, server)
    })
}

/// The direction across the switch of [`owned`] that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    ToOwner,
    ToServer,
}

/// The first address of the pool has an owner already, whose MAC is the other half of the answer.
/// Of the ways to it and to the server, one takes 5 ms there and back.
pub fn owned(start: Start, slow: Slow) -> Result<(Scene, Mac)> {
    let [host, server, switch, owner, middle] =
        ["host", "server", "switch", "owner", "middle"].map(Namespace::new);
    let (host, server, switch, owner, middle) = (host?, server?, switch?, owner?, middle?);
    let (at_once, late) = match slow {
        Slow::ToOwner => ((&server, SERVER_LINK), (&owner, LINK)),
        Slow::ToServer => ((&owner, LINK), (&server, SERVER_LINK)),
    };
    switch.veth("one", &host, LINK)?;
    switch.veth("two", at_once.0, at_once.1)?;
    switch.veth("three", &middle, "a")?;
    middle.veth("b", late.0, late.1)?;
    let path = Path {
        delay: Duration::from_micros(2500),
        ..Path::default()
    };
    let path = Forwarder::start(&middle, "a", "b", path)?;
    switch.bridge("br0", &["one", "two", "three"])?;
    let settings = Settings::default();
    owner.add_address(LINK, settings.first, 16)?;
    let mac = Mac(owner.link(LINK)?.mac.try_into().map_err(|_| "no MAC")?);
    let stage = start(Topology::between(host, server, 1)?)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    Ok((
        Scene {
            _path: Some(path),
            there: vec![switch, owner, middle],
            ..Scene::new(stage, server)
        },
        mac,
    ))
}

/// The container has a second interface in the same network; the other half of the answer is what
/// netavark says for it.
pub fn two_interfaces(start: Start, settings: Settings) -> Result<(Scene, NetworkConfig)> {
    let scene = plain(start, settings)?;
    let mac = Mac([0x02, 0x88, 0, 1, 0, 1]);
    scene
        .stage
        .topology
        .host
        .macvlan(LINK, &scene.container().namespace, "eth1", mac)?;
    let config = NetworkConfig {
        container_iface: "eth1".to_owned(),
        container_mac_addr: mac.to_string(),
        ..scene.container().config()
    };
    Ok((scene, config))
}

/// The router, and DHCP server, of the second network of [`two_networks`].
pub const SECOND_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The container has an interface in a second network as well; the other half of the answer is what
/// netavark says for it, and the server there.
pub fn two_networks(start: Start) -> Result<(Scene, NetworkConfig, Server)> {
    let scene = plain(start, Settings::default())?;
    let (host, far) = (&scene.stage.topology.host, Namespace::new("second")?);
    host.veth("eth1", &far, SERVER_LINK)?;
    far.add_address(SERVER_LINK, SECOND_SERVER, 16)?;
    let mac = Mac([0x02, 0x77, 0, 0, 0, 1]);
    host.macvlan("eth1", &scene.container().namespace, "eth1", mac)?;
    let settings = Settings {
        address: SECOND_SERVER,
        first: Ipv4Addr::new(10, 77, 1, 1),
        router: Some(SECOND_SERVER),
        ..Settings::default()
    };
    let server = Server::start(&far, SERVER_LINK, settings)?;
    let config = NetworkConfig {
        host_iface: "eth1".to_owned(),
        container_iface: "eth1".to_owned(),
        container_mac_addr: mac.to_string(),
        ..scene.container().config()
    };
    Ok((
        Scene {
            there: vec![far],
            ..scene
        },
        config,
        server,
    ))
}
