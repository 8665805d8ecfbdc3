//! What a caller asks for, parsed at the door: behind it there are only types.

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::rpc::wire::NetworkConfig;

use super::error::BadRequest;
use super::identity::Identity;
use super::memory::Who;

/// An Ethernet address; compared without case because it is compared as bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl Mac {
    /// Reads six hexadecimal bytes with `:` or `-` between them. The texts of the errors are those
    /// that netavark's users and test suite know.
    pub(super) fn parse(text: &str) -> Result<Self, BadRequest> {
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
pub(super) struct Key {
    /// The hardware address that the interface had at its Setup.
    pub(super) mac: Mac,
    /// The container's network namespace, as the caller names it.
    pub(super) netns: Rc<Path>,
    /// The interface in it, by the name it had at its Setup.
    pub(super) interface: Rc<str>,
}

impl Key {
    /// Returns whether `other` is another lease of the same interface, whose MAC has changed
    /// between their Setups.
    pub(super) fn is_predecessor(&self, other: &Self) -> bool {
        self.mac != other.mac && self.netns == other.netns && self.interface == other.interface
    }
}

/// A Setup whose form is right; whether its interfaces exist is asked next.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The lease's key.
    pub(super) key: Key,
    /// The network namespace as the caller wrote it. The key may have another name for it.
    pub(super) ns_path: Rc<Path>,
    /// The address as the caller wrote it, for replies and the lease file.
    pub(super) mac_text: String,
    /// The parent on the host, empty where neither the caller nor the kernel names it. DHCP is
    /// spoken from the container's interface; this one only has to exist.
    pub(super) host_interface: String,
    /// The interface in the container that gets the lease.
    pub(super) container_interface: String,
    /// Option 61, or nothing.
    pub(super) client_id: Vec<u8>,
    /// Option 12.
    pub(super) host_name: Option<String>,
    /// The caller's domain, which the reply gives back.
    pub(super) domain_name: String,
}

/// The longest value of one DHCP option (RFC 2132 2).
pub(super) const OPTION_MAX: usize = 255;

impl Request {
    /// Checks everything that can be checked without asking the kernel.
    pub(super) fn parse(config: NetworkConfig, identity: &Identity) -> Result<Self, BadRequest> {
        let mac = Mac::parse(&config.container_mac_addr)?;
        match config.version {
            0 => {}
            1 => return Err(BadRequest::Ipv6),
            _ => return Err(BadRequest::Version),
        }
        if config.ns_path.is_empty() {
            return Err(BadRequest::NoNetns);
        }
        let client_id = identity.client_id(&config.container_id, mac);
        if client_id.len() > OPTION_MAX {
            return Err(BadRequest::TooLong {
                field: "container_id",
                limit: OPTION_MAX - 1,
            });
        }
        if config.host_name.len() > OPTION_MAX {
            return Err(BadRequest::TooLong {
                field: "host_name",
                limit: OPTION_MAX,
            });
        }
        let ns_path: Rc<Path> = Path::new(&config.ns_path).into();
        Ok(Self {
            key: Key {
                mac,
                netns: Rc::clone(&ns_path),
                interface: config.container_iface.as_str().into(),
            },
            ns_path,
            mac_text: config.container_mac_addr,
            host_interface: config.host_iface,
            container_interface: config.container_iface,
            client_id,
            host_name: (!config.host_name.is_empty()).then_some(config.host_name),
            domain_name: config.domain_name,
        })
    }
}

impl Request {
    /// The names that the container goes by.
    pub(super) fn who(&self) -> Who<'_> {
        Who {
            network: &self.host_interface,
            client_id: &self.client_id,
            mac: self.key.mac,
        }
    }

    /// The host's name with its domain, which may be part of it or beside it; none where there is
    /// no domain.
    pub(super) fn whole_name(&self) -> Option<String> {
        let host = self.host_name.as_deref()?.trim_end_matches('.');
        let domain = self.domain_name.trim_matches('.');
        if domain.is_empty() {
            return host.contains('.').then(|| host.to_owned());
        }
        let has_domain = host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'));
        Some(if has_domain {
            host.to_owned()
        } else {
            format!("{host}.{domain}")
        })
    }
}

/// Selects the leases that a Teardown means: by interface where it names one in a namespace,
/// because the container may have changed its MAC; else by MAC, in one network namespace where it
/// names that.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    mac: Mac,
    netns: Option<PathBuf>,
    interface: String,
}

impl Selector {
    /// None where the MAC is no MAC: no lease can have it, and Teardown of the unknown succeeds.
    pub(super) fn parse(config: &NetworkConfig) -> Option<Self> {
        let mac = Mac::parse(&config.container_mac_addr).ok()?;
        let netns = (!config.ns_path.is_empty()).then(|| Path::new(&config.ns_path).to_owned());
        Some(Self {
            mac,
            netns,
            interface: config.container_iface.clone(),
        })
    }

    /// The same with another name for the network namespace, if it names one.
    pub(super) fn with_netns(self, name: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self {
            netns: self.netns.map(|netns| name(&netns)),
            ..self
        }
    }

    /// Returns the interface, where it is named together with its namespace.
    pub(super) fn interface(&self) -> Option<&str> {
        (self.netns.is_some() && !self.interface.is_empty()).then_some(&*self.interface)
    }

    /// Returns whether `key` has the interface that is named, whatever its MAC.
    pub(super) fn matches_interface(&self, key: &Key) -> bool {
        self.interface() == Some(&*key.interface) && self.netns.as_deref() == Some(&*key.netns)
    }

    /// Returns whether `key` has the MAC, in the namespace that is named if one is.
    pub(super) fn matches_mac(&self, key: &Key) -> bool {
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

    fn config() -> NetworkConfig {
        NetworkConfig {
            host_iface: "eth0".into(),
            container_iface: "eth0".into(),
            container_mac_addr: "AA-bb:cc:dd:ee:0F".into(),
            ns_path: "/run/netns/c".into(),
            container_id: "0123abc".into(),
            ..NetworkConfig::default()
        }
    }

    fn parsed(config: NetworkConfig) -> Result<Request, BadRequest> {
        Request::parse(config, &Identity::Container)
    }

    #[test]
    fn a_mac_is_read_in_any_case_and_with_either_separator() {
        let request = parsed(config()).unwrap();
        assert_eq!(request.key.mac, Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]));
        assert_eq!(request.client_id, b"\x000123abc");
    }

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

    #[test]
    fn versions_but_four_and_a_missing_netns_are_refused() {
        let refused = |config| parsed(config).unwrap_err().to_string();
        assert_eq!(
            refused(NetworkConfig {
                version: 1,
                ..config()
            }),
            "ipv6 not yet supported"
        );
        assert_eq!(
            refused(NetworkConfig {
                version: 7,
                ..config()
            }),
            "invalid protocol version"
        );
        assert!(
            refused(NetworkConfig {
                ns_path: String::new(),
                ..config()
            })
            .starts_with("ns_path is empty")
        );
        let long = "x".repeat(255);
        assert!(
            refused(NetworkConfig {
                container_id: long,
                ..config()
            })
            .starts_with("container_id is too long")
        );
    }

    #[test]
    fn a_whole_name_has_its_domain_once() {
        let whole = |host: &str, domain: &str| {
            let named = NetworkConfig {
                host_name: host.into(),
                domain_name: domain.into(),
                ..config()
            };
            parsed(named).unwrap().whole_name()
        };
        let expected = Some("web.lab.example".to_owned());
        for (host, domain) in [
            ("web", "lab.example"),
            ("web.lab.example", "lab.example"),
            ("web.lab.example", ""),
            ("web.lab.example.", ""),
            ("web.", ".lab.example."),
        ] {
            assert_eq!(whole(host, domain), expected, "{host} and {domain}");
        }
        assert_eq!(
            whole("weblab.example", "lab.example"),
            Some("weblab.example.lab.example".to_owned())
        );
        assert_eq!(
            (whole("web", ""), whole("", "lab.example"), whole("", "")),
            (None, None, None)
        );
    }

    #[test]
    fn a_teardown_means_the_interface_that_it_names_whatever_its_mac() {
        let key = parsed(config()).unwrap().key;
        let selects = |config: NetworkConfig| {
            Selector::parse(&config).is_some_and(|selector| selector.matches_interface(&key))
        };
        assert!(selects(config()));
        assert!(selects(NetworkConfig {
            container_mac_addr: "02:00:00:00:00:01".into(),
            ..config()
        }));
        assert!(
            !selects(NetworkConfig {
                container_iface: "eth1".into(),
                ..config()
            }),
            "another one with the same MAC"
        );
        assert!(!selects(NetworkConfig {
            ns_path: "/run/netns/other".into(),
            ..config()
        }));
        assert!(!selects(NetworkConfig {
            ns_path: String::new(),
            ..config()
        }));
    }

    #[test]
    fn a_setup_follows_one_of_the_same_interface_with_another_mac() {
        let key = |mac: &str, netns: &str, interface: &str| {
            let (container_mac_addr, ns_path, container_iface) =
                (mac.into(), netns.into(), interface.into());
            parsed(NetworkConfig {
                container_mac_addr,
                ns_path,
                container_iface,
                ..config()
            })
            .unwrap()
            .key
        };
        let (one, other) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        let new = key(one, "/run/netns/c", "eth0");
        assert!(key(other, "/run/netns/c", "eth0").is_predecessor(&new));
        for unrelated in [
            new.clone(),
            key(other, "/run/netns/d", "eth0"),
            key(other, "/run/netns/c", "eth1"),
        ] {
            assert!(!unrelated.is_predecessor(&new), "{unrelated:?}");
        }
    }

    #[test]
    fn else_it_means_the_mac_in_the_netns_that_it_names_if_any() {
        let key = parsed(config()).unwrap().key;
        let selects = |config: NetworkConfig| {
            Selector::parse(&config).is_some_and(|selector| selector.matches_mac(&key))
        };
        assert!(selects(config()));
        assert!(selects(NetworkConfig {
            container_mac_addr: "aa:bb:cc:dd:ee:0f".into(),
            ..config()
        }));
        assert!(selects(NetworkConfig {
            ns_path: String::new(),
            ..config()
        }));
        assert!(!selects(NetworkConfig {
            ns_path: "/run/netns/other".into(),
            ..config()
        }));
        assert!(!selects(NetworkConfig {
            container_mac_addr: "123".into(),
            ..config()
        }));
    }
}
