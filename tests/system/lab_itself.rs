//! Tests of the laboratory itself.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use dhcproto::v4::MessageType;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::forwarder::Path;
use crate::lab::program::need;
use crate::lab::topology::{LINK, SERVER, SERVER_LINK, Topology};
use crate::lab::{Result, eventually};

trials![
    container_reaches_server,
    a_path_delays_and_checksums_stay_right,
    server_serves_udhcpc,
    dropped_namespace_is_gone,
];

fn container_reaches_server() -> Result {
    let topology = Topology::new(2)?;
    exchange(&topology, 1)?;
    let link = topology.containers[1].namespace.link(LINK)?;
    assert_eq!(
        (link.mac.as_slice(), link.up),
        (&topology.containers[1].mac.0[..], true)
    );
    Ok(())
}

fn a_path_delays_and_checksums_stay_right() -> Result {
    let topology = Topology::behind(
        Path {
            delay: Duration::from_millis(20),
            ..Path::default()
        },
        1,
    )?;
    let took = exchange(&topology, 0)?;
    // ARP there and back, and the datagram.
    assert!(took >= Duration::from_millis(60), "{took:?}");
    Ok(())
}

/// Sends a datagram from the container to the server by way of the kernels' own UDP.
fn exchange(topology: &Topology, container: usize) -> Result<Duration> {
    let container = &topology.containers[container].namespace;
    container.add_address(LINK, "10.88.77.1".parse()?, 16)?;
    container.add_default_route(LINK, SERVER, 100)?;
    assert_eq!(container.default_routes()?[0].gateway, Some(SERVER));
    let server = topology
        .server
        .run(|| Ok(UdpSocket::bind((SERVER, 5000))?))?;
    server.set_read_timeout(Some(Duration::from_secs(2)))?;
    let client = container.run(|| Ok(UdpSocket::bind(("10.88.77.1", 0))?))?;
    let start = smol_dhcp_proxy::rt::now();
    client.send_to(b"hello", (SERVER, 5000))?;
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer)?;
    assert_eq!(
        (&buffer[..length], from.ip().to_string().as_str()),
        (&b"hello"[..], "10.88.77.1")
    );
    Ok(smol_dhcp_proxy::rt::now() - start)
}

fn dropped_namespace_is_gone() -> Result {
    let mut topology = Topology::new(1)?;
    let container = topology.containers.remove(0);
    topology
        .host
        .veth("canary", &container.namespace, "canary")?;
    drop(container);
    eventually(
        "the peer of a link in it disappears",
        Duration::from_secs(5),
        || Ok(topology.host.link("canary").is_err().then_some(())),
    )
}

fn server_serves_udhcpc() -> Result {
    let busybox = need("busybox", "busybox-static")?;
    let topology = Topology::new(1)?;
    let container = &topology.containers[0];
    let server = Server::start(&topology.server, SERVER_LINK, Settings::default())?;
    let mut command = Command::new(busybox);
    // Foreground, quit once it has a lease, and give up without one.
    command.args([
        "udhcpc",
        "-i",
        LINK,
        "-f",
        "-q",
        "-n",
        "-R",
        "-s",
        "/bin/true",
    ]);
    let output = container
        .namespace
        .spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?
        .wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    let kinds: Vec<_> = server.heard().iter().map(|heard| heard.kind).collect();
    assert_eq!(kinds[..2], [MessageType::Discover, MessageType::Request]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("10.88.1.1 obtained"),
        "{output:?}"
    );
    Ok(())
}
