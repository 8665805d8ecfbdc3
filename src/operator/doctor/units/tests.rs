use super::*;
use crate::operator::diagnosis::Severity::{self, Good, Note, Problem};

const ALIAS: &str = "smol-dhcp-proxy.socket";
const ENABLE: &str = "systemctl enable --now smol-dhcp-proxy.socket";
const TAKE_OVER: &str = "systemctl enable smol-dhcp-proxy.socket && systemctl restart smol-dhcp-proxy.socket smol-dhcp-proxy.service";

/// A program that is there, as a unit's is.
fn ours() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

/// Returns what `systemctl show` prints of a unit: its load state, active state and file state.
fn unit(id: &str, states: [&str; 3], more: &str) -> String {
    let [load, active, enabled] = states;
    format!("Id={id}\nLoadState={load}\nActiveState={active}\nUnitFileState={enabled}\n{more}")
}

fn service(id: &str, active: &str, program: &str) -> String {
    let program = format!(
        "ExecStart={{ path={program} ; argv[]={program} -a 30 ; ignore_errors=no ; status=0/0 }}\n"
    );
    unit(id, ["loaded", active, "disabled"], &program)
}

fn missing(id: &str) -> String {
    unit(id, ["not-found", "inactive", ""], "")
}

/// The units of a host on which all is well, to be changed.
fn well() -> [String; 6] {
    let own = |id| unit(id, ["loaded", "active", "enabled"], "");
    [
        own(NAMES[0]),
        service(NAMES[1], "inactive", &ours()),
        own(ALIAS),
        service(NAMES[1], "inactive", &ours()),
        own(NAMES[4]),
        own(NAMES[5]),
    ]
}

/// The units of a host with nothing but netavark's.
fn of_netavark(program: &str) -> [String; 6] {
    let [socket, _, _, _, timer, path] = NAMES.map(missing);
    let their_socket = unit(NAMES[2], ["loaded", "active", "enabled"], "");
    let their_service = service(NAMES[3], "inactive", program);
    [
        socket,
        missing(NAMES[1]),
        their_socket,
        their_service,
        timer,
        path,
    ]
}

fn verdicts(units: &[String; 6]) -> Vec<Severity> {
    let shown = units.join("\n");
    let findings = Units::parse(&shown).findings();
    findings.iter().map(|finding| finding.verdict).collect()
}

fn advice(units: &[String; 6], subject: &str) -> String {
    let shown = units.join("\n");
    let mut findings = Units::parse(&shown).findings().into_iter();
    let finding = findings.find(|finding| finding.subject == subject);
    finding.and_then(|found| found.advice).unwrap_or_default()
}

fn serve(units: &[String; 6]) -> String {
    Units::parse(&units.join("\n")).remedies().serve
}

#[test]
fn units_that_serve_are_well() {
    assert_eq!(verdicts(&well()), [Good; 3]);
    let shown = well().join("\n");
    let units = Units::parse(&shown);
    assert!(units.listens_in(Path::new(RUN_DIR)));
    assert!(!units.listens_in(Path::new("/run/other")));
    assert_eq!(
        units.remedies().restart,
        "systemctl restart smol-dhcp-proxy.service"
    );
}

#[test]
fn netavarks_socket_with_the_drop_in_serves_as_well() {
    let units = of_netavark(&ours());
    assert_eq!(verdicts(&units), [Good; 3]);
    let restart = Units::parse(&units.join("\n")).remedies().restart;
    assert_eq!(restart, "systemctl restart netavark-dhcp-proxy.service");
    let mut stopped = units;
    stopped[2] = unit(NAMES[2], ["loaded", "inactive", "enabled"], "");
    assert_eq!(verdicts(&stopped), [Problem, Good, Good]);
    let expected = "systemctl enable --now netavark-dhcp-proxy.socket";
    assert_eq!(serve(&stopped), expected);
}

#[test]
fn netavarks_own_proxy_is_replaced_by_one_command() {
    let units = of_netavark("/usr/lib/podman/netavark");
    assert_eq!(verdicts(&units), [Note, Problem]);
    let expected = format!("{INSTALL} && {TAKE_OVER}");
    assert_eq!(advice(&units, THEIRS), expected);
    let mut both = units;
    both[0] = unit(NAMES[0], ["loaded", "inactive", "disabled"], "");
    both[1] = service(NAMES[1], "inactive", &ours());
    assert_eq!(verdicts(&both), [Note, Good, Problem]);
    assert_eq!(advice(&both, THEIRS), TAKE_OVER);
    // Enabled by a version that did not take netavark's names, with or without the drop-in.
    both[0] = unit(NAMES[0], ["loaded", "active", "enabled"], "");
    both[3] = service(NAMES[3], "inactive", &ours());
    assert_eq!(advice(&both, THEIRS), TAKE_OVER);
}

#[test]
fn a_unit_that_is_masked_is_unmasked() {
    let mut units = well();
    units[0] = unit(NAMES[0], ["masked", "inactive", "masked"], "");
    units[2] = missing(NAMES[2]);
    assert_eq!(verdicts(&units), [Problem, Good]);
    let unmask = "systemctl unmask smol-dhcp-proxy.socket";
    assert_eq!(serve(&units), format!("{unmask} && {ENABLE}"));
    units = well();
    units[1] = unit(NAMES[1], ["masked", "inactive", "masked-runtime"], "");
    assert_eq!(verdicts(&units), [Good, Problem, Good]);
    let unmask = "systemctl unmask --runtime smol-dhcp-proxy.service";
    assert_eq!(advice(&units, SERVICE_UNIT), unmask);
    assert_eq!(Units::parse(&units.join("\n")).remedies().restart, {
        format!("{unmask} && systemctl restart smol-dhcp-proxy.socket")
    });
}

#[test]
fn a_socket_that_does_not_listen_is_started_and_enabled() {
    let mut units = well();
    units[0] = unit(NAMES[0], ["loaded", "failed", "enabled"], "");
    assert_eq!(verdicts(&units), [Problem, Good, Good]);
    assert_eq!(advice(&units, SOCKET_UNIT), ENABLE);
    units[0] = unit(NAMES[0], ["loaded", "inactive", "disabled"], "");
    assert_eq!(verdicts(&units), [Note, Good, Good]);
    assert_eq!(advice(&units, SOCKET_UNIT), ENABLE);
    units[0] = unit(NAMES[0], ["loaded", "active", "disabled"], "");
    assert_eq!(verdicts(&units), [Note, Good, Good]);
    let alone = "systemctl enable smol-dhcp-proxy.socket";
    assert_eq!(advice(&units, SOCKET_UNIT), alone);
    units[2] = unit(NAMES[2], ["loaded", "inactive", "enabled"], "");
    assert_eq!(verdicts(&units), [Note, Good, Note]);
    // Two units become one, whose state may be that of either.
    let enable =
        "systemctl enable smol-dhcp-proxy.socket && systemctl restart smol-dhcp-proxy.socket";
    assert_eq!(advice(&units, SOCKET_UNIT), enable);
    assert_eq!(advice(&units, THEIRS), enable);
    units[0] = missing(NAMES[0]);
    units[2] = missing(NAMES[2]);
    assert_eq!(
        advice(&units, SOCKET_UNIT),
        format!("{INSTALL} && {ENABLE}")
    );
    units[0] = unit(NAMES[0], ["bad-setting", "inactive", "enabled"], "");
    assert_eq!(verdicts(&units), [Problem, Good]);
}

#[test]
fn a_service_that_cannot_start_is_a_problem() {
    let mut units = well();
    let failed = |result: &str, status: &str| {
        let service = service(NAMES[1], "failed", &ours());
        format!("{service}Result={result}\nExecMainStatus={status}\n")
    };
    let text = |units: &[String; 6]| {
        let shown = units.join("\n");
        let findings = Units::parse(&shown).findings();
        assert_eq!(findings[1].verdict, Problem);
        findings[1].text.clone()
    };
    units[1] = failed("exit-code", "2");
    assert!(text(&units).ends_with("its command line or configuration is wrong"));
    units[1] = failed("exit-code", "203");
    assert!(text(&units).ends_with("its exit status was 203"));
    units[1] = failed("watchdog", "0");
    assert!(text(&units).ends_with("its result was watchdog"));
    units[1] = service(NAMES[1], "inactive", "/nonexistent/smol-dhcp-proxy");
    assert!(text(&units).ends_with("starts /nonexistent/smol-dhcp-proxy, which is not there"));
    let expected = format!("install -m 755 {} /nonexistent/smol-dhcp-proxy", ours());
    assert_eq!(advice(&units, SERVICE_UNIT), expected);
    units[1] = missing(NAMES[1]);
    assert!(text(&units).ends_with("is not-found: nothing answers calls"));
    units[1] = service(NAMES[1], "inactive", "/bin/sh");
    assert_eq!(verdicts(&units), [Good, Note, Good]);
}

#[test]
fn a_helper_that_is_not_there_and_files_that_have_changed_are_noted() {
    let mut units = well();
    units[5] = unit(NAMES[5], ["loaded", "inactive", "static"], "");
    assert_eq!(verdicts(&units), [Good, Good, Note, Good]);
    let start = "systemctl start smol-dhcp-proxy-lost.path";
    assert_eq!(advice(&units, HELPERS), start);
    units = well();
    units[1] += "NeedDaemonReload=yes\n";
    assert_eq!(verdicts(&units), [Good, Good, Good, Note]);
    assert_eq!(advice(&units, SYSTEMD), "systemctl daemon-reload");
}

#[test]
fn the_socket_of_another_directory_is_not_that_of_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let listen = |path: &Path| {
        let listens = format!("Listen={} (Stream)\n", path.display());
        let mut units = well();
        units[0] = unit(NAMES[0], ["loaded", "active", "enabled"], &listens);
        units.join("\n")
    };
    let shown = listen(&folder.path().join(SOCKET_NAME));
    assert!(Units::parse(&shown).listens_in(folder.path()));
    assert!(Units::parse(&shown).listens_in(&folder.path().join(".")));
    assert!(!Units::parse(&shown).listens_in(Path::new("/")));
    let shown = listen(&folder.path().join("other.sock"));
    assert!(!Units::parse(&shown).listens_in(folder.path()));
}

#[test]
fn versions_of_systemd_are_compared_by_their_number() {
    for (version, verdict) in [
        ("247.3-7+deb11u5", Note),
        ("248", Good),
        ("v257.2", Good),
        ("1000~rc1", Good),
        ("", Note),
        ("unknown", Note),
    ] {
        assert_eq!(systemd(version).verdict, verdict, "{version}");
    }
}
