//! A lease on the link of its container: put there, kept right, and taken off.

use crate::dhcp::{self, LossReason};
use crate::proxy::call::reply;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::error::CallError;
use crate::rt;

use super::Session;
use super::log_text::{Brief, LostBy};

impl Session {
    /// A lease in place of the one that was there.
    pub(super) fn adopt(&mut self, lease: &dhcp::Lease) {
        if self.applied.note_address_and_gateway(lease) {
            log::info!("{self}: renewed {}", Brief(lease));
        } else {
            // netavark's words, which its users look for.
            let mac = &self.request.mac_text;
            log::info!(
                "ip or gateway for mac {mac} changed, update address: {}",
                Brief(lease)
            );
        }
        let applied = self.put_on_link(lease);
        match applied {
            // The next look at the link tells what has become of it.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => self.stale = true,
            applied => self.note(applied.map_err(CallError::from)),
        }
    }

    /// No lease in place of the one that was there.
    pub(super) fn lose(&mut self, old: &dhcp::Lease, why: &LossReason) {
        log::warn!(
            "{self}: lost the lease of {}: {}; looking for another",
            old.address,
            LostBy(why)
        );
        let undone = self.take_off_link();
        self.note(undone);
    }

    /// Logs the search domains that are left out of the reply.
    pub(super) fn tell_cut_search_list(&self, lease: &dhcp::Lease) {
        let left_out = reply::left_out(&self.request, lease);
        if !left_out.is_empty() {
            let server = lease.server_id;
            log::warn!(
                "{self}: the search list from {server} is too long for resolv.conf; left out {left_out}"
            );
        }
    }

    /// Makes the link what the lease says.
    pub(super) fn put_on_link(&mut self, lease: &dhcp::Lease) -> Result<(), Unreachable> {
        let netlink = self.site.check(&self.request)?;
        Ok(self.applied.apply(
            &netlink,
            self.site.index,
            lease,
            self.context.settings.mtu,
            rt::now(),
        )?)
    }

    pub(super) fn take_off_link(&mut self) -> Result<(), CallError> {
        if self.applied.is_empty() {
            return Ok(());
        }
        match self.site.netlink(&self.request) {
            Ok(netlink) => self.applied.undo(&netlink, self.site.index),
            // With the namespace or the interface all that was on it has gone.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => {
                self.applied = Applied::default()
            }
            Err(Unreachable::Fault(error)) => return Err(error),
        }
        Ok(())
    }

    /// Remembers whether the link is in order, to look again if not.
    pub(super) fn note(&mut self, outcome: Result<(), CallError>) {
        let trouble = outcome
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        self.stale = !trouble.is_empty();
        // What was so the last time has been told then.
        if self.stale && self.trouble != trouble && self.looks == 0 {
            log::warn!("{self}: {trouble}");
        }
        self.trouble = trouble;
    }

    /// Makes the link what the lease says, or what it was where there is none.
    pub(super) fn set_link_right(&mut self) -> Result<(), Unreachable> {
        match self.client.lease().cloned() {
            Some(lease) => self.put_on_link(&lease),
            None => Ok(self.take_off_link()?),
        }
    }
}
