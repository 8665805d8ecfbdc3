//! Turns any bytes into answers of rtnetlink, and reads them as the daemon does: what is read is
//! within bounds, and is what netlink-packet-route reads, too.

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use smol_dhcp_proxy::net::link::{Address, Link};
use smol_dhcp_proxy::net::monitor::LinkEvent;
use smol_dhcp_proxy::net::netlink::{NetlinkError, Progress, Reader};
use smol_dhcp_proxy::net::route::Route;

/// The sequence number of the request.
pub const SEQUENCE: u32 = 7;
/// The interface that is watched.
const INDEX: u32 = 2;
/// The length of a message's header, in bytes.
const HEADER: usize = 16;

/// Reads the answers of one exchange. The first byte chooses what is asked for; then each datagram
/// follows its length, in two bytes of little endian. One without a length is a datagram of another
/// process.
pub fn netlink(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else {
        return;
    };
    let check = [link, address, route, |_: &[u8]| Ok(())][usize::from(choice % 4)];
    let mut reader = Reader::new(SEQUENCE);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (datagram, after) =
            after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        news(datagram);
        let mut entries = 0;
        let read = if datagram.is_empty() {
            reader.skip().map(|()| Progress::Unfinished)
        } else {
            reader.read(datagram, &mut |body| {
                entries += 1;
                check(body)
            })
        };
        assert!(
            entries <= datagram.len() / HEADER,
            "{entries} entries in {} bytes",
            datagram.len()
        );
        match read {
            Ok(Progress::Unfinished) => assert!(!reader.is_over()),
            Ok(Progress::Done(_)) => return assert!(reader.is_over()),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                // The kernel's own words can only be in its last one.
                return assert!(error.explanation().is_none() || reader.is_over());
            }
        }
    }
}

fn link(body: &[u8]) -> Result<(), NetlinkError> {
    let link = Link::parse(body)?;
    if let Ok(message) = LinkMessage::parse(body) {
        assert_eq!(link.index, message.header.index);
        assert_eq!(link.up, message.header.flags.contains(LinkFlags::Up));
        for attribute in message.attributes {
            match attribute {
                // The last of several counts.
                LinkAttribute::Mtu(mtu) if mtu == link.mtu => {}
                LinkAttribute::Mtu(_) => assert!(times(body, HEADER, 4) > 1, "{link:?}"),
                LinkAttribute::IfName(name) if name == link.name => {}
                LinkAttribute::IfName(name) => assert!(
                    times(body, HEADER, 3) > 1 || name.contains('\0'),
                    "{link:?}"
                ),
                _ => {}
            }
        }
    }
    Ok(())
}

fn address(body: &[u8]) -> Result<(), NetlinkError> {
    let address = Address::parse(body)?;
    if let (Some((index, address)), Ok(message)) = (address, AddressMessage::parse(body)) {
        assert_eq!(
            (index, address.prefix),
            (message.header.index, message.header.prefix_len)
        );
        let local = message
            .attributes
            .iter()
            .rev()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(local)) => Some(*local),
                _ => None,
            });
        assert!(
            local.is_none_or(|local| local == address.address || times(body, 8, 2) > 1),
            "{address:?}"
        );
    }
    Ok(())
}

fn route(body: &[u8]) -> Result<(), NetlinkError> {
    let route = Route::parse(body)?;
    if let (Some(route), Ok(message)) = (route, RouteMessage::parse(body)) {
        assert_eq!(
            (message.header.table, message.header.kind),
            (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast)
        );
        assert_eq!(route.prefix, message.header.destination_prefix_length);
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => {
                    assert!(index == route.index || times(body, 12, 4) > 1, "{route:?}")
                }
                RouteAttribute::Priority(metric) => {
                    assert!(
                        metric == route.metric || times(body, 12, 6) > 1,
                        "{route:?}"
                    );
                }
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                    assert!(
                        Some(gateway) == route.gateway || times(body, 12, 5) > 1,
                        "{route:?}"
                    );
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Counts the attributes of a kind behind a header of that length.
fn times(body: &[u8], header: usize, kind: u16) -> usize {
    let (mut rest, mut times) = (&body[header..], 0);
    while let [a, b, c, d, ..] = *rest {
        // The upper two bits are flags.
        times += usize::from(u16::from_ne_bytes([c, d]) & 0x3fff == kind);
        let length = usize::from(u16::from_ne_bytes([a, b]))
            .max(4)
            .next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    times
}

/// News is read from the beginning of a datagram, and says what the whole of it does.
fn news(datagram: &[u8]) {
    let news = LinkEvent::parse(INDEX, datagram);
    if datagram.len() > 2 * HEADER {
        assert_eq!(LinkEvent::parse(INDEX, &datagram[..2 * HEADER]), news);
    }
    if let (Some(LinkEvent::State { up, carrier }), Some(Ok(link))) =
        (news, datagram.get(HEADER..).map(Link::parse))
    {
        assert_eq!((INDEX, up, carrier), (link.index, link.up, link.carrier));
    }
}
