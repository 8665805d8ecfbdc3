//! Containers that make their own namespace a bad place to be in: each look at it ends soon, and
//! says what is wrong.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily as Family, SendFlags, SocketFlags, SocketType, send, sendto, socket_with,
};
use smol_dhcp_proxy::net::link::AddOutcome;
use smol_dhcp_proxy::net::monitor::{LinkEvent, Monitor};
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netlink::message::{NEW_ADDRESS, NEW_LINK, NEW_ROUTE};
use smol_dhcp_proxy::net::netns::Netns;
use smol_dhcp_proxy::net::raw::RawSocket;
use smol_dhcp_proxy::net::route::Route;
use smol_dhcp_proxy::net::udp::Port;
use smol_dhcp_proxy::rt;

use super::lab::Result;
use super::lab::namespace::Namespace;

trials![
    twenty_alternative_names,
    six_hundred_alternative_names,
    messages_of_others_are_refused,
    a_flood_of_false_news_leaves_the_thread_to_others,
    routes_without_number_cost_one_short_look,
    a_route_beyond_the_look_is_not_added_twice,
    addresses_of_another_interface_do_not_count,
    too_many_addresses_are_the_fault_of_the_container,
];

fn twenty_alternative_names() -> Result {
    alternative_names(20)
}

fn six_hundred_alternative_names() -> Result {
    alternative_names(600)
}

const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// On `eth1`.
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const THEIR_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// Longer than any call here takes on a busy machine, and far shorter than what each trial is about
/// took once.
const AT_ONCE: Duration = Duration::from_millis(250);

/// A container with `eth0`, which is ours, and `eth1`; their other ends are in `outside`.
struct Setting {
    _outside: Namespace,
    container: Namespace,
    netns: Netns,
    /// The number of `eth0`.
    index: u32,
    mac: [u8; 6],
}

impl Setting {
    fn new() -> Result<Self> {
        let (outside, container) = (Namespace::new("outside")?, Namespace::new("container")?);
        outside.veth("wire0", &container, "eth0")?;
        outside.veth("wire1", &container, "eth1")?;
        container.add_address("eth1", THEIRS, 24)?;
        let netns = Netns::open(container.path())?;
        let link = netns
            .enter(Netlink::open)??
            .link_by_name("eth0")?
            .ok_or("no eth0")?;
        let mac = link.mac.ok_or("no MAC")?;
        Ok(Self {
            _outside: outside,
            container,
            netns,
            index: link.index,
            mac,
        })
    }

    fn netlink(&self) -> Result<Netlink> {
        Ok(self.netns.enter(Netlink::open)??)
    }

    /// Has the kernel do many things in the container, and waits for the last of them.
    fn have_done<B: Emitable>(&self, kind: u16, bodies: impl Iterator<Item = B> + Send) -> Result {
        self.container.run(|| {
            let socket = netlink_socket()?;
            let mut bodies = bodies.peekable();
            while bodies.peek().is_some() {
                // Without acknowledgements; send(2) returns when all of them are done.
                let batch: Vec<u8> = bodies
                    .by_ref()
                    .take(500)
                    .flat_map(|body| message(kind, &body))
                    .collect();
                send(&socket, &batch, SendFlags::empty())?;
            }
            Ok(())
        })
    }
}

fn netlink_socket() -> Result<OwnedFd> {
    Ok(socket_with(
        Family::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn message(kind: u16, body: &impl Emitable) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    let mut bytes = vec![0; 16 + body.buffer_len()];
    header.length = bytes.len() as u32;
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    header.emit(&mut bytes[..16]);
    body.emit(&mut bytes[16..]);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Fails where `work` takes longer than it may.
fn at_once<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = rt::now();
    let done = work().map_err(|error| format!("{what}: {error}"))?;
    let took = rt::now() - start;
    if took < AT_ONCE {
        Ok(done)
    } else {
        Err(format!("{what} took {took:?}").into())
    }
}

/// Twenty of them kept glibc's getifaddrs(3) busy for ever; ninety were more than a buffer of 8 kB
/// holds. The kernel takes some five hundred, as many as fit an attribute of 64 kB.
fn alternative_names(count: usize) -> Result {
    const NEW_LINK_PROPERTY: u16 = 108; // RTM_NEWLINKPROP in linux/rtnetlink.h
    let setting = Setting::new()?;
    let index = |name| setting.container.link(name).map(|link| link.index);
    let (loopback, eth0) = (index("lo")?, index("eth0")?);
    let taken = setting.container.run(|| {
        let netlink = Netlink::open()?;
        let mut taken = 0;
        for link in [loopback, eth0] {
            for nth in 0..count {
                let mut message = LinkMessage::default();
                message.header.index = link;
                let name = format!("{link}-{nth:x<116}");
                message
                    .attributes
                    .push(LinkAttribute::PropList(vec![Prop::AltIfName(name)]));
                match netlink.request(
                    NEW_LINK_PROPERTY,
                    NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND,
                    &message,
                ) {
                    Ok(_) => taken += 1,
                    Err(error) if error.errno() == Some(libc::EINVAL) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(taken)
    })?;
    assert!(taken >= 2 * count.min(450), "the kernel took {taken}");

    let netlink = at_once("opening a netlink socket", || setting.netlink())?;
    let link =
        at_once("the link by its name", || Ok(netlink.link_by_name("eth0")?))?.ok_or("no eth0")?;
    assert_eq!(
        (link.index, link.mac, link.up),
        (setting.index, Some(setting.mac), true)
    );
    assert_eq!(
        at_once("the link by its number", || Ok(
            netlink.link_by_index(link.index)?
        ))?,
        Some(link)
    );
    let links = at_once("all links", || Ok(netlink.links()?))?;
    assert_eq!(links.len(), 3, "{links:?}");

    let open = || {
        (
            Monitor::open(eth0),
            RawSocket::open(eth0, setting.mac),
            Port::open("eth0"),
        )
    };
    let (monitor, raw, port) = at_once("opening the sockets", || Ok(setting.netns.enter(open)?))?;
    let (monitor, _raw, _port) = (monitor?, raw?, port?);
    setting.container.set_state("eth0", false)?;
    let news = at_once("the news of a link that goes down", || Ok(monitor.recv()?))?;
    assert_eq!(
        news,
        LinkEvent::State {
            up: false,
            carrier: false
        }
    );
    Ok(())
}

/// Processes of the container with CAP_NET_ADMIN may send to each netlink socket there, by the port
/// numbers in /proc.
fn messages_of_others_are_refused() -> Result {
    let setting = Setting::new()?;
    let ports = || -> Result<Vec<u32>> {
        let table = setting
            .container
            .run(|| Ok(fs::read_to_string("/proc/thread-self/net/netlink")?))?;
        let lines = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let routing = lines.filter(|columns| columns[1] == "0");
        let ports = routing
            .map(|columns| columns[2].parse::<u32>())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(ports.into_iter().filter(|port| *port != 0).collect())
    };
    assert!(ports()?.is_empty());
    let netlink = setting.netlink()?;
    let monitor = setting.netns.enter(|| Monitor::open(setting.index))??;
    let ports = ports()?;
    assert_eq!(ports.len(), 3, "two sockets for requests and one for news");
    setting.container.run(|| {
        let sender = netlink_socket()?;
        for port in ports {
            for length in [1, 16, 4096] {
                let sent = sendto(
                    &sender,
                    &vec![0; length],
                    SendFlags::empty(),
                    &SocketAddrNetlink::new(port, 0),
                );
                assert_eq!(sent, Err(Errno::CONNREFUSED), "{length} bytes to {port}");
            }
        }
        // A socket that is not connected would have received it.
        let other = netlink_socket()?;
        rustix::net::bind(&other, &SocketAddrNetlink::new(4711, 0))?;
        sendto(
            &sender,
            &[0],
            SendFlags::empty(),
            &SocketAddrNetlink::new(4711, 0),
        )?;
        Ok(())
    })?;
    assert_eq!(
        netlink.link_by_index(setting.index)?.map(|link| link.index),
        Some(setting.index)
    );
    assert!(
        monitor
            .recv()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    );
    Ok(())
}

/// Messages to the group arrive, also those of other processes.
fn a_flood_of_false_news_leaves_the_thread_to_others() -> Result {
    const FALSE: u32 = 100;
    let setting = Setting::new()?;
    let monitor = setting.netns.enter(|| Monitor::open(setting.index))??;
    let mut down = LinkMessage::default();
    down.header.index = setting.index;
    let group = SocketAddrNetlink::new(0, 1);
    setting.container.run(|| {
        let sender = netlink_socket()?;
        for _ in 0..FALSE {
            // The kernel gets a copy, too: a request for nothing that is allowed, so that no more
            // comes of it.
            let sent = sendto(
                &sender,
                &message(NEW_LINK, &down),
                SendFlags::empty(),
                &group,
            )?;
            assert!(sent > 0);
        }
        Ok(())
    })?;
    let waits = || {
        Ok::<_, Errno>(
            poll(
                &mut [PollFd::new(&monitor, PollFlags::IN)],
                Some(&Timespec::default()),
            )? > 0,
        )
    };
    let mut turns = 0;
    while waits()? {
        assert!(
            monitor
                .recv()
                .is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "after {turns}"
        );
        turns += 1;
    }
    assert!(
        (2..=FALSE).contains(&turns),
        "{turns} calls for {FALSE} messages"
    );
    setting.container.set_state("eth0", false)?;
    assert_eq!(
        monitor.recv()?,
        LinkEvent::State {
            up: false,
            carrier: false
        }
    );
    Ok(())
}

fn route_message(
    destination: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    metric: u32,
) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = prefix;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Priority(metric),
    ];
    message
}

impl Setting {
    /// With our address, and that many routes of the container's through `eth1`, to one address
    /// each.
    fn with_routes(count: u32) -> Result<(Self, Netlink)> {
        let setting = Self::new()?;
        let netlink = setting.netlink()?;
        netlink.set_address(setting.index, OURS, 24, None, None)?;
        let first = u32::from(Ipv4Addr::new(11, 0, 0, 0));
        let routes =
            (first..first + count).map(|to| route_message(to.into(), 32, THEIR_GATEWAY, 0));
        setting.have_done(NEW_ROUTE, routes)?;
        Ok((setting, netlink))
    }
}

fn routes_without_number_cost_one_short_look() -> Result {
    let (setting, netlink) = Setting::with_routes(200_000)?;
    let default = |metric| Route::default_via(GATEWAY, setting.index, OURS, metric);
    // As many as a server may send, in one change.
    let wanted: Vec<_> = (0..40)
        .map(|nth| {
            Route::from_lease(
                [198, 51, 100, nth].into(),
                32,
                Some(GATEWAY),
                setting.index,
                OURS,
                100,
            )
        })
        .chain([default(100)])
        .collect();
    at_once("41 routes", || {
        let mut table = netlink.route_table()?;
        for wanted in &wanted {
            assert_eq!(table.add(wanted)?, (wanted.clone(), AddOutcome::Added));
        }
        Ok(())
    })?;
    // At the next renewal they are there. The socket for tables is half read by now.
    assert!(netlink.route_table().is_err());
    let netlink = setting.netlink()?;
    at_once("the same 41 routes", || {
        let mut table = netlink.route_table()?;
        for wanted in &wanted {
            assert_eq!(table.add(wanted)?, (wanted.clone(), AddOutcome::Existed));
        }
        Ok(())
    })?;
    // All but tables goes on.
    assert!(netlink.remove_route(&default(100))?);
    assert_eq!(
        netlink
            .addresses(setting.index)
            .err()
            .map(|error| error.kind()),
        Some(ErrorKind::ResourceBusy)
    );
    assert_eq!(setting.netlink()?.addresses(setting.index)?.len(), 1);
    Ok(())
}

fn a_route_beyond_the_look_is_not_added_twice() -> Result {
    let (setting, netlink) = Setting::with_routes(2000)?;
    let far = Ipv4Addr::new(203, 0, 113, 0);
    // So many at its own metric that the kernel has to look through.
    let theirs = (2..=200).map(|host| route_message(far, 24, Ipv4Addr::new(10, 2, 0, host), 100));
    setting.have_done(NEW_ROUTE, theirs)?;
    let wanted = Route::from_lease(far, 24, Some(GATEWAY), setting.index, OURS, 100);
    let added = at_once("a route before many others", || {
        Ok(netlink.route_table()?.add(&wanted)?)
    })?;
    assert_eq!(added, (wanted.clone(), AddOutcome::Added));
    assert_eq!(
        setting.netlink()?.route_table()?.add(&wanted)?,
        (wanted.clone(), AddOutcome::Existed)
    );
    let netlink = setting.netlink()?;
    assert!(netlink.remove_route(&wanted)?);
    assert!(!netlink.remove_route(&wanted)?, "it was there once");
    Ok(())
}

fn addresses(index: u32, count: u32) -> impl Iterator<Item = AddressMessage> {
    let first = u32::from(Ipv4Addr::new(10, 9, 0, 0));
    (first..first + count).map(move |address| {
        let address = Ipv4Addr::from(address);
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        message
    })
}

/// Needs the kernel's filter, which exists since 4.20.
fn addresses_of_another_interface_do_not_count() -> Result {
    let setting = Setting::new()?;
    let netlink = setting.netlink()?;
    netlink.set_address(setting.index, OURS, 24, None, None)?;
    // More than are looked at without a filter.
    setting.have_done(
        NEW_ADDRESS,
        addresses(setting.container.link("eth1")?.index, 11_000),
    )?;
    let ours = at_once("our addresses", || Ok(netlink.addresses(setting.index)?))?;
    assert_eq!(
        ours.iter()
            .map(|address| address.address)
            .collect::<Vec<_>>(),
        [OURS]
    );
    Ok(())
}

fn too_many_addresses_are_the_fault_of_the_container() -> Result {
    let setting = Setting::new()?;
    let netlink = setting.netlink()?;
    setting.have_done(NEW_ADDRESS, addresses(setting.index, 1000))?;
    assert_eq!(netlink.addresses(setting.index)?.len(), 1000);
    netlink.set_address(setting.index, OURS, 24, None, None)?;
    let error = netlink
        .addresses(setting.index)
        .err()
        .ok_or("1001 addresses are not too many")?;
    assert_eq!(
        error.to_string(),
        "more than 1000 addresses on the interface"
    );
    assert_eq!(
        error.into_io().to_string(),
        "more than 1000 addresses on the interface"
    );
    // What is to be undone still can be.
    assert!(netlink.remove_address(setting.index, OURS, 24)?);
    Ok(())
}
