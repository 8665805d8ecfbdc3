//! From a record to what it is about, as far as it makes sense: a file is anybody's.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use super::{BOUND, ENDING, INIT, INTENT, REBINDING, RENEWING, Record, Remembered, State, instant};
use crate::dhcp::{self, Phase, Plainness, Snapshot};
use crate::mac::Mac;
use crate::net::netns::NetnsId;
use crate::proxy::call::request::{OPTION_MAX, Request};
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::rpc::wire::Lease;
use crate::time::Instant;

impl Record {
    /// Parses it all; none where it makes no sense, for a file is anybody's.
    pub(crate) fn recall(self) -> Option<Remembered> {
        let key = self.key()?;
        // The kernel has no other numbers for interfaces, and no DHCP option takes more.
        let is_usable = (1..=i32::MAX.unsigned_abs()).contains(&self.container_ifindex)
            && self.client_id.len().max(self.caller_host_name.len()) <= OPTION_MAX;
        if !is_usable {
            return None;
        }
        let state = match &*self.state {
            INTENT => State::Intent,
            ENDING => State::Ending(self.rest(ENDING)?),
            state => State::Dormant(self.rest(state)?),
        };
        let netns = NetnsId {
            dev: self.ns_dev,
            ino: self.ns_ino,
            cookie: self.ns_cookie,
        };
        let site = ContainerInterface {
            netns,
            index: self.container_ifindex,
        };
        let settings = Applied::recall(
            &self.on_link,
            self.container_ifindex,
            self.lease.yiaddr.parse().ok(),
        )?;
        let request = Request {
            ns_path: Rc::clone(&key.netns),
            key,
            mac_text: self.lease.mac_address,
            host_interface: self.host_iface,
            container_interface: self.container_iface,
            client_id: self.client_id,
            host_name: (!self.caller_host_name.is_empty()).then_some(self.caller_host_name),
            domain_name: self.caller_domain,
        };
        Some(Remembered {
            request,
            site,
            settings,
            looks: self.look_at.map(|_| self.looks),
            unsaid: self.unsaid,
            message_size: self.message_size.try_into().ok().filter(|&size| size > 0),
            state,
        })
    }

    pub(crate) fn rest(&self, state: &str) -> Option<Snapshot> {
        let never = || Instant::from_boot(Duration::MAX);
        let times = || -> Option<_> {
            let timer = |at: Option<u64>| at.map_or_else(never, instant);
            Some((
                self.dhcp_lease()?,
                timer(self.renew_at),
                timer(self.rebind_at),
            ))
        };
        let next = self.next_at.map(instant);
        let phase = match state {
            // It may have been looking for a lease.
            ENDING if self.lease.yiaddr.is_empty() => self.init(never()),
            BOUND | ENDING => {
                let (lease, renew_at, rebind_at) = times()?;
                Phase::Bound {
                    lease,
                    renew_at,
                    rebind_at,
                }
            }
            RENEWING => {
                let (lease, renew_at, rebind_at) = times()?;
                Phase::Renewing {
                    lease,
                    renew_at,
                    rebind_at,
                    next: next?,
                }
            }
            REBINDING => {
                let (lease, renew_at, rebind_at) = times()?;
                Phase::Rebinding {
                    lease,
                    renew_at,
                    rebind_at,
                    next: next?,
                }
            }
            INIT => self.init(next?),
            _ => return None,
        };
        // One that makes no sense is of a file that another program wrote.
        let plainness = Plainness::ALL
            .get(self.plainness as usize)
            .copied()
            .unwrap_or_default();
        Some(Snapshot {
            phase,
            failures: self.setbacks,
            plainness,
            whole_at: instant(self.whole_at),
        })
    }

    fn init(&self, at: Instant) -> Phase {
        Phase::Init {
            at,
            since: instant(self.since),
            wanted: self.wanted.parse().ok(),
            pace: self.pace,
        }
    }

    pub(crate) fn dhcp_lease(&self) -> Option<dhcp::Lease> {
        let Lease {
            t1,
            t2,
            lease_time,
            mtu,
            host_name,
            ..
        } = &self.lease;
        let address: Ipv4Addr = self.lease.yiaddr.parse().ok()?;
        if !dhcp::is_host_address(address) {
            return None;
        }
        let mask: Ipv4Addr = self.lease.subnet_mask.parse().ok()?;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let is_infinite = *lease_time == u32::MAX;
        let timer = |time: u32| {
            if is_infinite {
                Duration::MAX
            } else {
                seconds(time)
            }
        };
        let lease = dhcp::Lease {
            address,
            prefix_len: u8::try_from(mask.to_bits().leading_ones())
                .ok()
                .filter(|&length| length > 0)?,
            broadcast: optional(&self.lease.broadcast_addr)?,
            routers: addresses(&self.lease.gateways)?,
            routes: self
                .routes
                .iter()
                .map(|way| dhcp::StaticRoute::try_from(way).ok())
                .collect::<Option<_>>()?,
            dns_servers: addresses(&self.lease.dns_servers)?,
            domain_name: non_empty(&self.server_domain),
            search: self.search.clone(),
            host_name: non_empty(host_name),
            mtu: u16::try_from(*mtu).ok().filter(|&mtu| mtu > 0),
            ntp_servers: addresses(&self.lease.ntp_servers)?,
            server_id: self.lease.srv_id.parse().ok()?,
            next_server: optional(&self.lease.siaddr)?
                .filter(|server: &Ipv4Addr| !server.is_unspecified()),
            server_mac: Mac::parse(&self.server_mac).ok(),
            lease_time: (!is_infinite).then(|| seconds(*lease_time)),
            t1: timer(*t1),
            t2: timer(*t2),
            acquired_at: instant(self.acquired_at),
        };
        (is_infinite || (lease.t1 <= lease.t2 && Some(lease.t2) <= lease.lease_time))
            .then_some(lease)
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// None where it is neither empty nor an address.
fn optional(text: &str) -> Option<Option<Ipv4Addr>> {
    if text.is_empty() {
        Some(None)
    } else {
        text.parse().ok().map(Some)
    }
}

fn addresses(texts: &[String]) -> Option<Vec<Ipv4Addr>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}
