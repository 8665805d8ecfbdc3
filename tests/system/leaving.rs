//! Socket activation and its end: the daemon leaves when nothing is left to do, and never with something in hand.

use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{Call, Code};
use smol_dhcp_proxy::rt;

use crate::lab::server::{Server, Settings};
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually, grpc};
use crate::{Named, stage};

pub(crate) const TRIALS: &[Named] = &[
    ("leaving::idle_timeout_fires_on_a_blocking_socket", idle_timeout_fires),
    ("leaving::a_lease_keeps_it_and_teardown_lets_it_go", a_lease_keeps_it),
    ("leaving::a_pinging_channel_does_not_keep_it", a_pinging_channel),
    ("leaving::hanging_up_in_mid_setup_leaves_nothing", hanging_up_in_mid_setup),
    ("leaving::sigterm_is_answered_cleanly", sigterm),
    ("leaving::sigterm_lets_a_setup_finish", sigterm_lets_a_setup_finish),
    ("leaving::sigterm_waits_for_no_server", sigterm_waits_for_no_server),
];

const SOON: Duration = Duration::from_secs(5);

fn idle_timeout_fires() -> Result {
    let mut stage = stage(0, &["-a", "1"])?;
    let start = rt::now();
    // The socket came in blocking; a runtime that takes it so hangs in accept4(2), and no timer fires again.
    const O_NONBLOCK: u32 = 0o4000;
    assert_ne!(stage.daemon.descriptor_flags(3)? & O_NONBLOCK, 0);
    let status = stage.daemon.await_exit(SOON)?;
    let took = rt::now() - start;
    assert!(status.success(), "{status}");
    assert!(took > Duration::from_millis(700) && took < Duration::from_millis(2500), "{took:?}");
    stage.unit.await_notification("STOPPING=1")?;
    assert!(stage.unit.socket().exists(), "the socket file is systemd's");
    Ok(())
}

fn a_lease_keeps_it() -> Result {
    let mut stage = stage(1, &["-a", "0.5"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    // A lease is nothing but time here; there is no event to wait for.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(stage.daemon.is_running()?, "it left with a lease");
    stage.teardown(0)?;
    assert!(stage.daemon.await_exit(SOON)?.success());

    // Whoever calls next is served by the next instance.
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

fn a_pinging_channel() -> Result {
    let mut stage = stage(1, &["-a", "1"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let mut channel = grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
    channel.call(&Call::Setup(stage.config(0))).map_err(|status| status.message)?;
    channel.call(&Call::Teardown(stage.config(0))).map_err(|status| status.message)?;
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

fn hanging_up_in_mid_setup() -> Result {
    let mut stage = stage(2, &["-a", "1"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // Once through everything, so that what is made on first use has been made.
    stage.setup(1)?;
    stage.teardown(1)?;
    let descriptors = stage.daemon.settled_descriptors()?.len();
    server.set_silent(true);
    let mut channel = grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
    let pending = channel.begin(&Call::Setup(stage.config(0))).map_err(|status| status.message)?;
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
    assert_eq!(server.heard_of(MessageType::Discover).len(), 2, "the exchange went on without its caller");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.unit.lease_file())?)?;
    assert_eq!(file, serde_json::json!({}));
    Ok(())
}

fn sigterm() -> Result {
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
        eventually("it says that it leaves", SOON, || {
            Ok(stage.unit.notifications().iter().any(|line| line == "STOPPING=1").then_some(()))
        })?;
        server.set_silent(false);
        let lease = setup.join().expect("no panic in Setup").map_err(|status| status.message)?;
        let status = stage.daemon.await_exit(SOON)?;
        assert_eq!(status.code(), Some(0), "{status}");
        // Both are answered, so both are kept, on the links and in the file.
        for container in &stage.topology.containers {
            assert!(container.address()?.is_some());
            assert_eq!(container.namespace.default_routes()?.len(), 1);
        }
        assert_eq!(stage.topology.containers[0].address()?.map(|a| a.address.to_string()), Some(lease.yiaddr));
        assert_eq!(stage.unit.leases()?.as_object().map(serde_json::Map::len), Some(2));
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
        assert!(rt::now() - start >= Duration::from_secs(2), "it gave the Setup no time");
        assert_eq!(status.code(), Some(0), "{status}");
        let answer = setup.join().expect("no panic in Setup").expect_err("there was no lease");
        assert_eq!(answer.code, Code::Unavailable, "{answer:?}");
        assert_eq!(stage.topology.containers[0].address()?, None);
        assert_eq!(stage.unit.leases()?, serde_json::json!({}));
        Ok(())
    })
}
