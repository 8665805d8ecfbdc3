//! Socket activation and its end: the daemon leaves when nothing is left to do, and never with
//! something in hand.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{Call, Code, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::{Daemon, Unit};
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::{program, stage};

trials![
    idle_timeout_fires_on_a_blocking_socket,
    a_lease_keeps_it_and_teardown_lets_it_go,
    a_pinging_channel_does_not_keep_it,
    hanging_up_in_mid_setup_leaves_nothing,
    no_call_at_the_moment_of_exit_is_lost,
    no_accepted_call_is_lost_in_manual_mode,
    sigterm_is_answered_cleanly,
    sigterm_lets_a_setup_finish,
    sigterm_waits_for_no_server,
    a_second_sigterm_is_in_a_hurry,
    not_before_the_file_has_the_last_teardown,
];

const SOON: Duration = Duration::from_secs(5);

fn idle_timeout_fires_on_a_blocking_socket() -> Result {
    let mut stage = stage(0, &["-a", "1"])?;
    let start = rt::now();
    // The socket came in blocking; a runtime that takes it so hangs in accept4(2), and no timer
    // fires again.
    const O_NONBLOCK: u32 = 0o4000;
    assert_ne!(stage.daemon.descriptor_flags(3)? & O_NONBLOCK, 0);
    let status = stage.daemon.await_exit(SOON)?;
    let took = rt::now() - start;
    assert!(status.success(), "{status}");
    assert!(
        took > Duration::from_millis(700) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    stage.unit.await_notification("STOPPING=1")?;
    assert!(stage.unit.socket().exists(), "the socket file is systemd's");
    Ok(())
}

fn a_lease_keeps_it_and_teardown_lets_it_go() -> Result {
    // Long enough for the first call to come before it leaves, where the machine is busy.
    let mut stage = stage(1, &["-a", "1.5"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    // A lease is nothing but time here; there is no event to wait for.
    std::thread::sleep(Duration::from_millis(3000));
    assert!(stage.daemon.is_running()?, "it left with a lease");
    stage.teardown(0)?;
    assert!(stage.daemon.await_exit(SOON)?.success());

    // The next instance serves the next caller.
    let mut next = std::thread::scope(|scope| -> Result<_> {
        let call = scope.spawn(|| stage.setup(0));
        stage.unit.await_connection(SOON)?;
        let next = stage.unit.start(&stage.topology.host)?;
        call.join().expect("no panic in Setup")?;
        Ok(next)
    })?;
    stage.teardown(0)?;
    assert!(next.await_exit(SOON)?.success());
    Ok(())
}

fn a_pinging_channel_does_not_keep_it() -> Result {
    let mut stage = stage(1, &["-a", "1"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let mut channel =
        grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
    channel
        .call(&Call::Setup(stage.config(0)))
        .map_err(|status| status.message)?;
    channel
        .call(&Call::Teardown(stage.config(0)))
        .map_err(|status| status.message)?;
    let start = rt::now();
    while !channel.is_over() && rt::now() - start < SOON {
        let _ = channel.ping();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(channel.is_over(), "the quiet channel was not closed");
    let status = stage.daemon.await_exit(SOON)?;
    assert!(status.success(), "{status}");

    // The client connects anew, as every gRPC library does after a GOAWAY.
    std::thread::scope(|scope| {
        let call = scope.spawn(|| stage.setup(0));
        stage.unit.await_connection(SOON)?;
        let _next = stage.unit.start(&stage.topology.host)?;
        call.join().expect("no panic in Setup")?;
        Ok(())
    })
}

fn hanging_up_in_mid_setup_leaves_nothing() -> Result {
    let mut stage = stage(2, &["-a", "1"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // Once through everything, so that what is made on first use has been made.
    stage.setup(1)?;
    stage.teardown(1)?;
    let descriptors = stage.daemon.settled_descriptors()?.len();
    server.set_silent(true);
    let mut channel =
        grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
    let pending = channel
        .begin(&Call::Setup(stage.config(0)))
        .map_err(|status| status.message)?;
    server.await_message(MessageType::Discover, 2, SOON)?;
    drop(pending);
    drop(channel);
    eventually("all descriptors of the exchange are closed", SOON, || {
        Ok((stage.daemon.descriptors()? <= descriptors).then_some(()))
    })?;
    server.set_silent(false);
    let status = stage.daemon.await_exit(SOON)?;
    assert!(status.success(), "{status}");
    assert_eq!(stage.topology.containers[0].address()?, None);
    assert_eq!(
        server.heard_of(MessageType::Discover).len(),
        2,
        "the exchange went on without its caller"
    );
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.unit.lease_file())?)?;
    assert_eq!(file, serde_json::json!({}));
    Ok(())
}

/// So many daemons are called at a time, each this often.
const LANES: u32 = 10;
const CALLS: u32 = 500;
const IDLE: &str = "0.05";

/// A wait that ends about when an idle time of 50 ms does, swept over two milliseconds and a half.
fn about_idle(call: u32) -> Duration {
    Duration::from_micros(49_500 + u64::from(call * 37 % 2500))
}

/// A call that changes nothing, over a new connection. An idle connection is closed after the idle
/// timeout, as it should be; on a very busy machine that happens to this one, and proves nothing.
fn call_nobody(stream: UnixStream) -> Result {
    let connected = rt::now();
    let nobody = NetworkConfig {
        container_mac_addr: "02:88:00:00:ff:ff".to_owned(),
        ..NetworkConfig::default()
    };
    let mut said = connected;
    let answer = grpc::Channel::over(stream).and_then(|mut channel| {
        let pending = channel.begin(&Call::Teardown(nobody));
        said = rt::now();
        channel.finish(pending?)
    });
    match answer {
        Err(status) if said - connected < Duration::from_millis(25) => {
            Err(format!("{status:?}").into())
        }
        _ => Ok(()),
    }
}

/// Calls that many daemons at the moment of their leaving; `lane` does it with one, and tells how
/// often it was gone.
fn race(lane: impl Fn() -> Result<u32> + Sync) -> Result {
    let gone: u32 = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(&lane)).collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().map_err(|_| "a panic in a lane")?)
            .sum::<Result<_>>()
    })?;
    let calls = LANES * CALLS;
    crate::tell(&format!(
        "{calls} calls at the moment of leaving, of which {gone} found it gone"
    ));
    assert!(
        (calls / 20..calls * 19 / 20).contains(&gone),
        "{gone} of {calls}: the calls missed the moment of leaving"
    );
    Ok(())
}

fn no_call_at_the_moment_of_exit_is_lost() -> Result {
    let host = Namespace::new("host")?;
    race(|| {
        let unit = Unit::new(program(), &["-a", IDLE])?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Plays systemd: starts the daemon whenever it has exited and a connection is pending.
            let systemd = scope.spawn(|| -> Result<u32> {
                let mut starts = 0;
                while !over.load(Ordering::Relaxed) {
                    if unit.await_connection(Duration::from_millis(50)).is_ok() {
                        starts += 1;
                        let status = unit.start(&host)?.await_exit(4 * SOON)?;
                        assert!(status.success(), "{status}");
                    }
                }
                Ok(starts)
            });
            let calls = (0..CALLS).try_for_each(|call| {
                call_nobody(UnixStream::connect(unit.socket())?)
                    .map_err(|error| format!("call {call}: {error}"))?;
                std::thread::sleep(about_idle(call));
                Result::Ok(())
            });
            over.store(true, Ordering::Relaxed);
            let starts = systemd.join().map_err(|_| "a start went wrong")?;
            calls.and(starts)
        })
    })
}

fn no_accepted_call_is_lost_in_manual_mode() -> Result {
    race(|| {
        let folder = sandbox::folder("manual")?;
        let socket = folder.join("nv-proxy.sock");
        let start = || -> Result<Daemon> {
            let mut command = Command::new(program());
            command
                .args(["-a", IDLE, "--dir"])
                .arg(&folder)
                .stderr(Stdio::null());
            command.env("SMOL_DHCP_PROXY_SANDBOX", "strict");
            Ok(Daemon::from(command.spawn()?))
        };
        let mut absences = 0;
        let mut daemon = start()?;
        for call in 0..CALLS {
            let mut is_first = call > 0;
            let stream = eventually("somebody listens", 4 * SOON, || {
                match UnixStream::connect(&socket) {
                    Ok(stream) => Ok(Some(stream)),
                    Err(error)
                        if [ErrorKind::NotFound, ErrorKind::ConnectionRefused]
                            .contains(&error.kind()) =>
                    {
                        // It has left, and said so by taking its socket away; else it starts, and
                        // may leave before it is called.
                        if std::mem::take(&mut is_first) {
                            absences += 1;
                            assert!(!socket.exists(), "{error} at a socket that is there");
                            assert!(daemon.await_exit(SOON)?.success());
                        }
                        if !daemon.is_running()? {
                            daemon = start()?;
                        }
                        Ok(None)
                    }
                    Err(error) => Err(error.into()),
                }
            })?;
            call_nobody(stream).map_err(|error| format!("call {call}: {error}"))?;
            std::thread::sleep(about_idle(call));
        }
        Ok(absences)
    })
}

fn sigterm_is_answered_cleanly() -> Result {
    let mut stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    stage.daemon.signal(Signal::SIGTERM)?;
    let status = stage.daemon.await_exit(SOON)?;
    assert!(status.success(), "{status}");
    stage.unit.await_notification("STOPPING=1")?;
    // The container runs on, and so does its lease.
    assert!(stage.topology.containers[0].address()?.is_some());
    Ok(())
}

fn sigterm_lets_a_setup_finish() -> Result {
    let mut stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(1)?;
    server.set_silent(true);
    let socket = stage.unit.socket();
    let config = stage.config(0);
    std::thread::scope(|scope| {
        let setup = scope.spawn(|| grpc::setup(&socket, &config));
        server.await_message(MessageType::Discover, 2, SOON)?;
        stage.daemon.signal(Signal::SIGTERM)?;
        stage.unit.await_notification("STOPPING=1")?;
        server.set_silent(false);
        let lease = setup
            .join()
            .expect("no panic in Setup")
            .map_err(|status| status.message)?;
        let status = stage.daemon.await_exit(SOON)?;
        assert_eq!(status.code(), Some(0), "{status}");
        // Both are answered, so both are kept, on the links and in the file.
        for container in &stage.topology.containers {
            assert!(container.address()?.is_some());
            assert_eq!(container.namespace.default_routes()?.len(), 1);
        }
        assert_eq!(
            stage.topology.containers[0]
                .address()?
                .map(|a| a.address.to_string()),
            Some(lease.yiaddr)
        );
        assert_eq!(
            stage.unit.leases()?.as_object().map(serde_json::Map::len),
            Some(2)
        );
        assert_eq!(server.heard_of(MessageType::Release).len(), 0);
        Ok(())
    })
}

fn sigterm_waits_for_no_server() -> Result {
    let mut stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    server.leave_unanswered(&[MessageType::Request]);
    let socket = stage.unit.socket();
    let config = stage.config(0);
    std::thread::scope(|scope| {
        let setup = scope.spawn(|| grpc::setup(&socket, &config));
        server.await_message(MessageType::Request, 1, SOON)?;
        let start = rt::now();
        stage.daemon.signal(Signal::SIGTERM)?;
        let status = stage.daemon.await_exit(Duration::from_secs(8))?;
        assert!(
            rt::now() - start >= Duration::from_secs(2),
            "it gave the Setup no time"
        );
        assert_eq!(status.code(), Some(0), "{status}");
        let answer = setup
            .join()
            .expect("no panic in Setup")
            .expect_err("there was no lease");
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
        assert_eq!(stage.topology.containers[0].address()?, None);
        assert_eq!(stage.unit.leases()?, serde_json::json!({}));
        Ok(())
    })
}

/// A second signal leaves undone what the first one would have waited for: a Setup that may come to
/// an end yet, and the leases that were to be given back.
fn a_second_sigterm_is_in_a_hurry() -> Result {
    let mut stage = stage(2, &["--on-stop", "release"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let kept = stage.setup(1)?;
    stage.topology.containers[1].namespace.await_rest()?;
    server.set_silent(true);
    let socket = stage.unit.socket();
    let config = stage.config(0);
    std::thread::scope(|scope| {
        let setup = scope.spawn(|| grpc::setup(&socket, &config));
        server.await_message(MessageType::Discover, 2, SOON)?;
        stage.daemon.signal(Signal::SIGTERM)?;
        // Two that are pending at the same time are one.
        stage.unit.await_notification("STOPPING=1")?;
        let start = rt::now();
        stage.daemon.signal(Signal::SIGTERM)?;
        let status = stage.daemon.await_exit(SOON)?;
        let took = rt::now() - start;
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(
            took < Duration::from_secs(1),
            "it left {took:?} after the second signal"
        );
        let answer = setup
            .join()
            .expect("no panic in Setup")
            .expect_err("there was no lease");
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
        let address = stage.topology.containers[1]
            .address()?
            .map(|address| address.address.to_string());
        assert_eq!(address.as_ref(), Some(&kept.yiaddr));
        assert_eq!(server.heard_of(MessageType::Release).len(), 0);
        let leases = stage.unit.leases()?;
        assert_eq!(
            leases.as_object().map(serde_json::Map::len),
            Some(1),
            "{leases}"
        );
        assert_eq!(
            leases[stage.topology.containers[1].mac.to_string()][0]["yiaddr"],
            kept.yiaddr,
            "{leases}"
        );
        Ok(())
    })
}

/// Else the next instance would go on with a lease that is over.
fn not_before_the_file_has_the_last_teardown() -> Result {
    let mut stage = stage(1, &["-a", "0.5"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    let obstacle = stage.unit.state_file().with_extension("state.new");
    std::fs::create_dir(&obstacle)?;
    stage.teardown(0)?;
    server.await_message(MessageType::Release, 1, SOON)?;
    assert_eq!(stage.topology.containers[0].address()?, None);
    // Without the obstacle it would be gone by then; there is no event to wait for.
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        stage.daemon.is_running()?,
        "it left with a lease in the file that is over"
    );
    assert_eq!(
        stage.unit.leases()?[stage.topology.containers[0].mac.to_string()][0]["yiaddr"],
        lease.yiaddr
    );
    std::fs::remove_dir(&obstacle)?;
    let status = stage.daemon.await_exit(Duration::from_secs(15))?;
    assert!(status.success(), "{status}");
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    Ok(())
}
