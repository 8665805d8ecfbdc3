//! Addresses that another station has, by ARP: before the answer to Setup, right with it, and
//! later.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use rustix::event::{PollFd, PollFlags, poll};
use smol_dhcp_proxy::rpc::Code;
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Heard, Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::packets::{Mac, Tap, arp_claim, arp_request};
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER_LINK};
use crate::lab::{Result, eventually, grpc};
use crate::lease::{check_link, check_released};
use crate::stage;

trials![
    the_owner_is_there_from_the_start,
    the_owner_speaks_right_behind_the_ack,
    an_owner_that_answers_after_5_ms,
    a_later_owner_is_found_at_the_renewal,
    a_forged_frame_at_t1_takes_nothing,
    a_claim_that_is_repeated_takes_the_address,
    when_every_address_is_taken_the_caller_is_told,
    a_station_that_claims_every_address_costs_one,
    probes_beforehand_wait_for_a_slow_owner,
    without_probes_no_address_is_probed,
];

const SOON: Duration = Duration::from_secs(5);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 88, 1, 2);
const STRANGER: Mac = Mac([0x02, 0x77, 0, 0, 0, 1]);

/// A DECLINE is about the address and tells its server so; it is no RELEASE (RFC 2131 table 5).
fn check_declined(heard: &Heard, address: Ipv4Addr) {
    let option = |code| heard.message.opts().get(code).cloned();
    assert_eq!(
        option(OptionCode::RequestedIpAddress),
        Some(DhcpOption::RequestedIpAddress(address)),
        "{heard:?}"
    );
    assert!(
        heard.names_server() && heard.message.ciaddr().is_unspecified(),
        "{heard:?}"
    );
}

fn the_owner_is_there_from_the_start() -> Result {
    let stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // The kernel answers for it.
    stage.topology.containers[1]
        .namespace
        .add_address(LINK, FIRST, 16)?;
    let start = rt::now();
    assert_eq!(stage.setup(0)?.yiaddr, SECOND.to_string());
    assert!(
        rt::now() - start < Duration::from_secs(1),
        "the first conflict costs nobody any time"
    );
    check_declined(&server.await_message(MessageType::Decline, 1, SOON)?, FIRST);
    let words = format!("{} uses that address", stage.topology.containers[1].mac);
    assert!(
        stage.unit.log()?.contains(&words),
        "the log does not say: {words}"
    );
    let address = stage.topology.containers[0]
        .address()?
        .ok_or("no address")?;
    assert_eq!(address.address, SECOND);
    Ok(())
}

/// The lease is on the link before the claim is read, and taken off it before the caller is
/// answered.
fn the_owner_speaks_right_behind_the_ack() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    server.dispute(&[STRANGER], stage.daemon.id());
    let lease = stage.setup(0)?;
    assert_eq!(lease.yiaddr, SECOND.to_string());
    check_link(container, &lease, 3600)?;
    check_declined(&server.await_message(MessageType::Decline, 1, SOON)?, FIRST);
    stage.teardown(0)?;
    check_released(&server, 1, container, &lease)
}

/// A station that has an address and takes its time to say so; dropped, it is gone. As Linux does,
/// it answers probes and no announcements.
struct Owner {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result>>,
}

impl Owner {
    fn start(
        namespace: &Namespace,
        link: &str,
        address: Ipv4Addr,
        delay: Duration,
    ) -> Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let tap = namespace.run(|| Tap::open(link))?;
        let thread = std::thread::spawn(move || {
            loop {
                let mut ready = [
                    PollFd::new(&tap, PollFlags::IN),
                    PollFd::new(&stopped, PollFlags::IN),
                ];
                poll(&mut ready, None)?;
                if !ready[1].revents().is_empty() {
                    return Ok(());
                }
                while let Some(frame) = tap.receive()? {
                    let question = arp_request(&frame)
                        .filter(|(_, from, wanted)| *wanted == address && from != wanted);
                    if let Some((asker, ..)) = question {
                        std::thread::sleep(delay);
                        tap.send(&arp_claim(STRANGER, address, asker))?;
                    }
                }
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn an_owner_that_answers_after_5_ms() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let _owner = Owner::start(
        &stage.topology.server,
        SERVER_LINK,
        FIRST,
        Duration::from_millis(5),
    )?;
    stage.setup(0)?;
    check_declined(&server.await_message(MessageType::Decline, 1, SOON)?, FIRST);
    eventually("another address", SOON, || {
        Ok(container
            .address()?
            .filter(|address| address.address == SECOND)
            .map(drop))
    })?;
    eventually("the lease file has it", SOON, || {
        let leases = stage.unit.leases()?;
        Ok((leases[container.mac.to_string()][0]["yiaddr"] == SECOND.to_string()).then_some(()))
    })?;
    assert_eq!(container.namespace.default_routes()?.len(), 1);
    assert_eq!(
        server.heard_of(MessageType::Release).len(),
        0,
        "what is declined is not given back"
    );
    stage.teardown(0).map(drop)
}

fn a_later_owner_is_found_at_the_renewal() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(4)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    stage.setup(0)?;
    container.namespace.await_rest()?;
    let _owner = Owner::start(
        &stage.topology.server,
        SERVER_LINK,
        FIRST,
        Duration::from_millis(5),
    )?;
    // Two seconds after T1 it repeats its claim. The server offers the address again, is told that
    // it is in use, and is asked for another at once: with the second DISCOVER after the first, or
    // the third, which may be on its way by now.
    let declined = server.await_message(MessageType::Decline, 1, 3 * SOON)?;
    check_declined(&declined, FIRST);
    let discovers = server.heard_of(MessageType::Discover).len();
    assert!(
        (2..=3).contains(&discovers),
        "{discovers} DISCOVERs before the DECLINE"
    );
    eventually("another address", SOON, || {
        Ok(container
            .address()?
            .filter(|address| address.address == SECOND)
            .map(drop))
    })?;
    let words = format!("lost the lease of {FIRST}: {STRANGER} uses that address");
    assert!(
        stage.unit.log()?.contains(&words),
        "the log does not say: {words}"
    );
    Ok(())
}

/// Waits until a container asks by ARP for `FIRST`, or announces it.
fn await_arp(tap: &Tap, container: Mac, sender: Ipv4Addr) -> Result {
    eventually(&format!("ARP for {FIRST} from {sender}"), 2 * SOON, || {
        while let Some(frame) = tap.receive()? {
            if arp_request(&frame) == Some((container, sender, FIRST)) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
}

/// A lease of a minute that is renewed every eight seconds, and the ears and the mouth of a
/// stranger.
fn renewed_soon(stage: &Stage) -> Result<(Server, Tap)> {
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(60),
        t1: Some(seconds(8)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    assert_eq!(stage.setup(0)?.yiaddr, FIRST.to_string());
    stage.topology.containers[0].namespace.await_rest()?;
    Ok((
        server,
        stage.topology.server.run(|| Tap::open(SERVER_LINK))?,
    ))
}

fn a_forged_frame_at_t1_takes_nothing() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let (server, tap) = renewed_soon(&stage)?;
    await_arp(&tap, container.mac, Ipv4Addr::UNSPECIFIED)?;
    tap.send(&arp_claim(STRANGER, FIRST, container.mac))?;
    await_arp(&tap, container.mac, FIRST)?; // it is defended,
    await_arp(&tap, container.mac, Ipv4Addr::UNSPECIFIED)?; // and asked after, in vain,
    server.await_message(MessageType::Request, 3, 2 * SOON)?; // and renewed once more.
    assert_eq!(
        container.address()?.map(|address| address.address),
        Some(FIRST)
    );
    assert_eq!(
        (
            server.heard_of(MessageType::Discover).len(),
            server.heard_of(MessageType::Decline).len()
        ),
        (1, 0)
    );
    let words = format!("{STRANGER} claims {FIRST}, which is in use here");
    assert_eq!(
        stage.unit.log()?.matches(&words).count(),
        1,
        "the log says it once"
    );
    stage.teardown(0).map(drop)
}

/// It was in use, so it is not declined; the probe for it stays unanswered when it is leased again.
fn a_claim_that_is_repeated_takes_the_address() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let (server, tap) = renewed_soon(&stage)?;
    for sender in [Ipv4Addr::UNSPECIFIED, FIRST] {
        await_arp(&tap, container.mac, sender)?;
        tap.send(&arp_claim(STRANGER, FIRST, container.mac))?;
    }
    server.await_message(MessageType::Discover, 2, SOON)?;
    let words = format!("lost the lease of {FIRST}: {STRANGER} uses that address");
    eventually(&words, SOON, || {
        Ok(stage.unit.log()?.contains(&words).then_some(()))
    })?;
    eventually("an address", SOON, || container.address())?;
    assert_eq!(server.heard_of(MessageType::Decline).len(), 0);
    stage.teardown(0).map(drop)
}

/// The second container on that network loses none, and the log has one word on it.
fn a_station_that_claims_every_address_costs_one() -> Result {
    let stage = stage(2, &["-t", "3"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    server.dispute(&[STRANGER; 10], stage.daemon.id());
    for container in 0..2 {
        let lease = stage.setup(container)?;
        let address = stage.topology.containers[container]
            .address()?
            .map(|address| address.address.to_string());
        assert_eq!(address, Some(lease.yiaddr));
    }
    assert_eq!(server.heard_of(MessageType::Decline).len(), 1);
    let words = format!("{STRANGER} answers ARP for ");
    let told = stage
        .unit
        .log()?
        .lines()
        .filter(|line| line.contains("[WARN") && line.contains(&words))
        .count();
    assert_eq!(told, 1, "it says once that there is proxy ARP");
    Ok(())
}

fn when_every_address_is_taken_the_caller_is_told() -> Result {
    let stage = stage(1, &["-t", "3"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // Each by another station: claiming two of them would be taken for proxy ARP.
    let stations: Vec<_> = (1..=10)
        .map(|number| Mac([0x02, 0x77, 0, 0, 1, number]))
        .collect();
    server.dispute(&stations, stage.daemon.id());
    let start = rt::now();
    let answer = grpc::setup(&stage.unit.socket(), &stage.config(0));
    let took = rt::now() - start;
    let status = answer.err().ok_or("a lease of an address that is taken")?;
    assert_eq!(status.code, Code::Aborted, "{status:?}");
    assert!(
        status
            .message
            .contains(" uses that address (--arp-probe 0 "),
        "{status:?}"
    );
    assert!(
        took > Duration::from_millis(2900) && took < Duration::from_millis(4000),
        "{took:?}"
    );
    assert_eq!(stage.topology.containers[0].address()?, None);
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    Ok(())
}

fn probes_beforehand_wait_for_a_slow_owner() -> Result {
    let stage = stage(1, &["--arp-probe", "1"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let _owner = Owner::start(
        &stage.topology.server,
        SERVER_LINK,
        FIRST,
        Duration::from_millis(300),
    )?;
    let start = rt::now();
    assert_eq!(stage.setup(0)?.yiaddr, SECOND.to_string());
    assert!(
        rt::now() - start >= Duration::from_secs(2),
        "RFC 5227 wants two seconds after the last probe"
    );
    check_declined(&server.await_message(MessageType::Decline, 1, SOON)?, FIRST);
    Ok(())
}

fn without_probes_no_address_is_probed() -> Result {
    let stage = stage(2, &["--arp-probe", "0"])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.topology.containers[1]
        .namespace
        .add_address(LINK, FIRST, 16)?;
    assert_eq!(stage.setup(0)?.yiaddr, FIRST.to_string());
    container.namespace.await_rest()?;
    assert_eq!(
        container.address()?.map(|address| address.address),
        Some(FIRST)
    );
    assert_eq!(server.heard_of(MessageType::Decline).len(), 0);
    Ok(())
}
