//! The pitfall of the tokio twin, as its example shows it: without O_NONBLOCK a service hangs, and
//! never leaves.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an error ends, and says where"
)]

#[path = "lab/service.rs"]
mod service;

use std::process::Command;

#[test]
fn a_blocking_socket_makes_tokio_hang_in_accept() {
    let shown = Command::new(service::example("pitfall")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&shown.stdout), text(&shown.stderr));
    assert!(shown.status.success(), "{said}{errors}");
    assert_eq!(
        said.contains("Registering a blocking socket"),
        cfg!(debug_assertions),
        "{said}"
    );
    assert!(said.contains("the child is in accept4(2)"), "{said}");
    assert!(
        said.contains("nonblocking: the child has left by itself"),
        "{said}"
    );
}
