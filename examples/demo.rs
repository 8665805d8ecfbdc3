//! The main job on one machine: `cargo run --release --example demo`.
//!
//! It needs Rust and Linux, as root or as a user with the right to create user namespaces, and no
//! other program. It creates a host, a container and a DHCP server, each in its own network
//! namespace, starts the release binary as systemd does, and requests a lease as netavark does. Each
//! line with a check mark was checked. The first failed check ends the demo with exit status 1.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the demo prints its steps"
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

const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// T1 in the server's answers.
const T1: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(60);
/// The idle timeout of the daemon in seconds.
const IDLE: &str = "2";

fn main() -> ExitCode {
    // Before any thread: only a single-threaded process can create a user namespace.
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

/// Builds the release binary if it is not up to date.
fn release_binary() -> Result<PathBuf> {
    title("The program");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // This example is in TARGET/PROFILE/examples.
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(3)
        .ok_or("the example is not in a target folder")?;
    // The sandbox has no network. All sources of the demo are on this machine already.
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
    title("A host, a container, a DHCP server: one network namespace each");
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
        "this process listens on {}, as systemd would; no daemon runs yet",
        unit.socket().display()
    ));
    let config = container.config();
    let mut daemon = None;
    let lease = std::thread::scope(|scope| -> Result<_> {
        let call = scope.spawn(|| grpc::setup(&unit.socket(), &config));
        unit.await_connection(STEP_TIMEOUT)?;
        done("a client connects: the daemon starts with the socket as descriptor 3");
        daemon = Some(unit.start(&topology.host)?);
        let lease = call.join().map_err(|_| "the caller panicked")?;
        Ok(lease.map_err(|status| format!("Setup: {:?}: {}", status.code, status.message))?)
    })?;
    let mut daemon = daemon.ok_or("the daemon was not started")?;

    title("Setup, as netavark calls it");
    let kinds = server.heard_kinds();
    check(
        kinds == [MessageType::Discover, MessageType::Request],
        format!("the server received {kinds:?}"),
    )?;
    done(format!("the server received {}", names(&kinds)));
    let given = server
        .lease_of(container.mac)
        .ok_or("the server has no lease")?;
    check(
        given.to_string() == lease.yiaddr,
        format!("the server leased {given}, the reply has {}", lease.yiaddr),
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
        "in the container: {}/{} on {LINK}, which the kernel removes in {} s",
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
        "the daemon: {threads} threads, {} descriptors, {memory} kB RssAnon",
        daemon.descriptors()?
    ));

    title("Renewal");
    waiting(format!("T1 is after {} s", T1.as_secs()));
    let renewal = server.await_message(MessageType::Request, 2, T1 + STEP_TIMEOUT)?;
    check(
        is_renewal(&renewal, &lease.yiaddr),
        format!("not a renewal: {renewal:?}"),
    )?;
    done(format!(
        "after {:.1} s the server received a unicast REQUEST from {}",
        (renewal.at - first(&server)?).as_secs_f64(),
        renewal.source
    ));
    let renewed = eventually(
        "the lifetime of the address is extended",
        STEP_TIMEOUT,
        || {
            Ok(container
                .address()?
                .filter(|address| u64::from(address.valid) >= LEASE.as_secs() - 1))
        },
    )?;
    check(
        renewed.address == address.address,
        format!("another address: {renewed:?}"),
    )?;
    done(format!(
        "the same address, valid for {} s again",
        renewed.valid
    ));

    title("Teardown");
    let config = NetworkConfig {
        container_id: String::new(),
        ..config
    };
    grpc::teardown(&unit.socket(), &config)
        .map_err(|status| format!("Teardown: {}", status.message))?;
    let release = server.await_message(MessageType::Release, 1, STEP_TIMEOUT)?;
    check(
        release.message.ciaddr() == address.address,
        format!("RELEASE of {}", release.message.ciaddr()),
    )?;
    eventually("the server frees the lease", STEP_TIMEOUT, || {
        Ok(server.lease_of(container.mac).is_none().then_some(()))
    })?;
    done(format!(
        "the server received RELEASE of {} from {} and freed it",
        release.message.ciaddr(),
        release.source
    ));
    check(container.address()?.is_none(), "the address is still there")?;
    check(
        container.namespace.default_routes()?.is_empty(),
        "the default route is still there",
    )?;
    done("in the container: no address, no route");

    title("Idle exit");
    waiting(format!("-a {IDLE}"));
    let start = rt::now();
    let status = daemon.await_exit(STEP_TIMEOUT)?;
    check(status.success(), format!("the daemon exited with {status}"))?;
    done(format!(
        "after {:.1} idle seconds the daemon exited with status 0",
        (rt::now() - start).as_secs_f64()
    ));
    check(unit.socket().exists(), "the socket is gone")?;
    done("the socket still exists: the next call starts the daemon again");
    println!("\nEvery step was checked.");
    Ok(())
}

/// Returns whether a REQUEST is a renewal: unicast from the leased address (RFC 2131 §4.3.6).
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

fn names(kinds: &[MessageType]) -> String {
    let names: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{kind:?}").to_uppercase())
        .collect();
    names.join(", ")
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
