//! Adoption: takes over leases that netavark's proxy left in `nv-proxy.lease`, and renews them.
//!
//! netavark's file names neither the namespace nor the container of a lease. So each namespace
//! below /run/netns is searched for an interface with both the MAC and the address of a lease;
//! other tasks run between two namespaces. A lease without a unique match is left alone. Calls wait
//! until the search is over, because they may be about a lease that it finds.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;

use crate::mac::Mac;
use crate::net::link::Address;
use crate::net::netlink::Netlink;
use crate::net::netns::{Netns, NetnsId};
use crate::proxy::call::request::{OPTION_MAX, Request};
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::{ContainerInterface, looking_for, netlink_in};
use crate::proxy::error::{BadRequest, CallError};
use crate::proxy::key::LeaseKey;
use crate::proxy::store::record::Record;
use crate::rpc::NetavarkLease;
use crate::rt;
use crate::time::Instant;

use super::state::{Slot, Table};
use crate::proxy::store::podman::{self, Container};

/// The directory of Podman's network namespaces.
const NETNS_DIRECTORY: &str = "/run/netns";
/// The most namespaces that are searched.
const MAX_NAMESPACES: usize = 4096;
/// The time limit of the search, which calls wait for. A namespace takes less than 1 ms.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

/// An interface with the MAC and the address of a lease.
struct MatchingInterface {
    /// The namespace, by Podman's name.
    netns: Rc<Path>,
    interface: ContainerInterface,
    name: String,
    parent: Option<u32>,
    address: Address,
}

/// Lists the namespaces to be searched, each as a key for the journal of work.
pub(super) fn namespaces() -> Vec<LeaseKey> {
    let Ok(directory) = fs::read_dir(NETNS_DIRECTORY) else {
        return Vec::new();
    };
    let key = |path: &Path| LeaseKey {
        mac: Mac([0; 6]),
        netns: path.into(),
        interface: "".into(),
    };
    directory
        .take(MAX_NAMESPACES)
        .flatten()
        .map(|entry| key(&entry.path()))
        .collect()
}

impl Table {
    /// Starts the adoption of `leases` from interfaces in `namespaces`.
    pub(super) fn start_adopting(
        self: &Rc<Self>,
        leases: Vec<NetavarkLease>,
        namespaces: Vec<LeaseKey>,
    ) {
        self.adoption.begin();
        let leases = self.without_known(leases);
        let (table, activity) = (Rc::clone(self), self.idle.activity());
        let adoption = async move {
            table.adopt(leases, namespaces).await;
            table.adoption.end();
            // From now on netavark's file may be overwritten.
            table.file.unprotect_copy();
            table.save_later();
            drop(activity);
        };
        self.context.runtime.spawn(adoption).detach();
    }

    /// Removes leases that are in the table. The copy has them where the state file was damaged. A
    /// lease whose namespace is gone does not count: the container has been started again under
    /// netavark's proxy, with the same MAC and address.
    fn without_known(&self, mut leases: Vec<NetavarkLease>) -> Vec<NetavarkLease> {
        for known in self
            .keys(|_| true)
            .iter()
            .filter_map(|key| self.record(key))
            .filter(|known| !known.is_gone())
        {
            let address = known.lease().map(|lease| lease.address.to_string());
            let is_known = |lease: &NetavarkLease| {
                lease.mac_address == known.request.mac_text
                    && lease.yiaddr == address.as_deref().unwrap_or_default()
            };
            leases.retain(|lease| !is_known(lease));
        }
        leases
    }

    async fn adopt(self: &Rc<Self>, leases: Vec<NetavarkLease>, namespaces: Vec<LeaseKey>) {
        let end = rt::now() + SEARCH_TIMEOUT;
        let mut found: Vec<Vec<MatchingInterface>> = leases.iter().map(|_| Vec::new()).collect();
        for key in namespaces {
            yield_now().await;
            let netns = key.netns.display();
            if rt::now() >= end {
                let seconds = SEARCH_TIMEOUT.as_secs();
                log::warn!(
                    "searching {NETNS_DIRECTORY} for leases of netavark's proxy takes more than \
                     {seconds} s; skipping the rest"
                );
                break;
            }
            if self.journal.deaths(&key) > 0 {
                log::warn!("{netns}: the daemon died while searching this namespace; skipping it");
                continue;
            }
            let _step = self.journal.begin_step(&key);
            if let Err(error) = search_namespace(&key.netns, &leases, &mut found) {
                log::debug!("{netns}: not searched for leases of netavark's proxy: {error}");
            }
        }
        let paths: Vec<Rc<Path>> = found
            .iter()
            .flatten()
            .map(|found| Rc::clone(&found.netns))
            .collect();
        let containers = podman::containers_of(&paths, end).await;
        let host = Netlink::open().ok();
        for (lease, mut found) in leases.into_iter().zip(found) {
            yield_now().await;
            let (address, mac) = (lease.yiaddr.clone(), lease.mac_address.clone());
            let adopted = match (found.pop(), found.len()) {
                (None, _) => Err(format!(
                    "no interface in {NETNS_DIRECTORY} has this MAC and address"
                )),
                (Some(found), 0) => {
                    let container = containers.get(&*found.netns);
                    self.adopt_one(lease, found, container, host.as_ref())
                        .map_err(|error| error.to_string())
                }
                (Some(_), others) => Err(format!(
                    "{} interfaces in {NETNS_DIRECTORY} have this MAC and address",
                    others + 1
                )),
            };
            if let Err(why) = adopted {
                log::warn!(
                    "cannot adopt the lease of {address} that netavark's proxy left for {mac}: \
                     {why}. It is not renewed; restart its container"
                );
            }
        }
    }

    /// Takes over one lease, unless the table has another one for its interface.
    fn adopt_one(
        self: &Rc<Self>,
        lease: NetavarkLease,
        found: MatchingInterface,
        container: Option<&Container>,
        host: Option<&Netlink>,
    ) -> Result<(), CallError> {
        let request = request_for(&lease, &found, container, host)?;
        let MatchingInterface {
            interface, address, ..
        } = found;
        let key = request.key.clone();
        if self.with_slots(|slots| slots.contains_key(&key)) {
            return Ok(());
        }
        let now = rt::now();
        let mut applied = Applied::default();
        applied.assume_address(address.address, address.prefix);
        let record = |applied: &Applied| {
            Record::adopted(
                lease.clone(),
                (&request, &interface),
                applied,
                (made_at(&address, now), now),
            )
        };
        let without = if container.is_some() {
            ""
        } else {
            " without a client identifier, as Podman's files do not name the container"
        };
        let adopted = record(&applied).ok_or_else(|| {
            CallError::fault("reading the lease")(std::io::Error::other("its values make no sense"))
        })?;
        let prefix = adopted.log_prefix();
        log::info!("{prefix}: adopting the lease of netavark's proxy{without}; renewing it now");
        let _step = self.journal.begin_step(&key);
        self.update(&key, |slot| *slot = Some(Slot::dormant(&adopted, true)));
        // Written ahead of the changes to the link.
        self.save(false);
        let mut apply_adopted = || -> Result<(), CallError> {
            let (netlink, mtu) = (interface.check(&request)?, self.context.settings.mtu);
            let Some(lease) = adopted.lease() else {
                return Ok(());
            };
            applied.apply_adopted(&netlink, interface.index, &key, lease, mtu, now)
        };
        if let Err(error) = apply_adopted() {
            log::warn!("{prefix}: cannot set up the link: {error}; the renewal tries again");
        }
        if let Some(adopted) = record(&applied) {
            self.set_record(&key, &adopted);
        }
        Ok(())
    }
}

/// Returns the Setup request that a lease of netavark's proxy belongs to.
fn request_for(
    lease: &NetavarkLease,
    found: &MatchingInterface,
    container: Option<&Container>,
    host: Option<&Netlink>,
) -> Result<Request, CallError> {
    let parent = found
        .parent
        .zip(host)
        .and_then(|(index, host)| host.link_by_index(index).ok().flatten());
    Ok(Request {
        key: LeaseKey {
            mac: Mac::parse(&lease.mac_address).map_err(BadRequest::from)?,
            netns: Rc::clone(&found.netns),
            interface: found.name.as_str().into(),
        },
        ns_path: Rc::clone(&found.netns),
        mac_text: lease.mac_address.clone(),
        host_interface: parent.map(|link| link.name).unwrap_or_default(),
        container_interface: found.name.clone(),
        // The server knows the lease by netavark's client identifier, whatever --client-id says.
        client_id: container
            .map(|container| client_id(&container.id))
            .unwrap_or_default(),
        host_name: container.and_then(|container| container.host_name.clone()),
        domain_name: String::new(),
    })
}

/// Returns option 61 as netavark sends it: type 0, then the container's id.
fn client_id(id: &str) -> Vec<u8> {
    let mut client_id = vec![0];
    client_id.extend(id.bytes().take(OPTION_MAX - 1));
    client_id
}

/// Returns the instant at which an address was added to its interface, or an earlier one: the
/// kernel's count stands still while the machine is suspended.
fn made_at(address: &Address, now: Instant) -> Instant {
    let hundredths =
        u32::try_from((now.since_boot().as_millis() / 10) & u128::from(u32::MAX)).unwrap_or(0);
    let age = Duration::from_millis(u64::from(hundredths.wrapping_sub(address.made_at)) * 10);
    Instant::from_boot(now.since_boot().saturating_sub(age))
}

/// Searches a namespace for interfaces with the MAC and the address of one of `leases`.
fn search_namespace(
    path: &Rc<Path>,
    leases: &[NetavarkLease],
    found: &mut [Vec<MatchingInterface>],
) -> Result<(), CallError> {
    let netns = Netns::open(path)?;
    let id: NetnsId = netns.id();
    if id
        == Netns::current()
            .map_err(CallError::fault(
                "looking at the daemon's own network namespace",
            ))?
            .id()
    {
        return Ok(());
    }
    let netlink = netlink_in(&netns)?;
    let links = netlink
        .links()
        .map_err(looking_for("the container's interfaces"))?;
    for link in links {
        let Some(mac) = link.mac else { continue };
        let mut addresses = None;
        for (lease, found) in leases.iter().zip(&mut *found) {
            let is_it = Mac::parse(&lease.mac_address).is_ok_and(|of_lease| of_lease.0 == mac);
            let (true, Ok(leased)) = (is_it, lease.yiaddr.parse::<Ipv4Addr>()) else {
                continue;
            };
            if addresses.is_none() {
                addresses = Some(
                    netlink
                        .addresses(link.index)
                        .map_err(looking_for(&link.name))?,
                );
            }
            let address = addresses
                .iter()
                .flatten()
                .find(|there| there.address == leased);
            // A namespace may have two paths.
            let is_known = |known: &MatchingInterface| {
                (known.interface.netns, known.interface.index) == (id, link.index)
            };
            if let Some(address) = address.filter(|_| !found.iter().any(is_known)) {
                found.push(MatchingInterface {
                    netns: Rc::clone(path),
                    interface: ContainerInterface {
                        netns: id,
                        index: link.index,
                    },
                    name: link.name.clone(),
                    parent: link.parent_elsewhere,
                    address: address.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_an_address_is_counted_in_hundredths_that_begin_anew() {
        let at = |hundredths: u64| Instant::from_boot(Duration::from_millis(hundredths * 10));
        let address = |made_at| Address {
            address: Ipv4Addr::new(10, 0, 0, 5),
            prefix: 24,
            broadcast: None,
            valid: None,
            preferred: None,
            made_at,
        };
        assert_eq!(made_at(&address(500), at(1700)), at(500));
        let round = u64::from(u32::MAX) + 1;
        assert_eq!(made_at(&address(u32::MAX), at(round + 99)), at(round - 1));
        assert_eq!(made_at(&address(1), at(3 * round + 2)), at(3 * round + 1));
    }

    #[test]
    fn a_client_id_is_netavarks_and_fits_its_option() {
        assert_eq!(client_id("0123"), b"\x000123");
        assert_eq!(client_id(&"a".repeat(1000)).len(), OPTION_MAX);
    }
}
