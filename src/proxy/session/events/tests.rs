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
    let clocks = (at(0), Duration::from_secs(1_780_000_000));
    QueuedEvent::new(event, subject, lease, clocks)
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
fn a_burst_is_told_at_once_and_then_ten_in_a_second() {
    let mut queue = EventQueue::new();
    for _ in 0..BURST + 1 {
        assert!(!queue.push(event(LeaseEvent::Bound, &plain())));
    }
    for _ in 0..BURST {
        assert!(matches!(queue.next(at(0)), EventStep::Start(_)));
    }
    assert_eq!(queue.next(at(0)), EventStep::Wait(INTERVAL));
    assert_eq!(
        queue.next(at(60)),
        EventStep::Wait(Duration::from_millis(40))
    );
    assert!(matches!(queue.next(at(100)), EventStep::Start(_)));
    assert_eq!(queue.next(at(100)), EventStep::Done);
    assert_eq!(queue.waiting.capacity(), 0);
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
