//! `status` beside a daemon that runs, leaves, or was killed: it says what is so, and touches nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Unit;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::program::need;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, Skip, eventually, sandbox};
use crate::trial::tell;
use crate::{form, program, stage};

trials![
    what_the_daemon_does_is_shown,
    a_call_that_fails_is_counted_with_its_reason,
    messages_that_cannot_be_sent_are_counted_once,
    counters_survive_a_crash_and_a_restart,
    nothing_is_written_connected_started_or_locked,
    without_permission_it_says_so,
    a_thousand_leases_are_shown_in_some_milliseconds,
    a_start_that_finds_nothing_to_do_writes_nothing,
];

const SOON: Duration = Duration::from_secs(5);
/// The most for `status` with a thousand leases, in milliseconds.
const FIVE: f64 = 5.0;
/// The time beyond which it has become slower than it was.
const LIMIT: f64 = 20.0;
/// The most for a start that does nothing, on processors that do nothing else.
const QUIET: f64 = 1.0;

fn status(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program());
    command.env_remove("NETAVARK_PROXY_RUN_DIR_ENV");
    command
        .args(["status", "--dir"])
        .arg(folder)
        .args(arguments);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// The report, which fits its schema and its exit status.
fn report(folder: &Path) -> Result<Value> {
    let output = status(folder, &["--json"])?;
    let report = form::Judge::new().json(&String::from_utf8(output.stdout)?);
    let code = i32::from(report["healthy"] == json!(false));
    assert_eq!(output.status.code(), Some(code), "{report}");
    let metrics = String::from_utf8(status(folder, &["--openmetrics"])?.stdout)?;
    form::openmetrics(&metrics).map_err(|why| format!("{why}\n{metrics}"))?;
    Ok(report)
}

fn folder(unit: &Unit) -> Result<std::path::PathBuf> {
    let file = unit.state_file();
    Ok(file.parent().ok_or("no folder")?.to_owned())
}

fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(60),
        t1: Some(Duration::from_secs(2)),
        t2: Some(Duration::from_secs(40)),
        ..Settings::default()
    }
}

fn what_the_daemon_does_is_shown() -> Result {
    let mut stage = stage(2, &[])?;
    let folder = folder(&stage.unit)?;
    let awake = report(&folder)?;
    assert_eq!(awake["daemon"]["pid"], stage.daemon.id());
    assert!(
        awake["daemon"]["awake_since"]["in_seconds"]
            .as_i64()
            .ok_or("a time")?
            <= 0
    );
    assert_eq!(
        awake["daemon"]["sandbox"]["seccomp"],
        json!(true),
        "{awake}"
    );
    assert_eq!(awake["daemon"]["may_sleep"], json!(false));
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings())?;
    let lease = stage.setup(0)?;
    let renewed = || -> Result<Option<Value>> {
        let report = report(&folder)?;
        let count = report["counters"]["renewals"].as_u64().ok_or("no count")?;
        Ok((count > 0).then_some(report))
    };
    let shown = eventually("a renewal is counted", Duration::from_secs(20), renewed)?;
    assert_eq!(shown["reasons"], json!([]));
    let counters = &shown["counters"];
    assert_eq!(counters["acquisitions"], 1, "{counters}");
    assert!(
        counters["probes"].as_u64() >= Some(2) && counters["conflicts"] == 0,
        "{counters}"
    );
    assert_eq!(counters["calls"]["OK"], 1);
    assert!(counters["processor_microseconds"].as_u64() > Some(0));
    let leases = shown["leases"].as_array().ok_or("no leases")?;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0]["address"], lease.yiaddr);
    assert_eq!(
        (&leases[0]["state"], &leases[0]["namespace_state"]),
        (&json!("BOUND"), &json!("alive"))
    );
    // Dead: nothing starts it again, for it had no systemd.
    stage.daemon.kill()?;
    let dead = report(&folder)?;
    assert_eq!(dead["daemon"]["pid"], Value::Null);
    let why = dead["reasons"][0].as_str().ok_or("no reason")?;
    assert!(
        why.starts_with("no daemon runs, and nothing starts it"),
        "{why}"
    );
    // A container that is gone is no reason for anything.
    let container = stage.topology.containers.remove(0);
    drop(container);
    let gone = report(&folder)?;
    assert_eq!(gone["leases"][0]["namespace_state"], "gone", "{gone}");
    Ok(())
}

fn a_call_that_fails_is_counted_with_its_reason() -> Result {
    let stage = stage(1, &["-t", "1", "-a", "0.3"])?;
    let folder = folder(&stage.unit)?;
    let error = stage.setup(0).err().ok_or("a lease without a server")?;
    assert!(error.to_string().contains("no DHCPOFFER"), "{error}");
    let mut daemon = stage.daemon;
    daemon.await_exit(SOON)?;
    let report = report(&folder)?;
    assert_eq!(report["counters"]["failures"]["no_offer"], 1, "{report}");
    assert_eq!(report["counters"]["calls"]["ABORTED"], 1);
    assert_eq!(
        (&report["healthy"], &report["daemon"]["pid"]),
        (&json!(true), &Value::Null)
    );
    Ok(())
}

/// The queue of the interface takes nothing: each DISCOVER fails with ENOBUFS.
fn messages_that_cannot_be_sent_are_counted_once() -> Result {
    let tc = need("tc", "iproute2")?;
    let stage = stage(1, &["-t", "3", "-a", "0.3"])?;
    let folder = folder(&stage.unit)?;
    let queue = ["qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "0"];
    let mut command = Command::new(tc);
    let added = stage.topology.containers[0]
        .namespace
        .spawn(command.args(queue))?
        .wait()?;
    if !added.success() {
        return Err(Skip::Impossible("no qdisc of that kind".to_owned()).into());
    }
    stage.setup(0).err().ok_or("a lease without a server")?;
    let mut daemon = stage.daemon;
    daemon.await_exit(SOON)?;
    let report = report(&folder)?;
    assert_eq!(report["counters"]["failures"]["kernel"], 1, "{report}");
    assert_eq!(report["counters"]["failures"]["no_offer"], 1);
    Ok(())
}

fn counters_survive_a_crash_and_a_restart() -> Result {
    let mut stage = stage(2, &[])?;
    let folder = folder(&stage.unit)?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    let settled = || {
        let report = report(&folder)?;
        Ok((report["counters"]["calls"]["OK"] == 1).then_some(report))
    };
    let before = eventually("the call is counted", SOON, settled)?;
    stage.restart()?;
    server.set_silent(true);
    stage.teardown(0)?;
    let ended = || {
        let report = report(&folder)?;
        let is_over = report["leases"] == json!([]) && report["counters"]["acquisitions"] == 1;
        Ok(is_over.then_some(report))
    };
    let after = eventually("the lease is gone, and its count is not", SOON, ended)?;
    assert_eq!(after["daemon"]["instance"], before["daemon"]["instance"]);
    assert_eq!(
        after["daemon"]["counting_since"]["date"],
        before["daemon"]["counting_since"]["date"]
    );
    let time = |report: &Value| report["counters"]["processor_microseconds"].as_u64();
    assert!(time(&after) > time(&before), "{after}");
    let starts = |report: &Value| report["counters"]["wakes"]["other"].as_u64();
    assert!(starts(&after) > starts(&before), "{after}");
    Ok(())
}

/// A process that is started, answers a call about nothing and leaves writes once, for the count of
/// calls; a process without a call does not write.
fn a_start_that_finds_nothing_to_do_writes_nothing() -> Result {
    let mut stage = stage(0, &["-a", "0.3"])?;
    let file = stage.unit.state_file();
    stage.daemon.await_exit(SOON)?;
    let version = || -> Result<u64> { Ok(fs::metadata(&file)?.ino()) };
    let before = version()?;
    for _ in 0..2 {
        stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
        stage.daemon.await_exit(SOON)?;
        assert_eq!(version()?, before);
    }
    Ok(())
}

fn nothing_is_written_connected_started_or_locked() -> Result {
    let strace = need("strace", "strace")?;
    let stage = stage(1, &[])?;
    let folder = folder(&stage.unit)?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    let before = listing(&folder)?;
    for arguments in [&[][..], &["--json"], &["--openmetrics"], &["-v"], &["eth0"]] {
        let log = sandbox::folder("strace")?.join("log");
        let traced = Command::new(&strace)
            .args(["-f", "-o"])
            .arg(&log)
            .arg(program())
            .args(["status", "--dir"])
            .arg(&folder)
            .args(arguments)
            .env_remove("NETAVARK_PROXY_RUN_DIR_ENV")
            .stdin(Stdio::null())
            .output()?;
        let calls = fs::read_to_string(&log)?;
        if !calls.contains("exited with") {
            let words = String::from_utf8_lossy(&traced.stderr).into_owned();
            return Err(Skip::Impossible(format!("strace: {words}")).into());
        }
        assert!(calls.contains("nv-proxy.state"), "{calls}");
        let forbidden = calls.lines().filter(|line| changes_something(line));
        assert_eq!(forbidden.collect::<Vec<_>>(), [""; 0], "{arguments:?}");
    }
    assert_eq!(listing(&folder)?, before);
    Ok(())
}

/// Returns whether a line of strace is a call that could change something outside of the process.
fn changes_something(line: &str) -> bool {
    // PID NAME(ARGUMENTS) = RESULT
    let call = line
        .split_once(' ')
        .map_or(line, |(_, call)| call.trim_start());
    let name = call.split('(').next().unwrap_or_default();
    let opens_to_write = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
    match name {
        "open" | "openat" | "openat2" | "creat" => {
            opens_to_write.iter().any(|flag| call.contains(flag))
        }
        "write" | "writev" => !call.starts_with("write(1,") && !call.starts_with("write(2,"),
        "fcntl" => ["F_SETLK", "F_OFD_SETLK", "F_SETLEASE"]
            .iter()
            .any(|flag| call.contains(flag)),
        "clone" | "clone3" | "fork" | "vfork" | "flock" | "socket" | "connect" | "bind"
        | "sendto" | "sendmsg" | "kill" | "tgkill" | "setns" | "unshare" | "mount" | "ptrace"
        | "fsync" | "truncate" | "ftruncate" => true,
        "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "link" | "linkat"
        | "symlink" | "symlinkat" | "mkdir" | "mkdirat" | "chmod" | "fchmod" | "fchmodat"
        | "utimensat" => true,
        // The program itself is started by strace.
        "execve" => !call.contains("\"status\""),
        _ => false,
    }
}

/// The files of a folder, by name, number and times.
fn listing(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        let name = entry.file_name();
        // The trial's own.
        if name != "log" {
            let times = (data.mtime_nsec(), data.ctime_nsec());
            found.insert(format!("{} {} {times:?}", name.display(), data.ino()));
        }
    }
    Ok(found)
}

fn without_permission_it_says_so() -> Result {
    let stage = stage(0, &[])?;
    let folder = folder(&stage.unit)?;
    let setpriv = need("setpriv", "util-linux")?;
    // The folders above are root's as well, and the program may be in a home.
    let bin = sandbox::folder("bin")?.join("smol-dhcp-proxy");
    fs::copy(program(), &bin)?;
    for path in [&folder, bin.parent().ok_or("no folder")?] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let output = Command::new(setpriv)
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(&bin)
        .args(["status", "--json", "--dir"])
        .arg(&folder)
        .env_remove("NETAVARK_PROXY_RUN_DIR_ENV")
        .output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if words.contains("setresuid") || words.contains("setgroups") {
        return Err(Skip::Impossible(format!("no other user in this sandbox: {words}")).into());
    }
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("run it as root"), "{words}");
    Ok(())
}

fn a_thousand_leases_are_shown_in_some_milliseconds() -> Result {
    let stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    stage.setup(0)?;
    let namespace = &stage.topology.containers[0].namespace;
    namespace.await_rest()?;
    let folder = sandbox::folder("many")?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    let file = folder.join("nv-proxy.state");
    fs::write(&file, a_thousand(&stage.unit)?)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let measured = std::thread::scope(|scope| {
        let measured = scope.spawn(|| -> Result {
            hide_run()?;
            fill_run(namespace.path())?;
            [&[][..], &["--openmetrics"], &["--json"]]
                .into_iter()
                .try_for_each(|form| measure(&folder, form))
        });
        measured.join()
    });
    measured.map_err(|_| "the measurement panicked")?
}

/// The containers' ids and names, and the paths of their namespaces.
fn container(number: u32) -> (String, String, String) {
    let id = format!("{number:08x}").repeat(8);
    let namespace = format!("/run/netns/netns-{number:08x}-97d2-4d0c-8b0c-1f2e3d4c5b6a");
    (id, format!("web-{number}"), namespace)
}

/// Returns the state file with the daemon's own entry a thousand times, each with a MAC, a container
/// and a namespace of its own.
fn a_thousand(unit: &Unit) -> Result<String> {
    let text = fs::read_to_string(unit.state_file())?;
    let leases = unit.leases()?;
    let (mac, entry) = leases
        .as_object()
        .and_then(|leases| leases.iter().next())
        .ok_or("no lease")?;
    let (head, _) = text.split_once(r#""leases":"#).ok_or("no leases")?;
    let (_, rest) = text
        .split_once(&format!(r#"{{"{mac}":["#))
        .ok_or("no entry")?;
    let one = rest.strip_suffix("]}}").ok_or("more than one entry")?;
    let member = |name: &str| format!(r#""{name}":{}"#, entry[0][name]);
    let mut many = format!(r#"{head}"leases":{{"#);
    for number in 0..1000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let other = format!("02:99:00:00:{high:02x}:{low:02x}");
        let separator = if number > 0 { "," } else { "" };
        let (id, _, namespace) = container(number);
        let id: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
        let lease = one
            .replace(mac, &other)
            .replace(&member("ns_path"), &format!(r#""ns_path":"{namespace}""#))
            .replace(&member("client_id"), &format!(r#""client_id":"00{id}""#));
        many += &format!(r#"{separator}"{other}":[{lease}]"#);
    }
    Ok(many + "}}")
}

/// Gives this thread, and what it starts, an empty /run.
fn hide_run() -> Result {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let no = None::<&str>;
    mount(no, "/", no, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no)?;
    Ok(mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )?)
}

/// Makes Podman's list of the containers, as version 5 writes it, and the paths of their namespaces,
/// which all are `namespace`.
fn fill_run(namespace: &Path) -> Result {
    let store = Path::new("/run/containers/storage/overlay-containers");
    fs::create_dir_all(store)?;
    fs::create_dir("/run/netns")?;
    let image = "0123456789abcdef".repeat(4);
    let label = "system_u:object_r:container_file_t:s0:c123,c456";
    let mut list = Vec::new();
    for number in 0..1000_u32 {
        let (id, name, path) = container(number);
        let metadata = json!({
            "image-name": "docker.io/library/nginx:alpine", "image-id": image, "name": name,
            "created-at": 1_780_000_000, "mountlabel": label,
        });
        list.push(json!({
            "id": id, "names": [name], "image": image, "layer": image, "metadata": metadata.to_string(),
            "created": "2026-05-28T12:00:00.123456789Z",
            "flags": {"MountLabel": label, "ProcessLabel": "system_u:system_r:container_t:s0:c123,c456"},
        }));
        fs::write(&path, "")?;
        let no = None::<&str>;
        mount(Some(namespace), Path::new(&path), no, MsFlags::MS_BIND, no)?;
    }
    fs::write(store.join("containers.json"), Value::from(list).to_string())?;
    Ok(())
}

/// Measures `status` from its start to its end, 20 times, and as often a start that does nothing. Only
/// rounds in which that one is quick count: other trials, and others, keep the processors busy.
fn measure(folder: &Path, form: &[&str]) -> Result {
    let what = form.first().unwrap_or(&"the table");
    // Debug builds are slow.
    let is_release = program()
        .components()
        .any(|part| part.as_os_str() == "release");
    let mut quiet = Vec::new();
    for _ in 0..5 {
        let (mut times, mut starts) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let start = rt::now();
            Command::new(program()).arg("--version").output()?;
            starts.push((rt::now() - start).as_secs_f64() * 1000.0);
            let start = rt::now();
            let output = status(folder, form)?;
            times.push((rt::now() - start).as_secs_f64() * 1000.0);
            // No systemd starts this daemon again, which it says.
            assert_eq!(output.status.code(), Some(1));
            let shown = String::from_utf8(output.stdout)?;
            let is_whole = form == ["--openmetrics"] || shown.contains("web-999");
            assert!(output.stderr.is_empty() && is_whole, "{shown}");
            assert!(!shown.contains("gone)"), "{shown}");
        }
        let (median, start) = (median(&mut times), median(&mut starts));
        tell(&format!(
            "status of 1,000 leases, {what}: median {median:.2} ms of 20, least {:.2} ms; a start alone: {start:.2} ms",
            times[0]
        ));
        if start < QUIET {
            quiet.push(median);
        }
        if !is_release || (start < QUIET && median < FIVE) {
            return Ok(());
        }
    }
    match quiet.iter().copied().reduce(f64::min) {
        Some(median) if median > LIMIT => Err(format!("{what}: {median:.2} ms").into()),
        Some(median) => {
            tell(&format!(
                "missed ms of status of 1,000 leases, {what}: {median:.2} (target: at most {FIVE})"
            ));
            Ok(())
        }
        None => Err(Skip::Impossible("the processors are too busy".to_owned()).into()),
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    f64::midpoint(times[times.len() / 2 - 1], times[times.len() / 2])
}
