//! Identities: of a lease, a container, a DHCP server, and the leases that a Teardown selects.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::mac::Mac;
use crate::rpc::wire::NetworkConfig;

/// Identifies a lease. The container's id is not part of it, because a Teardown comes without one.
/// The MAC is the first field: the state file groups leases by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseKey {
    /// The interface's MAC at its Setup.
    pub(crate) mac: Mac,
    /// The container's network namespace, by its canonical path.
    pub(crate) netns: Rc<Path>,
    /// The interface's name at its Setup.
    pub(crate) interface: Rc<str>,
}

impl LeaseKey {
    /// Returns whether `other` is an older lease of the same interface, from before its MAC
    /// changed.
    pub(crate) fn is_predecessor(&self, other: &Self) -> bool {
        self.mac != other.mac && self.netns == other.netns && self.interface == other.interface
    }

    /// Returns the prefix of log lines about this lease; `address` comes with its prefix length.
    pub(crate) fn log_prefix(&self, address: Option<(Ipv4Addr, u8)>) -> LogPrefix<'_> {
        LogPrefix {
            interface: &self.interface,
            netns: &self.netns,
            address,
        }
    }
}

/// The beginning of each log line about a lease: `eth0 in /run/netns/netns-1 (10.0.0.5/24)`, or
/// `eth0 in /run/netns/netns-1` while the interface has no lease. A colon follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogPrefix<'a> {
    interface: &'a str,
    netns: &'a Path,
    address: Option<(Ipv4Addr, u8)>,
}

impl<'a> LogPrefix<'a> {
    /// Returns the prefix for a call, whose fields may be empty.
    pub(crate) fn of_call(call: &'a NetworkConfig) -> Self {
        Self {
            interface: &call.container_iface,
            netns: Path::new(&call.ns_path),
            address: None,
        }
    }
}

impl fmt::Display for LogPrefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface, netns, ..
        } = self;
        write!(
            f,
            "{} in {}",
            if interface.is_empty() { "-" } else { interface },
            if netns.as_os_str().is_empty() {
                Path::new("-")
            } else {
                netns
            }
            .display()
        )?;
        match self.address {
            Some((address, prefix_len)) => write!(f, " ({address}/{prefix_len})"),
            None => Ok(()),
        }
    }
}

/// The names by which a container on one of the host's networks is recognized. It may come back
/// with one of them only: Podman gives it another MAC at each start, and a container that is
/// created anew has another id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerNames<'a> {
    /// The parent interface, because a container on two networks has two addresses. Empty where it
    /// is not known.
    pub(crate) network: &'a str,
    /// Option 61; empty for none.
    pub(crate) client_id: &'a [u8],
    pub(crate) mac: Mac,
}

/// Identifies a DHCP server. Its address alone does not: private addresses are used on many
/// networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DhcpServer {
    /// The host's interface that leads to its network.
    pub(crate) network: String,
    /// Option 54.
    pub(crate) address: Ipv4Addr,
    /// The source MAC of its messages: its own, or that of a router or relay. `None` where it is
    /// not known.
    pub(crate) station: Option<Mac>,
}

/// Selects the leases of a Teardown: by interface where the call names one in a namespace, because
/// its MAC may have changed; otherwise by MAC, in one namespace or in all.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    mac: Mac,
    netns: Option<PathBuf>,
    interface: String,
}

impl Selector {
    /// Returns `None` for an invalid MAC: no lease has it, and such a Teardown succeeds.
    pub(crate) fn parse(config: &NetworkConfig) -> Option<Self> {
        let mac = Mac::parse(&config.container_mac_addr).ok()?;
        let netns = (!config.ns_path.is_empty()).then(|| Path::new(&config.ns_path).to_owned());
        Some(Self {
            mac,
            netns,
            interface: config.container_iface.clone(),
        })
    }

    /// Replaces the path of the network namespace, if there is one.
    pub(crate) fn with_netns(self, name: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self {
            netns: self.netns.map(|netns| name(&netns)),
            ..self
        }
    }

    /// Returns the interface, if the call names its namespace as well.
    pub(crate) fn interface(&self) -> Option<&str> {
        (self.netns.is_some() && !self.interface.is_empty()).then_some(&*self.interface)
    }

    /// Returns whether `key` is a lease of the selected interface, with any MAC.
    pub(crate) fn matches_interface(&self, key: &LeaseKey) -> bool {
        self.interface() == Some(&*key.interface) && self.netns.as_deref() == Some(&*key.netns)
    }

    /// Returns whether `key` has the selected MAC, in the selected namespace if there is one.
    pub(crate) fn matches_mac(&self, key: &LeaseKey) -> bool {
        self.mac == key.mac
            && self
                .netns
                .as_deref()
                .is_none_or(|netns| netns == &*key.netns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_begins_with_interface_namespace_and_address() {
        let key = LeaseKey {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            netns: Path::new("/run/netns/netns-1").into(),
            interface: "eth0".into(),
        };
        assert_eq!(
            key.log_prefix(None).to_string(),
            "eth0 in /run/netns/netns-1"
        );
        let address = Some((Ipv4Addr::new(10, 0, 0, 5), 24));
        assert_eq!(
            key.log_prefix(address).to_string(),
            "eth0 in /run/netns/netns-1 (10.0.0.5/24)"
        );
        let call = NetworkConfig {
            container_iface: "eth0".to_owned(),
            ..NetworkConfig::default()
        };
        assert_eq!(LogPrefix::of_call(&call).to_string(), "eth0 in -");
    }
}
