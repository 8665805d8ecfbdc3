//! Lease holders: a proxy by gRPC calls, CNI's DHCP daemon by its plugin, and udhcpc, one process
//! for each lease.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::figures::Usage;
use crate::subjects::lab::daemon::{Daemon, Unit};
use crate::subjects::lab::namespace::Namespace;
use crate::subjects::lab::topology::{Container, LINK, Topology};
use crate::subjects::lab::{Result, eventually, grpc, program, sandbox};
use crate::subjects::{Subject, answered};
use smol_dhcp_proxy::rt;

/// A program that can hold leases.
pub enum Program {
    Proxy(Subject),
    /// `dhcp`, both daemon and plugin, of the CNI project.
    Cni(PathBuf),
    /// busybox with its udhcpc.
    Udhcpc(PathBuf),
}

/// The number of simultaneous callers, as when many containers start at once.
const CALLERS: usize = 8;
/// The most attempts of a call.
const MAX_ATTEMPTS: u32 = 3;
/// The timeout for a lease: busybox waits three seconds after a lost frame.
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// The paths of CNI's plugin in Debian and in CNI's own releases.
const CNI: [&str; 2] = ["/usr/lib/cni/dhcp", "/opt/cni/bin/dhcp"];

/// The script that udhcpc runs at each change. It sets the address, which unicast renewals need, and
/// does no more.
const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] && busybox ip address replace \"$ip/$mask\" dev \"$interface\" && : > \"$BOUND\"
exit 0
";

impl Program {
    /// Finds the programs besides the proxies that are installed on this machine.
    pub fn others() -> Vec<Self> {
        let cni = CNI
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .map(Self::Cni);
        if cni.is_none() {
            println!(
                "CNI is left out: there is no {} (Debian: containernetworking-plugins)",
                CNI.join(", no ")
            );
        }
        let udhcpc = program::find("busybox").map(Self::Udhcpc);
        if udhcpc.is_none() {
            println!("udhcpc is left out: busybox is not installed (Debian: busybox-static)");
        }
        cni.into_iter().chain(udhcpc).collect()
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Proxy(subject) => subject.name,
            Self::Cni(_) => "CNI dhcp",
            Self::Udhcpc(_) => "udhcpc",
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Proxy(Subject { path, .. }) | Self::Cni(path) | Self::Udhcpc(path) => path,
        }
    }
}

/// A running program on the host of a network. Its processes are killed on drop.
pub struct Holder<'a> {
    topology: &'a Topology,
    processes: Mutex<Vec<Daemon>>,
    caller: Caller<'a>,
}

/// The means to request a lease.
enum Caller<'a> {
    Proxy(Unit),
    Cni { plugin: &'a Path, config: PathBuf },
    Udhcpc { busybox: &'a Path, folder: PathBuf },
}

impl<'a> Holder<'a> {
    pub fn start(program: &'a Program, topology: &'a Topology) -> Result<Self> {
        let (processes, caller) = match program {
            Program::Proxy(subject) => {
                let (unit, daemon) = subject.start(topology, &[])?;
                (vec![daemon], Caller::Proxy(unit))
            }
            Program::Cni(plugin) => {
                let (daemon, config) = cni_daemon(plugin, topology)?;
                (vec![daemon], Caller::Cni { plugin, config })
            }
            Program::Udhcpc(busybox) => {
                let folder = sandbox::folder("udhcpc")?;
                let script = folder.join("script");
                fs::write(&script, SCRIPT)?;
                fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
                (Vec::new(), Caller::Udhcpc { busybox, folder })
            }
        };
        Ok(Self {
            topology,
            processes: Mutex::new(processes),
            caller,
        })
    }

    /// Requests leases for the containers from number `have` up to number `most`, and waits until
    /// all work on them is done.
    pub fn lease(&self, have: usize, most: usize) -> Result {
        let containers = &self.topology.containers[have..most];
        let callers = containers.chunks(containers.len().div_ceil(CALLERS).max(1));
        thread::scope(|scope| {
            let callers: Vec<_> = callers
                .map(|part| {
                    scope.spawn(move || part.iter().try_for_each(|it| self.lease_with_retries(it)))
                })
                .collect();
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().map_err(|_| "a panic of a caller")?)
        })?;
        containers
            .iter()
            .try_for_each(|container| container.namespace.await_rest())
    }

    /// Repeats a failed call, as Podman's user would: with hundreds of callers some frames are lost,
    /// and netavark's timeout is eight seconds.
    fn lease_with_retries(&self, container: &Container) -> Result {
        let mut last = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            last = self.lease_one(container);
            match &last {
                Ok(()) => break,
                Err(error) => eprintln!("{}: {error}", container.mac),
            }
        }
        last
    }

    fn lease_one(&self, container: &Container) -> Result {
        match &self.caller {
            Caller::Proxy(unit) => {
                answered(grpc::setup(&unit.socket(), &container.config())).map(drop)
            }
            Caller::Cni { plugin, config } => {
                let mut command = Command::new(plugin);
                command
                    .env("CNI_COMMAND", "ADD")
                    .env("CNI_CONTAINERID", container.config().container_id)
                    .env("CNI_NETNS", container.namespace.path())
                    .env("CNI_IFNAME", LINK)
                    .env("CNI_PATH", plugin.parent().unwrap_or(plugin))
                    .stdin(File::open(config)?)
                    .stdout(Stdio::piped());
                let output = self.topology.host.spawn(&mut command)?.wait_with_output()?;
                let text = || {
                    format!(
                        "CNI's plugin failed: {}",
                        String::from_utf8_lossy(&output.stdout)
                    )
                };
                output
                    .status
                    .success()
                    .then_some(())
                    .ok_or_else(|| text().into())
            }
            Caller::Udhcpc { busybox, folder } => {
                let bound = folder.join(container.mac.to_string());
                let mut command = Command::new(busybox);
                command
                    .args(["udhcpc", "-f", "-i", LINK, "-s"])
                    .arg(folder.join("script"))
                    .env("BOUND", &bound);
                let process = spawn_silent(&container.namespace, &mut command)?;
                self.processes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(process.into());
                eventually("udhcpc has a lease", LEASE_TIMEOUT, || {
                    Ok(bound.exists().then_some(()))
                })
            }
        }
    }

    /// Measures the processes once the number of descriptors was the same for `steady`: a client has
    /// its answer before the daemon closes the connection, and our daemons listen for address
    /// conflicts for two seconds after that.
    pub fn usage(&self, steady: Duration) -> Result<Usage> {
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut last = (Usage::of(&processes)?, rt::now());
        eventually("the descriptors stay the same", LEASE_TIMEOUT, || {
            thread::sleep(Duration::from_millis(100));
            let usage = Usage::of(&processes)?;
            if usage.descriptors != last.0.descriptors {
                last = (usage, rt::now());
            }
            Ok((rt::now() - last.1 > steady).then_some(usage))
        })
    }

    /// Returns a sum over the processes.
    pub fn sum<T: std::iter::Sum>(&self, of: impl Fn(&Daemon) -> Result<T>) -> Result<T> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(of)
            .sum()
    }
}

/// Starts CNI's daemon. Returns the path of the network configuration for its plugin too.
fn cni_daemon(plugin: &Path, topology: &Topology) -> Result<(Daemon, PathBuf)> {
    let folder = sandbox::folder("cni")?;
    let (socket, config) = (folder.join("socket"), folder.join("config"));
    let text = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "lan",
        "type": "macvlan",
        "ipam": { "type": "dhcp", "daemonSocketPath": &socket },
    });
    fs::write(&config, text.to_string())?;
    let mut command = Command::new(plugin);
    command.args(["daemon", "-socketpath"]).arg(&socket);
    let daemon = spawn_silent(&topology.host, &mut command)?;
    eventually("CNI's daemon listens", LEASE_TIMEOUT, || {
        Ok(socket.exists().then_some(()))
    })?;
    Ok((daemon.into(), config))
}

fn spawn_silent(namespace: &Namespace, command: &mut Command) -> Result<Child> {
    namespace.spawn(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}
