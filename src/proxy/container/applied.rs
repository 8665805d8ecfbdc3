//! What a lease puts on the link, with what it takes to undo exactly that.

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

/// What every IPv4 host has to be able to take (RFC 791); less than that is a mistake.
const MTU_MIN: u16 = 576;

/// What is on the link because of us. What was there before is not in here, and stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    address: Option<(Ipv4Addr, u8)>,
    routes: Vec<Route>,
    mtu: Option<Mtu>,
    /// The MTU that was warned about.
    refused_mtu: Option<u16>,
    /// The routes that the kernel did not take, and that were warned about.
    refused_routes: Vec<Route>,
    /// Those of the last lease.
    last: Option<AddressAndGateway>,
}

/// What a lease says of a container's place in the network: a change of it is worth a line in the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressAndGateway {
    /// The address with the length of its prefix.
    address: (Ipv4Addr, u8),
    /// The router that the default route leads to.
    gateway: Option<Ipv4Addr>,
}

/// An MTU that we changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mtu {
    before: u32,
    ours: u32,
}
impl Applied {
    /// Notes the address and the gateway of `lease`, and returns whether they are those of the
    /// lease before it.
    pub(crate) fn note_address_and_gateway(&mut self, lease: &Lease) -> bool {
        let new = Some(AddressAndGateway {
            address: (lease.address, lease.prefix_len),
            gateway: lease.routers.first().copied(),
        });
        std::mem::replace(&mut self.last, new) == self.last
    }

    /// The address that this program has put on the link, with the length of its prefix.
    pub(crate) fn address(&self) -> Option<(Ipv4Addr, u8)> {
        self.address
    }

    /// Takes an address that was found on the link for a lease's.
    pub(crate) fn adopt(&mut self, address: Ipv4Addr, prefix: u8) {
        self.address = Some((address, prefix));
    }

    /// Makes the link what `lease` says where netavark's proxy has applied it: that proxy's default
    /// route does not end with the lease, and is replaced.
    pub(crate) fn take_over(
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

    /// Makes the link what `lease` says, from whatever was applied before. What is there already is
    /// no error.
    ///
    /// When it fails, what it did until then is in `self`, to be undone.
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
            // The old one first: of two addresses in one subnet the older takes the younger with it
            // when it goes.
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
        // Where there are too many to be read, it is taken for one with a lifetime, and gets
        // another.
        let present = netlink.addresses(index).unwrap_or_default();
        let permanent = present
            .iter()
            .any(|there| (there.address, there.prefix, there.valid) == (address, prefix, None));
        if permanent && self.address.is_none() {
            // It was there before the lease, and is meant to stay.
            return Ok(());
        }
        // The kernel's own clock ends the address with the lease, also while no daemon runs. One
        // that is there and has a lifetime is a lease's, too: an earlier instance left it, and it is
        // ours now.
        let valid = lease.expires_at().map(|expiry| expiry - now);
        netlink
            .set_address(index, address, prefix, lease.broadcast, valid)
            .map_err(fault())?;
        self.address = Some((address, prefix));
        Ok(())
    }

    /// An MTU that the link does not take is the server's mistake, and no reason to go without a
    /// lease.
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
        // An MTU that is not what this program set is the administrator's choice.
        if link.mtu == ours || self.mtu.is_some_and(|set| set.ours != link.mtu) {
            return Ok(());
        }
        // A lower one was chosen for a reason, such as a tunnel further on, that the server does
        // not know of. One that we have lowered goes back to what it was, and no further.
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

    /// Takes everything of ours off the link. What cannot be removed is logged: there is nothing
    /// else to be done.
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
            // To remove the first of very many takes the kernel minutes, in which nothing else
            // would be done here.
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
        // Younger ones of the same subnet go with it (unless `promote_secondaries` is set), and
        // they are not ours.
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
        // Unless another one was set since.
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
