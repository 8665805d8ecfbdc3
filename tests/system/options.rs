//! The daemon's own options: how it speaks DHCP, seen from the server's side.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use smol_dhcp_proxy::rpc::{NetavarkLease, NetworkConfig};

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::real_server::{Kind, Plan, RealServer};
use crate::lab::stage::Stage;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, Skip, grpc, sandbox};
use crate::lease::check_link;
use crate::{program, stage};

trials![
    the_whole_name_reaches_dnsmasq,
    replies_by_broadcast,
    by_its_mac_a_container_made_anew_keeps_its_address,
    the_duid_is_the_machines,
];

const SOON: Duration = Duration::from_secs(5);

fn setup(stage: &Stage, config: &NetworkConfig) -> Result<NetavarkLease> {
    grpc::setup(&stage.unit.socket(), config).map_err(|status| status.message.into())
}

fn the_whole_name_reaches_dnsmasq() -> Result {
    let stage = stage(2, &["--fqdn"])?;
    let plan = Plan {
        domain: Some("lab.example"),
        ..Plan::default()
    };
    let dnsmasq = RealServer::start(Kind::Dnsmasq, &stage.topology.server, SERVER_LINK, &plan)?;
    let witness = Server::eavesdrop(&stage.topology.server, SERVER_LINK)?;
    let named = NetworkConfig {
        domain_name: "lab.example".to_owned(),
        ..stage.config(0)
    };
    let lease = setup(&stage, &named)?;
    dnsmasq.await_log("client provides name: box.lab.example", 2)?;
    let heard = witness.await_message(MessageType::Request, 1, SOON)?;
    assert!(
        heard.message.opts().get(OptionCode::ClientFQDN).is_some(),
        "{heard:?}"
    );
    assert_eq!(
        heard.message.opts().get(OptionCode::Hostname),
        None,
        "never both"
    );
    let entry = dnsmasq.leases()?;
    assert!(
        entry.contains(&format!("{} box ", lease.yiaddr)),
        "dnsmasq's lease has not the name:\n{entry}"
    );

    // No domain, no whole name.
    setup(&stage, &stage.config(1))?;
    let heard = witness.await_message(MessageType::Request, 2, SOON)?;
    assert_eq!(
        heard.message.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("box".to_owned()))
    );
    assert!(
        heard.message.opts().get(OptionCode::ClientFQDN).is_none(),
        "{heard:?}"
    );
    Ok(())
}

fn replies_by_broadcast() -> Result {
    let stage = stage(1, &["--broadcast"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    for kind in [MessageType::Discover, MessageType::Request] {
        assert!(
            server
                .await_message(kind, 1, SOON)?
                .message
                .flags()
                .broadcast(),
            "{kind:?}"
        );
    }
    check_link(&stage.topology.containers[0], &lease, 3600)?;
    stage.teardown(0)?;
    assert!(
        !server
            .await_message(MessageType::Release, 1, SOON)?
            .message
            .flags()
            .broadcast()
    );
    Ok(())
}

/// The first container's host crashes and loses all that it remembers, so that nothing is given
/// back, and one with another id takes its MAC.
fn address_before_and_after(arguments: &[&str]) -> Result<(NetavarkLease, NetavarkLease)> {
    let Stage {
        daemon,
        unit,
        topology,
    } = stage(1, arguments)?;
    let _dnsmasq = RealServer::start(
        Kind::Dnsmasq,
        &topology.server,
        SERVER_LINK,
        &Plan::default(),
    )?;
    let container = &topology.containers[0];
    let ask = |config: NetworkConfig| {
        grpc::setup(&unit.socket(), &config).map_err(|status| status.message)
    };
    let before = ask(container.config())?;
    daemon.crash()?;
    std::fs::remove_file(unit.state_file())?;
    std::fs::remove_file(unit.lease_file())?;
    let _next = unit.start_ready(&topology.host)?;
    let after = ask(NetworkConfig {
        container_id: "c0de".repeat(16),
        ..container.config()
    })?;
    Ok((before, after))
}

fn by_its_mac_a_container_made_anew_keeps_its_address() -> Result {
    let (before, after) = address_before_and_after(&["--client-id", "mac"])?;
    assert_eq!(after.yiaddr, before.yiaddr);
    let (before, after) = address_before_and_after(&[])?;
    assert_ne!(after.yiaddr, before.yiaddr, "by its id it is somebody else");
    Ok(())
}

fn the_duid_is_the_machines() -> Result {
    // systemd's own tests have this machine, and its DUID.
    let machine = MachineId::say("0102030405060708090a0b0c0d0e0f10\n")?;
    let stage = stage(1, &["--client-id", "duid"])?;
    let dnsmasq = RealServer::start(
        Kind::Dnsmasq,
        &stage.topology.server,
        SERVER_LINK,
        &Plan::default(),
    )?;
    stage.setup(0)?;
    let leases = dnsmasq.leases()?;
    let identifier = "ff:00:00:00:01:00:02:00:00:ab:11:61:77:40:de:13:42:c3:a2";
    assert!(
        leases.contains(identifier),
        "dnsmasq does not know it by {identifier}:\n{leases}"
    );
    drop(machine);

    let _machine = MachineId::say("uninitialized\n")?;
    let refused = Command::new(program())
        .args(["--client-id", "duid"])
        .stdin(Stdio::null())
        .output()?;
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(
        words.contains("systemd-machine-id-setup"),
        "it does not say what to do: {words}"
    );
    Ok(())
}

/// Another /etc/machine-id, for this test process and its children, until it is dropped.
struct MachineId;

impl MachineId {
    const FILE: &str = "/etc/machine-id";

    fn say(text: &str) -> Result<Self> {
        let other = sandbox::folder("machine")?.join("id");
        fs::write(&other, text)?;
        if !Path::new(Self::FILE).exists() {
            return Err(Skip::Impossible(format!(
                "there is no {} to put another one over",
                Self::FILE
            ))
            .into());
        }
        mount(
            Some(&other),
            Self::FILE,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(Self)
    }
}

impl Drop for MachineId {
    fn drop(&mut self) {
        let _ = umount2(Self::FILE, MntFlags::MNT_DETACH);
    }
}
