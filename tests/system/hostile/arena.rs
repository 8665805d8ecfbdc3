//! Two networks of one host: innocent containers in the first, a hostile container and its
//! neighbour in the second. Each row of a table is an attack in the second, and the judge looks at
//! how the first fares.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{Call, NetworkConfig};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use crate::lab::attacker::Attacker;
use crate::lab::dhcp_server::{Heard, Server, Settings};
use crate::lab::grpc::{Channel, setup, teardown};
use crate::lab::namespace::Namespace;
use crate::lab::packets::Mac;
use crate::lab::prober::{AT_MOST, PATIENCE, Prober, timed, words};
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER_LINK};
use crate::lab::{Result, eventually};

/// An attack.
pub(crate) struct Row {
    pub name: &'static str,
    /// Does what is done once, and returns how many things it made.
    pub prepare: fn(&mut Arena) -> Result<u64>,
    /// Does what is done all the time.
    pub flood: fn(&Arena) -> Result<Attacker>,
    /// Set if it loads the machine so much that it would slow down another attack.
    pub is_alone: bool,
}

/// The limit of the daemon for one acquisition, in seconds. A call for the hostile container is
/// answered within it.
const ACQUISITION: &str = "5";
const CALL: Duration = Duration::from_secs(6);
/// The shortest time of an attack.
const ATTACK: Duration = Duration::from_secs(4);
/// The longest that SIGTERM takes.
const END: Duration = Duration::from_secs(6);
/// The longest until descriptors and memory are given back: sockets stay open for two seconds after
/// a lease.
const RECOVERY: Duration = Duration::from_secs(6);
/// The growth of memory that is allowed in the end, in kB: the allocator keeps some of what it has
/// had.
const SLACK: u64 = 1024;

const T1: Duration = Duration::from_secs(2);
/// The server and router of the hostile network.
pub(crate) const FAR_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FAR_PARENT: &str = "eth1";

/// The places of the innocent containers: the first keeps its lease, the second comes and goes. The
/// third is a station in their network that may do harm.
pub(crate) const RESIDENT: usize = 0;
pub(crate) const VISITOR: usize = 1;
pub(crate) const STATION: usize = 2;

/// The row without an attack, to see what the others are to be compared with.
pub(crate) const PEACE: &str = "peace";

/// A daemon and the containers that it serves.
pub(crate) struct Arena {
    pub(crate) stage: Stage,
    pub(crate) server: Server,
    pub(crate) hostile: Container,
    pub(crate) neighbour: Container,
    /// The address that the hostile container has.
    pub(crate) address: Ipv4Addr,
    pub(crate) far_server: Server,
    /// Descriptors that an attack keeps open to the end.
    pub(crate) kept: Vec<OwnedFd>,
    _far: Namespace,
}

impl Arena {
    fn new() -> Result<Self> {
        let stage = crate::stage(3, &["-t", ACQUISITION])?;
        let settings = Settings {
            lease: Duration::from_secs(60),
            t1: Some(T1),
            ..Settings::default()
        };
        let server = Server::start(&stage.topology.server, SERVER_LINK, settings.clone())?;
        let (host, far) = (&stage.topology.host, Namespace::new("far")?);
        host.veth(FAR_PARENT, &far, SERVER_LINK)?;
        far.add_address(SERVER_LINK, FAR_SERVER, 16)?;
        let settings = Settings {
            address: FAR_SERVER,
            first: Ipv4Addr::new(10, 77, 1, 1),
            router: Some(FAR_SERVER),
            ..settings
        };
        let far_server = Server::start(&far, SERVER_LINK, settings)?;
        let [hostile, neighbour] = [1, 2].map(|last| -> Result<Container> {
            let (namespace, mac) = (Namespace::new("hostile")?, Mac([0x02, 0x77, 0, 0, 0, last]));
            host.macvlan(FAR_PARENT, &namespace, LINK, mac)?;
            Ok(Container { namespace, mac })
        });
        let (hostile, neighbour) = (hostile?, neighbour?);
        let address = Ipv4Addr::UNSPECIFIED;
        Ok(Self {
            stage,
            server,
            hostile,
            neighbour,
            address,
            far_server,
            kept: Vec::new(),
            _far: far,
        })
    }

    fn socket(&self) -> PathBuf {
        self.stage.unit.socket()
    }

    /// The request for the hostile container.
    pub(crate) fn hostile_config(&self) -> NetworkConfig {
        NetworkConfig {
            host_iface: FAR_PARENT.to_owned(),
            ..self.hostile.config()
        }
    }

    /// The index of the hostile container's interface, before it was tampered with.
    pub(crate) fn hostile_index(&self) -> Result<u32> {
        Ok(self.hostile.namespace.link(LINK)?.index)
    }

    /// Everything once, so that what is made on first use has been made.
    fn practise(&self) -> Result {
        for config in [self.stage.config(VISITOR), self.hostile_config()] {
            setup(&self.socket(), &config).map_err(words)?;
            teardown(&self.socket(), &config).map_err(words)?;
        }
        let visitor = &self.stage.topology.containers[VISITOR];
        visitor.namespace.await_rest()?;
        self.hostile.namespace.await_rest()
    }

    /// Attacks again, with an acquisition for the hostile container under way, and asks the daemon
    /// to end. Returns how that went, and how long it took.
    fn end_under_attack(&mut self, row: &Row) -> Result<(Result, Duration)> {
        let _flood = (row.flood)(self)?;
        let call = Call::Setup(self.hostile_config());
        let mut channel = Channel::connect(&self.socket()).map_err(words)?;
        let _under_way = channel.begin(&call).map_err(words)?;
        let start = rt::now();
        self.stage.daemon.signal(Signal::SIGTERM)?;
        let ended = self.stage.daemon.await_exit(END).and_then(|status| {
            if status.success() {
                Ok(())
            } else {
                Err(format!("the daemon ended with {status}").into())
            }
        });
        Ok((ended, rt::now() - start))
    }

    /// Renewals of the resident since `start`.
    fn renewals(&self, start: Instant) -> usize {
        let resident = self.stage.topology.containers[RESIDENT].mac;
        let renews = |heard: &Heard| {
            heard.at > start
                && heard.client() == resident
                && !heard.message.ciaddr().is_unspecified()
        };
        self.server
            .heard_of(MessageType::Request)
            .iter()
            .filter(|heard| renews(heard))
            .count()
    }
}

/// Runs one row of the table; an error tells everything that was wrong.
pub(crate) fn judge(row: &Row) -> Result {
    let mut arena = Arena::new()?;
    arena.practise()?;
    let (open, memory) = (
        arena.stage.daemon.settled_descriptors()?.len(),
        arena.stage.daemon.status("RssAnon")?,
    );
    let leased = arena.stage.setup(RESIDENT)?.yiaddr;
    arena.address = setup(&arena.socket(), &arena.hostile_config())
        .map_err(words)?
        .yiaddr
        .parse()?;
    let (start, processor) = (rt::now(), arena.stage.daemon.processor_time()?);

    let (mut faults, daemon) = (Vec::new(), arena.stage.daemon.id());
    let unknown = NetworkConfig {
        container_mac_addr: "02:88:00:00:ff:ff".to_owned(),
        ..NetworkConfig::default()
    };
    let visitor = arena.stage.config(VISITOR);
    let nothing = Prober::start(
        &arena.stage.daemon,
        arena.socket(),
        vec![Call::Teardown(unknown)],
    );
    let visits = Prober::start(
        &arena.stage.daemon,
        arena.socket(),
        vec![Call::Setup(visitor.clone()), Call::Teardown(visitor)],
    );
    let made = (row.prepare)(&mut arena)?;
    let (flood, since) = ((row.flood)(&arena)?, rt::now());
    // Its own caller asks again, too.
    let again = timed(
        daemon,
        &arena.socket(),
        &Call::Setup(arena.hostile_config()),
        CALL,
    );
    // And again: most of what the daemon does in the container is begun by a call.
    let own = Prober::start(
        &arena.stage.daemon,
        arena.socket(),
        vec![Call::Setup(arena.hostile_config())],
    );
    let went_on = eventually("the resident is renewed", ATTACK + T1, || {
        let is_over = rt::now() > start + ATTACK && arena.renewals(start) > 0;
        Ok(is_over.then_some(()))
    });
    let resident = &arena.stage.topology.containers[RESIDENT];
    let has = resident
        .address()?
        .map(|address| address.address.to_string());
    let (left, leave) = timed(
        daemon,
        &arena.socket(),
        &Call::Teardown(resident.config()),
        PATIENCE,
    );
    let (nothing, visits) = (nothing.stop()?, visits.stop()?);
    let asked = own.stop()?.count;
    let harm = flood.stop()?;
    let rate = harm as f64 / (rt::now() - since).as_secs_f64();
    let renewals = arena.renewals(start);
    let processor = arena.stage.daemon.processor_time()? - processor;
    if made + harm == 0 && row.name != PEACE {
        faults.push("there was no attack".to_owned());
    }
    faults.extend(went_on.err().map(|error| error.to_string()));
    if has.as_ref() != Some(&leased) {
        faults.push(format!("the resident had {leased}, and has {has:?}"));
    }
    if left.served() > AT_MOST {
        faults.push(format!("Teardown of the resident took {left}"));
    }
    faults.extend(
        leave
            .err()
            .map(|status| format!("Teardown of the resident: {}", words(status))),
    );
    faults.extend(
        nothing
            .faults("Teardown of the unknown")
            .into_iter()
            .chain(visits.faults("the visitor")),
    );

    // Whatever it is answered, it has to be answered, and after that nothing is kept for it.
    let torn_down = timed(
        daemon,
        &arena.socket(),
        &Call::Teardown(arena.hostile_config()),
        CALL,
    );
    for (call, (took, answer)) in [("Setup", &again), ("Teardown", &torn_down)] {
        if let Err(status) = answer
            && took.all >= CALL
        {
            faults.push(format!("{call} of the hostile container: {status:?}"));
        }
    }
    let kept = eventually("the lease file is empty", RECOVERY, || {
        Ok((arena.stage.unit.leases()? == serde_json::json!({})).then_some(()))
    });
    faults.extend(kept.err().map(|error| error.to_string()));
    let (mut now_open, mut now_memory) = (0, 0);
    let recovery = eventually("descriptors and memory are as before", RECOVERY, || {
        (now_open, now_memory) = (
            arena.stage.daemon.descriptors()?,
            arena.stage.daemon.status("RssAnon")?,
        );
        Ok((now_open <= open && now_memory <= memory + SLACK).then_some(()))
    });
    if let Err(error) = recovery {
        faults.push(format!(
            "{error}: {now_open} descriptors, not {open}, and {now_memory} kB, not {memory}"
        ));
    }
    let peak = arena.stage.daemon.status("VmHWM").unwrap_or(0);

    let (ended, took) = arena.end_under_attack(row)?;
    faults.extend(ended.err().map(|error| error.to_string()));
    crate::tell(&format!(
        "{}: made {made}, done {harm} ({rate:.0} a second); {renewals} renewals; slowest answers: {} of {}, the visitor {} of {}, \
         the resident that leaves {left}; the hostile container: Setup {} {}, {asked} more, Teardown {}; processor {:.2} s; RssAnon {memory} \
         to {now_memory} kB, peak {peak}; {open} to {now_open} descriptors; ended in {} ms{}",
        row.name,
        nothing.slowest,
        nothing.count,
        visits.slowest,
        visits.count,
        again.0,
        again.1.map_or_else(words, |()| "fine".to_owned()),
        torn_down.0,
        processor.as_secs_f64(),
        took.as_millis(),
        if faults.is_empty() { "" } else { ": FAILED" },
    ));
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("\n").into())
    }
}
