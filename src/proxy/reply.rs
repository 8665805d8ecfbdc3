//! A lease in the caller's terms: netavark's message, from RFC 2131's.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp;
use crate::rpc::Lease;

use super::request::Request;

/// What Setup answers and the lease file has. Times are in seconds; `u32::MAX` is for ever (RFC 2131 3.3).
pub(super) fn reply(request: &Request, lease: &dhcp::Lease) -> Lease {
    Lease {
        t1: seconds(lease.t1),
        t2: seconds(lease.t2),
        lease_time: lease.lease_time.map_or(u32::MAX, seconds),
        mtu: lease.mtu.map_or(0, u32::from),
        domain_name: domains(&request.domain_name, lease),
        mac_address: request.mac_text.clone(),
        is_v6: false,
        siaddr: lease.next_server.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string(),
        yiaddr: lease.address.to_string(),
        srv_id: lease.server_id.to_string(),
        subnet_mask: lease.mask().to_string(),
        broadcast_addr: lease.broadcast.map(|address| address.to_string()).unwrap_or_default(),
        dns_servers: texts(&lease.dns_servers),
        gateways: texts(&lease.routers),
        ntp_servers: texts(&lease.ntp_servers),
        host_name: lease.host_name.clone().unwrap_or_default(),
    }
}

/// The caller's domain, or the server's where the caller names none, and the server's search list behind it.
///
/// netavark hands domain_name on as one search domain, and Podman writes that behind the word `search` as it is, where
/// blanks divide one domain from the next (resolv.conf(5)): so a list with blanks arrives as a list.
fn domains(callers: &str, lease: &dhcp::Lease) -> String {
    let domain = match callers {
        "" => lease.domain_name.as_deref(),
        callers => Some(callers),
    };
    let mut domains: Vec<&str> = Vec::new();
    for domain in domain.into_iter().chain(lease.search.iter().map(String::as_str)) {
        if !domains.iter().any(|there| there.eq_ignore_ascii_case(domain)) {
            domains.push(domain);
        }
    }
    domains.join(" ")
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn texts(addresses: &[Ipv4Addr]) -> Vec<String> {
    addresses.iter().map(Ipv4Addr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::words::tests::lease as plain;

    fn lease(domain: Option<&str>, search: &[&str]) -> dhcp::Lease {
        let (domain_name, search) = (domain.map(str::to_owned), search.iter().map(|&name| name.to_owned()).collect());
        dhcp::Lease { domain_name, search, ..plain() }
    }

    #[test]
    fn the_callers_domain_counts_for_more_and_the_search_list_follows() {
        let searched = lease(Some("lab.example"), &["a.example", "LAB.example", "b.example", "a.example"]);
        assert_eq!(domains("", &searched), "lab.example a.example b.example");
        assert_eq!(domains("my.example", &searched), "my.example a.example LAB.example b.example");
        assert_eq!(domains("", &lease(None, &["a.example"])), "a.example");
        assert_eq!(domains("", &lease(Some("lab.example"), &[])), "lab.example");
        assert_eq!(domains("", &lease(None, &[])), "");
    }
}
