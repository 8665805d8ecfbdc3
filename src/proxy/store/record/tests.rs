//! A record is decoded and parsed as it was encoded, unless the file was changed.

use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::dhcp::Plainness;
use crate::mac::Mac;
use crate::net::netns::NetnsId;
use crate::proxy::call::reply::tests::plain;

pub(crate) fn at(millis: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millis))
}

fn about() -> (Request, ContainerInterface, dhcp::Config) {
    let netns: Rc<Path> = Path::new("/run/netns/a").into();
    let request = Request {
        key: LeaseKey {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            netns: Rc::clone(&netns),
            interface: "eth1".into(),
        },
        ns_path: netns,
        mac_text: "02-00:00:00:00:01".to_owned(),
        host_interface: "eth0".to_owned(),
        container_interface: "eth1".to_owned(),
        client_id: b"\0id".to_vec(),
        host_name: Some("web".to_owned()),
        domain_name: "my.example".to_owned(),
    };
    let site = ContainerInterface {
        netns: NetnsId {
            dev: 4,
            ino: 4_026_532_000,
            cookie: Some(77),
        },
        index: 3,
    };
    let config = dhcp::Config {
        host_name: Some("web".to_owned()),
        ..dhcp::Config::new(Mac([2, 0, 0, 0, 0, 1]), b"\0id".to_vec())
    };
    (request, site, config)
}

fn full() -> dhcp::Lease {
    let (on_link, far) = ("10.9.0.0".parse().unwrap(), "10.10.0.0".parse().unwrap());
    dhcp::Lease {
        broadcast: Some(Ipv4Addr::new(10, 0, 0, 255)),
        routes: vec![
            dhcp::StaticRoute {
                destination: on_link,
                prefix_len: 16,
                gateway: None,
            },
            dhcp::StaticRoute {
                destination: far,
                prefix_len: 16,
                gateway: Some(Ipv4Addr::new(10, 0, 0, 7)),
            },
        ],
        search: vec!["a.example".to_owned(), "b.example".to_owned()],
        host_name: Some("given".to_owned()),
        mtu: Some(1400),
        ntp_servers: vec![Ipv4Addr::new(10, 0, 0, 123)],
        next_server: Some(Ipv4Addr::new(10, 0, 0, 2)),
        server_mac: Some(Mac([2, 9, 9, 9, 9, 9])),
        lease_time: Some(Duration::from_secs(3600)),
        t1: Duration::from_secs(1800),
        t2: Duration::from_secs(3150),
        acquired_at: at(1_000_000),
        ..plain()
    }
}

/// A record of `phase` with an address on the link.
pub(crate) fn record(phase: Phase) -> Record {
    let (request, site, config) = about();
    let rest = Snapshot {
        phase,
        failures: 2,
        plainness: Plainness::LikeNetavark,
        rate_full_at: at(1_500_000),
    };
    let mut settings = Applied::default();
    settings.assume_address(Ipv4Addr::new(10, 0, 0, 5), 24);
    Record::dormant((&request, &site), &config, rest, &settings, None)
}

/// The same record with another MAC.
pub(crate) fn with_mac(mut record: Record, mac: [u8; 6]) -> Record {
    record.request.key.mac = Mac(mac);
    record.request.mac_text = Mac(mac).to_string();
    record
}

/// A record as its entry in the state file.
pub(super) fn entry_of(record: &Record) -> Value {
    serde_json::to_value(StoredRecord::from(record)).unwrap()
}

pub(crate) fn phases() -> [Phase; 5] {
    let (lease, never) = (full(), Instant::from_boot(Duration::MAX));
    let (renew_at, rebind_at, next) = (at(2_800_000), at(4_150_000), at(3_000_000));
    let wanted = Some(lease.address);
    [
        Phase::Bound {
            lease: lease.clone(),
            renew_at,
            rebind_at,
        },
        Phase::Renewing {
            lease: lease.clone(),
            renew_at,
            rebind_at,
            next,
        },
        Phase::Rebinding {
            lease,
            renew_at,
            rebind_at,
            next,
        },
        Phase::Init {
            at: next,
            since: at(2_900_000),
            wanted,
            pace: 3,
        },
        Phase::Bound {
            lease: plain(),
            renew_at: never,
            rebind_at: never,
        },
    ]
}

#[test]
fn what_is_remembered_is_what_there_was() {
    for phase in phases() {
        let record = record(phase.clone());
        assert_eq!(EncodedRecord::from(&record).decode(), record);
        assert_eq!(
            Record::parse(&entry_of(&record), at(2_900_000)),
            Some(record.clone())
        );
        let Record {
            request,
            interface,
            applied,
            message_size,
            state,
            link_check,
            retry,
            last_trouble,
        } = EncodedRecord::from(&record).decode();
        let expected = about();
        assert_eq!(
            (request.key, request.mac_text),
            (expected.0.key, expected.0.mac_text)
        );
        assert_eq!(
            (request.client_id, request.host_name),
            (expected.0.client_id, expected.0.host_name)
        );
        assert_eq!((interface, link_check, retry), (expected.1, None, None));
        assert_eq!(last_trouble, None);
        assert_eq!(applied.address(), Some((Ipv4Addr::new(10, 0, 0, 5), 24)));
        assert_eq!(message_size, Some(expected.2.max_message_size));
        let snapshot = Snapshot {
            phase,
            failures: 2,
            plainness: Plainness::LikeNetavark,
            rate_full_at: at(1_500_000),
        };
        let expected = RecordState::Held {
            snapshot,
            deferred_until: None,
            unresponsive_since: None,
        };
        assert_eq!(state, expected);
    }
}

#[test]
fn it_is_due_when_its_state_says() {
    let dues = phases().map(|phase| record(phase).due());
    let next = Some(at(3_000_000));
    assert_eq!(dues, [Some(at(2_800_000)), next, next, next, None]);
    let bound = record(phases()[0].clone());
    // A tenth of T1, 1800 s.
    assert_eq!(bound.may_renew_from(), Some(at(2_800_000 - 180_000)));
    assert_eq!(bound.clone().with_link_check().due(), Some(at(0)));
    assert_eq!(bound.clone().ending().due(), Some(at(0)));
    assert_eq!(bound.deadline(), Some(at(4_150_000)));
}

#[test]
fn what_fails_is_tried_again_ever_later_up_to_an_hour() {
    let (mut record, mut now) = (record(phases()[0].clone()).with_link_check(), at(2_900_000));
    let mut delays = Vec::new();
    for _ in 0..10 {
        record = record.with_retry(now);
        assert!(record.is_retry() && record.may_renew_from().is_none());
        let due = record.due().unwrap();
        delays.push((due - now).as_secs());
        now = due;
        record = Record::parse(&entry_of(&record), now).unwrap();
    }
    assert_eq!(delays, [30, 60, 120, 240, 312, 234, 175, 131, 98, 74]);
    let ending = record.clone().ending();
    assert_eq!(
        (ending.due(), ending.with_retry(now).due()),
        (Some(at(0)), Some(now + Duration::from_secs(30)))
    );
}

#[test]
fn an_adopted_lease_is_renewed_at_once_and_rebound_where_its_age_says_little() {
    let (request, site, _) = about();
    let lease = crate::proxy::call::reply::reply(&request, &full());
    let adopted = |lease: &NetavarkLease, age: u64| {
        let now = at(9_000_000);
        let settings = Applied::default();
        Record::adopted(
            lease.clone(),
            (&request, &site),
            &settings,
            (at(9_000_000 - age * 1000), now),
        )
    };
    // Before T2 at 3150 s, the REQUEST is unicast to the server of the lease.
    for age in [0, 1000, 3149] {
        let record = adopted(&lease, age).unwrap();
        assert!(record.is_bound() && record.due() == Some(at(9_000_000)));
        assert_eq!(
            record.remaining(at(9_000_000)),
            Some(Duration::from_secs(3600 - age))
        );
        assert_eq!(
            (record.address(), record.names().client_id),
            (Some(Ipv4Addr::new(10, 0, 0, 5)), &b"\0id"[..])
        );
    }
    for age in [3150, 3600, 8999] {
        let record = adopted(&lease, age).unwrap();
        assert!(
            matches!(record.phase(), Some(Phase::Rebinding { .. })),
            "{age}"
        );
        assert_eq!(record.due(), Some(at(9_000_000)), "{age}");
        assert_eq!(
            record.remaining(at(9_000_000)),
            Some(Duration::from_secs(450)),
            "{age}"
        );
    }
    let for_ever = NetavarkLease {
        lease_time: u32::MAX,
        t1: u32::MAX,
        t2: u32::MAX,
        ..lease.clone()
    };
    let record = adopted(&for_ever, 100).unwrap();
    assert!(record.is_bound() && record.remaining(at(9_000_000)).is_none());
    // netavark writes zeros if the server sent no T1 and T2.
    let timeless = adopted(
        &NetavarkLease {
            t1: 0,
            t2: 0,
            ..lease.clone()
        },
        100,
    )
    .unwrap();
    assert_eq!(
        (timeless.reply().unwrap().t1, timeless.due()),
        (1800, Some(at(9_000_000)))
    );
    for nonsense in [
        NetavarkLease {
            subnet_mask: "here".to_owned(),
            ..lease.clone()
        },
        NetavarkLease {
            yiaddr: "127.0.0.1".to_owned(),
            ..lease.clone()
        },
        NetavarkLease {
            srv_id: String::new(),
            ..lease.clone()
        },
    ] {
        assert_eq!(adopted(&nonsense, 0), None, "{nonsense:?}");
    }
}

#[test]
fn calls_that_were_under_way_are_known() {
    let (request, site, _) = about();
    let intent = Record::intent(&request, &site);
    assert_eq!((intent.reply(), intent.due()), (None, Some(at(0))));
    assert_eq!(entry_of(&intent)["yiaddr"], "");
    assert_eq!(intent.clone().ending(), intent);
    for phase in phases() {
        let lease = record(phase.clone()).ending();
        assert!(lease.is_ending());
        assert_eq!(EncodedRecord::from(&lease).decode(), lease, "{phase:?}");
    }
}

#[test]
fn netavarks_fields_are_as_the_caller_got_them() {
    let json = entry_of(&record(phases()[0].clone()));
    assert_eq!(
        (&json["yiaddr"], &json["t1"], &json["domain_name"]),
        (
            &json!("10.0.0.5"),
            &json!(1800),
            &json!("my.example a.example b.example")
        )
    );
    assert_eq!(
        (&json["mac_address"], &json["client_id"]),
        (&json!("02-00:00:00:00:01"), &json!("006964"))
    );
}

#[test]
fn what_is_missing_is_as_by_default_and_what_is_unknown_is_passed_over() {
    let sparse = |text: &str| StoredRecord::parse(&serde_json::from_str(text).unwrap()).unwrap();
    let entry = sparse(r#"{"t1": 7, "state": "INIT", "due_at": null, "from_the_future": []}"#);
    let expected = json!({"t1": 7, "state": "INIT"});
    let mut whole = serde_json::to_value(StoredRecord::default()).unwrap();
    for (name, value) in expected.as_object().unwrap() {
        whole[name] = value.clone();
    }
    assert_eq!(serde_json::to_value(&entry).unwrap(), whole);
    assert_eq!(entry.into_record(), None);
    // netavark's fields all or none.
    assert_eq!(
        sparse(r#"{"t1": 7, "mtu": "many"}"#),
        StoredRecord::default()
    );
    for wrong in [
        json!(7),
        json!({"state": null}),
        json!({"client_id": "0+"}),
        json!({"client_id": "é"}),
    ] {
        assert_eq!(StoredRecord::parse(&wrong), None, "{wrong}");
    }
}

/// Leases with any values of their types.
fn any_lease() -> impl Strategy<Value = dhcp::Lease> {
    let address = || any::<u32>().prop_map(Ipv4Addr::from_bits);
    let addresses = || prop::collection::vec(any::<u32>().prop_map(Ipv4Addr::from_bits), 0..3);
    let time = || {
        (any::<u32>(), 0..1000_u64).prop_map(|(seconds, millis)| {
            Duration::from_secs(seconds.into()) + Duration::from_millis(millis)
        })
    };
    let route = (any::<u32>(), 0..=32_u8, prop::option::of(address()));
    let routes = prop::collection::vec(route, 0..3).prop_map(|routes| {
        let route = |(to, prefix_len, gateway)| dhcp::StaticRoute {
            destination: Ipv4Addr::from_bits(to),
            prefix_len,
            gateway,
        };
        routes.into_iter().map(route).collect::<Vec<_>>()
    });
    let lists = (addresses(), addresses(), addresses(), routes);
    let texts = (
        prop::option::of(".{0,9}"),
        prop::collection::vec(".{0,9}", 0..3),
        prop::option::of(".{0,9}"),
    );
    let optional = (
        prop::option::of(address()),
        prop::option::of(address()),
        any::<Option<u16>>(),
        any::<Option<[u8; 6]>>(),
    );
    let times = (prop::option::of(any::<u32>()), time(), time(), time());
    (
        address(),
        address(),
        0..=32_u8,
        lists,
        texts,
        optional,
        times,
    )
        .prop_map(
            |(address, server_id, prefix_len, lists, texts, optional, times)| dhcp::Lease {
                address,
                prefix_len,
                broadcast: optional.0,
                routers: lists.0,
                routes: lists.3,
                dns_servers: lists.1,
                domain_name: texts.0,
                search: texts.1,
                host_name: texts.2,
                mtu: optional.2,
                ntp_servers: lists.2,
                server_id,
                next_server: optional.1,
                server_mac: optional.3.map(Mac),
                lease_time: times.0.map(|seconds| Duration::from_secs(seconds.into())),
                t1: times.1,
                t2: times.2,
                acquired_at: Instant::from_boot(times.3),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// A record is decoded whatever the server sent, and does not change when it is encoded again.
    #[test]
    fn what_is_encoded_can_be_decoded(
        lease in any_lease(),
        phase in 0..4_usize,
        times in any::<[u64; 3]>(),
        is_ending in any::<bool>(),
    ) {
        let [renew_at, rebind_at, next] = times.map(Duration::from_nanos).map(Instant::from_boot);
        let phase = match phase {
            0 => Phase::Bound { lease, renew_at, rebind_at },
            1 => Phase::Renewing { lease, renew_at, rebind_at, next },
            2 => Phase::Rebinding { lease, renew_at, rebind_at, next: NEVER },
            _ => Phase::Init { at: NEVER, since: next, wanted: Some(lease.address), pace: 7 },
        };
        let record = record(phase);
        let record = if is_ending { record.ending() } else { record };
        let decoded = EncodedRecord::from(&record).decode();
        prop_assert_eq!(&EncodedRecord::from(&decoded).decode(), &decoded);
        prop_assert_eq!(decoded.address(), record.address());
    }

    #[test]
    fn whatever_a_file_says_is_parsed_or_left(
        phase in 0..5_usize,
        key in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(Value::Null), any::<u64>().prop_map(Value::from), any::<i64>().prop_map(Value::from), ".{0,20}".prop_map(Value::from),
            Just(json!([])), Just(json!(["x"])), Just(json!([{"to": "0.0.0.0/99"}])), Just(json!("0.0.0.0")), Just(json!("BOUND")),
        ],
    ) {
        let mut json = entry_of(&record(phases()[phase].clone()));
        let keys: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
        json[key.get(&keys)] = value;
        if let Some(record) = Record::parse(&json, at(2_900_000)) {
            let _ = (record.due(), record.may_renew_from(), record.deadline(), record.address(), record.is_gone());
            // As the table resumes it.
            assert_eq!(EncodedRecord::from(&record).decode(), record);
            if let RecordState::Held { snapshot, .. } = record.state {
                let config = dhcp::Config::new(Mac([2, 0, 0, 0, 0, 1]), Vec::new());
                let mut client = dhcp::Client::resume(config, snapshot, 1, at(2_900_000));
                client.handle_timeout(at(5_000_000));
            }
        }
    }
}
