//! Containers that come and go, with callers that react to a failed call as netavark does: they try
//! again, tear down, or discard the container.

use std::path::PathBuf;
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Code, NetavarkLease, NetworkConfig, Status};
use smol_dhcp_proxy::rt;

use super::chance::Chance;
use super::dhcp_server::Server;
use super::namespace::Namespace;
use super::packets::Mac;
use super::topology::{Container, LINK};
use super::{Result, eventually, grpc};

/// The time within which the kernel removes a discarded object, unless it is in use.
const GONE: Duration = Duration::from_secs(10);

/// The location of the containers.
#[derive(Debug)]
pub struct Place<'a> {
    pub host: &'a Namespace,
    pub server: &'a Server,
    /// The proxy's socket.
    pub socket: PathBuf,
}

/// A container, again and again made anew, and what its caller knows of it.
#[derive(Debug)]
pub struct Member {
    number: usize,
    /// The number of containers so far.
    lives: u32,
    pub container: Container,
    /// The answer to the last Setup, if there was no other call since.
    pub lease: Option<NetavarkLease>,
    /// The calls so far.
    pub done: Done,
    /// The same, one after the other.
    story: Vec<String>,
}

/// Numbers of calls, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub setups: u32,
    pub teardowns: u32,
    pub thrown_away: u32,
    pub broken: u32,
}

impl Member {
    /// The first container of member `number`, which is to be less than 1000.
    pub fn new(place: &Place<'_>, number: usize) -> Result<Self> {
        let mac = mac_of(number, 0);
        let container = Container {
            namespace: Namespace::new("member")?,
            mac,
        };
        let mut member = Self {
            number,
            lives: 0,
            container,
            lease: None,
            done: Done::default(),
            story: Vec::new(),
        };
        member.join(place)?;
        Ok(member)
    }

    /// Does one thing that callers do, and sees it through.
    pub fn act(&mut self, place: &Place<'_>, chance: &mut Chance) -> Result {
        let mut outcome = match &self.lease {
            None => self.setup(place),
            // Half of them stay for a while, and their leases live to be renewed.
            Some(lease) if !chance.percent(if self.number.is_multiple_of(2) { 40 } else { 2 }) => {
                return self.check(place, lease);
            }
            Some(_) => match chance.below(4) {
                0 => self.setup(place),
                1 => return self.throw_away(place, chance),
                _ => self.teardown(place),
            },
        };
        while let Err(status) = outcome {
            // The only error that is no fault of either side: the proxy ended during the call.
            if status.code != Code::Unavailable {
                return Err(
                    format!("{} of {}: {status:?}", self.container.mac, self.name()).into(),
                );
            }
            self.done.broken += 1;
            self.lease = None;
            outcome = match chance.below(3) {
                0 => self.setup(place),
                1 => self.teardown(place),
                _ => return self.throw_away(place, chance),
            };
        }
        Ok(())
    }

    /// Checks that the container and the server still have the lease that the caller was given.
    pub fn check(&self, place: &Place<'_>, lease: &NetavarkLease) -> Result {
        let address = self
            .container
            .address()?
            .map(|address| address.address.to_string());
        let leased = place
            .server
            .lease_of(self.container.mac)
            .map(|address| address.to_string());
        if address.as_ref() != Some(&lease.yiaddr) || leased.as_ref() != Some(&lease.yiaddr) {
            return Err(format!(
                "{:?} {} of {} was given {}, and has {address:?}; the server gave it {leased:?}\n{}",
                rt::now(),
                self.container.mac,
                self.name(),
                lease.yiaddr,
                self.story()
            )
            .into());
        }
        Ok(())
    }

    /// A call that gives it a lease.
    pub fn setup(&mut self, place: &Place<'_>) -> Result<(), Status> {
        self.done.setups += 1;
        let answer = grpc::setup(&place.socket, &self.container.config());
        self.tell("Setup", &answer);
        self.lease = Some(answer?);
        Ok(())
    }

    /// A call that takes the lease, with as little as netavark says then.
    pub fn teardown(&mut self, place: &Place<'_>) -> Result<(), Status> {
        self.done.teardowns += 1;
        let config = NetworkConfig {
            container_id: String::new(),
            ..self.container.config()
        };
        let answer = grpc::teardown(&place.socket, &config);
        self.tell("Teardown", &answer);
        answer?;
        self.lease = None;
        Ok(())
    }

    fn tell(&mut self, call: &str, answer: &Result<NetavarkLease, Status>) {
        let answer = match answer {
            Ok(lease) => format!("{:?}", lease.yiaddr),
            Err(status) => format!("{:?} {}", status.code, status.message),
        };
        self.story.push(format!("{:?} {call}: {answer}", rt::now()));
    }

    /// Deletes the container's namespace without a word, and makes another container: of the same
    /// path or another one, of the same MAC or another one.
    fn throw_away(&mut self, place: &Place<'_>, chance: &mut Chance) -> Result {
        self.done.thrown_away += 1;
        self.lives += 1;
        self.lease = None;
        self.story.push(format!("{:?} was thrown away", rt::now()));
        match chance.below(2) {
            0 => self.container.namespace.replace()?,
            _ => self.container.namespace = Namespace::new("member")?,
        }
        if chance.below(2) == 0 {
            self.container.mac = mac_of(self.number, self.lives);
        }
        self.join(place)
    }

    /// Makes the container's link, and one by which the host sees when the kernel lets go of the
    /// container.
    fn join(&mut self, place: &Place<'_>) -> Result {
        let Container { namespace, mac } = &self.container;
        // The kernel deletes this one with its namespace, when the last holder lets go.
        place.host.veth(&self.name(), namespace, "canary")?;
        // A namespace ends in the background, and its links hold the MAC until then: another link
        // of that MAC cannot be set up.
        let Err(refusal) = place.host.macvlan(LINK, namespace, LINK, *mac) else {
            return Ok(());
        };
        eventually("the MAC of a container that is gone is free", GONE, || {
            Ok(namespace.set_state(LINK, true).ok())
        })
        .map_err(|error| format!("{error}: {refusal}, for {} as {mac}", self.name()).into())
    }

    /// The last things that happened to it.
    pub fn story(&self) -> String {
        self.story[self.story.len().saturating_sub(8)..].join("\n")
    }

    /// The host's end of the link that says whether the container is still there.
    pub fn name(&self) -> String {
        format!("c{}.{}", self.number, self.lives)
    }
}

fn mac_of(number: usize, life: u32) -> Mac {
    let [.., high, low] = number.to_be_bytes();
    let [.., middle, last] = life.to_be_bytes();
    Mac([0x02, 0x88, high, low, middle, last])
}
