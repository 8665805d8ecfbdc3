//! Who holds leases: a proxy by its gRPC calls, CNI's DHCP daemon by its plugin, and udhcpc, a
//! process for each lease.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::figures::Held;
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

/// So many callers there are at a time, as when many containers are started at once.
const CALLERS: usize = 8;
/// How often each calls at most.
const TRIES: u32 = 3;
/// The longest that a lease may take: busybox waits three seconds after a lost frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where Debian has CNI's plugins, and where their own releases are unpacked to.
const CNI: [&str; 2] = ["/usr/lib/cni/dhcp", "/opt/cni/bin/dhcp"];

/// What udhcpc starts at each change. It does as much as is needed to renew: without an address
/// there is no unicast.
const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] && busybox ip address replace \"$ip/$mask\" dev \"$interface\" && : > \"$BOUND\"
exit 0
";

impl Program {
    /// Those that this machine has besides the proxies.
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

/// One of them at work on the host of a network; dropped, its processes are killed.
pub struct Holder<'a> {
    topology: &'a Topology,
    processes: Mutex<Vec<Daemon>>,
    asked: Asked<'a>,
}

/// How it is asked for a lease.
enum Asked<'a> {
    Proxy(Unit),
    Cni { plugin: &'a Path, config: PathBuf },
    Udhcpc { busybox: &'a Path, folder: PathBuf },
}

impl<'a> Holder<'a> {
    pub fn start(program: &'a Program, topology: &'a Topology) -> Result<Self> {
        let (processes, asked) = match program {
            Program::Proxy(subject) => {
                let (unit, daemon) = subject.start(topology, &[])?;
                (vec![daemon], Asked::Proxy(unit))
            }
            Program::Cni(plugin) => {
                let (daemon, config) = cni_daemon(plugin, topology)?;
                (vec![daemon], Asked::Cni { plugin, config })
            }
            Program::Udhcpc(busybox) => {
                let folder = sandbox::folder("udhcpc")?;
                let script = folder.join("script");
                fs::write(&script, SCRIPT)?;
                fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
                (Vec::new(), Asked::Udhcpc { busybox, folder })
            }
        };
        Ok(Self {
            topology,
            processes: Mutex::new(processes),
            asked,
        })
    }

    /// Has it get leases for all containers up to number `most`, from number `have` on, and waits
    /// until it is done with all that comes after a lease.
    pub fn lease(&self, have: usize, most: usize) -> Result {
        let containers = &self.topology.containers[have..most];
        let callers = containers.chunks(containers.len().div_ceil(CALLERS).max(1));
        thread::scope(|scope| {
            let callers: Vec<_> = callers
                .map(|part| {
                    scope
                        .spawn(move || part.iter().try_for_each(|container| self.insist(container)))
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

    /// Calls again, as Podman's user would: with hundreds of callers some frames are lost, and
    /// netavark waits eight seconds alone.
    fn insist(&self, container: &Container) -> Result {
        let mut last = Ok(());
        for _ in 0..TRIES {
            last = self.lease_one(container);
            match &last {
                Ok(()) => break,
                Err(error) => eprintln!("{}: {error}", container.mac),
            }
        }
        last
    }

    fn lease_one(&self, container: &Container) -> Result {
        match &self.asked {
            Asked::Proxy(unit) => {
                answered(grpc::setup(&unit.socket(), &container.config())).map(drop)
            }
            Asked::Cni { plugin, config } => {
                let mut command = Command::new(plugin);
                command
                    .env("CNI_COMMAND", "ADD")
                    .env("CNI_CONTAINERID", container.config().container_id)
                    .env("CNI_NETNS", container.namespace.path())
                    .env("CNI_IFNAME", LINK)
                    .env("CNI_PATH", plugin.parent().unwrap_or(plugin))
                    .stdin(File::open(config)?)
                    .stdout(Stdio::piped());
                let said = self.topology.host.spawn(&mut command)?.wait_with_output()?;
                let words = || {
                    format!(
                        "CNI's plugin failed: {}",
                        String::from_utf8_lossy(&said.stdout)
                    )
                };
                said.status
                    .success()
                    .then_some(())
                    .ok_or_else(|| words().into())
            }
            Asked::Udhcpc { busybox, folder } => {
                let bound = folder.join(container.mac.to_string());
                let mut command = Command::new(busybox);
                command
                    .args(["udhcpc", "-f", "-i", LINK, "-s"])
                    .arg(folder.join("script"))
                    .env("BOUND", &bound);
                let process = quiet(&container.namespace, &mut command)?;
                self.processes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(process.into());
                eventually("udhcpc has a lease", PATIENCE, || {
                    Ok(bound.exists().then_some(()))
                })
            }
        }
    }

    /// What its processes hold together once their descriptors were the same for so long: a client
    /// has its answer before the daemon has closed the connection, and our daemons listen for two
    /// seconds more whether another station has the address.
    pub fn held(&self, steady: Duration) -> Result<Held> {
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut last = (Held::of(&processes)?, rt::now());
        eventually("the descriptors stay the same", PATIENCE, || {
            thread::sleep(Duration::from_millis(100));
            let held = Held::of(&processes)?;
            if held.descriptors != last.0.descriptors {
                last = (held, rt::now());
            }
            Ok((rt::now() - last.1 > steady).then_some(held))
        })
    }

    /// A sum over its processes.
    pub fn sum<T: std::iter::Sum>(&self, of: impl Fn(&Daemon) -> Result<T>) -> Result<T> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(of)
            .sum()
    }
}

/// CNI's daemon, and the network's configuration for its plugin.
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
    let daemon = quiet(&topology.host, &mut command)?;
    eventually("CNI's daemon listens", PATIENCE, || {
        Ok(socket.exists().then_some(()))
    })?;
    Ok((daemon.into(), config))
}

fn quiet(namespace: &Namespace, command: &mut Command) -> Result<Child> {
    namespace.spawn(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}
