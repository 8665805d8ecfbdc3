//! The daemon killed at each step: table, file, link and server agree afterwards, without help.
//!
//! Each step is a system call; the daemon is killed before the kernel executes it, and the next
//! instance is started. The usual run has the calls whose effects outlive the process; with ALL=1
//! in the environment it has all calls.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dhcproto::v4::MessageType;
use smol_dhcp_proxy::rpc::{NetavarkLease, Status};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::{Container, LINK, SERVER_LINK};
use crate::lab::tracer::{Ran, Steps, Tracer};
use crate::lab::{Result, Skip, eventually, grpc};
use crate::stage;

trials![
    at_each_step_of_setup,
    at_each_step_of_setup_then_torn_down,
    at_each_step_of_setup_then_set_up,
    at_each_step_of_a_second_setup,
    at_each_step_of_a_renewal_then_torn_down,
    at_each_step_of_a_renewal,
    at_each_step_of_teardown,
];

fn at_each_step_of_setup() -> Result {
    SETUP.at_each_step()
}

fn at_each_step_of_setup_then_torn_down() -> Result {
    Operation {
        name: "a Setup that is torn down next",
        then: Some(Kind::Teardown),
        ..SETUP
    }
    .at_each_step()
}

fn at_each_step_of_setup_then_set_up() -> Result {
    Operation {
        name: "a Setup that is tried again next",
        then: Some(Kind::Setup),
        ..SETUP
    }
    .at_each_step()
}

fn at_each_step_of_a_second_setup() -> Result {
    Operation {
        name: "a second Setup",
        prepare: Rig::lease_at_rest,
        t1: 6,
        ..SETUP
    }
    .at_each_step()
}

fn at_each_step_of_a_renewal_then_torn_down() -> Result {
    Operation {
        name: "a renewal before a Teardown",
        then: Some(Kind::Teardown),
        ..RENEWAL
    }
    .at_each_step()
}

fn at_each_step_of_a_renewal() -> Result {
    RENEWAL.at_each_step()
}

fn at_each_step_of_teardown() -> Result {
    TEARDOWN.at_each_step()
}

/// The networks at a time. Nearly all of the time they wait.
const NETWORKS: usize = 8;
/// The faults after which a run stops.
const ENOUGH: usize = 20;
/// Containers that have had a lease for a while. After a crash each has its turn to be looked at,
/// and this one the last.
const OTHERS: usize = 3;
const LEASE: u32 = 60;
/// Within this time the next instance has put everything in order.
const BOUND: Duration = Duration::from_secs(5);

/// An operation of the daemon during which it is killed.
struct Operation {
    name: &'static str,
    /// T1 of all leases, in seconds.
    t1: u64,
    /// Brings the container to where it begins.
    prepare: fn(&Rig) -> Result,
    /// The call that it is, if it is one.
    call: Option<Kind>,
    /// The caller's next call, before the next instance has done anything.
    then: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Setup,
    Teardown,
}

const SETUP: Operation = Operation {
    name: "a Setup",
    t1: 2,
    prepare: |_| Ok(()),
    call: Some(Kind::Setup),
    then: None,
};

const RENEWAL: Operation = Operation {
    name: "a renewal",
    t1: 4,
    prepare: Rig::lease_at_rest,
    call: None,
    then: None,
};

const TEARDOWN: Operation = Operation {
    name: "a Teardown",
    t1: 6,
    prepare: Rig::lease_at_rest,
    call: Some(Kind::Teardown),
    then: None,
};

/// The state of a container's lease, from every source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    /// State and address in the lease file.
    file: Option<(String, String)>,
    link: Option<Ipv4Addr>,
    routes: usize,
    server: Option<Ipv4Addr>,
}

impl Said {
    /// The address that the file names.
    fn named(&self) -> Option<&String> {
        self.file.as_ref().map(|(_, address)| address)
    }
}

/// A network in which one step after the other is tried, with one of its containers, the last.
struct Rig {
    stage: Stage,
    server: Server,
    /// The open descriptors of a daemon without leases.
    descriptors: usize,
}

impl Operation {
    fn at_each_step(&self) -> Result {
        let steps = if std::env::var_os("ALL").is_some() {
            Steps::Every
        } else {
            Steps::Lasting
        };
        let (next, tried, is_through) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        let faults = Mutex::new(Vec::new());
        let work = || -> Result {
            let mut rig = Rig::new(self)?;
            while !is_through.load(Ordering::Relaxed) {
                let step = next.fetch_add(1, Ordering::Relaxed);
                match self.killed_at(&mut rig, step, steps) {
                    Ok(Ran::Killed(_)) => drop(tried.fetch_add(1, Ordering::Relaxed)),
                    Ok(Ran::Through(_)) => is_through.store(true, Ordering::Relaxed),
                    Err(error) if Skip::reason(&*error).is_some() => return Err(error),
                    Err(error) => {
                        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                        faults.push((step, format!("{error}\n{}", rig.end_of_log())));
                        if faults.len() == ENOUGH {
                            is_through.store(true, Ordering::Relaxed);
                        }
                        drop(faults);
                        rig = Rig::new(self)?;
                    }
                }
            }
            rig.nothing_holds_the_namespace()
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..NETWORKS).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| "a panic among the steps")?)
        })?;
        let mut faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (tried, wrong) = (tried.into_inner(), faults.len());
        crate::tell(&format!(
            "killed at each of {} steps of {}: {wrong} wrong",
            tried + wrong,
            self.name
        ));
        // Nothing of this is done in less: else the trial has missed what it is about.
        assert!(tried + wrong >= 15, "there are only {tried} steps");
        faults.sort();
        let shown: Vec<_> = faults
            .iter()
            .take(3)
            .map(|(step, fault)| format!("step {step}: {fault}"))
            .collect();
        let all: Vec<_> = faults.iter().map(|(step, _)| step).collect();
        if wrong == 0 {
            Ok(())
        } else {
            Err(format!("wrong after {all:?}:\n{}", shown.join("\n")).into())
        }
    }

    /// Lets the daemon get as far as `step`, kills it, starts the next one, and looks whether all
    /// is well. Gives what the daemon was about to do, or how many steps there are.
    fn killed_at(&self, rig: &mut Rig, step: usize, steps: Steps) -> Result<Ran> {
        (self.prepare)(rig)?;
        let before = rig.said()?;
        let (socket, config) = (rig.stage.unit.socket(), rig.stage.config(OTHERS));
        let call = |kind| match kind {
            Kind::Setup => grpc::setup(&socket, &config),
            Kind::Teardown => grpc::teardown(&socket, &config),
        };
        let (ran, left, answers) = std::thread::scope(|scope| -> Result<_> {
            let start = rt::now();
            let tracer = Tracer::seize(rig.stage.daemon.id())?;
            let mut calls: Vec<_> = self
                .call
                .map(|kind| (kind, scope.spawn(move || call(kind))))
                .into_iter()
                .collect();
            let is_over = || match &calls[..] {
                [(_, call), ..] => Ok(call.is_finished()),
                [] => rig.is_renewed(start),
            };
            let ran = tracer.kill_at(step, steps, Duration::from_secs(self.t1 + 10), is_over)?;
            let mut left = rig.said()?;
            if matches!(ran, Ran::Killed(_)) {
                rig.stage.daemon.kill()?;
                left = rig.said()?;
                // A call that was not accepted waits in the backlog, and the next instance serves
                // it; other callers are disconnected at once.
                let is_told = calls.iter().all(|(_, call)| {
                    eventually("", Duration::from_millis(50), || {
                        Ok(call.is_finished().then_some(()))
                    })
                    .is_ok()
                });
                if let Some(kind) = self.then.filter(|_| is_told) {
                    calls.push((kind, scope.spawn(move || call(kind))));
                    rig.stage.unit.await_connection(BOUND)?;
                }
                rig.stage.restart()?;
            }
            let answers = calls
                .into_iter()
                .map(|(kind, call)| (kind, call.join().expect("no panic in a call")));
            Ok((ran, left, answers.collect::<Vec<_>>()))
        })?;
        self.examine(rig, &before, &left, &answers)
            .map_err(|error| {
                format!(
                    "{ran:?}, which left {left:?} and answered {answers:?}: {error}; now {:?}",
                    rig.said()
                )
            })?;
        Ok(ran)
    }

    /// Checks the outcome after the daemon left `left` behind, and its callers got `answers`.
    fn examine(
        &self,
        rig: &Rig,
        before: &Said,
        left: &Said,
        answers: &[(Kind, Result<NetavarkLease, Status>)],
    ) -> Result {
        let restarted = rt::now();
        // What a crash is recovered from is in the file before anything is done about it.
        if left
            .link
            .map(|address| address.to_string())
            .is_some_and(|there| left.named() != Some(&there))
        {
            return Err("the link had an address of which the file did not say whose it is".into());
        }
        let address = rig.agreement()?;
        let state = left.file.as_ref().map(|(state, _)| state.as_str());
        // The required outcome; `None` if a caller without an answer has to expect either.
        let must_be = match (answers.last(), state) {
            (Some((kind, Ok(_))), _) => Some(*kind == Kind::Setup),
            (Some(_), _) if answers.len() > 1 => {
                return Err("the next instance did not serve its caller".into());
            }
            (Some((Kind::Setup, _)), Some("INTENT")) => None,
            (Some((Kind::Teardown, _)), Some("ENDING")) => Some(false),
            (_, state) => Some(state.is_some()),
        };
        if must_be.is_some_and(|must_be| must_be != address.is_some()) {
            return Err(format!("the address is {address:?}").into());
        }
        if let (Some(had), Some(has)) = (before.link, address)
            && had != has
        {
            return Err(format!("the address was {had} and is {has}").into());
        }
        if let Some(address) = address {
            rig.is_kept(address, restarted, Duration::from_secs(self.t1))?;
        }
        rig.begins_anew()
    }
}

impl Rig {
    fn new(operation: &Operation) -> Result<Self> {
        let stage = stage(u16::try_from(OTHERS)? + 1, &[])?;
        let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
        for other in 0..OTHERS {
            stage.setup(other)?;
        }
        server.change(|settings| {
            let seconds = Duration::from_secs;
            settings.lease = seconds(LEASE.into());
            (settings.t1, settings.t2) = (Some(seconds(operation.t1)), Some(seconds(40)));
        });
        // The kernel deletes this link, and with it its peer, when the last holder of the namespace
        // lets go.
        stage.topology.host.veth(
            "canary",
            &stage.topology.containers[OTHERS].namespace,
            "canary",
        )?;
        // Once through everything, so that what is made on first use has been made.
        stage.setup(OTHERS)?;
        stage.teardown(OTHERS)?;
        let descriptors = stage.daemon.settled_descriptors()?.len();
        Ok(Self {
            stage,
            server,
            descriptors,
        })
    }

    fn container(&self) -> &Container {
        &self.stage.topology.containers[OTHERS]
    }

    /// A lease of which the daemon has nothing open any more.
    fn lease_at_rest(&self) -> Result {
        self.stage.setup(OTHERS)?;
        self.container().namespace.await_rest()
    }

    /// Returns the present state from every source.
    fn said(&self) -> Result<Said> {
        let entry = &self.stage.unit.leases()?[self.container().mac.to_string()][0];
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        let file = entry.is_object().then(|| {
            (
                text("state").unwrap_or_else(|| "BOUND".to_owned()),
                text("yiaddr").unwrap_or_default(),
            )
        });
        Ok(Said {
            file,
            link: self.container().address()?.map(|address| address.address),
            routes: self.container().namespace.default_routes()?.len(),
            server: self.server.lease_of(self.container().mac),
        })
    }

    /// Waits until all sources agree, and returns the address, if there is one.
    fn agreement(&self) -> Result<Option<Ipv4Addr>> {
        eventually("all agree", BOUND, || {
            let Said {
                file,
                link,
                routes,
                server,
            } = self.said()?;
            Ok(match (file, link, routes, server) {
                (Some((state, named)), Some(address), 1, Some(leased)) => {
                    let agreed = named == address.to_string() && leased == address;
                    (agreed && ["BOUND", "RENEWING", "REBINDING"].contains(&&*state))
                        .then_some(link)
                }
                // The server may keep a lease that no client renews.
                (None, None, 0, _) => Some(None),
                _ => None,
            })
        })
    }

    /// Returns whether the server has received a renewal since then, and the kernel has applied it.
    fn is_renewed(&self, since: Instant) -> Result<bool> {
        let is_asked = self
            .server
            .heard_of(MessageType::Request)
            .iter()
            .any(|heard| heard.at > since);
        let fresh = self
            .container()
            .address()?
            .is_some_and(|address| address.valid > LEASE - 2);
        Ok(is_asked && fresh)
    }

    /// Waits until the lease is renewed at its `t1`, and checks that all sources still agree and no
    /// client asked for another one.
    fn is_kept(&self, address: Ipv4Addr, since: Instant, t1: Duration) -> Result {
        eventually("the lease is renewed", t1 + Duration::from_secs(3), || {
            let requests = self.server.heard_of(MessageType::Request);
            let is_renewal = requests
                .iter()
                .any(|heard| heard.at > since && heard.message.ciaddr() == address);
            Ok((is_renewal && self.is_renewed(since)?).then_some(()))
        })?;
        let now = self.agreement()?;
        let searches = self
            .server
            .heard_of(MessageType::Discover)
            .iter()
            .filter(|heard| heard.at > since)
            .count();
        if now != Some(address) || searches > 0 {
            return Err(format!(
                "it went on with {now:?} instead of {address}, after {searches} searches"
            )
            .into());
        }
        Ok(())
    }

    /// Sets the container up and tears it down as if nothing had happened, and sees that nothing is
    /// left then.
    fn begins_anew(&self) -> Result {
        let lease = self.stage.setup(OTHERS)?;
        let address = self.agreement()?.map(|address| address.to_string());
        if address.as_ref() != Some(&lease.yiaddr) {
            return Err(format!(
                "after a new Setup the address is {address:?}, not {}",
                lease.yiaddr
            )
            .into());
        }
        self.stage.teardown(OTHERS)?;
        let nothing = Said {
            file: None,
            link: None,
            routes: 0,
            server: None,
        };
        // The server hears of it a moment later than the caller.
        eventually("all is given back", BOUND, || {
            Ok((self.said()? == nothing).then_some(()))
        })?;
        eventually("nothing is open any more", BOUND, || {
            Ok((self.stage.daemon.descriptors()? <= self.descriptors).then_some(()))
        })
    }

    fn end_of_log(&self) -> String {
        let log = self.stage.unit.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..]
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    fn nothing_holds_the_namespace(mut self) -> Result {
        drop(self.stage.topology.containers.pop());
        eventually("the namespace is gone", BOUND, || {
            Ok(self
                .stage
                .topology
                .host
                .link("canary")
                .is_err()
                .then_some(()))
        })?;
        self.stage.topology.host.link(LINK).map(drop)
    }
}
