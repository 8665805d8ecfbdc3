//! The oddities of the packets around a message, and of its fields.

use std::net::Ipv4Addr;

use super::rows::Row;
use super::table::ROUTER_STATION;
use crate::lab::odd_server::Request;
use crate::lab::odd_server::reply::Checksum;
use crate::lab::packets::Mac;

/// Packets around a message.
pub(super) fn packets() -> Vec<Row> {
    vec![
        Row::new("packet_to_all_stations").answers(|_, reply| {
            (reply.to, reply.destination) = (Mac::BROADCAST, Ipv4Addr::BROADCAST);
        }),
        Row::new("packet_to_all_addresses_and_one_station")
            .answers(|_, reply| reply.destination = Ipv4Addr::BROADCAST),
        Row::new("packet_to_the_broadcast_address_of_the_subnet").answers(|_, reply| {
            (reply.to, reply.destination) = (Mac::BROADCAST, Ipv4Addr::new(10, 88, 255, 255));
        }),
        Row::new("packet_with_a_wrong_checksum")
            .answers(|_, reply| reply.checksum = Checksum::Wrong),
        Row::new("packet_without_a_checksum").answers(|_, reply| reply.checksum = Checksum::Absent),
        Row::new("packet_with_a_checksum_left_to_the_hardware")
            .answers(|_, reply| reply.checksum = Checksum::Partial),
        Row::new("packet_from_another_port").answers(|_, reply| reply.source.1 = 1067),
        Row::new("packet_from_another_address")
            .answers(|_, reply| reply.source.0 = Ipv4Addr::new(10, 88, 0, 3)),
        Row::new("packet_from_no_address")
            .answers(|_, reply| reply.source.0 = Ipv4Addr::UNSPECIFIED),
        Row::new("packet_from_another_station").answers(|_, reply| reply.from = ROUTER_STATION),
        Row::new("packet_with_a_trailer").answers(|_, reply| reply.trailer = 18),
        Row::new("packet_with_options_of_ipv4")
            .answers(|_, reply| reply.ip_options = vec![0x94, 4, 0, 0]),
        Row::new("packet_of_1400_bytes").answers(|_, reply| reply.shortest = 1400),
        Row::new("packet_of_1400_bytes_of_options").answers(|_, reply| {
            for code in 224..229 {
                reply.add(code, &[b'x'; 200]);
            }
        }),
        // What is for all stations the kernel puts together before a macvlan sees it.
        Row::new("packet_in_fragments_to_all_stations")
            .better()
            .answers(|_, reply| {
                (reply.shortest, reply.fragment) = (1400, Some(552));
                (reply.to, reply.destination) = (Mac::BROADCAST, Ipv4Addr::BROADCAST);
            }),
        // Packet sockets are given the rest as it comes. A server that heeds option 57 sends no
        // fragments on a link of 1500 bytes.
        Row::new("packet_in_fragments_to_one_station")
            .served_by_none()
            .answers(|_, reply| {
                (reply.shortest, reply.fragment) = (1400, Some(552));
            }),
        Row::new("packet_with_a_priority").answers(|_, reply| reply.tag = Some(0xe000)),
        Row::new("packet_that_is_not_padded").answers(|_, reply| reply.shortest = 0),
    ]
}

/// Fields of a message.
pub(super) fn fields() -> Vec<Row> {
    vec![
        Row::new("field_of_options_without_an_end").answers(|_, reply| {
            reply.end.clear();
            reply.shortest = 0;
        }),
        Row::new("field_of_options_that_is_cut").answers(|_, reply| {
            reply.end = vec![43, 100, 1];
            reply.shortest = 0;
        }),
        Row::new("field_of_options_in_another_order").answers(|_, reply| {
            reply.without(&[53]);
            let kind = reply.kind.into();
            reply.add(53, &[kind]);
        }),
        Row::new("field_file_with_options").answers(|_, reply| reply.overload(&[6, 15])),
        Row::new("field_file_with_the_router_and_the_mask")
            .better()
            .answers(|_, reply| reply.overload(&[1, 3])),
        Row::new("field_sname_that_is_no_text")
            .better()
            .answers(|_, reply| reply.sname = [0xff; 64]),
        Row::new("field_giaddr_of_a_relay")
            .answers(|_, reply| reply.giaddr = Ipv4Addr::new(10, 88, 0, 2)),
        Row::new("field_ciaddr_in_every_reply").answers(|_, reply| reply.ciaddr = reply.yiaddr),
        Row::new("field_chaddr_with_bytes_behind_the_address")
            .answers(|_, reply| reply.chaddr[6..].fill(0xee)),
        Row::new("field_chaddr_has_no_length")
            .answers(|_, reply| (reply.htype, reply.hlen) = (0, 0)),
        Row::new("field_chaddr_has_16_bytes").answers(|_, reply| reply.hlen = 16),
        Row::new("field_of_the_station_is_empty").answers(|_, reply| reply.chaddr = [0; 16]),
        Row::new("field_client_identifier_of_another_client")
            .answers(|_, reply| reply.set(61, b"\0another")),
        Row::new("field_client_identifier_that_is_cut").answers(|request, reply| {
            reply.set(61, &client_id(request)[..16]);
        }),
        Row::new("field_client_identifier_echoed")
            .answers(|request, reply| reply.set(61, &client_id(request))),
        Row::new("field_relay_information_echoed")
            .answers(|_, reply| reply.set(82, &[1, 4, 0, 1, 0, 2])),
        Row::new("field_of_vendor_options").answers(|_, reply| reply.set(43, &[1, 200, 3])),
        Row::new("field_that_asks_to_do_without_ipv4")
            .answers(|_, reply| reply.set_long(108, 1800)),
        Row::new("field_that_forces_a_renewal").answers(|_, reply| reply.set(145, &[1])),
        Row::new("field_of_an_offer_with_rapid_commit").answers(|_, reply| {
            if !reply.is_ack() {
                reply.set(80, &[]);
            }
        }),
    ]
}

pub(super) fn client_id(request: &Request) -> Vec<u8> {
    use dhcproto::v4::{DhcpOption, OptionCode};
    match request.message.opts().get(OptionCode::ClientIdentifier) {
        Some(DhcpOption::ClientIdentifier(id)) => id.clone(),
        _ => Vec::new(),
    }
}
