//! Where a lease lives: an interface in a container's network namespace, and the sockets into it.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use crate::dhcp::{self, Transmit};
use crate::net::link::Link;
use crate::net::netlink::Netlink;
use crate::net::netns::{self, Netns, NetnsId};
use crate::net::raw::RawSocket;
use crate::net::udp::Port;
use crate::rt::Watched;

use super::error::{BadRequest, Error};
use super::request::{Mac, Request};

/// The longest frame that a DHCP message for us comes in: Ethernet's header and its usual MTU.
const FRAME: usize = 14 + 1500;

/// An interface in a network namespace, by what stays the same for as long as it is that one. It holds nothing
/// open, for a descriptor would keep a container's namespace alive.
#[derive(Debug)]
pub(super) struct Site {
    netns: NetnsId,
    /// The number of the interface.
    pub(super) index: u32,
}

/// Why a site could not be reached again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// The container, or its interface, does not exist any more.
    #[error("{0}")]
    Gone(String),
    /// It may be there, but not for us, or not now.
    #[error(transparent)]
    Fault(#[from] Error),
}

impl Site {
    /// Finds what a request speaks of: whatever is wrong with it is found before any server is asked.
    pub(super) fn find(request: &Request) -> Result<(Self, Wire), Error> {
        // First the host's interface: this thread is in the host's namespace.
        let host = Netlink::open().map_err(Error::fault("opening a netlink socket"))?;
        host.link_by_name(&request.host_interface)
            .map_err(|error| Error::fault(format!("looking for {}", request.host_interface))(error.into_io()))?
            .ok_or_else(|| no_interface("host_iface", &request.host_interface, "the daemon's network namespace"))?;
        let netns = Netns::open(&request.key.netns).map_err(BadRequest::from)?;
        let (netlink, link) = look(&netns, |netlink| netlink.link_by_name(&request.container_interface))
            .map_err(Error::fault(format!("looking for {}", request.container_interface)))?;
        let link = link.ok_or_else(|| {
            no_interface("container_iface", &request.container_interface, "the container's network namespace")
        })?;
        if link.mac != Some(request.key.mac.0) {
            return Err(BadRequest::OtherMac {
                interface: request.container_interface.clone(),
                has: link.mac.map_or("no Ethernet address".to_owned(), |mac| Mac(mac).to_string()),
                wanted: request.key.mac.to_string(),
            }
            .into());
        }
        let wire = Wire::open(&netns, netlink, &link)?;
        Ok((Self { netns: netns.id(), index: link.index }, wire))
    }

    /// Opens the sockets again, if it is still the same interface in the same namespace.
    pub(super) fn open(&self, request: &Request) -> Result<Wire, Unreachable> {
        let path = &request.key.netns;
        let netns = Netns::open(path).map_err(|error| gone_or_fault(error, path))?;
        if netns.id() != self.netns {
            return Err(Unreachable::Gone(format!("{} is another network namespace now", path.display())));
        }
        let (netlink, link) = look(&netns, |netlink| netlink.link_by_index(self.index))
            .map_err(Error::fault(format!("looking for {}", request.container_interface)))?;
        match link.filter(|link| link.mac == Some(request.key.mac.0)) {
            Some(link) => Ok(Wire::open(&netns, netlink, &link)?),
            None => {
                Err(Unreachable::Gone(format!("{} is no longer in {}", request.container_interface, path.display())))
            }
        }
    }
}

fn no_interface(field: &'static str, name: &str, place: &'static str) -> Error {
    BadRequest::NoInterface { field, name: name.to_owned(), place }.into()
}

/// A namespace's path that leads nowhere, or to the bare file that it was mounted on, means that it has ended.
fn gone_or_fault(error: netns::Error, path: &Path) -> Unreachable {
    match error {
        netns::Error::Open { source, .. } if source.kind() != io::ErrorKind::NotFound => {
            Error::fault(format!("opening {}", path.display()))(source).into()
        }
        netns::Error::Enter { source, .. } => Error::fault(format!("entering {}", path.display()))(source).into(),
        netns::Error::Open { .. } | netns::Error::NotANamespace { .. } | netns::Error::OtherKind { .. } => {
            Unreachable::Gone(error.to_string())
        }
    }
}

/// Opens a netlink socket in `netns` and asks it for a link.
fn look(
    netns: &Netns,
    ask: impl FnOnce(&Netlink) -> crate::net::netlink::Result<Option<Link>>,
) -> io::Result<(Netlink, Option<Link>)> {
    let netlink = netns.enter(Netlink::open)??;
    let link = ask(&netlink).map_err(|error| error.into_io())?;
    Ok((netlink, link))
}

/// The sockets of one exchange, all in the container's network namespace.
#[derive(Debug)]
pub(super) struct Wire {
    /// For addresses and routes.
    pub(super) netlink: Netlink,
    packets: Watched<RawSocket>,
    /// UDP port 68, unless the container uses it itself.
    port: Option<Port>,
    frame: RefCell<Box<[u8; FRAME]>>,
}

impl Wire {
    fn open(netns: &Netns, netlink: Netlink, link: &Link) -> Result<Self, Error> {
        let (packets, port) = netns
            .enter(|| (RawSocket::open(link.index), Port::open(&link.name)))
            .map_err(Error::fault("entering the container's network namespace"))?;
        let packets = packets.and_then(Watched::new).map_err(Error::fault(format!("listening on {}", link.name)))?;
        let port = match port {
            Ok(port) => Some(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(Error::fault(format!("taking UDP port 68 on {}", link.name))(error)),
        };
        Ok(Self { netlink, packets, port, frame: RefCell::new(Box::new([0; FRAME])) })
    }

    /// Whether the container uses the client's port itself.
    pub(super) fn port_is_taken(&self) -> bool {
        self.port.is_none()
    }

    /// Sends what the client has put into `bytes`. `peer` is the station that a datagram goes to where the kernel
    /// cannot send it for us.
    pub(super) fn send(&self, transmit: Transmit, bytes: &[u8], mac: Mac, peer: Option<dhcp::Mac>) -> io::Result<()> {
        match (transmit, &self.port, peer) {
            (Transmit::Frame, ..) => self.packets.get_ref().send(bytes),
            (Transmit::Datagram { source, destination }, Some(port), _) => port.send(source, destination, bytes),
            (Transmit::Datagram { source, destination }, None, Some(peer)) => {
                self.packets.get_ref().send(&dhcp::frame(bytes, (mac.0, source), (peer, destination)))
            }
            (Transmit::Datagram { .. }, None, None) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// Waits for a frame and passes it on.
    pub(super) async fn hear<T>(&self, hear: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let length = self.packets.read_with(|socket| socket.recv(&mut self.frame.borrow_mut()[..])).await?;
        Ok(hear(&self.frame.borrow()[..length]))
    }
}
