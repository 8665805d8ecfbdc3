//! A view says of a lease what its record says.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::tests::{at, entry_of, phases, record};
use super::*;
use crate::proxy::store::record::{LinkCheck, Record, RecordState};

const NOW: u64 = 2_900_000;

fn view(entry: &Value) -> Option<LeaseView<'static>> {
    let text: &'static str = entry.to_string().leak();
    let mut scanner = Scanner::new(text);
    let mut values = EntryValues::default();
    values.read(&mut scanner).unwrap();
    scanner.end().unwrap();
    LeaseView::parse(&values)
}

/// Compares the view of a record's entry with the record.
fn compare(record: &Record) {
    let entry = entry_of(record);
    let Some(view) = view(&entry) else {
        panic!("{entry}");
    };
    let lease = record.lease();
    assert_eq!(view.trouble().as_deref(), record.trouble().as_deref());
    assert_eq!((view.due, view.address), (record.due(), record.address()));
    assert_eq!(
        (view.t1, view.t2, view.expires_at),
        (record.t1(), record.t2(), record.expires_at())
    );
    assert_eq!(view.acquired_at, lease.map(|lease| lease.acquired_at));
    assert_eq!(view.prefix_length, lease.map(|lease| lease.prefix_len));
    assert_eq!(view.server, lease.map(|lease| lease.server_id));
    assert_eq!(
        view.server_mac.as_deref(),
        lease
            .and_then(|lease| lease.server_mac)
            .map(|mac| mac.to_string())
            .as_deref()
    );
    assert_eq!(
        view.routers.to_vec(),
        lease.map(|lease| lease.routers.clone()).unwrap_or_default()
    );
    assert_eq!(view.mac, record.key().mac.to_string());
    assert_eq!(
        (&*view.interface, &*view.parent),
        (
            &*record.request.container_interface,
            &*record.request.host_interface
        )
    );
    assert_eq!(*view.namespace, *record.key().netns.display().to_string());
    assert_eq!(view.key().as_ref(), Some(record.key()));
    assert_eq!(view.is_gone(), record.is_gone());
    assert_eq!(view.last_trouble, record.last_trouble);
    assert_eq!(entry["state"], view.state);
}

fn all() -> Vec<Record> {
    let mut all = Vec::new();
    for phase in phases() {
        let lease = record(phase);
        all.push(lease.clone().ending());
        all.push(lease.clone().with_link_check());
        all.push(lease.clone().with_retry(at(NOW)).with_retry(at(NOW)));
        all.push(lease.clone().with_trouble("no \"route\" to\nhost", at(NOW)));
        let link_check = LinkCheck {
            at: at(3_100_000),
            count: 2,
            is_send_pending: true,
        };
        all.push(Record {
            link_check: Some(link_check),
            ..lease.clone()
        });
        all.extend(lease.clone().defer_renewal(at(3_200_000)));
        all.push(lease);
    }
    let lease = &all[0];
    all.push(Record::intent(&lease.request, &lease.interface));
    all
}

#[test]
fn a_view_says_what_the_record_says() {
    for record in all() {
        compare(&record);
    }
}

#[test]
fn the_fields_are_in_the_order_of_the_file() {
    let trouble = record(phases()[0].clone()).with_trouble("x", at(0));
    let text = serde_json::to_string(&super::super::StoredRecord::from(&trouble)).unwrap();
    let mut names = Vec::new();
    Scanner::new(&text)
        .object(&mut |scanner, name| {
            names.push(name);
            scanner.value().map(drop)
        })
        .unwrap();
    names.push("asleep");
    assert_eq!(names, FIELDS);
}

#[test]
fn the_id_of_a_container_is_found_in_the_client_identifier() {
    let id = |client_id: &[u8]| {
        let mut record = record(phases()[0].clone());
        record.request.client_id = client_id.to_vec();
        let id = view(&entry_of(&record)).unwrap().container_id();
        id.map(|id| id.to_string())
    };
    let hexadecimal = "0123456789abcdef".repeat(4);
    let with_zero = [b"\0", hexadecimal.as_bytes()].concat();
    assert_eq!(id(&with_zero), Some(hexadecimal.clone()));
    assert_eq!(id(hexadecimal.as_bytes()), None);
    assert_eq!(id(&with_zero[..64]), None);
    assert_eq!(id(&[&with_zero[..], b"0"].concat()), None);
    assert_eq!(id(&[&with_zero[..64], b"\x1b"].concat()), None);
    assert_eq!(id(&[&with_zero[..64], b"g"].concat()), None);
    assert_eq!(id(b""), None);
}

#[test]
fn a_field_may_be_anywhere_and_a_wrong_one_costs_the_entry() {
    let entry = entry_of(&record(phases()[0].clone()));
    let fields = entry.as_object().unwrap();
    // Backwards, and with fields of the future.
    let mut text = "{\"more\":[{}]".to_owned();
    for (name, value) in fields.iter().rev() {
        text += &format!(" , \"{name}\" : {value}");
    }
    let text: &'static str = (text + ",\"most\":null}").leak();
    let mut values = EntryValues::default();
    values.read(&mut Scanner::new(text)).unwrap();
    assert_eq!(LeaseView::parse(&values), view(&entry));
    for (name, wrong) in [
        ("state", json!("SLEEPING")),
        ("ns_path", json!("")),
        ("mac_address", json!("02:00")),
        ("yiaddr", json!("10.0.0")),
        ("subnet_mask", json!("")),
        ("lease_time", json!("3600")),
        ("renew_at", json!(-1)),
        ("unsaid", json!(1)),
        ("container_iface", json!(null)),
    ] {
        let mut entry = entry.clone();
        entry[name] = wrong;
        assert_eq!(view(&entry), None, "{name}");
    }
    assert_eq!(view(&json!({})), None);
}

#[test]
fn a_mac_in_any_notation_is_shown_in_one() {
    for text in ["02-00:00:00:AB:01", "02:00:00:00:ab:01", "2:0:0:0:aB:1"] {
        assert_eq!(
            canonical_mac(text.into()).as_deref(),
            Some("02:00:00:00:ab:01")
        );
    }
    for text in [
        "",
        "02:00:00:00:ab",
        "02.00.00.00.ab.01",
        "02:00:00:00:ab:0g",
    ] {
        assert_eq!(canonical_mac(text.into()), None, "{text}");
    }
}

/// The same as below for each field, with values that some of them do not take.
#[test]
fn what_the_daemon_makes_a_record_of_is_shown() {
    for record in all() {
        let entry = entry_of(&record);
        for key in entry.as_object().unwrap().keys() {
            for value in ["BOUND", "ENDING", "", "0.0.0.0", "10.0.0.9"] {
                let mut entry = entry.clone();
                entry[key] = json!(value);
                let shown = view(&entry);
                if let Some(record) = Record::parse(&entry, at(NOW)) {
                    let shown = shown.unwrap_or_else(|| panic!("{key} {value:?}: {entry}"));
                    assert_eq!(shown.address, record.address(), "{key} {value:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// An entry that the daemon makes a record of is shown, with the same state and address.
    #[test]
    fn what_the_daemon_goes_on_with_is_shown(
        which in any::<prop::sample::Index>(),
        key in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(Value::Null), any::<u64>().prop_map(Value::from), any::<u32>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from), Just(json!("0.0.0.0")), Just(json!("BOUND")), Just(json!("INIT")),
            Just(json!("ENDING")), Just(json!([])), Just(json!(true)),
        ],
    ) {
        let all = all();
        let mut entry = entry_of(which.get(&all));
        let keys: Vec<String> = entry.as_object().unwrap().keys().cloned().collect();
        entry[key.get(&keys)] = value;
        let shown = view(&entry);
        if let Some(record) = Record::parse(&entry, at(NOW)) {
            let shown = shown.expect("it is shown");
            prop_assert_eq!(shown.address, record.address());
            prop_assert_eq!(shown.trouble().map(Cow::into_owned), record.trouble());
            let is_ending = matches!(record.state, RecordState::Ending { .. });
            prop_assert_eq!(shown.state == ENDING, is_ending);
            let _ = (shown.is_gone(), shown.routers.to_vec(), shown.container_id());
        } else if let Some(shown) = shown {
            // No time overflows.
            let _ = (shown.due.map(|due| due + Duration::MAX), shown.key());
        }
    }
}
