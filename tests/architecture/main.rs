//! The structure of `src`, held by a test: imports, purity, `unsafe`, circles, lengths.
//!
//! The rules are the tables of `rules.rs`. What counts as an import is each path, in a `use` or in
//! the midst of code, that leads to another file of the crate; tests within `src` are left out of
//! all but the lengths. A path counts for the file that *defines* what it names: the re-exports of
//! a `mod.rs` are followed, so `crate::dhcp::Lease` is an import of `dhcp/lease.rs`, whichever file
//! re-exports it. For the layers the path as written counts too.
//!
//! No circle by file: a file and the files of the modules below it are one module in several files.
//! A file therefore depends on the files below it, whether it names them or not, and may name what
//! the files above it define (`super::Mac`) without depending on them. All other imports must form
//! no circle. So `mod.rs` with re-exports of siblings makes none; `lease.rs` and `message.rs` that
//! import each other do, and so does `a.rs` with `b.rs` when `b/part.rs` imports `a.rs`.
//!
//! The lengths of `tests`, `benches` and `examples` are held to a mark of their own, which only
//! goes down: a table of servers or of conversations is long without being hard to read.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test may fail")]

mod known;
mod rules;
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use rules::{missing, violations};
use source::Tree;

/// The longest file and function outside `src`.
const OTHER_FILE_LINES: usize = 720;
const OTHER_FUNCTION_LINES: usize = 120;

#[test]
fn the_tree_keeps_its_rules() {
    let tree = Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(tree.files.len() > 50, "{} files", tree.files.len());
    compare(&violations(&tree), known::IN_SRC);
    assert_eq!(missing(&tree), [""; 0], "pure files that are gone");
}

#[test]
fn files_and_functions_elsewhere_have_an_end() {
    let mut found = BTreeSet::new();
    for folder in ["tests", "benches", "examples"] {
        let tree = Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        for (name, file) in tree.files {
            if file.lines > OTHER_FILE_LINES {
                found.insert(format!(
                    "{folder}/{name} has more than {OTHER_FILE_LINES} lines"
                ));
            }
            for (function, _) in file
                .functions
                .iter()
                .filter(|(_, lines)| *lines > OTHER_FUNCTION_LINES)
            {
                found.insert(format!(
                    "{folder}/{name}: {function} has more than {OTHER_FUNCTION_LINES} lines"
                ));
            }
        }
    }
    compare(&found, known::ELSEWHERE);
}

/// Fails where violations are found that are not known, or known that are not found.
fn compare(found: &BTreeSet<String>, known: &[&str]) {
    let known: BTreeSet<String> = known.iter().map(|text| (*text).to_owned()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(found).collect();
    assert!(new.is_empty(), "{} new violations: {new:#?}", new.len());
    assert!(
        gone.is_empty(),
        "no longer found, remove from known.rs: {gone:#?}"
    );
}

/// The files that every planted tree has.
const BASE: &[(&str, &str)] = &[
    (
        "lib.rs",
        "pub mod dhcp; pub mod net; pub mod proxy; pub mod rt; pub mod service;",
    ),
    (
        "dhcp/mod.rs",
        "mod lease; mod message; pub use lease::Lease; pub struct Mac;",
    ),
    ("dhcp/lease.rs", "use super::Mac; pub struct Lease(Mac);"),
    ("dhcp/message.rs", "use super::lease::Lease;"),
    ("net/mod.rs", "pub mod link; pub mod raw;"),
    ("net/raw.rs", "fn cast() { unsafe {} }"),
    ("proxy/mod.rs", "pub const NAME: &str = \"\";"),
    (
        "rt.rs",
        "use async_io::Async; use crate::time::Instant; pub fn now() {}",
    ),
    ("service/activation.rs", "fn adopt() { unsafe {} }"),
    ("service/mod.rs", "mod activation; mod trim;"),
    ("service/trim.rs", "unsafe extern \"C\" {}"),
    ("time.rs", "pub struct Instant;"),
];

/// Checks the base with files that replace some of its own or come beside them.
fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let is_replaced = |name: &str| files.iter().any(|(new, _)| *new == name);
    let kept = BASE.iter().filter(|(name, _)| !is_replaced(name));
    let tree = Tree::parse(kept.chain(files).copied());
    violations(&tree).into_iter().collect()
}

#[test]
fn the_base_keeps_the_rules() {
    assert_eq!(planted(&[]), [""; 0]);
}

#[test]
fn siblings_and_lower_layers_do_not_import_each_other() {
    assert_eq!(
        planted(&[("net/link.rs", "use crate::dhcp::Lease;")]),
        ["net/link.rs imports crate::dhcp::Lease, of dhcp"]
    );
    assert_eq!(
        planted(&[("service/serve.rs", "fn f() { crate::net::raw::cast() }")]),
        ["service/serve.rs imports crate::net::raw::cast, of net"]
    );
    // As an argument of a macro, too.
    assert_eq!(
        planted(&[(
            "service/serve.rs",
            "fn f() { println!(\"{}\", crate::proxy::NAME) }"
        )]),
        ["service/serve.rs imports crate::proxy::NAME, of proxy"]
    );
    assert_eq!(
        planted(&[("main.rs", "fn main() { smol_dhcp_proxy::rt::now() }")]),
        ["main.rs imports crate::rt::now, of rt"]
    );
    assert_eq!(planted(&[("other.rs", "")]), ["other.rs is in no layer"]);
}

#[test]
fn a_re_export_hides_no_layer() {
    let own = "pub use crate::net::raw::cast;";
    assert_eq!(
        planted(&[("rt.rs", own), ("service/serve.rs", "use crate::rt::cast;")]),
        [
            "rt.rs imports crate::net::raw::cast, of net",
            "service/serve.rs imports crate::rt::cast, of net",
        ]
    );
}

#[test]
fn folders_import_to_their_right() {
    let key = ("proxy/key.rs", "pub struct Key;");
    let call = (
        "proxy/call/mod.rs",
        "use crate::proxy::key::Key; pub struct Call(Key);",
    );
    assert_eq!(planted(&[key, call]), [""; 0]);
    assert_eq!(
        planted(&[
            ("proxy/call/mod.rs", "use crate::proxy::store::File;"),
            ("proxy/store/mod.rs", "pub struct File;")
        ]),
        ["proxy/call/mod.rs imports proxy/store/mod.rs, a folder to its left"]
    );
    assert_eq!(
        planted(&[("proxy/key.rs", "use super::NAME;")]),
        ["proxy/key.rs imports proxy/mod.rs, a folder to its left"]
    );
    assert_eq!(
        planted(&[("proxy/pantry.rs", "")]),
        ["proxy/pantry.rs is in no folder of the table"]
    );
}

#[test]
fn pure_files_are_out_of_reach_of_the_machine() {
    let pure = |text| planted(&[("dhcp/message.rs", text)]);
    assert_eq!(
        pure("use std::{fs, net::{Ipv4Addr, UdpSocket}};"),
        [
            "dhcp/message.rs is pure and names std::fs",
            "dhcp/message.rs is pure and names std::net::UdpSocket",
        ]
    );
    assert_eq!(
        pure("use std::thread as t; fn f() { t::yield_now() }"),
        ["dhcp/message.rs is pure and names std::thread"]
    );
    assert_eq!(
        pure("fn f() { assert!(std::env::var(\"A\").is_ok()) }"),
        ["dhcp/message.rs is pure and names std::env"]
    );
    assert_eq!(
        planted(&[("service/idle.rs", "use crate::rt; fn f() { rt::now() }")]),
        ["service/idle.rs is pure and names crate::rt"]
    );
    assert_eq!(
        pure("use std::net::*; fn f() { UdpSocket::bind(\"\") }"),
        ["dhcp/message.rs is pure and names std::net::TcpListener"]
    );
    // Nor through a file of the crate that is not pure itself.
    assert_eq!(
        planted(&[
            ("service/idle.rs", "use super::activation::adopt;"),
            ("service/activation.rs", "pub fn adopt() { unsafe {} }"),
        ]),
        ["service/idle.rs is pure and imports service/activation.rs"]
    );
    // In its tests it may.
    assert_eq!(pure("#[cfg(test)] mod tests { use std::fs; }"), [""; 0]);
}

#[test]
fn the_runtime_has_one_file() {
    assert_eq!(
        planted(&[("service/serve.rs", "use smol::Task;")]),
        ["service/serve.rs names the runtime smol"]
    );
}

#[test]
fn unsafe_has_an_address() {
    assert_eq!(
        planted(&[("service/serve.rs", "fn f() { g!(unsafe { 1 }) }")]),
        ["service/serve.rs has unsafe 1 times, and 0 are listed"]
    );
    assert_eq!(
        planted(&[("service/trim.rs", "")]),
        ["service/trim.rs has unsafe 0 times, and 1 are listed"]
    );
}

#[test]
fn there_is_no_circle() {
    // Through the re-export of the folder, which is no part of it.
    let lease = (
        "dhcp/lease.rs",
        "use super::message::Message; pub struct Lease(Message);",
    );
    let message = ("dhcp/message.rs", "pub struct Message(crate::dhcp::Lease);");
    assert_eq!(
        planted(&[lease, message]),
        ["a circle: dhcp/lease.rs dhcp/message.rs"]
    );
    // Through the file of a child that its parent does not name.
    let lease = ("dhcp/lease.rs", "mod parse; pub struct Lease;");
    let parse = (
        "dhcp/lease/parse.rs",
        "use crate::dhcp::message::Message; use super::Lease;",
    );
    let message = (
        "dhcp/message.rs",
        "use super::lease::Lease; pub struct Message;",
    );
    assert_eq!(
        planted(&[lease, parse, message]),
        ["a circle: dhcp/lease.rs dhcp/lease/parse.rs dhcp/message.rs"]
    );
}

#[test]
fn files_and_functions_have_an_end() {
    let long = "// A line.\n".repeat(501);
    assert_eq!(
        planted(&[("service/serve.rs", &long)]),
        ["service/serve.rs has more than 500 lines"]
    );
    let long = format!("impl A {{ fn f() {{\n{}}} }}", "    g();\n".repeat(80));
    assert_eq!(
        planted(&[("service/serve.rs", &long)]),
        ["service/serve.rs: f has more than 80 lines"]
    );
}
