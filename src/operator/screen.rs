//! `status` for people.

use std::time::Duration;

use crate::proxy::store::counters::{CounterFamily, Counters};

use super::report::{DaemonReport, LeaseReport, Moment, NamespaceState, Report};
use super::text::{self, Rows, push_length, push_number};

/// Returns the report as a summary and a table.
pub(super) fn table(report: &Report) -> String {
    let mut text = summary(report);
    push_counted(&mut text, report);
    if report.leases.is_empty() {
        return text;
    }
    let mut rows = Rows::with_room_for(report.leases.len() + 1);
    rows.push(
        [
            "CONTAINER",
            "INTERFACE",
            "ADDRESS",
            "SERVER",
            "STATE",
            "RENEWAL",
            "EXPIRY",
        ]
        .map(str::to_owned),
    );
    for lease in &report.leases {
        let mut column = |append: &dyn Fn(&mut String)| {
            append(rows.cell());
            rows.end_cell();
        };
        column(&|to| push_container(to, lease));
        column(&|to| to.push_str(&lease.interface));
        column(&|to| push_address(to, lease));
        column(&|to| match lease.server {
            Some(server) => push_ipv4(to, server.octets()),
            None => to.push_str(DASH),
        });
        column(&|to| push_state(to, lease));
        column(&|to| push_relative(to, lease.renewal));
        column(&|to| push_relative(to, lease.expiry));
        rows.end_row();
    }
    text.push('\n');
    rows.append_to(&mut text);
    text
}

/// Returns the report as a summary and every field of its leases.
pub(super) fn details(report: &Report) -> String {
    let mut text = summary(report);
    for lease in &report.leases {
        text.push('\n');
        text.push_str(&named([
            ("container", container(lease)),
            (
                "container id",
                or_dash(lease.container_id.as_deref().as_ref()),
            ),
            (
                "interface",
                format!("{} (on {})", lease.interface, lease.parent),
            ),
            (
                "namespace",
                format!("{}, {}", lease.namespace, namespace(lease)),
            ),
            ("MAC", lease.mac.to_string()),
            ("state", lease.state.to_owned()),
            ("address", address(lease)),
            ("router", or_dash(lease.routers.to_vec().first())),
            ("server", server(lease)),
            ("acquired", absolute(lease.acquired)),
            ("renewal (T1)", absolute(lease.renewal)),
            ("rebinding (T2)", absolute(lease.rebinding)),
            ("expiry", absolute(lease.expiry)),
            ("next wake", absolute(lease.next_wake)),
            (
                "trouble",
                lease.trouble.as_deref().unwrap_or(NONE).to_owned(),
            ),
            (
                "last trouble",
                lease.last_trouble.as_ref().map_or_else(
                    || NONE.to_owned(),
                    |last| format!("{}, {}", last.text, absolute(Some(last.at))),
                ),
            ),
        ]));
    }
    text
}

/// Returns every field of the daemon, and every counter.
pub(super) fn daemon(report: &Report) -> String {
    let daemon = &report.daemon;
    let sleep = match (daemon.may_sleep, &daemon.stays) {
        (Some(true), _) => "while nothing is due".to_owned(),
        (_, Some(why)) => format!("no: {why}"),
        (_, None) => dash(),
    };
    let mut text = named([
        ("directory", daemon.directory.clone()),
        ("process", or_dash(daemon.pid.as_ref())),
        ("awake since", absolute(daemon.awake_since)),
        ("version", or_dash(daemon.version.as_ref())),
        ("unit", or_dash(daemon.unit.as_ref())),
        ("sleeps", sleep),
        ("timer", absolute(daemon.timer)),
        ("next wake", absolute(daemon.next_wake)),
        ("sandbox", sandbox(daemon)),
        ("instance", or_dash(daemon.instance.as_ref())),
        ("counting since", absolute(daemon.counting_since)),
    ]);
    let Some(counters) = &report.counters else {
        return text;
    };
    text.push('\n');
    let mut rows = Rows::default();
    for (family, counts) in counters.families() {
        let is_single = family.label.is_empty();
        for (value, count) in family.values.iter().zip(counts) {
            // A long list of zeros tells nothing.
            if is_single || *count > 0 {
                let name = if is_single {
                    format!("{}:", family.name)
                } else {
                    format!("{}, {value}:", family.name)
                };
                rows.push([name, count.to_string()]);
            }
        }
    }
    rows.push([
        "processor time:".to_owned(),
        format!("{} ms", counters.processor_time().as_millis()),
    ]);
    rows.append_to(&mut text);
    text
}

fn named<const N: usize>(fields: [(&str, String); N]) -> String {
    let mut rows = Rows::default();
    for (name, value) in fields {
        rows.push([format!("{name}:"), value]);
    }
    rows.lines()
}

/// Returns the number of leases, the health with its reasons, and what the daemon does.
fn summary(report: &Report) -> String {
    let (count, all) = (report.leases.len(), report.count);
    let mut leases = match count {
        1 => "1 lease".to_owned(),
        count => format!("{count} leases"),
    };
    if count != all {
        leases.push_str(&format!(" of {all}"));
    }
    let daemon = &report.daemon;
    // Older versions do not tell for when they have set the timer.
    let wake = if daemon.may_sleep.is_some() {
        daemon.timer
    } else {
        daemon.next_wake
    };
    let doing = match (daemon.pid, wake) {
        (Some(pid), _) => match daemon.awake_since {
            Some(since) => format!(
                "the daemon runs as process {pid} since {}",
                absolute(Some(since))
            ),
            None => format!("the daemon runs as process {pid}"),
        },
        (None, Some(next)) if next.in_seconds >= 0 && daemon.stays.is_none() => {
            format!("the daemon sleeps until {}", absolute(Some(next)))
        }
        (None, _) => "no daemon runs".to_owned(),
    };
    let health = if report.healthy {
        "healthy"
    } else {
        "NOT HEALTHY"
    };
    let mut text = format!("{leases}, {health}; {doing}\n");
    for reason in &report.reasons {
        text.push_str(&format!("  {}\n", text::printable(reason)));
    }
    text
}

fn push_counted(to: &mut String, report: &Report) {
    if let Some(counters) = &report.counters {
        to.push_str(&counted(counters, report.daemon.counting_since));
    }
}

/// Returns the counters that are asked for most in two lines.
fn counted(counters: &Counters, since: Option<Moment>) -> String {
    let sum = |name: &str, is_counted: &dyn Fn(&str) -> bool| {
        let of_name = |(family, _): &(&'static CounterFamily, &[u64])| family.name == name;
        counters
            .families()
            .find(of_name)
            .map_or(0, |(family, counts)| {
                let counted = family.values.iter().zip(counts);
                counted
                    .filter(|(value, _)| is_counted(value))
                    .fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
            })
    };
    let all = |name| sum(name, &|_| true);
    let day = since.map_or_else(String::new, |since| {
        let date = text::date(since.date);
        format!(" since {}", date.split('T').next().unwrap_or_default())
    });
    format!(
        "counted{day}: acquisitions {}, renewals {}, rebinds {}, NAKs {}, expiries {},\n  conflicts {} in \
         {} probes, failures {}, calls {} ({} failed), starts {}\n",
        all("acquisitions"),
        all("renewals"),
        all("rebinds"),
        all("naks"),
        all("expiries"),
        all("conflicts"),
        all("probes"),
        all("failures"),
        all("calls"),
        sum("calls", &|status| !matches!(status, "OK" | "CANCELLED")),
        all("wakes"),
    )
}

fn sandbox(daemon: &DaemonReport) -> String {
    let Some(sandbox) = &daemon.sandbox else {
        return dash();
    };
    let landlock = sandbox
        .landlock
        .map(|version| format!("Landlock {version}"));
    let filter = sandbox.seccomp.then(|| "a system call filter".to_owned());
    let parts: Vec<_> = landlock.into_iter().chain(filter).collect();
    if parts.is_empty() {
        NONE.to_owned()
    } else {
        parts.join(", ")
    }
}

/// Returns the container's name, else the beginning of its id as Podman prints it, else the end of
/// its namespace's path.
pub(super) fn container(lease: &LeaseReport) -> String {
    let mut text = String::new();
    push_container(&mut text, lease);
    text
}

fn push_container(to: &mut String, lease: &LeaseReport) {
    to.push_str(match (&lease.container_name, &lease.container_id) {
        (Some(name), _) => name,
        (None, Some(id)) => id.get(..12).unwrap_or(id),
        (None, None) => {
            let path = &*lease.namespace;
            path.rsplit('/').next().unwrap_or(path)
        }
    });
}

fn address(lease: &LeaseReport) -> String {
    let mut text = String::new();
    push_address(&mut text, lease);
    text
}

fn push_address(to: &mut String, lease: &LeaseReport) {
    match (lease.address, lease.prefix_length) {
        (Some(address), Some(length)) => {
            push_ipv4(to, address.octets());
            to.push('/');
            push_number(to, length.into());
        }
        // The address before, which is asked for.
        (Some(address), None) => {
            to.push('(');
            push_ipv4(to, address.octets());
            to.push(')');
        }
        (None, _) => to.push_str(DASH),
    }
}

fn push_ipv4(to: &mut String, octets: [u8; 4]) {
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            to.push('.');
        }
        push_number(to, octet.into());
    }
}

fn server(lease: &LeaseReport) -> String {
    match (&lease.server, &lease.server_mac) {
        (Some(server), Some(mac)) => format!("{server} ({mac})"),
        (server, _) => or_dash(server.as_ref()),
    }
}

fn push_state(to: &mut String, lease: &LeaseReport) {
    to.push_str(lease.state);
    match (lease.namespace_state, &lease.trouble) {
        (NamespaceState::Gone, _) => to.push_str(" (namespace gone)"),
        (NamespaceState::Alive, Some(_)) => to.push_str(" !"),
        (NamespaceState::Alive, None) => {}
    }
}

fn namespace(lease: &LeaseReport) -> &'static str {
    match lease.namespace_state {
        NamespaceState::Alive => "alive",
        NamespaceState::Gone => "gone",
    }
}

fn push_relative(to: &mut String, moment: Option<Moment>) {
    let Some(moment) = moment else {
        return to.push_str(DASH);
    };
    let length = Duration::from_secs(moment.in_seconds.unsigned_abs());
    if moment.in_seconds < 0 {
        push_length(to, length);
        to.push_str(" ago");
    } else {
        to.push_str("in ");
        push_length(to, length);
    }
}

fn absolute(moment: Option<Moment>) -> String {
    let Some(moment) = moment else {
        return dash();
    };
    let mut text = text::date(moment.date);
    text.push_str(" (");
    push_relative(&mut text, Some(moment));
    text.push(')');
    text
}

const DASH: &str = "-";
const NONE: &str = "none";

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(dash, ToString::to_string)
}

fn dash() -> String {
    DASH.to_owned()
}
