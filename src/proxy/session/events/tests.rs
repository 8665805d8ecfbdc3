//! Events as the program gets them, and their queue.

use super::*;
use crate::proxy::call::reply::tests::plain;
use crate::proxy::store::record::tests::{phases, record};

fn at(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1000) + Duration::from_millis(millis))
}

fn queued(event: LeaseEvent<'_>, request: &Request, lease: &Lease) -> QueuedEvent {
    let subject = EventSubject {
        request,
        client_id: &request.client_id,
        host_name: request.host_name.as_deref(),
    };
    let times = (at(0), Duration::from_secs(1_780_000_000), 7);
    QueuedEvent::new(event, subject, lease, times)
}

fn request() -> Request {
    record(phases()[0].clone()).request
}

fn event(event: LeaseEvent<'_>, lease: &Lease) -> QueuedEvent {
    queued(event, &request(), lease)
}

fn value<'a>(event: &'a QueuedEvent, name: &str) -> &'a str {
    let name = format!("SMOL_DHCP_PROXY_{name}");
    let mut found = event.environment.iter().filter(|(known, _)| *known == name);
    let (_, value) = found.next().unwrap();
    assert!(found.next().is_none(), "{name}");
    value
}

#[test]
fn an_event_has_the_lease() {
    let lease = Lease {
        acquired_at: at(0),
        lease_time: Some(Duration::from_secs(3600)),
        ..plain()
    };
    let old = Ipv4Addr::new(10, 0, 0, 4);
    let changed = event(LeaseEvent::Changed(old), &lease);
    for (name, expected) in [
        ("EVENT", "changed"),
        ("REASON", ""),
        ("SEQUENCE", "7"),
        ("INTERFACE", "eth1"),
        ("PARENT", "eth0"),
        ("NAMESPACE", "/run/netns/a"),
        ("MAC", "02:00:00:00:00:01"),
        ("HOST_NAME", "web"),
        ("CONTAINER_ID", ""),
        ("ADDRESS", "10.0.0.5"),
        ("OLD_ADDRESS", "10.0.0.4"),
        ("PREFIX_LENGTH", "24"),
        ("ROUTERS", "10.0.0.1 10.0.0.2"),
        ("DNS", "10.0.0.53"),
        ("DOMAIN", "lab.example"),
        ("SERVER", "10.0.0.1"),
        ("EXPIRY", "1780003600"),
    ] {
        assert_eq!(value(&changed, name), expected, "{name}");
    }
    let infinite = Lease {
        lease_time: None,
        ..lease.clone()
    };
    assert_eq!(value(&event(LeaseEvent::Bound, &infinite), "EXPIRY"), "");
    let conflict = LossReason::Conflict {
        by: crate::mac::Mac([2, 0, 0, 0, 0, 9]),
    };
    for (kind, name, reason) in [
        (LeaseEvent::Bound, "bound", ""),
        (LeaseEvent::Renewed, "renewed", ""),
        (LeaseEvent::Released, "released", ""),
        (LeaseEvent::Gone, "lost", "gone"),
        (LeaseEvent::Replaced, "lost", "replaced"),
        (LeaseEvent::Unreleased, "lost", "unreleased"),
        (LeaseEvent::Lost(&LossReason::Expired), "lost", "expired"),
        (LeaseEvent::Lost(&conflict), "lost", "conflict"),
    ] {
        let event = event(kind, &lease);
        assert_eq!(
            (value(&event, "EVENT"), value(&event, "REASON")),
            (name, reason)
        );
        assert_eq!(event.is_renewal, name == "renewed");
    }
}

#[test]
fn a_value_has_no_control_characters_and_an_end() {
    let mut request = request();
    request.container_interface = "eth\u{1b}0\n".to_owned();
    request.host_interface = "é".repeat(2000);
    let lease = Lease {
        dns_servers: vec![Ipv4Addr::new(10, 0, 0, 53); 200],
        ..plain()
    };
    let event = queued(LeaseEvent::Bound, &request, &lease);
    assert_eq!(value(&event, "INTERFACE"), "eth?0?");
    assert_eq!(value(&event, "PARENT").len(), MAX_VALUE);
    assert_eq!(value(&event, "DNS").split(' ').count(), MAX_LISTED);
    let is_clean = |(_, value): &(&str, String)| !value.contains(char::is_control);
    assert!(event.environment.iter().all(is_clean));
}

#[test]
fn a_burst_is_started_at_once_and_then_some_thirty_in_a_second() {
    let mut queue = EventQueue::new();
    for _ in 0..BURST + 1 {
        assert!(!queue.push(event(LeaseEvent::Bound, &plain())));
    }
    for _ in 0..BURST {
        assert!(matches!(queue.next(at(0)), EventStep::Start(_)));
    }
    assert_eq!(queue.next(at(0)), EventStep::Wait(INTERVAL));
    assert_eq!(
        queue.next(at(20)),
        EventStep::Wait(Duration::from_millis(14))
    );
    assert!(matches!(queue.next(at(34)), EventStep::Start(_)));
    assert_eq!(queue.next(at(34)), EventStep::Done);
    assert_eq!(queue.waiting.capacity(), 0);
}

/// A release of 1,000 leases, 20 at once and then one every 34 ms, while each start takes 45 ms.
#[test]
fn a_release_of_all_leases_drops_no_event_where_systemd_is_slower() {
    let mut queue = EventQueue::new();
    let (mut free_at, mut started) = (0, 0);
    let mut start_until = |queue: &mut EventQueue, end: u64| {
        while free_at <= end {
            match queue.next(at(free_at)) {
                EventStep::Start(_) => (started, free_at) = (started + 1, free_at + 45),
                EventStep::Wait(pause) => free_at += pause.as_millis() as u64 + 1,
                EventStep::Done => free_at = end + 1,
            }
        }
    };
    for number in 0..1000_u64 {
        let millis = number.saturating_sub(20) * 34;
        start_until(&mut queue, millis);
        assert!(
            !queue.push(event(LeaseEvent::Released, &plain())),
            "{number}"
        );
    }
    start_until(&mut queue, 100_000);
    assert_eq!(started, 1000);
}

#[test]
fn a_number_is_greater_than_that_of_the_event_before() {
    let first = sequence_after(0, at(0));
    assert_eq!(first, 1_000_000_000_000);
    assert_eq!(sequence_after(first, at(0)), first + 1);
    // The next process, which does not know the number.
    assert!(sequence_after(0, at(1)) > first + 1);
}

#[test]
fn runs_that_have_not_ended_keep_their_names_and_there_is_an_end_of_names() {
    let taken = || Err(io::Error::from(ErrorKind::AlreadyExists));
    rt::block_on(async move |_| {
        let (next, running) = (Cell::new(u64::MAX - 1), RefCell::new(Vec::new()));
        for _ in 0..MAX_UNITS {
            let start = async |name| {
                running.borrow_mut().push(name);
                Ok(())
            };
            with_free_name(&next, start).await.unwrap();
        }
        let mut names = running.take();
        names.sort_unstable();
        assert_eq!(names, (0..MAX_UNITS).collect::<Vec<_>>());
        // All of them hang, two, or none: the third try is the last.
        for (hanging, tries, is_started) in [(3, 3, false), (2, 3, true), (0, 1, true)] {
            let count = Cell::new(0);
            let start = async |_| {
                count.set(count.get() + 1);
                if count.get() <= hanging {
                    taken()
                } else {
                    Ok(())
                }
            };
            let started = with_free_name(&next, start).await;
            assert_eq!((count.get(), started.is_ok()), (tries, is_started));
        }
        // Another refusal is no matter of the name.
        let count = Cell::new(0);
        let start = async |_| {
            count.set(count.get() + 1);
            Err(io::Error::other("no"))
        };
        assert_eq!(
            with_free_name(&next, start).await.unwrap_err().to_string(),
            "no"
        );
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_program_that_is_missing_or_not_executable_has_a_fault() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("notify");
    let fault = || EventProgram::fault(&program).unwrap_or_default();
    assert!(fault().starts_with("No such file"), "{}", fault());
    std::fs::write(&program, "").unwrap();
    let set_mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program, mode).unwrap();
    };
    set_mode(0o644);
    assert_eq!(fault(), "it is not executable");
    set_mode(0o755);
    assert_eq!(fault(), "");
    assert_eq!(
        EventProgram::fault(folder.path()).as_deref(),
        Some("it is not a file")
    );
}

#[test]
fn a_full_queue_drops_renewals_first() {
    let (renewed, bound) = (LeaseEvent::Renewed, LeaseEvent::Bound);
    let mut queue = EventQueue::new();
    for place in 0..MAX_QUEUED {
        let kind = if place < 2 { renewed } else { bound };
        assert!(!queue.push(event(kind, &plain())));
    }
    let released = || event(LeaseEvent::Released, &plain());
    assert!(queue.push(released()) && queue.push(released()));
    assert_eq!(queue.waiting.len(), MAX_QUEUED);
    assert!(queue.waiting.iter().all(|waiting| !waiting.is_renewal));
    assert_eq!(queue.waiting.back(), Some(&released()));
    // Nothing else can go.
    assert!(queue.push(event(LeaseEvent::Gone, &plain())));
    assert_eq!(queue.waiting.back(), Some(&released()));
    assert_eq!(queue.waiting.len(), MAX_QUEUED);
}
