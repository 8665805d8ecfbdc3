//! `status` for people.

use super::report::{LeaseReport, Moment, NamespaceState, Report};
use super::text::{self, Rows};

/// Returns the report as a summary and a table.
pub(super) fn table(report: &Report) -> String {
    let mut text = summary(report);
    if report.leases.is_empty() {
        return text;
    }
    let mut rows = Rows::default();
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
        rows.push([
            container(lease),
            lease.interface.clone(),
            address(lease),
            or_dash(lease.server.as_ref()),
            state(lease),
            relative(lease.renewal.as_ref()),
            relative(lease.expiry.as_ref()),
        ]);
    }
    text.push('\n');
    text.push_str(&rows.lines());
    text
}

/// Returns every field of these leases.
pub(super) fn details<'a>(leases: impl IntoIterator<Item = &'a LeaseReport>) -> String {
    let mut text = String::new();
    for lease in leases {
        if !text.is_empty() {
            text.push('\n');
        }
        let mut rows = Rows::default();
        for (name, value) in [
            ("container", container(lease)),
            ("container id", or_dash(lease.container_id.as_ref())),
            (
                "interface",
                format!("{} (on {})", lease.interface, lease.parent),
            ),
            (
                "namespace",
                format!("{}, {}", lease.namespace, namespace(lease)),
            ),
            ("MAC", lease.mac.clone()),
            ("state", lease.state.to_owned()),
            ("address", address(lease)),
            ("router", or_dash(lease.routers.first())),
            ("server", server(lease)),
            ("acquired", absolute(lease.acquired.as_ref())),
            ("renewal (T1)", absolute(lease.renewal.as_ref())),
            ("rebinding (T2)", absolute(lease.rebinding.as_ref())),
            ("expiry", absolute(lease.expiry.as_ref())),
            ("next wake", absolute(lease.next_wake.as_ref())),
            (
                "trouble",
                lease.trouble.clone().unwrap_or_else(|| "none".to_owned()),
            ),
        ] {
            rows.push([format!("{name}:"), value]);
        }
        text.push_str(&rows.lines());
    }
    text
}

fn summary(report: &Report) -> String {
    let leases = match report.leases.len() {
        1 => "1 lease".to_owned(),
        count => format!("{count} leases"),
    };
    let daemon = match (report.daemon.pid, &report.daemon.next_wake) {
        (Some(pid), _) => format!("the daemon runs as process {pid}"),
        (None, Some(next)) if next.in_seconds >= 0 => {
            format!("the daemon sleeps until {}", absolute(Some(next)))
        }
        (None, _) => "no daemon runs".to_owned(),
    };
    let health = if report.healthy {
        "healthy"
    } else {
        "NOT HEALTHY"
    };
    let mut text = format!("{leases}, {health}; {daemon}\n");
    for reason in &report.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text
}

/// Returns the container's name, else the beginning of its id as Podman prints it, else the end of
/// its namespace's path.
pub(super) fn container(lease: &LeaseReport) -> String {
    match (&lease.container_name, &lease.container_id) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => id.chars().take(12).collect(),
        (None, None) => {
            let path = &lease.namespace;
            path.rsplit('/').next().unwrap_or(path).to_owned()
        }
    }
}

fn address(lease: &LeaseReport) -> String {
    match (lease.address, lease.prefix_length) {
        (Some(address), Some(length)) => format!("{address}/{length}"),
        // What it had before, and asks for.
        (Some(address), None) => format!("({address})"),
        (None, _) => dash(),
    }
}

fn server(lease: &LeaseReport) -> String {
    match (&lease.server, &lease.server_mac) {
        (Some(server), Some(mac)) => format!("{server} ({mac})"),
        (server, _) => or_dash(server.as_ref()),
    }
}

fn state(lease: &LeaseReport) -> String {
    match (lease.namespace_state, &lease.trouble) {
        (NamespaceState::Gone, _) => format!("{} (namespace gone)", lease.state),
        (NamespaceState::Alive, Some(_)) => format!("{} !", lease.state),
        (NamespaceState::Alive, None) => lease.state.to_owned(),
    }
}

fn namespace(lease: &LeaseReport) -> &'static str {
    match lease.namespace_state {
        NamespaceState::Alive => "alive",
        NamespaceState::Gone => "gone",
    }
}

fn relative(moment: Option<&Moment>) -> String {
    let Some(moment) = moment else {
        return dash();
    };
    let length = text::length(std::time::Duration::from_secs(
        moment.in_seconds.unsigned_abs(),
    ));
    if moment.in_seconds < 0 {
        format!("{length} ago")
    } else {
        format!("in {length}")
    }
}

fn absolute(moment: Option<&Moment>) -> String {
    moment.map_or_else(dash, |at| format!("{} ({})", at.date, relative(Some(at))))
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(dash, ToString::to_string)
}

fn dash() -> String {
    "-".to_owned()
}
