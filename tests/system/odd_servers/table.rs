//! The oddities: each was met by an operator of some DHCP client.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;

use super::messages::{client_id, fields, packets};
use super::rows::{Row, Then};
use crate::lab::odd_server::arp::Question;
use crate::lab::odd_server::reply::Reply;
use crate::lab::packets::Mac;

pub(super) fn rows() -> Vec<Row> {
    [
        arp(),
        twice(),
        requests(),
        identifiers(),
        less(),
        names(),
        routes(),
        times(),
        packets(),
        fields(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 254);
/// Stations that are neither the server nor a client.
pub(super) const ROUTER_STATION: Mac = Mac([0x02, 0x77, 0, 0, 0, 0xfe]);
const SWITCH: Mac = Mac([0x02, 0x77, 0, 0, 0, 2]);
const NEIGHBOUR: Mac = Mac([0x02, 0x77, 0, 0, 0, 3]);
/// The first address that the server gives, and the one after it.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 3);

/// A station that routes for all others answers for their addresses.
fn is_foreign(question: &Question) -> bool {
    !question.is_announcement()
}

/// A lease with a renewal after each second, and what the server says then.
fn short(reply: &mut Reply) {
    for (code, seconds) in [(51, 60), (58, 1), (59, 50)] {
        reply.set_long(code, seconds);
    }
}

/// Stations that answer ARP for more addresses than their own.
fn arp() -> Vec<Row> {
    vec![
        Row::new("arp_is_answered_by_the_server_for_every_address")
            .claims(|question| is_foreign(question).then(|| question.claimed_by(question.server)))
            .then(Then::Stays),
        Row::new("arp_is_answered_by_the_server_even_for_announcements")
            .claims(|question| Some(question.claimed_by(question.server)))
            .then(Then::Stays),
        Row::new("arp_is_answered_by_the_router_for_every_address")
            .answers(|_, reply| reply.set(3, &ROUTER.octets()))
            .claims(|question| is_foreign(question).then(|| question.claimed_by(ROUTER_STATION)))
            .expects(|wanted| wanted.router = Some(ROUTER))
            .then(Then::Stays),
        Row::new("arp_is_answered_by_a_third_station_for_every_address")
            .claims(|question| is_foreign(question).then(|| question.claimed_by(NEIGHBOUR)))
            .then(Then::Settles),
        Row::new("arp_is_answered_by_the_server_30_ms_late")
            .claims(|question| {
                is_foreign(question).then(|| question.claimed_by(question.server).after(30))
            })
            .then(Then::Stays),
        Row::new("arp_is_answered_by_the_server_300_ms_late")
            .claims(|question| {
                is_foreign(question).then(|| question.claimed_by(question.server).after(300))
            })
            .then(Then::Stays),
        Row::new("arp_is_answered_by_a_third_station_300_ms_late")
            .claims(|question| {
                is_foreign(question).then(|| question.claimed_by(NEIGHBOUR).after(300))
            })
            .then(Then::Settles),
        Row::new("arp_is_answered_by_the_router_for_every_address_while_renewing")
            .answers(|_, reply| {
                short(reply);
                reply.set(3, &ROUTER.octets());
            })
            .claims(|question| is_foreign(question).then(|| question.claimed_by(ROUTER_STATION)))
            .expects(|wanted| wanted.router = Some(ROUTER))
            .then(Then::IsRenewed),
        Row::new("arp_probes_of_a_switch_to_the_client_alone")
            .claims(|question| question.is_probe().then(|| question.tracked_by(SWITCH)))
            .then(Then::Stays),
        Row::new("arp_has_a_real_owner_of_the_first_two_addresses")
            .claims(|question| {
                [FIRST, SECOND]
                    .contains(&question.wanted)
                    .then(|| question.claimed_by(NEIGHBOUR))
            })
            .expects(|wanted| wanted.not = Some(FIRST))
            .then(Then::Stays),
    ]
}

/// An option that comes twice.
fn twice() -> Vec<Row> {
    vec![
        Row::new("twice_the_server_identifier").answers(|_, reply| reply.repeat(&[54])),
        Row::new("twice_the_server_identifier_with_another_one")
            .answers(|_, reply| reply.add(54, &[10, 88, 0, 9])),
        Row::new("twice_the_server_identifier_first_cut_short")
            .better()
            .answers(|_, reply| reply.add_before(54, &[10, 88])),
        Row::new("twice_the_lease_time").answers(|_, reply| reply.repeat(&[51])),
        Row::new("twice_the_message_type").answers(|_, reply| reply.repeat(&[53])),
        Row::new("twice_the_mask").answers(|_, reply| reply.repeat(&[1])),
        Row::new("twice_the_mask_three_times").answers(|_, reply| {
            reply.repeat(&[1]);
            reply.add(1, &[255, 255, 0, 0]);
        }),
        Row::new("twice_the_timers")
            .answers(|_, reply| {
                short(reply);
                reply.repeat(&[51, 58, 59]);
            })
            .then(Then::IsRenewed),
        Row::new("twice_the_routers").answers(|_, reply| reply.repeat(&[3])),
        Row::new("twice_the_dns_servers").answers(|_, reply| reply.repeat(&[6])),
        Row::new("twice_the_domain").answers(|_, reply| reply.repeat(&[15])),
        Row::new("twice_the_domain_in_halves").answers(|_, reply| reply.halve(15)),
        Row::new("twice_the_mtu").answers(|_, reply| {
            reply.set(26, &1400_u16.to_be_bytes());
            reply.repeat(&[26]);
        }),
        Row::new("twice_the_broadcast_address").answers(|_, reply| {
            reply.set(28, &[10, 88, 255, 255]);
            reply.repeat(&[28]);
        }),
        Row::new("twice_the_routes").answers(|_, reply| {
            reply.set(121, &[0, 10, 88, 0, 1]);
            reply.repeat(&[121]);
        }),
        Row::new("twice_the_routes_in_halves").answers(|_, reply| {
            reply.set(121, &[0, 10, 88, 0, 1, 24, 10, 99, 0, 10, 88, 0, 7]);
            reply.halve(121);
        }),
        Row::new("twice_the_search_list")
            .answers(|_, reply| {
                reply.set(119, b"\x01a\x07example\x00");
                reply.repeat(&[119]);
            })
            .expects(|wanted| wanted.domain = "lab.example a.example"),
        Row::new("twice_the_client_identifier").answers(|request, reply| {
            reply.set(61, &client_id(request));
            reply.repeat(&[61]);
        }),
        Row::new("twice_every_option").answers(|_, reply| reply.repeat_all()),
        Row::new("twice_every_option_in_a_renewal")
            .answers(|_, reply| {
                short(reply);
                reply.repeat_all();
            })
            .then(Then::IsRenewed),
    ]
}

/// Requests that a server, a relay or a firewall drops.
fn requests() -> Vec<Row> {
    vec![
        Row::new("drops_rapid_commit").hears(|request| !request.has(80)),
        Row::new("drops_a_requested_address_of_another_network")
            .renumbered()
            .hears(|request| {
                let is_foreign =
                    |address: Ipv4Addr| request.renumbered && address.octets()[1] == 88;
                !request.requested().is_some_and(is_foreign)
            })
            .expects(|wanted| wanted.router = Some(Ipv4Addr::new(10, 77, 0, 1))),
        Row::new("refuses_a_requested_address_of_another_network")
            .renumbered()
            .answers(|request, reply| {
                if request.renumbered
                    && request
                        .requested()
                        .is_some_and(|address| address.octets()[1] == 88)
                {
                    reply.refuse();
                }
            })
            .expects(|wanted| wanted.router = Some(Ipv4Addr::new(10, 77, 0, 1))),
        Row::new("drops_client_identifiers")
            .better()
            .with(&["--client-id", "none"])
            .hears(|request| !request.has(61)),
        Row::new("drops_client_identifiers_that_are_sent_by_default")
            .better()
            .hears(|request| !request.has(61)),
        Row::new("drops_a_largest_size").hears(|request| !request.has(57)),
        Row::new("drops_a_largest_size_of_more_than_576").hears(|request| request.largest() <= 576),
        Row::new("drops_a_largest_size_in_a_request_alone")
            .hears(|request| request.kind != MessageType::Request || !request.has(57)),
        Row::new("drops_more_than_ten_wishes_in_a_request_alone")
            .hears(|request| request.kind != MessageType::Request || request.wishes() <= 10),
        Row::new("drops_more_than_330_bytes")
            .better()
            .hears(|request| request.length <= 330),
        Row::new("drops_a_whole_name")
            .with(&["--fqdn"])
            .in_domain("site.example")
            .hears(|request| !request.has(81))
            .expects(|wanted| {
                wanted.domain = "site.example";
            }),
        Row::new("drops_more_than_ten_wishes").hears(|request| request.wishes() <= 10),
        Row::new("drops_more_than_300_bytes")
            .better()
            .with(&["--client-id", "none"])
            .hears(|request| request.length <= 300),
        Row::new("drops_all_that_netavark_does_not_send").hears(|request| {
            ![50, 57, 80, 81]
                .iter()
                .any(|code| request.has(*code) && request.kind == MessageType::Discover)
                && request.wishes() <= 10
        }),
        Row::new("drops_the_first_discover")
            .hears(|request| (request.kind, request.count) != (MessageType::Discover, 1)),
        Row::new("drops_the_first_request")
            .hears(|request| (request.kind, request.count) != (MessageType::Request, 1)),
        Row::new("drops_the_first_second")
            .better()
            .hears(|request| request.kind != MessageType::Discover || request.message.secs() >= 1),
    ]
}

/// Server identifiers that do not fit.
fn identifiers() -> Vec<Row> {
    vec![
        Row::new("identifier_of_the_ack_is_another_one").answers(|_, reply| {
            if reply.is_ack() {
                reply.set(54, &[10, 88, 0, 9]);
            }
        }),
        Row::new("identifier_is_missing_in_the_ack").answers(|_, reply| {
            if reply.is_ack() {
                reply.without(&[54]);
            }
        }),
        Row::new("identifier_is_missing_in_the_offer").answers(|_, reply| {
            if !reply.is_ack() {
                reply.without(&[54]);
            }
        }),
        Row::new("identifier_is_missing").answers(|_, reply| reply.without(&[54])),
        Row::new("identifier_is_missing_beside_a_next_server").answers(|_, reply| {
            reply.without(&[54]);
            reply.siaddr = Ipv4Addr::new(10, 88, 0, 1);
        }),
        Row::new("identifier_is_missing_while_renewing")
            .answers(|_, reply| {
                short(reply);
                reply.without(&[54]);
            })
            .then(Then::IsRenewed),
        Row::new("identifier_of_a_renewal_is_another_one")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.set(54, &[10, 88, 0, 9]);
                }
            })
            .then(Then::IsRenewed),
        Row::new("identifier_is_zero").answers(|_, reply| reply.set(54, &[0; 4])),
        Row::new("identifier_is_of_another_network")
            .answers(|_, reply| reply.set(54, &[203, 0, 113, 5])),
        Row::new("identifier_is_the_broadcast_address")
            .answers(|_, reply| reply.set(54, &[255; 4])),
        Row::new("identifier_is_five_bytes_long")
            .answers(|_, reply| reply.set(54, &[10, 88, 0, 1, 0])),
        Row::new("identifier_is_missing_in_a_nak_to_the_first_request").answers(
            |request, reply| {
                if (request.kind, request.count) == (MessageType::Request, 1) {
                    reply.refuse();
                    reply.without(&[54]);
                }
            },
        ),
        Row::new("identifier_is_missing_in_a_nak_to_a_renewal")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.refuse();
                    reply.without(&[54]);
                }
            })
            .then(Then::StartsOver),
    ]
}

/// Answers that say less than was known.
fn less() -> Vec<Row> {
    vec![
        Row::new("less_in_the_ack_than_in_the_offer").answers(|_, reply| {
            if reply.is_ack() {
                reply.keep(&[53, 54, 51]);
            }
        }),
        Row::new("less_in_the_offer_than_in_the_ack").answers(|_, reply| {
            if !reply.is_ack() {
                reply.keep(&[53, 54, 51]);
            }
        }),
        Row::new("less_in_the_offer_than_in_the_ack_even_no_lease_time")
            .better()
            .answers(|_, reply| {
                if !reply.is_ack() {
                    reply.keep(&[53, 54]);
                }
            }),
        Row::new("less_in_a_renewal")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.keep(&[53, 54, 51, 58, 59]);
                }
            })
            .then(Then::IsRenewed),
        Row::new("less_in_a_renewal_no_mask")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.without(&[1]);
                }
            })
            .then(Then::IsRenewed),
        Row::new("less_in_a_renewal_no_router")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.without(&[3]);
                }
            })
            .then(Then::IsRenewed),
        Row::new("less_in_a_renewal_no_times").answers(|request, reply| {
            short(reply);
            if request.is_renewal() && request.count > 2 {
                reply.without(&[51, 58, 59]);
            }
        }),
    ]
}

/// Names that cannot be used as they are.
fn names() -> Vec<Row> {
    vec![
        Row::new("names_several_domains_with_blanks")
            .answers(|_, reply| reply.set(15, b"a.example b.example"))
            .expects(|wanted| wanted.domain = "a.example b.example"),
        Row::new("names_several_domains_with_commas")
            .answers(|_, reply| reply.set(15, b"a.example, b.example"))
            .expects(|wanted| wanted.domain = "a.example b.example"),
        Row::new("names_a_domain_that_ends_with_nul_and_dot")
            .answers(|_, reply| reply.set(15, b"lab.example.\0")),
        Row::new("names_a_domain_that_is_none")
            .answers(|_, reply| reply.set(15, b"<not configured>"))
            .expects(|wanted| wanted.domain = ""),
        Row::new("names_no_domain_but_an_empty_one")
            .answers(|_, reply| reply.set(15, b""))
            .expects(|wanted| wanted.domain = ""),
        Row::new("names_one_bad_name_in_the_search_list")
            .answers(|_, reply| {
                reply.set(
                    119,
                    b"\x01a\x07example\x00\x03b b\x07example\x00\x01c\x07example\x00",
                )
            })
            .expects(|wanted| wanted.domain = "lab.example a.example c.example"),
        Row::new("names_padding_behind_the_search_list")
            .answers(|_, reply| reply.set(119, b"\x01a\x07example\x00\x00\x00\x00"))
            .expects(|wanted| wanted.domain = "lab.example a.example"),
        Row::new("names_a_search_list_in_plain_text")
            .answers(|_, reply| reply.set(119, b"a.example b.example"))
            .expects(|wanted| wanted.domain = "lab.example a.example b.example"),
        Row::new("names_a_search_list_without_its_end")
            .answers(|_, reply| reply.set(119, b"\x01a\x07example\x00\x01b\x07exam"))
            .expects(|wanted| wanted.domain = "lab.example a.example"),
        Row::new("names_the_host_with_a_blank").answers(|_, reply| reply.set(12, b"my box")),
        Row::new("names_the_host_in_bytes_that_are_no_text")
            .answers(|_, reply| reply.set(12, b"\xff\xfe")),
    ]
}

/// Masks, routers and routes that cannot be used.
fn routes() -> Vec<Row> {
    vec![
        Row::new("routes_by_a_router_that_the_kernel_refuses")
            .better()
            .answers(|_, reply| reply.set(3, &[10, 88, 255, 255]))
            .expects(|wanted| {
                wanted.router = None;
                wanted.log = Some("route to 0.0.0.0/0 via 10.88.255.255");
            }),
        Row::new("routes_by_a_router_that_the_kernel_refuses_before_a_good_one")
            .better()
            .answers(|_, reply| reply.set(3, &[10, 88, 255, 255, 10, 88, 0, 1])),
        Row::new("routes_by_a_router_that_the_kernel_refuses_at_a_renewal")
            .answers(|request, reply| {
                short(reply);
                if request.is_renewal() {
                    reply.set(3, &[10, 88, 255, 255]);
                }
            })
            .then(Then::IsRenewed),
        Row::new("routes_by_a_router_of_another_network")
            .better()
            .answers(|_, reply| reply.set(3, &[192, 0, 2, 1]))
            .expects(|wanted| wanted.router = Some(Ipv4Addr::new(192, 0, 2, 1))),
        Row::new("routes_by_the_client_itself")
            .answers(|_, reply| {
                let client = reply.yiaddr.octets();
                reply.set(3, &client);
            })
            .expects(|wanted| wanted.router = None),
        Row::new("routes_by_the_client_itself_and_then_a_router").answers(|_, reply| {
            let client = reply.yiaddr.octets();
            reply.set(3, &[&client[..], &[10, 88, 0, 1]].concat());
        }),
        Row::new("routes_that_the_kernel_refuses_beside_a_default_route")
            .answers(|_, reply| reply.set(121, &[24, 10, 99, 0, 10, 88, 255, 255, 0, 10, 88, 0, 1]))
            .expects(|wanted| wanted.log = Some("route to 10.99.0.0/24 via 10.88.255.255")),
        Row::new("routes_that_make_no_sense")
            .answers(|_, reply| reply.set(121, &[33, 1, 2, 3, 4, 5])),
        Row::new("routes_by_no_router")
            .answers(|_, reply| reply.without(&[3]))
            .expects(|wanted| wanted.router = None),
        Row::new("routes_by_a_router_of_three_bytes")
            .answers(|_, reply| reply.set(3, &[10, 88, 0]))
            .expects(|wanted| wanted.router = None),
        Row::new("mask_is_missing")
            .better()
            .answers(|_, reply| reply.without(&[1]))
            .expects(|wanted| wanted.prefix = 8),
        Row::new("mask_has_holes")
            .answers(|_, reply| reply.set(1, &[255, 0, 255, 0]))
            .expects(|wanted| wanted.prefix = 8),
        Row::new("mask_is_of_one_host")
            .better()
            .answers(|_, reply| reply.set(1, &[255; 4]))
            .expects(|wanted| wanted.prefix = 32),
        Row::new("broadcast_address_of_elsewhere").answers(|_, reply| reply.set(28, &[8; 4])),
        Row::new("mtu_of_68_bytes").answers(|_, reply| reply.set(26, &68_u16.to_be_bytes())),
        Row::new("mtu_of_9000_bytes").answers(|_, reply| reply.set(26, &9000_u16.to_be_bytes())),
    ]
}

/// Lease times and timers.
fn times() -> Vec<Row> {
    vec![
        Row::new("times_no_lease_time")
            .better()
            .answers(|_, reply| reply.without(&[51])),
        Row::new("times_no_lease_time_in_the_ack")
            .better()
            .answers(|_, reply| {
                if reply.is_ack() {
                    reply.without(&[51]);
                }
            }),
        Row::new("times_no_end").answers(|_, reply| reply.set_long(51, u32::MAX)),
        Row::new("times_t1_after_t2").better().answers(|_, reply| {
            reply.set_long(58, 3000);
            reply.set_long(59, 2000);
        }),
        Row::new("times_t2_after_the_end")
            .better()
            .answers(|_, reply| reply.set_long(59, 7200)),
        Row::new("times_of_zero_for_t1_and_t2").answers(|_, reply| {
            reply.set_long(58, 0);
            reply.set_long(59, 0);
        }),
        Row::new("times_an_offer_after_1500_ms").answers(|_, reply| {
            if !reply.is_ack() {
                reply.after = Duration::from_millis(1500);
            }
        }),
        Row::new("times_an_offer_after_2900_ms").answers(|request, reply| {
            if request.kind == MessageType::Discover {
                reply.after = Duration::from_millis(2900);
            }
        }),
        Row::new("times_an_ack_after_1500_ms").answers(|_, reply| {
            if reply.is_ack() {
                reply.after = Duration::from_millis(1500);
            }
        }),
        Row::new("times_every_answer_three_times").answers(|_, reply| reply.copies = 3),
    ]
}
