//! The daemon's own options: how it speaks DHCP, seen from the server's side.

use std::time::Duration;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use smol_dhcp_proxy::rpc::{Lease, NetworkConfig};

use crate::lab::dnsmasq::Dnsmasq;
use crate::lab::server::{Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, grpc};
use crate::lease::check_link;
use crate::{Named, stage};

pub(crate) const TRIALS: &[Named] = &[
    ("options::the_whole_name_reaches_dnsmasq", the_whole_name),
    ("options::replies_by_broadcast", replies_by_broadcast),
];

const SOON: Duration = Duration::from_secs(5);

fn setup(stage: &Stage, config: &NetworkConfig) -> Result<Lease> {
    grpc::setup(&stage.unit.socket(), config).map_err(|status| status.message.into())
}

fn the_whole_name() -> Result {
    let stage = stage(2, &["--fqdn"])?;
    let dnsmasq = Dnsmasq::start(&stage.topology.server, SERVER_LINK, 120, &["--domain=lab.example"])?;
    let witness = Server::eavesdrop(&stage.topology.server, SERVER_LINK)?;
    let named = NetworkConfig { domain_name: "lab.example".to_owned(), ..stage.config(0) };
    let lease = setup(&stage, &named)?;
    dnsmasq.await_log("client provides name: box.lab.example", 2, SOON)?;
    let heard = witness.await_message(MessageType::Request, 1, SOON)?;
    assert!(heard.message.opts().get(OptionCode::ClientFQDN).is_some(), "{heard:?}");
    assert_eq!(heard.message.opts().get(OptionCode::Hostname), None, "never both");
    let entry = dnsmasq.leases()?;
    assert!(entry.contains(&format!("{} box ", lease.yiaddr)), "dnsmasq's lease has not the name:\n{entry}");

    // No domain, no whole name.
    setup(&stage, &stage.config(1))?;
    let heard = witness.await_message(MessageType::Request, 2, SOON)?;
    assert_eq!(heard.message.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("box".to_owned())));
    assert!(heard.message.opts().get(OptionCode::ClientFQDN).is_none(), "{heard:?}");
    Ok(())
}

fn replies_by_broadcast() -> Result {
    let stage = stage(1, &["--broadcast"])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    for kind in [MessageType::Discover, MessageType::Request] {
        assert!(server.await_message(kind, 1, SOON)?.message.flags().broadcast(), "{kind:?}");
    }
    check_link(&stage.topology.containers[0], &lease, 3600)?;
    stage.teardown(0)?;
    assert!(!server.await_message(MessageType::Release, 1, SOON)?.message.flags().broadcast());
    Ok(())
}
