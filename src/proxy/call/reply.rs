//! A lease in the caller's terms: netavark's message, from RFC 2131's.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp;
use crate::rpc::NetavarkLease;

use crate::proxy::call::request::Request;

/// The longest list of search domains, in bytes. musl ignores a line of resolv.conf that is longer
/// than 255 with its end, and with it the whole list. Of these the word `search ` takes 7, the end
/// of the line 1, and the `dns.podman ` that Podman may put before it 11.
const SEARCH_MAX: usize = 255 - 7 - 1 - 11;

/// What Setup answers and the lease file has. Times are in seconds; `u32::MAX` is for ever (RFC
/// 2131 3.3).
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

/// The caller's domain, or the server's where the caller names none, and the server's search list
/// behind it.
///
/// netavark hands domain_name on as one search domain, and Podman writes that behind the word
/// `search` as it is, where blanks divide one domain from the next (resolv.conf(5)): so a list with
/// blanks arrives as a list.
///
/// Domains that would make the line too long are in the second list; the caller's own is not among
/// them.
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

/// The search domains of a lease that are left out of its reply, with blanks between them.
pub(crate) fn left_out(request: &Request, lease: &dhcp::Lease) -> String {
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

    /// Returns a lease that never ends, with two routers, a name server and a domain.
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
        // The line that Podman makes of it, with its own domain, as musl reads it: 255 bytes and no
        // more.
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
