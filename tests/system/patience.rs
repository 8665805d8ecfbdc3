//! The time that a Setup waits for a server, depending on what is known of the network, and its
//! error.

use std::thread;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{Code, NetavarkLease};
use smol_dhcp_proxy::rt;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::scene::{self, Scene};
use crate::lab::stage::Stage;
use crate::lab::topology::{LINK, SERVER_LINK, Topology};
use crate::lab::{Result, grpc};
use crate::lease::check_link;
use crate::{program, stage};

trials![
    a_deaf_network_costs_ten_seconds_and_then_five,
    a_bridge_without_an_uplink_has_no_carrier_of_its_own,
    a_new_carrier_gets_the_time_of_spanning_tree,
    a_carrier_that_comes_meanwhile_gets_it_too,
    a_server_that_offers_is_waited_for,
    a_server_that_was_heard_of_late_is_waited_for,
    an_exact_time_is_exact_and_remembers_nothing,
];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits until the machine is up for so long that this is no reason to be patient.
fn await_age_of_boot() {
    thread::sleep(seconds(181).saturating_sub(rt::now().since_boot()));
}

/// Asks in vain; checks what the caller is told and that it took `time`.
fn refused(stage: &Stage, time: Duration, words: &str) -> Result {
    let start = rt::now();
    let refused = grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("nothing answers");
    let took = rt::now() - start;
    assert_eq!(refused.code, Code::Aborted, "{refused:?}");
    assert!(
        refused.message.contains(words),
        "{refused:?} does not say {words:?}"
    );
    assert!(
        time <= took && took < time + seconds(1),
        "{took:?} instead of {time:?}: {refused:?}"
    );
    Ok(())
}

const USUAL: &str = "; waited 10 s, because no DHCP server was heard on this network of late, and its carrier is not new: \
                     -t SECONDS sets another time";
const AGAIN: &str = "; waited 5 s, because another acquisition on this network was not answered in the last minute: \
                     -t SECONDS sets another time";

fn a_deaf_network_costs_ten_seconds_and_then_five() -> Result {
    await_age_of_boot();
    let mut stage = stage(1, &[])?;
    refused(&stage, seconds(10), USUAL)?;
    refused(&stage, seconds(5), AGAIN)?;
    // The next instance knows as much.
    stage.restart()?;
    refused(&stage, seconds(5), AGAIN)?;
    // And a server that is there again is found.
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    check_link(&stage.topology.containers[0], &lease, 3600)
}

/// The carrier of such a bridge comes anew with each container that is connected to it.
fn a_bridge_without_an_uplink_has_no_carrier_of_its_own() -> Result {
    await_age_of_boot();
    let scene = scene::bridge(ours, Settings::default())?;
    scene.stage.topology.server.set_state(SERVER_LINK, false)?;
    refused(&scene.stage, seconds(10), USUAL)?;
    let container = &scene.container().namespace;
    for up in [false, true] {
        container.set_state(LINK, up)?;
    }
    refused(&scene.stage, seconds(5), AGAIN)
}

fn ours(topology: Topology) -> Result<Stage> {
    Stage::new(topology, program(), &[])
}

/// A switch with spanning tree to which the host is connected again: half of the delay in
/// listening, the rest in learning.
fn a_new_carrier_gets_the_time_of_spanning_tree() -> Result {
    await_age_of_boot();
    // Twice as much is too long for the usual time. The kernel notices a carrier up to a second
    // late, and a DISCOVER comes up to 9 s after the one before.
    let scene = scene::spanning_tree(ours, seconds(7))?;
    refused(&scene.stage, seconds(10), USUAL)?;
    // As when a cable is pulled out and put in again, while the daemon is not there.
    let switch = scene.switch().ok_or("no switch")?;
    for up in [false, true] {
        switch.set_state("one", up)?;
    }
    let mut stage = scene.stage;
    stage.restart()?;
    let start = rt::now();
    let lease = stage.setup(0)?;
    let took = rt::now() - start;
    assert!(took > seconds(10) && took < seconds(25), "{took:?}");
    check_link(&stage.topology.containers[0], &lease, 3600)
}

fn a_carrier_that_comes_meanwhile_gets_it_too() -> Result {
    await_age_of_boot();
    let scene = scene::plain(ours, Settings::default())?;
    let server = &scene.stage.topology.server;
    server.set_state(SERVER_LINK, false)?;
    scene.server.set_silent(true);
    let lease = thread::scope(|scope| -> Result<_> {
        let setup = scope.spawn(|| scene.stage.setup(0));
        thread::sleep(seconds(5));
        server.set_state(SERVER_LINK, true)?;
        thread::sleep(seconds(7));
        assert!(!setup.is_finished(), "it gave up");
        scene.server.set_silent(false);
        setup.join().expect("no panic in Setup")
    })?;
    check_link(scene.container(), &lease, 3600)
}

/// Calls Setup, and has it answered when the usual time is over.
fn setup_longer_than_usual(scene: &Scene, answer: impl FnOnce()) -> Result<NetavarkLease> {
    thread::scope(|scope| {
        let setup = scope.spawn(|| scene.stage.setup(0));
        thread::sleep(seconds(12));
        assert!(!setup.is_finished(), "it gave up");
        answer();
        setup.join().expect("no panic in Setup")
    })
}

fn a_server_that_offers_is_waited_for() -> Result {
    await_age_of_boot();
    let scene = scene::plain(ours, Settings::default())?;
    scene.server.leave_unanswered(&[MessageType::Request]);
    let lease = setup_longer_than_usual(&scene, || scene.server.leave_unanswered(&[]))?;
    check_link(scene.container(), &lease, 3600)
}

fn a_server_that_was_heard_of_late_is_waited_for() -> Result {
    await_age_of_boot();
    let mut scene = scene::plain(ours, Settings::default())?;
    scene.stage.setup(0)?;
    scene.stage.teardown(0)?;
    scene.stage.restart()?;
    scene.server.set_silent(true);
    let lease = setup_longer_than_usual(&scene, || scene.server.set_silent(false))?;
    check_link(scene.container(), &lease, 3600)
}

fn an_exact_time_is_exact_and_remembers_nothing() -> Result {
    let stage = stage(1, &["-t", "2"])?;
    for _ in 0..2 {
        let start = rt::now();
        let refused =
            grpc::setup(&stage.unit.socket(), &stage.config(0)).expect_err("nothing answers");
        let took = rt::now() - start;
        assert!(
            refused.message.starts_with("no DHCPOFFER within 2 s")
                && !refused.message.contains("waited")
        );
        assert!(took >= seconds(2) && took < seconds(3), "{took:?}");
    }
    assert!(!stage.unit.lease_file().with_extension("networks").exists());
    Ok(())
}
