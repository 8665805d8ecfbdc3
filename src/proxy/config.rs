//! The command line and the environment, read once, turned into types.

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::{Long, Short};

use super::sandbox;
use crate::dhcp::Probe;

/// Where the socket and the lease file live, unless told otherwise.
const RUN_DIR: &str = "/run/podman";
/// Overrides `--dir`, as it does in netavark.
pub const RUN_DIR_ENV: &str = "NETAVARK_PROXY_RUN_DIR_ENV";
/// The default of `--sandbox`.
pub const SANDBOX_ENV: &str = "SMOL_DHCP_PROXY_SANDBOX";
/// The socket's name in its directory: netavark's client knows no other.
const SOCKET_NAME: &str = "nv-proxy.sock";
/// The name of the leases' copy in its directory; the state file and the others are named after it.
const LEASE_FILE_NAME: &str = "nv-proxy.lease";
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
    Serve(Config),
}

/// The settings of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
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
    pub habits: DhcpSettings,
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
    /// How to find out whether somebody else has an address.
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
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut dir, mut uds) = (PathBuf::from(RUN_DIR), None);
    let (mut acquisition, mut activity) = (Timeout::Auto, ACTIVITY);
    let (mut sleep, mut on_stop) = (Sleep::Auto, OnStop::Keep);
    let (mut probe, mut broadcast, mut client_id, mut fqdn) =
        (Probe::WithRequest, false, ClientId::Container, false);
    let mut mtu = MtuRule::Lower;
    let (mut rapid_commit, mut servers, mut denied_servers) = (true, Vec::new(), Vec::new());
    // An empty one is as good as none.
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let mut confinement = match variable(SANDBOX_ENV) {
        Some(value) => sandbox_mode(&value, SANDBOX_ENV)?,
        None => sandbox::Mode::Auto,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("dir") => dir = path(&mut parser, "--dir")?,
            Short('u') | Long("uds") => uds = Some(path(&mut parser, "--uds")?),
            Short('t') | Long("timeout") => acquisition = timeout(&mut parser, "--timeout")?,
            Short('a') | Long("activity-timeout") => {
                activity = seconds(&mut parser, "--activity-timeout")?
            }
            Long("sleep") => {
                sleep = one_of(
                    &mut parser,
                    "--sleep",
                    "auto or never",
                    &[("auto", Sleep::Auto), ("never", Sleep::Never)],
                )?;
            }
            Long("on-stop") => {
                let choices = [("keep", OnStop::Keep), ("release", OnStop::Release)];
                on_stop = one_of(&mut parser, "--on-stop", "keep or release", &choices)?;
            }
            Long("arp-probe") => probe = probes(&mut parser, "--arp-probe")?,
            Long("broadcast") => broadcast = true,
            Long("client-id") => {
                let choices = [
                    ("container", ClientId::Container),
                    ("mac", ClientId::Mac),
                    ("duid", ClientId::Duid),
                    ("none", ClientId::None),
                ];
                client_id = one_of(
                    &mut parser,
                    "--client-id",
                    "container, mac, duid or none",
                    &choices,
                )?;
            }
            Long("rapid-commit") => {
                rapid_commit = one_of(
                    &mut parser,
                    "--rapid-commit",
                    "yes or no",
                    &[("yes", true), ("no", false)],
                )?;
            }
            Long("server") => servers.push(address(&mut parser, "--server")?),
            Long("deny-server") => denied_servers.push(address(&mut parser, "--deny-server")?),
            Long("fqdn") => fqdn = true,
            Long("mtu") => {
                let choices = [
                    ("lower", MtuRule::Lower),
                    ("server", MtuRule::Server),
                    ("ignore", MtuRule::Ignore),
                ];
                mtu = one_of(&mut parser, "--mtu", "lower, server or ignore", &choices)?;
            }
            Long("sandbox") => confinement = sandbox_mode(&parser.value()?, "--sandbox")?,
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            other => return Err(other.unexpected()),
        }
    }
    if let Some(run_dir) = variable(RUN_DIR_ENV) {
        dir = run_dir.into();
    }
    Ok(Command::Serve(Config {
        lease_file: dir.join(LEASE_FILE_NAME),
        socket: uds.unwrap_or_else(|| dir.join(SOCKET_NAME)),
        activity: some_unless_zero(activity),
        sleep,
        on_stop,
        sandbox: confinement,
        habits: DhcpSettings {
            acquisition,
            probe,
            broadcast,
            client_id,
            fqdn,
            mtu,
            rapid_commit,
            servers,
            denied_servers,
        },
    }))
}

impl Config {
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
    // Nine digits are nanoseconds; more is more than anybody can mean.
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
mod tests {
    use super::*;

    fn parsed(arguments: &[&str], run_dir: Option<&str>) -> Result<Command, String> {
        let variable = |name: &str| run_dir.filter(|_| name == RUN_DIR_ENV).map(OsString::from);
        parse(arguments.iter().map(OsString::from), variable).map_err(|error| error.to_string())
    }

    fn config(arguments: &[&str], run_dir: Option<&str>) -> Config {
        match parsed(arguments, run_dir) {
            Ok(Command::Serve(config)) => config,
            other => panic!("{arguments:?} gave {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_peer_but_for_the_patience() {
        assert_eq!(
            config(&[], None),
            Config {
                socket: "/run/podman/nv-proxy.sock".into(),
                lease_file: "/run/podman/nv-proxy.lease".into(),
                activity: Some(Duration::from_secs(300)),
                sleep: Sleep::Auto,
                on_stop: OnStop::Keep,
                sandbox: sandbox::Mode::Auto,
                habits: DhcpSettings {
                    acquisition: Timeout::Auto,
                    probe: Probe::WithRequest,
                    broadcast: false,
                    client_id: ClientId::Container,
                    fqdn: false,
                    mtu: MtuRule::Lower,
                    rapid_commit: true,
                    servers: Vec::new(),
                    denied_servers: Vec::new(),
                },
            }
        );
    }

    #[test]
    fn habits_are_chosen_one_by_one() {
        let probe = |count| config(&["--arp-probe", count], None).habits.probe;
        assert_eq!(
            (probe("0"), probe("1"), probe("10")),
            (Probe::Off, Probe::Before(1), Probe::Before(10))
        );
        assert_eq!(
            config(&["--arp-probe=3"], None).habits.probe,
            Probe::Before(3)
        );
        let client_id = |what| config(&["--client-id", what], None).habits.client_id;
        assert_eq!(
            ["container", "mac", "duid"].map(client_id),
            [ClientId::Container, ClientId::Mac, ClientId::Duid]
        );
        assert_eq!(client_id("none"), ClientId::None);
        let rapid_commit = |whether| {
            config(&["--rapid-commit", whether], None)
                .habits
                .rapid_commit
        };
        assert_eq!(["yes", "no"].map(rapid_commit), [true, false]);
        let servers = config(
            &[
                "--server",
                "10.0.0.1",
                "--deny-server=10.0.0.2",
                "--server",
                "10.0.0.3",
            ],
            None,
        )
        .habits;
        let [one, two, three] = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(
            (servers.servers, servers.denied_servers),
            (vec![one, three], vec![two])
        );
        let usual = config(&[], None).habits;
        assert_eq!(
            config(&["--broadcast"], None).habits,
            DhcpSettings {
                broadcast: true,
                ..usual.clone()
            }
        );
        assert_eq!(
            config(&["--fqdn"], None).habits,
            DhcpSettings {
                fqdn: true,
                ..usual
            }
        );
        let mtu = |what| config(&["--mtu", what], None).habits.mtu;
        assert_eq!(
            ["lower", "server", "ignore"].map(mtu),
            [MtuRule::Lower, MtuRule::Server, MtuRule::Ignore]
        );
    }

    #[test]
    fn sleep_and_stop_are_chosen() {
        let config = config(&["--sleep", "never", "--on-stop=release"], None);
        assert_eq!(
            (config.sleep, config.on_stop),
            (Sleep::Never, OnStop::Release)
        );
    }

    #[test]
    fn the_sandbox_is_chosen_by_the_command_line_else_by_the_environment() {
        let sandbox = |arguments: &[&str], value: &str| {
            let variable = |name: &str| (name == SANDBOX_ENV).then(|| value.into());
            match parse(arguments.iter().map(OsString::from), variable) {
                Ok(Command::Serve(config)) => Ok(config.sandbox),
                other => Err(other.unwrap_err().to_string()),
            }
        };
        assert_eq!(sandbox(&[], "off"), Ok(sandbox::Mode::Off));
        assert_eq!(
            sandbox(&["--sandbox", "strict"], "off"),
            Ok(sandbox::Mode::Strict)
        );
        assert_eq!(sandbox(&["--sandbox=auto"], ""), Ok(sandbox::Mode::Auto));
        let error = "SMOL_DHCP_PROXY_SANDBOX takes auto, strict or off, not \"on\"";
        assert_eq!(sandbox(&["--sandbox", "off"], "on"), Err(error.to_owned()));
    }

    #[test]
    fn the_environment_wins_over_dir_and_uds_names_the_socket_alone() {
        assert_eq!(
            config(&["--dir", "/a"], Some("")).lease_file,
            Path::new("/a/nv-proxy.lease")
        );
        let config = config(&["--dir", "/a", "-u", "/c/my.sock"], Some("/b"));
        assert_eq!(config.lease_file, Path::new("/b/nv-proxy.lease"));
        assert_eq!(config.socket_path(), Path::new("/c/my.sock"));
    }

    #[test]
    fn a_directory_as_uds_means_the_usual_name_in_it() {
        assert_eq!(
            config(&["--uds", "/"], None).socket_path(),
            Path::new("/nv-proxy.sock")
        );
        assert_eq!(
            config(&["--uds=/not/there/"], None).socket_path(),
            Path::new("/not/there/nv-proxy.sock")
        );
    }

    #[test]
    fn seconds_may_have_a_fraction_and_zero_means_no_limit() {
        let config = config(&["-t", "2.5", "-a0"], None);
        assert_eq!(
            config.habits.acquisition,
            Timeout::Exactly(Duration::from_millis(2500))
        );
        assert_eq!(config.activity, None);
        for (text, nanoseconds) in [
            ("0.000000001", 1),
            ("0.0000000019", 1),
            (".5", 500_000_000),
            ("007.", 7_000_000_000),
            ("0.", 0),
        ] {
            assert_eq!(
                decimal_seconds(text),
                Some(Duration::from_nanos(nanoseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn the_time_for_an_acquisition_is_automatic_exact_or_without_limit() {
        let timeout = |value: &str| config(&["--timeout", value], None).habits.acquisition;
        assert_eq!(timeout("auto"), Timeout::Auto);
        assert_eq!(timeout("45"), Timeout::Exactly(Duration::from_secs(45)));
        assert_eq!(timeout("0"), Timeout::Unlimited);
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong() {
        for (arguments, text) in [
            (
                &["-a", "soon"][..],
                "--activity-timeout takes seconds, such as 30 or 2.5, not \"soon\"",
            ),
            (
                &["-t", "-1"],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \"-1\"",
            ),
            (
                &["-t", "nan"],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \"nan\"",
            ),
            (
                &["-t", "1e30"],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \"1e30\"",
            ),
            (
                &["-t", "."],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \".\"",
            ),
            (
                &["-t", "1.2.3"],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \"1.2.3\"",
            ),
            (
                &["-t", "18446744073709551616"],
                "--timeout takes auto or seconds, such as 30 or 2.5, not \"18446744073709551616\"",
            ),
            (
                &["--arp-probe", "11"],
                "--arp-probe takes a number from 0 to 10, not \"11\"",
            ),
            (
                &["--arp-probe", "-1"],
                "--arp-probe takes a number from 0 to 10, not \"-1\"",
            ),
            (
                &["--arp-probe", "300"],
                "--arp-probe takes a number from 0 to 10, not \"300\"",
            ),
            (
                &["--arp-probe", ""],
                "--arp-probe takes a number from 0 to 10, not \"\"",
            ),
            (
                &["--arp-probe"],
                "missing argument for option '--arp-probe'",
            ),
            (
                &["--client-id", "MAC"],
                "--client-id takes container, mac, duid or none, not \"MAC\"",
            ),
            (
                &["--rapid-commit", ""],
                "--rapid-commit takes yes or no, not \"\"",
            ),
            (
                &["--server", "gateway"],
                "--server takes an IPv4 address, not \"gateway\"",
            ),
            (
                &["--deny-server", "10.0.0"],
                "--deny-server takes an IPv4 address, not \"10.0.0\"",
            ),
            (
                &["--sleep", "always"],
                "--sleep takes auto or never, not \"always\"",
            ),
            (
                &["--on-stop", ""],
                "--on-stop takes keep or release, not \"\"",
            ),
            (
                &["--mtu", "1400"],
                "--mtu takes lower, server or ignore, not \"1400\"",
            ),
            (
                &["--fqdn=yes"],
                "unexpected argument for option '--fqdn': \"yes\"",
            ),
            (&["--dir", ""], "--dir needs a path, not an empty string"),
            (&["--colour"], "invalid option '--colour'"),
            (&["extra"], "unexpected argument \"extra\""),
        ] {
            assert_eq!(parsed(arguments, None), Err(text.to_owned()));
        }
    }
}
