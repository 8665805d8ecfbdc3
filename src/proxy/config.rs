//! The command line and the environment, read once, turned into types.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::{Long, Short};

use super::sandbox;
use crate::dhcp::Probe;

pub use help::HELP;

use nearest::nearest;
use value::{OptionValue, choose, probe, timeout};

mod help;
mod nearest;
mod value;

pub(crate) use value::decimal_seconds;

/// The default of `--dir`.
pub(crate) const RUN_DIR: &str = "/run/podman";
/// The variable that overrides `--dir`, as in netavark.
pub const RUN_DIR_ENV: &str = "NETAVARK_PROXY_RUN_DIR_ENV";
/// The variable that overrides the default of `--sandbox`.
pub const SANDBOX_ENV: &str = "SMOL_DHCP_PROXY_SANDBOX";
/// The socket's name in its directory. netavark's client knows no other.
pub(crate) const SOCKET_NAME: &str = "nv-proxy.sock";
/// The name of the copy of the leases; the state file and the others are named after it.
pub(crate) const LEASE_FILE_NAME: &str = "nv-proxy.lease";
/// The default of `--activity-timeout`.
const ACTIVITY: Duration = Duration::from_secs(300);
/// The most ARP probes before an address is used; RFC 5227 §1.1 wants three. Each takes up to two
/// seconds of a caller's time.
const PROBES_MAX: u8 = 10;

/// The task that the command line sets.
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
    /// The path of the socket in manual mode; may name an existing directory.
    pub socket: PathBuf,
    /// The path of the copy of the leases.
    pub lease_file: PathBuf,
    /// The idle timeout; `None` for no limit.
    pub activity: Option<Duration>,
    /// The rule for an exit while there are leases.
    pub sleep: Sleep,
    /// The rule for leases when the daemon is stopped.
    pub on_stop: OnStop,
    /// The program that is started when a lease changes.
    pub on_change: Option<PathBuf>,
    /// The confinement of the process.
    pub sandbox: sandbox::Mode,
    /// The settings of the DHCP client.
    pub dhcp: DhcpSettings,
}

/// The rule for an exit of the process while it has leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// It exits if systemd can start it again.
    Auto,
    /// It stays.
    Never,
}

/// The rule for leases at SIGTERM and SIGINT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// They stay on the link and with the server; the next instance goes on with them.
    Keep,
    /// They are released.
    Release,
}

/// The settings of the DHCP client, the same for all containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpSettings {
    /// The time for one acquisition.
    pub acquisition: Timeout,
    /// The detection of address conflicts.
    pub probe: Probe,
    /// Asks for replies by broadcast.
    pub broadcast: bool,
    /// The source of client identifiers.
    pub client_id: ClientId,
    /// Sends option 81 where there is a whole name.
    pub fqdn: bool,
    /// The use of option 26.
    pub mtu: MtuRule,
    /// Asks for a lease in two messages (RFC 4039).
    pub rapid_commit: bool,
    /// The only servers to take leases from; empty for all.
    pub servers: Vec<Ipv4Addr>,
    /// Servers to take no lease from.
    pub denied_servers: Vec<Ipv4Addr>,
}

/// The time for one acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// By what is known of the network.
    Auto,
    /// Exactly this.
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

/// The source of the client identifier (option 61).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientId {
    /// The container's id, as netavark does it: another one for each container, the same when it is
    /// started again.
    Container,
    /// The MAC: the same for a container that is made anew with the same MAC.
    Mac,
    /// The machine's DUID and the MAC (RFC 4361).
    Duid,
    /// None: the option is left out, and the server knows the container by its MAC.
    None,
}

/// The settings read so far.
struct CommandLine {
    dir: PathBuf,
    uds: Option<PathBuf>,
    config: DaemonConfig,
}

/// Reads the value of an option, if it has one, and stores it.
type ReadOption = fn(&mut CommandLine, &mut OptionValue<'_>) -> Result<(), lexopt::Error>;

/// The options that set something: short name, long name, reader.
const OPTIONS: [(Option<char>, &str, ReadOption); 16] = [
    (Some('d'), "dir", |line, value| {
        set(&mut line.dir, value.path())
    }),
    (Some('u'), "uds", |line, value| {
        set(&mut line.uds, value.path().map(Some))
    }),
    (Some('a'), "activity-timeout", |line, value| {
        let time = value.parsed("seconds, such as 30 or 2.5", decimal_seconds)?;
        line.config.activity = (!time.is_zero()).then_some(time);
        Ok(())
    }),
    (None, "sleep", |line, value| {
        let choices = [("auto", Sleep::Auto), ("never", Sleep::Never)];
        set(&mut line.config.sleep, value.one_of(&choices))
    }),
    (None, "on-stop", |line, value| {
        let choices = [("keep", OnStop::Keep), ("release", OnStop::Release)];
        set(&mut line.config.on_stop, value.one_of(&choices))
    }),
    (Some('t'), "timeout", |line, value| {
        let time = value.parsed("auto or seconds, such as 30 or 2.5", timeout);
        set(&mut line.config.dhcp.acquisition, time)
    }),
    (None, "arp-probe", |line, value| {
        let expected = format!("a number from 0 to {PROBES_MAX}");
        set(&mut line.config.dhcp.probe, value.parsed(&expected, probe))
    }),
    (None, "broadcast", |line, _| {
        set(&mut line.config.dhcp.broadcast, Ok(true))
    }),
    (None, "client-id", |line, value| {
        let choices = [
            ("container", ClientId::Container),
            ("mac", ClientId::Mac),
            ("duid", ClientId::Duid),
            ("none", ClientId::None),
        ];
        set(&mut line.config.dhcp.client_id, value.one_of(&choices))
    }),
    (None, "rapid-commit", |line, value| {
        let choices = [("yes", true), ("no", false)];
        set(&mut line.config.dhcp.rapid_commit, value.one_of(&choices))
    }),
    (None, "server", |line, value| {
        line.config.dhcp.servers.push(value.address()?);
        Ok(())
    }),
    (None, "deny-server", |line, value| {
        line.config.dhcp.denied_servers.push(value.address()?);
        Ok(())
    }),
    (None, "fqdn", |line, _| {
        set(&mut line.config.dhcp.fqdn, Ok(true))
    }),
    (None, "mtu", |line, value| {
        let choices = [
            ("lower", MtuRule::Lower),
            ("server", MtuRule::Server),
            ("ignore", MtuRule::Ignore),
        ];
        set(&mut line.config.dhcp.mtu, value.one_of(&choices))
    }),
    (None, "on-change", |line, value| {
        set(&mut line.config.on_change, value.program().map(Some))
    }),
    (None, "sandbox", |line, value| {
        set(&mut line.config.sandbox, value.one_of(&SANDBOX_MODES))
    }),
];

const SANDBOX_MODES: [(&str, sandbox::Mode); 3] = [
    ("auto", sandbox::Mode::Auto),
    ("strict", sandbox::Mode::Strict),
    ("off", sandbox::Mode::Off),
];

/// Returns all options, each by its short and its long name.
pub fn option_names() -> impl Iterator<Item = (Option<char>, &'static str)> {
    let settings = OPTIONS.iter().map(|(short, long, _)| (*short, *long));
    settings.chain([(Some('h'), "help"), (Some('V'), "version")])
}

/// Reads the arguments (without the program's name) and the variables of the environment,
/// [`RUN_DIR_ENV`] and [`SANDBOX_ENV`].
///
/// # Errors
///
/// An unknown option, or a value that the option does not take, in words for the administrator.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut line = CommandLine {
        dir: PathBuf::from(RUN_DIR),
        uds: None,
        config: DaemonConfig::default(),
    };
    // An empty variable counts as unset.
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(value) = variable(SANDBOX_ENV) {
        line.config.sandbox = choose(&value, SANDBOX_ENV, &SANDBOX_MODES)?;
    }
    while let Some(argument) = parser.next()? {
        let known = match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short(name) => OPTIONS.iter().find(|(short, ..)| *short == Some(name)),
            Long(name) => OPTIONS.iter().find(|(_, long, _)| *long == name),
            lexopt::Arg::Value(_) => None,
        };
        let Some((_, option, read)) = known else {
            return Err(unknown(argument));
        };
        let parser = &mut parser;
        read(&mut line, &mut OptionValue { parser, option })?;
    }
    let dir = variable(RUN_DIR_ENV).map_or(line.dir, PathBuf::from);
    Ok(Command::Serve(DaemonConfig {
        lease_file: dir.join(LEASE_FILE_NAME),
        socket: line.uds.unwrap_or_else(|| dir.join(SOCKET_NAME)),
        ..line.config
    }))
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            lease_file: PathBuf::new(),
            activity: Some(ACTIVITY),
            sleep: Sleep::Auto,
            on_stop: OnStop::Keep,
            on_change: None,
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
    /// Returns the socket's path; a directory stands for `nv-proxy.sock` in it.
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

fn set<T>(place: &mut T, value: Result<T, lexopt::Error>) -> Result<(), lexopt::Error> {
    value.map(|value| *place = value)
}

/// Returns the error for an argument that is no option of the program.
fn unknown(argument: lexopt::Arg<'_>) -> lexopt::Error {
    let long = match argument {
        Long(name) => nearest(name, option_names().map(|(_, long)| long)),
        Short(_) | lexopt::Arg::Value(_) => None,
    };
    let error = argument.unexpected();
    match long {
        Some(long) => format!("{error}; did you mean '--{long}'?").into(),
        None => error,
    }
}

#[cfg(test)]
mod tests;
