//! A lease in the caller's terms: netavark's message, from RFC 2131's.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp;
use crate::rpc::Lease;

use super::request::Request;

/// What Setup answers and the lease file has. Times are in seconds; `u32::MAX` is for ever (RFC 2131 section 3.3).
pub(super) fn reply(request: &Request, lease: &dhcp::Lease) -> Lease {
    // netavark takes domain_name as the one search domain of the container.
    let domain_name = match request.domain_name.as_str() {
        "" => lease.domain_name.clone().unwrap_or_default(),
        callers => callers.to_owned(),
    };
    Lease {
        t1: seconds(lease.t1),
        t2: seconds(lease.t2),
        lease_time: lease.lease_time.map_or(u32::MAX, seconds),
        mtu: lease.mtu.map_or(0, u32::from),
        domain_name,
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

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn texts(addresses: &[Ipv4Addr]) -> Vec<String> {
    addresses.iter().map(Ipv4Addr::to_string).collect()
}
