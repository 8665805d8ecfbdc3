//! `status` on files of all kinds: its JSON by the JSON Schema, its OpenMetrics by a strict parser
//! and, where it is installed, by the reference parser of PyPI's `prometheus_client`; exit statuses
//! and texts.
#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "status/form.rs"]
mod form;

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use form::{Judge, openmetrics};
use serde_json::{Value, json};
use tempfile::TempDir;

const CORPUS: &str = include_str!("corpus/state/version-1.json");
const WITH_COUNTERS: &str = include_str!("corpus/state/version-1-counters.json");

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    id.trim().to_owned()
}

/// Milliseconds on the boot clock.
fn now() -> u64 {
    let now = smol_dhcp_proxy::rt::now().since_boot();
    u64::try_from(now.as_millis()).unwrap()
}

/// A folder with this state file.
fn folder(state: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(folder.path(), mode).unwrap();
    let file = folder.path().join("nv-proxy.state");
    fs::write(&file, state).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smol-dhcp-proxy"));
    command.env_remove("NETAVARK_PROXY_RUN_DIR_ENV");
    command
        .arg("status")
        .arg("--dir")
        .arg(folder)
        .args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The report, whose exit status has to say what it says.
fn report(folder: &Path) -> Value {
    let output = run(folder, &["--json"]);
    assert_eq!(text(&output.stderr), "");
    let report = Judge::new().json(&text(&output.stdout));
    let code = i32::from(report["healthy"] == json!(false));
    assert_eq!(output.status.code(), Some(code), "{report}");
    report
}

/// A state file of this boot, whose times are `age` behind those of the corpus.
fn of_this_boot(corpus: &str) -> Value {
    let mut state: Value = serde_json::from_str(corpus).unwrap();
    state["boot_id"] = json!(boot_id());
    state
}

/// The state in the order of the daemon, for serde's objects are sorted.
fn in_order(state: &Value) -> String {
    let mut text = format!(
        r#"{{"version":{},"boot_id":{},"copy":"0""#,
        state["version"], state["boot_id"]
    );
    for name in ["daemon", "counters", "leases"] {
        if !state[name].is_null() {
            text += &format!(r#","{name}":{}"#, state[name]);
        }
    }
    text + "}"
}

#[test]
fn a_lease_in_each_state_fits_the_schema() {
    let state = of_this_boot(CORPUS);
    let folder = folder(in_order(&state));
    let report = report(folder.path());
    let leases = report["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 10);
    let mut states: Vec<_> = leases
        .iter()
        .map(|lease| lease["state"].as_str().unwrap())
        .collect();
    states.sort_unstable();
    states.dedup();
    assert_eq!(
        states,
        ["BOUND", "ENDING", "INIT", "INTENT", "REBINDING", "RENEWING"]
    );
    assert_eq!(report["counters"], Value::Null);
    assert_eq!(report["daemon"]["version"], Value::Null);
    // Their namespace is none of this machine.
    assert!(
        leases
            .iter()
            .all(|lease| lease["namespace_state"] == "gone")
    );
    assert_eq!(report["reasons"].as_array().unwrap().len(), 1, "{report}");
    let families = metrics(folder.path());
    let sum: f64 = families["smol_dhcp_proxy_leases"].samples.values().sum();
    assert!((sum - 10.0).abs() < 0.1);
}

const MAC: &str = "02:00:00:00:00:12";

/// A state of a daemon that sleeps until the T1 of one lease, whose namespace is that of this
/// process.
fn healthy() -> Value {
    let mut state = of_this_boot(WITH_COUNTERS);
    let soon = now() + 1_800_000;
    let namespace = "/proc/self/ns/net";
    let there = fs::metadata(namespace).unwrap();
    let lease = &mut state["leases"][MAC][0];
    for (name, value) in [
        ("acquired_at", json!(now())),
        ("renew_at", json!(soon)),
        ("due_at", json!(soon)),
        ("rebind_at", json!(soon + 1000)),
        ("ns_path", json!(namespace)),
        ("ns_dev", json!(there.dev())),
        ("ns_ino", json!(there.ino())),
    ] {
        lease[name] = value;
    }
    state["daemon"]["timer_at"] = json!(soon);
    // systemd, if it runs here, has no timer of ours.
    state["daemon"]["unit"] = json!("");
    state
}

#[test]
fn the_daemon_and_the_counters_fit_the_schema() {
    let folder = folder(in_order(&healthy()));
    let report = report(folder.path());
    assert_eq!(
        (&report["healthy"], &report["reasons"]),
        (&json!(true), &json!([]))
    );
    let daemon = &report["daemon"];
    assert_eq!(
        [
            &daemon["version"],
            &daemon["unit"],
            &daemon["may_sleep"],
            &daemon["instance"]
        ],
        [
            &json!("1.2.3"),
            &Value::Null,
            &json!(true),
            &json!("0123456789abcdef")
        ]
    );
    assert_eq!(daemon["sandbox"], json!({"landlock": 6, "seccomp": true}));
    assert_eq!(
        [&daemon["pid"], &daemon["awake_since"]],
        [&Value::Null, &Value::Null]
    );
    let ahead = daemon["timer"]["in_seconds"].as_i64().unwrap();
    assert!((1700..=1800).contains(&ahead), "{daemon}");
    assert_eq!(report["counters"]["calls"]["ABORTED"], 1);
    let last = &report["leases"][0]["last_trouble"];
    assert_eq!(
        last["text"],
        "lost the lease of 10.0.0.4: refused by 10.0.0.1"
    );
    assert_eq!(report["leases"][0]["trouble"], Value::Null);

    let table = text(&run(folder.path(), &[]).stdout);
    assert!(
        table.starts_with("1 lease, healthy; the daemon sleeps until "),
        "{table}"
    );
    assert!(
        table.contains("\ncounted since 2026-05-28: acquisitions 1, renewals 0"),
        "{table}"
    );
    assert!(table.contains("calls 1 (1 failed)"), "{table}");
    let verbose = text(&run(folder.path(), &["-v"]).stdout);
    for line in [
        "sleeps:          while nothing is due",
        "sandbox:         Landlock 6, a system call filter",
    ] {
        assert!(verbose.contains(line), "{verbose}");
    }
    assert!(
        verbose.contains("calls, ABORTED:") && !verbose.contains("calls, OK:"),
        "{verbose}"
    );
    let details = text(&run(folder.path(), &["10.0.0.5"]).stdout);
    assert!(
        details.contains("last trouble:    lost the lease of 10.0.0.4"),
        "{details}"
    );
    assert!(!details.contains("sandbox:"), "{details}");
    assert!(details.starts_with("1 lease, healthy; "), "{details}");

    let families = metrics(folder.path());
    let acquisitions = &families["smol_dhcp_proxy_acquisitions"];
    assert_eq!(acquisitions.kind, "counter");
    let values: Vec<_> = acquisitions
        .samples
        .values()
        .map(|value| *value as u64)
        .collect();
    assert_eq!(values, [1_780_000_000, 1], "the date, and the count");
    assert!(families.contains_key("smol_dhcp_proxy_next_expiry_seconds"));
}

/// The same in OpenMetrics.
fn metrics(folder: &Path) -> std::collections::BTreeMap<String, form::Family> {
    let output = run(folder, &["--openmetrics"]);
    let text = text(&output.stdout);
    let families = openmetrics(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let reference = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as p\n\
                     print(len(list(p(sys.stdin.read()))))";
    let python = Command::new("python3")
        .args(["-c", reference])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match python {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        python => {
            let mut python = python.unwrap();
            // It ends at once where it has no such module.
            let _ = python.stdin.take().unwrap().write_all(text.as_bytes());
            let judged = python.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&judged.stderr).into_owned();
            if !words.contains("No module named") {
                assert!(judged.status.success(), "{words}\n{text}");
                let count = String::from_utf8_lossy(&judged.stdout).trim().to_owned();
                assert_eq!(count, families.len().to_string());
            }
        }
    }
    families
}

/// As `systemctl stop` of timer, socket and service leaves it, and a daemon that could not set its
/// timer.
#[test]
fn a_daemon_without_a_timer_is_not_healthy() {
    let mut state = healthy();
    state["daemon"]["timer_at"] = Value::Null;
    let stopped = folder(in_order(&state));
    let why = "no daemon runs, and nothing starts it again: no timer is set";
    assert_eq!(report(stopped.path())["reasons"], json!([why]));
    for arguments in [&[][..], &["-v"], &["10.0.0.5"]] {
        let output = run(stopped.path(), arguments);
        let shown = text(&output.stdout);
        let expected = format!("1 lease, NOT HEALTHY; no daemon runs\n  {why}\n");
        assert!(shown.starts_with(&expected), "{arguments:?}: {shown}");
        assert_eq!(output.status.code(), Some(1));
    }
    assert!(text(&run(stopped.path(), &["--openmetrics"]).stdout).contains("healthy 0\n"));
}

/// A lease is judged by itself where it is asked for.
#[test]
fn a_selected_lease_is_judged_alone() {
    let mut state = healthy();
    let mut other = state["leases"][MAC][0].clone();
    (other["mac_address"], other["yiaddr"]) = (json!("02:00:00:00:00:13"), json!("10.0.0.6"));
    other["state"] = json!("RENEWING");
    let ids = ["cafe01", "cafe02"].map(|id| format!("00{}", hex(&format!("{id:0<64}"))));
    state["leases"][MAC][0]["client_id"] = json!(ids[0]);
    other["client_id"] = json!(ids[1]);
    state["leases"]["02:00:00:00:00:13"] = json!([other]);
    let folder = folder(in_order(&state));
    let ends = |word: &str, code: i32, words: &str| {
        let output = run(folder.path(), &[word]);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(words), "{shown}");
    };
    ends("10.0.0.5", 0, "1 lease of 2, healthy; ");
    ends("cafe01", 0, "1 lease of 2, healthy; ");
    ends("10.0.0.6", 1, "1 lease of 2, NOT HEALTHY; ");
    ends(
        "cafe",
        2,
        "\"cafe\" is the beginning of several ids: cafe010000000000, cafe020000000000",
    );
    ends("/proc/self/ns/net", 1, "2 leases, NOT HEALTHY; ");
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn damage_is_told_and_the_rest_is_shown() {
    let whole = in_order(&of_this_boot(WITH_COUNTERS));
    let reason = |state: &[u8]| {
        let folder = folder(state);
        let report = report(folder.path());
        assert!(!metrics(folder.path()).is_empty());
        assert_eq!(report["healthy"], json!(false));
        report["reasons"][0].as_str().unwrap().to_owned()
    };
    let cut = "the state file cannot be read to its end: it is cut off";
    for length in [0, 1, 30, whole.len() / 2, whole.len() - 1] {
        assert_eq!(reason(&whole.as_bytes()[..length]), cut, "{length}");
    }
    assert!(reason(b"garbage").ends_with("it makes no sense from byte 0 on"));
    assert!(reason(&[whole.as_bytes(), b"\0"].concat()).contains("makes no sense from byte"));
    assert!(reason(b"{\"version\":1,\"leases\":{\"x\xff\":[]}}").contains("from byte"));
    assert!(reason(b"{}").ends_with("it has no version"));
    let unusable = whole.replace(r#""state":"BOUND""#, r#""state":"SOUND""#);
    assert_eq!(
        reason(unusable.as_bytes()),
        "an entry of the state file makes no sense"
    );
    // Damaged counters cost themselves.
    for (from, to) in [
        ("0123456789abcdef", "x"),
        (r#""daemon":{"#, r#""daemon":[{}],"more":{"#),
    ] {
        let folder = folder(whole.replacen(from, to, 1));
        assert_eq!(report(folder.path())["counters"], Value::Null, "{to}");
    }
}

#[test]
fn no_leases_are_healthy_and_so_are_those_of_another_boot() {
    let empty = folder(format!(
        r#"{{"version":1,"boot_id":"{}","leases":{{}}}}"#,
        boot_id()
    ));
    let report_of_empty = report(empty.path());
    assert_eq!(report_of_empty["healthy"], json!(true));
    metrics(empty.path());
    let another = folder(WITH_COUNTERS);
    let report = report(another.path());
    assert_eq!(
        (&report["healthy"], &report["leases"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(
        report["daemon"]["timer"],
        Value::Null,
        "its times are of another boot"
    );
    assert_eq!(report["counters"]["acquisitions"], 1);
}

#[test]
fn what_cannot_be_found_out_is_another_exit_status() {
    let ends = |folder: &Path, arguments: &[&str], code: i32, words: &str| {
        let output = run(folder, arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(text(&output.stdout), "");
    };
    let newer = folder(r#"{"version":2,"leases":[7]}"#);
    ends(
        newer.path(),
        &[],
        3,
        "it is of version 2, and this program knows 1: use the `status` of the newer",
    );
    let none = tempfile::tempdir().unwrap();
    ends(none.path(), &["--json"], 3, "there is no state file in");
    let shared = folder("{}");
    fs::set_permissions(
        shared.path().join("nv-proxy.state"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    ends(shared.path(), &[], 3, "it may be written by others");
    // A collector reads the output, whatever the exit status is.
    for folder in [&newer, &none, &shared] {
        let output = run(folder.path(), &["--openmetrics"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(!output.stderr.is_empty());
        let families = openmetrics(&text(&output.stdout)).unwrap();
        let value = |name: &str| {
            let family: &form::Family = families.get(name)?;
            family.samples.values().next().map(|value| *value as u64)
        };
        assert_eq!(value("smol_dhcp_proxy_healthy"), Some(0));
        assert_eq!(value("smol_dhcp_proxy_running"), Some(0));
    }
    let fine = folder(in_order(&of_this_boot(WITH_COUNTERS)));
    ends(fine.path(), &["unknown"], 1, "no lease is of \"unknown\"");
    ends(
        fine.path(),
        &["--json", "--openmetrics"],
        2,
        "choose one of",
    );
    ends(
        fine.path(),
        &["--openmetrics", "10.0.0.5"],
        2,
        "about all leases",
    );
    ends(fine.path(), &["--xml"], 2, "--xml");
}

/// A name from a container's side is no order to the terminal.
#[test]
fn control_characters_are_not_printed() {
    let mut state = of_this_boot(WITH_COUNTERS);
    state["leases"]["02:00:00:00:00:12"][0]["container_iface"] = json!("eth\u{1b}[2J\u{9b}1");
    state["daemon"]["unit"] = json!("a\u{1b}b");
    state["daemon"]["version"] = json!("1\u{9b}2\n\"3");
    let folder = folder(in_order(&state));
    let named = report(folder.path());
    assert_eq!(named["leases"][0]["interface"], "eth\u{1b}[2J\u{9b}1");
    let json = run(folder.path(), &["--json"]).stdout;
    assert!(json.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')));
    metrics(folder.path());
    let shown = text(&run(folder.path(), &["--openmetrics"]).stdout);
    assert!(shown.contains(r#",version="1?2?\"3"}"#), "{shown}");
    for arguments in [&[][..], &["-v"], &["10.0.0.5"]] {
        let shown = text(&run(folder.path(), arguments).stdout);
        assert!(
            !shown.contains(|char: char| char.is_control() && char != '\n'),
            "{shown:?}"
        );
    }
}

#[test]
fn the_schema_is_strict_where_it_matters() {
    let judge = Judge::new();
    let folder = folder(in_order(&of_this_boot(WITH_COUNTERS)));
    let good = report(folder.path());
    for (place, wrong) in [
        ("/version", json!(2)),
        ("/healthy", json!(true)),
        ("/reasons", json!([])),
        ("/leases/0/state", json!("SOUND")),
        ("/leases/0/address", json!("10.0.0.256")),
        ("/leases/0/mac", json!("02:00:00:00:00")),
        ("/leases/0/expiry", json!("2026-01-01")),
        ("/counters/renewals", json!(-1)),
        ("/counters/calls/OK", json!(1.5)),
        ("/daemon/instance", json!("x")),
    ] {
        let mut report = good.clone();
        *report.pointer_mut(place).unwrap() = wrong;
        assert!(judge.check(&report).is_err(), "{place}");
    }
    let mut without = good.clone();
    without["daemon"].as_object_mut().unwrap().remove("timer");
    assert!(judge.check(&without).is_err());
}
