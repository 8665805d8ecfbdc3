//! The command line and the environment, read once, turned into types.

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::{Long, Short};

use super::sandbox;
use crate::dhcp::Probe;

/// Where the socket and the lease file live, unless told otherwise.
pub(crate) const RUN_DIR: &str = "/run/podman";
/// Overrides `--dir`, as it does in netavark.
pub const RUN_DIR_ENV: &str = "NETAVARK_PROXY_RUN_DIR_ENV";
/// The default of `--sandbox`.
pub const SANDBOX_ENV: &str = "SMOL_DHCP_PROXY_SANDBOX";
/// The socket's name in its directory: netavark's client knows no other.
pub(crate) const SOCKET_NAME: &str = "nv-proxy.sock";
/// The name of the leases' copy in its directory; the state file and the others are named after it.
pub(crate) const LEASE_FILE_NAME: &str = "nv-proxy.lease";
/// How long the daemon stays with nothing to do.
const ACTIVITY: Duration = Duration::from_secs(300);
/// ARP probes before an address is used; RFC 5227 wants three. Each takes up to two seconds of a
/// caller's time.
const PROBES_MAX: u8 = 10;

/// The text of `--help`.
pub const HELP: &str = "\
Gets DHCP leases for Podman's containers: a drop-in replacement for `netavark dhcp-proxy`.

Usage: smol-dhcp-proxy [OPTIONS]

Started by a systemd socket (LISTEN_FDS=1) it serves descriptor 3; started by hand it makes the socket itself.

Options:
  -d, --dir DIR                 directory of nv-proxy.sock and nv-proxy.lease [default: /run/podman]
  -u, --uds PATH                the socket; a directory means nv-proxy.sock in it
  -t, --timeout SECONDS         time for one acquisition, exactly; 0 = as long as the caller waits; auto = 10 s, but 45 s
                                after a boot or with a new carrier, while a port of the bridge is listening or learning, and
                                where a DHCP server was heard of late, and 5 s for a minute after an acquisition without
                                any answer on the same parent [default: auto]
  -a, --activity-timeout SECONDS
                                leave after this long with no call, no connection and nothing to do for a lease; 0 = never
                                [default: 300]
      --sleep WHEN              leave while there are leases, and have systemd's timer start the service again for the next
                                renewal: auto = where systemd started it by its socket, never [default: auto]
      --on-stop WHAT            what becomes of leases at SIGTERM: keep, release [default: keep]
      --arp-probe N             ask N times (1 to 10) whether somebody else has the address, as RFC 5227 wants it, some
                                two seconds each, and only then use it; 0 = never ask [default: once, at no cost of time]
      --broadcast               ask for replies by broadcast, as some relays and ipvlan need it
      --client-id WHAT          what the server knows a container by (option 61): container = its id, mac = its address,
                                duid = this machine's DUID and its address, by RFC 4361, none = its address alone, with
                                no option 61 [default: container]
      --rapid-commit WHETHER    ask for a lease in two messages instead of four (option 80): yes, no [default: yes]
      --server ADDRESS          take leases from this DHCP server alone; may be given more than once
      --deny-server ADDRESS     take no lease from this DHCP server; may be given more than once
      --fqdn                    tell the server the whole name (option 81) where the caller says the domain
      --mtu WHAT                the interface's MTU (option 26): lower = take the server's where it is the lower one, server =
                                take the server's, ignore = leave it as it is [default: lower]
      --sandbox HOW             confine itself, by Landlock and by a system call filter: auto = as far as the kernel can,
                                strict = and end at a system call that is refused, off [default: auto]
  -h, --help                    print this help
  -V, --version                 print the version

SECONDS may have a fraction, as in 2.5.

Environment:
  NETAVARK_PROXY_RUN_DIR_ENV    wins over --dir
  SMOL_DHCP_PROXY_SANDBOX       the default of --sandbox
  RUST_LOG                      what is logged to standard error: error, warn, info (the default), debug, trace

Exit status: 0 after idleness or a signal, 1 when it could not serve, 2 for a wrong command line or
configuration.
";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `--help`
    Help,
    /// `--version`
    Version,
    /// Serve, with these settings.
    Serve(DaemonConfig),
}

/// The settings of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Where the socket is made in manual mode; may name an existing directory.
    pub socket: PathBuf,
    /// The lease file.
    pub lease_file: PathBuf,
    /// How long to stay with nothing to do; without it, for ever.
    pub activity: Option<Duration>,
    /// Whether to sleep while there are leases.
    pub sleep: Sleep,
    /// What becomes of leases when it is stopped.
    pub on_stop: OnStop,
    /// How to confine itself.
    pub sandbox: sandbox::Mode,
    /// How to speak DHCP.
    pub dhcp: DhcpSettings,
}

/// Whether the process may leave while it has leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Where it can be woken.
    Auto,
    /// It may not.
    Never,
}

/// What becomes of leases at SIGTERM and SIGINT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// They stay where they are, and the next instance goes on with them.
    Keep,
    /// They are given back.
    Release,
}

/// How the daemon speaks DHCP for its containers, whatever container it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpSettings {
    /// How long one acquisition may take.
    pub acquisition: Timeout,
    /// How to find out whether another station has an address.
    pub probe: Probe,
    /// Whether to ask for replies by broadcast.
    pub broadcast: bool,
    /// What client identifiers are made of.
    pub client_id: ClientId,
    /// Whether to send a whole name where there is one.
    pub fqdn: bool,
    /// Whose MTU an interface gets.
    pub mtu: MtuRule,
    /// Whether to ask for a lease in two messages.
    pub rapid_commit: bool,
    /// The only servers to take leases from; without any, all.
    pub servers: Vec<Ipv4Addr>,
    /// Servers to take no lease from.
    pub denied_servers: Vec<Ipv4Addr>,
}

/// The time for one acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// It depends on what is known of the network.
    Auto,
    /// So long, however the network is.
    Exactly(Duration),
    /// As long as the caller waits.
    Unlimited,
}

/// The use of the MTU that a server gives (option 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuRule {
    /// It is set where it is lower than the interface's.
    Lower,
    /// It is set.
    Server,
    /// It is not set.
    Ignore,
}

/// What the DHCP server knows a container by (option 61).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientId {
    /// Its id, as netavark does it: another one for each container, the same when it is started
    /// again.
    Container,
    /// Its MAC: the same for a container that is made anew with the same MAC.
    Mac,
    /// The machine's DUID and the MAC (RFC 4361).
    Duid,
    /// Its MAC, without a client identifier.
    None,
}

/// Reads the arguments (without the program's name) and the variables of the environment,
/// [`RUN_DIR_ENV`] for one.
///
/// # Errors
///
/// An option that does not exist, or a value that is none of its, in words for the administrator.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut read, mut uds) = (DaemonConfig::default(), None);
    let mut dir = PathBuf::from(RUN_DIR);
    // An empty one is as good as none.
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(value) = variable(SANDBOX_ENV) {
        read.sandbox = sandbox_mode(&value, SANDBOX_ENV)?;
    }
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("dir") => dir = path(&mut parser, "--dir")?,
            Short('u') | Long("uds") => uds = Some(path(&mut parser, "--uds")?),
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            argument => match option(&argument).or_else(|| dhcp_option(&argument)) {
                Some(option) => option(&mut read, &mut parser)?,
                None => return Err(argument.unexpected()),
            },
        }
    }
    if let Some(run_dir) = variable(RUN_DIR_ENV) {
        dir = run_dir.into();
    }
    Ok(Command::Serve(DaemonConfig {
        lease_file: dir.join(LEASE_FILE_NAME),
        socket: uds.unwrap_or_else(|| dir.join(SOCKET_NAME)),
        ..read
    }))
}

/// Reads the value of an option, if it has one, and sets what it is for.
type ReadOption = fn(&mut DaemonConfig, &mut lexopt::Parser) -> Result<(), lexopt::Error>;

/// Returns how to read an option of the daemon's life.
fn option(argument: &lexopt::Arg<'_>) -> Option<ReadOption> {
    Some(match argument {
        Short('a') | Long("activity-timeout") => |read, parser| {
            read.activity = some_unless_zero(seconds(parser, "--activity-timeout")?);
            Ok(())
        },
        Long("sleep") => |read, parser| {
            let choices = [("auto", Sleep::Auto), ("never", Sleep::Never)];
            read.sleep = one_of(parser, "--sleep", "auto or never", &choices)?;
            Ok(())
        },
        Long("on-stop") => |read, parser| {
            let choices = [("keep", OnStop::Keep), ("release", OnStop::Release)];
            read.on_stop = one_of(parser, "--on-stop", "keep or release", &choices)?;
            Ok(())
        },
        Long("sandbox") => |read, parser| {
            read.sandbox = sandbox_mode(&parser.value()?, "--sandbox")?;
            Ok(())
        },
        _ => return None,
    })
}

/// Returns how to read an option of the way to speak DHCP.
fn dhcp_option(argument: &lexopt::Arg<'_>) -> Option<ReadOption> {
    Some(match argument {
        Short('t') | Long("timeout") => |read, parser| {
            read.dhcp.acquisition = timeout(parser, "--timeout")?;
            Ok(())
        },
        Long("arp-probe") => |read, parser| {
            read.dhcp.probe = probes(parser, "--arp-probe")?;
            Ok(())
        },
        Long("broadcast") => |read, _| {
            read.dhcp.broadcast = true;
            Ok(())
        },
        Long("client-id") => |read, parser| {
            let choices = [
                ("container", ClientId::Container),
                ("mac", ClientId::Mac),
                ("duid", ClientId::Duid),
                ("none", ClientId::None),
            ];
            let names = "container, mac, duid or none";
            read.dhcp.client_id = one_of(parser, "--client-id", names, &choices)?;
            Ok(())
        },
        Long("rapid-commit") => |read, parser| {
            let choices = [("yes", true), ("no", false)];
            read.dhcp.rapid_commit = one_of(parser, "--rapid-commit", "yes or no", &choices)?;
            Ok(())
        },
        Long("server") => |read, parser| {
            read.dhcp.servers.push(address(parser, "--server")?);
            Ok(())
        },
        Long("deny-server") => |read, parser| {
            let server = address(parser, "--deny-server")?;
            read.dhcp.denied_servers.push(server);
            Ok(())
        },
        Long("fqdn") => |read, _| {
            read.dhcp.fqdn = true;
            Ok(())
        },
        Long("mtu") => |read, parser| {
            let choices = [
                ("lower", MtuRule::Lower),
                ("server", MtuRule::Server),
                ("ignore", MtuRule::Ignore),
            ];
            read.dhcp.mtu = one_of(parser, "--mtu", "lower, server or ignore", &choices)?;
            Ok(())
        },
        _ => return None,
    })
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            lease_file: PathBuf::new(),
            activity: Some(ACTIVITY),
            sleep: Sleep::Auto,
            on_stop: OnStop::Keep,
            sandbox: sandbox::Mode::Auto,
            dhcp: DhcpSettings::default(),
        }
    }
}

impl Default for DhcpSettings {
    fn default() -> Self {
        Self {
            acquisition: Timeout::Auto,
            probe: Probe::WithRequest,
            broadcast: false,
            client_id: ClientId::Container,
            fqdn: false,
            mtu: MtuRule::Lower,
            rapid_commit: true,
            servers: Vec::new(),
            denied_servers: Vec::new(),
        }
    }
}

impl DaemonConfig {
    /// The socket's path, where a directory stands for `nv-proxy.sock` in it.
    pub fn socket_path(&self) -> PathBuf {
        if ends_in_slash(&self.socket) || self.socket.is_dir() {
            self.socket.join(SOCKET_NAME)
        } else {
            self.socket.clone()
        }
    }
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn path(parser: &mut lexopt::Parser, option: &str) -> Result<PathBuf, lexopt::Error> {
    let value = parser.value()?;
    if value.is_empty() {
        Err(format!("{option} needs a path, not an empty string").into())
    } else {
        Ok(value.into())
    }
}

fn seconds(parser: &mut lexopt::Parser, option: &str) -> Result<Duration, lexopt::Error> {
    let value = parser.value()?;
    value
        .to_str()
        .and_then(decimal_seconds)
        .ok_or_else(|| format!("{option} takes seconds, such as 30 or 2.5, not {value:?}").into())
}

fn timeout(parser: &mut lexopt::Parser, option: &str) -> Result<Timeout, lexopt::Error> {
    let value = parser.value()?;
    match value.to_str() {
        Some("auto") => Ok(Timeout::Auto),
        text => match text.and_then(decimal_seconds) {
            Some(Duration::ZERO) => Ok(Timeout::Unlimited),
            Some(time) => Ok(Timeout::Exactly(time)),
            None => Err(format!(
                "{option} takes auto or seconds, such as 30 or 2.5, not {value:?}"
            )
            .into()),
        },
    }
}

fn probes(parser: &mut lexopt::Parser, option: &str) -> Result<Probe, lexopt::Error> {
    let value = parser.value()?;
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(0) => Ok(Probe::Off),
        Some(count @ 1..=PROBES_MAX) => Ok(Probe::Before(count)),
        _ => Err(format!("{option} takes a number from 0 to {PROBES_MAX}, not {value:?}").into()),
    }
}

fn address(parser: &mut lexopt::Parser, option: &str) -> Result<Ipv4Addr, lexopt::Error> {
    let value = parser.value()?;
    let address = value.to_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| format!("{option} takes an IPv4 address, not {value:?}").into())
}

fn one_of<T: Copy>(
    parser: &mut lexopt::Parser,
    option: &str,
    words: &str,
    choices: &[(&str, T)],
) -> Result<T, lexopt::Error> {
    choose(&parser.value()?, option, words, choices)
}

fn choose<T: Copy>(
    value: &OsStr,
    option: &str,
    words: &str,
    choices: &[(&str, T)],
) -> Result<T, lexopt::Error> {
    let choice = choices
        .iter()
        .find(|(word, _)| value == *word)
        .map(|(_, choice)| *choice);
    choice.ok_or_else(|| format!("{option} takes {words}, not {value:?}").into())
}

fn sandbox_mode(value: &OsStr, option: &str) -> Result<sandbox::Mode, lexopt::Error> {
    use sandbox::Mode::{Auto, Off, Strict};
    choose(
        value,
        option,
        "auto, strict or off",
        &[("auto", Auto), ("strict", Strict), ("off", Off)],
    )
}

/// Reads seconds such as 30, 2.5 or .5. By hand, for the floating-point numbers of the standard
/// library take 30 kB.
fn decimal_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    // Nine digits are nanoseconds; more digits are of no use.
    let nanoseconds: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some(Duration::new(
        format!("0{whole}").parse().ok()?,
        nanoseconds.parse().ok()?,
    ))
}

fn some_unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests;
