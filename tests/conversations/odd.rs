//! Servers that deviate from the RFCs: they do not answer some options, or have missing or other
//! identifiers and settings.

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::{DhcpOption, OptionCode};
use smol_dhcp_proxy::dhcp::{Config, Ignored, Plainness};
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;

/// A station that has its address.
const OWNER: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// The options of the last message, but for its type.
fn codes(c: &Conversation) -> Vec<u8> {
    let mut codes: Vec<u8> = c
        .last()
        .opts()
        .iter()
        .map(|(code, _)| u8::from(*code))
        .collect();
    codes.retain(|code| ![53, 255].contains(code));
    codes.sort_unstable();
    codes
}

const NETAVARKS_LIST: [u8; 9] = [1, 121, 249, 3, 6, 12, 15, 26, 42];

fn list(c: &Conversation) -> Vec<u8> {
    match c.last().opts().get(OptionCode::ParameterRequestList) {
        Some(DhcpOption::ParameterRequestList(list)) => {
            list.iter().map(|code| u8::from(*code)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn named(config: &mut Config) {
    config.host_name = Some("web".to_owned());
    config.fqdn = Some("web.lab.example".to_owned());
    config.requested = Some(OTHER_IP);
}

/// From the third on, step by step, down to fewer options than netavark sends; then every other one
/// is full again.
#[test]
fn unanswered_discovers_get_plainer() {
    let mut c = Conversation::start().without_fuzz().configured(named);
    for second in [0, 1] {
        c.at(second).sends(discover().wanting(OTHER_IP));
        assert_eq!(codes(&c), [50, 55, 57, 61, 80, 81]);
    }
    c.at(2).sends(discover());
    assert_eq!(codes(&c), [55, 57, 61, 81]);
    assert_eq!(list(&c).len(), 14);
    c.at(3).sends(discover());
    assert_eq!(codes(&c), [12, 55, 61]);
    assert_eq!(list(&c), [1, 121, 249, 3, 6, 12, 15, 26, 42]);
    c.at(5).sends(discover());
    assert_eq!((codes(&c), list(&c)), (vec![55], vec![1, 3, 6]));
    c.at(9).sends(discover());
    assert_eq!(codes(&c), [55, 57, 61, 80, 81]);
    c.at(17).sends(discover());
    assert_eq!(codes(&c), [12, 55, 61]);
    c.at(25).sends(discover());
    assert_eq!(codes(&c), [55, 57, 61, 80, 81]);
}

/// All later messages have the plainness of the DISCOVER that was answered: the REQUEST, renewals
/// and the RELEASE.
#[test]
fn a_lease_keeps_its_plainness() {
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2, 3] {
        c.at(second).sends(discover());
    }
    c.hears(offer(IP)).sends(request(IP));
    assert_eq!(codes(&c), [50, 54, 55, 61]);
    c.hears(ack(IP, hours(1))).says(Bound(IP));
    assert_eq!(
        (c.client().plainness(), &c.client().config().client_id[..]),
        (Plainness::LikeNetavark, CLIENT_ID)
    );
    c.at(1803).sends(renew(IP));
    assert_eq!(codes(&c), [55, 61]);

    // A server that ignores option 61 knows the client by its MAC, in this process and in the next.
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2, 3, 5] {
        c.at(second).sends(discover());
    }
    c.hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
    assert_eq!(
        (c.client().plainness(), c.client().config().client_id.len()),
        (Plainness::Bare, 0)
    );
    c.at(1805)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
    assert_eq!(codes(&c), [55]);
    c.at(1806).releases().sends(goodbye(IP)).says(Released);
    assert_eq!(codes(&c), [54]);
}

/// A later process renews it with the same plainness, whatever the configuration is by then.
#[test]
fn a_lease_keeps_its_plainness_in_a_later_process() {
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2, 3] {
        c.at(second).sends(discover());
    }
    c.hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
    c.client().mark_in_use();
    let snapshot = c.at(10).suspend();
    assert_eq!(snapshot.plainness, Plainness::LikeNetavark);
    let mut c = Conversation::resume(snapshot).without_fuzz();
    c.at(1803).sends(renew(IP));
    assert_eq!(codes(&c), [55, 61]);
}

/// A server or relay may drop a REQUEST for an option or for its length. The second one has only
/// options of netavark, but the parameter request list of the DISCOVER; the third has netavark's
/// list. The xid stays that of the OFFER.
#[test]
fn a_retransmitted_request_is_plainer() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    let (xid, first, wishes) = (c.last().xid(), codes(&c), list(&c));
    c.at(2).sends(request(IP));
    assert_eq!(
        (c.last().xid(), codes(&c), list(&c)),
        (xid, vec![50, 54, 55, 61], wishes)
    );
    assert!(first.contains(&57));
    c.at(4).sends(request(IP));
    assert_eq!(
        (c.last().xid(), codes(&c), list(&c)),
        (xid, vec![50, 54, 55, 61], NETAVARKS_LIST.to_vec())
    );
    // The first REQUEST of a renewal is full, and the next ones are plainer.
    c.hears(ack(IP, hours(1))).says(Bound(IP));
    c.at(1800).sends(renew(IP));
    assert!(codes(&c).contains(&57));
    c.at(2475).sends(renew(IP));
    assert_eq!(codes(&c), [55, 61]);
    assert!(list(&c).len() > NETAVARKS_LIST.len());
    c.at(2812.5).sends(renew(IP));
    assert_eq!(list(&c), NETAVARKS_LIST);
}

/// The same for a renewal by processes that each send one REQUEST of it.
#[test]
fn a_renewal_by_later_processes_gets_as_short_as_netavarks() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover()).hears(offer(IP));
    c.sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
    c.resumes_at(1800).sends(renew(IP));
    assert!(list(&c).len() > NETAVARKS_LIST.len() && codes(&c).contains(&57));
    c.at(1810).resumes_at(2475).sends(renew(IP));
    assert_eq!(
        (list(&c), codes(&c)),
        (NETAVARKS_LIST.to_vec(), vec![55, 61])
    );
    c.at(2485).resumes_at(2812.5).sends(renew(IP));
    assert_eq!(list(&c), NETAVARKS_LIST);
}

/// netavark waits for an ACK for as long as for an OFFER, 8 s in all.
#[test]
fn a_late_ack_is_accepted_as_long_as_netavark_waits() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    for second in [2, 4] {
        c.at(second).sends(request(IP));
    }
    c.at(9).hears(ack(IP, hours(1))).says(Bound(IP));
}

/// A slow server answers the first DISCOVER after others were sent.
#[test]
fn a_slow_server_can_answer_an_earlier_discover() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    let first = c.last().xid();
    for second in [1, 2, 3] {
        c.at(second).sends(discover());
    }
    assert_ne!(c.last().xid(), first);
    c.at(3.5)
        .hears_frame(&offer(IP).write(first))
        .sends(request(IP));
    assert_eq!(
        (c.last().xid(), codes(&c)),
        (first, vec![50, 54, 55, 57, 61])
    );
    c.hears(ack(IP, hours(1))).says(Bound(IP));
    assert_eq!(c.client().plainness(), Plainness::Full);
    // A reply to a plainness that was not sent is ignored.
    let mut c = Conversation::start().without_fuzz();
    c.at(0).sends(discover());
    let bare = c.last().xid() | 3;
    c.ignores_frame(&offer(IP).write(bare), Ignored::OtherExchange);
}

/// The owner of the client remembers the plainness that was answered.
#[test]
fn the_configured_plainness_comes_first() {
    let plain = |config: &mut Config| config.plainness = Plainness::LikeNetavark;
    let mut c = Conversation::start().without_fuzz().configured(plain);
    for second in [0, 1, 2, 3] {
        c.at(second).sends(discover());
        assert_eq!(codes(&c), [55, 61]);
    }
    c.at(5).sends(discover());
    assert_eq!(codes(&c), [55]);
}

/// A server that has answered plain messages may answer no others: after a DECLINE the DISCOVER is
/// as plain.
#[test]
fn a_decline_keeps_the_plainness() {
    for (bound_first, steps) in [(false, &[0, 1, 2, 3, 5][..]), (true, &[0, 1, 2, 3])] {
        let mut c = Conversation::start().without_fuzz().with_arp();
        for second in steps {
            c.at(*second).sends(discover());
        }
        let asked = codes(&c);
        c.hears(offer(IP)).sends(request(IP)).sends(probe(IP));
        if bound_first {
            c.hears(ack(IP, hours(1)))
                .says(Bound(IP))
                .sends(announcement(IP));
            c.hears_frame(&arp_reply(IP, OWNER))
                .says(Lost(IP, Conflict));
        } else {
            c.hears_frame(&arp_reply(IP, OWNER))
                .hears(ack(IP, hours(1)))
                .says(Declined(IP));
        }
        c.sends(decline(IP)).sends(discover());
        assert_eq!(codes(&c), asked);
    }
}

/// A new carrier may be of another network, and a server that offers has accepted the options.
#[test]
fn discovers_are_full_again_after_a_carrier_or_an_offer() {
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2] {
        c.at(second).sends(discover());
    }
    c.carrier(false).carrier(true).sends(discover());
    assert!(codes(&c).contains(&80));
    for second in [3, 4] {
        c.at(second).sends(discover());
    }
    c.hears(offer(IP))
        .sends(request(IP))
        .hears(nak())
        .sends(discover());
    assert!(codes(&c).contains(&80));
}

/// An address of another network is requested twice, by a resumed client as well.
#[test]
fn an_address_of_another_network_is_requested_twice() {
    let lease = Conversation::bound(hours(1)).lease().clone();
    let mut c = Conversation::resume(bound_with(lease)).without_fuzz();
    c.wakes_at(3600)
        .says(Lost(IP, Expired))
        .sends(discover().wanting(IP));
    c.at(3604).sends(discover().wanting(IP));
    c.at(3612).sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP));
}

#[test]
fn rapid_commit_can_be_turned_off() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.rapid_commit = false);
    c.at(0).sends(discover());
    assert_eq!(codes(&c), [55, 57, 61]);
    let rapid = ack(IP, hours(1)).with(DhcpOption::RapidCommit);
    c.ignores(
        rapid,
        Ignored::Unexpected {
            message_type: 5,
            state: "SELECTING",
        },
    );
    // An ACK to a DISCOVER without the option is ignored as well.
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 1, 2] {
        c.at(second).sends(discover());
    }
    let rapid = ack(IP, hours(1)).with(DhcpOption::RapidCommit);
    c.ignores(
        rapid,
        Ignored::Unexpected {
            message_type: 5,
            state: "SELECTING",
        },
    );
}

fn anonymous(answer: Answer) -> Answer {
    answer.without(OptionCode::ServerIdentifier)
}

fn from_another_station(answer: Answer) -> Answer {
    answer.frame(|frame| frame[11] ^= 0x40)
}

/// Transaction, client and address identify an ACK.
#[test]
fn an_ack_with_another_identifier_or_none_is_accepted() {
    let requesting = || {
        let mut c = Conversation::start().without_fuzz();
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP));
        c
    };
    let mut c = requesting();
    c.hears(ack(IP, hours(1)).from(OTHER_SERVER))
        .says(Bound(IP));
    assert_eq!(c.lease().server_id, OTHER_SERVER);
    for ack in [
        anonymous(ack(IP, hours(1))),
        ack(IP, hours(1)).from(UNSPECIFIED),
        ack(IP, hours(1)).from([255; 4].into()),
    ] {
        let mut c = requesting();
        c.hears(ack).says(Bound(IP));
        assert_eq!(c.lease().server_id, SERVER);
    }
    // Another address with another identifier is from another server.
    let mut c = requesting();
    c.ignores(
        ack(OTHER_IP, hours(1)).from(OTHER_SERVER),
        Ignored::OtherServer(OTHER_SERVER),
    );
    c.ignores(
        from_another_station(anonymous(ack(OTHER_IP, hours(1)))),
        Ignored::OtherServer(SERVER),
    );
}

/// The source address of an OFFER replaces a missing identifier.
#[test]
fn an_offer_without_identifier_is_accepted_from_its_sender() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(anonymous(offer(IP)))
        .sends(request(IP));
    c.hears(anonymous(ack(IP, hours(1)))).says(Bound(IP));
    assert_eq!(c.lease().server_id, SERVER);
    c.at(1800)
        .sends(renew(IP))
        .hears(anonymous(ack(IP, hours(1))))
        .says(Renewed(IP));
}

/// A NAK without an identifier counts from the station that offered, or leased.
#[test]
fn a_nak_without_identifier_counts_by_its_station() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.ignores(
        from_another_station(anonymous(nak())),
        Ignored::OtherServer(SERVER),
    );
    c.hears(anonymous(nak())).sends(discover());

    let mut c = Conversation::bound(hours(1));
    c.at(1800).sends(renew(IP)).ignores(
        from_another_station(anonymous(nak())),
        Ignored::OtherServer(SERVER),
    );
    c.hears(anonymous(nak()))
        .says(Lost(IP, Refused))
        .sends(discover());

    let mut c = Conversation::bound(hours(1));
    c.wakes_at(3200).sends(rebind(IP)).ignores(
        from_another_station(anonymous(nak())),
        Ignored::OtherServer(SERVER),
    );
    c.hears(anonymous(nak()))
        .says(Lost(IP, Refused))
        .sends(discover());

    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0)
        .sends(reboot_request(IP))
        .hears(anonymous(nak()))
        .sends(discover());
}

/// All settings that a server may leave out of an ACK.
fn rich(answer: Answer) -> Answer {
    let options = [
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::BroadcastAddr([10, 0, 0, 127].into()),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![SERVER]),
        DhcpOption::NtpServers(vec![OTHER_SERVER]),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::DomainName("lab.example".to_owned()),
        DhcpOption::Hostname("web".to_owned()),
    ];
    options.into_iter().fold(answer, Answer::with)
}

fn poor(answer: Answer) -> Answer {
    answer
        .without(OptionCode::SubnetMask)
        .without(OptionCode::Router)
}

/// Settings that an ACK leaves out are those of the OFFER or of the lease before.
#[test]
fn missing_settings_of_an_ack_are_kept() {
    let mut c = Conversation::bound_by(rich(ack(IP, hours(1))));
    let before = c.lease().clone();
    assert_eq!(
        (before.prefix_len, before.routers.len(), before.mtu),
        (24, 1, Some(1400))
    );
    c.at(1800)
        .sends(renew(IP))
        .hears(poor(ack(IP, hours(1))))
        .says(Renewed(IP));
    assert!(c.lease().same_settings(&before), "{:?}", c.lease());
    // Settings in the ACK count.
    let other = poor(ack(IP, hours(1))).with(DhcpOption::Router(vec![OTHER_SERVER]));
    c.at(3600)
        .sends(renew(IP))
        .hears(other.clone())
        .says(Changed(IP, IP));
    let lease = c.lease();
    assert_eq!(
        (&lease.routers[..], lease.prefix_len),
        (&[OTHER_SERVER][..], 24)
    );
    // A server that gives routes and nothing else has withdrawn the others.
    assert_eq!(
        (lease.dns_servers.len(), lease.mtu, &lease.domain_name),
        (1, None, &None)
    );
    // The lease time may be missing as well.
    let timeless = other.without(OptionCode::AddressLeaseTime);
    c.at(5400)
        .sends(renew(IP))
        .hears(timeless)
        .says(Renewed(IP));
    assert_eq!(c.lease().lease_time, Some(hours(1)));

    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(rich(offer(IP)))
        .sends(request(IP))
        .hears(poor(ack(IP, hours(1))))
        .says(Bound(IP));
    assert!(c.lease().same_settings(&before), "{:?}", c.lease());
}

/// Settings of one network do not apply to another.
#[test]
fn missing_settings_of_another_network_are_not_kept() {
    let far: Ipv4Addr = [192, 0, 2, 5].into();
    let mut c = Conversation::bound_by(rich(ack(IP, hours(1))));
    c.at(1800)
        .sends(renew(IP))
        .hears(poor(ack(far, hours(1))))
        .says(Changed(IP, far));
    let lease = c.lease();
    assert_eq!(
        (
            lease.routers.len(),
            lease.dns_servers.len(),
            lease.mtu,
            lease.prefix_len
        ),
        (0, 0, None, 24)
    );
}

/// A lease without a lease time is assumed to last an hour, and that is reported.
#[test]
fn a_missing_lease_time_is_an_hour() {
    let timeless = |answer: Answer| answer.without(OptionCode::AddressLeaseTime);
    for ack in [timeless(ack(IP, hours(9))), ack(IP, seconds(0))] {
        let mut c = Conversation::start().without_fuzz();
        c.at(0)
            .sends(discover())
            .hears(timeless(offer(IP)))
            .sends(request(IP));
        c.hears(ack)
            .says(NoLeaseTime(Some(hours(1))))
            .says(Bound(IP));
        c.at(1800)
            .sends(renew(IP))
            .hears(timeless(self::ack(IP, hours(9))))
            .says(Renewed(IP));
        c.at(3600).sends(renew(IP));
    }
    let mut c = Conversation::start().without_fuzz();
    let offer = offer(IP).with(DhcpOption::AddressLeaseTime(600));
    c.at(0).sends(discover()).hears(offer).sends(request(IP));
    c.hears(timeless(ack(IP, hours(9))))
        .says(NoLeaseTime(Some(seconds(600))))
        .says(Bound(IP));
}

/// The message size is limited by the MTU; below 576 the option is not sent.
#[test]
fn the_message_size_fits_the_mtu() {
    for (mtu, said) in [
        (1500, Some(1472)),
        (9000, Some(1472)),
        (1400, Some(1372)),
        (604, Some(576)),
        (576, None),
    ] {
        let mut c = Conversation::start()
            .without_fuzz()
            .configured(|config| config.fit_mtu(mtu));
        c.at(0).sends(discover());
        let size = c.last().opts().get(OptionCode::MaxMessageSize).cloned();
        assert_eq!(size, said.map(DhcpOption::MaxMessageSize), "{mtu}");
    }
    let mut c = Conversation::bound(hours(1));
    c.client().handle_mtu(1400);
    c.at(1800).sends(renew(IP));
    assert_eq!(
        c.last().opts().get(OptionCode::MaxMessageSize),
        Some(&DhcpOption::MaxMessageSize(1372))
    );
}

/// The error names an unusable OFFER.
#[test]
fn an_unusable_offer_is_reported() {
    let quick = |config: &mut Config| config.deadline = Some(seconds(2));
    let mut c = Conversation::start().without_fuzz().configured(quick);
    c.at(0)
        .sends(discover())
        .ignores(offer(UNSPECIFIED), Ignored::Incomplete("address"));
    c.at(1).sends(discover());
    c.at(2).says(gave_up(
        "1 OFFER from 10.0.0.1 without an address that a host can have",
    ));

    let mut c = Conversation::start()
        .without_fuzz()
        .configured(quick)
        .configured(|c| c.denied_servers = vec![SERVER]);
    for second in [0, 1] {
        c.at(second)
            .sends(discover())
            .ignores(offer(IP), Ignored::OtherServer(SERVER));
    }
    c.at(2).says(gave_up(
        "2 OFFERs from 10.0.0.1 that the configuration excludes",
    ));
}

/// Of two servers on a LAN, one may be excluded by its own identifier, or by that of the other.
#[test]
fn only_allowed_servers_are_accepted() {
    let deny = |config: &mut Config| config.denied_servers = vec![OTHER_SERVER];
    let allow = |config: &mut Config| config.servers = vec![[10, 0, 0, 9].into(), SERVER];
    for edit in [deny as fn(&mut Config), allow] {
        let mut c = Conversation::start().without_fuzz().configured(edit);
        let other = || Ignored::OtherServer(OTHER_SERVER);
        c.at(0)
            .sends(discover())
            .ignores(offer(OTHER_IP).from(OTHER_SERVER), other());
        c.ignores(
            ack(OTHER_IP, hours(1))
                .from(OTHER_SERVER)
                .with(DhcpOption::RapidCommit),
            other(),
        );
        c.hears(offer(IP))
            .sends(request(IP))
            .ignores(ack(IP, hours(1)).from(OTHER_SERVER), other());
        c.hears(ack(IP, hours(1))).says(Bound(IP));
        c.wakes_at(3200)
            .sends(rebind(IP))
            .ignores(nak().from(OTHER_SERVER), other());
        c.hears(ack(IP, hours(1))).says(Renewed(IP));
    }
}
