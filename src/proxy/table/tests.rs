//! Tables for tests, and tests of the table as a whole.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::dhcp::{Lease, Phase};
use crate::proxy::call::client_id::ClientIdentity;
use crate::proxy::config::DhcpSettings;
use crate::proxy::key::LeaseKey;
use crate::proxy::store::address_history::AddressHistory;
use crate::proxy::store::counters::Counters;
use crate::proxy::store::directory::StateDirectory;
use crate::proxy::store::journal::Journal;
use crate::proxy::store::lease_file::LeaseFile;
use crate::proxy::store::lease_file::tests::daemon_state;
use crate::proxy::store::networks::Networks;
use crate::proxy::store::record::tests::{phases, record, with_mac};
use crate::rt::{self, Runtime};
use crate::service::{Idle, Notify};

use super::keep_alive::LeaseKeepAlive;
use super::plan::Action;
use super::state::{Parts, Slot, SlotState, Table};

/// Makes a table with its files in `folder`.
pub(super) fn table(runtime: &Runtime, folder: &Path) -> Rc<Table> {
    let directory = StateDirectory::lock(&folder.join("lock"), None).unwrap();
    let file = LeaseFile::new(&directory, "leases");
    let networks = Networks::new(&directory, "networks", file.boot_id());
    Table::new(Parts {
        runtime: runtime.clone(),
        idle: Idle::new(None),
        notify: Notify::none(),
        file,
        daemon: daemon_state(),
        counters: Counters::new(1, Duration::ZERO),
        events: None,
        history: AddressHistory::new(&directory, "known", "boot"),
        networks,
        journal: Journal::new(&directory, "work"),
        settings: DhcpSettings::default(),
        identity: ClientIdentity::Container,
        keep_alive: LeaseKeepAlive::new(Err("a test".into()), Duration::ZERO),
    })
}

/// Adds a lease in a namespace that does not exist: work on it removes it.
pub(super) fn insert(table: &Rc<Table>, number: u8, deaths: u32) -> LeaseKey {
    let record = record(Phase::Init {
        at: rt::now(),
        since: rt::now(),
        wanted: None,
        pace: 0,
    })
    .with_link_check();
    let record = with_mac(record, [2, 0, 0, 0, 0, number]);
    let key = record.key().clone();
    table.journal.count(&key, deaths);
    table.restore_slot(&key, Slot::dormant(&record, false));
    key
}

fn active(table: &Table) -> Vec<LeaseKey> {
    table.with_slots(|slots| {
        let active = slots
            .iter()
            .filter(|(_, slot)| matches!(slot.state, SlotState::Active(_)));
        active.map(|(key, _)| key.clone()).collect()
    })
}

#[test]
fn leases_that_ended_the_process_come_last_and_alone_and_in_quarantine_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    rt::block_on(async move |runtime| {
        let table = table(&runtime, &path);
        let quarantined = insert(&table, 1, 3);
        let (worse, bad) = (insert(&table, 2, 2), insert(&table, 3, 1));
        let others: Vec<_> = (4..7).map(|number| insert(&table, number, 0)).collect();
        let mut batches = Vec::new();
        while table.len() > 1 {
            let mut batch = Vec::new();
            while let Action::Wake { key, turn } = table.poll_plan() {
                table.wake(&key, turn, None);
                batch.push(key);
            }
            assert_eq!(active(&table), batch);
            batches.push(batch);
            while !active(&table).is_empty() {
                yield_now().await;
            }
        }
        assert_eq!(batches, [others, vec![bad], vec![worse]]);
        assert_eq!(table.keys(|_| true), [quarantined]);
        table.close_file();
    });
}

#[test]
fn a_quarantined_lease_that_has_expired_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    rt::block_on(async move |runtime| {
        let table = table(&runtime, &path);
        let [
            Phase::Bound {
                lease,
                renew_at,
                rebind_at,
            },
            ..,
        ] = phases()
        else {
            panic!("a bound lease");
        };
        let over = Lease {
            acquired_at: rt::now(),
            lease_time: Some(Duration::ZERO),
            ..lease
        };
        for (number, deaths) in [(1, 3), (2, 0)] {
            let expired = record(Phase::Bound {
                lease: over.clone(),
                renew_at,
                rebind_at,
            });
            let expired = with_mac(expired, [2, 0, 0, 0, 0, number]);
            let key = expired.key().clone();
            table.journal.count(&key, deaths);
            table.restore_slot(&key, Slot::dormant(&expired, true));
            table.check_links(vec![key]).await;
        }
        assert_eq!(table.len(), 0, "one has expired, and the other is gone");
        let counters = table.context.counters.borrow();
        let counters = serde_json::to_value(&*counters).unwrap();
        assert_eq!(counters["expiries"], 1);
        drop(counters);
        table.close_file();
    });
}
