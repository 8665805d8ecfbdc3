//! Networks as they are: each oddity of a DHCP server is given to netavark's proxy and to ours, and
//! where netavark's container gets an address, ours does.
//!
//! Without netavark a row is tried with ours alone, and says so.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{Call, NetavarkLease, NetworkConfig, Reply};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::{Daemon, Unit};
use crate::lab::grpc::Channel;
use crate::lab::links::{Address, Route};
use crate::lab::odd_server::{OddServer, Request};
use crate::lab::real_server::{Kind, Plan, RealServer};
use crate::lab::topology::{Container, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, Skip, eventually, grpc, peer};
use crate::{Boxed, program, tell};

mod messages;
mod rows;
mod table;

use rows::{Row, Then};

/// A caller waits this long at most.
const WITHIN: Duration = Duration::from_secs(6);
/// netavark's own patience, in seconds.
const PATIENCE: &str = "8";
/// The end of a row that fails.
const GIVEN_UP: Duration = Duration::from_secs(8);

/// The rows, a trial each: they share nothing.
pub(crate) fn trials() -> Vec<(String, Boxed)> {
    let scripted = table::rows().into_iter().map(|row| {
        let name = format!("odd_servers::{}", row.name);
        (
            name,
            Box::new(move || with_a_scripted_server(&row)) as Boxed,
        )
    });
    let dnsmasq = "odd_servers::dnsmasq_with_its_identifier_forced".to_owned();
    scripted
        .chain([(dnsmasq, Box::new(with_dnsmasq) as Boxed)])
        .collect()
}

fn with_a_scripted_server(row: &Row) -> Result {
    let topology = Topology::new(2)?;
    let server = OddServer::start(&topology.server, SERVER_LINK, SERVER, row.script)?;
    compare(row, &topology, Some(&server))
}

/// dnsmasq sends an option that is forced beside its own.
fn with_dnsmasq() -> Result {
    let topology = Topology::new(2)?;
    let plan = Plan {
        forced: Some("54,10.88.0.1"),
        domain: Some("lab.example"),
        ..Plan::default()
    };
    let server = RealServer::start(Kind::Dnsmasq, &topology.server, SERVER_LINK, &plan)?;
    let row = Row::new("dnsmasq_with_its_identifier_forced").expects(|wanted| wanted.dns = None);
    compare(&row, &topology, None)?;
    assert!(
        server.lists(
            topology.containers[OURS]
                .address()?
                .ok_or("no address")?
                .address
        )?
    );
    Ok(())
}

/// The place of the container of ours; the other one is netavark's.
const OURS: usize = 0;

/// A container's lease, and the time it took.
struct Outcome {
    got: Result<Got>,
    took: Duration,
}

struct Got {
    lease: NetavarkLease,
    link: Link,
}

/// The content of a container's link.
#[derive(Debug, PartialEq)]
struct Link {
    address: Address,
    defaults: Vec<Route>,
}

/// A proxy that runs, and the container that it serves.
struct Side<'a> {
    unit: Unit,
    _daemon: Daemon,
    container: &'a Container,
    config: NetworkConfig,
}

impl<'a> Side<'a> {
    fn new(unit: Unit, daemon: Daemon, container: &'a Container, row: &Row) -> Self {
        let config = NetworkConfig {
            domain_name: row.domain.to_owned(),
            ..container.config()
        };
        Self {
            unit,
            _daemon: daemon,
            container,
            config,
        }
    }

    fn setup(&self) -> Result<NetavarkLease> {
        let call = || {
            let mut channel = Channel::connect(&self.unit.socket())?;
            channel.set_patience(GIVEN_UP);
            channel.call(&Call::Setup(self.config.clone()))
        };
        match call() {
            Ok(Reply::Lease(lease)) => Ok(lease),
            Ok(other) => Err(format!("no lease: {other:?}").into()),
            Err(status) => Err(format!("{:?}: {}", status.code, status.message).into()),
        }
    }

    /// Has a lease of the network as it was before.
    fn had_a_lease(&self) -> Result {
        self.setup()?;
        grpc::teardown(&self.unit.socket(), &self.config).map_err(|status| status.message)?;
        Ok(())
    }

    fn acquire(&self) -> Outcome {
        let begin = rt::now();
        let lease = self.setup();
        let took = rt::now() - begin;
        let got = lease.and_then(|lease| {
            Ok(Got {
                link: self.link(lease.yiaddr.parse()?)?,
                lease,
            })
        });
        Outcome { got, took }
    }

    /// Returns what is on the link, where it has that address.
    fn link(&self, leased: Ipv4Addr) -> Result<Link> {
        let addresses = self.container.namespace.addresses()?;
        let is_leased = |address: &Address| address.address == leased;
        let mut address = addresses
            .into_iter()
            .find(is_leased)
            .ok_or("the address of the lease is not on the link")?;
        // They run down.
        (address.valid, address.preferred) = (0, 0);
        Ok(Link {
            address,
            defaults: self.container.namespace.default_routes()?,
        })
    }

    /// Waits until there is an address, which may be another one.
    fn await_any(&self) -> Result {
        eventually("the container has an address", WITHIN, || {
            Ok(self.container.address()?.map(drop))
        })
    }
}

fn compare(row: &Row, topology: &Topology, server: Option<&OddServer>) -> Result {
    let [container, other] = &topology.containers[..] else {
        return Err("not two containers".into());
    };
    let unit = Unit::new(program(), row.arguments)?;
    let daemon = unit.start_ready(&topology.host)?;
    let ours = Side::new(unit, daemon, container, row);
    let theirs = match peer::netavark() {
        Ok(netavark) => {
            let unit = Unit::new(netavark, &["dhcp-proxy", "-a", "0", "-t", PATIENCE])?;
            let daemon = unit.start(&topology.host)?;
            Some(Side::new(unit, daemon, other, row))
        }
        // Where every part is required, this is a failure.
        Err(error) if Skip::reason(&*error).is_none() => return Err(error),
        Err(_) => None,
    };
    if row.renumbered {
        for side in [Some(&ours), theirs.as_ref()].into_iter().flatten() {
            side.had_a_lease()?;
        }
        server
            .ok_or("only a scripted server is renumbered")?
            .renumber();
    }
    let (first, second) = std::thread::scope(|scope| {
        let theirs = theirs
            .as_ref()
            .map(|theirs| scope.spawn(|| theirs.acquire()));
        let first = ours.acquire();
        (
            first,
            theirs.map(|theirs| theirs.join().expect("it does not panic")),
        )
    });
    tell(&format!(
        "{:<48} ours: {}, netavark: {}",
        row.name,
        text(Some(&first)),
        text(second.as_ref())
    ));
    if row.is_served_by_none {
        let is_served = first.got.is_ok() || second.is_some_and(|second| second.got.is_ok());
        return if is_served {
            Err("the row says that neither container gets an address".into())
        } else {
            Ok(())
        };
    }
    judge(row, first, second.as_ref(), &ours)
        .and_then(|before| afterwards(row, &before, &ours, server))
}

fn text(outcome: Option<&Outcome>) -> String {
    let Some(Outcome { got, took }) = outcome else {
        return "not installed".to_owned();
    };
    let milliseconds = took.as_millis();
    match got {
        Ok(Got {
            link: Link { address, .. },
            ..
        }) => {
            format!("{}/{} ({milliseconds} ms)", address.address, address.prefix)
        }
        Err(error) => format!("{error} ({milliseconds} ms)"),
    }
}

/// Returns what is on the link of ours where all is as it has to be.
fn judge(row: &Row, ours: Outcome, theirs: Option<&Outcome>, side: &Side<'_>) -> Result<Link> {
    let theirs_got = theirs.is_some_and(|theirs| theirs.got.is_ok());
    let got = ours.got.map_err(|error| match theirs_got {
        true => format!("worse than netavark, whose container gets its address: {error}"),
        false => error.to_string(),
    })?;
    if ours.took > WITHIN {
        return Err(format!("it took {:?}", ours.took).into());
    }
    if row.is_better && theirs_got {
        return Err(
            "the row says that netavark fails here, and its container gets an address".into(),
        );
    }
    let Got { lease, link } = got;
    let wanted = &row.wanted;
    assert_eq!(
        (link.address.address.to_string(), link.address.prefix),
        (lease.yiaddr.clone(), wanted.prefix)
    );
    assert_ne!(Some(link.address.address), wanted.not, "{lease:?}");
    assert_eq!(side.container.namespace.addresses()?.len(), 1, "addresses");
    let routers: Vec<_> = link
        .defaults
        .iter()
        .filter_map(|route| route.gateway)
        .collect();
    assert_eq!(routers, Vec::from_iter(wanted.router), "default routes");
    assert_eq!(lease.domain_name, wanted.domain);
    if let Some(dns) = wanted.dns {
        assert_eq!(lease.dns_servers, dns);
    }
    if let Some(words) = wanted.log {
        assert!(
            side.unit.log()?.contains(words),
            "the log does not say: {words}"
        );
    }
    Ok(link)
}

/// Checks the lease some time later.
fn afterwards(row: &Row, before: &Link, side: &Side<'_>, server: Option<&OddServer>) -> Result {
    let client = side.container.mac;
    let server = || server.ok_or("only a scripted server tells");
    match row.then {
        Then::Nothing => return Ok(()),
        // The client listens for a while to other stations that claim its address.
        Then::Stays => side.container.namespace.await_rest()?,
        Then::Settles => {
            side.container.namespace.await_rest()?;
            return side.await_any();
        }
        // The third one shows that the answer to the second has been dealt with.
        Then::IsRenewed => server()?.await_messages("a renewal", client, 3, Request::is_renewal)?,
        Then::StartsOver => {
            let is_discover = |request: &Request| request.kind == MessageType::Discover;
            server()?.await_messages("a DISCOVER", client, 2, is_discover)?;
            return side.await_any();
        }
    }
    assert_eq!(
        &side.link(before.address.address)?,
        before,
        "it stays as it was"
    );
    Ok(())
}
