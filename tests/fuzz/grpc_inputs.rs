//! The gRPC side of it: the kept inputs, those made by hand, and damage at random.

use crate::conversations::{all, config, selection};
use crate::frames::{hello, request};
use crate::grpc::{DECODE, HELLO, calls, grpc};
use proptest::prelude::*;
use smol_dhcp_proxy::rpc::Call;
use std::path::Path;

#[test]
fn committed_conversations() {
    crate::replay("grpc", grpc);
}

/// The fuzzer begins with them, so they are files, too. With KEEP in the environment they are
/// written.
#[test]
fn conversations_made_by_hand_are_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/grpc");
    for (name, bytes) in all() {
        let file = folder.join(name);
        if std::env::var_os("KEEP").is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&file).is_ok_and(|kept| kept == bytes),
            "{} is not what is made: KEEP=1",
            file.display()
        );
    }
}

/// The watcher of the fuzzer hears what is said: otherwise it would find every input faultless.
#[test]
fn calls_are_heard() {
    let setup = Call::Setup(config());
    assert_eq!(
        calls(
            0,
            &[hello(), request(1, &setup), request(3, &Call::Clean)].concat(),
            2
        ),
        [setup, Call::Clean]
    );
    let renew = Call::Renew(selection(3));
    let release = Call::Release(selection(0));
    let bytes = [hello(), request(1, &renew), request(3, &release)].concat();
    assert_eq!(calls(0, &bytes, 2), [renew, release]);
    let heard = |wanted: &str, enough: usize| {
        let (_, bytes) = all().into_iter().find(|(name, _)| *name == wanted).unwrap();
        calls(bytes[0], &[&hello(), &bytes[1..]].concat(), enough).len()
    };
    for (name, count) in [
        ("padded", 1),
        ("trailers", 1),
        ("interleaved", 2),
        ("renew-release", 2),
        ("continuation", 1),
        ("unanswered", 3),
    ] {
        assert_eq!(heard(name, count), count, "{name}");
    }
    for name in [
        "even-stream",
        "data-on-idle",
        "padding-too-long",
        "table-size-too-much",
        "get",
        "continuation-flood",
    ] {
        assert_eq!(heard(name, 0), 0, "{name}");
    }
}

/// What netavark's own client says has a call in it.
#[test]
fn the_recorded_client_is_understood() {
    let bytes = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/grpc/netavark-setup"),
    )
    .unwrap();
    let heard = calls(bytes[0], &bytes[1..], 1);
    assert!(
        matches!(&heard[..], [Call::Setup(config)] if config.container_mac_addr == "02:00:00:00:00:01"),
        "{heard:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damaged_conversations(
        choice in 0..DECODE,
        conversation in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let all = all();
        let (_, mut bytes) = conversation.get(&all).clone();
        bytes[0] |= choice;
        for (at, byte) in edits {
            let at = 1 + at.index(bytes.len() - 1);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        grpc(&bytes);
    }

    #[test]
    fn random_conversations(choice in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        grpc(&[&[choice | HELLO], &bytes[..]].concat());
    }
}
