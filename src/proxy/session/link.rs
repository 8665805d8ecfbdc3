//! The link of a session: a lease's address, routes and MTU, set and removed.

use crate::dhcp::{self, LossReason};
use crate::proxy::call::reply;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::error::CallError;
use crate::proxy::store::counters::{Counter, FailureReason};
use crate::rt;

use super::Session;
use super::log_text::{LeaseTerms, LossText};

impl Session {
    /// Applies a new or renewed lease to the link, and logs it.
    pub(super) fn apply(&mut self, lease: &dhcp::Lease) {
        let terms = LeaseTerms(lease);
        if self.applied.set_address_and_gateway(lease) {
            log::info!("{self}: renewed {terms}");
        } else {
            // The words of netavark's proxy, which its users look for.
            let mac = &self.request.mac_text;
            log::info!(
                "{self}: ip or gateway for mac {mac} changed, update address; leased {terms}"
            );
        }
        match self.put_on_link(lease) {
            // The next recheck of the link finds out more.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => self.is_link_stale = true,
            applied => self.set_link_result(applied.map_err(CallError::from)),
        }
    }

    /// Removes a lost lease from the link, and logs it.
    pub(super) fn apply_loss(&mut self, old: &dhcp::Lease, why: &LossReason) {
        let (address, why) = (old.address, LossText(why));
        log::warn!("{self}: lost the lease of {address}: {why}; acquiring another");
        self.set_trouble(&format!("lost the lease of {address}: {why}"));
        let undone = self.take_off_link();
        self.set_link_result(undone);
    }

    /// Logs the search domains that do not fit into the reply.
    pub(super) fn log_left_out_domains(&self, lease: &dhcp::Lease) {
        let left_out = reply::omitted_domains(&self.request, lease);
        if !left_out.is_empty() {
            let server = lease.server_id;
            log::warn!(
                "{self}: the search list from {server} is too long for resolv.conf; \
                 leaving out {left_out}"
            );
        }
    }

    /// Sets the link as the lease says.
    pub(super) fn put_on_link(&mut self, lease: &dhcp::Lease) -> Result<(), Unreachable> {
        let netlink = self.interface.check(&self.request)?;
        Ok(self.applied.apply(
            &netlink,
            self.interface.index,
            &self.request.key,
            lease,
            self.context.settings.mtu,
            rt::now(),
        )?)
    }

    /// Removes from the link what a lease has set.
    pub(super) fn take_off_link(&mut self) -> Result<(), CallError> {
        if self.applied.is_empty() {
            return Ok(());
        }
        match self.interface.netlink(&self.request) {
            Ok(netlink) => {
                self.applied
                    .undo(&netlink, self.interface.index, &self.request.key);
            }
            // Addresses and routes end with their interface.
            Err(Unreachable::Gone(_) | Unreachable::OtherMac(_)) => {
                self.applied = Applied::default()
            }
            Err(Unreachable::Fault(error)) => return Err(error),
        }
        Ok(())
    }

    /// Records the outcome of a change to the link: a failure is logged and rechecked later.
    pub(super) fn set_link_result(&mut self, outcome: Result<(), CallError>) {
        let error = outcome.err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        self.is_link_stale = !error.is_empty();
        // A session that resumes after a failure has logged it before.
        if self.is_link_stale && self.last_error != error && self.rechecks == 0 {
            log::warn!("{self}: {error}; trying again later");
            self.context.count(Counter::Failure(FailureReason::Kernel));
            self.set_trouble(&error);
        }
        self.last_error = error;
    }

    /// Sets the link as the lease says, or removes what is left of a lease.
    pub(super) fn restore_link(&mut self) -> Result<(), Unreachable> {
        match self.client.lease().cloned() {
            Some(lease) => self.put_on_link(&lease),
            None => Ok(self.take_off_link()?),
        }
    }
}
