//! The identities of leases: hardware addresses, the key of a lease, and the names that find it.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::rpc::wire::NetworkConfig;

use super::error::BadRequest;

/// An Ethernet address; compared without case because it is compared as bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// Reads six hexadecimal bytes with `:` or `-` between them. The texts of the errors are those
    /// that netavark's users and test suite know.
    pub(crate) fn parse(text: &str) -> Result<Self, BadRequest> {
        let unreadable = |why: &str| BadRequest::Mac {
            input: text.to_owned(),
            why: why.to_owned(),
        };
        let bytes =
            text.split([':', '-'])
                // from_str_radix takes a sign, an Ethernet address has none.
                .map(
                    |byte| match byte.bytes().find(|digit| !digit.is_ascii_hexdigit()) {
                        Some(_) => Err(unreadable("invalid digit found in string")),
                        None => u8::from_str_radix(byte, 16)
                            .map_err(|error| unreadable(&error.to_string())),
                    },
                )
                .collect::<Result<Vec<u8>, _>>()?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| BadRequest::MacLength(text.to_owned()))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_macs_get_the_texts_that_users_know() {
        for (mac, text) in [
            (
                "",
                "unable to parse mac address : cannot parse integer from empty string",
            ),
            (
                "123",
                "unable to parse mac address 123: number too large to fit in target type",
            ),
            (
                "zz:bb:cc:dd:ee:ff",
                "unable to parse mac address zz:bb:cc:dd:ee:ff: invalid digit found in string",
            ),
            (
                "+a:bb:cc:dd:ee:ff",
                "unable to parse mac address +a:bb:cc:dd:ee:ff: invalid digit found in string",
            ),
            ("aa:bb:cc", "invalid mac length for address: aa:bb:cc"),
            (
                "aa:bb:cc:dd:ee:ff:11",
                "invalid mac length for address: aa:bb:cc:dd:ee:ff:11",
            ),
        ] {
            assert_eq!(Mac::parse(mac).unwrap_err().to_string(), text);
        }
    }
}
