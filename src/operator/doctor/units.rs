//! systemd's units: the project's own, netavark's, and netavark's with the project's drop-in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Diagnosis, Remedies, quoted, with_permission};
use crate::proxy::config::{RUN_DIR, SOCKET_NAME};

const SYSTEMD: &str = "systemd";
const SOCKET_UNIT: &str = "socket unit";
const SERVICE_UNIT: &str = "service unit";
const HELPERS: &str = "helper units";
const THEIRS: &str = "netavark's units";

/// The units that are asked for, in this order.
const NAMES: [&str; 6] = [
    "smol-dhcp-proxy.socket",
    "smol-dhcp-proxy.service",
    "netavark-dhcp-proxy.socket",
    "netavark-dhcp-proxy.service",
    "smol-dhcp-proxy-fallback.timer",
    "smol-dhcp-proxy-lost.path",
];
const PROPERTIES: &str = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,Listen,ExecStart,Result,ExecMainStatus";

/// Installs the units, in the tree of the project or in what a release contains.
const INSTALL: &str = "install -m 644 units/*.path units/*.service units/*.socket units/*.timer /etc/systemd/system/ && systemctl daemon-reload";

/// The first version that tells a process that it is a service's main process, without which the
/// daemon does not sleep.
const SLEEPS_SINCE: u32 = 248;

/// The exit status for a wrong command line or configuration, after which systemd does not try again.
const WRONG: &str = "2";

/// Returns the findings, and the commands that mend what is found elsewhere.
pub(super) fn findings(directory: &Path) -> (Vec<Diagnosis>, Remedies) {
    let mut by_hand = "start smol-dhcp-proxy".to_owned();
    if directory != Path::new(RUN_DIR) {
        by_hand += &format!(" --dir {}", quoted(directory));
    }
    let by_hand = Remedies {
        serve: by_hand.clone(),
        restart: by_hand,
    };
    if !Path::new("/run/systemd/system").is_dir() {
        let without = Diagnosis::note(SYSTEMD, "systemd is not process 1 here").with_advice(
            "start smol-dhcp-proxy from your supervisor; it stays while there are leases",
        );
        return (vec![without], by_hand);
    }
    let shown = run(&["show", "-p", "Version"]).and_then(|version| {
        Ok((
            version,
            run(&[&["show", "-p", PROPERTIES, "--"][..], &NAMES[..]].concat())?,
        ))
    });
    match shown {
        Err(why) => {
            let remedies = Remedies {
                serve: with_permission().to_owned(),
                restart: with_permission().to_owned(),
            };
            let unknown = Diagnosis::unknown(SYSTEMD, why, with_permission());
            (vec![unknown], remedies)
        }
        Ok((version, shown)) => {
            let units = Units::parse(&shown);
            let mut findings = vec![systemd(property(&version, "Version"))];
            findings.extend(units.findings());
            let remedies = if units.listens_in(directory) {
                units.remedies()
            } else {
                by_hand
            };
            (findings, remedies)
        }
    }
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

/// Judges the version of systemd.
fn systemd(version: &str) -> Diagnosis {
    let digits = version.trim_start_matches('v');
    let end = digits.find(|c: char| !c.is_ascii_digit());
    match digits[..end.unwrap_or(digits.len())].parse::<u32>() {
        Ok(number) if number < SLEEPS_SINCE => Diagnosis::note(
            SYSTEMD,
            format!(
                "{version}: before {SLEEPS_SINCE} the daemon stays for as long as there are leases"
            ),
        ),
        Ok(_) => Diagnosis::good(SYSTEMD, version),
        Err(_) => Diagnosis::note(SYSTEMD, format!("of an unknown version, {version:?}")),
    }
}

/// Returns the value of a property in the lines of `systemctl show`.
fn property<'a>(shown: &'a str, name: &str) -> &'a str {
    let mut lines = shown.lines().filter_map(|line| line.split_once('='));
    lines
        .find(|(key, _)| *key == name)
        .map_or("", |(_, value)| value)
}

/// A unit, as `systemctl show` describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit<'a> {
    /// The name by which it is asked for.
    name: &'static str,
    /// Its own name, where that one is an alias.
    id: &'a str,
    load: &'a str,
    active: &'a str,
    enabled: &'a str,
    /// Its files have changed since systemd read them.
    is_outdated: bool,
    /// The path of a socket.
    listens: &'a str,
    /// The program of a service.
    program: &'a str,
    result: &'a str,
    status: &'a str,
}

impl<'a> Unit<'a> {
    fn parse(name: &'static str, shown: &'a str) -> Self {
        let value = |name| property(shown, name);
        let listens = value("Listen");
        let program = value("ExecStart").strip_prefix("{ path=");
        Self {
            name,
            id: value("Id"),
            load: value("LoadState"),
            active: value("ActiveState"),
            enabled: value("UnitFileState"),
            is_outdated: value("NeedDaemonReload") == "yes",
            listens: listens.strip_suffix(" (Stream)").unwrap_or(listens),
            program: program
                .and_then(|rest| rest.split_once(" ; "))
                .map_or("", |(program, _)| program),
            result: value("Result"),
            status: value("ExecMainStatus"),
        }
    }

    fn is_loaded(&self) -> bool {
        self.load == "loaded"
    }

    fn is_masked(&self) -> bool {
        self.load == "masked"
    }

    fn is_active(&self) -> bool {
        self.active == "active"
    }

    /// Returns whether it starts at boot.
    fn is_enabled(&self) -> bool {
        self.enabled == "enabled"
    }

    /// Returns whether it runs smol-dhcp-proxy: a file of that name, or this program.
    fn is_ours(&self) -> bool {
        let program = Path::new(self.program);
        let is_it = |exe: io::Result<PathBuf>| exe.is_ok_and(|exe| program == exe);
        program
            .file_name()
            .is_some_and(|name| name == "smol-dhcp-proxy")
            || is_it(std::env::current_exe())
    }

    fn unmask(&self) -> String {
        let runtime = if self.enabled == "masked-runtime" {
            "--runtime "
        } else {
            ""
        };
        format!("systemctl unmask {runtime}{}", self.name)
    }
}

/// All units that are asked for.
#[derive(Debug, PartialEq, Eq)]
struct Units<'a> {
    socket: Unit<'a>,
    service: Unit<'a>,
    their_socket: Unit<'a>,
    their_service: Unit<'a>,
    helpers: [Unit<'a>; 2],
}

impl<'a> Units<'a> {
    /// Parses what `systemctl show` prints for [`NAMES`].
    fn parse(shown: &'a str) -> Self {
        let mut blocks = shown.split("\n\n");
        let units = NAMES.map(|name| Unit::parse(name, blocks.next().unwrap_or_default()));
        let [socket, service, their_socket, their_service, timer, path] = units;
        Self {
            socket,
            service,
            their_socket,
            their_service,
            helpers: [timer, path],
        }
    }

    /// Returns whether netavark's names are others of the project's units.
    fn has_names(&self) -> bool {
        self.their_socket.id == self.socket.name
    }

    /// Returns whether netavark's own socket serves, by the drop-in.
    fn has_drop_in(&self) -> bool {
        !self.has_names()
            && self.their_socket.is_loaded()
            && self.their_service.is_ours()
            && !self.socket.is_active()
            && !self.socket.is_enabled()
    }

    /// Returns whether netavark's own socket listens in the place of the right one.
    fn has_rival(&self) -> bool {
        !self.has_names() && !self.has_drop_in() && self.their_socket.is_active()
    }

    /// Returns the socket and the service that should serve.
    fn in_use(&self) -> (&Unit<'a>, &Unit<'a>) {
        if self.has_drop_in() {
            (&self.their_socket, &self.their_service)
        } else {
            (&self.socket, &self.service)
        }
    }

    /// Returns whether the socket is that of a directory; that of the project's units where none is
    /// installed.
    fn listens_in(&self, directory: &Path) -> bool {
        let (socket, _) = self.in_use();
        let own = if socket.listens.is_empty() {
            Path::new(RUN_DIR)
        } else {
            let path = Path::new(socket.listens);
            match path.parent() {
                Some(parent) if path.ends_with(SOCKET_NAME) => parent,
                _ => return false,
            }
        };
        let place = |path| {
            fs::metadata(path)
                .map(|found| (found.dev(), found.ino()))
                .ok()
        };
        own == directory || place(own).is_some_and(|own| place(directory) == Some(own))
    }

    fn remedies(&self) -> Remedies {
        let (socket, service) = self.in_use();
        let mut steps = Vec::new();
        if socket.load == "not-found" {
            steps.push(INSTALL.to_owned());
        }
        steps.extend(
            [socket, service]
                .map(|unit| unit.is_masked().then(|| unit.unmask()))
                .into_iter()
                .flatten(),
        );
        let (socket_name, service_name) = (socket.name, service.name);
        if self.has_rival() {
            // Netavark's proxy goes on for as long as it runs.
            steps.push(format!("systemctl enable {socket_name}"));
            steps.push(format!("systemctl restart {socket_name} {service_name}"));
        } else if socket.is_active() {
            steps.push(format!("systemctl restart {socket_name}"));
        } else {
            steps.push(format!("systemctl enable --now {socket_name}"));
        }
        let serve = steps.join(" && ");
        let is_ready = socket.is_loaded() && service.is_loaded() && !self.has_rival();
        let restart = if is_ready {
            format!("systemctl restart {service_name}")
        } else {
            serve.clone()
        };
        Remedies { serve, restart }
    }

    /// Returns the command that has the active socket start at boot. That takes netavark's names over,
    /// and of two units that become one, systemd keeps the state of either.
    fn enable(&self) -> String {
        let (socket, _) = self.in_use();
        let name = socket.name;
        let becomes_one = !self.has_drop_in() && !self.has_names() && self.their_socket.is_loaded();
        let restart = if becomes_one {
            format!(" && systemctl restart {name}")
        } else {
            String::new()
        };
        format!("systemctl enable {name}{restart}")
    }

    fn findings(&self) -> Vec<Diagnosis> {
        let Remedies { serve, .. } = self.remedies();
        let (socket, service) = self.in_use();
        let mut findings = vec![judge_socket(socket, &serve, &self.enable())];
        if socket.is_loaded() {
            findings.push(judge_service(service));
        }
        if socket.is_active() && !self.has_drop_in() {
            findings.extend(self.helpers.iter().filter_map(judge_helper));
        }
        findings.push(self.theirs(&serve));
        let mut all = [socket, service].into_iter().chain(&self.helpers);
        if let Some(unit) = all.find(|unit| unit.is_outdated) {
            let text = format!(
                "the files of {} have changed since systemd read them",
                unit.name
            );
            findings.push(Diagnosis::note(SYSTEMD, text).with_advice("systemctl daemon-reload"));
        }
        findings
    }

    /// Judges netavark's units.
    fn theirs(&self, serve: &str) -> Diagnosis {
        let (socket, service) = (&self.their_socket, &self.their_service);
        let name = socket.name;
        if self.has_names() {
            Diagnosis::good(THEIRS, format!("{name} is another name of {}", socket.id))
        } else if self.has_drop_in() {
            let text = format!("{} runs smol-dhcp-proxy by a drop-in", service.name);
            Diagnosis::good(THEIRS, text)
        } else if self.has_rival() {
            let text = match service.program {
                "" => format!("{name} is active, and is not that of smol-dhcp-proxy"),
                program => format!("{name} is active, and starts {program}"),
            };
            Diagnosis::problem(THEIRS, text, serve)
        } else if socket.is_loaded() && socket.is_enabled() {
            let text = format!(
                "{name} is {}, but enabled: it listens after a boot",
                socket.active
            );
            let advice = if self.socket.is_active() {
                self.enable()
            } else {
                serve.to_owned()
            };
            Diagnosis::note(THEIRS, text).with_advice(advice)
        } else if socket.is_loaded() {
            Diagnosis::good(THEIRS, format!("{name} is {}", socket.active))
        } else {
            Diagnosis::good(THEIRS, format!("{name} is {}", socket.load))
        }
    }
}

fn judge_socket(socket: &Unit<'_>, serve: &str, enable: &str) -> Diagnosis {
    let (name, active) = (socket.name, socket.active);
    match (socket.load, active, socket.is_enabled()) {
        ("loaded", "active", true) => {
            Diagnosis::good(SOCKET_UNIT, format!("{name} is active and enabled"))
        }
        ("loaded", "active", false) => {
            let text = format!("{name} is active, and does not start at boot");
            Diagnosis::note(SOCKET_UNIT, text).with_advice(enable)
        }
        ("loaded", _, true) => {
            Diagnosis::problem(SOCKET_UNIT, format!("{name} is {active}"), serve)
        }
        ("loaded", _, false) => {
            let text = format!("{name} is {active}, and does not start at boot");
            Diagnosis::note(SOCKET_UNIT, text).with_advice(serve)
        }
        ("not-found", ..) => {
            Diagnosis::note(SOCKET_UNIT, format!("{name} is not installed")).with_advice(serve)
        }
        ("masked", ..) => Diagnosis::problem(SOCKET_UNIT, format!("{name} is masked"), serve),
        (load, ..) => Diagnosis::problem(
            SOCKET_UNIT,
            format!("systemd cannot read {name}: {load}"),
            format!("systemd-analyze verify {name} tells the reason"),
        ),
    }
}

fn judge_service(service: &Unit<'_>) -> Diagnosis {
    let (name, program) = (service.name, service.program);
    if service.is_masked() {
        let text = format!("{name} is masked: nothing answers calls or renews leases");
        return Diagnosis::problem(SERVICE_UNIT, text, service.unmask());
    }
    if !service.is_loaded() {
        let text = format!("{name} is {}: nothing answers calls", service.load);
        return Diagnosis::problem(SERVICE_UNIT, text, INSTALL);
    }
    let is_missing = |path: &Path| {
        let found = fs::metadata(path);
        path.is_absolute() && found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    if is_missing(Path::new(program)) {
        let this = std::env::current_exe().unwrap_or_default();
        let text = format!("{name} starts {program}, which is not there");
        let advice = format!(
            "install -m 755 {} {}",
            quoted(&this),
            quoted(Path::new(program))
        );
        return Diagnosis::problem(SERVICE_UNIT, text, advice);
    }
    if service.active == "failed" {
        let (why, mend) = match (service.result, service.status) {
            ("exit-code", WRONG) => (
                "its command line or configuration is wrong".to_owned(),
                "correct that",
            ),
            ("exit-code", status) => (format!("its exit status was {status}"), "mend that"),
            (result, _) => (format!("its result was {result}"), "mend that"),
        };
        return Diagnosis::problem(
            SERVICE_UNIT,
            format!("{name} has failed: {why}"),
            format!(
                "journalctl -u {name} -n 20 tells the reason; {mend}, then systemctl restart {name}"
            ),
        );
    }
    if service.is_ours() {
        let text = format!("{name} is {}, and starts {program}", service.active);
        Diagnosis::good(SERVICE_UNIT, text)
    } else {
        let text = format!("{name} starts {program}, which is not smol-dhcp-proxy by its name");
        Diagnosis::note(SERVICE_UNIT, text)
    }
}

/// Judges a unit that the socket brings along; `None` is well.
fn judge_helper(unit: &Unit<'_>) -> Option<Diagnosis> {
    let name = unit.name;
    if unit.is_active() {
        return None;
    }
    let (state, advice) = match unit.load {
        "loaded" => (unit.active, format!("systemctl start {name}")),
        "masked" => (
            "masked",
            format!("{} && systemctl start {name}", unit.unmask()),
        ),
        "not-found" => (
            "not installed",
            format!("{INSTALL} && systemctl start {name}"),
        ),
        load => (
            load,
            format!("systemd-analyze verify {name} tells the reason"),
        ),
    };
    Some(Diagnosis::note(HELPERS, format!("{name} is {state}")).with_advice(advice))
}

#[cfg(test)]
mod tests;
