//! Bad input: an immediate answer that names the fault, nothing left behind, no effect on others.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use dhcproto::v4::MessageType;
use rustix::fs::Mode;
use smol_dhcp_proxy::rpc::{Call, Code, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Daemon;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::program::need;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::stage;

trials![
    each_bad_setup_is_answered_at_once,
    without_a_server_setup_ends_in_time,
    the_answer_says_how_far_it_got,
    garbage_harms_only_its_own_connection,
    teardown_of_the_unknown_succeeds,
    without_descriptors_nothing_is_left_behind,
    what_cannot_be_ended_before_a_setup_that_fails_is_ended_later,
];

const AT_ONCE: Duration = Duration::from_millis(30);

/// Spoils a good request for a row of the table.
type Spoil = Box<dyn Fn(&mut NetworkConfig)>;

/// Returns rows of the fault, the change that makes it, and words of the answer.
fn table() -> Result<Vec<(&'static str, Spoil, &'static str)>> {
    let folder = sandbox::folder("bad")?;
    let path = |name: &str| folder.join(name).display().to_string();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        folder.join("fifo"),
        Mode::RUSR | Mode::WUSR,
    )?;
    File::create(folder.join("file"))?;
    let _listener = UnixListener::bind(folder.join("socket"))?;
    symlink(folder.join("nowhere"), folder.join("dangling"))?;

    fn spoil(change: impl Fn(&mut NetworkConfig) + 'static) -> Spoil {
        Box::new(change)
    }
    fn mac(mac: &'static str) -> Spoil {
        spoil(move |config| config.container_mac_addr = mac.to_owned())
    }
    fn link(name: &'static str) -> Spoil {
        spoil(move |config| config.container_iface = name.to_owned())
    }
    fn ns_path(path: String) -> Spoil {
        spoil(move |config| config.ns_path = path.clone())
    }
    Ok(vec![
        (
            "an empty MAC",
            mac(""),
            "unable to parse mac address : cannot parse integer from empty string",
        ),
        ("a short MAC", mac("123"), "unable to parse mac address 123"),
        (
            "a MAC of five bytes",
            mac("02:88:00:00:00"),
            "02:88:00:00:00",
        ),
        (
            "a MAC of seven bytes",
            mac("02:88:00:00:00:01:02"),
            "02:88:00:00:00:01:02",
        ),
        (
            "a MAC that is no hexadecimal",
            mac("02:88:00:00:00:zz"),
            "unable to parse mac address",
        ),
        ("no interface in the container", link(""), "No such device"),
        (
            "an interface that the container lacks",
            link("eth7"),
            "No such device",
        ),
        (
            "an interface with another MAC",
            mac("02:99:00:00:00:01"),
            "02:88:00:00:00:01",
        ),
        (
            "an interface name too long",
            link("a123456789012345"),
            "a123456789012345",
        ),
        ("an interface name with a slash", link("a/b"), "a/b"),
        (
            "an interface name with a NUL",
            link("a\0b"),
            "No such device",
        ),
        (
            "an interface that the host lacks",
            spoil(|config| config.host_iface = "eth7".to_owned()),
            "No such device",
        ),
        ("IPv6", spoil(|config| config.version = 1), "ipv6"),
        (
            "IP of a version yet to come",
            spoil(|config| config.version = 7),
            "version",
        ),
        ("no namespace", ns_path(String::new()), "ns_path"),
        (
            "a namespace that is not there",
            ns_path(path("nowhere")),
            "nowhere",
        ),
        ("a dangling link", ns_path(path("dangling")), "dangling"),
        ("a FIFO as namespace", ns_path(path("fifo")), "fifo"),
        ("a file as namespace", ns_path(path("file")), "file"),
        (
            "a folder as namespace",
            ns_path(folder.display().to_string()),
            "bad",
        ),
        (
            "a device as namespace",
            ns_path("/dev/null".to_owned()),
            "/dev/null",
        ),
        ("a socket as namespace", ns_path(path("socket")), "socket"),
        (
            "a namespace's path with a NUL",
            ns_path("/proc/self\0/ns/net".to_owned()),
            "/proc/self",
        ),
        (
            "a namespace's path too long",
            ns_path(format!("/{}", "x".repeat(5000))),
            "xxx",
        ),
        ("the loopback", link("lo"), "00:00:00:00:00:00"),
        (
            "another kind of namespace",
            ns_path("/proc/self/ns/mnt".to_owned()),
            "another kind of namespace",
        ),
    ])
}

fn each_bad_setup_is_answered_at_once() -> Result {
    let stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // Once through everything, so that what is made on first use has been made.
    stage.setup(1)?;
    stage.teardown(1)?;
    let at_rest = stage.daemon.settled_descriptors()?;
    let (threads, heard) = (stage.daemon.status("Threads")?, server.heard().len());

    let mut faults = Vec::new();
    let table = table()?;
    for (what, spoil, words) in &table {
        let mut config = stage.config(0);
        spoil(&mut config);
        let ask = || {
            let start = rt::now();
            (
                grpc::setup(&stage.unit.socket(), &config),
                rt::now() - start,
            )
        };
        // Other trials run beside this one, and may have the processors now.
        let (answer, took) = (0..3)
            .map(|_| ask())
            .min_by_key(|(_, took)| *took)
            .expect("three of them");
        match answer {
            Ok(lease) => faults.push(format!("{what}: a lease: {lease:?}")),
            Err(status) if status.code != Code::InvalidArgument => {
                faults.push(format!("{what}: {:?}: {}", status.code, status.message));
            }
            Err(status) if !status.message.contains(*words) => {
                faults.push(format!(
                    "{what}: it does not say {words:?}: {}",
                    status.message
                ));
            }
            Err(_) if took > AT_ONCE => faults.push(format!("{what}: answered after {took:?}")),
            Err(_) => {}
        }
        let left = stage.daemon.settled_descriptors()?;
        if left != at_rest {
            faults.push(format!("{what}: descriptors are left: {left:?}"));
        }
        assert_eq!(stage.topology.containers[0].address()?, None, "{what}");
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );

    assert_eq!(stage.daemon.status("Threads")?, threads);
    assert_eq!(
        server.heard().len(),
        heard,
        "no server is asked for what cannot be"
    );
    let file: serde_json::Value = serde_json::from_slice(&fs::read(stage.unit.lease_file())?)?;
    assert_eq!(file, serde_json::json!({}));

    // And while bad calls of every kind go on and on, a good one is as fast as ever.
    let mut bad = table.iter().cycle().map(|(_, spoil, _)| {
        let mut config = stage.config(0);
        spoil(&mut config);
        config
    });
    let took = std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let start = rt::now();
            stage.setup(1).map(|_| rt::now() - start)
        });
        while !good.is_finished() {
            let _ = grpc::setup(
                &stage.unit.socket(),
                &bad.next().expect("it goes on for ever"),
            );
        }
        good.join().expect("no panic in Setup")
    })?;
    assert!(
        took < Duration::from_millis(300),
        "a good Setup took {took:?} among bad ones"
    );
    Ok(())
}

fn without_a_server_setup_ends_in_time() -> Result {
    let stage = stage(1, &["-t", "1.5"])?;
    let at_rest = stage.daemon.settled_descriptors()?;
    let start = rt::now();
    let status =
        grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("nobody gives leases here");
    let took = rt::now() - start;
    assert_eq!(status.code, Code::Aborted, "{}", status.message);
    assert!(
        status.message.to_lowercase().contains("offer"),
        "it should say how far it got: {}",
        status.message
    );
    assert!(
        took > Duration::from_millis(1400) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    assert_eq!(stage.topology.containers[0].address()?, None);
    // The alarm of the boot clock is made with the first exchange and stays.
    assert!(stage.daemon.settled_descriptors()?.len() <= at_rest.len() + 1);
    Ok(())
}

fn the_answer_says_how_far_it_got() -> Result {
    let stage = stage(1, &["-t", "4"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let ask =
        || grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("there is no ACK here");

    server.leave_unanswered(&[MessageType::Request]);
    let no_ack = ask();
    assert_eq!(no_ack.code, Code::Aborted, "{}", no_ack.message);
    assert!(
        no_ack.message.contains("10.88.1.1") && no_ack.message.contains("10.88.0.1"),
        "{}",
        no_ack.message
    );

    // The server thinks otherwise of its offer, and makes no other.
    let refused = std::thread::scope(|scope| -> Result<_> {
        let refused = scope.spawn(ask);
        let asked = server.heard_of(MessageType::Request).len();
        server.await_message(MessageType::Request, asked + 1, Duration::from_secs(5))?;
        server.forget();
        server.leave_unanswered(&[MessageType::Discover]);
        Ok(refused.join().expect("no panic in Setup"))
    })?;
    assert_eq!(refused.code, Code::NotFound, "{}", refused.message);
    assert!(
        refused.message.contains("no such lease"),
        "the server's words: {}",
        refused.message
    );
    assert_eq!(stage.topology.containers[0].address()?, None);
    Ok(())
}

fn garbage_harms_only_its_own_connection() -> Result {
    let stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let at_rest = stage.daemon.settled_descriptors()?;
    let mut good = grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;

    let noise: Vec<u8> = (0..100_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for bytes in [
        &noise[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0",
    ] {
        let mut stream = UnixStream::connect(stage.unit.socket())?;
        // It may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let long = NetworkConfig {
        container_id: "x".repeat(10 << 20),
        ..stage.config(0)
    };
    let refused =
        grpc::setup(&stage.unit.socket(), &long).expect_err("ten megabytes are no container's id");
    assert!(
        matches!(refused.code, Code::ResourceExhausted | Code::Unavailable),
        "{refused:?}"
    );

    good.call(&Call::Setup(stage.config(0)))
        .map_err(|status| status.message)?;
    good.call(&Call::Teardown(stage.config(0)))
        .map_err(|status| status.message)?;
    drop(good);
    // The alarm of the boot clock is made with the first exchange and stays.
    let left = stage.daemon.settled_descriptors()?;
    assert!(left.len() <= at_rest.len() + 1, "{left:?}");
    Ok(())
}

fn teardown_of_the_unknown_succeeds() -> Result {
    let mut stage = stage(1, &[])?;
    let blank = stage.teardown(0)?;
    assert_eq!((blank.yiaddr.as_str(), blank.lease_time), ("", 0));

    // The same where the namespace has gone before.
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    let config = NetworkConfig {
        container_id: String::new(),
        host_iface: String::new(),
        ..stage.config(0)
    };
    stage.topology.containers.clear();
    grpc::teardown(&stage.unit.socket(), &config).map_err(|status| status.message)?;
    let file: serde_json::Value = serde_json::from_slice(&fs::read(stage.unit.lease_file())?)?;
    assert_eq!(file, serde_json::json!({}));
    Ok(())
}

/// From now on the numbers of descriptors that it opens are below the limit.
fn limit(daemon: &Daemon, descriptors: u64) -> Result {
    let status = Command::new(need("prlimit", "util-linux")?)
        .args([
            "--pid",
            &daemon.id().to_string(),
            &format!("--nofile={descriptors}:"),
        ])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("prlimit: {status}").into())
    }
}

/// The numbers of the next descriptors, where these are open.
fn free(names: &[String]) -> impl Iterator<Item = u64> {
    let numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.split(' ').next()?.parse().ok())
        .collect();
    (0..).filter(move |number| !numbers.contains(number))
}

/// The limit lies behind each descriptor that a Setup opens, one after the other: it is refused,
/// and leaves nothing, until it has all that it needs.
fn without_descriptors_nothing_is_left_behind() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // What is made on first use has been made.
    stage.setup(0)?;
    stage.teardown(0)?;
    let at_rest = stage.daemon.settled_descriptors()?;
    // The lowest free one is for the call's own connection.
    let lowest = free(&at_rest).next().ok_or("no free number")?;
    let mut refusals = Vec::new();
    for extra in 1..30 {
        limit(&stage.daemon, lowest + extra)?;
        let answer = grpc::setup(&stage.unit.socket(), &stage.config(0));
        limit(&stage.daemon, 1024)?;
        match answer {
            Ok(_) => {
                stage.teardown(0)?;
                break;
            }
            Err(refused) => {
                assert!(
                    refused.message.contains("Too many open files"),
                    "{refused:?}"
                );
                assert_eq!(refused.code, Code::Internal, "{refused:?}");
                refusals.push(refused.message);
            }
        }
        assert_eq!(container.address()?, None, "after {refusals:?}");
        assert_eq!(
            stage.unit.leases()?,
            serde_json::json!({}),
            "after {refusals:?}"
        );
        eventually(
            "the server has its address back",
            Duration::from_secs(5),
            || Ok(server.lease_of(container.mac).is_none().then_some(())),
        )?;
        stage.daemon.await_descriptors(&at_rest)?;
    }
    // One of them comes after the ACK: the lease is released.
    assert!(
        refusals.iter().any(|refused| refused.contains("port 68")) && refusals.len() > 7,
        "{refusals:?}"
    );
    stage.setup(0)?;
    stage.teardown(0).map(drop)
}

/// Another container in the place of one whose lease can be released, but not removed from the
/// link: it gets no lease, and the old one is not forgotten over it.
fn what_cannot_be_ended_before_a_setup_that_fails_is_ended_later() -> Result {
    let stage = stage(1, &["-t", "1"])?;
    let container = &stage.topology.containers[0];
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    container.namespace.await_rest()?;
    server.leave_unanswered(&[MessageType::Discover]);
    // Behind the connection, as many as to open the sockets of an exchange, and one less than to
    // look at the link besides.
    let eighth = free(&stage.daemon.settled_descriptors()?).nth(7);
    limit(&stage.daemon, eighth.ok_or("no free number")? + 1)?;
    let another = NetworkConfig {
        container_id: "c0de".repeat(16),
        ..stage.config(0)
    };
    let refused = grpc::setup(&stage.unit.socket(), &another).expect_err("nobody answers");
    limit(&stage.daemon, 1024)?;
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    assert!(
        stage.unit.log()?.contains("cannot end the lease"),
        "it could be ended: the limit is of no use"
    );
    server.await_message(MessageType::Release, 1, Duration::from_secs(1))?;
    assert!(container.address()?.is_some());
    let entry = &stage.unit.leases()?[container.mac.to_string()][0];
    assert_eq!(entry["state"], "ENDING", "{entry}");

    let asked = server.heard_of(MessageType::Discover).len();
    eventually("it is tried again", Duration::from_secs(35), || {
        Ok((stage.unit.leases()? == serde_json::json!({})).then_some(()))
    })?;
    assert_eq!(container.address()?, None);
    assert_eq!(container.namespace.default_routes()?, []);
    assert_eq!(
        server.heard_of(MessageType::Discover).len(),
        asked,
        "nobody waits for a lease any more"
    );
    Ok(())
}
