//! Bytes of any kind: the client, the reader of rtnetlink and the gRPC server stay within their
//! invariants, for the committed inputs and for some random ones.
//!
//! `tests/fuzz/libfuzzer` lets a real fuzzer look for more, for as long as one likes, and keeps
//! what it finds in FOUND, an empty folder at first (nightly Rust; `cargo install cargo-fuzz`):
//!
//! ```text
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer packet FOUND tests/corpus/packet -- -max_total_time=300
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer operations FOUND tests/corpus/operations -- -max_total_time=300
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer netlink FOUND tests/corpus/netlink -- -max_total_time=300
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer grpc FOUND tests/corpus/grpc -- -max_total_time=600 -rss_limit_mb=512
//! ```
//!
//! How the committed inputs came about is in `tests/corpus/README.md`.
#![cfg(feature = "proxy")]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "nothing of a test is public, and it may fail"
)]

mod answers;
mod conversations;
#[path = "../lab/frames.rs"]
mod frames;
mod grpc;
mod grpc_inputs;
mod harness;
mod recorded;
mod watch;

use harness::{AS_ARP, AS_FRAME, AS_PAYLOAD, AS_REPLY};
use proptest::prelude::*;
use std::path::Path;

/// Runs every input of a folder, naming the one that fails; there are some.
fn replay(folder: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(
        files.len() >= 10,
        "{} inputs in {}",
        files.len(),
        folder.display()
    );
    for file in files {
        let input = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{} fails", file.display());
    }
}

#[test]
fn committed_packets() {
    replay("packet", harness::packet);
}

#[test]
fn committed_operations() {
    replay("operations", harness::operations);
}

#[test]
fn committed_netlink_answers() {
    replay("netlink", answers::netlink);
}

/// Whatever the client is like, the inputs find it where they look for it.
#[test]
fn every_state_is_reached() {
    for choice in 0..=u8::MAX {
        for (number, state) in (0..).zip(harness::STATES) {
            let mut client = watch::Watched::new(
                harness::config(choice),
                choice.into(),
                harness::start_of_time(),
            );
            harness::lead_to(&mut client, number);
            assert_eq!(client.state(), state, "{number}, {choice}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn random_packets(
        head in (any::<u8>(), any::<u8>(), prop::sample::select(vec![AS_FRAME, AS_PAYLOAD, AS_REPLY, AS_ARP])),
        rest in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        harness::packet(&[&[head.0, head.1, head.2][..], &rest].concat());
    }

    /// What real servers said, damaged: in every state, whole frames and payloads whose checksums
    /// are right.
    #[test]
    fn damaged_recordings(
        choice in any::<u8>(),
        state in any::<u8>(),
        form in prop::sample::select(vec![AS_FRAME, AS_PAYLOAD, AS_REPLY]),
        frame in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (_, frame) = frame.get(&recorded::ALL);
        let mut bytes = if form == AS_FRAME { frame.clone() } else { recorded::payload(frame).to_vec() };
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        harness::packet(&[&[choice, state, form][..], &bytes].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_operations(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        harness::operations(&bytes);
    }
}

/// The recorded answers of the kernel, by the names of their files.
fn recorded_answers() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/netlink");
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// Answers of a kernel, damaged.
    #[test]
    fn damaged_netlink_answers(
        answer in prop::sample::select(recorded_answers()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = answer;
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        answers::netlink(&bytes);
    }

    #[test]
    fn random_netlink_answers(choice in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..300)) {
        answers::netlink(&[&[choice][..], &rest].concat());
    }
}
