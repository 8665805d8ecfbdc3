//! A server that means no good: whatever it says looks right from the outside.

use super::chance::Chance;
use super::datagrams::*;
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;

pub const MAC: Mac = Mac([2, 0, 0, 6, 6, 6]);
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

/// What it is up to.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// Offers, and refuses.
    NakLoop,
    /// Grants leases of impossible times.
    Absurd,
    /// Answers DISCOVER with ACK, be it asked for or not.
    Unasked,
    /// Speaks in the name of others, or of nobody.
    WrongName,
    /// Has one address, and gives it to everybody.
    SameForAll,
    /// Says anything.
    Random,
}

pub const STYLES: [Style; 6] = [
    Style::NakLoop,
    Style::Absurd,
    Style::Unasked,
    Style::WrongName,
    Style::SameForAll,
    Style::Random,
];

/// An address that makes sense, or not.
pub fn some_address(chance: &mut Chance) -> Ipv4Addr {
    match chance.below(12) {
        0 => NOBODY,
        1 => Ipv4Addr::BROADCAST,
        2 => Ipv4Addr::LOCALHOST,
        3 => Ipv4Addr::new(224, 0, 0, 1),
        _ => Ipv4Addr::new(10, chance.pick(&[0, 1, 66]), 0, 10 + chance.below(8) as u8),
    }
}

fn some_time(chance: &mut Chance) -> u32 {
    match chance.below(4) {
        0 => chance.below(1 << 20) as u32,
        _ => chance.pick(&[
            0,
            1,
            2,
            59,
            60,
            61,
            600,
            3600,
            86_400,
            0x7fff_ffff,
            u32::MAX - 1,
            u32::MAX,
        ]),
    }
}

/// Some answer of some type to a message with this xid.
pub fn anything(
    message_type: u8,
    xid: u32,
    chaddr: Mac,
    names: &[Ipv4Addr],
    chance: &mut Chance,
) -> Reply {
    let maybe = |percent, chance: &mut Chance| chance.percent(percent).then(|| some_time(chance));
    let lease = maybe(90, chance);
    let (t1, t2) = (maybe(50, chance), maybe(50, chance));
    Reply {
        message_type,
        xid,
        chaddr,
        yiaddr: Some(some_address(chance)),
        server: chance.percent(90).then(|| chance.pick(names)),
        lease,
        t1,
        t2,
        router: chance
            .percent(50)
            .then(|| some_address(chance))
            .filter(|router| *router != NOBODY),
        mtu: chance.percent(20).then(|| chance.below(1 << 16) as u16),
        rapid: chance.percent(40),
        honest: false,
    }
}

/// What it answers to what it has heard; `names` are those of all servers, its own the last of
/// them.
pub fn mischief(
    style: Style,
    heard: &Heard,
    names: &[Ipv4Addr],
    chance: &mut Chance,
) -> Option<Reply> {
    let fair = Reply {
        message_type: if heard.message_type == DISCOVER {
            OFFER
        } else {
            ACK
        },
        xid: heard.xid,
        chaddr: heard.chaddr,
        yiaddr: heard
            .ciaddr
            .or(heard.requested)
            .or(Some(Ipv4Addr::new(10, 66, 0, 10))),
        server: heard.server.or(Some(ADDRESS)),
        lease: Some(3600),
        router: Some(ADDRESS),
        ..Reply::default()
    };
    if !matches!(heard.message_type, DISCOVER | REQUEST) {
        return None;
    }
    Some(match style {
        Style::NakLoop if heard.message_type == REQUEST => {
            // It has seen whom the client asks, and speaks for him.
            let server = heard
                .server
                .or(heard.to_ip.filter(|ip| !ip.is_broadcast()))
                .or(fair.server);
            Reply {
                message_type: NAK,
                server,
                yiaddr: None,
                lease: None,
                ..fair
            }
        }
        Style::NakLoop => fair,
        Style::Absurd => Reply {
            lease: Some(some_time(chance)),
            t1: Some(some_time(chance)),
            t2: Some(some_time(chance)),
            server: heard
                .server
                .or(heard.to_ip.filter(|ip| !ip.is_broadcast()))
                .or(fair.server),
            ..fair
        },
        Style::Unasked => Reply {
            message_type: ACK,
            rapid: chance.percent(50),
            ..fair
        },
        Style::WrongName => {
            let message_type = chance.pick(&[fair.message_type, NAK, ACK]);
            Reply {
                message_type,
                server: chance.percent(80).then(|| chance.pick(names)),
                ..fair
            }
        }
        Style::SameForAll => Reply {
            yiaddr: Some(Ipv4Addr::new(10, 0, 0, 10)),
            ..fair
        },
        Style::Random => anything(
            chance.between(1, 9) as u8,
            heard.xid,
            heard.chaddr,
            names,
            chance,
        ),
    })
}
