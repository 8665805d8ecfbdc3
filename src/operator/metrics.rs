//! `status --openmetrics`: the report in the text form of OpenMetrics 1.0.
//!
//! The types are those that the older text form of Prometheus has, too: the textfile collector of
//! node_exporter reads that one, and refuses a whole file with an `info` or a `stateset` in it. To
//! it a counter's `_total` is of no type, which costs nothing.

use crate::proxy::store::counters::Counters;
use crate::proxy::store::record::STATES;

use super::report::{NamespaceState, Report};
use super::text::{printable, push_number};

/// The beginning of all names.
const PREFIX: &str = "smol_dhcp_proxy_";

/// A text in the form, family by family.
struct Exposition(String);

pub(super) fn exposition(report: &Report) -> String {
    let mut text = Exposition(String::new());
    let daemon = &report.daemon;
    if let (Some(instance), Some(version)) = (&daemon.instance, &daemon.writer) {
        let name = "instance_info";
        text.family(name, "gauge", "", "The daemon that wrote the state file");
        text.sample(name, "", &[("instance", instance), ("version", version)]);
        text.value(1);
    }
    text.health(report.healthy, Some(daemon.pid.is_some()));
    let name = "leases";
    text.family(name, "gauge", "", "Leases by state; INIT has no address");
    for state in STATES {
        let of_state = report.leases.iter().filter(|lease| lease.state == state);
        text.sample(name, "", &[("state", state)]);
        text.value(count(of_state));
    }
    let gone = report.leases.iter();
    let gone = gone.filter(|lease| lease.namespace_state == NamespaceState::Gone);
    text.single(
        "gone_leases",
        "Leases of containers that are gone",
        count(gone),
    );
    let alive = || report.leases.iter().filter(|lease| lease.is_alive());
    text.single(
        "troubled_leases",
        "Leases with trouble at present, of containers that are there",
        count(alive().filter(|lease| lease.trouble.is_some())),
    );

    let expiries = alive().filter_map(|lease| lease.expiry);
    if let Some(seconds) = expiries.map(|expiry| expiry.in_seconds).min() {
        let name = "next_expiry_seconds";
        text.family(
            name,
            "gauge",
            "seconds",
            "Time until the first lease of a container that is there expires without a renewal",
        );
        text.sample(name, "", &[]);
        text.signed(seconds);
    }
    if let Some(counters) = &report.counters {
        push_counters(&mut text, counters);
    }
    text.0.push_str("# EOF\n");
    text.0
}

/// Returns the text where the state file cannot be read: not healthy, and whether a daemon runs, if
/// that is known.
pub(super) fn unknown(is_running: Option<bool>) -> String {
    let mut text = Exposition(String::new());
    text.health(false, is_running);
    text.0.push_str("# EOF\n");
    text.0
}

fn push_counters(text: &mut Exposition, counters: &Counters) {
    for (family, counts) in counters.families() {
        text.family(family.name, "counter", "", family.help);
        for (value, count) in family.values.iter().zip(counts) {
            let labels = [(family.label, *value)];
            let labels = if family.label.is_empty() {
                &[][..]
            } else {
                &labels
            };
            text.sample(family.name, "_total", labels);
            text.value(*count);
            text.created(family.name, labels, counters.since.as_secs());
        }
    }
    let name = "processor_seconds";
    text.family(
        name,
        "counter",
        "seconds",
        "Processor time in user and in system mode",
    );
    text.sample(name, "_total", &[]);
    text.decimal(counters.processor_time().as_micros());
    text.created(name, &[], counters.since.as_secs());
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        for (word, text) in [("TYPE", kind), ("UNIT", unit), ("HELP", help)] {
            if !text.is_empty() {
                self.0.push_str("# ");
                for part in [word, " ", PREFIX, name, " ", text, "\n"] {
                    self.0.push_str(part);
                }
            }
        }
    }

    fn health(&mut self, is_healthy: bool, is_running: Option<bool>) {
        self.single("healthy", "1 without a reason to look", is_healthy.into());
        if let Some(is_running) = is_running {
            self.single("running", "1 while the daemon is awake", is_running.into());
        }
    }

    /// Adds a gauge without labels.
    fn single(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", "", help);
        self.sample(name, "", &[]);
        self.value(value);
    }

    /// Begins a sample, which its value ends.
    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)]) {
        for part in [PREFIX, name, suffix] {
            self.0.push_str(part);
        }
        let mut separator = '{';
        for (label, value) in labels {
            self.0.push(separator);
            self.0.push_str(label);
            self.0.push_str("=\"");
            for char in printable(value).chars() {
                match char {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    char => self.0.push(char),
                }
            }
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
        self.0.push(' ');
    }

    fn value(&mut self, value: u64) {
        push_number(&mut self.0, value);
        self.0.push('\n');
    }

    fn signed(&mut self, value: i64) {
        if value < 0 {
            self.0.push('-');
        }
        self.value(value.unsigned_abs());
    }

    /// Ends a sample with millionths.
    fn decimal(&mut self, millionths: u128) {
        let (whole, rest) = (millionths / 1_000_000, millionths % 1_000_000);
        self.0.push_str(&format!("{whole}.{rest:06}\n"));
    }

    /// Adds the date at which a counter began, in seconds since 1970.
    fn created(&mut self, name: &str, labels: &[(&str, &str)], since: u64) {
        self.sample(name, "_created", labels);
        self.value(since);
    }
}
