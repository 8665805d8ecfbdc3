//! `check` where the answer depends on more than the interface: the host's own server and
//! addresses, and other namespaces.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::lab::odd_server::{OddServer, Script};
use crate::lab::topology::SERVER;

trials![
    the_server_of_this_host_on_a_bridge,
    the_own_address_on_the_bridge_of_a_port,
    the_address_of_an_ipvlans_parent,
    a_pair_with_a_third_namespace,
    a_name_that_is_not_utf8,
];

/// The host does not reach its own server by a packet socket, and the container does.
fn the_server_of_this_host_on_a_bridge() -> Result {
    let (host, container) = (Namespace::new("host")?, Namespace::new("container")?);
    host.veth("c0", &container, LINK)?;
    host.bridge("br0", &["c0"])?;
    host.add_address("br0", SERVER, 16)?;
    let _server = RealServer::start(Kind::Dnsmasq, &host, "br0", &Plan::default())?;
    for name in ["br0", "c0"] {
        let checked = run_in(&host, &mut command(&[name, "--timeout", "1.2"]))?;
        checked
            .says(
                3,
                &[
                    "the server of this host does not hear its own host",
                    "cannot be reached from the host itself; --netns",
                ],
            )
            .says_nothing_of(&["PROBLEM", "wrong parent"]);
    }
    let path = container.path().display().to_string();
    let checked = run_in(&host, &mut command(&[LINK, "--netns", &path]))?;
    checked.says(0, &["server 10.88.0.1", "eth0 is up", "veth on c0"]);
    Ok(())
}

/// A server that knows clients by MAC alone offers the lease of the bridge, whose MAC is the port's.
fn the_own_address_on_the_bridge_of_a_port() -> Result {
    let (host, server) = (Namespace::new("host")?, Namespace::new("server")?);
    host.veth("p0", &server, SERVER_LINK)?;
    host.bridge("br0", &["p0"])?;
    host.add_address("br0", Ipv4Addr::new(10, 88, 1, 2), 16)?;
    server.add_address(SERVER_LINK, SERVER, 16)?;
    let _server = OddServer::start(&server, SERVER_LINK, SERVER, Script::default())?;
    let checked = run_in(&host, &mut command(&["p0", "--timeout", "1"]))?;
    checked.says(
        0,
        &[
            "10.88.1.2 is the address of br0, which has the same MAC",
            "renew that lease",
        ],
    );
    Ok(())
}

/// All containers on an ipvlan have the MAC of the host's interface.
fn the_address_of_an_ipvlans_parent() -> Result {
    let topology = Topology::new(0)?;
    let container = ipvlan(&topology)?;
    topology
        .host
        .add_address(LINK, Ipv4Addr::new(10, 88, 1, 2), 16)?;
    let script = Script {
        // The unicast would stay with the host.
        answers: |_, reply| reply.to = crate::lab::packets::Mac::BROADCAST,
        ..Script::default()
    };
    let _server = OddServer::start(&topology.server, SERVER_LINK, SERVER, script)?;
    let path = container.path().display().to_string();
    let options = ["ipvlan0", "--netns", &path, "--timeout", "2"];
    let checked = run_in(&topology.host, &mut command(&options))?;
    checked.says(
        0,
        &["10.88.1.2 is the address of eth0, which has the same MAC"],
    );
    Ok(())
}

/// The other end has the index that the host's interface has in the host's namespace.
fn a_pair_with_a_third_namespace() -> Result {
    let topology = Topology::new(0)?;
    let (third, container) = (Namespace::new("third")?, Namespace::new("container")?);
    third.veth("x0", &container, "y0")?;
    let index = topology.host.link(LINK)?.index;
    assert_eq!(third.link("x0")?.index, index, "the trial shows nothing");
    let path = container.path().display().to_string();
    let options = ["y0", "--netns", &path, "--timeout", "0.2"];
    let checked = run_in(&topology.host, &mut command(&options))?;
    checked
        .says(1, &[": veth, "])
        .says_nothing_of(&["on eth0:", "veth on"]);
    let options = [&options[..], &["--json"]].concat();
    let report = run_in(&topology.host, &mut command(&options))?.json()?;
    assert_eq!(report["interface"]["parent"], Value::Null);
    Ok(())
}

fn a_name_that_is_not_utf8() -> Result {
    let ip = need("ip", "iproute2")?;
    let topology = Topology::new(0)?;
    let name = OsStr::from_bytes(b"eth\xff1");
    let mut rename = Command::new(ip);
    rename.args(["link", "set", LINK, "down", "name"]).arg(name);
    let renamed = run_in(&topology.host, &mut rename)?;
    if renamed.status != Some(0) {
        return Err(Skip::Impossible(format!("no such name: {}", renamed.errors)).into());
    }
    let mut checked = command(&[]);
    checked.arg(name);
    let checked = run_in(&topology.host, &mut checked)?;
    checked.says(1, &["eth\u{fffd}1 is down"]);
    Ok(())
}
