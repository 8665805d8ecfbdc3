//! The operator's commands that speak to the daemon: `renew`, `release`, `setup` and `teardown`.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use smol_dhcp_proxy::rpc::{Call, LeaseSelection, NetavarkLease, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::forwarder;
use crate::lab::program::need;
use crate::lab::real_server::{Kind, Plan, RealServer};
use crate::lab::scene;
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER_LINK, Topology};
use crate::lab::{Result, Skip, eventually, grpc, peer, sandbox};
use crate::{program, stage};

trials![
    all_leases_are_renewed_by_unicast,
    one_lease_is_renewed_by_each_of_its_names,
    a_daemon_that_sleeps_is_started_to_renew,
    a_silent_server_is_the_outcome_and_costs_no_lease,
    a_missing_carrier_and_a_vanished_container_are_told_apart,
    another_address_is_the_outcome,
    a_container_without_a_lease_is_searched_one_at_once,
    a_lease_that_a_setup_works_on_is_left_to_it,
    a_caller_that_hangs_up_stops_no_renewal,
    a_daemon_that_is_stopped_says_so,
    a_release_is_heard_by_dnsmasq_and_clears_the_link,
    without_a_terminal_a_release_needs_yes,
    other_users_are_refused,
    netavarks_proxy_is_told_from_ours,
    an_absent_daemon_is_reported_with_what_to_do,
    a_damaged_state_file_is_no_reason_to_guess,
    a_setup_by_hand_is_that_of_netavarks_client,
    a_setup_that_fails_says_why,
];

const SOON: Duration = Duration::from_secs(5);

/// Returns a command line of the program for the daemon of a stage.
fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .arg("--dir")
        .arg(directory)
        .stdin(Stdio::null());
    command
}

/// The end of a command.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    output: String,
    errors: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code(),
            output: text(&output.stdout),
            errors: text(&output.stderr),
        }
    }
}

impl Ended {
    /// Fails unless the exit status is that, and the output or the error has each of the words.
    #[track_caller]
    fn expect(self, status: i32, words: &[&str]) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        for word in words {
            let is_there = self.output.contains(word) || self.errors.contains(word);
            assert!(is_there, "{word:?} is not in {self:?}");
        }
        self
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.output)?)
    }
}

fn directory(stage: &Stage) -> PathBuf {
    let socket = stage.unit.socket();
    socket.parent().map(Path::to_owned).unwrap_or_default()
}

/// Runs a command to its end.
fn run(stage: &Stage, arguments: &[&str]) -> Result<Ended> {
    Ok(command(&directory(stage), arguments).output()?.into())
}

/// Starts a command.
fn start(stage: &Stage, arguments: &[&str]) -> Result<Child> {
    Ok(command(&directory(stage), arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Sets up all containers, and waits until their leases are at rest.
fn set_up(stage: &Stage) -> Result {
    for container in 0..stage.topology.containers.len() {
        stage.setup(container)?;
    }
    for container in &stage.topology.containers {
        container.namespace.await_rest()?;
    }
    Ok(())
}

fn address(stage: &Stage, container: usize) -> Result<Ipv4Addr> {
    let address = stage.topology.containers[container].address()?;
    Ok(address.ok_or("the container has no address")?.address)
}

/// The end of a container's lease in the state file: milliseconds on the boot clock.
fn renew_at(stage: &Stage, container: usize) -> Result<u64> {
    let leases = stage.unit.leases()?;
    let lease = &leases[stage.config(container).container_mac_addr][0];
    Ok(lease["renew_at"].as_u64().ok_or("no lease in the file")?)
}

/// Starts the server of the lab, and a stage with so many containers that have leases.
fn leased(containers: u16, settings: Settings) -> Result<(Stage, Server)> {
    let stage = stage(containers, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    set_up(&stage)?;
    Ok((stage, server))
}

fn all_leases_are_renewed_by_unicast() -> Result {
    let (stage, server) = leased(3, Settings::default())?;
    let before = server.heard().len();
    let addresses = [
        address(&stage, 0)?,
        address(&stage, 1)?,
        address(&stage, 2)?,
    ];
    let times = [
        renew_at(&stage, 0)?,
        renew_at(&stage, 1)?,
        renew_at(&stage, 2)?,
    ];
    let ended = run(&stage, &["renew", "--all"])?.expect(0, &["CONTAINER", "RESULT"]);
    assert_eq!(ended.output.matches("renewed").count(), 3, "{ended:?}");
    let heard: Vec<_> = server.heard().into_iter().skip(before).collect();
    assert_eq!(heard.len(), 3, "{heard:?}");
    for (container, address_before) in addresses.into_iter().enumerate() {
        assert!(
            ended.output.contains(&address_before.to_string()),
            "{ended:?}"
        );
        assert_eq!(address(&stage, container)?, address_before);
        let mut requests = heard
            .iter()
            .filter(|heard| heard.message.ciaddr() == address_before);
        let request = requests.next().ok_or("no REQUEST for the address")?;
        assert!(
            request.kind == MessageType::Request && request.is_unicast(),
            "{request:?}"
        );
        // Written within a second.
        eventually("T1 has moved", SOON, || {
            Ok((renew_at(&stage, container)? > times[container]).then_some(()))
        })?;
    }
    Ok(())
}

fn one_lease_is_renewed_by_each_of_its_names() -> Result {
    let (stage, server) = leased(2, Settings::default())?;
    let config = stage.config(1);
    let address = address(&stage, 1)?.to_string();
    let names = [
        config.container_mac_addr.to_uppercase(),
        address.clone(),
        config.container_id.clone(),
        config.ns_path,
    ];
    for name in &names {
        let before = server.heard().len();
        let ended = run(&stage, &["renew", name, "--json"])?
            .expect(0, &[])
            .json()?;
        assert_eq!(ended["version"], 1);
        assert_eq!(ended["leases"].as_array().map(Vec::len), Some(1), "{ended}");
        let lease = &ended["leases"][0];
        let expected = json!({
            "container_id": config.container_id, "container_name": null, "interface": LINK,
            "namespace": names[3], "mac": config.container_mac_addr,
            "address_before": address, "address_after": address, "result": "renewed", "reason": null,
        });
        assert_eq!(*lease, expected);
        assert_eq!(server.heard().len(), before + 1);
    }
    run(&stage, &["renew", "10.1.2.3"])?.expect(1, &["no lease is of \"10.1.2.3\""]);
    run(&stage, &["renew"])?.expect(2, &["--all"]);
    run(&stage, &["renew", "--all", "web"])?.expect(2, &["--all"]);
    run(&stage, &["renew", "--all", "--yes"])?.expect(2, &["--yes"]);
    run(&stage, &["renew", "--help"])?.expect(0, &["Usage: smol-dhcp-proxy renew"]);
    run(&stage, &["release", "-h"])?.expect(0, &["Usage: smol-dhcp-proxy release"]);
    Ok(())
}

fn a_daemon_that_sleeps_is_started_to_renew() -> Result {
    let (mut stage, server) = leased(2, Settings::default())?;
    stage.daemon.signal(Signal::SIGTERM)?;
    assert!(stage.daemon.await_exit(SOON)?.success());
    let before = server.heard().len();
    let (at, mac) = (renew_at(&stage, 0)?, stage.config(0).container_mac_addr);
    let renewing = start(&stage, &["renew", &mac])?;
    stage.unit.await_connection(SOON)?;
    stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    Ended::from(renewing.wait_with_output()?).expect(0, &["renewed"]);
    let heard: Vec<_> = server.heard().into_iter().skip(before).collect();
    assert!(heard.len() == 1 && heard[0].is_unicast(), "{heard:?}");
    eventually("T1 has moved", SOON, || {
        Ok((renew_at(&stage, 0)? > at).then_some(()))
    })
}

fn a_silent_server_is_the_outcome_and_costs_no_lease() -> Result {
    let (stage, server) = leased(2, Settings::default())?;
    let address = address(&stage, 0)?;
    let t1 = [renew_at(&stage, 0)?, renew_at(&stage, 1)?];
    server.set_silent(true);
    let start = rt::now();
    let silent = "failed: its DHCP server did not answer a renewal";
    let ended = run(&stage, &["renew", "--all"])?.expect(1, &[silent]);
    assert_eq!(ended.output.matches(silent).count(), 2, "{ended:?}");
    assert!(
        rt::now() - start < Duration::from_secs(15),
        "{:?}",
        rt::now() - start
    );
    assert_eq!(
        stage.topology.containers[0].address()?.map(|it| it.address),
        Some(address)
    );
    // The lease waits for T1 as before, and is healthy.
    let mac = stage.config(0).container_mac_addr;
    eventually("the file has the trouble", SOON, || {
        let trouble = &stage.unit.leases()?[&mac][0]["last_trouble"];
        Ok((!trouble.is_null()).then_some(()))
    })?;
    assert_eq!(stage.unit.leases()?[&mac][0]["state"], "BOUND");
    assert_eq!([renew_at(&stage, 0)?, renew_at(&stage, 1)?], t1);
    run(&stage, &["status"])?.expect(0, &[]);
    // The daemon spares a silent server; the operator's word counts for more.
    server.set_silent(false);
    run(&stage, &["renew", "--all"])?.expect(0, &["renewed"]);
    Ok(())
}

fn a_missing_carrier_and_a_vanished_container_are_told_apart() -> Result {
    let (mut stage, server) = leased(2, Settings::default())?;
    let mac = stage.config(1).container_mac_addr;
    stage.topology.containers[1].namespace.delete_link(LINK)?;
    let gone = "failed: its container or its interface is gone";
    run(&stage, &["renew", &mac])?.expect(1, &[gone]);
    stage.topology.containers.pop();
    stage.topology.host.set_state(LINK, false)?;
    let before = server.heard().len();
    let silent = "failed: the interface has no carrier";
    run(&stage, &["renew", "--all"])?.expect(1, &[silent]);
    // The renewal is made up for as soon as there is one.
    stage.topology.host.set_state(LINK, true)?;
    run(&stage, &["renew", "--all"])?.expect(0, &["renewed"]);
    assert_eq!(server.heard().len(), before + 1);
    Ok(())
}

fn another_address_is_the_outcome() -> Result {
    let (stage, server) = leased(1, Settings::default())?;
    let before = address(&stage, 0)?;
    // It refuses the old address, and gives out others.
    server.change(|settings| settings.first = Ipv4Addr::new(10, 88, 7, 7));
    server.forget();
    let ended = run(&stage, &["renew", "--all"])?.expect(0, &["a new address"]);
    let after = address(&stage, 0)?;
    assert_ne!(before, after);
    ended.expect(0, &[&format!("{before} -> {after}")]);
    // Another router for the same address.
    server.change(|settings| settings.router = Some(Ipv4Addr::new(10, 88, 0, 9)));
    run(&stage, &["renew", "--all"])?.expect(0, &["renewed, with other settings"]);
    Ok(())
}

fn a_container_without_a_lease_is_searched_one_at_once() -> Result {
    let settings = Settings {
        lease: Duration::from_secs(4),
        ..Settings::default()
    };
    let (stage, server) = leased(1, settings)?;
    let (address, mac) = (address(&stage, 0)?, stage.config(0).container_mac_addr);
    server.set_silent(true);
    eventually("the lease expires", Duration::from_secs(20), || {
        let leases = stage.unit.leases()?;
        Ok((leases[&mac][0]["state"] == "INIT").then_some(()))
    })?;
    let nothing = "failed: there is no lease; a DHCP server is being looked for";
    run(&stage, &["renew", &mac])?.expect(1, &[nothing]);
    server.change(|settings| settings.lease = Duration::from_secs(3600));
    server.set_silent(false);
    let found = run(&stage, &["renew", &mac, "--json"])?
        .expect(0, &[])
        .json()?;
    let lease = &found["leases"][0];
    assert_eq!(lease["result"], "new address", "{found}");
    assert_eq!(
        (&lease["address_before"], &lease["address_after"]),
        (&Value::Null, &json!(address))
    );
    Ok(())
}

fn a_lease_that_a_setup_works_on_is_left_to_it() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    server.set_silent(true);
    thread::scope(|scope| -> Result {
        let setup = scope.spawn(|| stage.setup(0));
        server.await_message(MessageType::Discover, 1, SOON)?;
        let busy = "a Setup of the container is under way; try again later";
        run(&stage, &["renew", "--all"])?.expect(1, &[busy]);
        run(&stage, &["release", "--all", "--yes"])?.expect(1, &[busy]);
        server.set_silent(false);
        setup.join().expect("no panic in Setup").map(drop)
    })?;
    assert!(stage.topology.containers[0].address()?.is_some());
    Ok(())
}

fn a_caller_that_hangs_up_stops_no_renewal() -> Result {
    let path = forwarder::Path {
        delay: Duration::from_millis(300),
        ..forwarder::Path::default()
    };
    let start = |topology| Stage::new(topology, program(), &[]);
    let scene = scene::behind(start, Some(path), 1, Settings::default())?;
    set_up(&scene.stage)?;
    let (at, requests) = (
        renew_at(&scene.stage, 0)?,
        scene.server.heard_of(MessageType::Request).len(),
    );
    let socket = scene.stage.unit.socket();
    let mut channel = grpc::Channel::connect(&socket).map_err(|status| status.message)?;
    let renew = Call::Renew(LeaseSelection {
        all: true,
        ..LeaseSelection::default()
    });
    let pending = channel.begin(&renew).map_err(|status| status.message)?;
    scene
        .server
        .await_message(MessageType::Request, requests + 1, SOON)?;
    // The answer is on its way for as long again.
    drop((pending, channel));
    eventually("the lease is renewed all the same", SOON, || {
        Ok((renew_at(&scene.stage, 0)? > at).then_some(()))
    })
}

fn a_daemon_that_is_stopped_says_so() -> Result {
    let (mut stage, server) = leased(1, Settings::default())?;
    server.set_silent(true);
    let requests = server.heard_of(MessageType::Request).len();
    let renewing = start(&stage, &["renew", "--all"])?;
    server.await_message(MessageType::Request, requests + 1, SOON)?;
    stage.daemon.signal(Signal::SIGTERM)?;
    let stopped = "the daemon is being stopped; call again";
    Ended::from(renewing.wait_with_output()?).expect(1, &[stopped]);
    assert!(stage.daemon.await_exit(SOON)?.success());
    // The next one finds the renewal due.
    server.set_silent(false);
    stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    server
        .await_message(MessageType::Request, requests + 2, SOON)
        .map(drop)
}

fn a_release_is_heard_by_dnsmasq_and_clears_the_link() -> Result {
    let stage = stage(3, &[])?;
    let dnsmasq = RealServer::start(
        Kind::Dnsmasq,
        &stage.topology.server,
        SERVER_LINK,
        &Plan::default(),
    )?;
    set_up(&stage)?;
    let (first, second) = (address(&stage, 0)?, address(&stage, 1)?);
    for address in [first, second] {
        dnsmasq.await_listed(address, true)?;
    }
    let word = first.to_string();
    let ended = run(&stage, &["release", &word, "--yes", "--json"])?
        .expect(0, &[])
        .json()?;
    let lease = &ended["leases"][0];
    assert_eq!(lease["result"], "released", "{ended}");
    assert_eq!(
        (&lease["address_before"], &lease["address_after"]),
        (&json!(first), &Value::Null)
    );
    dnsmasq.await_listed(first, false)?;
    assert!(dnsmasq.lists(second)?);
    assert_eq!(stage.topology.containers[0].address()?, None);
    assert!(stage.unit.leases()?[stage.config(0).container_mac_addr].is_null());
    run(&stage, &["release", &word, "-y"])?.expect(1, &["no lease is of"]);
    // A server that cannot be told costs the container nothing: the address goes all the same.
    stage.topology.containers[2]
        .namespace
        .set_state(LINK, false)?;
    let ended = run(&stage, &["release", "--all", "-y"])?
        .expect(1, &["taken off, and left to expire: the interface is down"]);
    assert_eq!(ended.output.matches("given back").count(), 1, "{ended:?}");
    dnsmasq.await_listed(second, false)?;
    for container in &stage.topology.containers {
        assert_eq!(container.address()?, None);
    }
    assert_eq!(stage.unit.leases()?, json!({}));
    run(&stage, &["release", "--all"])?.expect(0, &["there are no leases"]);
    Ok(())
}

/// Runs a command on a terminal of its own, where `answer` is typed.
fn on_terminal(stage: &Stage, arguments: &str, answer: &str) -> Result<Ended> {
    let (program, directory) = (program().display(), directory(stage));
    let line = format!("{program} {arguments} --dir {}", directory.display());
    let mut child = Command::new(need("script", "bsdutils")?)
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().ok_or("no standard input")?;
    writeln!(input, "{answer}")?;
    let ended = child.wait_with_output()?.into();
    drop(input);
    Ok(ended)
}

fn without_a_terminal_a_release_needs_yes() -> Result {
    let (stage, server) = leased(2, Settings::default())?;
    let refused = run(&stage, &["release", "--all"])?;
    refused.expect(2, &["without a terminal to ask on, release needs --yes"]);
    let answer = |answer| on_terminal(&stage, "release --all", answer);
    for no in ["", "n", "yesterday"] {
        let asked = answer(no)?.expect(1, &["Give back 2 leases? [y/N]", "nothing was given back"]);
        asked.expect(1, &[&address(&stage, 1)?.to_string()]);
    }
    assert_eq!(server.heard_of(MessageType::Release).len(), 0);
    answer("y")?.expect(0, &["given back"]);
    server
        .await_message(MessageType::Release, 2, SOON)
        .map(drop)
}

fn other_users_are_refused() -> Result {
    let (stage, _server) = leased(1, Settings::default())?;
    // The mode of the socket lets everyone in, and nobody may run the program.
    let folder = sandbox::folder("other")?;
    let copy = folder.join("smol-dhcp-proxy");
    fs::copy(program(), &copy)?;
    fs::set_permissions(stage.unit.socket(), fs::Permissions::from_mode(0o666))?;
    let as_other = |arguments: &[&str]| -> Result<Ended> {
        let mut other = Command::new(&copy);
        other.args(arguments).arg("--dir").arg(directory(&stage));
        other.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        let ended = other.output().map_err(|error| {
            Skip::Impossible(format!(
                "this user cannot run a program as another: {error}"
            ))
        })?;
        Ok(ended.into())
    };
    let words = format!("the caller is user {NOBODY}: run it as root");
    as_other(&["renew", "--all"])?.expect(3, &["only root and the daemon's user", &words]);
    let config = NetworkConfig {
        container_mac_addr: "02:00:00:00:00:99".to_owned(),
        ..NetworkConfig::default()
    };
    let file = folder.join("request");
    fs::write(&file, request(&config).to_string())?;
    let file = file.display().to_string();
    // Nor may it look into the namespace, or read a file of root's.
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode));
    set_mode(0o600)?;
    for request in [&["--netns", &stage.config(0).ns_path][..], &[&file]] {
        as_other(&[&["setup"], request].concat())?.expect(3, &["run it as root"]);
    }
    // netavark's service is as open as before.
    set_mode(0o644)?;
    as_other(&["teardown", &file])?.expect(0, &["there was no lease"]);
    Ok(())
}

/// The user nobody, and its group.
const NOBODY: u32 = 65534;

fn netavarks_proxy_is_told_from_ours() -> Result {
    let stage = peer::stage(Topology::new(1)?, 3)?;
    let peers = [
        "cannot do that: it is netavark's own proxy",
        "smol-dhcp-proxy doctor",
    ];
    run(&stage, &["renew", "--all"])?.expect(1, &peers);
    run(&stage, &["release", "--all", "--yes"])?.expect(1, &peers);
    // What both can do works with both.
    let config = stage.config(0);
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    run(&stage, &by_arguments(&config))?.expect(0, &["\"yiaddr\": \"10.88.1.1\""]);
    drop(server);
    Ok(())
}

fn an_absent_daemon_is_reported_with_what_to_do() -> Result {
    let folder = sandbox::folder("absent")?;
    let commands = [
        &["renew", "--all"][..],
        &["release", "--all", "--yes"],
        &[
            "setup",
            "--netns",
            "/proc/self/ns/net",
            "--mac",
            "02:00:00:00:00:01",
        ],
        &[
            "teardown",
            "--netns",
            "/proc/self/ns/net",
            "--mac",
            "02:00:00:00:00:01",
        ],
    ];
    let try_all = |words: &[&str]| -> Result {
        for arguments in commands {
            Ended::from(command(&folder, arguments).output()?).expect(1, words);
        }
        Ok(())
    };
    let socket = folder.join("nv-proxy.sock");
    let name = socket.display().to_string();
    try_all(&["there is no socket", &name, "start smol-dhcp-proxy"])?;
    drop(UnixListener::bind(&socket)?);
    try_all(&["no process listens on", &name, "start smol-dhcp-proxy"])?;
    let renewed = Ended::from(command(&folder, &["renew", "web"]).output()?);
    renewed.expect(1, &["there is no state file in"]);
    // One that hangs up without a word.
    fs::remove_file(&socket)?;
    let listener = UnixListener::bind(&socket)?;
    thread::scope(|scope| {
        scope.spawn(|| commands.iter().for_each(|_| drop(listener.accept())));
        try_all(&["the daemon has ended the connection without an answer"])
    })
}

fn a_damaged_state_file_is_no_reason_to_guess() -> Result {
    let (stage, server) = leased(2, Settings::default())?;
    let file = stage.unit.state_file();
    let whole = fs::read(&file)?;
    let mac = stage.config(1).container_mac_addr;
    // Cut within the second lease.
    fs::write(&file, &whole[..whole.len() - 40])?;
    run(&stage, &["renew", &mac])?.expect(3, &["it is damaged", "--all asks the daemon"]);
    let first = stage.config(0).container_mac_addr;
    run(&stage, &["renew", &first])?.expect(0, &["renewed"]);
    fs::write(&file, "{")?;
    run(&stage, &["release", &mac, "--yes"])?.expect(3, &["it is damaged"]);
    let before = server.heard().len();
    let all = run(&stage, &["renew", "--all"])?.expect(0, &["renewed"]);
    assert_eq!(all.output.matches("renewed").count(), 2, "{all:?}");
    assert_eq!(server.heard().len(), before + 2);
    Ok(())
}

/// netavark's request in JSON.
fn request(config: &NetworkConfig) -> Value {
    json!({
        "host_iface": config.host_iface, "container_iface": config.container_iface,
        "container_mac_addr": config.container_mac_addr, "domain_name": config.domain_name,
        "host_name": config.host_name, "version": config.version, "ns_path": config.ns_path,
        "container_id": config.container_id,
    })
}

/// Arguments that say what is in a request, without the MAC.
fn by_arguments(config: &NetworkConfig) -> [&str; 14] {
    [
        "setup",
        "--json",
        "--netns",
        &config.ns_path,
        "--interface",
        &config.container_iface,
        "--parent",
        &config.host_iface,
        "--container-id",
        &config.container_id,
        "--hostname",
        &config.host_name,
        "--domain",
        "my.example",
    ]
}

fn a_setup_by_hand_is_that_of_netavarks_client() -> Result {
    let client = peer::netavark()?.with_file_name("netavark-dhcp-proxy-client");
    let (stage, server) = (stage(1, &[])?, Settings::default());
    let server = Server::start(
        &stage.topology.server,
        SERVER_LINK,
        Settings {
            domain: Some("lab.example".to_owned()),
            ..server
        },
    )?;
    let mut config = stage.config(0);
    config.domain_name = "my.example".to_owned();
    let file = sandbox::folder("request")?.join("request.json");
    let name = file.display().to_string();
    fs::write(&file, request(&config).to_string())?;
    let theirs = |what: &str| -> Result<Value> {
        let output = Command::new(&client)
            .arg("--uds")
            .arg(stage.unit.socket())
            .args(["-f", &name, what])
            .output()?;
        let ended = Ended::from(output).expect(0, &[]);
        ended.json()
    };
    let (expected, gone) = (theirs("setup")?, theirs("teardown")?);
    let container = &stage.topology.containers[0];
    let lease = address_of(&expected);
    // By a file, by standard input, and by arguments.
    let from_file = |what| run(&stage, &[what, &name, "--json"]);
    let from_input = |what| -> Result<Ended> {
        let mut command = command(&directory(&stage), &[what, "-", "--json"]);
        Ok(command.stdin(File::open(&file)?).output()?.into())
    };
    let from_arguments = |what| {
        let mut arguments = by_arguments(&config);
        arguments[0] = what;
        run(&stage, &arguments)
    };
    let ways: [&dyn Fn(&'static str) -> Result<Ended>; 3] =
        [&from_file, &from_input, &from_arguments];
    for way in ways {
        assert_eq!(way("setup")?.expect(0, &[]).json()?, expected);
        assert_eq!(
            container.address()?.map(|it| it.address.to_string()),
            Some(lease.clone())
        );
        assert_eq!(way("teardown")?.expect(0, &[]).json()?, gone);
        assert_eq!(container.address()?, None);
    }
    // For people.
    let address = format!("address:         {lease}/16");
    run(&stage, &["setup", &name])?
        .expect(0, &[&address, "router:          10.88.0.1", "my.example"]);
    run(&stage, &["teardown", &name])?.expect(0, &[&format!("gave {lease} back")]);
    run(&stage, &["teardown", &name])?.expect(0, &["there was no lease"]);
    assert_eq!(server.lease_of(container.mac), None);
    Ok(())
}

fn address_of(lease: &Value) -> String {
    lease["yiaddr"].as_str().unwrap_or_default().to_owned()
}

fn a_setup_that_fails_says_why() -> Result {
    let stage = stage(1, &["-t", "1"])?;
    let config = stage.config(0);
    run(&stage, &by_arguments(&config))?.expect(1, &["no DHCPOFFER within 1 s"]);
    run(&stage, &["setup"])?.expect(2, &["--netns"]);
    run(&stage, &["setup", "x.json", "--mac", "02:00:00:00:00:01"])?.expect(2, &["FILE"]);
    run(&stage, &["setup", "--vlan", "3"])?.expect(2, &["--vlan"]);
    run(&stage, &["setup", "/nowhere/x.json"])?.expect(1, &["/nowhere/x.json: No such file"]);
    run(
        &stage,
        &["setup", "--netns", &config.ns_path, "--interface", "eth7"],
    )?
    .expect(1, &["cannot read the MAC of eth7", "--mac"]);
    run(&stage, &["setup", "--netns", "/etc/passwd"])?
        .expect(1, &["not a network namespace", "--mac"]);
    run(
        &stage,
        &["setup", "--netns", &config.ns_path, "--parent", "eth7"],
    )?
    .expect(1, &["No such device"]);
    run(&stage, &["teardown", "--help"])?.expect(0, &["Usage: smol-dhcp-proxy teardown"]);
    let lease = NetavarkLease::default();
    let none = run(&stage, &["teardown", "--netns", &config.ns_path, "--json"])?;
    assert_eq!(none.expect(0, &[]).json()?, serde_json::to_value(lease)?);
    Ok(())
}
