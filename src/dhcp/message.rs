//! DHCP messages (RFC 2131 §2): reading those of servers, writing those of the client.

use super::config::Config;
use super::ignored::Ignored;
use super::name::client_fqdn;
use super::option::{self, Options};
use super::plainness::Plainness;
use super::subnet::is_host_address;
use crate::mac::Mac;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpPacket, EthernetAddress,
};
use std::net::Ipv4Addr;

/// The length of the fixed fields and the magic cookie. smoltcp reads no further.
const HEADER: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// The magic cookie before the options (RFC 2131 §3).
const MAGIC: u32 = 0x6382_5363;
/// The length of a BOOTP message (RFC 951 §3): some relays drop shorter ones.
const MIN_LENGTH: usize = 300;
/// The length of an option with one address.
const ADDRESS_OPTION: usize = 6;

/// The least value of option 57 (RFC 2132 §9.10), which a server assumes without the option.
const MIN_MAX_SIZE: u16 = 576;

/// A message of a server to this client. Option 53, the message type, is required (RFC 2131 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerMessage {
    pub(super) message_type: DhcpMessageType,
    pub(super) xid: u32,
    /// `yiaddr`: our address.
    pub(super) address: Ipv4Addr,
    /// `siaddr`: the next server in bootstrap.
    pub(super) next_server: Option<Ipv4Addr>,
    /// The station that sent the message on this link: the server, a router or a relay.
    pub(super) from: Mac,
    /// The IP source address, which is the server's if there is no relay.
    source: Ipv4Addr,
    pub(super) options: Options,
}

impl ServerMessage {
    /// Reads a UDP payload that `from` sent. Ignores it unless it is a DHCP reply for this client
    /// (RFC 2131 table 3).
    pub(super) fn read(
        payload: &[u8],
        (from, source): (Mac, Ipv4Addr),
        config: &Config,
    ) -> Result<Self, Ignored> {
        let packet = DhcpPacket::new_checked(payload).map_err(|_| Ignored::Malformed)?;
        if packet.opcode() != DhcpOpCode::Reply || packet.magic_number() != MAGIC {
            return Err(Ignored::Malformed);
        }
        // Some servers leave `chaddr` empty. The transaction id identifies the reply then.
        if ![config.mac, Mac::UNSPECIFIED].contains(&Mac(packet.client_hardware_address().0)) {
            return Err(Ignored::OtherClient);
        }
        // Deviation: RFC 6842 §3 has the client identifier compared as well. Some servers truncate
        // or change it, and the transaction id distinguishes clients that share one MAC (ipvlan).
        let options = Options::collect(&payload[HEADER..], &payload[FILE], &payload[SNAME]);
        let message_type = options
            .byte(option::MESSAGE_TYPE)
            .ok_or(Ignored::Incomplete("message type"))?;
        Ok(Self {
            message_type: message_type.into(),
            xid: packet.transaction_id(),
            address: packet.your_ip(),
            next_server: Some(packet.server_ip()).filter(|address| !address.is_unspecified()),
            from,
            source,
            options,
        })
    }

    /// Returns whether the reply has option 80, rapid commit (RFC 4039).
    pub(super) fn is_rapid(&self) -> bool {
        self.options.contains(option::RAPID_COMMIT)
    }

    /// Returns the server identifier (option 54).
    pub(super) fn server(&self) -> Option<Ipv4Addr> {
        self.options
            .address(option::SERVER_ID)
            .filter(|address| is_host_address(*address))
    }

    /// Returns the IP source address.
    pub(super) fn source(&self) -> Ipv4Addr {
        self.source
    }

    /// Returns the address that replaces a missing server identifier: the IP source address, else
    /// `siaddr`.
    pub(super) fn fallback_server(&self) -> Option<Ipv4Addr> {
        Some(self.source)
            .into_iter()
            .chain(self.next_server)
            .find(|address| is_host_address(*address))
    }
}

/// Returns a reply with zeros in the fields that differ between an OFFER, its retransmission and
/// its ACK: the transaction, the type, and T1 and T2, which some servers randomize.
pub(super) fn comparable_bytes(payload: &[u8]) -> Vec<u8> {
    const VARIED: [u8; 3] = [
        option::MESSAGE_TYPE,
        option::RENEWAL_TIME,
        option::REBINDING_TIME,
    ];
    let mut bytes = payload.to_vec();
    let (fields, mut options) = bytes.split_at_mut(HEADER.min(payload.len()));
    // `xid` and `secs`.
    if let Some(varied) = fields.get_mut(4..10) {
        varied.fill(0);
    }
    loop {
        match options {
            [option::PAD, rest @ ..] => options = rest,
            [option::END, ..] | [] | [_] => break,
            [code, length, rest @ ..] => {
                let Some((value, rest)) = rest.split_at_mut_checked(usize::from(*length)) else {
                    break;
                };
                if VARIED.contains(code) {
                    value.fill(0);
                }
                options = rest;
            }
        }
    }
    bytes
}

/// A message of the client. Fields that are `None` are left out.
#[derive(Clone, Debug)]
pub(super) struct ClientMessage {
    pub(super) message_type: DhcpMessageType,
    pub(super) xid: u32,
    /// That of the transaction id, or plainer.
    pub(super) plainness: Plainness,
    /// The plainness of the parameter request list.
    pub(super) parameter_list: Plainness,
    /// Seconds since the client began.
    pub(super) secs: u16,
    /// `ciaddr`: the address in use, for which the host answers ARP (RFC 2131 §3.5).
    pub(super) ciaddr: Option<Ipv4Addr>,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 56, for the server's log.
    pub(super) message: Option<String>,
}

impl ClientMessage {
    /// Makes a message without addresses.
    pub(super) fn new(message_type: DhcpMessageType, xid: u32, secs: u16) -> Self {
        let plainness = Plainness::from_xid(xid);
        Self {
            message_type,
            xid,
            plainness,
            parameter_list: plainness,
            secs,
            ciaddr: None,
            requested: None,
            server: None,
            message: None,
        }
    }

    /// Returns whether servers answer the message; they do not answer a DECLINE or a RELEASE.
    fn expects_reply(&self) -> bool {
        !matches!(
            self.message_type,
            DhcpMessageType::Decline | DhcpMessageType::Release
        )
    }

    /// Returns the UDP payload, with the fields and options of RFC 2131 table 5.
    pub(super) fn write(&self, config: &Config) -> Vec<u8> {
        let plainness = self.plainness;
        // All other fields and flags are zero.
        let mut out = vec![0; HEADER];
        let mut packet = DhcpPacket::new_unchecked(&mut out[..]);
        packet.set_opcode(DhcpOpCode::Request);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(self.xid);
        packet.set_secs(self.secs);
        // RFC 2131 §4.4.1: the hardware address.
        packet.set_client_hardware_address(EthernetAddress(config.mac.0));
        packet.set_magic_number(MAGIC);
        match self.ciaddr {
            Some(address) => packet.set_client_ip(address),
            // RFC 2131 §4.1: a client with an address receives unicast, and does not need the flag.
            None if config.broadcast && self.expects_reply() => {
                packet.set_flags(DhcpFlags::BROADCAST)
            }
            None => {}
        }

        option::put(&mut out, option::MESSAGE_TYPE, &[self.message_type.into()]);
        // The same in all messages of a lease (RFC 2131 §4.2, RFC 4361 §6.4).
        if !config.client_id.is_empty() && plainness.has_client_id() {
            option::put(&mut out, option::CLIENT_ID, config.sent_client_id());
        }
        if let Some(server) = self.server {
            option::put(&mut out, option::SERVER_ID, &server.octets());
        }
        if let Some(requested) = self.requested {
            option::put(&mut out, option::REQUESTED_ADDRESS, &requested.octets());
        }
        if let Some(message) = &self.message {
            option::put(&mut out, option::MESSAGE, message.as_bytes());
        }
        if self.message_type == DhcpMessageType::Discover
            && config.rapid_commit
            && plainness.has_rapid_commit()
        {
            // RFC 4039 §3 and §4: only in a DISCOVER. Servers that do not know the option send an
            // OFFER. Deviation: plainer DISCOVERs are without it.
            option::put(&mut out, option::RAPID_COMMIT, &[]);
        }
        // RFC 2131 table 5: a RELEASE and a DECLINE have no parameter request list.
        if self.expects_reply() {
            put_name(&mut out, config, plainness);
            // The same list each time (RFC 2131 §3.5), of the plainness that the server has
            // answered.
            if config.max_message_size >= MIN_MAX_SIZE && plainness.has_message_size() {
                option::put(
                    &mut out,
                    option::MAX_MESSAGE_SIZE,
                    &config.max_message_size.to_be_bytes(),
                );
            }
            option::put(
                &mut out,
                option::PARAMETER_REQUEST_LIST,
                self.parameter_list.parameters(),
            );
        }
        // RFC 2131 §4.1: END comes last.
        out.push(option::END);
        if self.message_type == DhcpMessageType::Discover {
            // A relay that drops long messages must drop the DISCOVER, so that the next one is
            // plainer, and not the REQUEST, which has two more addresses.
            let requested = if self.requested.is_some() { 1 } else { 0 };
            out.resize(out.len() + ADDRESS_OPTION * (2 - requested), option::PAD);
        }
        out.resize(out.len().max(MIN_LENGTH), option::PAD);
        out
    }
}

/// Adds the name of the client, as option 81 or 12: RFC 4702 §3.1 forbids both together.
fn put_name(out: &mut Vec<u8>, config: &Config, plainness: Plainness) {
    let fqdn = config
        .fqdn
        .as_deref()
        .filter(|_| plainness.has_fqdn())
        .and_then(client_fqdn);
    let host_name = config
        .host_name
        .as_deref()
        .filter(|name| !name.is_empty() && plainness.has_host_name());
    if let Some(fqdn) = fqdn {
        option::put(out, option::CLIENT_FQDN, &fqdn);
    } else if let Some(name) = host_name {
        option::put(out, option::HOST_NAME, name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn address() -> impl Strategy<Value = Option<Ipv4Addr>> {
        prop::option::of((1..=u32::MAX).prop_map(Ipv4Addr::from))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The bytes of a message contain the fields and options that it was made of.
        #[test]
        fn a_written_message_is_read(
            (xid, secs, mac, max_message_size) in any::<(u32, u16, [u8; 6], u16)>(),
            (ciaddr, requested, server) in (address(), address(), address()),
            client_id in vec(any::<u8>(), 0..300),
            host_name in prop::option::of("[a-z]{0,300}"),
            fqdn in prop::option::of("[a-z]{1,9}\\.[a-z ]{1,9}"),
            (broadcast, rapid_commit, kind) in (any::<bool>(), any::<bool>(), select(vec![1, 3, 4, 7])),
        ) {
            let config =
                Config { host_name, fqdn, broadcast, rapid_commit, max_message_size, ..Config::new(Mac(mac), client_id) };
            let plainness = Plainness::from_xid(xid);
            let request = ClientMessage { ciaddr, requested, server, ..ClientMessage::new(kind.into(), xid, secs) };
            let payload = request.write(&config);

            prop_assert!(payload.len() >= MIN_LENGTH);
            if kind == 1 {
                let follows = ClientMessage { requested: Some(OURS), server: Some(OURS), ..ClientMessage::new(3.into(), xid, secs) };
                prop_assert!(payload.len() >= follows.write(&config).len());
            }
            let packet = DhcpPacket::new_checked(&payload[..]).expect("a message");
            prop_assert_eq!((packet.opcode(), packet.magic_number()), (DhcpOpCode::Request, MAGIC));
            prop_assert_eq!((packet.transaction_id(), packet.secs()), (xid, secs));
            prop_assert_eq!(packet.client_hardware_address().0, mac);
            prop_assert_eq!(packet.client_ip(), ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED));

            let asks = matches!(kind, 1 | 3);
            let flagged = packet.flags().contains(DhcpFlags::BROADCAST);
            prop_assert_eq!(flagged, broadcast && asks && ciaddr.is_none());
            let options = Options::collect(&payload[HEADER..], &payload[FILE], &payload[SNAME]);
            prop_assert_eq!(options.byte(option::MESSAGE_TYPE), Some(kind));
            let client_id = config.sent_client_id();
            let client_id = if plainness == Plainness::Bare { &[] } else { client_id };
            let sent_id = options.bytes(option::CLIENT_ID).unwrap_or_default();
            prop_assert_eq!(&*sent_id, client_id);
            prop_assert_eq!(options.address(option::REQUESTED_ADDRESS), requested);
            prop_assert_eq!(options.address(option::SERVER_ID), server);
            let rapid = kind == 1 && rapid_commit && plainness == Plainness::Full;
            prop_assert_eq!(options.contains(option::RAPID_COMMIT), rapid);
            let wanted = options.bytes(option::PARAMETER_REQUEST_LIST);
            prop_assert_eq!(wanted.as_deref(), asks.then_some(plainness.parameters()));
            let is_rich = plainness < Plainness::LikeNetavark;
            let largest = Some(max_message_size).filter(|size| asks && is_rich && *size >= MIN_MAX_SIZE);
            prop_assert_eq!(options.short(option::MAX_MESSAGE_SIZE), largest);
            let whole_name = config.fqdn.as_deref().and_then(client_fqdn).filter(|_| asks && is_rich);
            let name = config.host_name.as_deref().map(|name| &name.as_bytes()[..name.len().min(255)]);
            let name = name.filter(|name| asks && whole_name.is_none() && !name.is_empty() && plainness < Plainness::Bare);
            let (sent_fqdn, sent_name) = (options.bytes(option::CLIENT_FQDN), options.bytes(option::HOST_NAME));
            prop_assert_eq!((sent_fqdn.as_deref(), sent_name.as_deref()), (whole_name.as_deref(), name));
        }
    }
}
