//! Servers and stations that deviate, and a flood.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::Result;
use crate::lab::attacker::{Attacker, Span};
use crate::lab::odd_server::reply::Checksum;
use crate::lab::odd_server::{OddServer, Request, Script};
use crate::lab::packets::{Datagram, Mac, Tap};
use crate::lab::topology::{LINK, SERVER, SERVER_LINK, Topology};

use super::{Checked, check, check_host, command, run_in};

trials![
    a_station_that_answers_for_every_address,
    a_gateway_that_answers_for_what_is_offered,
    a_server_whose_replies_cannot_be_used,
    an_address_that_another_station_has,
    the_own_address_of_the_interface,
    a_server_that_leaves_out_what_it_should_send,
    a_server_behind_another_address,
    wrong_checksums,
    fragments,
    an_ack_that_nothing_requested,
    offers_without_an_address,
    a_server_of_plainer_discovers,
    a_server_of_the_broadcast_flag,
    two_stations_of_one_server,
    a_flood_of_forged_offers,
    a_flood_of_other_replies,
];

/// A station that is not the server's.
const STATION: Mac = Mac([0x02, 0x99, 0, 0, 0, 7]);

/// Runs a check beside a server with habits, for so many seconds at most.
fn with(script: Script, seconds: &str) -> Result<(Checked, Topology)> {
    let topology = Topology::new(1)?;
    let server = OddServer::start(&topology.server, SERVER_LINK, SERVER, script)?;
    let checked = check(&topology, &["--timeout", seconds])?;
    // Whatever it is, nothing is requested.
    let requests = server.heard_of(topology.containers[0].mac);
    let kinds: Vec<_> = requests.iter().map(|request| request.kind).collect();
    assert!(
        kinds
            .iter()
            .all(|kind| *kind == dhcproto::v4::MessageType::Discover),
        "{kinds:?}"
    );
    Ok((checked, topology))
}

fn a_station_that_answers_for_every_address() -> Result {
    let script = Script {
        claims: |question| Some(question.claimed_by(STATION)),
        ..Script::default()
    };
    let (checked, _) = with(script, "2")?;
    checked
        .says(
            0,
            &[
                "02:99:00:00:00:07 answers ARP for every address (proxy ARP)",
                "chosen at random",
            ],
        )
        .says_nothing_of(&["uses that address"]);
    Ok(())
}

/// Linux, as a gateway with proxy ARP, does not answer for addresses of its own link. The daemon asks
/// for the router, and binds.
fn a_gateway_that_answers_for_what_is_offered() -> Result {
    let script = Script {
        answers: |_, reply| reply.set(3, &[10, 88, 0, 254]),
        claims: |question| {
            let owned = [Ipv4Addr::new(10, 88, 1, 2), Ipv4Addr::new(10, 88, 0, 254)];
            owned
                .contains(&question.wanted)
                .then(|| question.claimed_by(STATION))
        },
        ..Script::default()
    };
    let (checked, _) = with(script, "2")?;
    checked
        .says(
            0,
            &["02:99:00:00:00:07 answers ARP for every address (proxy ARP)"],
        )
        .says_nothing_of(&["uses that address"]);
    Ok(())
}

/// A server is there, so the parent and the VLAN are right.
fn a_server_whose_replies_cannot_be_used() -> Result {
    let bootp = Script {
        answers: |_, reply| reply.without(&[53]),
        ..Script::default()
    };
    let refusing = Script {
        answers: |_, reply| reply.set(53, &[6]),
        ..Script::default()
    };
    for (script, reason, words) in [
        (bootp, "no-message-type", "BOOTP, not DHCP"),
        (refusing, "nak", "answers a DISCOVER with a DHCPNAK"),
    ] {
        let (checked, topology) = with(script, "1")?;
        checked
            .says(1, &[words, "no DHCPOFFER within", "a server answers"])
            .says_nothing_of(&["wrong parent"]);
        let _server = OddServer::start(&topology.server, SERVER_LINK, SERVER, script)?;
        let report = check(&topology, &["--timeout", "0.5", "--json"])?.json()?;
        let ignored = &report["search"]["ignored"][0];
        assert_eq!(ignored["reason"], reason, "{report}");
        assert!(ignored["station"].is_string() && ignored["count"].as_u64() > Some(0));
    }
    Ok(())
}

fn an_address_that_another_station_has() -> Result {
    let script = Script {
        claims: |question| {
            (question.wanted == Ipv4Addr::new(10, 88, 1, 2)).then(|| question.claimed_by(STATION))
        },
        ..Script::default()
    };
    let (checked, _) = with(script, "2")?;
    checked.says(
        1,
        &[
            "offer of 10.88.1.2 from 10.88.0.1, but 02:99:00:00:00:07 uses that address",
            "change the pool",
        ],
    );
    checked.says_nothing_of(&["proxy ARP)"]);
    Ok(())
}

/// A server that knows clients by MAC alone offers the lease that the interface has.
fn the_own_address_of_the_interface() -> Result {
    let topology = Topology::new(1)?;
    topology.containers[0]
        .namespace
        .add_address(LINK, Ipv4Addr::new(10, 88, 1, 2), 16)?;
    let _server = OddServer::start(&topology.server, SERVER_LINK, SERVER, Script::default())?;
    let checked = check(&topology, &["--timeout", "1"])?;
    checked.says(
        0,
        &[
            "10.88.1.2 is this interface's own address",
            "renew that lease",
        ],
    );
    Ok(())
}

fn a_server_that_leaves_out_what_it_should_send() -> Result {
    let without_options = Script {
        answers: |_, reply| reply.without(&[1, 3, 51, 54]),
        ..Script::default()
    };
    let (checked, _) = with(without_options, "1")?;
    checked.says(
        0,
        &[
            "10.88.0.1 sends no lease time; assuming 1 h",
            "offers no router",
            "sends no subnet mask; /8",
            "sends no server identifier",
        ],
    );
    let with_nonsense = Script {
        answers: |_, reply| {
            reply.set(1, &[255, 0, 255, 0]);
            reply.set(26, &[0x23, 0x28]);
        },
        ..Script::default()
    };
    let (checked, _) = with(with_nonsense, "1")?;
    checked.says(
        0,
        &[
            "an unusable value: subnet mask 255.0.255.0",
            "MTU 9000, more than the 1500",
        ],
    );
    Ok(())
}

fn a_server_behind_another_address() -> Result {
    let script = Script {
        answers: |_, reply| reply.set(54, &[10, 88, 0, 9]),
        ..Script::default()
    };
    let (checked, _) = with(script, "1")?;
    checked.says(
        0,
        &[
            "server 10.88.0.9",
            "replies of 10.88.0.9 come from 10.88.0.1: a relay",
            "renewals go to 10.88.0.9",
        ],
    );
    Ok(())
}

fn wrong_checksums() -> Result {
    let script = Script {
        answers: |_, reply| reply.checksum = Checksum::Wrong,
        ..Script::default()
    };
    let (checked, _) = with(script, "1")?;
    checked.says(0, &["replies of 10.88.0.1 have a wrong UDP checksum"]);
    Ok(())
}

/// Without a macvlan, which puts together what is broadcast.
fn fragments() -> Result {
    let script = Script {
        answers: |_, reply| reply.fragment = Some(200),
        ..Script::default()
    };
    let topology = Topology::new(0)?;
    let _server = OddServer::start(&topology.server, SERVER_LINK, SERVER, script)?;
    let checked = check_host(&topology, &["--timeout", "1.5"])?;
    checked.says(
        1,
        &[
            "answers in fragments (",
            "which are not read",
            "no DHCPOFFER within",
        ],
    );
    Ok(())
}

fn an_ack_that_nothing_requested() -> Result {
    let script = Script {
        answers: |_, reply| reply.set(53, &[5]),
        ..Script::default()
    };
    let (checked, _) = with(script, "1")?;
    checked.says(1, &["10.88.0.1 has answered a DISCOVER with a DHCPACK"]);
    Ok(())
}

fn offers_without_an_address() -> Result {
    let script = Script {
        answers: |_, reply| reply.yiaddr = Ipv4Addr::UNSPECIFIED,
        ..Script::default()
    };
    let (checked, _) = with(script, "1")?;
    checked.says(
        1,
        &["from 10.88.0.1 without an address that a host can have"],
    );
    Ok(())
}

fn a_server_of_plainer_discovers() -> Result {
    let script = Script {
        // The client identifier.
        hears: |request: &Request| !request.has(61),
        ..Script::default()
    };
    let (checked, _) = with(script, "10")?;
    checked.says(
        0,
        &["10.88.0.1 answers only a DISCOVER without a client identifier"],
    );
    let script = Script {
        // The message size.
        hears: |request: &Request| !request.has(57),
        ..Script::default()
    };
    let (checked, _) = with(script, "10")?;
    checked.says(
        0,
        &["only a DISCOVER without options that netavark's proxy does not send"],
    );
    Ok(())
}

fn a_server_of_the_broadcast_flag() -> Result {
    let script = Script {
        hears: |request: &Request| request.message.flags().broadcast(),
        ..Script::default()
    };
    let (checked, _) = with(script, "10")?;
    checked.says(
        1,
        &["only a DISCOVER with the broadcast flag", "--broadcast"],
    );
    Ok(())
}

fn two_stations_of_one_server() -> Result {
    let script = Script {
        answers: |request, reply| {
            if request.count == 2 {
                reply.from = STATION;
            }
        },
        ..Script::default()
    };
    let (checked, _) = with(script, "3")?;
    checked.says(
        0,
        &[
            "2 DHCP servers: 10.88.0.1 (",
            "one server, or one that poses as it",
        ],
    );
    Ok(())
}

/// Waits for a DISCOVER, and then sends what `forge` makes of it as fast as it can.
fn flood(span: &Span, forge: impl Fn(&Datagram, u64) -> Vec<u8>) -> Result<u64> {
    let tap = Tap::open(SERVER_LINK)?;
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    while span.goes_on() {
        poll(
            &mut [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)],
            Some(&moment),
        )?;
        while let Some(frame) = tap.receive()? {
            let discover = Datagram::parse(&frame);
            if let Some(discover) = discover.filter(|heard| heard.destination.port() == 67) {
                return span.repeat(|count| {
                    // A full queue is no reason to stop.
                    let _ = tap.send(&forge(&discover, count));
                    Ok(())
                });
            }
        }
    }
    Ok(0)
}

/// Makes an OFFER to a DISCOVER, of a server and of an address of its own for each `count`.
fn forged(discover: &Datagram, count: u64) -> Vec<u8> {
    let [.., c, d] = count.to_be_bytes();
    let (server, address) = ([10, 99, c, d], [10, 88, c, d.max(1)]);
    let mut payload = discover.payload[..240].to_vec();
    payload[0] = 2;
    payload[16..20].copy_from_slice(&address);
    payload.extend([53, 1, 2, 51, 4, 0, 0, 1, 0, 54, 4]);
    payload.extend(server);
    payload.push(255);
    let reply = Datagram {
        from: Mac([2, 0x99, 0, 0, c, d]),
        to: discover.from,
        source: SocketAddrV4::new(server.into(), 67),
        destination: SocketAddrV4::new(address.into(), 68),
        payload,
    };
    reply.to_frame()
}

/// A flood ends the check early, with a problem; what came first is still shown.
fn check_flood(forge: fn(&Datagram, u64) -> Vec<u8>) -> Result {
    let topology = Topology::new(1)?;
    let attacker = Attacker::start(&topology.server, move |span| flood(span, forge))?;
    let path = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let mut measured = command(&[LINK, "--netns", &path]);
    let checked = run_in(&topology.host, &mut measured)?;
    let sent = attacker.stop()?;
    assert!(sent > 100, "{sent} frames are no flood");
    checked.says(
        1,
        &[
            "a flood of replies: the search ended after",
            "tcpdump -e -i eth0",
        ],
    );
    let servers = checked.text.matches("\nserver ").count();
    assert!(servers <= 8, "{servers} servers");
    assert!(checked.took.as_secs() < 5, "{:?}", checked.took);
    Ok(())
}

fn a_flood_of_forged_offers() -> Result {
    check_flood(forged)
}

/// The same transaction id for none of ours.
fn a_flood_of_other_replies() -> Result {
    check_flood(|discover, count| {
        let mut other = discover.clone();
        other.payload[4] ^= 0xff;
        forged(&other, count)
    })
}
