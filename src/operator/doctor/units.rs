//! The socket, the process that listens on it, and systemd's units.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Diagnosis;
use crate::operator::processes::holders;
use crate::proxy::config::SOCKET_NAME;

/// The units whose state is asked for.
const OUR_SOCKET: &str = "smol-dhcp-proxy.socket";
const THEIR_SOCKET: &str = "netavark-dhcp-proxy.socket";

/// `SO_ACCEPTCON` in the flags of /proc/net/unix: the socket listens.
const LISTENING: u32 = 0x10000;

pub(super) fn findings(directory: &Path) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    let units = match systemd() {
        Ok((version, units)) => {
            findings.push(Diagnosis::good("systemd", version));
            findings.extend(units_findings(&units));
            Some(units)
        }
        Err(why) => {
            findings.push(Diagnosis::note("systemd", why).with_advice(
                "start smol-dhcp-proxy from your supervisor; it stays while there are leases",
            ));
            None
        }
    };
    findings.push(socket(directory, units.is_some()));
    findings
}

/// A unit, as `systemctl show` describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    load: String,
    active: String,
    enabled: String,
    names: String,
}

/// Returns the version of systemd, and the units by the name that was asked for.
fn systemd() -> Result<(String, HashMap<&'static str, Unit>), String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err("systemd is not process 1 here".to_owned());
    }
    let version = run(&["--version"])?;
    let version = version.lines().next().unwrap_or_default().to_owned();
    let mut units = HashMap::new();
    for name in [OUR_SOCKET, THEIR_SOCKET] {
        let shown = run(&[
            "show",
            "-p",
            "LoadState,ActiveState,UnitFileState,Names",
            name,
        ])?;
        units.insert(name, parse(&shown));
    }
    Ok((version, units))
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| format!("cannot run systemctl: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("systemctl: {}", text(&output.stderr)))
    }
}

/// Reads the lines `Property=value` of `systemctl show`.
fn parse(shown: &str) -> Unit {
    let value = |name: &str| {
        let mut lines = shown.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(key, _)| *key == name)
            .map_or_else(String::new, |(_, value)| value.to_owned())
    };
    Unit {
        load: value("LoadState"),
        active: value("ActiveState"),
        enabled: value("UnitFileState"),
        names: value("Names"),
    }
}

fn units_findings(units: &HashMap<&'static str, Unit>) -> Vec<Diagnosis> {
    let mut findings = Vec::new();
    let (Some(ours), Some(theirs)) = (units.get(OUR_SOCKET), units.get(THEIR_SOCKET)) else {
        return findings;
    };
    let is_alias = ours.names.split(' ').any(|name| name == THEIR_SOCKET);
    findings.push(match (&*ours.load, &*ours.active, &*ours.enabled) {
        ("loaded", "active", "enabled") => {
            Diagnosis::good("our units", format!("{OUR_SOCKET} is active"))
        }
        ("loaded", "active", _) => Diagnosis::note(
            "our units",
            format!("{OUR_SOCKET} is active, and not enabled"),
        )
        .with_advice(format!(
            "systemctl enable {OUR_SOCKET}: else it is gone after a reboot"
        )),
        ("loaded", ..) if is_alias || theirs.active != "active" => Diagnosis::problem(
            "our units",
            format!("{OUR_SOCKET} is {}", ours.active),
            format!("systemctl enable --now {OUR_SOCKET}"),
        ),
        ("loaded", ..) => Diagnosis::note("our units", format!("{OUR_SOCKET} is {}", ours.active)),
        (load, ..) => Diagnosis::note("our units", format!("{OUR_SOCKET} is {load}")).with_advice(
            "copy units/smol-dhcp-proxy* to /etc/systemd/system, then systemctl daemon-reload",
        ),
    });
    findings.push(match (is_alias, &*theirs.load, &*theirs.active) {
        (true, ..) => Diagnosis::good("netavark's units", format!("{THEIR_SOCKET} is another name of ours")),
        (false, "loaded", "active") => Diagnosis::problem(
            "netavark's units",
            format!("{THEIR_SOCKET} is active, and is not ours"),
            format!("systemctl disable --now {THEIR_SOCKET} netavark-dhcp-proxy.service; systemctl reenable --now {OUR_SOCKET}"),
        ),
        (false, load, active) => Diagnosis::good("netavark's units", format!("{load}, {active}")),
    });
    findings
}

/// Inspects the socket that netavark calls.
fn socket(directory: &Path, has_systemd: bool) -> Diagnosis {
    let path = directory.join(SOCKET_NAME);
    let start = if has_systemd {
        format!("systemctl restart {OUR_SOCKET}")
    } else {
        "start smol-dhcp-proxy".to_owned()
    };
    if let Err(error) = fs::symlink_metadata(&path) {
        return Diagnosis::problem("socket", format!("{}: {error}", path.display()), start);
    }
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    match listening(&table, &path) {
        None => Diagnosis::problem(
            "socket",
            format!("no process listens on {}", path.display()),
            start,
        ),
        Some(inode) => {
            let holders = holders(inode);
            let who = match holders.as_slice() {
                [] => "a process that cannot be seen from here".to_owned(),
                holders => holders.join(", "),
            };
            if holders.iter().any(|name| name.starts_with("netavark")) {
                return Diagnosis::problem(
                    "socket",
                    format!("{who} listens on {}", path.display()),
                    "stop netavark's proxy, then systemctl restart smol-dhcp-proxy.socket",
                );
            }
            Diagnosis::good("socket", format!("{}: {who} listens", path.display()))
        }
    }
}

/// Returns the inode of the socket that listens at `path`, by /proc/net/unix (proc(5)).
fn listening(table: &str, path: &Path) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let (inode, name) = (words.nth(2)?, words.next()?);
        let is_it = flags & LISTENING != 0 && Path::new(name) == path;
        is_it.then(|| inode.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_that_listens_is_found_by_its_path() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff: 00000003 00000000 00000000 0001 03 11 /run/podman/nv-proxy.sock\n\
            ffff: 00000002 00000000 00010000 0001 01 12 /run/podman/nv-proxy.sock2\n\
            ffff: 00000002 00000000 00010000 0001 01 13 /run/podman/nv-proxy.sock\n\
            ffff: 00000002 00000000 00010000 0001 01 14\n";
        assert_eq!(
            listening(table, Path::new("/run/podman/nv-proxy.sock")),
            Some(13)
        );
        assert_eq!(listening(table, Path::new("/run/other")), None);
        assert_eq!(listening("a b c", Path::new("/run/other")), None);
    }

    fn unit(load: &str, active: &str, enabled: &str, names: &str) -> Unit {
        parse(&format!(
            "Names={names}\nLoadState={load}\nActiveState={active}\nUnitFileState={enabled}\n"
        ))
    }

    #[test]
    fn units_are_judged_together() {
        use crate::operator::diagnosis::Severity::{self, Good, Note, Problem};
        let both = "smol-dhcp-proxy.socket netavark-dhcp-proxy.socket";
        let alone = "smol-dhcp-proxy.socket";
        let verdicts = |ours: Unit, theirs: Unit| -> Vec<Severity> {
            let units = HashMap::from([(OUR_SOCKET, ours), (THEIR_SOCKET, theirs)]);
            units_findings(&units)
                .iter()
                .map(|finding| finding.verdict)
                .collect()
        };
        let none = || unit("not-found", "inactive", "", "netavark-dhcp-proxy.socket");
        let active = || unit("loaded", "active", "enabled", both);
        assert_eq!(verdicts(active(), active()), [Good, Good]);
        assert_eq!(
            verdicts(unit("loaded", "active", "disabled", alone), none()),
            [Note, Good]
        );
        assert_eq!(
            verdicts(unit("loaded", "inactive", "enabled", both), none()),
            [Problem, Good]
        );
        let theirs = || unit("loaded", "active", "enabled", "netavark-dhcp-proxy.socket");
        assert_eq!(
            verdicts(unit("loaded", "active", "enabled", alone), theirs()),
            [Good, Problem]
        );
        assert_eq!(
            verdicts(unit("not-found", "inactive", "", alone), none()),
            [Note, Good]
        );
    }
}
