//! The content of a lease, from valid, unusual and malformed options (RFC 2132, 3396, 3397, 3442).

use super::double::{Says::*, *};
use dhcproto::v4::{DhcpOption, Message, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Name};
use proptest::prelude::*;
use smol_dhcp_proxy::dhcp::Unusable::{Broadcast, DomainName, Gateway, Mask, SearchList};
use smol_dhcp_proxy::dhcp::{Event, Lease, StaticRoute};
use std::net::Ipv4Addr;

fn lease(ack: Answer) -> Lease {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(bare_offer(IP))
        .sends(request(IP))
        .hears(ack)
        .forget_events();
    c.lease().clone()
}

/// Returns a lease whose ACK also has these options, byte for byte.
fn with(options: &[(u8, &[u8])]) -> Lease {
    let raw =
        |(code, value): &(u8, &[u8])| UnknownOption::new(OptionCode::from(*code), value.to_vec());
    lease(options.iter().fold(ack(IP, hours(1)), |ack, option| {
        ack.with(DhcpOption::Unknown(raw(option)))
    }))
}

fn route(destination: [u8; 4], prefix_len: u8, gateway: Option<[u8; 4]>) -> StaticRoute {
    StaticRoute {
        destination: destination.into(),
        prefix_len,
        gateway: gateway.map(Ipv4Addr::from),
    }
}

/// Replaces the options of a message by `options`.
fn replace_options(payload: &mut Vec<u8>, options: &[u8]) {
    payload.truncate(240);
    payload.extend(options);
}

const ACK: [u8; 3] = [53, 1, 5];
const SERVER_ID: [u8; 6] = [54, 4, 10, 0, 0, 1];
const TIME: [u8; 6] = [51, 4, 0, 0, 14, 16];

#[test]
fn a_wrong_length_drops_the_option_and_not_the_message() {
    let plain = with(&[]);
    for (code, value) in [
        (1, &[255, 255, 255][..]),
        (3, &[10, 0, 0, 1, 10]),
        (6, &[8, 8, 8]),
        (26, &[5]),
        (28, &[1, 2, 3, 4, 5]),
        (33, &[1, 2, 3, 4]),
        (42, &[1]),
        (58, &[0, 0, 10]),
        (59, &[]),
        (119, &[3, b'a']),
        (121, &[33, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (121, &[24, 10, 0, 0]),
        (249, &[]),
    ] {
        let lease = with(&[(code, value)]);
        match code {
            1 => assert_eq!(lease.prefix_len, 8, "10.0.0.5 is of class A"),
            3 => assert_eq!(
                lease,
                Lease {
                    routers: vec![],
                    ..plain.clone()
                }
            ),
            _ => assert_eq!(lease, plain, "option {code}"),
        }
    }
}

/// RFC 950: if the mask is missing or has holes, the mask of the address class is used.
#[test]
fn missing_masks_come_from_the_class() {
    let prefix_len = |address: [u8; 4], mask: [u8; 4]| {
        let mut c = Conversation::start();
        let ack = ack(address.into(), hours(1)).with(DhcpOption::SubnetMask(mask.into()));
        c.at(0)
            .sends(discover())
            .hears(bare_offer(IP))
            .sends(request(IP))
            .hears(ack)
            .forget_events();
        c.lease().prefix_len
    };
    assert_eq!(prefix_len([10, 0, 0, 5], [0; 4]), 8);
    assert_eq!(prefix_len([172, 16, 0, 5], [255, 0, 255, 0]), 16);
    assert_eq!(prefix_len([192, 168, 0, 5], [0, 0, 0, 255]), 24);
    assert_eq!(prefix_len([192, 168, 0, 5], [255; 4]), 32);
}

#[test]
fn a_32_bit_mask_has_no_broadcast_address() {
    assert_eq!(with(&[(1, &[255, 255, 255, 255])]).broadcast, None);
    assert_eq!(
        with(&[(1, &[255, 255, 0, 0]), (28, &[10, 0, 255, 255])]).broadcast,
        Some([10, 0, 255, 255].into())
    );
}

/// The kernel sends to option 28, so only an address of the subnet is accepted.
#[test]
fn a_broadcast_address_is_one_of_the_subnet() {
    const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);
    let broadcast = |told: [u8; 4]| {
        with(&[MASK, (28, &told)])
            .broadcast
            .map(|address| address.octets())
    };
    assert_eq!(broadcast([10, 0, 0, 255]), Some([10, 0, 0, 255]));
    assert_eq!(
        broadcast([10, 0, 0, 0]),
        Some([10, 0, 0, 0]),
        "as hosts of the eighties had it"
    );
    for told in [
        [8, 8, 8, 8],
        [255; 4],
        [10, 0, 1, 255],
        [224, 0, 0, 1],
        IP.octets(),
    ] {
        assert_eq!(broadcast(told), Some([10, 0, 0, 255]), "{told:?}");
    }
    let point_to_point = with(&[(1, &[255, 255, 255, 254]), (28, &[10, 0, 0, 4])]);
    assert_eq!(point_to_point.broadcast, None, "it is the other end");
}

#[test]
fn a_gateway_must_be_another_host() {
    let routers = |list: &[u8]| with(&[(3, list)]).routers;
    let right = Ipv4Addr::new(10, 0, 0, 1);
    for wrong in [IP.octets(), [224, 0, 0, 1], [255; 4], [127, 0, 0, 1]] {
        let list = [wrong, right.octets()].concat();
        assert_eq!(routers(&list), [right], "{wrong:?}");
        let routes: Vec<u8> = [
            &[24, 10, 9, 9][..],
            &wrong,
            &[24, 10, 9, 8],
            &right.octets(),
        ]
        .concat();
        assert_eq!(
            with(&[(121, &routes)]).routes,
            [route([10, 9, 8, 0], 24, Some(right.octets()))],
            "{wrong:?}"
        );
    }
    let static_routes: &[u8] = &[192, 168, 9, 0, 0, 0, 0, 0];
    assert_eq!(with(&[(33, static_routes)]).routes, []);
}

/// They are reported with the lease, and again after a change; not by an equal renewal.
#[test]
fn unusable_values_are_reported_once() {
    let odd = || {
        ack(IP, hours(1))
            .with(DhcpOption::SubnetMask([255, 0, 255, 0].into()))
            .with(DhcpOption::BroadcastAddr([8; 4].into()))
            .with(DhcpOption::Router(vec![IP, [10, 0, 0, 1].into()]))
    };
    let unusable = || {
        Unusable(vec![
            Mask([255, 0, 255, 0].into()),
            Broadcast([8; 4].into()),
            Gateway(IP),
        ])
    };
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(odd())
        .says(unusable())
        .says(Bound(IP));
    c.at(1800).sends(renew(IP)).hears(odd()).says(Renewed(IP));
    c.at(3600)
        .sends(renew(IP))
        .hears(odd().with(DhcpOption::InterfaceMtu(1400)))
        .says(unusable())
        .says(Changed(IP, IP));

    // The valid part of a text or a list is used, and the rest of it is reported.
    for (code, value, told) in [
        (15, &b"<none> a.example"[..], DomainName),
        (15, b"a\nb", DomainName),
        (119, b"\x01a\x00\x03b b\x00", SearchList),
        (119, b"\x01a\x00\x05b", SearchList),
    ] {
        let mut c = Conversation::start();
        let option =
            DhcpOption::Unknown(UnknownOption::new(OptionCode::from(code), value.to_vec()));
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)).with(option));
        c.says(Unusable(vec![told])).says(Bound(IP));
    }

    // Padding, and a list in plain text, are not reported.
    for value in [&b"\x01a\x00\x00\x00"[..], b"a.example b.example"] {
        let mut c = Conversation::start();
        let option = DhcpOption::Unknown(UnknownOption::new(OptionCode::from(119), value.to_vec()));
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)).with(option));
        c.says(Bound(IP));
    }

    // Only as many as fit into a line of the log.
    let routers = (0..60).map(|n| Ipv4Addr::new(224, 0, 0, n)).collect();
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.hears(ack(IP, hours(1)).with(DhcpOption::Router(routers)));
    assert!(matches!(c.event(), Event::Unusable { values, .. } if values.len() == 4));
    c.says(Bound(IP));
}

/// RFC 3442: a destination has the significant bytes of its prefix, the router 0.0.0.0 means on the
/// link, and options 3 and 33 are ignored.
#[test]
fn classless_routes_replace_the_others() {
    let routes: &[u8] = &[
        0, 10, 0, 0, 9, // default
        24, 192, 168, 7, 10, 0, 0, 2, // through a router
        16, 172, 16, 0, 0, 0, 0, // on the link
        12, 172, 255, 10, 0, 0, 3, // bits beyond the mask
        32, 8, 8, 8, 8, 10, 0, 0, 4,
    ];
    let expected = vec![
        route([192, 168, 7, 0], 24, Some([10, 0, 0, 2])),
        route([172, 16, 0, 0], 16, None),
        route([172, 240, 0, 0], 12, Some([10, 0, 0, 3])),
        route([8, 8, 8, 8], 32, Some([10, 0, 0, 4])),
    ];
    let static_routes: &[u8] = &[192, 168, 9, 0, 10, 0, 0, 8];
    for code in [121, 249] {
        let lease = with(&[(33, static_routes), (code, routes)]);
        assert_eq!(lease.routes, expected);
        assert_eq!(
            lease.routers,
            [Ipv4Addr::new(10, 0, 0, 9)],
            "not option 3's"
        );
    }
    let lease = with(&[(121, &[8, 10, 10, 0, 0, 2]), (249, routes)]);
    assert_eq!(
        (lease.routers.len(), lease.routes),
        (0, vec![route([10, 0, 0, 0], 8, Some([10, 0, 0, 2]))])
    );
}

/// RFC 2132 §5.8.
#[test]
fn static_routes_have_the_mask_of_their_class() {
    let lease = with(&[(
        33,
        &[
            192, 168, 9, 0, 10, 0, 0, 8, 172, 16, 3, 4, 10, 0, 0, 7, 0, 0, 0, 0, 10, 0, 0, 6,
        ],
    )]);
    let expected = [
        route([192, 168, 9, 0], 24, Some([10, 0, 0, 8])),
        route([172, 16, 3, 4], 32, Some([10, 0, 0, 7])),
    ];
    assert_eq!(lease.routes, expected);
}

/// RFC 3397: names are compressed within the whole option, and pointers may be invalid.
#[test]
fn search_lists() {
    let search = |value| with(&[(119, value)]).search;
    assert_eq!(
        search(b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"),
        ["eng.apple.com", "marketing.apple.com"]
    );
    assert!(search(b"\xc0\x00").is_empty(), "points at itself");
    assert!(search(b"\x01a\xc0\x00").is_empty(), "a loop");
    assert_eq!(search(b"\x01a\xc0\x05\x01b\x00"), ["b"], "forward");
    assert!(search(b"\x01a").is_empty(), "no end");
    assert!(search(b"\x03a b\x00").is_empty(), "no name");
    assert!(search(b"\x00").is_empty(), "the root");
    // The valid names count.
    assert_eq!(
        search(b"\x01a\x00\x03b b\x00\x01c\x00"),
        ["a", "c"],
        "a bad name"
    );
    assert_eq!(
        search(b"\x01a\x00\xc0\x09\x01c\x00"),
        ["a", "c"],
        "a bad pointer"
    );
    assert_eq!(search(b"\x01a\x00\x05b"), ["a"], "no end of the second");
    assert_eq!(
        search(b"\x01a\x00\x00\x00\x01c\x00\x00"),
        ["a", "c"],
        "padding"
    );
    assert!(search(b"\x03b.c\x00").is_empty(), "a dot in a label");
    // A list in plain text, as some servers send it.
    assert_eq!(search(b"a.example b.example"), ["a.example", "b.example"]);
    assert_eq!(
        search(b"a.example., b.example\0"),
        ["a.example", "b.example"]
    );
    assert!(search(b"a.example\nb.example").is_empty(), "lines");
    let mut many = b"\x3f".to_vec();
    many.extend([b'x'; 63]);
    many.push(0);
    (0..90).for_each(|_| many.extend(b"\xc0\x00"));
    assert_eq!(search(&many).len(), 32);
}

/// Names are written to resolv.conf, so invalid ones are dropped.
#[test]
fn only_valid_names_are_accepted() {
    let domain = |value: &[u8]| with(&[(15, value)]).domain_name;
    assert_eq!(domain(b"example.org").as_deref(), Some("example.org"));
    assert_eq!(domain(b"example.org.\0").as_deref(), Some("example.org"));
    for bad in [
        &b""[..],
        b"a\nnameserver 6.6.6.6",
        b"a..b",
        b".",
        b"\xff",
        b"a\0b",
        &[b'x'; 64],
        b"<none>",
    ] {
        assert_eq!(domain(bad), None, "{bad:?}");
    }
    // Operators put a search list there, for clients without option 119.
    for several in [
        &b"a.example b.example"[..],
        b"a.example., b.example",
        b" a.example,b.example \0",
        b"a.example <x> b.example",
    ] {
        let lease = with(&[(15, several)]);
        assert_eq!(
            (lease.domain_name.as_deref(), &lease.search[..]),
            (Some("a.example"), &["b.example".to_owned()][..])
        );
    }
    let lease = with(&[(15, b"a b"), (119, b"\x01c\x00")]);
    assert_eq!(
        (lease.domain_name.as_deref(), lease.search),
        (Some("a"), vec!["b".to_owned(), "c".to_owned()])
    );
    assert_eq!(with(&[(12, b"web_1")]).host_name.as_deref(), Some("web_1"));
}

/// Returns the lease of an ACK with these options alone, in this order.
fn of_options(options: &[(u8, &[u8])]) -> Lease {
    let bytes: Vec<u8> = options
        .iter()
        .flat_map(|(code, value)| [&[*code, u8::try_from(value.len()).unwrap()], *value].concat())
        .chain([255])
        .collect();
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    let mut payload = ack(IP, hours(1)).payload_for(c.last().xid());
    replace_options(&mut payload, &bytes);
    c.hears_frame(&server_frame(&payload, SERVER, IP))
        .forget_events();
    c.lease().clone()
}

/// Every option of fixed length, with two values.
const FIXED: [(u8, &[u8], &[u8]); 8] = [
    (53, &[5], &[6]),
    (54, &[10, 0, 0, 1], &[10, 0, 0, 9]),
    (51, &[0, 0, 14, 16], &[0, 0, 0, 60]),
    (1, &[255, 255, 255, 0], &[255, 0, 0, 0]),
    (26, &[5, 120], &[5, 0]),
    (28, &[10, 0, 0, 255], &[10, 0, 0, 0]),
    (58, &[0, 0, 7, 0], &[0, 0, 6, 0]),
    (59, &[0, 0, 8, 0], &[0, 0, 9, 0]),
];

/// The minimum of an ACK.
const BASE: [(u8, &[u8]); 3] = [(53, &[5]), (54, &[10, 0, 0, 1]), (51, &[0, 0, 14, 16])];

/// A server sends its own option, and its operator has added the same once more: the first one
/// counts, and one of another length does not.
#[test]
fn the_first_value_of_the_right_length_counts() {
    let once: Vec<(u8, &[u8])> = FIXED
        .iter()
        .map(|(code, value, _)| (*code, *value))
        .collect();
    let plain = of_options(&once);
    let with = |before: &[(u8, &[u8])], behind: &[(u8, &[u8])]| {
        of_options(&[before, &once, behind].concat())
    };
    for (code, value, other) in FIXED {
        for again in [value, other, &[], &[0; 9]] {
            assert_eq!(
                with(&[], &[(code, again)]),
                plain,
                "option {code}, and again {again:?}"
            );
            assert_eq!(
                with(&[], &[(code, again), (code, value)]),
                plain,
                "option {code} three times, {again:?}"
            );
        }
        for cut in [&[][..], &[1; 9], &[1; 5]] {
            assert_eq!(
                with(&[(code, cut)], &[]),
                plain,
                "option {code} behind {cut:?}"
            );
        }
    }
    assert_eq!(
        of_options(&[&once[..], &once, &once].concat()),
        plain,
        "all of them three times"
    );
}

/// RFC 3396 §7: a number or an address may be split as well.
#[test]
fn the_parts_of_an_option_of_fixed_length_are_joined() {
    let once: Vec<(u8, &[u8])> = FIXED
        .iter()
        .map(|(code, value, _)| (*code, *value))
        .collect();
    for (at, (code, value, other)) in FIXED
        .into_iter()
        .enumerate()
        .filter(|(_, (.., other))| other.len() > 1)
    {
        let with =
            |parts: &[(u8, &[u8])]| of_options(&[&once[..at], parts, &once[at + 1..]].concat());
        let whole = [value, other].map(|value| with(&[(code, value)]));
        assert_ne!(whole[0], whole[1], "option {code}");
        for (value, whole) in [value, other].into_iter().zip(whole) {
            let (first, second) = value.split_at(1);
            assert_eq!(
                with(&[(code, first), (code, second)]),
                whole,
                "option {code}: {first:?} and {second:?}"
            );
            assert_eq!(
                with(&[(code, first), (code, &[]), (code, second)]),
                whole,
                "option {code} with an empty part"
            );
        }
    }
}

/// In overloaded fields, too (RFC 2131 §4.1), with the options field first.
#[test]
fn an_option_is_repeated_in_another_field() {
    let ack = ack(IP, hours(1)).payload(|payload| {
        replace_options(
            payload,
            &[
                &ACK[..],
                &SERVER_ID,
                &TIME,
                &[52, 1, 1, 52, 1, 1, 26, 2, 5, 120, 255],
            ]
            .concat(),
        );
        payload[108..127].copy_from_slice(&[
            26, 2, 5, 0, 54, 4, 9, 9, 9, 9, 12, 1, b'w', 15, 3, b'o', b'r', b'g', 255,
        ]);
    });
    let lease = lease(ack);
    assert_eq!((lease.mtu, lease.server_id), (Some(1400), SERVER));
    assert_eq!(
        (lease.host_name.as_deref(), lease.domain_name.as_deref()),
        (Some("w"), Some("org"))
    );
}

/// Equal instances are one value; other parts are joined (RFC 3396 §7).
#[test]
fn repeated_texts_and_lists_are_joined() {
    let with = |options: &[(u8, &[u8])]| of_options(&[&BASE[..], options].concat());
    let routes: &[u8] = &[24, 10, 9, 9, 10, 0, 0, 1];
    for (code, value) in [
        (12, &b"box"[..]),
        (15, b"lab.example"),
        (119, b"\x03lab\x07example\x00\x01a\xc0\x00"),
        (3, &[10, 0, 0, 7]),
        (6, &[8, 8, 8, 8, 9, 9, 9, 9]),
        (42, &[10, 0, 0, 3]),
        (121, routes),
        (33, &[192, 168, 9, 0, 10, 0, 0, 8]),
    ] {
        let once = with(&[(code, value)]);
        assert_ne!(once, with(&[]), "option {code}");
        assert_eq!(
            with(&[(code, value), (code, value)]),
            once,
            "option {code} twice"
        );
        let (first, second) = value.split_at(value.len() / 2 + 1);
        assert_eq!(
            with(&[(code, first), (code, second)]),
            once,
            "option {code} in halves"
        );
    }
}

/// RFC 3396: the parts of an option may be anywhere.
#[test]
fn parts_are_joined_across_other_options() {
    let ack = ack(IP, hours(1)).payload(|payload| {
        replace_options(
            payload,
            &[
                &[6, 2, 8, 8][..],
                &ACK,
                &SERVER_ID,
                &[6, 3, 8, 8, 9],
                &TIME,
                &[6, 3, 9, 9, 9, 255],
            ]
            .concat(),
        );
    });
    assert_eq!(
        lease(ack).dns_servers,
        [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(9, 9, 9, 9)]
    );
}

/// RFC 2131 §4.1, RFC 2132 §9.3: more options in `file`, then in `sname`; parts continue from field
/// to field.
#[test]
fn overloaded_fields_are_read() {
    fn overload(payload: &mut Vec<u8>, fields: u8) {
        replace_options(
            payload,
            &[&ACK[..], &SERVER_ID, &TIME, &[52, 1, fields, 6, 1, 9, 255]].concat(),
        );
        payload[108..115].copy_from_slice(&[6, 2, 9, 9, 26, 2, 5]); // file: the last option is completed ..
        payload[115..117].copy_from_slice(&[120, 255]); // .. and ended here: MTU 1400
        payload[44..53].copy_from_slice(&[0, 6, 1, 9, 12, 1, b'w', 0, 255]); // sname
    }
    let read = |edit| {
        let lease = lease(ack(IP, hours(1)).payload(edit));
        (lease.dns_servers, lease.mtu, lease.host_name)
    };
    let (dns, mtu, host) = (Ipv4Addr::new(9, 9, 9, 9), Some(1400), Some("w".to_owned()));
    assert_eq!(read(|payload| overload(payload, 1)), (vec![], mtu, None));
    assert_eq!(
        read(|payload| overload(payload, 2)),
        (vec![], None, host.clone())
    );
    assert_eq!(read(|payload| overload(payload, 3)), (vec![dns], mtu, host));
    assert_eq!(read(|payload| overload(payload, 4)), (vec![], None, None));
}

/// Padding, a missing END, a last option that is too long: the options before it count.
#[test]
fn malformed_ends_are_accepted() {
    for end in [
        &[255][..],
        &[],
        &[0, 0, 0],
        &[6],
        &[6, 4],
        &[6, 4, 1, 2, 3],
        &[255, 6, 4, 1, 1, 1, 1],
    ] {
        let mut c = Conversation::start();
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP));
        let xid = c.last().xid();
        let mut payload = ack(IP, hours(1)).payload_for(xid);
        replace_options(
            &mut payload,
            &[&[0, 0][..], &ACK, &[0], &SERVER_ID, &TIME, end].concat(),
        );
        c.hears_frame(&server_frame(&payload, SERVER, IP))
            .says(Says::Bound(IP));
        assert_eq!(c.lease().dns_servers, [Ipv4Addr::UNSPECIFIED; 0]);
    }
}

/// RFC 8925 §3.2: only a client that requested option 108 may act on it.
#[test]
fn option_108_is_ignored() {
    // By hand: dhcproto has another number for it.
    let asked =
        ack(IP, hours(1)).payload(|payload| _ = payload.splice(240..240, [108, 4, 0, 0, 7, 8]));
    assert_eq!(lease(asked), with(&[]));
}

#[test]
fn the_next_server_is_not_the_dhcp_server() {
    let lease = lease(ack(IP, hours(1)).message(|message| _ = message.set_siaddr(OTHER_SERVER)));
    assert_eq!(
        (lease.server_id, lease.next_server),
        (SERVER, Some(OTHER_SERVER))
    );
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (1..=u32::MAX).prop_map(Ipv4Addr::from)
}

/// Gateways with a valid address other than the client's.
fn routers() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    prop::collection::vec(0x0b00_0000_u32..0x7f00_0000, 1..70)
        .prop_map(|all| all.into_iter().map(Ipv4Addr::from).collect())
}

fn addresses() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    prop::collection::vec(address(), 1..70)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,20}(\\.[a-z0-9]{1,20}){0,4}"
}

prop_compose! {
    fn settings()(
        routers in routers(),
        dns in addresses(),
        ntp in addresses(),
        prefix_len in 1..=29_u32,
        host in any::<u32>(),
        mtu in any::<u16>(),
        domain in name(),
        host_name in name(),
        search in prop::collection::vec(name(), 1..6),
        time in 4..u32::MAX,
    ) -> Vec<DhcpOption> {
        vec![
            DhcpOption::SubnetMask((u32::MAX << (32 - prefix_len)).into()),
            DhcpOption::Router(routers),
            DhcpOption::DomainNameServer(dns),
            DhcpOption::NtpServers(ntp),
            // Any other address of the subnet.
            DhcpOption::BroadcastAddr((IP.to_bits() ^ (host % ((1 << (32 - prefix_len)) - 1) + 1)).into()),
            DhcpOption::InterfaceMtu(mtu),
            DhcpOption::DomainName(domain),
            DhcpOption::Hostname(host_name),
            DhcpOption::DomainSearch(search.iter().map(|name| Name::from_ascii(name).unwrap()).collect()),
            DhcpOption::AddressLeaseTime(time),
            DhcpOption::Renewal(time / 2),
            DhcpOption::Rebinding(time / 4 * 3),
        ]
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The client reads all that dhcproto writes as dhcproto does.
    #[test]
    fn dhcproto_reads_the_same(settings in settings()) {
        let ack = settings.into_iter().fold(ack(IP, hours(1)), Answer::with);
        let lease = lease(ack.clone());
        let message = Message::decode(&mut Decoder::new(&ack.payload_for(1))).unwrap();
        for (_, option) in message.opts().iter() {
            match option {
                DhcpOption::SubnetMask(mask) => prop_assert_eq!(&lease.mask(), mask),
                DhcpOption::Router(routers) => prop_assert_eq!(&lease.routers, routers),
                DhcpOption::DomainNameServer(servers) => prop_assert_eq!(&lease.dns_servers, servers),
                DhcpOption::NtpServers(servers) => prop_assert_eq!(&lease.ntp_servers, servers),
                DhcpOption::BroadcastAddr(address) => prop_assert_eq!(lease.broadcast, Some(*address)),
                DhcpOption::InterfaceMtu(mtu) => prop_assert_eq!(lease.mtu, Some(*mtu)),
                DhcpOption::DomainName(name) => prop_assert_eq!(lease.domain_name.as_ref(), Some(name)),
                DhcpOption::Hostname(name) => prop_assert_eq!(lease.host_name.as_ref(), Some(name)),
                DhcpOption::DomainSearch(names) => {
                    let names: Vec<_> = names.iter().map(|name| name.to_ascii().trim_end_matches('.').to_owned()).collect();
                    prop_assert_eq!(&lease.search, &names);
                }
                DhcpOption::AddressLeaseTime(time) => prop_assert_eq!(lease.lease_time, Some(seconds((*time).into()))),
                DhcpOption::Renewal(time) => prop_assert_eq!(lease.t1, seconds((*time).into())),
                DhcpOption::Rebinding(time) => prop_assert_eq!(lease.t2, seconds((*time).into())),
                DhcpOption::MessageType(_) | DhcpOption::ServerIdentifier(_) | DhcpOption::End => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
