//! Everything set for a scene: a network, the daemon on its host, and calls to it as netavark makes
//! them.

use std::path::Path;

use smol_dhcp_proxy::rpc::{NetavarkLease, NetworkConfig, Status};

use super::Result;
use super::daemon::{Daemon, Unit};
use super::grpc;
use super::topology::Topology;

/// A network and a running daemon.
#[derive(Debug)]
pub struct Stage {
    pub daemon: Daemon,
    pub unit: Unit,
    pub topology: Topology,
}

impl Stage {
    /// Starts `program` with `arguments` on the host of `topology`, and waits until it is ready.
    pub fn new(topology: Topology, program: &Path, arguments: &[&str]) -> Result<Self> {
        let unit = Unit::new(program, arguments)?;
        let daemon = unit.start_ready(&topology.host)?;
        Ok(Self {
            daemon,
            unit,
            topology,
        })
    }

    /// Kills the daemon if it still runs, and starts the next one, as systemd would.
    pub fn restart(&mut self) -> Result {
        self.daemon.kill()?;
        self.daemon = self.unit.start_ready(&self.topology.host)?;
        Ok(())
    }

    /// Returns netavark's message for a container.
    pub fn config(&self, container: usize) -> NetworkConfig {
        self.topology.containers[container].config()
    }

    /// Asks for a lease for a container.
    pub fn setup(&self, container: usize) -> Result<NetavarkLease> {
        grpc::setup(&self.unit.socket(), &self.config(container))
            .map_err(|status| refused("Setup", &status).into())
    }

    /// Gives the lease of a container back, with as little as netavark says then.
    pub fn teardown(&self, container: usize) -> Result<NetavarkLease> {
        let config = NetworkConfig {
            container_id: String::new(),
            host_name: String::new(),
            ..self.config(container)
        };
        grpc::teardown(&self.unit.socket(), &config)
            .map_err(|status| refused("Teardown", &status).into())
    }
}

fn refused(call: &str, status: &Status) -> String {
    format!("{call} was refused: {:?}: {}", status.code, status.message)
}
