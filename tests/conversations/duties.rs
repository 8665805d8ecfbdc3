//! Duties of tests/catalogue that the other conversations do not test.

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::{DhcpOption, OptionCode};
use smol_dhcp_proxy::dhcp::{Client, Config, Ignored, Probe, StaticRoute, Transmit};
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A client without the strict double, for tests of bytes.
struct RawClient {
    client: Client,
    now: u64,
}

impl RawClient {
    fn start(config: Config) -> Self {
        Self {
            client: Client::new(config, 7, start_of_time()),
            now: 0,
        }
    }

    fn at(&mut self, second: u64) -> &mut Self {
        while let Some(due) = self
            .client
            .poll_timeout()
            .filter(|due| *due <= start_of_time() + seconds(second))
        {
            self.client.handle_timeout(due);
        }
        self.now = second;
        self
    }

    /// Returns all messages, and how to send them.
    fn frames(&mut self) -> Vec<(Transmit, Vec<u8>)> {
        let mut bytes = Vec::new();
        std::iter::from_fn(|| {
            self.client
                .poll_transmit(&mut bytes)
                .map(|transmit| (transmit, bytes.clone()))
        })
        .collect()
    }

    /// Returns all DHCP messages.
    fn messages(&mut self) -> Vec<(Transmit, Vec<u8>)> {
        let message = |(transmit, bytes): (Transmit, Vec<u8>)| match transmit {
            Transmit::Datagram { .. } => Some((transmit, bytes)),
            Transmit::Frame if bytes[12..14] == [8, 0] => {
                Some((transmit, bytes[14 + 20 + 8..].to_vec()))
            }
            Transmit::Frame => None, // ARP
        };
        self.frames().into_iter().filter_map(message).collect()
    }

    /// Returns the last DHCP message.
    fn says(&mut self) -> (Transmit, Vec<u8>) {
        self.messages().pop().expect("a message")
    }

    fn hears(&mut self, answer: &Answer, question: &[u8]) -> &mut Self {
        let xid = u32::from_be_bytes(question[4..8].try_into().unwrap());
        let now = start_of_time() + seconds(self.now);
        assert_eq!(self.client.handle_packet(&answer.write(xid), now), Ok(()));
        self
    }
}

/// One message of each kind.
struct Messages {
    discover: (Transmit, Vec<u8>),
    selecting: (Transmit, Vec<u8>),
    renewing: (Transmit, Vec<u8>),
    rebinding: (Transmit, Vec<u8>),
    init_reboot: (Transmit, Vec<u8>),
    decline: (Transmit, Vec<u8>),
    release: (Transmit, Vec<u8>),
}

impl Messages {
    /// The messages that servers answer.
    fn questions(&self) -> [&[u8]; 5] {
        [
            &self.discover,
            &self.selecting,
            &self.renewing,
            &self.rebinding,
            &self.init_reboot,
        ]
        .map(|(_, bytes)| &bytes[..])
    }

    /// The messages that servers do not answer.
    fn unanswered(&self) -> [&[u8]; 2] {
        [&self.decline, &self.release].map(|(_, bytes)| &bytes[..])
    }
}

fn vocabulary(config: &Config) -> Messages {
    let config = Config {
        fuzz: false,
        ..config.clone()
    };
    let mut client = RawClient::start(config.clone());
    let discover = client.says();
    let selecting = client.hears(&offer(IP), &discover.1).says();
    let renewing = client
        .hears(&ack(IP, hours(1)), &selecting.1)
        .at(1800)
        .says();
    let rebinding = client.at(3150).says();
    client.client.release(start_of_time() + seconds(3160));
    let release = client.says();
    let init_reboot = RawClient {
        client: Client::reboot(config.clone(), IP, 8, start_of_time()),
        now: 0,
    }
    .says();
    // The next DISCOVER follows the DECLINE at once.
    let mut client = RawClient {
        client: Client::new(config, 9, start_of_time()),
        now: 0,
    };
    let question = client.says().1;
    let question = client.hears(&offer(IP), &question).says().1;
    assert_eq!(
        client
            .client
            .handle_packet(&arp_reply(IP, OWNER), start_of_time()),
        Ok(())
    );
    let decline = client
        .hears(&ack(IP, hours(1)), &question)
        .messages()
        .remove(0);
    Messages {
        discover,
        selecting,
        renewing,
        rebinding,
        init_reboot,
        decline,
        release,
    }
}

/// The station that has the address already.
const OWNER: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// The options of a message by the letter of RFC 2132 §2, up to END, and what follows.
fn options(message: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    let (mut options, mut rest) = (Vec::new(), &message[240..]);
    while let [code, length, after @ ..] = rest {
        if *code == 255 {
            break;
        }
        let (value, after) = after.split_at((*length).into());
        options.push((*code, value.to_vec()));
        rest = after;
    }
    assert_eq!(rest[0], 255, "END");
    (options, &rest[1..])
}

fn option(message: &[u8], code: u8) -> Option<Vec<u8>> {
    let (options, _) = options(message);
    assert!(
        options.iter().filter(|(each, _)| *each == code).count() <= 1,
        "{code} twice"
    );
    options
        .into_iter()
        .find_map(|(each, value)| (each == code).then_some(value))
}

fn address(octets: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(octets).unwrap().into()
}

/// RFC 2131 table 5, byte for byte.
#[test]
fn the_fixed_fields_are_those_of_table_5() {
    let vocabulary = vocabulary(&config());
    for message in vocabulary
        .questions()
        .into_iter()
        .chain(vocabulary.unanswered())
    {
        assert_eq!(
            message[..4],
            [1, 1, 6, 0],
            "BOOTREQUEST, Ethernet, six bytes, no hops"
        );
        assert_eq!(message[10..12], [0, 0], "flags");
        assert_eq!(message[16..28], [0; 12], "yiaddr, siaddr, giaddr");
        assert_eq!(message[28..44], [&MAC.0[..], &[0; 10]].concat(), "chaddr");
        assert_eq!(message[44..236], [0; 192], "sname and file");
        assert_eq!(message[236..240], [99, 130, 83, 99]);
        let (_, after) = options(message);
        assert!(
            after.iter().all(|byte| *byte == 0),
            "nothing but padding after END"
        );
    }
}

/// RFC 2131 table 4.
#[test]
fn the_four_requests_of_table_4() {
    let Messages {
        selecting,
        renewing,
        rebinding,
        init_reboot,
        ..
    } = vocabulary(&config());
    let row = |(transmit, message): &(Transmit, Vec<u8>)| {
        let option = |code| option(message, code).map(|value| address(&value));
        (
            *transmit != Transmit::Frame,
            option(54),
            option(50),
            address(&message[12..16]),
        )
    };
    assert_eq!(row(&init_reboot), (false, None, Some(IP), UNSPECIFIED));
    assert_eq!(
        row(&selecting),
        (false, Some(SERVER), Some(IP), UNSPECIFIED)
    );
    assert_eq!(row(&renewing), (true, None, None, IP));
    assert_eq!(row(&rebinding), (false, None, None, IP));
}

/// RFC 2131 §3.5: each REQUEST has the parameter request list of the DISCOVER, and no text in
/// option 56 (table 5).
#[test]
fn the_parameter_request_list_is_in_every_request() {
    let vocabulary = vocabulary(&config());
    let wishes = |message: &[u8]| (option(message, 55), option(message, 57));
    let first = wishes(&vocabulary.discover.1);
    assert!(first.0.is_some() && first.1.is_some());
    for message in vocabulary.questions() {
        assert_eq!(
            (wishes(message), option(message, 56)),
            (first.clone(), None)
        );
    }
    for message in vocabulary.unanswered() {
        assert_eq!(wishes(message), (None, None));
    }
}

/// RFC 4039 §3, §4: option 80 has no value, and is only in the DISCOVER.
#[test]
fn only_discovers_have_rapid_commit() {
    let vocabulary = vocabulary(&config());
    let [discover, requests @ ..] = vocabulary.questions();
    assert_eq!(option(discover, 80), Some(vec![]));
    for message in requests.into_iter().chain(vocabulary.unanswered()) {
        assert_eq!(option(message, 80), None);
    }
}

/// RFC 2132 §9.10.
#[test]
fn the_longest_message_is_never_less_than_576() {
    for (ours, said) in [
        (0, None),
        (575, None),
        (576, Some(576_u16)),
        (577, Some(577)),
    ] {
        let (_, discover) = RawClient::start(Config {
            max_message_size: ours,
            ..config()
        })
        .says();
        assert_eq!(
            option(&discover, 57),
            said.map(|said| said.to_be_bytes().to_vec())
        );
    }
}

/// RFC 2131 §4.1: a client with an address receives unicast. Table 5: a DECLINE and a RELEASE have
/// no flags.
#[test]
fn a_client_with_an_address_clears_the_broadcast_bit() {
    let vocabulary = vocabulary(&Config {
        broadcast: true,
        ..config()
    });
    assert_eq!(
        vocabulary.questions().map(|message| message[10]),
        [0x80, 0x80, 0, 0, 0x80]
    );
    assert_eq!(vocabulary.unanswered().map(|message| message[10]), [0, 0]);
}

/// RFC 2131 §4.1: replies may come from another address; option 54 names the server.
#[test]
fn the_request_goes_to_option_54_and_not_to_the_sender() {
    let mut client = RawClient::start(Config {
        fuzz: false,
        ..config()
    });
    let (_, discover) = client.says();
    let (_, request) = client
        .hears(&offer(IP).from(OTHER_SERVER), &discover)
        .says();
    assert_eq!(option(&request, 54), Some(OTHER_SERVER.octets().to_vec()));
    let ack = ack(IP, hours(1))
        .from(OTHER_SERVER)
        .message(|message| _ = message.set_siaddr(SERVER));
    let (transmit, _) = client.hears(&ack, &request).at(1800).says();
    assert_eq!(
        transmit,
        Transmit::Datagram {
            source: IP,
            destination: OTHER_SERVER
        }
    );
}

/// RFC 2132 §3.14, §9.14: an empty option is not sent.
#[test]
fn an_empty_name_or_identifier_is_left_out() {
    let empty = Config {
        host_name: Some(String::new()),
        client_id: Vec::new(),
        ..config()
    };
    for message in vocabulary(&empty).questions() {
        assert_eq!((option(message, 12), option(message, 61)), (None, None));
    }
}

/// RFC 2131 §4.3.2: the settings of the ACK count.
#[test]
fn the_ack_counts_and_not_the_offer() {
    let offer = offer(IP).with(DhcpOption::DomainName("old.example".to_owned()));
    let offer = offer.with(DhcpOption::Router(vec![OTHER_SERVER]));
    let mut c = Conversation::start();
    c.at(0)
        .sends(discover())
        .hears(offer.with(DhcpOption::AddressLeaseTime(60)))
        .sends(request(IP));
    c.hears(ack(IP, hours(2)).with(DhcpOption::DomainName("lab.example".to_owned())))
        .says(Bound(IP));
    let lease = c.lease();
    assert_eq!(
        (&lease.routers[..], lease.lease_time),
        (&[SERVER][..], Some(hours(2)))
    );
    assert_eq!(lease.domain_name.as_deref(), Some("lab.example"));
}

/// RFC 2131 §4.4.2: from the first REQUEST, however late the answer.
#[test]
fn a_confirmed_lease_counts_from_the_first_request() {
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0).sends(reboot_request(IP));
    c.at(2).sends(reboot_request(IP));
    c.at(4).hears(ack(IP, hours(1))).says(Bound(IP));
    assert_eq!(c.lease().acquired_at, start_of_time());
}

/// RFC 2131 §3.5: missing settings have their defaults, which are empty except for the mask.
#[test]
fn an_ack_without_settings_gives_a_lease_without_settings() {
    let ack = ack(IP, hours(1))
        .without(OptionCode::SubnetMask)
        .without(OptionCode::Router);
    let mut c = Conversation::bound_by(ack);
    let lease = c.lease().clone();
    assert_eq!(
        (lease.prefix_len, lease.broadcast),
        (8, Some([10, 255, 255, 255].into()))
    );
    assert_eq!(
        (lease.routers, lease.routes, lease.mtu),
        (Vec::<Ipv4Addr>::new(), Vec::<StaticRoute>::new(), None)
    );
    assert_eq!(
        (
            lease.dns_servers.len(),
            lease.search.len(),
            lease.ntp_servers.len()
        ),
        (0, 0, 0)
    );
    assert_eq!((lease.domain_name, lease.host_name), (None, None));
}

/// RFC 2131 §2, RFC 2132 §9.10: the client reads a message of the announced length up to the last
/// byte.
#[test]
fn the_longest_allowed_reply_is_read() {
    const PROMISED: usize = 1472;
    assert_eq!(config().max_message_size as usize, PROMISED);
    let mut c = Conversation::bound_by(ack(IP, hours(1)).payload(|payload| {
        payload.truncate(240);
        payload.extend([53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16]);
        let last = [12, 3, b'w', b'e', b'b', 255];
        while payload.len() < PROMISED - last.len() {
            // An unknown option, in parts that leave no single byte over.
            let length = (PROMISED - last.len() - payload.len() - 2).min(250);
            payload.extend([224, length as u8]);
            payload.resize(payload.len() + length, 7);
        }
        payload.extend(last);
        assert_eq!(payload.len(), PROMISED);
    }));
    assert_eq!(c.lease().host_name.as_deref(), Some("web"));
}

/// RFC 3397 §2: a pointer may lead from the second part of option 119 into the first.
#[test]
fn a_search_list_is_joined_before_its_pointers_are_followed() {
    let mut c = Conversation::bound_by(ack(IP, hours(1)).payload(|payload| {
        payload.truncate(240);
        payload.extend(b"\x35\x01\x05\x36\x04\x0a\x00\x00\x01\x33\x04\x00\x00\x0e\x10");
        payload.extend(b"\x77\x09\x03lab\x07exam");
        payload.extend(b"\x0c\x01w"); // the host name, in between
        payload.extend(b"\x77\x0a\x70le\x00\x03www\xc0\x00\xff");
    }));
    assert_eq!(c.lease().search, ["lab.example", "www.lab.example"]);
}

/// RFC 2131 §4.4.5: hosts with leases of the same time do not renew or rebind at the same time.
#[test]
fn t1_and_t2_differ_from_host_to_host() {
    let mut t1s = std::collections::BTreeSet::new();
    let mut rebinding = 0;
    for seed in 0..100 {
        let mut c = Conversation::seeded(seed);
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)))
            .says(Bound(IP));
        let snapshot = c.at(3).client().suspend().unwrap();
        t1s.insert(snapshot.due().unwrap().since_boot());
        let client = Client::resume(
            config(),
            snapshot,
            seed,
            start_of_time() + Duration::from_millis(3_149_500),
        );
        rebinding += u32::from(client.state() == "REBINDING");
    }
    let (first, last) = (t1s.first().unwrap(), t1s.last().unwrap());
    assert!(
        t1s.len() > 90 && *first >= seconds(2799) && *last <= seconds(2800),
        "{t1s:?}"
    );
    assert!(
        (20..80).contains(&rebinding),
        "of 100, {rebinding} half a second before T2"
    );
}

/// RFC 2131 §4.4.5: a client that gets its old address back continues.
#[test]
fn an_expired_address_can_come_back() {
    let mut c = Conversation::bound(hours(1));
    c.wakes_at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
    c.at(3601)
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

/// RFC 2131 §4.3.2: a client without an acceptable offer sends another DISCOVER.
#[test]
fn bad_offers_do_not_end_the_search() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .ignores(offer(UNSPECIFIED), Ignored::Incomplete("address"));
    c.at(1)
        .sends(discover())
        .ignores(offer(UNSPECIFIED), Ignored::Incomplete("address"));
    c.at(2)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
}

/// RFC 2131 table 5, for DECLINE and RELEASE.
#[test]
fn unanswered_messages_have_no_secs_and_a_new_xid() {
    let vocabulary = vocabulary(&config());
    let xids = vocabulary.questions().map(|message| message[4..8].to_vec());
    for message in vocabulary.unanswered() {
        assert_eq!(message[8..10], [0, 0]);
        assert!(!xids.contains(&message[4..8].to_vec()));
    }
}

/// RFC 2131 §4.1: hosts that start together do not accept each other's replies.
#[test]
fn hosts_have_different_xids() {
    let first = |seed| {
        RawClient {
            client: Client::new(config(), seed, start_of_time()),
            now: 0,
        }
        .says()
        .1[4..8]
            .to_vec()
    };
    let xids: std::collections::BTreeSet<_> = (0..1000).map(first).collect();
    assert_eq!(xids.len(), 1000);
}

/// RFC 4039 §3.1: another station may have this address, too.
#[test]
fn an_address_by_rapid_commit_can_be_declined() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(ack(IP, hours(1)).with(DhcpOption::RapidCommit))
        .says(Bound(IP));
    c.sends(probe(IP)).sends(announcement(IP));
    c.at(0.005).hears_frame(&arp_reply(IP, OWNER));
    c.says(Lost(IP, Conflict))
        .sends(decline(IP))
        .sends(discover());
}

/// Waits for the ACK to a REQUEST for `IP`, with one probe before it.
fn probing() -> Conversation {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c
}

/// RFC 5227 §1.2.1: some hosts broadcast their ARP replies.
#[test]
fn a_broadcast_arp_reply_is_accepted() {
    let mut to_all = arp_reply(IP, OWNER);
    to_all[..6].fill(0xff);
    probing()
        .hears_frame(&to_all)
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

/// RFC 5227 §2.1.1: an ARP request of the owner for another host reveals it as well.
#[test]
fn an_arp_request_of_the_owner_is_a_conflict() {
    let mut question = arp_probe(SERVER, OWNER);
    question[28..32].copy_from_slice(&IP.octets()); // the sender's address
    probing()
        .hears_frame(&question)
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

/// RFC 5227 §2.1.1, §2.3, byte for byte.
#[test]
fn the_fields_of_arp_packets() {
    let mut client = RawClient::start(Config {
        fuzz: false,
        ..config()
    });
    let (_, discover) = client.says();
    let mut frames = client.hears(&offer(IP), &discover).frames();
    let request = frames.remove(0).1[42..].to_vec();
    frames.extend(client.hears(&ack(IP, hours(1)), &request).frames());
    frames.extend(client.at(2).frames());
    let packet = |sender: Ipv4Addr| {
        let ethernet = [&BROADCAST_MAC.0[..], &MAC.0, &[8, 6]].concat();
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        (
            Transmit::Frame,
            [
                &ethernet[..],
                &request,
                &MAC.0,
                &sender.octets(),
                &[0; 6],
                &IP.octets(),
            ]
            .concat(),
        )
    };
    assert_eq!(
        frames,
        [packet(UNSPECIFIED), packet(IP), packet(IP)],
        "a probe, and two announcements"
    );
}

/// RFC 5227 §1.1, §2.1.1: up to a second before the first probe, one or two between them, and
/// different for each host.
#[test]
fn the_waits_of_probes_are_random() {
    let mut firsts = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let config = Config {
            probe: Probe::Before(3),
            ..config()
        };
        let mut client = RawClient {
            client: Client::new(config, seed, start_of_time()),
            now: 0,
        };
        let (_, discover) = client.says();
        let (_, request) = client.hears(&offer(IP), &discover).says();
        client.hears(&ack(IP, hours(1)), &request);
        let mut last = Duration::ZERO;
        let waits = std::array::from_fn::<_, 4, _>(|_| {
            let due = client.client.poll_timeout().unwrap();
            client.client.handle_timeout(due);
            let at = due - start_of_time();
            at - std::mem::replace(&mut last, at)
        });
        assert!(waits[0] <= seconds(1), "{waits:?}");
        assert!(
            waits[1..3]
                .iter()
                .all(|wait| (seconds(1)..=seconds(2)).contains(wait)),
            "{waits:?}"
        );
        assert_eq!((waits[3], client.client.state()), (seconds(2), "BOUND"));
        firsts.insert(waits[0]);
    }
    assert!(firsts.len() > 90, "{firsts:?}");
}
