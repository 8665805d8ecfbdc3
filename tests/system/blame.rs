//! A daemon that dies or hangs at work on one lease, that cannot serve at all, or that has much to
//! do at once.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{Code, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Unit;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::tracer::{Call, Tracer};
use crate::lab::{Result, eventually, grpc};
use crate::{program, stage};

trials![
    a_lease_that_ends_the_daemon_is_left_alone_after_three_times,
    ready_comes_before_a_namespace_is_entered,
    the_watchdog_is_fed_by_the_thread_that_serves,
    a_wrong_command_line_is_reported_to_callers,
    a_renewal_writes_the_file_once,
    at_the_end_leases_are_given_back_one_after_the_other,
];

const SOON: Duration = Duration::from_secs(5);

/// Starts an instance and kills it at its first system call for which `is_it`. By chance it has
/// made that one before it can be traced: then once more.
fn dies_when(unit: &Unit, host: &Namespace, is_it: impl Fn(&Call) -> Result<bool>) -> Result {
    let mut last = String::new();
    for _ in 0..10 {
        let mut daemon = unit.start(host)?;
        match Tracer::seize(daemon.id())?.kill_when(SOON, &is_it) {
            Ok(()) => return daemon.kill(),
            Err(error) => last = error.to_string(),
        }
        daemon.kill()?;
    }
    Err(last.into())
}

/// The file that says what is worked on.
fn journal(unit: &Unit) -> PathBuf {
    unit.lease_file().with_extension("work")
}

/// The lease that is worked on, and of which leases the daemon died how often.
fn said(unit: &Unit) -> Result<(String, Vec<String>)> {
    let text = fs::read_to_string(journal(unit))?;
    let mut lines = text.lines().map(str::to_owned);
    Ok((lines.next().unwrap_or_default(), lines.collect()))
}

const NOTHING: &str = "0000000000000000";

/// One lease ends the daemon whenever it is worked on; another one goes on all the time.
fn a_lease_that_ends_the_daemon_is_left_alone_after_three_times() -> Result {
    let Stage {
        mut daemon,
        unit,
        topology,
    } = stage(2, &[])?;
    let [culprit, innocent] = &topology.containers[..] else {
        return Err("there are two".into());
    };
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(40),
        t1: Some(seconds(4)),
        t2: Some(seconds(30)),
        ..Settings::default()
    };
    let server = Server::start(&topology.server, SERVER_LINK, settings)?;
    let setup = |config: &NetworkConfig| grpc::setup(&unit.socket(), config);

    // Its first death is at its Setup, which tells us its name.
    let config = culprit.config();
    let (answer, name) = std::thread::scope(|scope| -> Result<_> {
        let tracer = Tracer::seize(daemon.id())?;
        let call = scope.spawn(|| setup(&config));
        tracer.kill_when(SOON, |_| Ok(said(&unit)?.0 != NOTHING))?;
        daemon.kill()?;
        Ok((call.join().expect("no panic in Setup"), said(&unit)?.0))
    })?;
    assert_eq!(
        answer.expect_err("the daemon has died").code,
        Code::Unavailable
    );
    daemon = unit.start_ready(&topology.host)?;
    // Nothing of it was written down yet, so there is nothing that could be tried again.
    assert_eq!(said(&unit)?.1, [""; 0]);
    setup(&config).map_err(|status| status.message)?;
    let lease = setup(&innocent.config()).map_err(|status| status.message)?;
    culprit.namespace.await_rest()?;
    innocent.namespace.await_rest()?;
    daemon.kill()?;

    let start = rt::now();
    for death in 1..=3 {
        // The name of the last time is there until the daemon has read it.
        let is_read = Cell::new(false);
        dies_when(&unit, &topology.host, |_| {
            let lease = said(&unit)?.0;
            is_read.set(is_read.get() || lease == NOTHING);
            Ok(is_read.get() && lease == name)
        })?;
        assert_eq!(said(&unit)?.0, name, "after {death} deaths");
        let renewals = server
            .heard_of(MessageType::Request)
            .into_iter()
            .filter(|heard| heard.at > start);
        assert!(
            !renewals
                .into_iter()
                .any(|heard| heard.client() == culprit.mac),
            "it was to die before that"
        );
    }
    // Twice at once, and the third time a quarter of the rest of the lease later.
    assert!(rt::now() - start > seconds(3), "{:?}", rt::now() - start);

    unit.notifications();
    let next = unit.start_ready(&topology.host)?;
    assert_eq!(said(&unit)?.1, [format!("{name} 3")]);
    let path = culprit.namespace.path().display().to_string();
    let log = unit.log()?;
    let words: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&path) && line.contains("died"))
        .collect();
    assert!(
        words
            .last()
            .is_some_and(|line| line.contains("3 times") && line.contains("Restart the container"))
    );
    let quarantined = rt::now();
    let renewal_of = |mac| {
        let requests = server.heard_of(MessageType::Request);
        requests
            .iter()
            .any(|heard| heard.at > quarantined && heard.client() == mac)
    };
    for _ in 0..2 {
        let since = rt::now();
        eventually("the innocent lease is renewed", seconds(8), || {
            let requests = server.heard_of(MessageType::Request);
            Ok(requests
                .iter()
                .any(|heard| heard.at > since && heard.client() == innocent.mac)
                .then_some(()))
        })?;
    }
    assert_eq!(
        innocent
            .address()?
            .map(|address| address.address.to_string()),
        Some(lease.yiaddr)
    );
    assert!(!renewal_of(culprit.mac), "nothing is done for it by itself");

    // A call does, and from then on it is a lease like the others.
    setup(&config).map_err(|status| status.message)?;
    assert_eq!(said(&unit)?.1, [""; 0]);
    culprit.namespace.await_rest()?;
    let again = rt::now();
    eventually("it is renewed", seconds(8), || {
        let requests = server.heard_of(MessageType::Request);
        Ok(requests
            .iter()
            .any(|heard| heard.at > again && heard.client() == culprit.mac)
            .then_some(()))
    })?;
    grpc::teardown(&unit.socket(), &config).map_err(|status| status.message)?;
    drop(next);
    Ok(())
}

/// Leases that were left in good order are compared with their links, but the socket has not to
/// wait for that.
fn ready_comes_before_a_namespace_is_entered() -> Result {
    let mut stage = stage(3, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    for container in 0..3 {
        stage.setup(container)?;
    }
    for container in &stage.topology.containers {
        container.namespace.await_rest()?;
    }
    stage.daemon.signal(Signal::SIGTERM)?;
    assert!(stage.daemon.await_exit(SOON)?.success());
    stage.unit.notifications();
    dies_when(
        &stage.unit,
        &stage.topology.host,
        |call| Ok(call.is_setns()),
    )?;
    stage.unit.await_notification("READY=1")?;
    // All of them are checked: a lease that does not match the link is restored.
    let container = &stage.topology.containers[1];
    let address = container.address()?.ok_or("no address")?;
    container.namespace.remove_address(
        crate::lab::topology::LINK,
        address.address,
        address.prefix,
    )?;
    stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    eventually("the address is back", SOON, || {
        Ok((container.address()?.is_some()).then_some(()))
    })
}

/// systemd's part is to kill and to start again; ours to say as long as the thread goes round.
fn the_watchdog_is_fed_by_the_thread_that_serves() -> Result {
    let limit = Duration::from_millis(1000);
    let unit = Unit::new(program(), &[])?.set("WATCHDOG_USEC", &limit.as_micros().to_string());
    let host = Namespace::new("host")?;
    let daemon = unit.start_ready(&host)?;
    let fed = || {
        unit.notifications()
            .iter()
            .filter(|line| *line == "WATCHDOG=1")
            .count()
    };
    unit.await_notification("WATCHDOG=1")?;
    std::thread::sleep(4 * limit);
    let times = fed();
    assert!(
        (6..=9).contains(&times),
        "{times} times in four times the limit"
    );
    daemon.signal(Signal::SIGSTOP)?;
    eventually("it stands still", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.id()))?;
        Ok(stat.contains(") T ").then_some(()))
    })?;
    fed();
    std::thread::sleep(2 * limit);
    assert_eq!(fed(), 0);
    // What systemd sends then; a process that stands still gets on with it when it is let go on.
    daemon.signal(Signal::SIGABRT)?;
    daemon.signal(Signal::SIGCONT)?;
    let mut daemon = daemon;
    assert!(!daemon.await_exit(SOON)?.success());
    let _next = unit.start_ready(&host)?;
    unit.await_notification("WATCHDOG=1")
}

fn a_wrong_command_line_is_reported_to_callers() -> Result {
    let topology = Topology::new(1)?;
    let unit = Unit::new(program(), &["--colour"])?;
    let config = topology.containers[0].config();
    for call in [grpc::setup, grpc::teardown] {
        let (answer, mut daemon) = std::thread::scope(|scope| -> Result<_> {
            let call = scope.spawn(|| call(&unit.socket(), &config));
            unit.await_connection(SOON)?;
            let daemon = unit.start(&topology.host)?;
            Ok((call.join().expect("no panic in a call"), daemon))
        })?;
        let refused = answer.expect_err("nothing can be served");
        assert_eq!(refused.code, Code::FailedPrecondition, "{refused:?}");
        assert_eq!(
            refused.message,
            "smol-dhcp-proxy: invalid option '--colour'"
        );
        // Later callers get the reason, too.
        let soon = grpc::clean(&unit.socket()).expect_err("nor later");
        assert_eq!((soon.code, soon.message), (refused.code, refused.message));
        let status = daemon.await_exit(SOON)?;
        assert_eq!(status.code(), Some(2), "{status}");
    }
    Ok(())
}

fn a_renewal_writes_the_file_once() -> Result {
    let stage = stage(1, &[])?;
    let (t1, lease) = (Duration::from_secs(6), Duration::from_secs(60));
    let server = Server::start(
        &stage.topology.server,
        SERVER_LINK,
        Settings {
            lease,
            t1: Some(t1),
            ..Settings::default()
        },
    )?;
    let leased = rt::now();
    stage.setup(0)?;
    let container = &stage.topology.containers[0];
    container.namespace.await_rest()?;
    // What was learnt while it listened is written within a second.
    std::thread::sleep(Duration::from_millis(1500));
    let acquired_at = || -> Result<u64> {
        let leases = stage.unit.leases()?;
        Ok(leases[container.mac.to_string()][0]["acquired_at"]
            .as_u64()
            .ok_or("no acquired_at")?)
    };
    // Each write makes another file.
    let version =
        || -> Result<SystemTime> { Ok(fs::metadata(stage.unit.state_file())?.modified()?) };
    let copy = || -> Result<SystemTime> { Ok(fs::metadata(stage.unit.lease_file())?.modified()?) };
    let copied = copy()?;
    let before = (acquired_at()?, version()?);
    let mut versions = vec![before.1];
    // Until shortly before the next renewal.
    let end = leased + (2 * t1 - Duration::from_millis(800));
    while rt::now() < end {
        let version = version()?;
        if versions.last() != Some(&version) {
            versions.push(version);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.heard_of(MessageType::Request).len(), 2);
    assert!(acquired_at()? > before.0, "the file has the renewal");
    assert_eq!(copy()?, copied, "there is nothing of it in the copy");
    assert_eq!(versions.len(), 2, "{versions:?}");
    Ok(())
}

fn at_the_end_leases_are_given_back_one_after_the_other() -> Result {
    const LEASES: u16 = 60;

    let mut stage = stage(LEASES, &["--on-stop", "release"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    for container in 0..LEASES.into() {
        stage.setup(container)?;
    }
    stage.daemon.signal(Signal::SIGTERM)?;
    assert!(stage.daemon.await_exit(Duration::from_secs(20))?.success());
    let releases = eventually("a RELEASE of each", SOON, || {
        let releases = server.heard_of(MessageType::Release);
        Ok((releases.len() == usize::from(LEASES)).then_some(releases))
    })?;
    let took = releases[releases.len() - 1].at - releases[0].at;
    assert!(took > Duration::from_secs(1), "{LEASES} in {took:?}");
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    Ok(())
}
