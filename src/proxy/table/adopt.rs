//! Leases of containers that netavark's proxy served: found again by MAC and address, and renewed
//! from then on.
//!
//! netavark's file says neither in which namespace a lease is, nor whose it is. So the namespaces
//! below /run/netns are looked at, one at a time with a turn for all else in between, and an entry
//! leads to work on an interface only where that has both its MAC and its address. Calls wait until
//! this is over, for they may be about such a lease.

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

/// Podman's network namespaces.
const FOLDER: &str = "/run/netns";
/// The most namespaces that are looked at.
const NAMESPACES: usize = 4096;
/// The longest time that calls wait for the end. It takes less than a millisecond for each
/// namespace.
const PATIENCE: Duration = Duration::from_secs(5);

/// An interface with the MAC and the address of a lease.
struct Sighting {
    /// The namespace, as Podman names it.
    netns: Rc<Path>,
    site: ContainerInterface,
    interface: String,
    parent: Option<u32>,
    address: Address,
}

/// Returns the namespaces that are to be looked at, each as the key of a look in the journal of
/// work.
pub(super) fn namespaces() -> Vec<LeaseKey> {
    let Ok(folder) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let look = |path: &Path| LeaseKey {
        mac: Mac([0; 6]),
        netns: path.into(),
        interface: "".into(),
    };
    folder
        .take(NAMESPACES)
        .flatten()
        .map(|entry| look(&entry.path()))
        .collect()
}

impl Table {
    /// Begins to adopt `leases`, whose interfaces may be in `namespaces`.
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
            // Netavark's file has been taken over as far as it can be.
            table.file.release_copy();
            table.save_later();
            drop(activity);
        };
        self.context.runtime.spawn(adoption).detach();
    }

    /// Drops leases that are in the table: of a copy whose state file could not be read as a whole.
    fn without_known(&self, mut leases: Vec<NetavarkLease>) -> Vec<NetavarkLease> {
        for known in self
            .keys(|_| true)
            .iter()
            .filter_map(|key| self.record(key))
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
        let end = rt::now() + PATIENCE;
        let mut sightings: Vec<Vec<Sighting>> = leases.iter().map(|_| Vec::new()).collect();
        for key in namespaces {
            yield_now().await;
            if rt::now() >= end {
                log::warn!(
                    "{FOLDER} has too many namespaces to look for the leases of netavark's proxy in all of them"
                );
                break;
            }
            if self.journal.deaths(&key) > 0 {
                log::warn!(
                    "{}: the daemon died at a look at this namespace; leaving it out",
                    key.netns.display()
                );
                continue;
            }
            let _step = self.journal.enter(&key);
            if let Err(error) = look_at(&key.netns, &leases, &mut sightings) {
                log::debug!(
                    "{}: {error}; no lease of netavark's proxy is looked for there",
                    key.netns.display()
                );
            }
        }
        let found: Vec<Rc<Path>> = sightings
            .iter()
            .flatten()
            .map(|seen| Rc::clone(&seen.netns))
            .collect();
        let containers = podman::containers_of(&found, end).await;
        let host = Netlink::open().ok();
        for (lease, mut seen) in leases.into_iter().zip(sightings) {
            yield_now().await;
            let (address, mac) = (lease.yiaddr.clone(), lease.mac_address.clone());
            let adopted = match (seen.pop(), seen.len()) {
                (None, _) => Err(format!("no interface in {FOLDER} has both")),
                (Some(seen), 0) => {
                    let container = containers.get(&*seen.netns);
                    self.adopt_one(lease, seen, container, host.as_ref())
                        .map_err(|error| error.to_string())
                }
                (Some(_), others) => {
                    Err(format!("{} interfaces in {FOLDER} have both", others + 1))
                }
            };
            if let Err(why) = adopted {
                log::warn!(
                    "cannot adopt the lease of {address} that netavark's proxy left for {mac}: {why}. A container that \
                     uses it keeps the address without renewals: restart it"
                );
            }
        }
    }

    /// Goes on with a lease from now on, unless there is another one for the interface.
    fn adopt_one(
        self: &Rc<Self>,
        lease: NetavarkLease,
        seen: Sighting,
        container: Option<&Container>,
        host: Option<&Netlink>,
    ) -> Result<(), CallError> {
        let request = request_for(&lease, &seen, container, host)?;
        let Sighting { site, address, .. } = seen;
        let key = request.key.clone();
        if self.with_slots(|slots| slots.contains_key(&key)) {
            return Ok(());
        }
        let now = rt::now();
        let mut settings = Applied::default();
        settings.adopt(address.address, address.prefix);
        let record = |settings: &Applied| {
            Record::adopted(
                lease.clone(),
                (&request, &site),
                settings,
                (made_at(&address, now), now),
            )
        };
        let without = if container.is_some() {
            ""
        } else {
            ", without its container's id, which Podman's files do not say"
        };
        let adopted = record(&settings).ok_or_else(|| {
            CallError::fault("reading the lease")(std::io::Error::other("it makes no sense"))
        })?;
        log::info!(
            "{}: adopting the lease of {} that netavark's proxy left{without}; renewing it now",
            adopted.place(),
            address.address
        );
        let _step = self.journal.enter(&key);
        self.update(&key, |slot| *slot = Some(Slot::dormant(&adopted, true)));
        // In the file before anything is changed for it.
        self.save(false);
        let mut take_over = || -> Result<(), CallError> {
            let (netlink, mtu) = (site.check(&request)?, self.context.settings.mtu);
            let Some(lease) = adopted.lease() else {
                return Ok(());
            };
            settings.take_over(&netlink, site.index, lease, mtu, now)
        };
        // The renewal makes good a failure here.
        if let Err(error) = take_over() {
            log::warn!("{}: {error}", adopted.place());
        }
        if let Some(adopted) = record(&settings) {
            self.set_record(&key, &adopted);
        }
        Ok(())
    }
}

/// Returns the Setup that would have made a lease of netavark's proxy.
fn request_for(
    lease: &NetavarkLease,
    seen: &Sighting,
    container: Option<&Container>,
    host: Option<&Netlink>,
) -> Result<Request, CallError> {
    let parent = seen
        .parent
        .zip(host)
        .and_then(|(index, host)| host.link_by_index(index).ok().flatten());
    Ok(Request {
        key: LeaseKey {
            mac: Mac::parse(&lease.mac_address).map_err(BadRequest::from)?,
            netns: Rc::clone(&seen.netns),
            interface: seen.interface.as_str().into(),
        },
        ns_path: Rc::clone(&seen.netns),
        mac_text: lease.mac_address.clone(),
        host_interface: parent.map(|link| link.name).unwrap_or_default(),
        container_interface: seen.interface.clone(),
        // netavark's, whatever --client-id says: the server knows the lease by it.
        client_id: container
            .map(|container| client_id(&container.id))
            .unwrap_or_default(),
        host_name: container.and_then(|container| container.host_name.clone()),
        domain_name: String::new(),
    })
}

/// Returns option 61 as netavark sends it: the type 0, and the container's id.
fn client_id(id: &str) -> Vec<u8> {
    let mut client_id = vec![0];
    client_id.extend(id.bytes().take(OPTION_MAX - 1));
    client_id
}

/// Returns the instant at which an address was put on its interface, or an earlier one: times of
/// suspension are not in the kernel's count.
fn made_at(address: &Address, now: Instant) -> Instant {
    let hundredths =
        u32::try_from((now.since_boot().as_millis() / 10) & u128::from(u32::MAX)).unwrap_or(0);
    let age = Duration::from_millis(u64::from(hundredths.wrapping_sub(address.made_at)) * 10);
    Instant::from_boot(now.since_boot().saturating_sub(age))
}

/// Looks for interfaces with the MAC and the address of one of `leases` in a namespace.
fn look_at(
    path: &Rc<Path>,
    leases: &[NetavarkLease],
    sightings: &mut [Vec<Sighting>],
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
        for (lease, sightings) in leases.iter().zip(&mut *sightings) {
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
            // A namespace that has two names is one.
            let is_known = |seen: &Sighting| (seen.site.netns, seen.site.index) == (id, link.index);
            if let Some(address) = address.filter(|_| !sightings.iter().any(is_known)) {
                sightings.push(Sighting {
                    netns: Rc::clone(path),
                    site: ContainerInterface {
                        netns: id,
                        index: link.index,
                    },
                    interface: link.name.clone(),
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
