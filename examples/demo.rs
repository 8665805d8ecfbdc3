//! The main job, for real, on one machine: `cargo run --release --example demo`.
//!
//! It needs Rust and Linux, as root or as a user who may make user namespaces, and no other
//! program. It makes a host, a container and a DHCP server in network namespaces of their own,
//! starts the release binary as systemd would, and asks it for a lease as netavark would. Each line
//! with a check mark has been checked, and the first check that fails ends the demo with exit code
//! 1.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo is to be seen"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::NetworkConfig;
use smol_dhcp_proxy::rt;

use lab::daemon::Unit;
use lab::dhcp_server::{Heard, Server, Settings};
use lab::sandbox::Sandbox;
use lab::topology::{LINK, SERVER, SERVER_LINK, Topology};
use lab::{Result, eventually, grpc};

const SOON: Duration = Duration::from_secs(5);
/// The server asks for a renewal after this long.
const T1: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(60);
/// The daemon leaves after this many idle seconds.
const IDLE: &str = "2";

fn main() -> ExitCode {
    // Namespaces first: a user namespace is for a process with one thread.
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("The demo cannot run here: {error}.");
            return ExitCode::FAILURE;
        }
    };
    let result = release_binary().and_then(|program| run(&program));
    let code = match &result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n  ✗ {error}\n\n{}", lab::sandbox::take_evidence());
            ExitCode::FAILURE
        }
    };
    drop(sandbox);
    code
}

/// The release binary, built now if it is not up to date.
fn release_binary() -> Result<PathBuf> {
    title("The program");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // This example lies in TARGET/PROFILE/examples.
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(3)
        .ok_or("the example is not in a target folder")?;
    // In here is no network; whatever the demo was built from is on this machine already.
    build
        .args([
            "build",
            "--quiet",
            "--offline",
            "--release",
            "--bin",
            "smol-dhcp-proxy",
            "--target-dir",
        ])
        .arg(target);
    build
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    waiting("cargo build --release (about a minute the first time)");
    let status = build.status()?;
    check(status.success(), format!("cargo build --release: {status}"))?;
    let program = target.join("release/smol-dhcp-proxy");
    let size = fs::metadata(&program)
        .map_err(|error| format!("{}: {error}", program.display()))?
        .len();
    done(format!("{}, {} kB", program.display(), size / 1000));
    Ok(program)
}

fn run(program: &Path) -> Result {
    title("A host, a container, a DHCP server: a network namespace each");
    let topology = Topology::new(1)?;
    let container = &topology.containers[0];
    let settings = Settings {
        lease: LEASE,
        t1: Some(T1),
        ..Settings::default()
    };
    let server = Server::start(&topology.server, SERVER_LINK, settings)?;
    check(
        container.address()?.is_none(),
        "the container has an address already",
    )?;
    done(format!(
        "container {LINK} (macvlan, {}) - host {LINK} - server {SERVER_LINK} ({SERVER})",
        container.mac
    ));

    title("Socket activation");
    let unit = Unit::new(program, &["-a", IDLE, "--sandbox", "auto"])?;
    done(format!(
        "this process holds {}, as systemd would; nothing runs yet",
        unit.socket().display()
    ));
    let config = container.config();
    let mut daemon = None;
    let lease = std::thread::scope(|scope| -> Result<_> {
        let call = scope.spawn(|| grpc::setup(&unit.socket(), &config));
        unit.await_connection(SOON)?;
        done("somebody connects: the daemon is started with the socket as descriptor 3");
        daemon = Some(unit.start(&topology.host)?);
        let lease = call.join().map_err(|_| "the caller panicked")?;
        Ok(lease.map_err(|status| format!("Setup: {:?}: {}", status.code, status.message))?)
    })?;
    let mut daemon = daemon.ok_or("the daemon was not started")?;

    title("Setup, as netavark calls it");
    let kinds = server.heard_kinds();
    check(
        kinds == [MessageType::Discover, MessageType::Request],
        format!("the server heard {kinds:?}"),
    )?;
    done(format!("the server heard {}", words(&kinds)));
    let given = server
        .lease_of(container.mac)
        .ok_or("the server knows of no lease")?;
    check(
        given.to_string() == lease.yiaddr,
        format!("the server gave {given}, the reply says {}", lease.yiaddr),
    )?;
    done(format!(
        "lease: {} mask {}, gateway {}, DNS {}, domain {}, {} s",
        lease.yiaddr,
        lease.subnet_mask,
        lease.gateways.join(" "),
        lease.dns_servers.join(" "),
        lease.domain_name,
        lease.lease_time
    ));
    let address = container.address()?.ok_or("the container has no address")?;
    let as_leased =
        address.address.to_string() == lease.yiaddr && u64::from(address.valid) <= LEASE.as_secs();
    check(as_leased, format!("the container has {address:?}"))?;
    done(format!(
        "in the container: {}/{} on {LINK}, gone by itself in {} s",
        address.address, address.prefix, address.valid
    ));
    let routes = container.namespace.default_routes()?;
    let [route] = &routes[..] else {
        return Err(format!("the default routes are {routes:?}").into());
    };
    check(
        route.gateway.map(|gateway| gateway.to_string()).as_ref() == lease.gateways.first(),
        format!("it is {route:?}"),
    )?;
    done(format!(
        "in the container: default via {SERVER} metric {}",
        route.metric
    ));
    let (threads, memory) = (daemon.status("Threads")?, daemon.status("RssAnon")?);
    done(format!(
        "the daemon: {threads} threads, {} descriptors, {memory} kB of its own",
        daemon.descriptors()?
    ));

    title("Renewal");
    waiting(format!("T1 is after {} s", T1.as_secs()));
    let renewal = server.await_message(MessageType::Request, 2, T1 + SOON)?;
    check(
        is_renewal(&renewal, &lease.yiaddr),
        format!("not a renewal: {renewal:?}"),
    )?;
    done(format!(
        "after {:.1} s the server heard REQUEST from {} for itself alone",
        (renewal.at - first(&server)?).as_secs_f64(),
        renewal.source
    ));
    let renewed = eventually("the address is prolonged", SOON, || {
        Ok(container
            .address()?
            .filter(|address| u64::from(address.valid) >= LEASE.as_secs() - 1))
    })?;
    check(
        renewed.address == address.address,
        format!("another address: {renewed:?}"),
    )?;
    done(format!("the same address, again for {} s", renewed.valid));

    title("Teardown");
    let config = NetworkConfig {
        container_id: String::new(),
        ..config
    };
    grpc::teardown(&unit.socket(), &config)
        .map_err(|status| format!("Teardown: {}", status.message))?;
    let release = server.await_message(MessageType::Release, 1, SOON)?;
    check(
        release.message.ciaddr() == address.address,
        format!("it gave back {}", release.message.ciaddr()),
    )?;
    eventually("the server forgets the lease", SOON, || {
        Ok(server.lease_of(container.mac).is_none().then_some(()))
    })?;
    done(format!(
        "the server heard RELEASE of {} from {} and took it back",
        release.message.ciaddr(),
        release.source
    ));
    check(container.address()?.is_none(), "the address is still there")?;
    check(
        container.namespace.default_routes()?.is_empty(),
        "the default route is still there",
    )?;
    done("in the container: no address, no route");

    title("Nothing left to do");
    waiting(format!("-a {IDLE}"));
    let start = rt::now();
    let status = daemon.await_exit(SOON)?;
    check(status.success(), format!("the daemon left with {status}"))?;
    done(format!(
        "after {:.1} s idle the daemon left by itself, exit code 0",
        (rt::now() - start).as_secs_f64()
    ));
    check(unit.socket().exists(), "the socket is gone")?;
    done("the socket is still there: the next call starts it again");
    println!("\nEvery step happened and was checked.");
    Ok(())
}

/// Sent by the container's own address to the server alone (RFC 2131 section 4.3.6).
fn is_renewal(heard: &Heard, address: &str) -> bool {
    let own = heard.source.to_string() == address && heard.message.ciaddr().to_string() == address;
    own && heard.is_unicast()
        && heard.destination == SERVER
        && !heard.names_server()
        && !heard.requests_address()
}

fn first(server: &Server) -> Result<smol_dhcp_proxy::time::Instant> {
    Ok(server
        .heard_of(MessageType::Request)
        .first()
        .ok_or("no REQUEST")?
        .at)
}

fn words(kinds: &[MessageType]) -> String {
    let words: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{kind:?}").to_uppercase())
        .collect();
    words.join(", ")
}

fn title(text: &str) {
    println!("\n{text}");
}

fn waiting(text: impl Display) {
    println!("  … {text}");
}

fn done(text: impl Display) {
    println!("  ✓ {text}");
}

fn check(is_so: bool, otherwise: impl Display) -> Result {
    if is_so {
        Ok(())
    } else {
        Err(otherwise.to_string().into())
    }
}
