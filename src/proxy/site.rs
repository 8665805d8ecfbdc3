//! Where a lease lives: an interface in a container's network namespace, and the sockets into it.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use rustix::event::epoll;

use crate::dhcp::{self, Transmit};
use crate::net::link::Link;
use crate::net::monitor::{Monitor, News};
use crate::net::netlink::{self, Netlink};
use crate::net::netns::{Netns, NetnsId};
use crate::net::raw::{self, RawSocket};
use crate::net::udp::Port;
use crate::net::wait_for_closes;
use crate::rt::{self, Watched};
use crate::time::Instant;

use super::claimants::Claimants;
use super::error::{BadRequest, Error};
use super::parent::Parent;
use super::request::{Mac, Request};

/// The longest frame that a DHCP message for us comes in: Ethernet's header and its usual MTU.
const FRAME: usize = 14 + 1500;

/// An interface in a network namespace, by what stays the same for as long as it is that one. It
/// holds nothing open, for a descriptor would keep a container's namespace alive.
#[derive(Debug)]
pub(super) struct Site {
    /// Which network namespace it is.
    pub(super) netns: NetnsId,
    /// The number of the interface.
    pub(super) index: u32,
}

/// Why a site could not be reached again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// The container, or its interface, does not exist any more.
    #[error("{0}")]
    Gone(String),
    /// The interface is there, with another hardware address than the one that its lease is for.
    #[error("{0}")]
    OtherMac(String),
    /// It may be there, but not for us, or not now.
    #[error(transparent)]
    Fault(#[from] Error),
}

impl From<Unreachable> for Error {
    fn from(unreachable: Unreachable) -> Self {
        match unreachable {
            Unreachable::Gone(why) | Unreachable::OtherMac(why) => Self::Vanished(why),
            Unreachable::Fault(error) => error,
        }
    }
}

impl Site {
    /// Finds what a request speaks of, and the parent as far as that is known: whatever is wrong
    /// with the request is found before any server is asked.
    pub(super) fn find(request: &Request) -> Result<(Self, Option<Parent>), Error> {
        with_what_is_closed(|| Self::look_up(request), Error::is_out_of_descriptors)
    }

    fn look_up(request: &Request) -> Result<(Self, Option<Parent>), Error> {
        // First the host's interface: this thread is in the host's namespace.
        let host = Netlink::open().map_err(Error::fault("opening a netlink socket"))?;
        let named = host
            .link_by_name(&request.host_interface)
            .map_err(looking_for(&request.host_interface))?;
        // A macvlan network without a parent in its configuration is on the interface of the
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

    /// Opens the sockets of an exchange, if it is still the same interface in the same namespace.
    /// It may be down, or without carrier.
    pub(super) fn open(&self, request: &Request) -> Result<Wire, Unreachable> {
        self.open_sockets(request, has_its_mac)
    }

    /// Opens the same sockets whatever hardware address the interface has by now: a RELEASE names
    /// in `chaddr` the one that the lease is for, and its frame may come from another.
    pub(super) fn open_for_release(&self, request: &Request) -> Result<Wire, Unreachable> {
        self.open_sockets(request, |_, _| Ok(()))
    }

    fn open_sockets(&self, request: &Request, check: CheckLink) -> Result<Wire, Unreachable> {
        let is_out =
            |error: &_| matches!(error, Unreachable::Fault(error) if error.is_out_of_descriptors());
        with_what_is_closed(|| self.try_open(request, check), is_out)
    }

    fn try_open(&self, request: &Request, check: CheckLink) -> Result<Wire, Unreachable> {
        let (netns, netlink, link) = self.reach(request)?;
        check(&link, request)?;
        let mut wire = Wire::open(&netns, &link, request.key.mac)?;
        // What changes from now on, the wire is told; so this is how things stand.
        let link = self.look(&netlink, request)?;
        wire.state = LinkState::new(link.up, link.carrier);
        Ok(wire)
    }

    /// Whether the container itself claims the address `at_stake`, in a frame that is heard on the
    /// wire. By ARP, Linux answers on each interface for the addresses of all of them (`arp_ignore`
    /// in its ip-sysctl), which is no conflict (RFC 5227 2.4).
    pub(super) fn is_claimed_by_container(
        &self,
        request: &Request,
        claimants: &mut Claimants,
        at_stake: Option<Ipv4Addr>,
        frame: &[u8],
    ) -> bool {
        let Some((station, address)) = raw::arp_sender(frame) else {
            return false;
        };
        if station == request.key.mac.0 || at_stake != Some(address) {
            return false;
        }
        let links = || -> Result<Vec<Link>, Unreachable> {
            Ok(self
                .netlink(request)?
                .links()
                .map_err(looking_for("the container's interfaces"))?)
        };
        claimants.is_containers(station, rt::now(), || match links() {
            Ok(links) => links.iter().any(|link| link.mac == Some(station)),
            // A good address that is declined is lost to the network for a while; one that is not
            // is asked after again at the next renewal.
            Err(error) => {
                log::warn!(
                    "taking no notice of {}, which claims {address}: {error}",
                    Mac(station)
                );
                true
            }
        })
    }

    /// Opens a netlink socket to change the interface with, if it is still the same namespace. The
    /// interface may be down, or have another hardware address by now.
    pub(super) fn netlink(&self, request: &Request) -> Result<Netlink, Unreachable> {
        self.reach(request).map(|(_, netlink, _)| netlink)
    }

    /// The same, if it is still the same interface in every respect.
    pub(super) fn check(&self, request: &Request) -> Result<Netlink, Unreachable> {
        let (_, netlink, link) = self.reach(request)?;
        has_its_mac(&link, request).map(|()| netlink)
    }

    /// Returns the name that the interface has now.
    pub(super) fn name(&self, request: &Request) -> Result<String, Unreachable> {
        self.reach(request).map(|(_, _, link)| link.name)
    }

    fn reach(&self, request: &Request) -> Result<(Netns, Netlink, Link), Unreachable> {
        let path = &request.ns_path;
        let netns = Netns::open(path).map_err(|error| match Error::from(error) {
            // It led to a namespace once: to nothing, or to the bare file below the mount, it leads
            // when that has ended.
            Error::BadRequest(error) => Unreachable::Gone(error.to_string()),
            error => Unreachable::Fault(error),
        })?;
        if netns.id() != self.netns {
            return Err(Unreachable::Gone(format!(
                "{} is another network namespace now",
                path.display()
            )));
        }
        let netlink = netlink_in(&netns)?;
        let link = self.look(&netlink, request)?;
        Ok((netns, netlink, link))
    }

    fn look(&self, netlink: &Netlink, request: &Request) -> Result<Link, Unreachable> {
        let link = netlink
            .link_by_index(self.index)
            .map_err(looking_for(&request.container_interface))?;
        link.ok_or_else(|| {
            Unreachable::Gone(format!(
                "{} is not there any more",
                request.container_interface
            ))
        })
    }
}

/// Runs `open`, and once more after the pending closes where it failed for want of a descriptor.
fn with_what_is_closed<T, E>(
    open: impl Fn() -> Result<T, E>,
    is_out: impl Fn(&E) -> bool,
) -> Result<T, E> {
    // This blocks the executor thread, but refusing a call for want of a descriptor that is free in
    // a moment is worse.
    const BOUND: Duration = Duration::from_millis(100);
    open().or_else(|error| {
        if is_out(&error) && wait_for_closes(BOUND) {
            open()
        } else {
            Err(error)
        }
    })
}

/// A condition that an interface has to meet for its sockets to be opened.
type CheckLink = fn(&Link, &Request) -> Result<(), Unreachable>;

/// Refuses an interface whose hardware address is not the one that its lease is for.
fn has_its_mac(link: &Link, request: &Request) -> Result<(), Unreachable> {
    if link.mac == Some(request.key.mac.0) {
        return Ok(());
    }
    Err(Unreachable::OtherMac(format!(
        "{} has the address {} now",
        link.name,
        mac_text(link)
    )))
}

/// One path for one namespace, whatever links lead to its directory: /var/run is /run. Its last
/// part stays as it is, for what is below /proc cannot be named in any other way.
pub(super) fn canonical(path: &Path) -> PathBuf {
    let resolved = path
        .parent()
        .zip(path.file_name())
        .map(|(parent, name)| (parent.canonicalize(), name));
    match resolved {
        // The state file has room for text alone.
        Some((Ok(parent), name)) if parent.to_str().is_some() => parent.join(name),
        _ => path.to_owned(),
    }
}

pub(super) fn netlink_in(netns: &Netns) -> Result<Netlink, Error> {
    let opened = netns
        .enter(Netlink::open)
        .map_err(Error::fault("entering the container's network namespace"))?;
    opened.map_err(Error::fault("opening a netlink socket"))
}

pub(super) fn looking_for(interface: &str) -> impl FnOnce(netlink::Error) -> Error {
    let doing = format!("looking for {interface}");
    move |error| Error::fault(doing)(error.into_io())
}

fn no_interface(field: &'static str, name: &str, place: &'static str) -> Error {
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

/// Whether a failure to send says that the interface is down or gone, in the words of the packet
/// socket or of UDP.
pub(super) fn is_link_away(error: &io::Error) -> bool {
    const AWAY: [i32; 4] = [libc::ENETDOWN, libc::ENXIO, libc::ENETUNREACH, libc::ENODEV];
    error
        .raw_os_error()
        .is_some_and(|errno| AWAY.contains(&errno))
}

/// Whether anything can be said on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Somebody set it down, and the kernel took its routes away.
    Down,
    /// It is up, and nothing is at the other end.
    NoCarrier,
    /// It is in use.
    Ready,
}

impl LinkState {
    fn new(up: bool, carrier: bool) -> Self {
        match (up, carrier) {
            (false, _) => Self::Down,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Ready,
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "the link is down",
            Self::NoCarrier => "there is no carrier",
            Self::Ready => "there is a carrier again",
        })
    }
}

/// What is heard on a wire.
#[derive(Debug)]
pub(super) enum Heard {
    /// An Ethernet frame.
    Frame(Vec<u8>),
    /// The interface is like this now.
    Link(LinkState),
    /// The interface has gone, or something has happened to it that was not told.
    LinkInDoubt,
}

/// The sockets of one exchange, all in the container's network namespace.
#[derive(Debug)]
pub(super) struct Wire {
    ears: Watched<Ears>,
    /// How the interface was, the last time that anything was heard of it.
    pub(super) state: LinkState,
    /// UDP port 68, unless the container uses it itself.
    port: Option<Port>,
    /// Whose ARP is heard.
    arp_of: Option<Ipv4Addr>,
    pub(super) claimants: Claimants,
    /// When the container was last seen to be there.
    pub(super) opened: Instant,
    /// Bytes of IP packet that fit one frame.
    pub(super) mtu: u32,
}

impl Wire {
    fn open(netns: &Netns, link: &Link, mac: Mac) -> Result<Self, Error> {
        let (monitor, packets, port) = netns
            .enter(|| {
                (
                    Monitor::open(link.index),
                    RawSocket::open(link.index, mac.0),
                    Port::open(&link.name),
                )
            })
            .map_err(Error::fault("entering the container's network namespace"))?;
        let ears = packets.and_then(|packets| Watched::new(Ears::new(packets, monitor?)?));
        let ears = ears.map_err(Error::fault(format!("listening on {}", link.name)))?;
        let port = match port {
            Ok(port) => Some(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => {
                return Err(Error::fault(format!("taking UDP port 68 on {}", link.name))(error));
            }
        };
        let state = LinkState::new(link.up, link.carrier);
        let (claimants, opened, mtu) = (Claimants::default(), rt::now(), link.mtu);
        Ok(Self {
            ears,
            state,
            port,
            arp_of: None,
            claimants,
            opened,
            mtu,
        })
    }

    /// Whether the container uses the client's port itself.
    pub(super) fn port_is_taken(&self) -> bool {
        self.port.is_none()
    }

    /// Sends what the client has put into `bytes`. `peer` is the station that a datagram goes to
    /// where the kernel cannot send it for us.
    pub(super) fn send(
        &self,
        transmit: Transmit,
        bytes: &[u8],
        mac: Mac,
        peer: Option<dhcp::Mac>,
    ) -> io::Result<()> {
        match (transmit, &self.port, peer) {
            (Transmit::Frame, ..) => self.ears.get_ref().packets.send(bytes),
            (
                Transmit::Datagram {
                    source,
                    destination,
                },
                Some(port),
                _,
            ) => port.send(source, destination, bytes),
            (
                Transmit::Datagram {
                    source,
                    destination,
                },
                None,
                Some(peer),
            ) => self.ears.get_ref().packets.send(&dhcp::frame(
                bytes,
                (mac.0, source),
                (peer, destination),
            )),
            (Transmit::Datagram { .. }, None, None) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// Hears ARP about this address from now on, and no other.
    pub(super) fn hear_arp_of(&mut self, address: Option<Ipv4Addr>) -> io::Result<()> {
        if self.arp_of != address {
            self.ears.get_ref().packets.hear_arp_of(address)?;
            self.arp_of = address;
        }
        Ok(())
    }

    /// Waits for a frame, or for news of the interface.
    pub(super) async fn hear(&self) -> io::Result<Heard> {
        self.ears.read_with(Ears::hear).await
    }

    /// A frame that has arrived already, if there is one.
    pub(super) fn arrived(&self) -> Option<Vec<u8>> {
        self.ears.get_ref().frame().ok()
    }
}

/// What listens on a wire, as one descriptor to be watched: each more would cost a lease as much
/// again.
#[derive(Debug)]
struct Ears {
    packets: RawSocket,
    /// Tells when somebody takes the interface down, or pulls its cable.
    monitor: Monitor,
    /// Readable when one of them is (epoll(7)).
    either: OwnedFd,
}

impl Ears {
    fn new(packets: RawSocket, monitor: Monitor) -> io::Result<Self> {
        let either = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for ear in [packets.as_fd(), monitor.as_fd()] {
            epoll::add(
                &either,
                ear,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
        }
        Ok(Self {
            packets,
            monitor,
            either,
        })
    }

    /// News first, for there may always be another frame; `WouldBlock` where there is neither.
    fn hear(&self) -> io::Result<Heard> {
        match self.monitor.recv() {
            Ok(News::Is { up, carrier }) => Ok(Heard::Link(LinkState::new(up, carrier))),
            Ok(News::Gone | News::Missed) => Ok(Heard::LinkInDoubt),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.frame().map(Heard::Frame)
            }
            Err(error) => Err(error),
        }
    }

    fn frame(&self) -> io::Result<Vec<u8>> {
        let mut frame = [0; FRAME];
        let length = self.packets.recv(&mut frame)?;
        Ok(frame[..length].to_vec())
    }
}

impl AsFd for Ears {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}
