//! Translates a lease into netavark's message.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp;
use crate::rpc::NetavarkLease;

use crate::proxy::call::request::Request;

/// The longest list of search domains in bytes. musl ignores the whole list if the line in
/// resolv.conf has more than 255 bytes with its line feed. Of these `search ` takes 7, the line
/// feed 1, and the `dns.podman ` that Podman may insert 11.
const SEARCH_MAX: usize = 255 - 7 - 1 - 11;

/// Returns the lease for the caller and for the lease file. Times are in seconds; `u32::MAX` is
/// infinite (RFC 2131 §3.3).
pub(crate) fn reply(request: &Request, lease: &dhcp::Lease) -> NetavarkLease {
    NetavarkLease {
        t1: seconds(lease.t1),
        t2: seconds(lease.t2),
        lease_time: lease.lease_time.map_or(u32::MAX, seconds),
        mtu: lease.mtu.map_or(0, u32::from),
        domain_name: domains(&request.domain_name, lease).0.join(" "),
        mac_address: request.mac_text.clone(),
        is_v6: false,
        siaddr: lease
            .next_server
            .unwrap_or(Ipv4Addr::UNSPECIFIED)
            .to_string(),
        yiaddr: lease.address.to_string(),
        srv_id: lease.server_id.to_string(),
        subnet_mask: lease.mask().to_string(),
        broadcast_addr: lease
            .broadcast
            .map(|address| address.to_string())
            .unwrap_or_default(),
        dns_servers: texts(&lease.dns_servers),
        gateways: texts(&lease.routers),
        ntp_servers: texts(&lease.ntp_servers),
        host_name: lease.host_name.clone().unwrap_or_default(),
    }
}

/// Returns the caller's domain, or the server's if there is none, followed by the server's search
/// list.
///
/// netavark passes domain_name on as one search domain. Podman writes it behind the word `search`,
/// where spaces separate domains (resolv.conf(5)), so a list with spaces arrives as a list.
///
/// The second list has the domains that would make the line too long, never the caller's own.
fn domains<'a>(callers: &'a str, lease: &'a dhcp::Lease) -> (Vec<&'a str>, Vec<&'a str>) {
    let domain = match callers {
        "" => lease.domain_name.as_deref(),
        callers => Some(callers),
    };
    let (mut domains, mut left_out, mut length): (Vec<&str>, Vec<&str>, usize) =
        (Vec::new(), Vec::new(), 0);
    for domain in domain
        .into_iter()
        .chain(lease.search.iter().map(String::as_str))
    {
        if domains
            .iter()
            .chain(&left_out)
            .any(|there| there.eq_ignore_ascii_case(domain))
        {
            continue;
        }
        let longer = length + usize::from(!domains.is_empty()) + domain.len();
        if longer <= SEARCH_MAX || domain == callers {
            domains.push(domain);
            length = longer;
        } else {
            left_out.push(domain);
        }
    }
    (domains, left_out)
}

/// Returns the search domains that are omitted from the reply, separated by spaces.
pub(crate) fn omitted_domains(request: &Request, lease: &dhcp::Lease) -> String {
    domains(&request.domain_name, lease).1.join(" ")
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn texts(addresses: &[Ipv4Addr]) -> Vec<String> {
    addresses.iter().map(Ipv4Addr::to_string).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::time::Instant;

    /// Returns an infinite lease with two routers, a name server and a domain.
    pub(crate) fn plain() -> dhcp::Lease {
        dhcp::Lease {
            address: Ipv4Addr::new(10, 0, 0, 5),
            prefix_len: 24,
            broadcast: None,
            routers: vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)],
            routes: Vec::new(),
            dns_servers: vec![Ipv4Addr::new(10, 0, 0, 53)],
            domain_name: Some("lab.example".to_owned()),
            search: Vec::new(),
            host_name: None,
            mtu: None,
            ntp_servers: Vec::new(),
            server_id: Ipv4Addr::new(10, 0, 0, 1),
            next_server: None,
            server_mac: None,
            lease_time: None,
            t1: Duration::MAX,
            t2: Duration::MAX,
            acquired_at: Instant::from_boot(Duration::ZERO),
        }
    }

    fn lease(domain: Option<&str>, search: &[&str]) -> dhcp::Lease {
        let (domain_name, search) = (
            domain.map(str::to_owned),
            search.iter().map(|&name| name.to_owned()).collect(),
        );
        dhcp::Lease {
            domain_name,
            search,
            ..plain()
        }
    }

    #[test]
    fn the_callers_domain_counts_for_more_and_the_search_list_follows() {
        let domains = |callers: &str, lease: &dhcp::Lease| domains(callers, lease).0.join(" ");
        let searched = lease(
            Some("lab.example"),
            &["a.example", "LAB.example", "b.example", "a.example"],
        );
        assert_eq!(domains("", &searched), "lab.example a.example b.example");
        assert_eq!(
            domains("my.example", &searched),
            "my.example a.example LAB.example b.example"
        );
        assert_eq!(domains("", &lease(None, &["a.example"])), "a.example");
        assert_eq!(domains("", &lease(Some("lab.example"), &[])), "lab.example");
        assert_eq!(domains("", &lease(None, &[])), "");
    }

    #[test]
    fn a_search_list_has_whole_domains_as_far_as_a_resolver_reads_a_line() {
        let long =
            |letter: &str| [letter.repeat(60), letter.repeat(60), "example".to_owned()].join(".");
        let (a, b, c) = (long("a"), long("b"), "c.example".to_owned());
        let searched = lease(Some("lab.example"), &[&a, &b, &c, &b]);
        assert_eq!(
            domains("", &searched),
            (vec!["lab.example", &a, &c], vec![&*b]),
            "the last one still fits"
        );
        let callers = "x".repeat(300);
        assert_eq!(
            domains(&callers, &searched),
            (vec![&*callers], vec![&*a, &b, &c]),
            "the caller knows best"
        );
        // Podman's line with its own domain has 255 bytes, the most that musl reads.
        let full = lease(
            None,
            &[
                &"d".repeat(63),
                &"e".repeat(63),
                &"f".repeat(63),
                &"g".repeat(44),
                "h",
            ],
        );
        let (fits, left_out) = domains("", &full);
        assert_eq!(format!("search dns.podman {}\n", fits.join(" ")).len(), 255);
        assert_eq!(left_out, ["h"]);
    }
}
