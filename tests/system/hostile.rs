//! Attacks by a container or a neighbour on the daemon, each beside an innocent container (see
//! [`arena`]).

mod arena;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, MessageType, Opcode};

use crate::Boxed;
use crate::lab::attacker::rtnetlink::{self as netlink, Message};
use crate::lab::attacker::{Attacker, Span, frames};
use crate::lab::grpc::teardown;
use crate::lab::namespace::Namespace;
use crate::lab::packets::{Datagram, Mac, arp_claim};
use crate::lab::prober::words;
use crate::lab::topology::{LINK, SERVER_LINK};
use crate::lab::{Result, eventually};
use arena::{Arena, FAR_SERVER, PEACE, RESIDENT, Row, STATION, VISITOR, judge};

/// The rows, each as a trial: those that need the machine alone, or those that do not.
pub(crate) fn trials(alone: bool) -> impl Iterator<Item = (String, Boxed)> {
    let rows = ROWS.iter().filter(move |row| row.is_alone == alone);
    rows.map(|row| {
        (
            format!("hostile::{}", row.name),
            Box::new(|| judge(row)) as _,
        )
    })
}

const fn row(
    name: &'static str,
    prepare: fn(&mut Arena) -> Result<u64>,
    flood: fn(&Arena) -> Result<Attacker>,
) -> Row {
    Row {
        name,
        prepare,
        flood,
        is_alone: true,
    }
}

/// A row whose attack is what was prepared, which takes the kernel long, or its lock on network
/// changes.
const fn heavy(name: &'static str, prepare: fn(&mut Arena) -> Result<u64>) -> Row {
    Row {
        is_alone: true,
        ..quiet(name, prepare)
    }
}

/// A row whose attack is what was prepared, in a moment.
const fn quiet(name: &'static str, prepare: fn(&mut Arena) -> Result<u64>) -> Row {
    Row {
        name,
        prepare,
        flood: no_flood,
        is_alone: false,
    }
}

const ROWS: &[Row] = &[
    heavy(PEACE, no_preparation),
    quiet("names_20_on_lo", |arena| names(arena, LOOPBACK, 20)),
    heavy("names_600_on_lo", |arena| names(arena, LOOPBACK, 600)),
    quiet("names_20_on_the_link", |arena| {
        names(arena, arena.hostile_index()?, 20)
    }),
    heavy("names_600_on_the_link", |arena| {
        names(arena, arena.hostile_index()?, 600)
    }),
    heavy("addresses", addresses),
    heavy("addresses_v6", addresses_v6),
    heavy("routes", routes),
    heavy("rules", |arena| inside(arena, (0..5000).map(netlink::rule))),
    heavy("next_hops", |arena| {
        inside(arena, (1..50_001).map(netlink::next_hop))
    }),
    heavy("neighbours", neighbours),
    row("netlink_of_one_byte", long_table, |arena| {
        flood_ports(arena, b"x", 1)
    }),
    row("netlink_of_16_bytes", no_preparation, |arena| {
        flood_ports(arena, &NOOP, 32)
    }),
    row("netlink_multicast", no_preparation, multicast),
    row("events_of_the_link", no_preparation, |arena| {
        aliases(arena, arena.hostile_index()?)
    }),
    row("events_of_another_link", no_preparation, |arena| {
        aliases(arena, LOOPBACK)
    }),
    row("datagrams", no_preparation, datagrams),
    row("arp_for_the_address", no_preparation, arp_for_the_address),
    row("arp_for_others", no_preparation, arp_for_others),
    row("a_spoofed_claim_at_t1", no_preparation, spoofed_claim),
    row("up_and_down", no_preparation, up_and_down),
    row("mtu_to_and_fro", no_preparation, mtu_to_and_fro),
    quiet("mac_changed", mac_changed),
    row("mac_to_and_fro", no_preparation, mac_to_and_fro),
    row("renamed", no_preparation, renamed),
    quiet("replaced", replaced),
    quiet("moved_away", moved_away),
    quiet("port_68_taken", port_taken),
    quiet("kept_alive", kept_alive),
    quiet("answers_withheld", withheld),
];

const LOOPBACK: u32 = 1;
/// A netlink message that says nothing: its length, and zeros.
const NOOP: [u8; 16] = {
    let mut message = [0; 16];
    let [a, b, c, d] = 16_u32.to_ne_bytes();
    (message[0], message[1], message[2], message[3]) = (a, b, c, d);
    message
};
/// A station that is not there.
const STRANGER: Mac = Mac([0x02, 0x66, 0, 0, 0, 1]);

fn no_preparation(_: &mut Arena) -> Result<u64> {
    Ok(0)
}

fn no_flood(arena: &Arena) -> Result<Attacker> {
    Attacker::start(&arena.hostile.namespace, |span| {
        span.wait();
        Ok(0)
    })
}

/// Has the kernel carry out requests inside the hostile container.
fn inside(arena: &Arena, messages: impl Iterator<Item = Message> + Send) -> Result<u64> {
    arena
        .hostile
        .namespace
        .run(|| netlink::request_all(messages))
}

fn names(arena: &Arena, index: u32, count: u32) -> Result<u64> {
    inside(
        arena,
        (0..count).map(|number| netlink::alternative_name(index, number)),
    )
}

/// The kernel looks at all the addresses of an interface for each new one: many interfaces with
/// some each are quicker.
fn on_many_links(arena: &Arena, each: u32, message: fn(u32, u32) -> Message) -> Result<u64> {
    let hostile = &arena.hostile.namespace;
    let mut made = 0;
    for link in 0..50 {
        let name = format!("a{link}");
        hostile.veth(&name, hostile, &format!("b{link}"))?;
        let index = hostile.link(&name)?.index;
        made += inside(
            arena,
            (link * each..(link + 1) * each).map(|number| message(index, number)),
        )?;
    }
    Ok(made)
}

fn addresses(arena: &mut Arena) -> Result<u64> {
    on_many_links(arena, 2000, |index, number| {
        netlink::address(index, numbered(number))
    })
}

/// A table that takes long to read: a message in the midst of it meets a reader that believes in
/// more.
fn long_table(arena: &mut Arena) -> Result<u64> {
    on_many_links(arena, 400, |index, number| {
        netlink::address(index, numbered(number))
    })
}

fn numbered(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + number)
}

const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn addresses_v6(arena: &mut Arena) -> Result<u64> {
    on_many_links(arena, 200, |index, number| {
        netlink::address_v6(
            index,
            Ipv6Addr::from_bits(FIRST_V6.to_bits() + u128::from(number)),
        )
    })
}

/// Default routes that collide with the one of the lease, which goes first. The kernel finds the
/// place of each one at once if the metrics fall.
fn routes(arena: &mut Arena) -> Result<u64> {
    const COUNT: u32 = 200_000;
    let hostile = &arena.hostile.namespace;
    hostile.set_state(LINK, false)?;
    hostile.set_state(LINK, true)?;
    let index = arena.hostile_index()?;
    hostile.add_address(LINK, Ipv4Addr::new(10, 77, 99, 1), 16)?;
    let gateway = Ipv4Addr::new(10, 77, 99, 2);
    inside(
        arena,
        (100..100 + COUNT)
            .rev()
            .map(|metric| netlink::default_route(index, gateway, metric)),
    )
}

fn neighbours(arena: &mut Arena) -> Result<u64> {
    let index = arena.hostile_index()?;
    let mac = |number: u32| {
        Mac([
            2,
            0,
            0,
            (number >> 16) as u8,
            (number >> 8) as u8,
            number as u8,
        ])
    };
    inside(
        arena,
        (0..50_000).map(|number| netlink::neighbour(index, numbered(number), mac(number))),
    )
}

fn flood_ports(arena: &Arena, bytes: &'static [u8], rounds: usize) -> Result<Attacker> {
    let own = Arc::default();
    Attacker::pair(&arena.hostile.namespace, move |span| {
        netlink::flood_ports(span, bytes, rounds, &own)
    })
}

fn multicast(arena: &Arena) -> Result<Attacker> {
    let index = arena.hostile_index()?;
    Attacker::pair(&arena.hostile.namespace, move |span| {
        netlink::multicast(span, index)
    })
}

/// Answers as of a DHCP server, but for the transaction id.
fn datagrams(arena: &Arena) -> Result<Attacker> {
    let mut answer = dhcproto::v4::Message::default();
    answer
        .set_opcode(Opcode::BootReply)
        .set_chaddr(&arena.hostile.mac.0)
        .set_yiaddr(arena.address);
    answer
        .opts_mut()
        .insert(DhcpOption::MessageType(MessageType::Ack));
    let datagram = Datagram {
        from: STRANGER,
        to: arena.hostile.mac,
        source: SocketAddrV4::new(FAR_SERVER, 67),
        destination: SocketAddrV4::new(arena.address, 68),
        payload: answer.to_vec()?,
    };
    send_frames(&arena.neighbour.namespace, vec![datagram.to_frame()])
}

fn arp_for_the_address(arena: &Arena) -> Result<Attacker> {
    send_frames(
        &arena.neighbour.namespace,
        vec![arp_claim(STRANGER, arena.address, arena.hostile.mac)],
    )
}

/// In the network of the innocent containers, and to them.
fn arp_for_others(arena: &Arena) -> Result<Attacker> {
    let [resident, visitor, station] =
        [RESIDENT, VISITOR, STATION].map(|place| &arena.stage.topology.containers[place]);
    let claims = (0..32).flat_map(|other| {
        [resident, visitor].map(|to| arp_claim(STRANGER, numbered(other), to.mac))
    });
    send_frames(&station.namespace, claims.collect())
}

/// Has a neighbour send frames. Between sibling interfaces only the station that a frame is for
/// receives it.
fn send_frames(neighbour: &Namespace, all: Vec<Vec<u8>>) -> Result<Attacker> {
    Attacker::pair(neighbour, move |span| frames::flood(span, LINK, &all))
}

/// The victim is the resident here, and the attacker a station in its own network.
fn spoofed_claim(arena: &Arena) -> Result<Attacker> {
    let victim = arena.stage.topology.containers[RESIDENT].mac;
    let Some(address) = arena.server.lease_of(victim) else {
        return no_flood(arena);
    };
    let claim = move |span: &Span| frames::claim_once(span, SERVER_LINK, STRANGER, victim, address);
    Attacker::start(&arena.stage.topology.server, claim)
}

fn change_links(arena: &Arena, changes: Vec<Message>) -> Result<Attacker> {
    Attacker::start(&arena.hostile.namespace, move |span| {
        netlink::change_links(span, &changes)
    })
}

fn aliases(arena: &Arena, index: u32) -> Result<Attacker> {
    change_links(
        arena,
        vec![
            netlink::alias(index, "one"),
            netlink::alias(index, "another"),
        ],
    )
}

fn up_and_down(arena: &Arena) -> Result<Attacker> {
    let index = arena.hostile_index()?;
    change_links(
        arena,
        vec![netlink::state(index, false), netlink::state(index, true)],
    )
}

fn mtu_to_and_fro(arena: &Arena) -> Result<Attacker> {
    let index = arena.hostile_index()?;
    change_links(
        arena,
        vec![netlink::mtu(index, 1400), netlink::mtu(index, 1450)],
    )
}

fn mac_to_and_fro(arena: &Arena) -> Result<Attacker> {
    let (index, mac) = (arena.hostile_index()?, arena.hostile.mac);
    change_links(
        arena,
        vec![netlink::mac(index, STRANGER), netlink::mac(index, mac)],
    )
}

fn mac_changed(arena: &mut Arena) -> Result<u64> {
    arena.hostile.namespace.set_mac(LINK, STRANGER)?;
    Ok(1)
}

fn renamed(arena: &Arena) -> Result<Attacker> {
    let index = arena.hostile_index()?;
    let (down, up) = (netlink::state(index, false), netlink::state(index, true));
    let names = [netlink::name(index, "other0"), netlink::name(index, LINK)];
    let [away, back] = names;
    change_links(arena, vec![down.clone(), away, up.clone(), down, back, up])
}

/// An interface of the same name and MAC, that leads nowhere.
fn replaced(arena: &mut Arena) -> Result<u64> {
    let hostile = &arena.hostile.namespace;
    hostile.delete_link(LINK)?;
    hostile.veth(LINK, hostile, "end")?;
    hostile.set_mac(LINK, arena.hostile.mac)?;
    Ok(1)
}

fn moved_away(arena: &mut Arena) -> Result<u64> {
    let elsewhere = Namespace::new("elsewhere")?;
    arena.hostile.namespace.move_link(LINK, &elsewhere)?;
    arena.kept.push(elsewhere.file().try_clone()?.into());
    Ok(1)
}

/// The path leads to another namespace, and the former one still exists.
fn kept_alive(arena: &mut Arena) -> Result<u64> {
    arena
        .kept
        .push(arena.hostile.namespace.file().try_clone()?.into());
    arena.hostile.namespace.replace()?;
    Ok(1)
}

/// The lease goes first, for the daemon has the port itself while it listens.
fn port_taken(arena: &mut Arena) -> Result<u64> {
    teardown(&arena.stage.unit.socket(), &arena.hostile_config()).map_err(words)?;
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).ok());
    let socket = arena
        .hostile
        .namespace
        .run(|| eventually("port 68 is free", Duration::from_secs(5), bind))?;
    arena.kept.push(socket.into());
    Ok(1)
}

fn withheld(arena: &mut Arena) -> Result<u64> {
    arena.far_server.set_silent(true);
    Ok(1)
}
