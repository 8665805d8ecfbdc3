//! The real topology: a host with a parent link, a DHCP server at its other end, and containers
//! with a macvlan each.

use std::net::Ipv4Addr;

use smol_dhcp_proxy::rpc::NetworkConfig;

use super::Result;
use super::forwarder::{Forwarder, Path};
use super::links::Address;
use super::namespace::Namespace;
use super::packets::Mac;

/// The link of the server's namespace that the DHCP server listens on.
pub const SERVER_LINK: &str = "s0";
/// The parent link of the host, and the link of each container.
pub const LINK: &str = "eth0";
/// The server's address, with a prefix of 16.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// Namespaces joined as on a real machine: `container eth0 (macvlan) - host eth0 - [path] - server
/// s0`.
#[derive(Debug)]
pub struct Topology {
    forwarder: Option<Forwarder>,
    pub containers: Vec<Container>,
    pub host: Namespace,
    pub server: Namespace,
}

/// A container: a namespace whose only link is a macvlan of the host's parent.
#[derive(Debug)]
pub struct Container {
    pub namespace: Namespace,
    pub mac: Mac,
}

impl Topology {
    /// A network with that many containers.
    pub fn new(containers: u16) -> Result<Self> {
        let (host, server) = (Namespace::new("host")?, Namespace::new("server")?);
        host.veth(LINK, &server, SERVER_LINK)?;
        Self::finish(host, server, None, containers)
    }

    /// The same with a path between host and server that takes time and loses frames.
    pub fn behind(path: Path, containers: u16) -> Result<Self> {
        let (host, server, middle) = (
            Namespace::new("host")?,
            Namespace::new("server")?,
            Namespace::new("middle")?,
        );
        middle.veth("a", &host, LINK)?;
        middle.veth("b", &server, SERVER_LINK)?;
        let forwarder = Forwarder::start(&middle, "a", "b", path)?;
        Self::finish(host, server, Some(forwarder), containers)
    }

    /// The same with whatever lies between the [`LINK`] of `host` and the [`SERVER_LINK`] of
    /// `server`.
    pub fn between(host: Namespace, server: Namespace, containers: u16) -> Result<Self> {
        Self::finish(host, server, None, containers)
    }

    fn finish(
        host: Namespace,
        server: Namespace,
        forwarder: Option<Forwarder>,
        containers: u16,
    ) -> Result<Self> {
        server.add_address(SERVER_LINK, SERVER, 16)?;
        let mut topology = Self {
            forwarder,
            containers: Vec::new(),
            host,
            server,
        };
        for _ in 0..containers {
            topology.add_container()?;
        }
        Ok(topology)
    }

    /// Adds a container and gives its place in `containers`.
    pub fn add_container(&mut self) -> Result<usize> {
        let number = self.containers.len();
        let [high, low] = u16::try_from(number + 1)?.to_be_bytes();
        let mac = Mac([0x02, 0x88, 0, 0, high, low]);
        let namespace = Namespace::new("container")?;
        self.host.macvlan(LINK, &namespace, LINK, mac)?;
        self.containers.push(Container { namespace, mac });
        Ok(number)
    }
}

impl Container {
    /// Returns netavark's message for the container.
    pub fn config(&self) -> NetworkConfig {
        NetworkConfig {
            host_iface: LINK.to_owned(),
            container_iface: LINK.to_owned(),
            container_mac_addr: self.mac.to_string(),
            ns_path: self.namespace.path().display().to_string(),
            // As long as Podman's, and another one for each container.
            container_id: "6f1e".repeat(13) + &self.mac.to_string().replace(':', ""),
            host_name: "box".to_owned(),
            ..NetworkConfig::default()
        }
    }

    /// The address that its link has, if it has one; an error if it has several.
    pub fn address(&self) -> Result<Option<Address>> {
        let mut addresses = self.namespace.addresses()?;
        if addresses.len() > 1 {
            return Err(format!("several addresses: {addresses:?}").into());
        }
        Ok(addresses.pop())
    }
}
