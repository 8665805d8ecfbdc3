//! The health of leases, of the file and of a daemon that runs or does not.

use std::fs;
use std::path::Path;

use crate::dhcp::Phase;
use crate::proxy::store::journal::RecordedDeaths;
use crate::proxy::store::record::tests::{phases, record, with_mac};
use crate::proxy::store::record::{ContainerId, LeaseView, Record, RecordState};

use super::*;

/// A container of a test.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    id: &'a str,
    name: &'a str,
}

impl<'a> Given<'a> {
    /// Returns a container of this id, and of this name if it is not empty.
    pub(super) fn container(id: &'a str, name: &'a str) -> Self {
        Self { id, name }
    }
}

fn clocks(millis: u64) -> Clocks {
    Clocks {
        boot: at(millis),
        wall: Duration::from_secs(1_780_000_000),
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millis))
}

/// A lease in the namespace of this process, or in `gone`, with its T1 at 2,800 s.
fn lease(phase: usize, number: u8) -> Record {
    let mut lease = with_mac(record(phases()[phase].clone()), [2, 0, 0, 0, 0, number]);
    let path = "/proc/self/ns/net";
    let metadata = fs::metadata(path).unwrap();
    let netns = &mut lease.interface.netns;
    (netns.dev, netns.ino) = (metadata.dev(), metadata.ino());
    lease.request.key.netns = Path::new(path).into();
    lease
}

/// One lease in the namespace `/run/netns/NUMBER` for each container.
pub(super) fn leases(given: &[Given<'_>]) -> Vec<LeaseReport> {
    let mut names = Names::default();
    let views = given.iter().zip(0..).map(|(container, number)| {
        let mut lease = lease(0, number);
        lease.request.client_id = format!("\0{}", container.id).into_bytes();
        lease.request.key.netns = Path::new(&format!("/run/netns/{number}")).into();
        if !container.name.is_empty() {
            names.insert(
                ContainerId::parse(container.id).unwrap(),
                container.name.to_owned(),
            );
        }
        LeaseView::of(&lease)
    });
    let peeked = Peeked {
        leases: views.collect(),
        ..Peeked::default()
    };
    let place = (Path::new("/run/podman"), None);
    Report::new(&peeked, place, &names, clocks(2_000_000)).leases
}

fn daemon(stays: &str, timer_at: Option<u64>) -> DaemonState {
    DaemonState {
        version: "1.2.3".to_owned(),
        pid: 4711,
        awake_since: at(1_000_000),
        // systemd, if it runs here, has no timer of ours.
        unit: String::new(),
        stays: stays.to_owned(),
        timer_at: timer_at.map(at),
        landlock: 6,
        seccomp: true,
    }
}

fn peeked(leases: &[Record], daemon: Option<DaemonState>) -> Peeked {
    Peeked {
        leases: leases.iter().map(LeaseView::of).collect(),
        daemon,
        ..Peeked::default()
    }
}

fn report(peeked: &Peeked, pid: Option<u32>, millis: u64) -> Report {
    let place = (Path::new("/run/podman"), pid);
    Report::new(peeked, place, &Names::default(), clocks(millis))
}

/// The reasons of a daemon that does not run.
fn reasons_of(leases: &[Record], daemon: DaemonState, millis: u64) -> Vec<String> {
    report(&peeked(leases, Some(daemon)), None, millis).reasons
}

const BEFORE_T1: u64 = 2_700_000;
const T1: u64 = 2_800_000;

#[test]
fn a_daemon_that_nothing_starts_again_is_not_healthy() {
    let one = &[lease(0, 1)];
    let absent = |why: &str| {
        let text = format!("no daemon runs, and nothing starts it again: {why}");
        vec![text]
    };
    let none: Vec<String> = Vec::new();
    let reasons = |stays, timer| reasons_of(one, daemon(stays, timer), BEFORE_T1);
    assert_eq!(reasons("", Some(T1)), none, "it sleeps");
    assert_eq!(
        reasons("", Some(BEFORE_T1 - 120_000)),
        none,
        "just starting"
    );
    assert_eq!(
        reasons("", None),
        absent("no timer is set"),
        "stop everything"
    );
    assert_eq!(reasons("-a 0", Some(T1)), absent("-a 0"));
    assert_eq!(
        reasons("", Some(BEFORE_T1 - 120_001)),
        absent("its timer was set for a time that is over since 2 min")
    );
    assert_eq!(
        reasons_of(one, daemon("", None), T1 + 121_000),
        ["a lease is due since 2 min 1 s, and no daemon runs"]
    );
    // Running, it needs no timer.
    let running = report(&peeked(one, Some(daemon("", None))), Some(4711), BEFORE_T1);
    assert_eq!(running.reasons, none);
    // Without a lease, nothing has to start.
    assert_eq!(reasons_of(&[], daemon("-a 0", None), BEFORE_T1), none);
    // An older version tells nothing.
    let older = report(&peeked(one, None), None, BEFORE_T1);
    assert_eq!(older.reasons, none);
}

#[test]
fn leases_without_a_time_are_due_when_a_call_was_interrupted() {
    let mut infinite = lease(0, 1);
    let RecordState::Held { snapshot, .. } = &mut infinite.state else {
        panic!("it is held");
    };
    let Phase::Bound {
        lease: bound,
        renew_at,
        rebind_at,
    } = &mut snapshot.phase
    else {
        panic!("it is bound");
    };
    bound.lease_time = None;
    (*renew_at, *rebind_at) = (
        Instant::from_boot(Duration::MAX),
        Instant::from_boot(Duration::MAX),
    );
    let intent = Record::intent(&infinite.request, &infinite.interface);
    let reasons = |lease: &Record, stays| {
        reasons_of(std::slice::from_ref(lease), daemon(stays, None), BEFORE_T1)
    };
    assert_eq!(reasons(&infinite, "").len(), 0, "nothing is due");
    assert_eq!(reasons(&infinite, "no systemd").len(), 1);
    assert_eq!(reasons(&intent, "").len(), 1, "a crash left it");
    assert_eq!(reasons(&intent, "no systemd").len(), 1);
}

#[test]
fn a_quarantined_lease_is_the_reason_and_is_not_due() {
    let (fatal, other) = (lease(0, 1), lease(0, 2));
    let given = |deaths, is_in_work| Peeked {
        deaths: RecordedDeaths::made_of(fatal.key(), deaths, is_in_work),
        ..peeked(
            &[fatal.clone(), other.clone()],
            Some(daemon("", Some(T1 + 600_000))),
        )
    };
    let died = "eth1 of /proc/self/ns/net: the daemon died 3 times while working on it, and renews \
                it no longer";
    let quarantined = report(&given(3, false), None, BEFORE_T1);
    assert_eq!(quarantined.reasons, [died]);
    assert_eq!(quarantined.leases[0].next_wake, None);
    assert!(quarantined.leases[1].next_wake.is_some());
    assert_eq!(
        quarantined.daemon.next_wake.map(|at| at.in_seconds),
        Some(100)
    );
    // Its past time is none at which a daemon should run.
    let alone = Peeked {
        deaths: RecordedDeaths::made_of(fatal.key(), 3, false),
        ..peeked(std::slice::from_ref(&fatal), Some(daemon("", None)))
    };
    assert_eq!(report(&alone, None, T1 + 600_000).reasons, [died]);
    // The death that no process has counted yet.
    assert_eq!(report(&given(2, true), None, BEFORE_T1).reasons, [died]);
    assert_eq!(
        report(&given(2, true), Some(4711), BEFORE_T1).reasons.len(),
        0
    );
    assert_eq!(report(&given(2, false), None, BEFORE_T1).reasons.len(), 0);
}

#[test]
fn facts_of_another_process_are_not_told_of_the_one_that_runs() {
    let state = DaemonState {
        unit: "smol-dhcp-proxy.service".to_owned(),
        ..daemon("-a 0", Some(T1))
    };
    let peeked = peeked(&[lease(0, 1)], Some(state));
    let own = std::process::id();
    for (pid, is_known) in [(None, true), (Some(4711), true), (Some(own), false)] {
        let daemon = report(&peeked, pid, BEFORE_T1).daemon;
        assert_eq!(daemon.version.is_some(), is_known, "{pid:?}");
        assert_eq!(daemon.unit.is_some(), is_known);
        assert_eq!(daemon.stays.is_some(), is_known);
        assert_eq!(daemon.may_sleep.is_some(), is_known);
        assert_eq!(daemon.sandbox.is_some(), is_known);
        assert_eq!(daemon.pid, pid);
        // systemd's, and the file's.
        assert!(daemon.timer.is_some() && daemon.writer.is_some());
        assert_eq!(daemon.awake_since.is_some(), pid.is_some());
    }
}

#[test]
fn a_selection_is_judged_by_its_own_leases() {
    let (fine, troubled) = (lease(0, 1), lease(1, 2));
    let state = daemon("", Some(T1));
    let peeked = peeked(&[fine, troubled], Some(state));
    let selected = |word: &str| {
        let mut report = report(&peeked, None, BEFORE_T1);
        assert!(!report.healthy);
        report.select(word, &peeked, clocks(BEFORE_T1)).unwrap();
        assert_eq!((report.leases.len(), report.count), (1, 2));
        (report.healthy, report.reasons.len())
    };
    assert_eq!(selected("02:00:00:00:00:01"), (true, 0));
    assert_eq!(selected("02:00:00:00:00:02"), (false, 1));
}

#[test]
fn a_container_that_is_gone_is_no_trouble() {
    let mut gone = lease(1, 1);
    gone.interface.netns.ino += 1;
    let peeked = peeked(&[gone], Some(daemon("", Some(T1))));
    let report = report(&peeked, None, BEFORE_T1);
    assert!(report.healthy && report.leases[0].trouble.is_some());
    let metrics = super::super::metrics::exposition(&report);
    assert!(
        metrics.contains("\nsmol_dhcp_proxy_troubled_leases 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\nsmol_dhcp_proxy_gone_leases 1\n"),
        "{metrics}"
    );
    assert!(!metrics.contains("next_expiry"), "{metrics}");
}
