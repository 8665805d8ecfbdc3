//! `check`: the servers that it finds, its words and exit status, and that it takes nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use dhcproto::v4::MessageType;
use netlink_packet_core::Parseable;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netlink::message::GET_LINK;
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::packets::{Datagram, Mac, Tap, arp_request};
use crate::lab::program::need;
use crate::lab::real_server::{Kind, Plan, RealServer};
use crate::lab::scene;
use crate::lab::topology::{LINK, SERVER_LINK, Topology};
use crate::lab::{Result, Skip, eventually, peer, sandbox};
use crate::{program, tell};

mod errors;
mod link;
mod odd;
mod surroundings;

trials![
    one_server_is_found_and_nothing_is_taken,
    the_screen_is_the_manuals,
    each_field_of_the_json_is_in_the_manual,
    system_calls_take_no_port_and_change_no_link,
    a_lease_that_is_held_stays,
    a_server_that_pings_first_is_found_beside_a_quick_one,
    each_real_server_is_found_without_a_lease,
    no_server_is_a_problem,
    a_switch_port_that_is_deaf_at_first,
    an_ipvlan_needs_the_broadcast_flag,
    beside_netavarks_path,
];

pub(crate) use errors::TRIALS as ERROR_TRIALS;
pub(crate) use link::TRIALS as LINK_TRIALS;
pub(crate) use odd::TRIALS as ODD_TRIALS;
pub(crate) use surroundings::TRIALS as SURROUNDINGS_TRIALS;

const SOON: Duration = Duration::from_secs(5);

/// The end of a check.
#[derive(Debug)]
struct Checked {
    status: Option<i32>,
    text: String,
    errors: String,
    took: Duration,
}

impl Checked {
    /// Checks the exit status, and that each of these words is in the text.
    fn says(&self, status: i32, words: &[&str]) -> &Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        for word in words {
            let all = format!("{}{}", self.text, self.errors);
            assert!(all.contains(word), "{word:?} is not in:\n{all}");
        }
        self
    }

    /// Checks that none of these words is in the text.
    fn says_nothing_of(&self, words: &[&str]) {
        for word in words {
            assert!(!self.text.contains(word), "{word:?} is in:\n{}", self.text);
        }
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.text)?)
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("check").args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command line in a namespace.
fn run_in(namespace: &Namespace, command: &mut Command) -> Result<Checked> {
    let began = rt::now();
    let child = namespace.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let output = child.wait_with_output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Checked {
        status: output.status.code(),
        text: text(&output.stdout),
        errors: text(&output.stderr),
        took: rt::now() - began,
    })
}

/// Checks the first container of a network from its host.
fn check(topology: &Topology, options: &[&str]) -> Result<Checked> {
    let path = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let arguments = [&[LINK, "--netns", &path], options].concat();
    run_in(&topology.host, &mut command(&arguments))
}

/// Checks the host's own interface.
fn check_host(topology: &Topology, options: &[&str]) -> Result<Checked> {
    run_in(&topology.host, &mut command(&[&[LINK], options].concat()))
}

/// The links of a namespace, as far as a check could change them, with their addresses and routes.
fn state_of(namespace: &Namespace) -> Result<String> {
    let links = namespace.run(|| {
        let messages = Netlink::open()?.dump(GET_LINK, &LinkMessage::default())?;
        let mut links = Vec::new();
        for bytes in messages {
            let mut link = LinkMessage::parse(&bytes)?;
            link.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    LinkAttribute::IfName(_)
                        | LinkAttribute::Address(_)
                        | LinkAttribute::Mtu(_)
                        | LinkAttribute::Promiscuity(_)
                        | LinkAttribute::Controller(_)
                        | LinkAttribute::TxQueueLen(_)
                )
            });
            links.push(link);
        }
        Ok(links)
    })?;
    Ok(format!(
        "{links:?} {:?} {:?}",
        namespace
            .addresses()?
            .iter()
            .map(|address| (address.index, address.address, address.prefix))
            .collect::<Vec<_>>(),
        namespace.routes()?
    ))
}

/// All frames of a station, heard at the server's end of the network while `work` runs.
fn frames_of<T: Send>(
    topology: &Topology,
    station: Mac,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Vec<Vec<u8>>)> {
    let tap = topology.server.run(|| Tap::open(SERVER_LINK))?;
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    thread::scope(|scope| {
        let worker = scope.spawn(work);
        let mut frames = Vec::new();
        loop {
            let is_over = worker.is_finished();
            poll(
                &mut [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)],
                Some(&moment),
            )?;
            while let Some(frame) = tap.receive()? {
                if frame[6..12] == station.0 {
                    frames.push(frame);
                }
            }
            if is_over {
                let done = worker.join().map_err(|_| "the check panicked")?;
                return Ok((done?, frames));
            }
        }
    })
}

/// Every frame is a DISCOVER or an ARP probe, link, server and namespace are as before, and no
/// descriptor stays.
fn one_server_is_found_and_nothing_is_taken() -> Result {
    let topology = Topology::new(1)?;
    let server = RealServer::start(
        Kind::Dnsmasq,
        &topology.server,
        SERVER_LINK,
        &Plan::default(),
    )?;
    let container = &topology.containers[0];
    let before = (state_of(&topology.host)?, state_of(&container.namespace)?);
    let (checked, frames) = frames_of(&topology, container.mac, || check(&topology, &[]))?;
    let address = checked
        .says(
            0,
            &[
                "server 10.88.0.1",
                "no problem was found",
                "macvlan on eth0",
            ],
        )
        .text
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("address:")?
                .trim()
                .split('/')
                .next()
        })
        .ok_or("no address")?
        .parse::<Ipv4Addr>()?;
    assert_eq!(checked.errors, "");

    let (mut discovers, mut probed) = (0, Vec::new());
    for frame in &frames {
        if let Some((_, sender, wanted)) = arp_request(frame) {
            assert!(sender.is_unspecified(), "no probe: {frame:x?}");
            probed.push(wanted);
            continue;
        }
        let datagram = Datagram::parse(frame);
        // What the kernel sends by itself, as for IPv6.
        let Some(datagram) = datagram.filter(|datagram| datagram.destination.port() == 67) else {
            assert_ne!(&frame[12..14], [8, 0], "IPv4: {frame:x?}");
            continue;
        };
        assert_eq!(
            (*datagram.source.ip(), datagram.to),
            (Ipv4Addr::UNSPECIFIED, Mac::BROADCAST)
        );
        // Option 53 is the first one: a DISCOVER.
        assert_eq!(datagram.payload[240..243], [53, 1, 1]);
        discovers += 1;
    }
    assert_eq!(discovers, 2);
    assert_eq!(
        probed.iter().filter(|wanted| **wanted == address).count(),
        2,
        "{probed:?}"
    );
    assert_eq!(probed.len(), 4, "{probed:?}");

    assert_eq!(server.leases()?, "");
    assert!(!server.log()?.contains("DHCPREQUEST"), "{}", server.log()?);
    assert_eq!(
        (state_of(&topology.host)?, state_of(&container.namespace)?),
        before
    );
    container.namespace.await_rest()?;
    Ok(())
}

/// Returns the lines of a screen with what differs from run to run made equal.
fn plain(screen: &str) -> Vec<String> {
    let digits = |word: &str| {
        word.chars()
            .next()
            .is_some_and(|first| first.is_ascii_digit())
    };
    let line = |line: &str| {
        let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        for place in 0..words.len() {
            let is_unit = matches!(
                words
                    .get(place + 1)
                    .map(|word| word.trim_end_matches([',', ';'])),
                Some("ms" | "s")
            );
            if is_unit && digits(&words[place]) {
                words[place] = "TIME".to_owned();
                words[place + 1] = words[place + 1].replace("ms", "s");
            }
            if words[place].matches(':').count() == 5 {
                words[place] = "MAC".to_owned();
            }
            if words[place].contains("/run/netns/") || words[place].contains("/net:") {
                words[place] = "PATH".to_owned();
            }
        }
        // Wider columns have more blanks.
        words.retain(|word| !word.is_empty());
        words.join(" ")
    };
    screen.lines().map(line).collect()
}

/// The example of the manual is what the program prints.
fn the_screen_is_the_manuals() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let checked = check(&topology, &[])?;
    checked.says(0, &[]);
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units/smol-dhcp-proxy.8"))?;
    let (_, rest) = page
        .split_once("\n# smol-dhcp-proxy check eth0 --netns /run/netns/web\n")
        .ok_or("no example")?;
    let (example, _) = rest.split_once("\n.Ed\n").ok_or("no end")?;
    assert_eq!(plain(example), plain(&checked.text), "\n{}", checked.text);
    Ok(())
}

fn names_of(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                names.push(name.clone());
                names_of(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names_of(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn each_field_of_the_json_is_in_the_manual() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let _client = topology.containers[0].namespace.run(|| {
        Ok(UdpSocket::bind(SocketAddrV4::new(
            Ipv4Addr::UNSPECIFIED,
            68,
        ))?)
    })?;
    let checked = check(&topology, &["--json", "--timeout", "1"])?;
    let report = checked.says(0, &[]).json()?;
    assert_eq!(report["version"], 1);
    let server = &report["search"]["servers"][0];
    assert_eq!(server["server"], "10.88.0.1");
    assert_eq!(server["offer"]["address"], "10.88.1.1");
    assert_eq!(server["offer"]["lease_seconds"], 3600);
    assert_eq!(report["interface"]["kind"], "macvlan");
    assert_eq!(report["interface"]["busy_ports"][0]["port"], 68);
    let mut names = Vec::new();
    names_of(&report, &mut names);
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("units/smol-dhcp-proxy.8"))?;
    let missing: Vec<_> = names
        .iter()
        .filter(|name| {
            let is_it = |line: &str| {
                let words: Vec<_> = line.split(' ').collect();
                words.windows(2).any(|pair| pair == ["Va", name]) || line == format!(".Va {name}")
            };
            !page.lines().any(|line| {
                line.starts_with('.')
                    && is_it(line.trim_start_matches(".It ").trim_start_matches('.'))
            })
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Nothing else is printed, and nothing is missing.
    assert!(names.len() > 40 && checked.text.ends_with("}\n"));
    Ok(())
}

/// By strace: sockets of packets and netlink alone, none bound to a port of UDP, no membership such
/// as the promiscuous mode, and from netlink only questions.
fn system_calls_take_no_port_and_change_no_link() -> Result {
    let strace = need("strace", "strace")?;
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let calls = sandbox::folder("strace")?.join("calls");
    let mut traced = Command::new(strace);
    traced
        .args(["-f", "-o"])
        .arg(&calls)
        .args(["-e", "trace=%network,setns,openat,ioctl"])
        .arg(program())
        .args(["check", LINK, "--timeout", "1", "--netns"])
        .arg(topology.containers[0].namespace.path());
    run_in(&topology.host, &mut traced)?.says(0, &["no problem was found"]);
    let calls = fs::read_to_string(calls)?;
    let of = |name: &'static str| calls.lines().filter(move |line| line.contains(name));
    for line in of("socket(") {
        let is_known = ["AF_PACKET", "AF_NETLINK", "AF_UNIX"]
            .iter()
            .any(|family| line.contains(family));
        assert!(is_known, "{line}");
    }
    assert!(
        of("socket(AF_PACKET").count() >= 3,
        "DHCP, and two addresses by ARP:\n{calls}"
    );
    for line in of("setsockopt(") {
        assert!(!line.contains("MEMBERSHIP"), "{line}");
    }
    for line in of("openat(") {
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"]
            .iter()
            .any(|flag| line.contains(flag));
        assert!(!writes || line.contains("/dev/null"), "{line}");
    }
    // By number where strace does not know a socket's protocol.
    let names = ["RTM_GETLINK", "RTM_GETADDR", "RTM_GETNSID"];
    let numbers = ["0x12 ", "0x16 ", "0x5a "];
    let questions: Vec<_> = names
        .iter()
        .chain(&numbers)
        .map(|name| format!("nlmsg_type={name}"))
        .collect();
    for line in of("sendto(").filter(|line| line.contains("nlmsg_type=")) {
        assert!(
            questions.iter().any(|question| line.contains(question)),
            "{line}"
        );
    }
    assert_eq!(
        of("ioctl(").filter(|line| line.contains("SIOCS")).count(),
        0
    );
    Ok(())
}

/// The daemon's lease of a container is the same after a check of its interface, for the server, on
/// the link and for the daemon, which renews it.
fn a_lease_that_is_held_stays() -> Result {
    let stage = crate::stage(1, &[])?;
    let plan = Plan {
        lease: 120,
        t1_t2: Some((12, 100)),
        ..Plan::default()
    };
    let server = RealServer::start(Kind::Dnsmasq, &stage.topology.server, SERVER_LINK, &plan)?;
    let lease = stage.setup(0)?;
    let container = &stage.topology.containers[0];
    container.namespace.await_rest()?;
    let before = (server.leases()?, state_of(&container.namespace)?);
    let checked = check(&stage.topology, &[])?;
    checked.says(0, &["no problem was found"]);
    let other = format!("address:  {}/", lease.yiaddr);
    checked.says_nothing_of(&[&other]);
    assert_eq!((server.leases()?, state_of(&container.namespace)?), before);
    let words = format!("({}/16): renewed by", lease.yiaddr);
    eventually(&words, Duration::from_secs(15), || {
        Ok(stage.unit.log()?.contains(&words).then_some(()))
    })?;
    stage.teardown(0)?;
    Ok(())
}

/// dnsmasq without `no-ping` offers an address after three seconds.
fn a_server_that_pings_first_is_found_beside_a_quick_one() -> Result {
    let topology = Topology::new(1)?;
    let second = Ipv4Addr::new(10, 88, 0, 2);
    topology.server.add_address(SERVER_LINK, second, 16)?;
    let mut dnsmasq = Command::new(need("dnsmasq", "dnsmasq-base")?);
    dnsmasq.args([
        "--no-daemon",
        "--log-facility=-",
        "--port=0",
        "--bind-interfaces",
        "--pid-file=",
        "--conf-file=/dev/null",
        "--dhcp-leasefile=/dev/null",
        "--leasefile-ro",
        "--dhcp-range=10.88.1.0,10.88.200.0,255.255.0.0,3600",
        "--interface=s0",
    ]);
    let folder = sandbox::folder("pinging")?;
    let _dnsmasq = crate::lab::program::Program::start(
        &topology.server,
        dnsmasq,
        &folder,
        "sockets bound exclusively",
    )?;
    let settings = Settings {
        address: second,
        first: Ipv4Addr::new(10, 88, 210, 1),
        ..Settings::default()
    };
    let quick = Server::beside(&topology.server, SERVER_LINK, settings)?;
    let checked = check(&topology, &[])?;
    checked.says(
        0,
        &[
            "server 10.88.0.1\n",
            "server 10.88.0.2\n",
            "2 DHCP servers: 10.88.0.2 (",
            "--deny-server",
            "no problem was found",
        ],
    );
    assert!(checked.took > Duration::from_secs(4), "{:?}", checked.took);
    let kinds = quick.heard_kinds();
    assert!(
        kinds.iter().all(|kind| *kind == MessageType::Discover),
        "{kinds:?}"
    );
    Ok(())
}

/// None of the three has a lease afterwards; udhcpd notes what it has offered, for a minute.
fn each_real_server_is_found_without_a_lease() -> Result {
    for kind in [Kind::Dnsmasq, Kind::Kea, Kind::Udhcpd] {
        let topology = Topology::new(1)?;
        let server = match RealServer::start(kind, &topology.server, SERVER_LINK, &Plan::default())
        {
            Err(error) if Skip::reason(&*error).is_some() => {
                tell(&format!("{kind:?} is not here: {error}"));
                continue;
            }
            started => started?,
        };
        let checked = check(&topology, &["--json", "--timeout", "2"])?;
        let report = checked.says(0, &[]).json()?;
        let offer = &report["search"]["servers"][0]["offer"];
        assert_eq!(offer["lease_seconds"], 3600, "{kind:?}: {report}");
        let address = offer["address"]
            .as_str()
            .ok_or("no address")?
            .parse::<Ipv4Addr>()?;
        let is_leased = server.lists(address)? && kind != Kind::Udhcpd;
        assert!(!is_leased, "{kind:?}: {}", server.leases()?);
        let log = server.log()?;
        for word in ["DHCPACK", "LEASE_ALLOC", "sending ACK"] {
            assert!(!log.contains(word), "{kind:?}: {log}");
        }
    }
    Ok(())
}

fn no_server_is_a_problem() -> Result {
    let topology = Topology::new(1)?;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    let checked = check(&topology, &["--timeout", "2.1"])?;
    checked.says(
        1,
        &[
            "no DHCPOFFER within 2.1 s (3 DISCOVERs sent on eth0)",
            "wrong parent or VLAN, Wi-Fi, spanning tree, or a server for known clients alone",
            "1 problem",
        ],
    );
    assert!(checked.took < Duration::from_secs(4), "{:?}", checked.took);
    assert_eq!(listener.heard_kinds(), [MessageType::Discover; 3]);
    let report = check(&topology, &["--timeout", "0.1", "--json"])?
        .says(1, &[])
        .json()?;
    assert_eq!(
        (&report["healthy"], &report["search"]["discovers"]),
        (&false.into(), &1.into())
    );
    Ok(())
}

/// Spanning tree: nothing passes until the port forwards, and then the ladder's next DISCOVER does,
/// the sixth one, which has the broadcast flag. The full ones before it tell nothing.
fn a_switch_port_that_is_deaf_at_first() -> Result {
    let (host, server, switch) = (
        Namespace::new("host")?,
        Namespace::new("server")?,
        Namespace::new("switch")?,
    );
    switch.veth("one", &host, LINK)?;
    switch.veth("two", &server, SERVER_LINK)?;
    let topology = Topology::between(host, server, 1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    switch.spanning_tree_bridge("br0", &["one", "two"], Duration::from_secs(4))?;
    check(&topology, &["--timeout", "1"])?.says(1, &["no DHCPOFFER within", "--timeout 45"]);
    check(&topology, &["--timeout", "20"])?
        .says(0, &["no problem was found"])
        .says_nothing_of(&["answers only", "no full DISCOVER"]);
    // The bridge itself has a port that comes up anew, beside that of the server.
    switch.set_state("one", false)?;
    switch.set_state("one", true)?;
    // The kernel tells the bridge of the carrier a moment later.
    eventually("the port listens", SOON, || {
        let own = run_in(&switch, &mut command(&["br0", "--timeout", "0.1"]))?;
        let words = "listens and learns (spanning tree)";
        Ok(own.text.contains(words).then_some(()))
    })
}

/// Makes a container on an ipvlan of the host's interface.
fn ipvlan(topology: &Topology) -> Result<Namespace> {
    let container = Namespace::new("container")?;
    let mut add = Command::new(need("ip", "iproute2")?);
    add.args([
        "link", "add", "ipvlan0", "link", LINK, "type", "ipvlan", "mode", "l2",
    ]);
    let added = run_in(&topology.host, &mut add)?;
    if added.status != Some(0) {
        return Err(Skip::Impossible(format!("no ipvlan: {}", added.errors)).into());
    }
    topology.host.move_link("ipvlan0", &container)?;
    container.set_state("ipvlan0", true)?;
    Ok(container)
}

/// A unicast to an address that the container does not have yet stays with the host.
fn an_ipvlan_needs_the_broadcast_flag() -> Result {
    let topology = Topology::new(0)?;
    let container = ipvlan(&topology)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let path = container.path().display().to_string();
    let checked = run_in(&topology.host, &mut command(&["ipvlan0", "--netns", &path]))?;
    let words = [
        "ipvlan on eth0",
        "hear no unicast before they have an address",
        "only a DISCOVER with the broadcast flag, or its unicast is lost",
        "--broadcast of the daemon",
        "1 problem",
    ];
    checked.says(1, &words);
    Ok(())
}

/// netavark's user learns of a server by starting a container: that takes a lease, and without a
/// server the eight seconds of its patience.
fn beside_netavarks_path() -> Result {
    let stage = peer::stage(Topology::new(1)?, 8)?;
    let refused = rt::now();
    assert!(stage.setup(0).is_err(), "a lease without a server");
    let refused = rt::now() - refused;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let checked = check(&stage.topology, &["--json"])?;
    let answer = checked.says(0, &[]).json()?["search"]["servers"][0]["microseconds"].clone();
    assert_eq!(server.heard_of(MessageType::Request).len(), 0);
    let leased = rt::now();
    stage.setup(0)?;
    let leased = rt::now() - leased;
    assert_eq!(server.heard_of(MessageType::Request).len(), 1);
    let silent = Topology::new(1)?;
    let without = check(&silent, &["--timeout", "8"])?;
    without.says(1, &["no DHCPOFFER within 8.0 s"]);
    tell(&format!(
        "netavark's Setup: a lease after {leased:?}, without a server an error after {refused:?}; \
         check: an answer after {answer} us, all servers after {:?}, none after {:?}",
        checked.took, without.took
    ));
    Ok(())
}
