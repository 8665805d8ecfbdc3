//! The packet socket hears what it should, and the UDP port stands in and is never read.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netns::Netns;
use smol_dhcp_proxy::net::raw::RawSocket;
use smol_dhcp_proxy::net::udp::Port;
use smol_dhcp_proxy::rt::{self, Watched};

use super::lab::namespace::Namespace;
use super::lab::packets::Tap;
use super::lab::{Result, eventually};

trials![
    it_hears_only_what_it_should,
    it_hears_first_fragments_where_it_is_told_to,
    an_interface_that_is_down_or_gone_is_an_error_to_send_on,
    it_hears_no_other_interface,
    a_flood_elsewhere_leaves_nothing_in_its_queue,
    it_sends_from_the_address_it_is_told_to,
    a_port_in_use_is_not_shared,
    an_open_port_sends_no_port_unreachable,
];

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);

/// A container's `eth0` with two addresses, its other end `wire` in the server's namespace with
/// one.
fn two_ends() -> Result<(Namespace, Namespace, Netns)> {
    let (server, container) = (Namespace::new("server")?, Namespace::new("container")?);
    server.veth("wire", &container, "eth0")?;
    server.add_address("wire", SERVER, 24)?;
    container.add_address("eth0", FIRST, 24)?;
    container.add_address("eth0", SECOND, 24)?;
    let netns = Netns::open(container.path())?;
    Ok((server, container, netns))
}

fn open_raw(netns: &Netns) -> Result<(RawSocket, [u8; 6])> {
    netns.enter(|| {
        let link = Netlink::open()?.link_by_name("eth0")?.ok_or("no eth0")?;
        let mac = link.mac.ok_or("no MAC")?;
        Ok((RawSocket::open(link.index, STATION)?, mac))
    })?
}

const BROADCAST: [u8; 6] = [0xff; 6];
/// The client's hardware address. An interface may have another one, which plays no part in what is
/// heard.
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A frame to `to` with this type and content, `mark` its last byte.
fn frame(to: [u8; 6], ethertype: u16, content: &[u8], mark: u8) -> Vec<u8> {
    let mut frame = [
        &to[..],
        &[2, 0, 0, 0, 0, 1],
        &ethertype.to_be_bytes(),
        content,
    ]
    .concat();
    frame.resize(frame.len().max(64), 0);
    frame.push(mark);
    frame
}

/// An IPv4 packet with `words` words of header (no check looks at its sums), then a source and this
/// destination port, and a reply to the client.
fn packet(words: u8, protocol: u8, fragment: u16, port: u16) -> Vec<u8> {
    message(words, protocol, fragment, port, 2, STATION)
}

fn message(
    words: u8,
    protocol: u8,
    fragment: u16,
    port: u16,
    operation: u8,
    station: [u8; 6],
) -> Vec<u8> {
    let mut packet = vec![0; usize::from(words) * 4];
    packet[0] = 0x40 | words;
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet.extend([0, 67]);
    packet.extend(port.to_be_bytes());
    let mut bootp = [0; 4 + 44];
    bootp[4] = operation;
    bootp[32..38].copy_from_slice(&station);
    packet.extend(bootp);
    packet
}

/// An ARP reply from the owner of `sender` to that of `target`.
fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let (stations, head) = ([2, 0, 0, 0, 0, 1], [0, 1, 8, 0, 6, 4, 0, 2]);
    [
        &head[..],
        &stations,
        &sender.octets(),
        &stations,
        &target.octets(),
    ]
    .concat()
}

/// None that belongs to another station, and no later one, which has no port.
fn it_hears_first_fragments_where_it_is_told_to() -> Result {
    let (server, _container, netns) = two_ends()?;
    let tap = server.run(|| Tap::open("wire"))?;
    let (raw, mac) = open_raw(&netns)?;
    raw.accept_first_fragments()?;
    let sent = [
        packet(5, 17, 0x2000, 67),
        packet(5, 17, 0x0001, 68),
        packet(5, 17, 0x2001, 68),
        message(5, 17, 0x2000, 68, 2, [2, 0, 0, 0, 0, 8]),
        packet(5, 17, 0x2000, 68),
        packet(5, 17, 0, 68),
    ];
    for (packet, mark) in sent.iter().zip(1..) {
        tap.send(&frame(mac, 0x0800, packet, mark))?;
    }
    let mut heard = Vec::new();
    eventually("the last one", Duration::from_secs(5), || {
        let mut buffer = [0; 100];
        while let Ok(length) = raw.recv(&mut buffer) {
            heard.extend(buffer[..length].last());
        }
        Ok((heard.last() == Some(&6)).then_some(()))
    })?;
    assert_eq!(heard, [5, 6]);
    Ok(())
}

fn it_hears_only_what_it_should() -> Result {
    const IPV4: u16 = 0x0800;
    const ARP: u16 = 0x0806;
    const VLAN: u16 = 0x8100;
    const UDP: u8 = 17;
    let (server, _container, netns) = two_ends()?;
    let tap = server.run(|| Tap::open("wire"))?;
    // Something that waits on the interface before there is a socket is never heard.
    tap.send(&frame(BROADCAST, ARP, &[], 99))?;
    let (raw, mac) = open_raw(&netns)?;
    let (asked, other) = (Ipv4Addr::new(10, 1, 0, 9), Ipv4Addr::new(10, 1, 0, 8));
    // Nor ARP, as long as it is not asked for.
    tap.send(&frame(BROADCAST, ARP, &arp(asked, other), 98))?;
    raw.set_arp_filter(Some(asked))?;
    let tagged = |number: u16, inner: &[u8]| {
        [&number.to_be_bytes()[..], &IPV4.to_be_bytes(), inner].concat()
    };
    let good = packet(5, UDP, 0, 68);
    let frames = [
        (true, frame(mac, IPV4, &good, 1)),
        (true, frame(BROADCAST, IPV4, &good, 2)),
        (true, frame(mac, IPV4, &packet(6, UDP, 0, 68), 3)),
        (true, frame(mac, IPV4, &packet(15, UDP, 0, 68), 4)),
        (true, frame(mac, IPV4, &packet(5, UDP, 0x4000, 68), 5)), // "Don't fragment"
        (true, frame(mac, ARP, &arp(asked, other), 6)),
        (
            true,
            frame(BROADCAST, ARP, &arp(Ipv4Addr::UNSPECIFIED, asked), 8),
        ),
        (true, frame(BROADCAST, VLAN, &tagged(0x6000, &good), 7)), // a priority, no VLAN
        (false, frame(BROADCAST, VLAN, &tagged(7, &good), 20)),
        (false, frame([2, 0, 0, 0, 0, 9], IPV4, &good, 21)),
        (
            false,
            frame([2, 0, 0, 0, 0, 9], ARP, &arp(asked, other), 22),
        ),
        (false, frame(mac, ARP, &arp(other, FIRST), 29)),
        (
            false,
            frame(BROADCAST, ARP, &arp(Ipv4Addr::UNSPECIFIED, other), 30),
        ),
        (false, frame(mac, IPV4, &packet(5, UDP, 0, 67), 23)),
        (false, frame(mac, IPV4, &packet(5, 6, 0, 68), 24)),
        (false, frame(mac, IPV4, &packet(5, UDP, 0x2000, 68), 25)), // the first fragment
        (false, frame(mac, IPV4, &packet(5, UDP, 0x0001, 68), 26)), // a later one
        (false, frame(mac, 0x86dd, &good, 27)),
        (false, frame(mac, IPV4, &packet(6, UDP, 0, 67), 28)),
        (
            false,
            frame(mac, IPV4, &message(5, UDP, 0, 68, 1, STATION), 31),
        ), // a request
        (
            false,
            frame(
                mac,
                IPV4,
                &message(5, UDP, 0, 68, 2, [2, 0, 0, 0, 0, 8]),
                32,
            ),
        ),
        (
            false,
            frame(
                mac,
                IPV4,
                &message(6, UDP, 0, 68, 2, [3, 0, 0, 0, 0, 7]),
                33,
            ),
        ),
        // Too short for what the filter looks at.
        (
            false,
            [&mac[..], &[2, 0, 0, 0, 0, 1], &IPV4.to_be_bytes()].concat(),
        ),
        (
            false,
            [
                &mac[..],
                &[2, 0, 0, 0, 0, 1],
                &IPV4.to_be_bytes(),
                &good[..21],
            ]
            .concat(),
        ),
    ];
    for (_, frame) in &frames {
        tap.send(frame)?;
    }
    // What we send ourselves comes to the other end, and not back.
    raw.send(&frame(BROADCAST, IPV4, &good, 40))?;
    let arrived = || Ok(tap.receive()?.filter(|frame| frame.last() == Some(&40)));
    eventually(
        "our own frame at the other end",
        Duration::from_secs(5),
        arrived,
    )?;
    tap.send(&frame(mac, ARP, &arp(asked, other), 41))?;

    let mut heard = rt::block_on(async move |_| -> Result<Vec<u8>> {
        let raw = Watched::new(raw)?;
        let mut heard = Vec::new();
        while heard.last() != Some(&41) {
            let mut buffer = [0; 1600];
            let length = raw.read_with(|raw| raw.recv(&mut buffer)).await?;
            heard.extend(buffer[..length].last());
        }
        Ok(heard)
    })?;
    // The kernel may resolve addresses meanwhile; its frames do not end in one of our marks.
    heard.retain(|mark| *mark != 0);
    let expected: Vec<u8> = frames
        .iter()
        .filter(|(good, _)| *good)
        .filter_map(|(_, frame)| frame.last().copied())
        .chain([41])
        .collect();
    assert_eq!(heard, expected);
    Ok(())
}

fn an_interface_that_is_down_or_gone_is_an_error_to_send_on() -> Result {
    let (server, container, netns) = two_ends()?;
    let errno = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    assert_eq!(
        errno(netns.enter(|| RawSocket::open(9999, [2, 0, 0, 0, 0, 1]).map(drop))?),
        Some(libc::ENODEV)
    );
    let (raw, _) = open_raw(&netns)?;
    let frame = frame(BROADCAST, 0x0800, &packet(5, 17, 0, 68), 1);
    let silent = |raw: &RawSocket| {
        raw.recv(&mut [0; 64])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };

    // A socket that only listens gets no error.
    container.set_state("eth0", false)?;
    assert!(silent(&raw));
    assert_eq!(errno(raw.send(&frame)), Some(libc::ENETDOWN));
    let (late, _) = open_raw(&netns)?;
    assert_eq!(errno(late.send(&frame)), Some(libc::ENETDOWN));

    // Up again, the same sockets hear again.
    container.set_state("eth0", true)?;
    let tap = server.run(|| Tap::open("wire"))?;
    for raw in [&raw, &late] {
        tap.send(&frame)?;
        let heard = || Ok(raw.recv(&mut [0; 64]).is_ok().then_some(()));
        eventually(
            "a frame on the restored interface",
            Duration::from_secs(5),
            heard,
        )?;
    }

    container.delete_link("eth0")?;
    assert_eq!(errno(raw.send(&frame)), Some(libc::ENXIO));
    Ok(())
}

fn it_hears_no_other_interface() -> Result {
    let (server, container, netns) = two_ends()?;
    server.veth("wire1", &container, "eth1")?;
    let (here, there) = (
        server.run(|| Tap::open("wire"))?,
        server.run(|| Tap::open("wire1"))?,
    );
    // So early that the filter may still be on its way, and later.
    there.send(&frame(BROADCAST, 0x0800, &packet(5, 17, 0, 68), 1))?;
    let (raw, _) = open_raw(&netns)?;
    there.send(&frame(BROADCAST, 0x0800, &packet(5, 17, 0, 68), 2))?;
    here.send(&frame(BROADCAST, 0x0800, &packet(5, 17, 0, 68), 3))?;
    let mut buffer = [0; 1600];
    let mut next = || {
        let length = raw.recv(&mut buffer).ok();
        // The kernel's own frames do not end in one of our marks.
        Ok(length
            .and_then(|length| buffer[..length].last().copied())
            .filter(|mark| *mark != 0))
    };
    assert_eq!(
        eventually(
            "a frame on the right interface",
            Duration::from_secs(5),
            &mut next
        )?,
        3
    );
    // What is sent leaves by the right one, too.
    raw.send(&frame(BROADCAST, 0x0800, &packet(5, 17, 0, 68), 4))?;
    let arrived = || Ok(here.receive()?.filter(|frame| frame.last() == Some(&4)));
    eventually(
        "our frame at the right other end",
        Duration::from_secs(5),
        arrived,
    )?;
    Ok(())
}

/// Between the making of the socket and its filter there is no moment at which it hears.
fn a_flood_elsewhere_leaves_nothing_in_its_queue() -> Result {
    let (server, container, netns) = two_ends()?;
    server.veth("wire1", &container, "eth1")?;
    let there = server.run(|| Tap::open("wire1"))?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let frame = frame(BROADCAST, 0x0800, &packet(5, 17, 0, 67), 1);
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                sent += u32::from(there.send(&frame).is_ok());
            }
            sent
        });
        let opened: Result<Vec<_>> = (0..300).map(|_| open_raw(&netns)).collect();
        over.store(true, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| "the flood panicked")?;
        assert!(sent > 1000, "{sent} frames are no flood");
        for (nth, (raw, _)) in opened?.iter().enumerate() {
            let error = raw
                .recv(&mut [0; 64])
                .err()
                .ok_or_else(|| format!("a frame in the queue of the {nth}th"))?;
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        Ok(())
    })
}

fn it_sends_from_the_address_it_is_told_to() -> Result {
    let (server, _container, netns) = two_ends()?;
    let listener = server.run(|| Ok(UdpSocket::bind("0.0.0.0:67")?))?;
    listener.set_read_timeout(Some(Duration::from_secs(5)))?;
    let port = netns.enter(|| Port::open("eth0"))??;
    for (source, payload) in [(FIRST, "first"), (SECOND, "second")] {
        port.send(source, SERVER, payload.as_bytes())?;
        let mut buffer = [0; 64];
        let (length, from) = listener.recv_from(&mut buffer)?;
        assert_eq!(
            (&buffer[..length], from),
            (payload.as_bytes(), SocketAddr::from((source, 68)))
        );
    }
    // To all, as a rebinding client does.
    port.send(FIRST, Ipv4Addr::BROADCAST, b"all")?;
    assert_eq!(
        listener.recv_from(&mut [0; 64])?.1,
        SocketAddr::from((FIRST, 68))
    );

    let errno = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    assert!(
        port.send([10, 1, 0, 77].into(), SERVER, b"foreign")
            .is_err()
    );
    assert_eq!(
        errno(port.send(FIRST, SERVER, &[0; 70_000])),
        Some(libc::EMSGSIZE)
    );
    Ok(())
}

fn a_port_in_use_is_not_shared() -> Result {
    let (_server, container, netns) = two_ends()?;
    let theirs = container.run(|| Ok(UdpSocket::bind("0.0.0.0:68")?))?;
    let error = netns
        .enter(|| Port::open("eth0"))?
        .err()
        .ok_or("the container's port was taken")?;
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(theirs);
    let ours = netns.enter(|| Port::open("eth0"))??;
    assert!(netns.enter(|| Port::open("eth0"))?.is_err());
    // On another interface the port is free.
    netns.enter(|| Port::open("lo"))??;
    drop(ours);
    netns.enter(|| Port::open("eth0"))??;
    let error = netns
        .enter(|| Port::open("absent"))?
        .err()
        .ok_or("there is no such interface")?;
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    Ok(())
}

fn an_open_port_sends_no_port_unreachable() -> Result {
    let (server, container, netns) = two_ends()?;
    let sender = server.run(|| Ok(UdpSocket::bind((SERVER, 67))?))?;
    let unreachable = || container.counter("Icmp", "OutDestUnreachs");
    let refused = |to: (Ipv4Addr, u16), count: u64| -> Result {
        sender.send_to(b"ack", to)?;
        eventually("a refusal", Duration::from_secs(5), || {
            Ok((unreachable()? == count).then_some(()))
        })
    };
    refused((FIRST, 68), 1)?;
    let port = netns.enter(|| Port::open("eth0"))??;
    sender.send_to(b"ack", (FIRST, 68))?;
    sender.send_to(b"ack", (SECOND, 68))?;
    // On the same way behind the two, so that it cannot have overtaken them.
    refused((FIRST, 69), 2)?;
    // Whatever came is gone already.
    let error = rustix::net::recv(&port, &mut [0; 64], rustix::net::RecvFlags::empty()).err();
    assert_eq!(error, Some(rustix::io::Errno::AGAIN));
    Ok(())
}
