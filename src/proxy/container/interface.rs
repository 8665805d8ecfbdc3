//! The interface that a lease is for, in a container's network namespace.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::net::link::Link;
use crate::net::netlink::{self, Netlink};
use crate::net::netns::{Netns, NetnsId};
use crate::net::raw::{self};
use crate::net::wait_for_closes;
use crate::rt::{self};

use super::claimants::Claimants;
use super::parent::Parent;
use super::sockets::{ExchangeSockets, LinkState};
use crate::mac::Mac;
use crate::proxy::call::request::Request;
use crate::proxy::error::{BadRequest, CallError};

/// An interface in a network namespace, by properties that do not change. It holds no descriptor,
/// which would keep the container's namespace alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerInterface {
    pub(crate) netns: NetnsId,
    /// The interface index.
    pub(crate) index: u32,
}

/// The reason why an interface cannot be used again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The container or the interface does not exist any more.
    #[error("{0}")]
    Gone(String),
    /// The interface has another MAC than the lease.
    #[error("{0}")]
    OtherMac(String),
    /// The interface may exist, but cannot be accessed now.
    #[error(transparent)]
    Fault(#[from] CallError),
}

impl From<Unreachable> for CallError {
    fn from(unreachable: Unreachable) -> Self {
        match unreachable {
            Unreachable::Gone(why) | Unreachable::OtherMac(why) => Self::Vanished(why),
            Unreachable::Fault(error) => error,
        }
    }
}

impl ContainerInterface {
    /// Finds the interface of a request, and its parent if there is one. An invalid request fails
    /// here, before a message is sent.
    pub(crate) fn find(request: &Request) -> Result<(Self, Option<Parent>), CallError> {
        retry_after_closes(|| Self::try_find(request), CallError::is_out_of_descriptors)
    }

    fn try_find(request: &Request) -> Result<(Self, Option<Parent>), CallError> {
        // The host's interface first, while this thread is in the host's namespace.
        let host = Netlink::open().map_err(CallError::fault("opening a netlink socket"))?;
        let named = host
            .link_by_name(&request.host_interface)
            .map_err(looking_for(&request.host_interface))?;
        // The parent of a macvlan network without one in its configuration is the interface of the
        // default route.
        if named.is_none() && !request.host_interface.is_empty() {
            return Err(no_interface(
                "host_iface",
                &request.host_interface,
                "the daemon's network namespace",
            ));
        }
        let netns = Netns::open(&request.ns_path)?;
        let link = netlink_in(&netns)?
            .link_by_name(&request.container_interface)
            .map_err(looking_for(&request.container_interface))?
            .ok_or_else(|| {
                no_interface(
                    "container_iface",
                    &request.container_interface,
                    "the container's network namespace",
                )
            })?;
        if link.mac != Some(request.key.mac.0) {
            return Err(BadRequest::OtherMac {
                interface: request.container_interface.clone(),
                has: mac_text(&link),
                wanted: request.key.mac.to_string(),
            }
            .into());
        }
        let parent =
            Parent::find(&host, named, &link).map_err(looking_for(&request.host_interface))?;
        Ok((
            Self {
                netns: netns.id(),
                index: link.index,
            },
            parent,
        ))
    }

    /// Opens the sockets of an exchange if it is still the same interface in the same namespace. It
    /// may be down or have no carrier.
    pub(crate) fn open(&self, request: &Request) -> Result<ExchangeSockets, Unreachable> {
        self.open_sockets(request, has_its_mac)
    }

    /// Opens the sockets even if the MAC has changed: a RELEASE has the lease's MAC in `chaddr`,
    /// and may have another source address in its frame.
    pub(crate) fn open_for_release(
        &self,
        request: &Request,
    ) -> Result<ExchangeSockets, Unreachable> {
        self.open_sockets(request, |_, _| Ok(()))
    }

    fn open_sockets(
        &self,
        request: &Request,
        check: CheckLink,
    ) -> Result<ExchangeSockets, Unreachable> {
        let is_out =
            |error: &_| matches!(error, Unreachable::Fault(error) if error.is_out_of_descriptors());
        retry_after_closes(|| self.try_open(request, check), is_out)
    }

    fn try_open(
        &self,
        request: &Request,
        check: CheckLink,
    ) -> Result<ExchangeSockets, Unreachable> {
        let (netns, netlink, link) = self.reach(request)?;
        check(&link, request)?;
        let mut sockets = ExchangeSockets::open(&netns, &link, request.key.mac)?;
        // The state now; the sockets receive later changes.
        let link = self.look(&netlink, request)?;
        sockets.state = LinkState::new(link.up, link.carrier);
        Ok(sockets)
    }

    /// Returns whether the container itself claims the address `at_stake` in a received frame.
    /// Linux answers ARP on each interface for the addresses of all (`arp_ignore` in its
    /// ip-sysctl), which is not a conflict (RFC 5227 §2.4).
    pub(crate) fn is_claimed_by_container(
        &self,
        request: &Request,
        claimants: &mut Claimants,
        at_stake: Option<Ipv4Addr>,
        frame: &[u8],
    ) -> bool {
        let Some((station, address)) = raw::arp_sender(frame) else {
            return false;
        };
        let station = Mac(station);
        if station == request.key.mac || at_stake != Some(address) {
            return false;
        }
        let links = || -> Result<Vec<Link>, Unreachable> {
            Ok(self
                .netlink(request)?
                .links()
                .map_err(looking_for("the container's interfaces"))?)
        };
        claimants.belongs_to_container(station, rt::now(), || match links() {
            Ok(links) => links.iter().any(|link| link.mac == Some(station.0)),
            // An address that is declined without need is lost to the network for a while; a real
            // conflict is noticed at the next renewal.
            Err(error) => {
                let prefix = request.key.log_prefix(None);
                log::warn!("{prefix}: ignoring the claim of {station} to {address}: {error}");
                true
            }
        })
    }

    /// Opens a netlink socket if it is still the same namespace. The interface may be down or have
    /// another MAC.
    pub(crate) fn netlink(&self, request: &Request) -> Result<Netlink, Unreachable> {
        self.reach(request).map(|(_, netlink, _)| netlink)
    }

    /// Opens a netlink socket if it is still the same interface with the same MAC.
    pub(crate) fn check(&self, request: &Request) -> Result<Netlink, Unreachable> {
        let (_, netlink, link) = self.reach(request)?;
        has_its_mac(&link, request).map(|()| netlink)
    }

    /// Returns the present name of the interface.
    pub(crate) fn name(&self, request: &Request) -> Result<String, Unreachable> {
        self.reach(request).map(|(_, _, link)| link.name)
    }

    fn reach(&self, request: &Request) -> Result<(Netns, Netlink, Link), Unreachable> {
        let path = &request.ns_path;
        let netns = Netns::open(path).map_err(|error| match CallError::from(error) {
            // The path used to lead to a namespace. Once that has ended, the path does not exist,
            // or is the plain file that was mounted over.
            CallError::BadRequest(_) => Unreachable::Gone("the network namespace is gone".into()),
            error => Unreachable::Fault(error),
        })?;
        if netns.id() != self.netns {
            return Err(Unreachable::Gone(
                "another network namespace has taken its path".into(),
            ));
        }
        let netlink = netlink_in(&netns)?;
        let link = self.look(&netlink, request)?;
        Ok((netns, netlink, link))
    }

    fn look(&self, netlink: &Netlink, request: &Request) -> Result<Link, Unreachable> {
        let link = netlink
            .link_by_index(self.index)
            .map_err(looking_for(&request.container_interface))?;
        link.ok_or_else(|| Unreachable::Gone("the interface is gone".into()))
    }
}

/// Runs `open`, and once more after pending closes if it fails for lack of descriptors.
fn retry_after_closes<T, E>(
    open: impl Fn() -> Result<T, E>,
    is_out: impl Fn(&E) -> bool,
) -> Result<T, E> {
    // This blocks the executor thread, but is better than refusing a call when descriptors are
    // about to be free.
    const TIMEOUT: Duration = Duration::from_millis(100);
    open().or_else(|error| {
        if is_out(&error) && wait_for_closes(TIMEOUT) {
            open()
        } else {
            Err(error)
        }
    })
}

/// A check that an interface has to pass before its sockets are opened.
type CheckLink = fn(&Link, &Request) -> Result<(), Unreachable>;

/// Rejects an interface with another MAC than the lease.
fn has_its_mac(link: &Link, request: &Request) -> Result<(), Unreachable> {
    if link.mac == Some(request.key.mac.0) {
        return Ok(());
    }
    Err(Unreachable::OtherMac(format!(
        "the interface has the MAC {} now",
        mac_text(link)
    )))
}

/// Returns a unique path for a namespace: /var/run is /run. The last component is not resolved,
/// because a target below /proc has no other path.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    let resolved = path
        .parent()
        .zip(path.file_name())
        .map(|(parent, name)| (parent.canonicalize(), name));
    match resolved {
        // The state file stores paths as text.
        Some((Ok(parent), name)) if parent.to_str().is_some() => parent.join(name),
        _ => path.to_owned(),
    }
}

pub(crate) fn netlink_in(netns: &Netns) -> Result<Netlink, CallError> {
    let opened = netns.enter(Netlink::open).map_err(CallError::fault(
        "entering the container's network namespace",
    ))?;
    opened.map_err(CallError::fault("opening a netlink socket"))
}

pub(crate) fn looking_for(interface: &str) -> impl FnOnce(netlink::NetlinkError) -> CallError {
    let doing = format!("looking for {interface}");
    move |error| CallError::fault(doing)(error.into_io())
}

fn no_interface(field: &'static str, name: &str, place: &'static str) -> CallError {
    BadRequest::NoInterface {
        field,
        name: name.to_owned(),
        place,
    }
    .into()
}

fn mac_text(link: &Link) -> String {
    link.mac.map_or_else(
        || "no Ethernet address".to_owned(),
        |mac| Mac(mac).to_string(),
    )
}
