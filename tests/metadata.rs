//! Checks the package's `Cargo.toml` against cargo's data about its dependencies.
#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use serde_json::Value;

/// The first three numbers of a version of Rust; what is not said is zero.
fn version(text: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = text
        .split('.')
        .map(|number| number.parse().unwrap())
        .collect();
    numbers.resize(3, 0);
    numbers
}

/// Returns the output of `program`; `None` if it does not exist.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

/// `rust-version` is the highest that any package asks for which is built for the program, on this
/// kind of machine.
#[test]
fn the_oldest_rust_is_that_of_the_most_demanding_dependency() {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let Some(about) = output("rustc", &["-vV"]) else {
        return eprintln!("SKIPPED: no rustc");
    };
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let arguments = [
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--filter-platform",
        host,
    ];
    let Some(metadata) = output(&cargo, &arguments) else {
        return eprintln!("SKIPPED: no cargo");
    };
    let metadata: Value = serde_json::from_str(&metadata).unwrap();

    let by_id = |list: &'static str, of: &Value| -> BTreeMap<String, Value> {
        of[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["id"].as_str().unwrap().to_owned(), one.clone()))
            .collect()
    };
    let (packages, nodes) = (
        by_id("packages", &metadata),
        by_id("nodes", &metadata["resolve"]),
    );
    let root = metadata["resolve"]["root"].as_str().unwrap();
    let (mut needed, mut next) = (BTreeMap::new(), vec![root]);
    while let Some(id) = next.pop() {
        if needed
            .insert(id, packages[id]["rust_version"].as_str())
            .is_some()
        {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            // Neither of a program that is only tested.
            let is_built = |kind: &Value| kind["kind"] != "dev";
            if dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .any(is_built)
            {
                next.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    assert!(
        needed.len() > 50,
        "{} packages: the list is not whole",
        needed.len()
    );
    let ours = needed
        .remove(root)
        .unwrap()
        .expect("Cargo.toml has a rust-version");
    let (most_demanding, theirs) = needed
        .into_iter()
        .filter_map(|(id, version)| Some((id, version?)))
        .max_by_key(|(_, text)| version(text))
        .unwrap();
    assert_eq!(
        version(ours),
        version(theirs),
        "{most_demanding} asks for {theirs}, and Cargo.toml says {ours}"
    );
}
