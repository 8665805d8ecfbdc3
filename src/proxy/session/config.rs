//! The client's configuration: the daemon's settings, and what is known of the network and is learnt
//! about it.

use super::{Session, SessionContext};
use crate::dhcp::{self, Event, Plainness};
use crate::proxy::call::request::Request;
use crate::proxy::session::log_text;

impl SessionContext {
    /// Returns how to ask for a container, by the settings of this daemon and by what is known of the
    /// network.
    pub(super) fn config(&self, request: &mut Request) -> dhcp::Config {
        let (settings, mut history) = (&self.settings, self.history.borrow_mut());
        let proxy_arp = history.proxy_arp(&request.host_interface);
        dhcp::Config {
            fqdn: settings.fqdn.then(|| request.whole_name()).flatten(),
            host_name: request.host_name.take(),
            broadcast: settings.broadcast,
            probe: settings.probe,
            rapid_commit: settings.rapid_commit,
            servers: settings.servers.clone(),
            denied_servers: settings.denied_servers.clone(),
            plainness: history.plainness(&request.host_interface, request.key.mac),
            proxy_arp,
            ..dhcp::Config::new(request.key.mac, std::mem::take(&mut request.client_id))
        }
    }
}

impl Session {
    /// Logs an event that changes nothing for the link, and says whether it is one.
    pub(super) fn remark(&self, event: &Event) -> bool {
        let Some(remark) = log_text::remark(event) else {
            return false;
        };
        let network = &self.request.host_interface;
        match event {
            // Once for each network, as long as it is remembered.
            Event::ProxyArp { by, .. }
                if !self
                    .context
                    .history
                    .borrow_mut()
                    .note_proxy_arp(network, *by) =>
            {
                log::debug!("{self}: {remark}");
            }
            _ => log::warn!("{self}: {remark}"),
        }
        true
    }

    /// Remembers how plain a DISCOVER had to be to be answered.
    pub(super) fn learn_plainness(&self) {
        let (plainness, network) = (self.client.plainness(), &self.request.host_interface);
        let is_news = || {
            self.context.history.borrow_mut().note_plainness(
                network,
                plainness,
                self.request.key.mac,
            )
        };
        if plainness == Plainness::Full || !is_news() {
            return;
        }
        let left_out = match plainness {
            Plainness::Full | Plainness::NoShortcuts => "rapid commit and a requested address",
            Plainness::LikeNetavark => "all that netavark's does not have",
            Plainness::Bare => "a client identifier: it knows its clients by MAC",
        };
        log::warn!(
            "{self}: the DHCP server on {network} answered only a DISCOVER without {left_out}"
        );
    }
}
