//! The changes that a lease makes to the link, and how to undo exactly those.

use std::net::Ipv4Addr;

use crate::dhcp::Lease;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::net::route::Route;
use crate::time::Instant;

use crate::proxy::config::MtuRule;
use crate::proxy::error::CallError;
use crate::proxy::key::{LeaseKey, LogPrefix};

pub(crate) use stored::{StoredApplied, StoredRoute};

mod routes;
mod stored;

/// The smallest MTU that is applied: every IPv4 host takes a packet of that size (RFC 791).
const MTU_MIN: u16 = 576;

/// The changes that this program made to the link. What it found there is not listed, and stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    address: Option<(Ipv4Addr, u8)>,
    routes: Vec<Route>,
    mtu: Option<Mtu>,
    /// The MTU that was refused and logged.
    refused_mtu: Option<u16>,
    /// The routes that the kernel refused and that were logged.
    refused_routes: Vec<Route>,
    /// Those of the present lease.
    last: Option<AddressAndGateway>,
}

/// The address and gateway of a lease. A change of them is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressAndGateway {
    /// The address and its prefix length.
    address: (Ipv4Addr, u8),
    /// The router of the default route.
    gateway: Option<Ipv4Addr>,
}

/// An MTU that this program set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mtu {
    before: u32,
    ours: u32,
}
impl Applied {
    /// Stores the address and the gateway of `lease`. Returns whether they are unchanged.
    pub(crate) fn set_address_and_gateway(&mut self, lease: &Lease) -> bool {
        let new = Some(AddressAndGateway {
            address: (lease.address, lease.prefix_len),
            gateway: lease.routers.first().copied(),
        });
        std::mem::replace(&mut self.last, new) == self.last
    }

    /// Returns the address that this program set, and its prefix length.
    pub(crate) fn address(&self) -> Option<(Ipv4Addr, u8)> {
        self.address
    }

    /// Takes an address on the link for the lease's own.
    pub(crate) fn assume_address(&mut self, address: Ipv4Addr, prefix: u8) {
        self.address = Some((address, prefix));
    }

    /// Applies a lease that netavark's proxy has applied. That proxy's default route has no
    /// lifetime, and is replaced.
    pub(crate) fn apply_adopted(
        &mut self,
        netlink: &Netlink,
        index: u32,
        key: &LeaseKey,
        lease: &Lease,
        mtu: MtuRule,
        now: Instant,
    ) -> Result<(), CallError> {
        let table = netlink
            .route_table()
            .map_err(fault("looking at the routes".to_owned()))?;
        let is_netavarks = |route: &&Route| {
            let leads_to = (route.prefix, route.gateway, route.index, route.source);
            route.gateway.is_some() && leads_to == (0, lease.routers.first().copied(), index, None)
        };
        let routes = table
            .present()
            .iter()
            .filter(is_netavarks)
            .cloned()
            .collect();
        routes::remove(netlink, routes, key.log_prefix(self.address));
        self.apply(netlink, index, key, lease, mtu, now)
    }

    /// Returns whether there is nothing to undo.
    pub(crate) fn is_empty(&self) -> bool {
        self.address.is_none() && self.routes.is_empty() && self.mtu.is_none()
    }

    /// Applies `lease`, from whatever was applied before. Applying it twice is no error.
    ///
    /// After a failure `self` has what was applied until then, so that it can be undone.
    pub(crate) fn apply(
        &mut self,
        netlink: &Netlink,
        index: u32,
        key: &LeaseKey,
        lease: &Lease,
        mtu: MtuRule,
        now: Instant,
    ) -> Result<(), CallError> {
        if self
            .address
            .is_some_and(|ours| ours != (lease.address, lease.prefix_len))
        {
            // The old address first: removing the older of two addresses in one subnet removes
            // both.
            self.undo_address(netlink, index, key);
        }
        self.set_mtu(netlink, index, key, lease, mtu);
        self.set_address(netlink, index, lease, now)?;
        self.set_routes(netlink, index, key, lease)?;
        self.routes.shrink_to_fit();
        Ok(())
    }

    fn set_address(
        &mut self,
        netlink: &Netlink,
        index: u32,
        lease: &Lease,
        now: Instant,
    ) -> Result<(), CallError> {
        let (address, prefix) = (lease.address, lease.prefix_len);
        let fault = || fault(format!("setting the address {address}/{prefix}"));
        // If the addresses are too many to be read, this one is assumed to have a lifetime, and
        // gets a new one.
        let present = netlink.addresses(index).unwrap_or_default();
        let permanent = present
            .iter()
            .any(|there| (there.address, there.prefix, there.valid) == (address, prefix, None));
        if permanent && self.address.is_none() {
            // The address was there before the lease, and stays.
            return Ok(());
        }
        // The kernel removes the address when the lease expires, even if no daemon runs. An address
        // that is there and has a lifetime was left by an earlier instance, and is this lease's.
        let valid = lease.expires_at().map(|expiry| expiry - now);
        netlink
            .set_address(index, address, prefix, lease.broadcast, valid)
            .map_err(fault())?;
        self.address = Some((address, prefix));
        Ok(())
    }

    /// Sets the MTU. If the link refuses it, the container still gets its lease: the server is at
    /// fault.
    fn set_mtu(
        &mut self,
        netlink: &Netlink,
        index: u32,
        key: &LeaseKey,
        lease: &Lease,
        rule: MtuRule,
    ) {
        let prefix = key.log_prefix(Some((lease.address, lease.prefix_len)));
        let Some(mtu) = lease.mtu.filter(|_| rule != MtuRule::Ignore) else {
            return self.undo_mtu(netlink, index, prefix);
        };
        let refused = self.try_mtu(netlink, index, prefix, mtu, rule).err();
        if let Some(why) = refused.as_ref().filter(|_| self.refused_mtu != Some(mtu)) {
            log::warn!(
                "{prefix}: ignoring the MTU of {mtu} bytes from {}: {why}",
                lease.server_id
            );
        }
        self.refused_mtu = refused.map(|_| mtu);
    }

    fn try_mtu(
        &mut self,
        netlink: &Netlink,
        index: u32,
        prefix: LogPrefix<'_>,
        mtu: u16,
        rule: MtuRule,
    ) -> Result<(), String> {
        if mtu < MTU_MIN {
            return Err("less than 576 is no MTU for IPv4".to_owned());
        }
        let Some(link) = netlink
            .link_by_index(index)
            .map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let ours = u32::from(mtu);
        // An MTU that this program did not set is the administrator's choice.
        if link.mtu == ours || self.mtu.is_some_and(|set| set.ours != link.mtu) {
            return Ok(());
        }
        // A lower MTU may have a reason that the server does not know, such as a tunnel. An MTU
        // that this program lowered is raised to its old value at most.
        let before = self.mtu.map_or(link.mtu, |set| set.before);
        if rule == MtuRule::Lower && ours > before {
            self.undo_mtu(netlink, index, prefix);
            return Err(format!(
                "{} has one of {before}, which --mtu lower does not raise",
                link.name
            ));
        }
        if !link.takes_mtu(ours) {
            return Err(format!(
                "{} takes from {} to {}",
                link.name, link.min_mtu, link.max_mtu
            ));
        }
        netlink
            .set_mtu(index, ours)
            .map_err(|error| format!("{} does not take it: {error}", link.name))?;
        self.mtu = Some(Mtu { before, ours });
        Ok(())
    }

    /// Removes all changes from the link. What cannot be removed is logged.
    pub(crate) fn undo(&mut self, netlink: &Netlink, index: u32, key: &LeaseKey) {
        let prefix = key.log_prefix(self.address);
        routes::remove(netlink, std::mem::take(&mut self.routes), prefix);
        self.undo_address(netlink, index, key);
        self.undo_mtu(netlink, index, prefix);
    }

    fn undo_address(&mut self, netlink: &Netlink, index: u32, key: &LeaseKey) {
        let name = key.log_prefix(self.address);
        let Some((address, prefix)) = self.address.take() else {
            return;
        };
        let addresses = || netlink.addresses(index);
        let before = match addresses() {
            Ok(before) => before,
            // Removing the first of very many addresses takes the kernel minutes, which would block
            // the daemon.
            Err(error @ NetlinkError::TooMany { .. }) => {
                log::warn!("{name}: cannot remove the address: {error}; it is left to expire");
                return;
            }
            Err(_) => Vec::new(),
        };
        if let Err(error) = netlink.remove_address(index, address, prefix) {
            log::warn!("{name}: cannot remove the address: {error}");
            return;
        }
        // The kernel removes later addresses of the same subnet as well, unless
        // `promote_secondaries` is set. They are not this program's.
        let after = addresses().unwrap_or_default();
        let left = |one: Ipv4Addr| one == address || after.iter().any(|after| after.address == one);
        for lost in before.iter().filter(|before| !left(before.address)) {
            let restored =
                netlink.set_address(index, lost.address, lost.prefix, lost.broadcast, lost.valid);
            if let Err(error) = restored {
                log::warn!(
                    "{name}: cannot restore the address {}/{}: {error}",
                    lost.address,
                    lost.prefix
                );
            }
        }
    }

    fn undo_mtu(&mut self, netlink: &Netlink, index: u32, prefix: LogPrefix<'_>) {
        let Some(mtu) = self.mtu.take() else { return };
        // Unless the MTU has been changed since.
        let ours = netlink
            .link_by_index(index)
            .is_ok_and(|link| link.is_some_and(|link| link.mtu == mtu.ours));
        if ours && let Err(error) = netlink.set_mtu(index, mtu.before) {
            log::warn!(
                "{prefix}: cannot restore the MTU of {}: {error}",
                mtu.before
            );
        }
    }
}

fn fault(doing: String) -> impl FnOnce(NetlinkError) -> CallError {
    move |error| CallError::fault(doing)(error.into_io())
}
