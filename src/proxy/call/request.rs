//! Parses and validates a caller's request.

use std::path::Path;
use std::rc::Rc;

use crate::mac::Mac;
use crate::proxy::call::client_id::ClientIdentity;
use crate::proxy::error::BadRequest;
use crate::proxy::key::{ContainerNames, LeaseKey};
use crate::rpc::wire::NetworkConfig;

/// A well-formed Setup. Its interfaces may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) key: LeaseKey,
    /// The network namespace as the caller wrote it; the key has its canonical path.
    pub(crate) ns_path: Rc<Path>,
    /// The MAC as the caller wrote it, for replies and the lease file.
    pub(crate) mac_text: String,
    /// The parent on the host; empty if neither the caller nor the kernel names it. It only has to
    /// exist: messages are sent on the container's interface.
    pub(crate) host_interface: String,
    /// The interface in the container.
    pub(crate) container_interface: String,
    /// Option 61; empty for none.
    pub(crate) client_id: Vec<u8>,
    /// Option 12.
    pub(crate) host_name: Option<String>,
    /// The caller's domain, for the reply.
    pub(crate) domain_name: String,
}

/// The longest value of one DHCP option (RFC 2132 §2).
pub(crate) const OPTION_MAX: usize = 255;

impl Request {
    /// Parses a request, without asking the kernel.
    pub(crate) fn parse(
        config: NetworkConfig,
        identity: &ClientIdentity,
    ) -> Result<Self, BadRequest> {
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
            key: LeaseKey {
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
    /// Returns the container's names.
    pub(crate) fn names(&self) -> ContainerNames<'_> {
        ContainerNames {
            network: &self.host_interface,
            client_id: &self.client_id,
            mac: self.key.mac,
        }
    }

    /// Returns the host name with its domain, which may be part of it or separate; `None` without a
    /// domain.
    pub(crate) fn fqdn(&self) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::key::Selector;

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
        Request::parse(config, &ClientIdentity::Container)
    }

    #[test]
    fn a_mac_is_read_in_any_case_and_with_either_separator() {
        let request = parsed(config()).unwrap();
        assert_eq!(request.key.mac, Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]));
        assert_eq!(request.client_id, b"\x000123abc");
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
            parsed(named).unwrap().fqdn()
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
