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

mod odd;

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
    an_interface_that_is_down,
    no_carrier,
    a_carrier_that_comes_late,
    a_carrier_that_is_lost,
    an_interface_without_an_ethernet_address,
    a_port_of_a_bridge,
    ports_of_dhcp_in_use,
    names_that_do_not_exist,
    without_permission,
    a_wrong_command_line,
    progress_is_for_terminals,
    beside_netavarks_path,
];

pub(crate) use odd::TRIALS as ODD_TRIALS;

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
    // RTM_GETLINK and RTM_GETADDR, by number where strace does not know a socket's protocol.
    let questions =
        ["RTM_GETLINK", "RTM_GETADDR", "0x12 ", "0x16 "].map(|name| format!("nlmsg_type={name}"));
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
    let checked = check(&topology, &["--timeout", "2.5"])?;
    checked.says(
        1,
        &[
            "no DHCPOFFER within 2.5 s (3 DISCOVERs sent on eth0)",
            "wrong parent or VLAN, Wi-Fi, or spanning tree",
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

/// Spanning tree: nothing passes until the port forwards, and then the ladder's next DISCOVER does.
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
    switch.spanning_tree_bridge("br0", &["one", "two"], Duration::from_secs(2))?;
    check(&topology, &["--timeout", "1"])?.says(1, &["no DHCPOFFER within", "--timeout 45"]);
    check(&topology, &["--timeout", "20"])?.says(0, &["no problem was found"]);
    // The bridge itself has a port that comes up anew, beside that of the server.
    switch.set_state("one", false)?;
    switch.set_state("one", true)?;
    let own = run_in(&switch, &mut command(&["br0", "--timeout", "0.5"]))?;
    own.says(0, &["listens and learns (spanning tree)"]);
    Ok(())
}

fn an_interface_that_is_down() -> Result {
    let topology = Topology::new(1)?;
    topology.containers[0].namespace.set_state(LINK, false)?;
    let checked = check(&topology, &[])?;
    checked.says(
        1,
        &["eth0 is down", "ip link set eth0 up", "nsenter --net="],
    );
    assert!(checked.took < Duration::from_secs(2));
    checked.says_nothing_of(&["DISCOVER", "no DHCPOFFER"]);
    assert!(state_of(&topology.containers[0].namespace)?.contains("eth0"));
    Ok(())
}

fn no_carrier() -> Result {
    let topology = Topology::new(1)?;
    topology.server.set_state(SERVER_LINK, false)?;
    let checked = check(&topology, &["--timeout", "1"])?;
    checked.says(1, &["no carrier on eth0", "cable, or parent down: ip link"]);
    checked.says_nothing_of(&["DISCOVER"]);
    let report = check(&topology, &["--timeout", "1", "--json"])?.json()?;
    assert_eq!(
        (&report["search"], &report["interface"]["carrier"]),
        (&Value::Null, &false.into())
    );
    Ok(())
}

/// Waits until a check has a netlink socket in a namespace, to hear of changes.
fn await_monitor(namespace: &Namespace) -> Result {
    eventually("the check listens for changes", SOON, || {
        let table = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/netlink")?))?;
        // The groups are the fourth column; bit 0 is that of links.
        let listens = |line: &str| {
            line.split_whitespace()
                .nth(3)
                .is_some_and(|groups| groups.ends_with('1'))
        };
        Ok(table.lines().skip(1).any(listens).then_some(()))
    })
}

fn a_carrier_that_comes_late() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    topology.server.set_state(SERVER_LINK, false)?;
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &[]));
        await_monitor(&topology.containers[0].namespace)?;
        topology.server.set_state(SERVER_LINK, true)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(0, &["eth0 is up and has a carrier", "no problem was found"]);
        Ok(())
    })
}

fn a_carrier_that_is_lost() -> Result {
    let topology = Topology::new(1)?;
    let listener = Server::eavesdrop(&topology.server, SERVER_LINK)?;
    thread::scope(|scope| {
        let checked = scope.spawn(|| check(&topology, &[]));
        listener.await_message(MessageType::Discover, 1, SOON)?;
        topology.server.set_state(SERVER_LINK, false)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(1, &["no carrier on eth0"]);
        assert!(checked.took < SOON, "{:?}", checked.took);
        // The same where the whole interface goes.
        topology.server.set_state(SERVER_LINK, true)?;
        let checked = scope.spawn(|| check(&topology, &[]));
        listener.await_message(MessageType::Discover, 2, SOON)?;
        topology.containers[0].namespace.delete_link(LINK)?;
        let checked = checked.join().map_err(|_| "the check panicked")??;
        checked.says(1, &["eth0 is down"]);
        assert!(checked.took < SOON, "{:?}", checked.took);
        Ok(())
    })
}

fn an_interface_without_an_ethernet_address() -> Result {
    let host = Namespace::new("host")?;
    run_in(&host, &mut command(&["lo"]))?.says(1, &["lo has no Ethernet address"]);
    Ok(())
}

/// The host's uplink, where that is a port: it is told, and the bridge is found as any interface.
fn a_port_of_a_bridge() -> Result {
    let scene = scene::bridge(
        |topology| crate::lab::stage::Stage::new(topology, program(), &[]),
        Settings::default(),
    )?;
    let host = &scene.stage.topology.host;
    run_in(host, &mut command(&[LINK]))?.says(0, &["eth0: bridge", "no problem was found"]);
    let port = run_in(
        host,
        &mut command(&[scene::BRIDGE_SERVER, "--timeout", "1"]),
    )?;
    port.says(0, &["one: veth", "one is a port of eth0", "check it, too"]);
    Ok(())
}

fn ports_of_dhcp_in_use() -> Result {
    let topology = Topology::new(1)?;
    let _server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let bind = |port| {
        move || {
            Ok(UdpSocket::bind(SocketAddrV4::new(
                Ipv4Addr::UNSPECIFIED,
                port,
            ))?)
        }
    };
    let _client = topology.containers[0].namespace.run(bind(68))?;
    let us = format!("({}) has UDP port", std::process::id());
    let words = [
        &format!("{us} 68: a DHCP client in this namespace"),
        "no problem was found",
    ];
    check(&topology, &["--timeout", "1"])?.says(0, &words);
    // Of the host, which is not disturbed: port 68 is not needed.
    let (_client, _proxy) = (topology.host.run(bind(68))?, topology.host.run(bind(67))?);
    let words = [
        "is of this host, whose DHCP client is not disturbed",
        &format!("{us} 68: the DHCP client of this host"),
        &format!("{us} 67: a DHCP server of this host"),
        "a macvlan does not reach its own host",
        "no problem was found",
    ];
    check_host(&topology, &["--timeout", "1"])?.says(0, &words);
    Ok(())
}

fn names_that_do_not_exist() -> Result {
    let topology = Topology::new(1)?;
    let unknown = run_in(&topology.host, &mut command(&["eth7"]))?;
    unknown.says(
        3,
        &[
            "there is no interface eth7 in this network namespace",
            "eth0",
            "--netns",
        ],
    );
    assert_eq!(unknown.text, "");
    // A name that no interface can have, with an escape sequence that does not reach the terminal.
    let odd = run_in(&topology.host, &mut command(&["eth\x1b[31m7/"]))?;
    odd.says(3, &["there is no interface eth?[31m7/"]);

    let container = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let unknown = run_in(
        &topology.host,
        &mut command(&["eth7", "--netns", &container]),
    )?;
    unknown.says(3, &["there is no interface eth7 in /", "lo, eth0"]);
    let folder = sandbox::folder("names")?;
    let file = folder.join("file");
    fs::write(&file, "")?;
    for (path, words) in [
        (folder.join("nothing"), "No such file or directory"),
        (folder.clone(), "is a directory, not a network namespace"),
        (file, "is a regular file, not a network namespace"),
        ("/proc/self/ns/mnt".into(), "is another kind of namespace"),
    ] {
        let path = path.display().to_string();
        let checked = run_in(&topology.host, &mut command(&[LINK, "--netns", &path]))?;
        checked.says(3, &[words, &path]);
    }
    // The path of the own namespace is no other one.
    let own = run_in(
        &topology.host,
        &mut command(&[LINK, "--netns", "/proc/self/ns/net", "--timeout", "0.2"]),
    )?;
    own.says(1, &["is of this host"]);
    Ok(())
}

/// As root without any capability, which may do no more here than another user.
fn without_permission() -> Result {
    let setpriv = need("setpriv", "util-linux")?;
    let topology = Topology::new(1)?;
    let powerless = |arguments: &[&str]| {
        let mut command = Command::new(&setpriv);
        command
            .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
            .arg(program())
            .arg("check")
            .args(arguments);
        run_in(&topology.host, &mut command)
    };
    let checked = powerless(&[LINK])?;
    checked.says(
        3,
        &[
            "cannot listen on eth0",
            "Operation not permitted",
            "run it as root",
        ],
    );
    let container = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let checked = powerless(&[LINK, "--netns", &container])?;
    checked.says(3, &["cannot enter the network namespace", "run it as root"]);
    Ok(())
}

fn a_wrong_command_line() -> Result {
    let host = Namespace::new("host")?;
    for (arguments, words) in [
        (&[][..], "check needs the name of an interface"),
        (&["eth0", "eth1"], "eth1"),
        (&["eth0", "--colour"], "--colour"),
        (&["eth0", "--timeout", "0"], "more than 0 and at most 300"),
    ] {
        let checked = run_in(&host, &mut command(arguments))?;
        checked.says(2, &[words, "--help"]);
        assert_eq!(checked.text, "");
    }
    let help = run_in(&host, &mut command(&["--help"]))?;
    help.says(0, &["--netns", "--timeout", "--json", "Exit status"]);
    Ok(())
}

/// On a terminal, which script(1) provides, the line is there after a second and gone at the end.
fn progress_is_for_terminals() -> Result {
    let script = need("script", "bsdutils")?;
    let topology = Topology::new(1)?;
    let line = format!("{} check {LINK} --timeout 2.2", program().display());
    let mut command = Command::new(script);
    command.args(["-qec", &line, "/dev/null"]);
    let checked = run_in(&topology.host, &mut command)?;
    checked.says(
        1,
        &[
            "\reth0: 1 s of at most 2 s, DISCOVERs: ",
            ", servers: 0\x1b[K",
            "\r\x1b[K",
        ],
    );
    let quick = format!("{} check {LINK} --timeout 0.5", program().display());
    let mut command = Command::new(need("script", "bsdutils")?);
    command.args(["-qec", &quick, "/dev/null"]);
    run_in(&topology.host, &mut command)?
        .says(1, &[])
        .says_nothing_of(&["\x1b[K"]);
    let plain = check(&topology, &["--timeout", "1.2"])?;
    assert_eq!(plain.errors, "", "no terminal");
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
