//! dhcproto, another hand's understanding of the same RFCs, reads what the simulated wire writes,
//! and the other way round.

use super::datagrams::*;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use smol_dhcp_proxy::dhcp::Transmit;
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;

const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 5]);

#[test]
fn dhcproto_reads_what_servers_write() {
    let [client, server] = [[10, 0, 0, 5], [10, 0, 0, 1]].map(Ipv4Addr::from);
    let reply = Reply {
        message_type: ACK,
        xid: 0x0102_0304,
        chaddr: CLIENT,
        yiaddr: Some(client),
        server: Some(server),
        lease: Some(3600),
        t1: Some(1800),
        t2: Some(3000),
        router: Some(server),
        mtu: Some(1400),
        rapid: true,
        honest: true,
    };
    let frame = reply.write((Mac([2; 6]), server), (CLIENT, client));
    assert_eq!(sum(&frame[14..34], 0), 0xffff);
    assert_eq!(
        sum(
            &frame[34..],
            u32::from(sum(&frame[26..34], 17 + frame.len() as u32 - 34))
        ),
        0xffff
    );
    let message = Message::decode(&mut Decoder::new(&frame[42..])).unwrap();
    assert_eq!(
        (message.opcode(), message.xid()),
        (Opcode::BootReply, reply.xid)
    );
    assert_eq!(
        (message.yiaddr(), message.chaddr()),
        (client, &CLIENT.0[..])
    );
    let mut options: Vec<_> = message
        .opts()
        .iter()
        .map(|(_, option)| option.clone())
        .collect();
    options.sort_by_key(|option| u8::from(OptionCode::from(option)));
    let expected = [
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![server]),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::MessageType(MessageType::Ack),
        DhcpOption::ServerIdentifier(server),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3000),
    ];
    let rapid = options.pop();
    assert!(rapid.is_some_and(|option| u8::from(OptionCode::from(&option)) == 80));
    assert_eq!(options, expected);
}

#[test]
fn servers_hear_what_dhcproto_writes() {
    let [client, server] = [[10, 0, 0, 5], [10, 0, 0, 1]].map(Ipv4Addr::from);
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootRequest)
        .set_chaddr(&CLIENT.0)
        .set_xid(77)
        .set_secs(9)
        .set_ciaddr(client);
    let options = [
        DhcpOption::MessageType(MessageType::Request),
        DhcpOption::RequestedIpAddress(client),
        DhcpOption::ServerIdentifier(server),
        DhcpOption::ParameterRequestList(vec![OptionCode::Router]),
        DhcpOption::MaxMessageSize(1472),
        DhcpOption::RapidCommit,
    ];
    for option in options {
        message.opts_mut().insert(option);
    }
    let mut payload = Vec::new();
    message.encode(&mut Encoder::new(&mut payload)).unwrap();
    payload.resize(300, 0);
    let said = read(
        Transmit::Datagram {
            source: client,
            destination: server,
        },
        &payload,
    );
    let expected = Heard {
        message_type: REQUEST,
        xid: 77,
        secs: 9,
        ciaddr: Some(client),
        chaddr: CLIENT,
        requested: Some(client),
        server: Some(server),
        rapid: true,
        wishes: true,
        size: true,
        datagram: true,
        to_mac: BROADCAST,
        from_ip: Some(client),
        to_ip: Some(server),
        ..Heard::default()
    };
    assert_eq!(said, Said::Dhcp(expected));
}
