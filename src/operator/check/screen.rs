//! `check` for people.

use std::fmt;
use std::time::Duration;

use crate::operator::diagnosis;
use crate::operator::text::{self, Rows, printable};

use super::interface::InterfaceReport;
use super::report::{CheckReport, OfferReport, SearchReport, ServerReport, strings};

/// Returns the report as text: the interface, each server, and the findings.
pub(super) fn text(report: &CheckReport) -> String {
    let mut text = heading(&report.interface);
    if let Some(search) = &report.search {
        text.push_str(&summary(search));
        for server in &search.servers {
            text.push_str(&details(server));
        }
    }
    text.push('\n');
    text.push_str(&diagnosis::table(&report.findings));
    text
}

fn heading(interface: &InterfaceReport) -> String {
    let namespace = interface.namespace.as_deref();
    let place = namespace.map_or_else(String::new, |path| format!(" in {}", printable(path)));
    let kind = interface.kind.as_deref().unwrap_or("interface");
    let parent = interface.parent.as_deref();
    let parent = parent.map_or_else(String::new, |name| format!(" on {name}"));
    format!(
        "{}{place}: {kind}{parent}, {}, MTU {}\n",
        interface.name,
        interface.mac.as_deref().unwrap_or("no Ethernet address"),
        interface.mtu
    )
}

fn summary(search: &SearchReport) -> String {
    format!(
        "{} and {} in {}; nothing was requested\n",
        count(search.discovers, "DISCOVER"),
        count(search.servers.len(), "server"),
        text::short_length(Duration::from_millis(search.milliseconds)),
    )
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn details(server: &ServerReport) -> String {
    let way = server.delivery.or(server.flagged_delivery);
    let answer = format!(
        "after {}{}",
        text::short_length(Duration::from_micros(server.microseconds)),
        way.map_or_else(String::new, |way| format!(", by {way}"))
    );
    let mut rows = Rows::default();
    let mut add = |name: &str, value: String| rows.push([format!("  {name}:"), value]);
    add("MAC", server.mac.clone());
    add("answer", answer);
    if let Some(offer) = &server.offer {
        add(
            "address",
            format!("{}/{}", offer.address, offer.prefix_length),
        );
        add("router", list(&offer.routers));
        add("routes", list(&offer.routes));
        add("DNS", list(&offer.dns_servers));
        let domains: Vec<_> = offer.domain.iter().chain(&offer.search).collect();
        add("domain", list(&domains));
        add("MTU", offer.mtu.map_or_else(dash, |mtu| mtu.to_string()));
        add("lease", lease(offer));
    }
    format!("\nserver {}\n{}", server.server, rows.lines())
}

fn lease(offer: &OfferReport) -> String {
    let length = |seconds: u64| text::length(Duration::from_secs(seconds));
    match (offer.lease_seconds, offer.t1_seconds, offer.t2_seconds) {
        (Some(lease), Some(t1), Some(t2)) => {
            format!("{}, T1 {}, T2 {}", length(lease), length(t1), length(t2))
        }
        _ => "for ever".to_owned(),
    }
}

fn list(items: &[impl fmt::Display]) -> String {
    if items.is_empty() {
        return dash();
    }
    strings(items).join(", ")
}

fn dash() -> String {
    "-".to_owned()
}
