//! The client and dhcproto read the same messages, made-up ones and those of real servers, and
//! understand the same, apart from the listed faults of dhcproto.
#![cfg(feature = "proxy")]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "nothing of a test is public, and it may fail"
)]

mod expected;
mod faults;
mod made_up;
#[path = "../fuzz/recorded.rs"]
mod recorded;

use dhcproto::v4::{DhcpOption, Message, OptionCode};
use dhcproto::{Decodable, Decoder};
use expected::option;
use faults::{Fault, heal};
use proptest::test_runner::{Config as Cases, TestCaseError, TestRunner};
use smol_dhcp_proxy::dhcp::{
    self, Client, Config, Event, Lease, LossReason, Phase, Plainness, Probe, Snapshot, StaticRoute,
};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);
const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT_ID: &[u8] = b"\0container";
const START: Instant = Instant::from_boot(Duration::from_secs(1000));

fn config() -> Config {
    Config {
        probe: Probe::Off,
        ..Config::new(MAC, CLIENT_ID.to_vec())
    }
}

/// The lease that a client makes of a frame with an ACK, as the answer to its question for that
/// very address (INIT-REBOOT, where any server may answer).
fn client_reads(frame: &[u8]) -> Option<Lease> {
    let address = Ipv4Addr::from(*recorded::payload(frame)[16..].first_chunk::<4>().unwrap());
    let mut client = Client::reboot(config(), address, 1, START);
    hears(&mut client, frame, 46, START);
    client.lease().cloned()
}

/// Hands `frame` to a client that has just said something, in answer to the xid that is at `xid_at`
/// there.
fn hears(client: &mut Client, frame: &[u8], xid_at: usize, now: Instant) {
    let mut said = Vec::new();
    client.poll_transmit(&mut said).expect("a question");
    let mut frame = frame.to_vec();
    edit(&mut frame, 4, &said[xid_at..xid_at + 4]);
    drop(client.handle_packet(&frame, now));
}

/// Overwrites a part of the DHCP message in `frame`. A checksum that was left to the hardware stays
/// so.
fn edit(frame: &mut [u8], at: usize, bytes: &[u8]) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
    let is_whole = udp.verify_checksum(&from, &to);
    udp.payload_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    if is_whole {
        udp.fill_checksum(&from, &to);
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = dhcp::frame(payload, (SERVER_MAC, SERVER), (MAC, Ipv4Addr::BROADCAST));
    // The ports change places; the checksum is the same.
    frame[34..38].rotate_left(2);
    frame
}

/// The lease that there has to be, by dhcproto's reading of the bytes as they are.
fn dhcproto_reads(payload: &[u8]) -> Option<Lease> {
    let message = Message::decode(&mut Decoder::new(payload)).ok()?;
    expected::lease(&message, SERVER_MAC, START).ok()
}

/// Returns whether option 15 has more than one domain.
fn has_several_domains(payload: &[u8]) -> bool {
    let text = Message::decode(&mut Decoder::new(payload))
        .ok()
        .and_then(|message| option!(message, DomainName));
    text.is_some_and(|text| expected::domains(&text).0.len() > 1)
}

#[test]
fn made_up_messages_read_the_same() {
    let seen = RefCell::new((BTreeMap::<Fault, u32>::new(), 0, 0, [0; 2]));
    let cases = 1500;
    let mut runner = TestRunner::new(Cases {
        cases,
        failure_persistence: None,
        ..Cases::default()
    });
    let outcome = runner.run(&made_up::messages(), |payload| {
        let (healed, faults) = heal(&payload);
        let (ours, theirs) = (client_reads(&frame(&payload)), dhcproto_reads(&healed));
        let (counts, leases, untouched, plain) = &mut *seen.borrow_mut();
        *leases += u32::from(ours.is_some());
        *untouched += u32::from(ours.is_some() && faults.is_empty());
        let is_plain = [payload[28..34] == [0; 6], has_several_domains(&healed)];
        is_plain
            .iter()
            .zip(plain)
            .for_each(|(is_so, count)| *count += u32::from(*is_so && ours.is_some()));
        faults
            .iter()
            .for_each(|fault| *counts.entry(*fault).or_default() += 1);
        (ours == theirs).then_some(()).ok_or_else(|| {
            TestCaseError::fail(format!(
                "client: {ours:#?}\ndhcproto: {theirs:#?}\nkept from dhcproto: {faults:?}"
            ))
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // All of it happened, often.
    let (counts, leases, untouched, [no_station, several_domains]) = seen.into_inner();
    assert!(
        leases > cases / 2 && untouched > cases / 20,
        "{leases} leases, {untouched} of them read as they came"
    );
    assert!(
        no_station > 20,
        "{no_station} leases for no station in particular"
    );
    assert!(
        several_domains > 20,
        "{several_domains} leases with several domains in option 15"
    );
    let unusual = [Fault::Magic, Fault::Panic];
    for (fault, _) in DEMONSTRATIONS
        .iter()
        .filter(|(fault, _)| !unusual.contains(fault))
    {
        assert!(
            counts.get(fault).is_some_and(|count| *count > 5),
            "{fault:?}: {counts:?}"
        );
    }
}

/// How much of a message's tail a demonstration writes, behind the header, the type, the server and
/// the time.
type Tail = &'static [u8];

/// For each fault, options that show it.
const DEMONSTRATIONS: &[(Fault, Tail)] = &[
    (Fault::Overload, &[52, 1, 1, 255]),
    (
        Fault::ScatteredPieces,
        &[6, 4, 9, 9, 9, 9, 26, 2, 5, 120, 6, 4, 8, 8, 8, 8, 255],
    ),
    (
        Fault::ScatteredPieces,
        &[6, 4, 9, 9, 9, 9, 0, 6, 4, 8, 8, 8, 8, 255],
    ),
    (
        Fault::Repeated,
        &[1, 4, 255, 255, 0, 0, 1, 4, 255, 255, 0, 0, 255],
    ),
    (
        Fault::Repeated,
        &[26, 2, 5, 120, 12, 1, b'x', 26, 2, 2, 64, 255],
    ),
    (Fault::Repeated, &[26, 1, 5, 26, 2, 2, 64, 255]),
    (
        Fault::Repeated,
        &[15, 3, b'l', b'a', b'b', 15, 3, b'l', b'a', b'b', 255],
    ),
    (Fault::Repeated, &[6, 4, 9, 9, 9, 9, 6, 4, 9, 9, 9, 9, 255]),
    (Fault::CutPiece, &[6, 4, 9, 9, 9, 9, 6, 4, 8]),
    (Fault::OneBadOption, &[3, 3, 9, 9, 9, 26, 2, 5, 120, 255]),
    (Fault::OneBadOption, &[116, 1, 7, 26, 2, 5, 120, 255]),
    (Fault::OneBadOption, &[14, 1, 0xff, 26, 2, 5, 120, 255]),
    (
        Fault::OneBadOption,
        &[15, 5, b'l', b'a', b'b', b' ', 0xff, 255],
    ),
    (Fault::LongNumber, &[26, 4, 5, 120, 5, 120, 255]),
    (
        Fault::PartOfNames,
        &[
            119, 14, 3, b'l', b'a', b'b', 0, 1, b'x', 0xc0, 9, 3, b'e', b'n', b'g', 0, 255,
        ],
    ),
    (
        Fault::PlainText,
        &[119, 8, b'l', b'a', b'b', b',', b'e', b'n', b'g', b'.', 255],
    ),
    (
        Fault::PartOfRoutes,
        &[121, 14, 8, 10, 9, 9, 9, 9, 33, 9, 9, 9, 9, 9, 9, 9, 255],
    ),
    (Fault::MicrosoftRoutes, &[249, 6, 8, 10, 9, 9, 9, 9, 255]),
    (Fault::Panic, &[80, 1, 0, 255]),
    (Fault::Panic, &[81, 2, 0, 0, 255]),
    (Fault::Magic, &[255]),
];

/// Each listed fault is one: dhcproto's reading of the message as it came is another than the
/// client's, and the fault alone makes the difference.
#[test]
fn the_faults_of_dhcproto() {
    for (fault, tail) in DEMONSTRATIONS {
        if *fault == Fault::Panic && !cfg!(debug_assertions) {
            continue; // Only then are they asserted.
        }
        let mut payload = vec![0; 240];
        payload[..4].copy_from_slice(&[2, 1, 6, 0]);
        payload[16..20].copy_from_slice(&[10, 0, 0, 5]);
        payload[28..34].copy_from_slice(&MAC.0);
        payload[108..115].copy_from_slice(&[6, 4, 9, 9, 9, 9, 255]);
        payload[236..].copy_from_slice(if *fault == Fault::Magic {
            &[1, 2, 3, 4]
        } else {
            &[99, 130, 83, 99]
        });
        payload.extend([53, 1, 5, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16]);
        payload.extend(*tail);

        let (healed, faults) = heal(&payload);
        assert_eq!(faults.iter().collect::<Vec<_>>(), [fault]);
        let ours = client_reads(&frame(&payload));
        let theirs = std::panic::catch_unwind(|| dhcproto_reads(&payload));
        assert_eq!(theirs.is_err(), *fault == Fault::Panic, "{fault:?}");
        assert_ne!(
            theirs.ok(),
            Some(ours.clone()),
            "{fault:?} is none any more"
        );
        match fault {
            Fault::Magic => assert_eq!(ours, None),
            _ => assert_eq!(
                Some(ours.expect("a lease")),
                dhcproto_reads(&healed),
                "{fault:?}"
            ),
        }
    }
}

/// Real servers' ACKs, and their OFFERs as if they were ACKs: in the frames that they came in.
#[test]
fn recorded_leases_read_the_same() {
    let mut read = Vec::new();
    for (name, frame) in recorded::ALL
        .iter()
        .filter(|(name, _)| !name.contains("NAK"))
    {
        let mut frame = frame.clone();
        // All of these servers begin with option 53.
        edit(&mut frame, 240, &[53, 1, 5]);
        let (healed, faults) = heal(recorded::payload(&frame));
        let ours = client_reads(&frame).unwrap_or_else(|| panic!("no lease of {name}"));
        assert_eq!(Some(ours), dhcproto_reads(&healed), "{name}: {faults:?}");
        assert_eq!(
            faults.contains(&Fault::Overload),
            name.contains("overload"),
            "{name}: {faults:?}"
        );
        read.push(name);
    }
    assert!(read.len() >= 20, "{read:?}");
    for server in ["dnsmasq", "kea", "udhcpd"] {
        assert!(read.iter().any(|name| name.starts_with(server)), "{server}");
    }
}

/// Their NAKs, to a client that renews: who refuses, and in which words.
#[test]
fn recorded_refusals_read_the_same() {
    let naks: Vec<_> = recorded::ALL
        .iter()
        .filter(|(name, _)| name.contains("NAK"))
        .collect();
    assert_eq!(naks.len(), 3);
    for (name, frame) in naks {
        let message = Message::decode(&mut Decoder::new(recorded::payload(frame))).unwrap();
        let server = option!(message, ServerIdentifier).unwrap();
        let lease = Lease {
            server_id: server,
            ..client_reads(recorded("udhcpd-plain: ACK")).unwrap()
        };
        let now = lease.renew_at().unwrap();
        let (renew_at, rebind_at) = (now, lease.rebind_at().unwrap());
        let phase = Phase::Bound {
            lease: lease.clone(),
            renew_at,
            rebind_at,
        };
        let mut client = Client::resume(
            config(),
            Snapshot {
                phase,
                failures: 0,
                plainness: Plainness::Full,
                rate_full_at: now,
            },
            1,
            now,
        );
        hears(&mut client, frame, 4, now);
        let why = LossReason::Refused {
            server,
            message: option!(message, Message),
        };
        assert_eq!(
            client.poll_event(),
            Some(Event::Lost {
                old: Box::new(lease),
                why
            }),
            "{name}"
        );
    }
}

fn recorded(name: &str) -> &'static [u8] {
    let found = recorded::ALL.iter().find(|(other, _)| other == name);
    &found.unwrap_or_else(|| panic!("no {name}")).1
}

/// RFC 4039: dnsmasq's answer to a DISCOVER is an ACK.
#[test]
fn a_recorded_rapid_commit_binds_at_once() {
    let frame = recorded("dnsmasq-rapid-commit: ACK");
    let mut client = Client::new(config(), 1, START);
    hears(&mut client, frame, 46, START);
    assert_eq!(client.lease(), client_reads(frame).as_ref());
    assert_eq!(client.state(), "BOUND");
}

/// What the servers were told to say is what the client understands; so both readers are not wrong
/// in the same way.
#[test]
fn recorded_leases_say_what_the_servers_were_told() {
    let ip = |last: u8| Ipv4Addr::new(10, 88, 0, last);
    let route = |to: [u8; 4], prefix_len, gateway| StaticRoute {
        destination: to.into(),
        prefix_len,
        gateway,
    };
    for name in [
        "dnsmasq-full: ACK",
        "dnsmasq-overload: ACK",
        "dnsmasq-overload-both: ACK",
        "kea-full: ACK",
        "kea-full: ACK to a broadcast flag",
        "udhcpd-full: ACK",
    ] {
        let lease = client_reads(recorded(name)).unwrap();
        assert_eq!(
            (lease.prefix_len, lease.broadcast),
            (16, Some([10, 88, 255, 255].into())),
            "{name}"
        );
        assert_eq!(lease.routers, [ip(1)], "{name}");
        assert_eq!(
            lease.routes,
            [
                route([192, 168, 0, 0], 16, Some(ip(9))),
                route([172, 16, 0, 0], 12, None)
            ],
            "{name}"
        );
        assert_eq!(
            lease.dns_servers,
            [ip(1), Ipv4Addr::new(9, 9, 9, 9)],
            "{name}"
        );
        assert_eq!(lease.domain_name.as_deref(), Some("lab.example"), "{name}");
        assert_eq!(
            lease.search,
            ["lab.example", "eng.lab.example", "example.org"],
            "{name}"
        );
        assert_eq!(
            (lease.mtu, lease.ntp_servers),
            (Some(1400), vec![ip(1), ip(3)]),
            "{name}"
        );
        assert_eq!(
            (lease.server_id, lease.server_mac),
            (ip(1), Some(SERVER_MAC)),
            "{name}"
        );
    }
    let long = client_reads(recorded("kea-long: ACK")).unwrap();
    assert_eq!(
        (long.search.len(), long.routes.len()),
        (12, 45),
        "in two pieces each"
    );
    assert_eq!(long.search[11], "department-11.site-77.example11.org");
    assert_eq!(long.routes[44], route([10, 44, 0, 0], 16, Some(ip(45))));

    let seconds =
        |lease: Lease| [lease.t1, lease.t2, lease.lease_time.unwrap()].map(|time| time.as_secs());
    assert_eq!(
        seconds(client_reads(recorded("kea-full: ACK")).unwrap()),
        [600, 900, 3600]
    );
    assert_eq!(
        seconds(client_reads(recorded("dnsmasq-full: ACK")).unwrap()),
        [600, 900, 3600]
    );
    assert_eq!(
        client_reads(recorded("dnsmasq-infinite: ACK"))
            .unwrap()
            .lease_time,
        None
    );
}
