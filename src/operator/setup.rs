//! `setup` and `teardown`: netavark's calls by hand, for tries without Podman.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};
use serde_json::Value as Json;

use crate::mac::Mac;
use crate::net::netlink::Netlink;
use crate::net::netns::{Netns, NetnsError};
use crate::rpc::{Call, NetavarkLease, NetworkConfig, Reply};

use super::arguments::{Failure, directory};
use super::client;
use super::text::{self, Rows};

/// Adds to a text of `--help` the part that both have.
macro_rules! help {
    ($text:literal) => {
        concat!(
            $text,
            "
FILE is a request of netavark's in JSON, as netavark-dhcp-proxy-client reads it; - is standard input.

Options:
      --netns PATH        network namespace of the container
      --interface NAME    interface in it [default: eth0]
      --parent IFACE      interface of the host's that it is made on [default: found out]
      --mac MAC           address of the interface [default: read from it]
      --container-id ID   id of the container
      --hostname NAME     host name for the server
      --domain DOMAIN     domain of the container
  -d, --dir DIR           directory of the socket [default: /run/podman]
      --json              print the lease as netavark's JSON
  -h, --help              print this help

Exit status: 0 done, 1 failed, 2 a wrong command line, 3 cannot be found out.
"
        )
    };
}

pub(super) const SETUP_HELP: &str = help!(
    "\
Acquires a lease for an interface, as netavark does for a container, and prints it.

The address is on the interface then, and is renewed until a teardown.

Usage: smol-dhcp-proxy setup [OPTIONS] FILE
       smol-dhcp-proxy setup [OPTIONS] --netns PATH
"
);

pub(super) const TEARDOWN_HELP: &str = help!(
    "\
Gives the lease of an interface back, as netavark does for a container, and prints it.

Usage: smol-dhcp-proxy teardown [OPTIONS] FILE
       smol-dhcp-proxy teardown [OPTIONS] --netns PATH
"
);

/// Longer than any acquisition with `-t auto` takes. netavark waits without end.
const SETUP_TIMEOUT: Duration = Duration::from_secs(600);
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes that are read of a file: more than the daemon takes.
const MAX_FILE: u64 = 64 * 1024;

/// The call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerCall {
    Setup,
    Teardown,
}

pub(super) fn run(
    which: ContainerCall,
    mut parser: lexopt::Parser,
    output: &mut Vec<u8>,
) -> Result<ExitCode, Failure> {
    let (mut dir, mut json, mut file) = (None, false, None);
    let mut given = NetworkConfig::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long(name) if field(&mut given, name).is_some() => {
                let name = name.to_owned();
                let value = text_of(parser.value()?)?;
                field(&mut given, &name)
                    .into_iter()
                    .for_each(|field| field.clone_from(&value));
            }
            Short('d') | Long("dir") => dir = Some(parser.value()?),
            Long("json") => json = true,
            Short('h') | Long("help") => {
                output.extend_from_slice(which.help().as_bytes());
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if file.is_none() => file = Some(value),
            argument => return Err(argument.unexpected().into()),
        }
    }
    let mut config = match (file, given == NetworkConfig::default()) {
        (Some(file), true) => read(&file)?,
        (Some(_), false) => {
            return Err(Failure::Usage(
                "a FILE has the whole request: it goes with --dir and --json only".to_owned(),
            ));
        }
        (None, _) if given.ns_path.is_empty() => {
            return Err(Failure::Usage(
                "name a FILE, - for standard input, or a network namespace by --netns".to_owned(),
            ));
        }
        (None, _) => complete(given)?,
    };
    if config.container_mac_addr.is_empty() && !config.ns_path.is_empty() {
        config.container_mac_addr = mac_of(&config)?;
    }
    let lease = which.make(&directory(dir), config)?;
    if json {
        serde_json::to_writer_pretty(&mut *output, &lease)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        output.push(b'\n');
    } else {
        output.extend_from_slice(which.screen(&lease).as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}

impl ContainerCall {
    fn help(self) -> &'static str {
        match self {
            Self::Setup => SETUP_HELP,
            Self::Teardown => TEARDOWN_HELP,
        }
    }

    fn make(self, directory: &Path, config: NetworkConfig) -> Result<NetavarkLease, Failure> {
        let (call, timeout, doing) = match self {
            Self::Setup => (Call::Setup(config), SETUP_TIMEOUT, "waiting for a lease"),
            Self::Teardown => (Call::Teardown(config), TEARDOWN_TIMEOUT, "giving back"),
        };
        match client::call(directory, &call, timeout, doing)? {
            Reply::Lease(lease) => Ok(lease),
            Reply::Operation(_) | Reply::Outcomes(_) => {
                Err(Failure::Failed("the answer is to another call".to_owned()))
            }
        }
    }

    fn screen(self, lease: &NetavarkLease) -> String {
        match self {
            Self::Teardown if lease.yiaddr.is_empty() => "there was no lease\n".to_owned(),
            Self::Teardown => format!("gave {} back\n", lease.yiaddr),
            Self::Setup => details(lease),
        }
    }
}

/// Returns the field of a request that an option sets.
fn field<'a>(config: &'a mut NetworkConfig, option: &str) -> Option<&'a mut String> {
    Some(match option {
        "netns" => &mut config.ns_path,
        "interface" => &mut config.container_iface,
        "parent" => &mut config.host_iface,
        "mac" => &mut config.container_mac_addr,
        "container-id" => &mut config.container_id,
        "hostname" => &mut config.host_name,
        "domain" => &mut config.domain_name,
        _ => return None,
    })
}

/// Returns a request with the default interface, and a path that does not depend on the directory
/// in which a process runs.
fn complete(mut config: NetworkConfig) -> Result<NetworkConfig, Failure> {
    if config.container_iface.is_empty() {
        "eth0".clone_into(&mut config.container_iface);
    }
    let absolute = std::path::absolute(&config.ns_path)
        .map_err(|error| Failure::Usage(format!("--netns {}: {error}", config.ns_path)))?;
    config.ns_path = text_of(absolute.into_os_string())?;
    Ok(config)
}

fn text_of(value: OsString) -> Result<String, Failure> {
    value
        .into_string()
        .map_err(|value| Failure::Usage(format!("{} is not UTF-8", value.display())))
}

/// Reads a request of netavark's from a file, or from standard input.
fn read(file: &OsString) -> Result<NetworkConfig, Failure> {
    let (name, opened) = if file == "-" {
        let input = io::stdin().as_fd().try_clone_to_owned();
        ("standard input".to_owned(), input.map(File::from))
    } else {
        (file.display().to_string(), File::open(file))
    };
    let failed = |why: String| Failure::Failed(format!("cannot read {name}: {why}"));
    let opened = opened.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => denied(&format!("cannot read {name}: {error}")),
        _ => failed(error.to_string()),
    })?;
    let json: Json = serde_json::from_reader(opened.take(MAX_FILE))
        .map_err(|error| failed(format!("{error}; a request is a JSON object")))?;
    parse(&json).map_err(failed)
}

/// Parses a request of netavark's. Fields may be missing, and unknown ones are ignored, as
/// netavark's client does.
fn parse(json: &Json) -> Result<NetworkConfig, String> {
    let fields = json.as_object().ok_or("it is not a JSON object")?;
    if fields.contains_key("network_info") {
        return Err(
            "it is the configuration of a whole container, as `netavark setup` reads it; a \
             request to the DHCP proxy has the fields ns_path, container_iface, host_iface, \
             container_mac_addr, container_id, host_name, domain_name and version"
                .to_owned(),
        );
    }
    let text = |name: &str| match fields.get(name) {
        None => Ok(String::new()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{name} is not a string")),
    };
    let version = fields.get("version").map_or(Some(0), |version| {
        version
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
    });
    Ok(NetworkConfig {
        host_iface: text("host_iface")?,
        container_iface: text("container_iface")?,
        container_mac_addr: text("container_mac_addr")?,
        domain_name: text("domain_name")?,
        host_name: text("host_name")?,
        version: version.ok_or("version is not 0, for IPv4")?,
        ns_path: text("ns_path")?,
        container_id: text("container_id")?,
    })
}

/// Returns the failure for lack of a permission.
fn denied(what: &str) -> Failure {
    Failure::Unknown(format!("{what}: run it as root"))
}

/// Returns the MAC of the interface of a request.
fn mac_of(config: &NetworkConfig) -> Result<String, Failure> {
    let name = &config.container_iface;
    let what = format!("cannot read the MAC of {name} in {}", config.ns_path);
    let unknown = |why: String| {
        Failure::Failed(format!(
            "{what}: {why}; --mac, or container_mac_addr in a FILE, names it"
        ))
    };
    let refused = |why: String, kind: ErrorKind| match kind {
        ErrorKind::PermissionDenied => denied(&format!("{what}: {why}")),
        _ => unknown(why),
    };
    let netns = Netns::open(Path::new(&config.ns_path)).map_err(|error| {
        let kind = match &error {
            NetnsError::Open { source, .. } | NetnsError::Enter { source, .. } => source.kind(),
            NetnsError::NotANamespace { .. } | NetnsError::OtherKind { .. } => ErrorKind::Other,
        };
        refused(error.to_string(), kind)
    })?;
    let netlink = netns.enter(Netlink::open).and_then(|opened| opened);
    let netlink = netlink.map_err(|error| refused(error.to_string(), error.kind()))?;
    let link = netlink
        .link_by_name(name)
        .map_err(|error| unknown(error.to_string()))?
        .ok_or_else(|| unknown("there is no such interface".to_owned()))?;
    let mac = link.mac.map(|mac| Mac(mac).to_string());
    mac.ok_or_else(|| unknown("it has no Ethernet address".to_owned()))
}

/// Returns a lease for people.
fn details(lease: &NetavarkLease) -> String {
    let prefix_length = lease
        .subnet_mask
        .parse()
        .map_or(32, |mask: std::net::Ipv4Addr| mask.to_bits().leading_ones());
    let list = |items: &[String]| match items {
        [] => "-".to_owned(),
        items => items.join(", "),
    };
    let time = |seconds: u32| match seconds {
        u32::MAX => "never".to_owned(),
        seconds => format!("in {}", text::length(Duration::from_secs(seconds.into()))),
    };
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let mtu = match lease.mtu {
        0 => "-".to_owned(),
        mtu => mtu.to_string(),
    };
    let mut rows = Rows::default();
    for (name, value) in [
        ("address", format!("{}/{prefix_length}", lease.yiaddr)),
        ("router", list(&lease.gateways)),
        ("server", or_dash(&lease.srv_id)),
        ("renewal (T1)", time(lease.t1)),
        ("rebinding (T2)", time(lease.t2)),
        ("expiry", time(lease.lease_time)),
        ("DNS servers", list(&lease.dns_servers)),
        ("domains", or_dash(&lease.domain_name)),
        ("MTU", mtu),
    ] {
        rows.push([format!("{name}:"), value]);
    }
    rows.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_netavarks_is_read_and_missing_fields_are_empty() {
        let text = r#"{
            "host_iface": "veth1", "container_iface": "veth0", "container_mac_addr": "66:c0:05:74:df:d0",
            "domain_name": "example.com", "host_name": "foobar", "version": 1, "ns_path": "/run/netns/foobar",
            "container_id": "0123", "more": [1]
        }"#;
        let config = NetworkConfig {
            host_iface: "veth1".to_owned(),
            container_iface: "veth0".to_owned(),
            container_mac_addr: "66:c0:05:74:df:d0".to_owned(),
            domain_name: "example.com".to_owned(),
            host_name: "foobar".to_owned(),
            version: 1,
            ns_path: "/run/netns/foobar".to_owned(),
            container_id: "0123".to_owned(),
        };
        assert_eq!(parse(&text.parse().unwrap()), Ok(config));
        assert_eq!(
            parse(&Json::Object(Default::default())),
            Ok(NetworkConfig::default())
        );
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        for (text, reason) in [
            ("[]", "not a JSON object"),
            (r#"{"ns_path": 1}"#, "ns_path is not a string"),
            (r#"{"version": "0"}"#, "version is not 0"),
            (r#"{"version": 4294967296}"#, "version is not 0"),
            (r#"{"network_info": {}}"#, "whole container"),
        ] {
            let why = parse(&text.parse().unwrap()).unwrap_err();
            assert!(why.contains(reason), "{why}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("request").into_os_string();
        for text in ["[", "", "{} {}", &" ".repeat(MAX_FILE as usize + 1)] {
            std::fs::write(&file, text).unwrap();
            let failure = read(&file);
            assert!(matches!(failure, Err(Failure::Failed(why)) if why.contains("a JSON object")));
        }
        let gone = read(&"/nowhere/request".into());
        assert!(matches!(gone, Err(Failure::Failed(why)) if why.contains("No such file")));
    }

    #[test]
    fn a_lease_is_shown_with_its_times() {
        let lease = NetavarkLease {
            t1: 1800,
            t2: 3150,
            lease_time: u32::MAX,
            yiaddr: "10.88.1.2".to_owned(),
            subnet_mask: "255.255.0.0".to_owned(),
            gateways: vec!["10.88.0.1".to_owned()],
            srv_id: "10.88.0.1".to_owned(),
            ..NetavarkLease::default()
        };
        let shown = ContainerCall::Setup.screen(&lease);
        assert!(
            shown.starts_with("address:         10.88.1.2/16\n"),
            "{shown}"
        );
        assert!(shown.contains("renewal (T1):    in 30 min\n"), "{shown}");
        assert!(shown.contains("expiry:          never\n"), "{shown}");
        assert_eq!(
            ContainerCall::Teardown.screen(&lease),
            "gave 10.88.1.2 back\n"
        );
        let none = NetavarkLease::default();
        assert_eq!(
            ContainerCall::Teardown.screen(&none),
            "there was no lease\n"
        );
    }
}
