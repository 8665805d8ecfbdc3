//! The rules of the tree, as tables, and the check of a tree against them.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{File, Tree};

/// The parts of the crate, and the parts that each may import. None imports the crate's root.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["operator"]),
    (
        "operator",
        &[
            "proxy", "service", "rpc", "net", "dhcp", "rt", "time", "mac", "rate",
        ],
    ),
    (
        "proxy",
        &["service", "rpc", "net", "dhcp", "rt", "time", "mac", "rate"],
    ),
    ("service", &["rt", "time", "rate"]),
    ("rpc", &["rt", "time", "rate"]),
    ("net", &["rt", "time", "mac"]),
    ("dhcp", &["time", "mac", "rate"]),
    ("rt", &["time"]),
    ("time", &[]),
    ("mac", &[]),
    ("rate", &["time"]),
    (
        "lib",
        &[
            "main", "operator", "proxy", "service", "rpc", "net", "dhcp", "rt", "time", "mac",
            "rate",
        ],
    ),
];

/// The folders and single files of `src/proxy`. Each may import those of later rows and those of its
/// own row; what `proxy/mod.rs` itself defines is imported by no other file.
const FOLDERS: &[&[&str]] = &[
    &["mod"],
    &["table"],
    &["session"],
    &["store"],
    &["container"],
    &["call"],
    &["key"],
    &["config", "error", "logging", "acquire_timeout", "sandbox"],
];

/// Files, and folders by their final `/`, that are pure: instants and chance are arguments, and the
/// machine is out of reach.
const PURE: &[&str] = &[
    "dhcp/",
    "operator/text.rs",
    "mac.rs",
    "rate.rs",
    "time.rs",
    "service/idle.rs",
    "rpc/wire.rs",
    "rpc/status.rs",
    "proxy/call/reply.rs",
    "proxy/call/request.rs",
    "proxy/config.rs",
    "proxy/config/",
    "proxy/key.rs",
    "proxy/acquire_timeout.rs",
    "proxy/store/counters.rs",
    "proxy/store/oddities.rs",
    "proxy/store/scan.rs",
    "proxy/store/trust.rs",
    "proxy/table/plan.rs",
    "proxy/table/plan/",
    "proxy/table/renewal_rate.rs",
    "proxy/table/unresponsive.rs",
];

/// Files with nothing but modules and re-exports: a path that ends there names a module.
const MODULES: &[&str] = &["dhcp/mod.rs", "rpc/mod.rs", "proxy/mod.rs", "lib.rs"];

/// Pure files, and others of which they name a type, and the type.
const TYPES: &[(&str, &str, &str)] = &[
    (
        "proxy/call/request.rs",
        "proxy/call/client_id.rs",
        "ClientIdentity",
    ),
    ("proxy/call/request.rs", "proxy/error.rs", "BadRequest"),
    ("proxy/config.rs", "proxy/sandbox.rs", "Mode"),
];

/// What a pure file does not name: all that begins so.
const IMPURE: &[&str] = &[
    "crate::rt",
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::fd",
    "std::os::unix::fs",
    "std::os::unix::net",
    "std::os::unix::process",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "async_io",
    "async_net",
    "landlock",
    "nix",
    "rustix",
    "seccompiler",
    "signal_hook",
    "smol",
    "socket2",
];

/// The only file, and the folder of its parts, that may name a runtime.
const RUNTIMES: (&str, &[&str]) = ("rt.rs", &["async_io", "async_net", "smol", "tokio"]);

/// The files with `unsafe`, how often, and the reason.
const UNSAFE: &[(&str, usize, &str)] = &[
    (
        "net/raw.rs",
        1,
        "the address of an AF_PACKET socket is cast",
    ),
    (
        "service/activation.rs",
        1,
        "an inherited descriptor is adopted",
    ),
    ("service/trim.rs", 1, "malloc_trim(3) is declared"),
];

/// The longest file, in lines, and the longest function.
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 80;

/// Checks a tree, and returns the violations, sorted.
pub fn violations(tree: &Tree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, file) in &tree.files {
        check_imports(tree, name, file, &mut found);
        check_purity(tree, name, file, &mut found);
        check_unsafe(name, file, &mut found);
        check_lengths(name, file, &mut found);
        if folder(name) == Some(None) {
            found.insert(format!("{name} is in no folder of the table"));
        }
    }
    for (name, _, reason) in UNSAFE {
        if !tree.files.contains_key(*name) {
            found.insert(format!("{name} is gone, where {reason}"));
        }
    }
    for circle in circles(&edges(tree)) {
        found.insert(format!("a circle: {}", circle.join(" ")));
    }
    found
}

/// Returns the part of the crate that a file belongs to.
fn part(name: &str) -> &str {
    let first = name.split('/').next().unwrap_or(name);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Returns the row of a file of `proxy` in [`FOLDERS`]; `Some(None)` is none of them, and `None` a file
/// outside `proxy`.
fn folder(name: &str) -> Option<Option<usize>> {
    let within = name.strip_prefix("proxy/")?;
    let folder = part(within);
    Some(FOLDERS.iter().position(|row| row.contains(&folder)))
}

fn check_imports(tree: &Tree, name: &str, file: &File, found: &mut BTreeSet<String>) {
    let allowed = LAYERS.iter().find(|(layer, _)| *layer == part(name));
    let Some((_, allowed)) = allowed else {
        found.insert(format!("{name} is in no layer"));
        return;
    };
    for path in &file.paths {
        // Re-exports are layers of their own: the path counts as written and as defined.
        let written = path.get(1).map_or("lib", String::as_str);
        let Some(target) = tree.file_of(path) else {
            continue;
        };
        for part_of in [written, part(target)] {
            let is_layer = LAYERS.iter().any(|(layer, _)| *layer == part_of);
            if is_layer && part_of != part(name) && !allowed.contains(&part_of) {
                found.insert(format!("{name} imports {}, of {part_of}", path.join("::")));
            }
        }
        if let (Some(Some(ours)), Some(Some(theirs))) = (folder(name), folder(target))
            && theirs < ours
        {
            found.insert(format!("{name} imports {target}, a folder to its left"));
        }
    }
}

/// Returns the places of the table of pure files that no file is in.
pub fn missing(tree: &Tree) -> Vec<&'static str> {
    let has = |place: &&&str| !tree.files.keys().any(|name| is_in(name, place));
    PURE.iter().filter(has).copied().collect()
}

fn is_in(name: &str, place: &str) -> bool {
    name == place || place.ends_with('/') && name.starts_with(place)
}

fn is_pure_file(name: &str) -> bool {
    PURE.iter().any(|place| is_in(name, place))
}

fn check_purity(tree: &Tree, name: &str, file: &File, found: &mut BTreeSet<String>) {
    let is_pure = is_pure_file(name);
    let (runtime, crates) = RUNTIMES;
    let has_runtime = name == runtime || name.starts_with(&runtime.replace(".rs", "/"));
    for path in &file.paths {
        let text = path.join("::");
        let begins = |with: &&&str| {
            text.strip_prefix(**with)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // A glob takes in what is below it.
        let above = text.strip_suffix('*');
        let taken_in =
            above.and_then(|above| IMPURE.iter().find(|impure| impure.starts_with(above)));
        if is_pure && let Some(impure) = IMPURE.iter().find(begins).or(taken_in) {
            found.insert(format!("{name} is pure and names {impure}"));
        } else if is_pure
            && let Some(target) = tree.file_of(path)
            && target != name
            && !is_pure_file(target)
            && !MODULES.contains(&target)
            && !TYPES
                .iter()
                .any(|(file, of, _)| (*file, *of) == (name, target))
        {
            found.insert(format!("{name} is pure and imports {target}"));
        }
        if !has_runtime && let Some(named) = crates.iter().find(begins) {
            found.insert(format!("{name} names the runtime {named}"));
        }
    }
}

fn check_unsafe(name: &str, file: &File, found: &mut BTreeSet<String>) {
    let allowed = UNSAFE.iter().find(|(place, ..)| *place == name);
    let allowed = allowed.map_or(0, |(_, count, _)| *count);
    let has = file.unsafes;
    if has != allowed {
        found.insert(format!(
            "{name} has unsafe {has} times, and {allowed} are listed"
        ));
    }
}

fn check_lengths(name: &str, file: &File, found: &mut BTreeSet<String>) {
    if file.lines > FILE_LINES {
        found.insert(format!("{name} has more than {FILE_LINES} lines"));
    }
    for (function, lines) in &file.functions {
        if *lines > FUNCTION_LINES {
            found.insert(format!(
                "{name}: {function} has more than {FUNCTION_LINES} lines"
            ));
        }
    }
}

/// Returns the files that each file depends on: those that define what it names and those that it
/// contains, but not those that contain it.
fn edges(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, file) in &tree.files {
        let targets = edges.entry(name).or_default();
        for path in &file.paths {
            targets.extend(tree.file_of(path));
        }
        for (other, inner) in &tree.files {
            if inner.module.starts_with(&file.module) {
                targets.insert(other);
            }
        }
        targets.retain(|target| !file.module.starts_with(&tree.files[*target].module));
    }
    edges
}

/// Returns the sets of two or more nodes that all reach each other, each sorted.
fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reach = |from: &'a str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(node) = next.pop() {
            for target in edges.get(node).into_iter().flatten() {
                if seen.insert(*target) {
                    next.push(target);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|node| (*node, reach(node))).collect();
    let mut circles = BTreeSet::new();
    for (node, targets) in reached
        .iter()
        .filter(|(node, targets)| targets.contains(*node))
    {
        let back = |other: &&&str| reached.get(**other).is_some_and(|all| all.contains(node));
        circles.insert(targets.iter().filter(back).copied().collect::<Vec<_>>());
    }
    circles.into_iter().collect()
}
