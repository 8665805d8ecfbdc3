//! Texts about leases for the log.

use std::fmt;
use std::time::Duration;

use crate::dhcp::{Event, Lease, LossReason, StaticRoute};

/// The server and the time of a lease, as in "by 10.0.0.1 for 3600 s".
pub(crate) struct LeaseTerms<'a>(pub(crate) &'a Lease);

impl fmt::Display for LeaseTerms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.0.server_id;
        match self.0.lease_time {
            Some(time) => write!(f, "by {server} for {} s", time.as_secs()),
            None => write!(f, "by {server} for ever"),
        }
    }
}

/// The reason for the loss of a lease.
pub(crate) struct LossText<'a>(pub(crate) &'a LossReason);

impl fmt::Display for LossText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LossReason::Expired => write!(f, "it expired without a renewal"),
            LossReason::Refused {
                server,
                message: None,
            } => write!(f, "refused by {server}"),
            LossReason::Refused {
                server,
                message: Some(message),
            } => write!(f, "refused by {server}: {message}"),
            LossReason::Conflict { by } => write!(f, "{by} uses that address"),
        }
    }
}

/// Returns the text of an event that does not change the link; `None` for other events.
pub(crate) fn notice(event: &Event) -> Option<String> {
    match event {
        Event::Declined {
            address,
            server,
            by,
        } => Some(format!(
            "declined {address} from {server}: {}",
            LossText(&LossReason::Conflict { by: *by })
        )),
        Event::Unusable { server, values } => Some(format!(
            "ignoring {} from {server}: not usable here",
            list(values)
        )),
        Event::Contested { address, by } => Some(format!(
            "{by} claims {address}, which is in use here; announcing it, and giving it up if the \
             claim is repeated within 10 s"
        )),
        Event::ProxyArp { address, by } => Some(format!(
            "{by} answers ARP for {address}; using the address, because this is taken for proxy \
             ARP: the station is the DHCP server or the router, or has claimed another address before \
             (--arp-probe 0 disables probes)"
        )),
        Event::NoLeaseTime { server, assumed } => {
            let assumed = assumed.as_ref().map(Duration::as_secs);
            let text =
                assumed.map_or_else(|| "for ever".to_owned(), |seconds| format!("{seconds} s"));
            Some(format!("{server} sends no lease time; assuming {text}"))
        }
        Event::Bound(_) | Event::Renewed(_) | Event::Changed { .. } | Event::Lost { .. } => None,
        Event::GaveUp(_) | Event::Released => None,
    }
}

/// The settings that differ between two leases, old and new; empty where none does.
pub(crate) struct LeaseChange<'a>(pub(crate) &'a Lease, pub(crate) &'a Lease);

impl fmt::Display for LeaseChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(old, new) = self;
        let applied = |lease: &Lease| {
            [
                ("default router", list(lease.routers.first())),
                ("other routes", list(lease.routes.iter().map(DisplayRoute))),
                ("MTU", list(lease.mtu)),
                ("DNS servers", list(&lease.dns_servers)),
                ("domain", list(&lease.domain_name)),
                ("search list", list(&lease.search)),
                ("NTP servers", list(&lease.ntp_servers)),
            ]
        };
        let mut separator = "";
        for ((name, old), (_, new)) in applied(old)
            .into_iter()
            .zip(applied(new))
            .filter(|(old, new)| old != new)
        {
            write!(f, "{separator}{name} {old} -> {new}")?;
            separator = "; ";
        }
        Ok(())
    }
}

fn list(items: impl IntoIterator<Item: fmt::Display>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}

struct DisplayRoute<'a>(&'a StaticRoute);

impl fmt::Display for DisplayRoute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StaticRoute {
            destination,
            prefix_len,
            gateway,
        } = self.0;
        match gateway {
            Some(gateway) => write!(f, "{destination}/{prefix_len} via {gateway}"),
            None => write!(f, "{destination}/{prefix_len} on the link"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::proxy::call::reply::tests::plain as lease;

    #[test]
    fn each_setting_that_differs_is_named_and_no_other() {
        let change = |new: Lease| LeaseChange(&lease(), &new).to_string();
        assert_eq!(change(lease()), "");
        // Times are not settings, and only the first router is used.
        let only = vec![Ipv4Addr::new(10, 0, 0, 1)];
        assert_eq!(
            change(Lease {
                routers: only,
                lease_time: Some(Duration::from_secs(60)),
                ..lease()
            }),
            ""
        );
        assert_eq!(
            change(Lease {
                routers: Vec::new(),
                ..lease()
            }),
            "default router 10.0.0.1 -> none"
        );
        let destination = Ipv4Addr::new(10, 9, 0, 0);
        let on_link = StaticRoute {
            destination,
            prefix_len: 16,
            gateway: None,
        };
        let far = StaticRoute {
            gateway: Some(Ipv4Addr::new(10, 0, 0, 9)),
            ..on_link
        };
        let new = Lease {
            routes: vec![on_link, far],
            mtu: Some(1400),
            dns_servers: vec![Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(10, 0, 0, 54)],
            domain_name: None,
            search: vec!["a.example".to_owned()],
            ntp_servers: vec![Ipv4Addr::new(10, 0, 0, 123)],
            ..lease()
        };
        assert_eq!(
            change(new),
            "other routes none -> 10.9.0.0/16 on the link, 10.9.0.0/16 via 10.0.0.9; MTU none -> 1400; \
             DNS servers 10.0.0.53 -> 10.0.0.53, 10.0.0.54; domain lab.example -> none; search list none -> a.example; \
             NTP servers none -> 10.0.0.123"
        );
    }
}
