//! A machine that was suspended: what fell due meanwhile is done as soon as it wakes.
//!
//! No test can suspend the machine. The daemon is stopped instead, and started again where
//! CLOCK_BOOTTIME, which goes on in suspend, is ahead by as much: with the same boot id, the same
//! lease file and the same container.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::sys::signal::Signal;

use crate::lab::daemon::Daemon;
use crate::lab::dhcp_server::{Heard, Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, Skip, eventually};
use crate::stage;

trials![
    before_t1_nothing_is_due,
    past_t1_it_renews_at_once,
    past_t2_it_rebinds_at_once,
    past_the_end_it_asks_for_the_same_address,
];

const SOON: Duration = Duration::from_secs(5);
/// Of the lease, in seconds. The daemon may be early by a tenth of the first.
const T1: u32 = 1000;
const T2: u32 = 1750;
const END: u32 = 2000;

/// A container with a lease, its server, and what that heard after a suspension of so many seconds.
struct Suspended {
    stage: Stage,
    server: Server,
    /// The number of messages before.
    before: usize,
    /// The time of its renewal in the lease file: milliseconds on the boot clock.
    due_before: u64,
}

impl Suspended {
    fn new() -> Result<Self> {
        if !Path::new("/proc/self/ns/time_for_children").exists() {
            return Err(Skip::Impossible("this kernel has no time namespaces".to_owned()).into());
        }
        let mut stage = stage(1, &[])?;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let settings = Settings {
            lease: seconds(END),
            t1: Some(seconds(T1)),
            t2: Some(seconds(T2)),
            ..Settings::default()
        };
        let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
        stage.setup(0)?;
        stage.topology.containers[0].namespace.await_rest()?;
        stage.daemon.signal(Signal::SIGTERM)?;
        assert!(stage.daemon.await_exit(SOON)?.success());
        let before = server.heard().len();
        let leases = stage.unit.leases()?;
        let due_before = leases[stage.config(0).container_mac_addr][0]["renew_at"]
            .as_u64()
            .ok_or("no lease in the file")?;
        Ok(Self {
            stage,
            server,
            before,
            due_before,
        })
    }

    /// The daemon again, after so many seconds.
    fn wakes_after(&self, seconds: u32) -> Result<Daemon> {
        self.stage.unit.notifications();
        let daemon = self
            .stage
            .unit
            .start_after_suspension(seconds, &self.stage.topology.host)?;
        self.stage.unit.await_notification("READY=1")?;
        Ok(daemon)
    }

    fn address(&self) -> Result<Option<Ipv4Addr>> {
        Ok(self.stage.topology.containers[0]
            .address()?
            .map(|address| address.address))
    }

    /// Returns the next message at the server.
    fn heard_next(&self) -> Result<Heard> {
        eventually("the server hears something", SOON, || {
            Ok(self.server.heard().into_iter().nth(self.before))
        })
    }

    /// One message was enough: the lease has this address as before, and all of its time once more.
    fn is_at_rest_with(&self, address: Option<Ipv4Addr>) -> Result {
        let renewed = || -> Result<bool> {
            let leases = self.stage.unit.leases()?;
            let lease = &leases[self.stage.config(0).container_mac_addr][0];
            let due = lease["renew_at"].as_u64().unwrap_or(0);
            Ok(lease["state"] == "BOUND" && due > self.due_before + 1000 * u64::from(T1 / 2))
        };
        eventually(
            "the lease is renewed",
            SOON,
            || Ok(renewed()?.then_some(())),
        )?;
        self.stage.topology.containers[0].namespace.await_rest()?;
        assert_eq!(self.address()?, address);
        assert_eq!(self.server.heard().len(), self.before + 1);
        Ok(())
    }
}

fn before_t1_nothing_is_due() -> Result {
    let suspended = Suspended::new()?;
    let _daemon = suspended.wakes_after(T1 / 2)?;
    suspended.stage.teardown(0)?;
    assert_eq!(
        suspended.heard_next()?.kind,
        MessageType::Release,
        "it had something else to say first"
    );
    Ok(())
}

fn past_t1_it_renews_at_once() -> Result {
    let suspended = Suspended::new()?;
    let address = suspended.address()?;
    let _daemon = suspended.wakes_after(T1 + 1)?;
    let renewal = suspended.heard_next()?;
    assert_eq!(renewal.kind, MessageType::Request);
    assert_eq!(
        (renewal.message.ciaddr(), true),
        (address.ok_or("no address")?, renewal.is_unicast())
    );
    suspended.is_at_rest_with(address)
}

fn past_t2_it_rebinds_at_once() -> Result {
    let suspended = Suspended::new()?;
    let address = suspended.address()?;
    let _daemon = suspended.wakes_after(T2 + 1)?;
    let rebinding = suspended.heard_next()?;
    assert_eq!(rebinding.kind, MessageType::Request);
    assert_eq!(
        (rebinding.message.ciaddr(), false),
        (address.ok_or("no address")?, rebinding.is_unicast())
    );
    suspended.is_at_rest_with(address)
}

fn past_the_end_it_asks_for_the_same_address() -> Result {
    let suspended = Suspended::new()?;
    let address = suspended.address()?;
    let _daemon = suspended.wakes_after(END + 1)?;
    let reboot = suspended.heard_next()?;
    assert_eq!(reboot.kind, MessageType::Request);
    assert!(
        reboot.message.ciaddr().is_unspecified()
            && reboot.requests_address()
            && !reboot.names_server()
    );
    suspended.is_at_rest_with(address)
}
