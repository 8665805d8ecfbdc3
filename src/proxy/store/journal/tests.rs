use std::fs;
use std::path::{Path, PathBuf};

use futures_lite::future::{poll_once, yield_now};

use super::*;
use crate::mac::Mac;

fn key(number: u8) -> LeaseKey {
    let netns = Path::new("/run/netns/a").into();
    LeaseKey {
        mac: Mac([2, 0, 0, 0, 0, number]),
        netns,
        interface: "eth0".into(),
    }
}

const NAME: &str = "nv-proxy.work";

/// A directory that is removed at the end of the test.
fn scratch() -> (tempfile::TempDir, Rc<StateDirectory>) {
    let folder = tempfile::tempdir().unwrap();
    let directory = StateDirectory::lock(&folder.path().join("nv-proxy.lock"), None).unwrap();
    (folder, directory)
}

fn path(folder: &StateDirectory) -> PathBuf {
    folder.path_of(NAME.as_ref())
}

fn opened(folder: &Rc<StateDirectory>) -> Rc<Journal> {
    let journal = Journal::new(folder, NAME);
    journal.open();
    journal
}

fn content(folder: &StateDirectory) -> String {
    fs::read_to_string(path(folder)).unwrap()
}

/// Kills the process at a step for a lease, and starts the next one.
fn dies_of(folder: &Rc<StateDirectory>, lease: &LeaseKey) -> Rc<Journal> {
    let journal = opened(folder);
    std::mem::forget(journal.begin_step(lease));
    drop(journal);
    opened(folder)
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_lease_is_tried_last_then_later_then_only_by_a_call() {
    let (_scratch, folder) = &scratch();
    let (fatal, harmless) = (key(1), key(2));
    let journal = dies_of(folder, &fatal);
    assert_eq!(
        (
            journal.trust(&fatal),
            journal.retry_delay(&fatal, Some(HOUR))
        ),
        (Trust::Last, Some(Duration::ZERO))
    );
    let journal = dies_of(folder, &fatal);
    assert_eq!(
        (
            journal.trust(&fatal),
            journal.retry_delay(&fatal, Some(HOUR))
        ),
        (Trust::Last, Some(SECOND_RETRY_DELAY))
    );
    let minute = Duration::from_secs(60);
    assert_eq!(
        journal.retry_delay(&fatal, Some(minute)),
        Some(minute / 4),
        "the wait does not lose the lease"
    );
    assert_eq!(journal.retry_delay(&fatal, None), Some(SECOND_RETRY_DELAY));
    // A restart for another reason neither delays the lease again nor clears its deaths.
    let journal = opened(folder);
    assert_eq!(
        (
            journal.trust(&fatal),
            journal.retry_delay(&fatal, Some(HOUR))
        ),
        (Trust::Last, None)
    );
    let journal = dies_of(folder, &fatal);
    assert_eq!(
        (journal.trust(&fatal), journal.deaths(&fatal)),
        (Trust::Quarantined, 3)
    );
    assert_eq!(
        (
            journal.trust(&harmless),
            journal.retry_delay(&harmless, None)
        ),
        (Trust::Full, None)
    );
    // A call for it succeeds.
    journal.clear_deaths(&fatal);
    assert_eq!(journal.trust(&fatal), Trust::Full);
    assert_eq!(opened(folder).trust(&fatal), Trust::Full);
    assert_eq!(dies_of(folder, &fatal).deaths(&fatal), 1);
}

#[test]
fn only_the_lease_at_whose_step_it_died_is_blamed() {
    let (_scratch, folder) = &scratch();
    let (one, other) = (key(1), key(2));
    let journal = opened(folder);
    let wait = async {
        yield_now().await;
        // A step for one lease within a step for another.
        let _step = journal.begin_step(&other);
        assert_eq!(content(folder), LeaseHash::of(&other).line());
    };
    let mut work = Box::pin(journal.watch(&one, async {
        assert_eq!(content(folder), LeaseHash::of(&one).line());
        wait.await;
        assert_eq!(content(folder), LeaseHash::of(&one).line());
    }));
    let mut poll = || futures_lite::future::block_on(poll_once(&mut work));
    assert_eq!(poll(), None);
    assert_eq!(
        content(folder),
        LeaseHash::NONE.line(),
        "it waits, and so does the process"
    );
    assert_eq!(poll(), Some(()));
    assert_eq!(content(folder), LeaseHash::NONE.line());
    assert_eq!(opened(folder).trust(&one), Trust::Full);
}

#[test]
fn what_a_drop_does_is_a_step_too() {
    struct Undo(Rc<StateDirectory>);

    impl Drop for Undo {
        fn drop(&mut self) {
            assert_eq!(content(&self.0), LeaseHash::of(&key(1)).line());
        }
    }

    let (_scratch, folder) = &scratch();
    let journal = opened(folder);
    let undo = Undo(Rc::clone(folder));
    drop(journal.watch(&key(1), async move { drop(undo) }));
    assert_eq!(content(folder), LeaseHash::NONE.line());
}

#[test]
fn counts_are_kept_as_long_as_the_lease_and_the_wish_of_the_process_to_run() {
    let (_scratch, folder) = &scratch();
    let (one, other) = (key(1), key(2));
    dies_of(folder, &one);
    let journal = dies_of(folder, &other);
    journal.retain([&other, &key(3)]);
    assert_eq!((journal.deaths(&one), journal.deaths(&other)), (0, 1));
    assert_eq!(
        content(folder),
        format!(
            "{}{:016x} 1\n",
            LeaseHash::NONE.line(),
            LeaseHash::of(&other).0
        )
    );
    journal.clear();
    assert_eq!(
        (content(folder), opened(folder).deaths(&other)),
        (LeaseHash::NONE.line(), 0)
    );
}

#[test]
fn a_file_of_any_content_is_read_and_one_that_is_no_file_is_left_alone() {
    let (scratch, folder) = &scratch();
    let path = path(folder);
    for text in [
        "",
        "x",
        "0",
        "\n\n",
        "0000000000000001",
        "zz\n1 2\n1 3\n2\n3 x\n",
        "1\n1 4294967295\n",
    ] {
        fs::write(&path, text).unwrap();
        let journal = opened(folder);
        assert!(
            content(folder).starts_with(&LeaseHash::NONE.line()),
            "{text:?}"
        );
        drop(journal.begin_step(&key(1)));
    }
    assert_eq!(
        Deaths::parse("0\n1 2\n1 3\n").1.of(LeaseHash(1)),
        2,
        "what follows may be left of a longer file"
    );
    fs::remove_file(&path).unwrap();
    let target = scratch.path().join("target");
    fs::write(&target, "another's").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    drop(opened(folder).begin_step(&key(1)));
    assert_eq!(fs::read_to_string(target).unwrap(), "another's");
}

#[test]
fn another_process_reads_the_deaths() {
    let (_scratch, folder) = &scratch();
    let (fatal, harmless) = (key(1), key(2));
    let read = || RecordedDeaths::read(&fs::read(path(folder)).unwrap()[..]).unwrap();
    let journal = opened(folder);
    assert!(read().is_empty());
    let step = journal.begin_step(&fatal);
    assert_eq!(read().of(&fatal, true), 0, "it is being worked on");
    assert_eq!(read().of(&fatal, false), 1, "the process died at it");
    drop(step);
    assert!(read().is_empty());
    drop(journal);
    let journal = dies_of(folder, &fatal);
    assert_eq!(
        [true, false].map(|running| read().of(&fatal, running)),
        [1, 1]
    );
    assert_eq!(read().of(&harmless, false), 0);
    drop(journal);
    for damaged in ["", "x", "\0\0", "1 2 3\nffffffffffffffff 99999999999"] {
        let read = RecordedDeaths::read(damaged.as_bytes()).unwrap();
        assert_eq!(read.of(&fatal, false), 0, "{damaged:?}");
    }
}
