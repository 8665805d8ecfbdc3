//! The identities of leases: hardware addresses, the key of a lease, and the names that find it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::mac::Mac;
use crate::rpc::wire::NetworkConfig;

/// Identifies a lease. The container's id cannot be part of it: a Teardown comes without one. The
/// MAC is first, because the state file groups leases by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseKey {
    /// The hardware address that the interface had at its Setup.
    pub(crate) mac: Mac,
    /// The container's network namespace, as the caller names it.
    pub(crate) netns: Rc<Path>,
    /// The interface in it, by the name it had at its Setup.
    pub(crate) interface: Rc<str>,
}

impl LeaseKey {
    /// Returns whether `other` is another lease of the same interface, whose MAC has changed
    /// between their Setups.
    pub(crate) fn is_predecessor(&self, other: &Self) -> bool {
        self.mac != other.mac && self.netns == other.netns && self.interface == other.interface
    }
}

/// A container on one of the host's networks, by the names that it goes by. It may come back with
/// one of them alone: Podman gives it another MAC at each start, and who makes it anew gives it
/// another id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerNames<'a> {
    /// The parent interface; a container on two networks has two addresses. Empty where that is not
    /// known.
    pub(crate) network: &'a str,
    /// Option 61; empty where there is none.
    pub(crate) client_id: &'a [u8],
    /// Its hardware address.
    pub(crate) mac: Mac,
}

/// Identifies a DHCP server. Private addresses are used on many networks, so the address alone says
/// little.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DhcpServer {
    /// The interface of the host that leads to its network.
    pub(crate) network: String,
    /// The server's address (option 54).
    pub(crate) address: Ipv4Addr,
    /// The station that its messages come from, its own or that of a router or relay; `None` where
    /// that is not known.
    pub(crate) station: Option<Mac>,
}

/// Selects the leases that a Teardown means: by interface where it names one in a namespace,
/// because the container may have changed its MAC; else by MAC, in one network namespace where it
/// names that.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    mac: Mac,
    netns: Option<PathBuf>,
    interface: String,
}

impl Selector {
    /// None where the MAC is no MAC: no lease can have it, and Teardown of the unknown succeeds.
    pub(crate) fn parse(config: &NetworkConfig) -> Option<Self> {
        let mac = Mac::parse(&config.container_mac_addr).ok()?;
        let netns = (!config.ns_path.is_empty()).then(|| Path::new(&config.ns_path).to_owned());
        Some(Self {
            mac,
            netns,
            interface: config.container_iface.clone(),
        })
    }

    /// The same with another name for the network namespace, if it names one.
    pub(crate) fn with_netns(self, name: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self {
            netns: self.netns.map(|netns| name(&netns)),
            ..self
        }
    }

    /// Returns the interface, where it is named together with its namespace.
    pub(crate) fn interface(&self) -> Option<&str> {
        (self.netns.is_some() && !self.interface.is_empty()).then_some(&*self.interface)
    }

    /// Returns whether `key` has the interface that is named, whatever its MAC.
    pub(crate) fn matches_interface(&self, key: &LeaseKey) -> bool {
        self.interface() == Some(&*key.interface) && self.netns.as_deref() == Some(&*key.netns)
    }

    /// Returns whether `key` has the MAC, in the namespace that is named if one is.
    pub(crate) fn matches_mac(&self, key: &LeaseKey) -> bool {
        self.mac == key.mac
            && self
                .netns
                .as_deref()
                .is_none_or(|netns| netns == &*key.netns)
    }
}
