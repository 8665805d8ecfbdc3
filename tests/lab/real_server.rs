//! The real DHCP servers, where they are installed: dnsmasq, Kea and busybox's udhcpd, for the same
//! network.
//!
//! What was found out about how they differ, as far as a client notices:
//!
//! | | dnsmasq 2.90 | Kea 2.2 | udhcpd 1.35 |
//! |---|---|---|---|
//! | shortest lease | 120 s | any | any |
//! | options 58 and 59 | in each answer; forced ones from 3 s up | where configured | none of its own |
//! | before an offer | pings for 3 s, unless told not to | nothing | asks by ARP for 2 s, unless told otherwise |
//! | renewal of an address of no pool | NAK | silence | silence |
//! | renewal of an address kept for another | NAK | NAK | silence |
//! | renewal through a router | ACK | ACK | ACK to the client's MAC, which no router carries |
//! | lease file | at once, a line for each client | at once, a line for each change | by a timer, a signal, or at its end |
//! | after a RELEASE | the line is gone | a line with a lifetime of 0 | the entry has expired |

use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::namespace::Namespace;
use super::program::{Program, need};
use super::topology::SERVER;
use super::{Result, eventually, sandbox};

/// The implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dnsmasq,
    Kea,
    Udhcpd,
}

/// The server's configuration: addresses of 10.88.0.0/16, with 10.88.0.1 as their router. Times are
/// in seconds.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pool: RangeInclusive<Ipv4Addr>,
    /// dnsmasq gives no lease of less than 120.
    pub lease: u32,
    /// Options 58 and 59; left to the server where none. dnsmasq takes none below 3.
    pub t1_t2: Option<(u32, u32)>,
    pub domain: Option<&'static str>,
    /// An address that is kept for another machine.
    pub reserved: Option<Ipv4Addr>,
    /// An option that dnsmasq sends beside its own: the code, a comma, the value.
    pub forced: Option<&'static str>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            pool: Ipv4Addr::new(10, 88, 1, 0)..=Ipv4Addr::new(10, 88, 200, 0),
            lease: 3600,
            t1_t2: None,
            domain: None,
            reserved: None,
            forced: None,
        }
    }
}

impl Plan {
    fn for_dnsmasq(&self, link: &str, leases: &str) -> String {
        let (first, last, lease) = (self.pool.start(), self.pool.end(), self.lease);
        // A ping before each offer would cost three seconds.
        let mut text = format!(
            "interface={link}\ndhcp-leasefile={leases}\nlog-dhcp\ndhcp-authoritative\nno-ping\n\
             dhcp-range={first},{last},255.255.0.0,{lease}\ndhcp-option=3,{SERVER}\n"
        );
        if let Some((t1, t2)) = self.t1_t2 {
            text += &format!("dhcp-option-force=58,{t1}\ndhcp-option-force=59,{t2}\n");
        }
        if let Some(domain) = self.domain {
            text += &format!("domain={domain}\n");
        }
        if let Some(address) = self.reserved {
            text += &format!("dhcp-host={OTHER},{address}\n");
        }
        if let Some(option) = self.forced {
            text += &format!("dhcp-option-force={option}\n");
        }
        text
    }

    fn for_kea(&self, link: &str, leases: &str) -> String {
        let mut kea = json!({
            // A link that has just been made may not run yet. The wait is in milliseconds.
            "interfaces-config": {
                "interfaces": [link],
                "service-sockets-max-retries": 100,
                "service-sockets-retry-wait-time": 20,
            },
            // No second process that tidies the lease file.
            "lease-database": { "type": "memfile", "name": leases, "lfc-interval": 0 },
            "authoritative": true,
            "valid-lifetime": self.lease,
            "subnet4": [{
                "id": 1,
                "subnet": "10.88.0.0/16",
                "pools": [{ "pool": format!("{} - {}", self.pool.start(), self.pool.end()) }],
                "option-data": [{ "name": "routers", "data": SERVER.to_string() }],
            }],
            "loggers": [{ "name": "kea-dhcp4", "severity": "INFO", "output_options": [{ "output": "stderr" }] }],
        });
        if let Some((t1, t2)) = self.t1_t2 {
            kea["renew-timer"] = t1.into();
            kea["rebind-timer"] = t2.into();
        }
        if let Some(domain) = self.domain {
            kea["option-data"] = json!([{ "name": "domain-name", "data": domain }]);
        }
        if let Some(address) = self.reserved {
            kea["subnet4"][0]["reservations"] =
                json!([{ "hw-address": OTHER, "ip-address": address.to_string() }]);
        }
        json!({ "Dhcp4": kea }).to_string()
    }

    fn for_udhcpd(&self, link: &str, leases: &str) -> String {
        let (first, last, lease) = (self.pool.start(), self.pool.end(), self.lease);
        // It writes its leases each second, and gives leases as short as they are wished.
        let mut text = format!(
            "interface {link}\nlease_file {leases}\npidfile {leases}.pid\nauto_time 1\nmin_lease 1\nmax_leases 100\n\
             start {first}\nend {last}\nopt subnet 255.255.0.0\nopt router {SERVER}\nopt lease {lease}\n"
        );
        if let Some((t1, t2)) = self.t1_t2 {
            // It knows these two by number alone, and their values as hexadecimal bytes.
            text += &format!("opt 0x3a {t1:08x}\nopt 0x3b {t2:08x}\n");
        }
        if let Some(domain) = self.domain {
            text += &format!("opt domain {domain}\n");
        }
        if let Some(address) = self.reserved {
            text += &format!("static_lease {OTHER} {address}\n");
        }
        text
    }
}

/// A running server; dropped, it is killed.
#[derive(Debug)]
pub struct RealServer<'a> {
    kind: Kind,
    program: Program<'a>,
    folder: PathBuf,
    link: String,
}

impl<'a> RealServer<'a> {
    /// Starts it on the link `link` of `namespace`. Skips where it is not installed.
    pub fn start(kind: Kind, namespace: &'a Namespace, link: &str, plan: &Plan) -> Result<Self> {
        let folder = sandbox::folder("server")?;
        let command = kind.command(&folder)?;
        fs::write(folder.join(SETTINGS), kind.settings(&folder, link, plan))?;
        let program = Program::start(namespace, command, &folder, kind.ready())?;
        Ok(Self {
            kind,
            program,
            folder,
            link: link.to_owned(),
        })
    }

    /// Kills it. Its leases stay.
    pub fn stop(&mut self) -> Result {
        self.program.stop()
    }

    /// Starts it again after [`RealServer::stop`], with the leases that it had.
    pub fn start_again(&mut self, plan: &Plan) -> Result {
        fs::write(
            self.folder.join(SETTINGS),
            self.kind.settings(&self.folder, &self.link, plan),
        )?;
        self.program.start_again()
    }

    /// Returns whether its lease file says that `address` is leased.
    pub fn lists(&self, address: Ipv4Addr) -> Result<bool> {
        Ok(self.kind.lists(&self.leases()?, address))
    }

    /// Waits until its lease file says that `address` is leased, or that it is not.
    pub fn await_listed(&self, address: Ipv4Addr, listed: bool) -> Result {
        let what = format!("{:?}'s lease file: {address} leased: {listed}", self.kind);
        eventually(&what, Duration::from_secs(5), || {
            Ok((self.lists(address)? == listed).then_some(()))
        })
    }

    /// Its lease file, for a person to read.
    pub fn leases(&self) -> Result<String> {
        self.kind.leases(&self.folder.join(LEASES))
    }

    /// All that it has logged.
    pub fn log(&self) -> Result<String> {
        self.program.log()
    }

    /// Waits until `words` is in its log `times` times.
    pub fn await_log(&self, words: &str, times: usize) -> Result {
        eventually(
            &format!("{:?} logs {words} for time {times}", self.kind),
            Duration::from_secs(5),
            || Ok((self.program.count(words)? >= times).then_some(())),
        )
    }
}

impl Kind {
    /// Returns its command line, without the configuration.
    fn command(self, folder: &Path) -> Result<Command> {
        let settings = folder.join(SETTINGS);
        let mut command;
        match self {
            Self::Dnsmasq => {
                command = dnsmasq()?;
                command.arg("-C").arg(settings);
            }
            Self::Kea => {
                // AppArmor confines the program at its usual place to its usual files. The copy is
                // made by another process: while this one wrote it, a child of another thread might
                // hold it open.
                let program = folder.join("kea-dhcp4");
                Command::new("cp")
                    .arg(need("kea-dhcp4", "kea-dhcp4-server")?)
                    .arg(&program)
                    .status()?;
                command = Command::new(program);
                command
                    .arg("-c")
                    .arg(settings)
                    .env("KEA_PIDFILE_DIR", folder)
                    .env("KEA_LOCKFILE_DIR", "none");
            }
            Self::Udhcpd => {
                command = Command::new(busybox()?);
                // Ten milliseconds for an answer by ARP before each offer.
                command.args(["udhcpd", "-f", "-a", "10"]).arg(settings);
            }
        }
        Ok(command)
    }

    /// Returns the log text that says that it listens.
    fn ready(self) -> &'static str {
        match self {
            Self::Dnsmasq => "sockets bound exclusively",
            Self::Kea => "DHCP4_STARTED",
            Self::Udhcpd => "udhcpd: started",
        }
    }

    /// Returns its configuration file.
    fn settings(self, folder: &Path, link: &str, plan: &Plan) -> String {
        let leases = folder.join(LEASES).display().to_string();
        match self {
            Self::Dnsmasq => plan.for_dnsmasq(link, &leases),
            Self::Kea => plan.for_kea(link, &leases),
            Self::Udhcpd => plan.for_udhcpd(link, &leases),
        }
    }

    fn leases(self, file: &Path) -> Result<String> {
        match self {
            // There is none before the first lease.
            Self::Dnsmasq | Self::Kea => Ok(fs::read_to_string(file).unwrap_or_default()),
            // A binary one, which busybox prints.
            Self::Udhcpd => {
                let printed = Command::new(busybox()?)
                    .args(["dumpleases", "-f"])
                    .arg(file)
                    .output()?;
                Ok(String::from_utf8(printed.stdout)?)
            }
        }
    }

    fn lists(self, leases: &str, address: Ipv4Addr) -> bool {
        let address = address.to_string();
        match self {
            // Expiry, MAC, address, name, client identifier.
            Self::Dnsmasq => leases
                .lines()
                .any(|line| line.split(' ').nth(2) == Some(&address)),
            // Address, MAC, client identifier, lifetime: the last line counts, and a lifetime of 0
            // ends the lease.
            Self::Kea => {
                let mut lines = leases
                    .lines()
                    .rev()
                    .map(|line| line.split(',').collect::<Vec<_>>());
                let last = lines.find(|columns| columns[0] == address);
                last.is_some_and(|columns| columns.get(3).is_some_and(|lifetime| *lifetime != "0"))
            }
            // MAC, address, name, what is left of the lease.
            Self::Udhcpd => leases
                .lines()
                .any(|line| line.contains(&format!(" {address} ")) && !line.contains("expired")),
        }
    }
}

/// Starts dnsmasq in `namespace` as a relay: what it hears on the link with the address `from` goes
/// to the server at `to`.
pub fn relay(namespace: &Namespace, from: Ipv4Addr, to: Ipv4Addr) -> Result<Program<'_>> {
    let mut command = dnsmasq()?;
    command.args([
        "--conf-file=/dev/null",
        &format!("--dhcp-relay={from},{to}"),
    ]);
    Program::start(
        namespace,
        command,
        &sandbox::folder("relay")?,
        "DHCP relay from",
    )
}

/// The machine that an address is kept for.
const OTHER: &str = "02:99:00:00:00:01";
/// The files of a server in its folder.
const SETTINGS: &str = "settings";
const LEASES: &str = "leases";

fn dnsmasq() -> Result<Command> {
    let mut command = Command::new(need("dnsmasq", "dnsmasq-base")?);
    // With --no-daemon it changes no user, which it could not do in a user namespace.
    command.args([
        "--no-daemon",
        "--log-facility=-",
        "--port=0",
        "--bind-interfaces",
        "--pid-file=",
    ]);
    Ok(command)
}

fn busybox() -> Result<PathBuf> {
    need("busybox", "busybox-static")
}
